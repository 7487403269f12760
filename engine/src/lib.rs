//! The ranking of Marquee: pure, deterministic; no sockets, no async, no clock, no randomness of its own.
//!
//! Read [`recommend`] first: every stage of a request is one line there.
//!
//! `RecommendRequest -> Query -> candidates -> feature matrix -> scores -> Slate`; each stage returns its own type, so
//! that none can read what is not computed yet.

pub mod types;
pub mod event;
pub mod profile;
pub mod recommend;
mod moment;
mod source;
mod blend;
mod filter;
mod feature;
mod order;
mod explain;
pub mod world;
pub mod bundle;
pub mod content;
pub mod index;
pub mod rank;

pub use recommend::{Engine, Stage, source_names};
