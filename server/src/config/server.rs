//! `[server]`: where it listens, and how much it does at once.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Listeners and the pool that computes slates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Where the public services listen.
    pub listen: SocketAddr,
    /// Where AdminService listens.
    pub admin_listen: SocketAddr,
    /// Where `/metrics` listens (plain HTTP).
    pub metrics_listen: SocketAddr,
    /// Allows listeners beyond loopback without TLS.
    pub insecure: bool,
    /// PEM certificate chain; empty is none: plain text.
    pub tls_certificate_path: String,
    /// PEM private key of that certificate.
    pub tls_key_path: String,
    /// How long running calls may take to end after a stop signal.
    pub drain_ms: u64,
    /// How long calls are still taken after a stop signal, while health says already that none should be sent.
    pub drain_notice_ms: u64,
    /// How long no call may have run until connections that stay open all the same are cut.
    pub drain_quiet_ms: u64,
    /// Threads that compute slates; 0 is one for each core. Where they are as many as cores, each stays on one.
    pub compute_threads: usize,
    /// Requests that may wait for one of these threads; more are refused.
    pub queue_max_requests: usize,
    /// How long a request may wait for one of them; one that would wait longer is refused when it arrives.
    pub queue_wait_max_ms: u64,
    /// The same under lasting overload: a quarter of a second of work on each thread has not brought the wait below it.
    pub queue_wait_overload_ms: u64,
    /// Calls that may run at once, on all connections together; more are refused. Health is always answered.
    pub in_flight_max_requests: usize,
    /// Streams of events (and reflection) that may be open at once, idle ones included; they take no room of other calls.
    pub streams_max_calls: usize,
    /// Longest time for one unary call, whatever deadline the caller sets.
    pub request_timeout_ms: u64,
    /// The same for AdminService, whose calls open whole bundles.
    pub admin_timeout_ms: u64,
    /// A stream of events that sends nothing for so long is ended.
    pub stream_idle_ms: u64,
    /// Largest message in either direction.
    pub message_max_bytes: usize,
    /// Whether callers may choose a variant.
    pub allow_variant_override: bool,
    /// Whether callers may ask for full explanations.
    pub allow_explain: bool,
    /// Added to the clock: serves a log of the past as if it were then.
    pub clock_offset_ms: i64,
}

impl Default for Server {
    fn default() -> Server {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Server {
            listen: loopback(50051),
            admin_listen: loopback(50052),
            metrics_listen: loopback(9090),
            insecure: false,
            tls_certificate_path: String::new(),
            tls_key_path: String::new(),
            drain_ms: 10_000,
            drain_notice_ms: 0,
            drain_quiet_ms: 250,
            compute_threads: 0,
            queue_max_requests: 256,
            queue_wait_max_ms: 200,
            queue_wait_overload_ms: 10,
            in_flight_max_requests: 1_024,
            streams_max_calls: 1_024,
            request_timeout_ms: 10_000,
            admin_timeout_ms: 300_000,
            stream_idle_ms: 3_600_000,
            message_max_bytes: 4 * 1024 * 1024,
            allow_variant_override: true,
            allow_explain: true,
            clock_offset_ms: 0,
        }
    }
}
