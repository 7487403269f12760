//! The engine as a whole, on a made-up world; each invariant of the design that a test can check.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod bundles;
mod explanations;
mod invariants;
mod sample;
mod worlds;
