//! Marquee, the service: everything of it that touches the world. The ranking itself is in `marquee_engine`.

pub mod admission;
pub mod answer;
pub mod app;
pub mod artifacts;
pub mod breaker;
pub mod bundles;
pub mod cache;
pub mod clock;
pub mod commands;
pub mod compute;
pub mod config;
pub mod error;
pub mod evaluation;
pub mod events;
pub mod ids;
pub mod profile;
pub mod rpc;
pub mod serving;
pub mod slate_log;
pub mod status;
pub mod store;
pub mod telemetry;
#[cfg(test)]
mod testkit;
pub mod timeline;
pub mod tls;
pub mod token;
