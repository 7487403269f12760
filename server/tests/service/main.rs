//! The whole server over real sockets and a real SQLite file: what a caller sees.

// Helpers of tests are tests, too.
#![allow(clippy::unwrap_used)]

mod bad_input;
mod bucket;
mod bundles;
mod events;
mod harness;
mod kafka;
mod lifecycle;
mod overload;
mod pages;
#[path = "../../src/testkit/redis.rs"]
mod redis;
mod set_back;
mod shared;
mod tour;
