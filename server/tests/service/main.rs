//! The whole server over real sockets and a real SQLite file: what a caller sees.

mod bad_input;
mod bundles;
mod events;
mod harness;
mod lifecycle;
mod pages;
mod tour;
