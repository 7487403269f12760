//! Our side of `make bench-index`: answers loadtest/peers/index/bench.py, one line for each line on standard input.
//!
//! `index_peer FILE` reads the arrays `vectors` and `queries` of a safetensors file. Then:
//! - `build M EF_CONSTRUCTION THREADS`: seconds, CPU seconds, bytes of the index, bytes of them that are the graph;
//! - `search EF PERCENT OUT`: CPU microseconds a query of a walk that accepts so many percent of the rows (the filters of bench.py);
//! - `exact EF PERCENT OUT`: the same, of the scan;
//! - `hinted EF PERCENT OUT`: the same, of whichever the index takes for so many accepted rows.
//!
//! The rows found go to the file OUT as 32-bit numbers, [`K`] for each query, filled up with 2^32 - 1.

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use marquee_engine::index::{BuildParams, DEFAULT_EXACT_BELOW_ROWS, Hit, Index, Scratch, Vectors, build};
use safetensors::SafeTensors;

/// Rows asked for.
const K: usize = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: index_peer FILE")?;
    let bytes = std::fs::read(path)?;
    let arrays = SafeTensors::deserialize(&bytes)?;
    let vectors = read(&arrays, "vectors")?;
    let queries = read(&arrays, "queries")?;
    let mut index = None;
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let reply = match words[..] {
            ["build", m, ef_construction, threads] => {
                let params = BuildParams {
                    m: m.parse()?,
                    ef_construction: ef_construction.parse()?,
                    threads: threads.parse()?,
                    ..BuildParams::default()
                };
                let (start, cpu_start) = (Instant::now(), process_cpu_s()?);
                let graph = build(&vectors, &params, |_| ())?;
                let (wall_s, cpu_s) = (start.elapsed().as_secs_f64(), process_cpu_s()? - cpu_start);
                let graph_bytes: usize = graph.arrays().iter().map(|(_, numbers)| 4 * numbers.len()).sum();
                let built = Index::new(vectors.clone(), Some(graph), DEFAULT_EXACT_BELOW_ROWS)?;
                let memory_bytes = built.memory_bytes();
                index = Some(built);
                format!("{wall_s:.3} {cpu_s:.3} {memory_bytes} {graph_bytes}")
            }
            [how @ ("search" | "exact" | "hinted"), ef, percent, out] => {
                let index = index.as_ref().ok_or("nothing is built yet")?;
                let (us, rows) = run(index, &queries, how, ef.parse()?, percent.parse()?)?;
                std::fs::write(out, rows)?;
                format!("{us:.3}")
            }
            _ => return Err(format!("unknown command: {line}").into()),
        };
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{reply}")?;
        stdout.flush()?;
    }
    Ok(())
}

fn read(arrays: &SafeTensors<'_>, name: &str) -> Result<Vectors, Box<dyn Error>> {
    let array = arrays.tensor(name)?;
    let numbers: Vec<f32> = array.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    Ok(Vectors::from_rows(&numbers, array.shape()[1])?)
}

/// CPU microseconds a query, and the rows found.
fn run(index: &Index, queries: &Vectors, how: &str, ef: usize, percent: f64) -> Result<(f64, Vec<u8>), Box<dyn Error>> {
    let (mut scratch, mut hits, mut found) = (Scratch::new(), Vec::<Hit>::new(), Vec::new());
    let part = (percent / 100.0 * 2_f64.powi(32)) as u64;
    // The same rows as in bench.py: they have nothing to do with where a row lies.
    let accept = |row: u32| u64::from(row.wrapping_mul(0x9e37_79b9)) < part;
    let accepted = (percent / 100.0 * index.len() as f64) as usize;
    let start = cpu_us()?;
    for query in 0..queries.len() {
        let query = queries.row(query);
        match how {
            "exact" => index.search_exact(query, K, accepted, accept, &mut scratch, &mut hits),
            "hinted" => index.search(query, K, ef, accepted, accept, &mut scratch, &mut hits),
            // A hint that makes it walk, whatever the filter.
            _ => index.search(query, K, ef, index.len(), accept, &mut scratch, &mut hits),
        }
        found.extend(hits.iter().map(|hit| hit.row).chain(std::iter::repeat(u32::MAX)).take(K));
    }
    let us = (cpu_us()? - start) / queries.len() as f64;
    Ok((us, found.iter().flat_map(|row| row.to_le_bytes()).collect()))
}

/// What this thread has used, in microseconds; Linux only.
fn cpu_us() -> Result<f64, Box<dyn Error>> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let ns: f64 = told.split_whitespace().next().ok_or("no time in schedstat")?.parse()?;
    Ok(ns / 1000.0)
}

/// What all threads have used, in seconds: fields 14 and 15 of the process's `stat`, in ticks of 10 ms.
fn process_cpu_s() -> Result<f64, Box<dyn Error>> {
    let told = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = told.rsplit_once(')').ok_or("no name in stat")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse().unwrap_or(0)).sum();
    Ok(ticks as f64 / 100.0)
}
