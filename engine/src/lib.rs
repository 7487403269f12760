//! The ranking of Marquee: pure, deterministic; no sockets, no async, no clock, no randomness of its own.
//!
//! Read [`recommend`] first: every stage of a request is one line there.
//!
//! `RecommendRequest -> Query -> candidates -> feature matrix -> scores -> Slate`; each stage returns its own type, so
//! that none can read what is not computed yet.

mod attributes;
mod blend;
pub mod bundle;
pub mod content;
pub mod event;
mod explain;
mod feature;
mod filter;
pub mod index;
mod moment;
mod order;
pub mod profile;
pub mod rank;
pub mod recommend;
mod scratch;
mod source;
pub mod types;
pub mod world;

pub use recommend::{Engine, Stage, source_names};
