//! The ranking of Marquee: pure, deterministic; no sockets, no async, no clock, no randomness of its own.

pub mod index;
pub mod rank;
