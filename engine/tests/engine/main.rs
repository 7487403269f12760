//! The engine as a whole, on a made-up world; each invariant of the design that a test can check.

mod bundles;
mod explanations;
mod invariants;
mod sample;
mod worlds;
