//! `[slate_log]` and `[log]`: what is written down of answers and of the process.

use serde::{Deserialize, Serialize};

/// The record of what was answered: attribution, training rows and skew checks read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlateLog {
    /// Whether slates are recorded.
    pub enabled: bool,
    /// How long they are kept.
    pub retention_days: u32,
    /// Share of slates, 0 to 1, whose feature rows are kept too.
    pub sample_rows: f64,
    /// Slates that may wait to be written; more are dropped and counted, never waited for.
    pub queue_max_slates: usize,
    /// Answers from the cache that may wait to be written; more are dropped and counted.
    pub queue_max_repeats: usize,
}

impl Default for SlateLog {
    fn default() -> SlateLog {
        SlateLog {
            enabled: true,
            retention_days: 30,
            sample_rows: 0.0,
            queue_max_slates: 1_000,
            queue_max_repeats: 100_000,
        }
    }
}

/// What the process says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The least severe level that is written.
    pub level: Level,
    /// One JSON object a line instead of text.
    pub json: bool,
}

impl Default for Log {
    fn default() -> Log {
        Log { level: Level::Info, json: false }
    }
}

/// Severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}
