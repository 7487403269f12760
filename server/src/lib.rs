//! Marquee, the service: everything of it that touches the world. The ranking itself is in `marquee_engine`.

pub mod clock;
pub mod config;
pub mod error;
pub mod store;
pub mod telemetry;
