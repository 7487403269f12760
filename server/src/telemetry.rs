//! What the process says about itself: logs and metrics.
//!
//! Metrics live in an explicit registry that is passed around: no globals. No label names a user, an item or anything
//! else that callers choose freely.

mod http;
mod metrics;
mod process;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub use http::run;
pub use metrics::{Label, METHODS, Metrics};

use crate::config::{Level, Log};

/// Starts writing logs to stderr. The second call in one process changes nothing.
pub fn init(config: &Log) {
    let level = match config.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let registry = tracing_subscriber::registry().with(level);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let _already_set = if config.json {
        registry.with(layer.json().flatten_event(true)).try_init()
    } else {
        registry.with(layer.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))).try_init()
    };
}
