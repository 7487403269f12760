//! Where the real servers of tests are: `make test` starts them and says so in the environment.

pub(crate) mod redis;

/// The value of that variable: `MARQUEE_TEST_POSTGRES`, `MARQUEE_TEST_REDIS` ...
///
/// # Panics
/// It is not set: a test without its server is a failure, never a skip.
pub(crate) fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run `make test`, or first `eval \"$(make --silent services)\"`")
    })
}

/// A name that no other test uses, fit for a schema, a topic or a bucket.
pub(crate) fn unique(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_micros());
    format!("{prefix}-{}-{now:x}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
