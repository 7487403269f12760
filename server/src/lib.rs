//! Marquee, the service: everything of it that touches the world. The ranking itself is in `marquee_engine`.

pub mod clock;
pub mod commands;
pub mod config;
pub mod error;
pub mod events;
pub mod profile;
pub mod store;
pub mod telemetry;
