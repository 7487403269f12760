//! Which bundle serves: the registry in the store, the bundles of the artifacts, and the engine that follows them.
//!
//! The registry is the truth. `marquee bundle activate` and `AdminService` change it; every running server follows it
//! within a second. A bundle is opened, and with that verified, before anything changes; one that fails never serves.
//! Where bundles lie in a bucket, `current` there tells other machines; [`Bundles::follow_current`] keeps the two together.

mod current;
mod live;
mod registry;
#[cfg(test)]
mod tests;

pub use live::{Bundles, First, Problems, first};
pub use registry::{Before, Registry};
