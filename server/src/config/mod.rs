//! The configuration: a TOML file, environment variables over it, every problem reported at once.
//!
//! `MARQUEE_SECTION__KEY=value` overrides `[section] key`; deeper keys take more `__`. Names without `__` are left
//! alone (Kubernetes sets `MARQUEE_SERVICE_HOST` and the like), but for `MARQUEE_NAMESPACE` and the secrets that no file may
//! hold, `MARQUEE_ADMIN_TOKEN` and `MARQUEE_KAFKA_PASSWORD`. `server/marquee.sample.toml` lists every key; a test keeps it so.

mod address;
mod artifacts;
mod cache;
mod check;
mod events;
mod limits;
mod load;
mod logs;
mod ranking;
mod redis;
mod server;
mod store;
mod variants;

use std::collections::BTreeMap;
use std::sync::Arc;

use marquee_engine::types::Variant;
use serde::Serialize;

pub use address::Address;
pub use artifacts::Artifacts;
pub use cache::Cache;
pub use events::Events;
pub use limits::Limits;
pub use load::Problems;
pub use logs::{Level, Log, SlateLog};
pub use ranking::Ranking;
pub use redis::{Login, RedisUrl, Topology};
pub use server::Server;
pub use store::Store;
pub use variants::{BUILT_IN, default_variants};

/// Exit status of a bad configuration (`EX_USAGE`).
pub const EXIT_BAD_CONFIG: u8 = 64;

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Prefix of everything this deployment keeps on shared servers.
    pub namespace: String,
    /// `[server]`
    pub server: Server,
    /// `[store]`
    pub store: Store,
    /// `[cache]`
    pub cache: Cache,
    /// `[artifacts]`
    pub artifacts: Artifacts,
    /// `[limits]`
    pub limits: Limits,
    /// `[ranking]`
    pub ranking: Ranking,
    /// `[events]`
    pub events: Events,
    /// `[slate_log]`
    pub slate_log: SlateLog,
    /// `[log]`
    pub log: Log,
    /// `[variants.NAME]`, by name. `default`, `popular` and `blend` are always there.
    pub variants: BTreeMap<String, Arc<Variant>>,
    /// From `MARQUEE_ADMIN_TOKEN` alone; `None` closes everything that needs it.
    #[serde(skip)]
    pub admin_token: Option<Secret>,
    /// From `MARQUEE_KAFKA_PASSWORD` alone: the password of `sasl.username` in `events.url`.
    #[serde(skip)]
    pub kafka_password: Option<Secret>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            namespace: "default".to_owned(),
            server: Server::default(),
            store: Store::default(),
            cache: Cache::default(),
            artifacts: Artifacts::default(),
            limits: Limits::default(),
            ranking: Ranking::default(),
            events: Events::default(),
            slate_log: SlateLog::default(),
            log: Log::default(),
            variants: default_variants(),
            admin_token: None,
            kafka_password: None,
        }
    }
}

/// A value that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    pub fn new(value: String) -> Secret {
        Secret(value)
    }

    /// The value itself, to be compared or handed to the client that logs in, and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(redacted)")
    }
}
