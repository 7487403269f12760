//! Our side of `make bench-ranker`: answers loadtest/peers/ranker/bench.py, one line for each line on standard input.
//!
//! `ranker_peer MODEL COLUMNS FEATURES` loads an ONNX ranker and a file of 32-bit numbers, row-major rows of COLUMNS. Then
//! `score ROUNDS OUT` scores all rows in one call, ROUNDS times on this thread: CPU microseconds a call; the scores go to
//! the file OUT.

use std::error::Error;
use std::io::Write;

use marquee_engine::rank::Ranker;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, columns, features] = &arguments[..] else {
        return Err("usage: ranker_peer MODEL COLUMNS FEATURES".into());
    };
    let columns: usize = columns.parse()?;
    let ranker = Ranker::from_onnx(&std::fs::read(model)?, columns)?;
    let bytes = std::fs::read(features)?;
    let features: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let (rows, mut scores) = (features.len() / columns, Vec::new());
    for line in std::io::stdin().lines() {
        let line = line?;
        let ["score", rounds, out] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(format!("unknown command: {line}").into());
        };
        let rounds: u32 = rounds.parse()?;
        let start = cpu_us()?;
        for _ in 0..rounds {
            ranker.score(&features, rows, &mut scores)?;
        }
        let us = (cpu_us()? - start) / f64::from(rounds);
        std::fs::write(out, scores.iter().flat_map(|score| score.to_le_bytes()).collect::<Vec<u8>>())?;
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{us:.3}")?;
        stdout.flush()?;
    }
    Ok(())
}

/// What this thread has used, in microseconds; Linux only.
fn cpu_us() -> Result<f64, Box<dyn Error>> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let ns: f64 = told.split_whitespace().next().ok_or("no time in schedstat")?.parse()?;
    Ok(ns / 1000.0)
}
