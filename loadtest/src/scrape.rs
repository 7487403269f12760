//! The server as it sees itself: its Prometheus metrics, read before and after.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::result::Stage;

const TIMEOUT: Duration = Duration::from_secs(5);
/// A page of metrics is smaller.
const PAGE_MAX_BYTES: u64 = 16 << 20;

/// One reading: sample name with labels, and value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scrape {
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    /// Reads `http://ADDRESS/metrics`. HTTP/1.0, so that the body ends where the connection does.
    ///
    /// # Errors
    /// The address cannot be reached or answers something else.
    pub(crate) fn read(address: &str) -> anyhow::Result<Scrape> {
        let host = address.trim_start_matches("http://").trim_end_matches("/metrics").trim_end_matches('/');
        let wrong = || format!("--metrics: {address} cannot be reached");
        let place = host.to_socket_addrs().with_context(wrong)?.next().with_context(wrong)?;
        let mut stream = TcpStream::connect_timeout(&place, TIMEOUT).with_context(wrong)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n").with_context(wrong)?;
        let mut text = String::new();
        stream.take(PAGE_MAX_BYTES).read_to_string(&mut text).with_context(wrong)?;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        let ok = head.split_whitespace().nth(1) == Some("200");
        ensure!(ok && body.contains("# TYPE"), "--metrics: {address} does not answer Prometheus metrics on /metrics");
        Ok(Scrape::parse(body))
    }

    fn parse(text: &str) -> Scrape {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        // "name{labels} value", and in OpenMetrics perhaps an exemplar behind " # ".
        let samples = lines.filter_map(|line| {
            let line = line.split(" # ").next()?;
            let (name, value) = line.trim().rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Scrape { samples: samples.collect() }
    }

    /// The sum of a metric over all its labels.
    pub(crate) fn sum(&self, name: &str) -> Option<f64> {
        let mut found = self.labelled(name).map(|(_, value)| value).peekable();
        found.peek()?;
        Some(found.sum())
    }

    /// Processor seconds of the server's process.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        self.sum("process_cpu_seconds_total")
    }

    /// Its resident memory.
    pub(crate) fn resident_bytes(&self) -> Option<f64> {
        self.sum("process_resident_memory_bytes")
    }

    /// What a histogram family counted between two readings, by its label `name`.
    pub(crate) fn stages_since(&self, before: &Scrape, family: &str) -> Vec<Stage> {
        let mut parts: BTreeMap<String, Part> = BTreeMap::new();
        for (suffix, place) in [("bucket", Place::Bucket), ("count", Place::Count), ("sum", Place::Sum)] {
            let name = format!("{family}_{suffix}");
            for (labels, value) in self.labelled(&name) {
                let key = if labels.is_empty() { name.clone() } else { format!("{name}{{{labels}}}") };
                let more = value - before.samples.get(&key).copied().unwrap_or(0.0);
                let part = parts.entry(label(labels, "name").unwrap_or_default().to_owned()).or_default();
                match place {
                    Place::Bucket => {
                        let bound = label(labels, "le").and_then(|bound| bound.parse::<f64>().ok());
                        part.add(bound.unwrap_or(f64::INFINITY), more);
                    }
                    Place::Count => part.count += more,
                    Place::Sum => part.seconds += more,
                }
            }
        }
        parts.into_iter().filter(|(_, part)| part.count > 0.0).map(|(name, part)| part.stage(name)).collect()
    }

    fn labelled<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let from = self.samples.range(name.to_owned()..);
        from.take_while(move |(key, _)| key.starts_with(name)).filter_map(move |(key, value)| {
            let rest = &key[name.len()..];
            let labels = if rest.is_empty() { "" } else { rest.strip_prefix('{')?.strip_suffix('}')? };
            Some((labels, *value))
        })
    }
}

enum Place {
    Bucket,
    Count,
    Sum,
}

#[derive(Default)]
struct Part {
    count: f64,
    seconds: f64,
    buckets: Vec<(f64, f64)>,
}

impl Part {
    fn add(&mut self, bound: f64, more: f64) {
        match self.buckets.iter_mut().find(|(known, _)| *known == bound) {
            Some(bucket) => bucket.1 += more,
            None => self.buckets.push((bound, more)),
        }
    }

    fn stage(mut self, name: String) -> Stage {
        self.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.buckets.retain(|(bound, _)| bound.is_finite());
        let (p50_ms, p99_ms) = (self.quantile_ms(0.5), self.quantile_ms(0.99));
        Stage { name, count: self.count, seconds: self.seconds, p50_ms, p99_ms, buckets: self.buckets }
    }

    /// Inside a bucket, evenly; beyond the last bound, that bound.
    fn quantile_ms(&self, quantile: f64) -> f64 {
        let wanted = self.count * quantile;
        let mut last = (0.0, 0.0);
        for &(bound, count) in &self.buckets {
            if count >= wanted {
                let share = if count > last.1 { (wanted - last.1) / (count - last.1) } else { 1.0 };
                return (last.0 + (bound - last.0) * share) * 1_000.0;
            }
            last = (bound, count);
        }
        last.0 * 1_000.0
    }
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels
        .split(',')
        .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
        .map(|(_, value)| value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "# TYPE marquee_stage_seconds histogram\n\
        marquee_stage_seconds_bucket{le=\"0.001\",name=\"rank\"} 10\n\
        marquee_stage_seconds_bucket{le=\"0.002\",name=\"rank\"} 10\n\
        marquee_stage_seconds_bucket{le=\"+Inf\",name=\"rank\"} 10\n\
        marquee_stage_seconds_count{name=\"rank\"} 10\nmarquee_stage_seconds_sum{name=\"rank\"} 0.005\n";
    const AFTER: &str = "marquee_stage_seconds_bucket{le=\"0.001\",name=\"rank\"} 60\n\
        marquee_stage_seconds_bucket{le=\"0.002\",name=\"rank\"} 109\n\
        marquee_stage_seconds_bucket{le=\"+Inf\",name=\"rank\"} 110\n\
        marquee_stage_seconds_count{name=\"rank\"} 110\nmarquee_stage_seconds_sum{name=\"rank\"} 0.205\n\
        marquee_stage_seconds_count{name=\"idle\"} 0\n\
        process_cpu_seconds_total 12.5 # {trace=\"x\"} 1\nmarquee_calls_total{method=\"A\",code=\"OK\"} 3\n\
        marquee_calls_total{method=\"B\",code=\"OK\"} 4\n";

    #[test]
    fn stages_are_what_happened_between() {
        let stages = Scrape::parse(AFTER).stages_since(&Scrape::parse(BEFORE), "marquee_stage_seconds");
        assert_eq!(stages.len(), 1, "{stages:?}");
        let rank = &stages[0];
        assert_eq!((rank.name.as_str(), rank.count, rank.buckets.len()), ("rank", 100.0, 2));
        assert!((rank.seconds - 0.2).abs() < 1e-9 && (rank.p50_ms - 1.0).abs() < 1e-9 && rank.p99_ms == 2.0);
        assert_eq!(rank.share_within(0.002), Some(0.99));
        assert_eq!(rank.share_within(0.005), None);
    }

    #[test]
    fn labels_are_summed_and_names_are_whole() {
        let scrape = Scrape::parse(AFTER);
        assert_eq!(scrape.sum("marquee_calls_total"), Some(7.0));
        assert_eq!(scrape.cpu_seconds(), Some(12.5));
        assert_eq!(scrape.sum("marquee_calls"), None);
        assert_eq!(scrape.resident_bytes(), None);
    }

    #[test]
    fn a_port_that_is_closed_is_told_with_the_flag() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = Scrape::read(&free.to_string()).unwrap_err();
        assert!(error.to_string().starts_with("--metrics: 127.0.0.1:"), "{error}");
    }
}
