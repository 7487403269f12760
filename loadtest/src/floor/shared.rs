//! The Redis from which answers come: what Marquee is told of it, and what it counted itself.

use anyhow::{Context, ensure};
use redis::aio::MultiplexedConnection;

use crate::echo::redis_connection;

/// Longer than any run.
const TTL_MS: u64 = 3_600_000;

/// A Redis that nobody else uses.
pub(super) struct Shared {
    url: String,
    connection: MultiplexedConnection,
    namespace: String,
    profiles_too: bool,
}

/// Calls that the Redis counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    /// Of one or several fields of a hash: how Marquee reads.
    hash_reads: u64,
    /// Of one value: how the bare server reads.
    reads: u64,
    /// Keys that were there.
    hits: u64,
}

impl Shared {
    pub(super) async fn open(url: &str, profiles_too: bool) -> anyhow::Result<Shared> {
        let connection = redis_connection(url).await?;
        let namespace = format!("floor-{}", std::process::id());
        Ok(Shared { url: url.to_owned(), connection, namespace, profiles_too })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// No slate stays in the process, so that each comes from here. With `profiles_too` no profile does that is asked for
    /// again: there is room for one in a shard, and visitors ask in turns.
    pub(super) fn settings(&self) -> String {
        let Shared { url, namespace, .. } = self;
        let limits = if self.profiles_too { "[limits]\nprofile_cache_max_users = 1\n" } else { "" };
        // A busy machine must not make it another measurement.
        format!(
            "namespace = \"{namespace}\"\n{limits}[cache]\nurl = \"{url}\"\nmax_bytes = 0\nresponse_timeout_ms = 5000\n\
             ttl_ms = {TTL_MS}\nhard_ttl_ms = {TTL_MS}\nredis_ttl_ms = {TTL_MS}\n"
        )
    }

    /// Keeps an answer as it is; under that key.
    pub(super) async fn put(&mut self, answer: &[u8]) -> anyhow::Result<String> {
        let key = format!("{}:answer", self.namespace);
        let mut set = redis::cmd("SET");
        set.arg(&key).arg(answer).arg("PX").arg(TTL_MS);
        set.query_async::<()>(&mut self.connection).await.context("writing to Redis")?;
        Ok(key)
    }

    pub(super) async fn counts(&mut self) -> anyhow::Result<Counts> {
        let mut info = redis::cmd("INFO");
        info.arg("stats").arg("commandstats");
        let text: String = info.query_async(&mut self.connection).await.context("asking Redis")?;
        let calls = |command| number(&text, &format!("cmdstat_{command}:calls="));
        Ok(Counts {
            hash_reads: calls("hget") + calls("hmget"),
            reads: calls("get"),
            hits: number(&text, "keyspace_hits:"),
        })
    }

    /// Since `before` so many requests were answered: each by one read of something that was there.
    pub(super) async fn check(&mut self, before: Counts, requests: u64, is_marquee: bool) -> anyhow::Result<()> {
        let after = self.counts().await?;
        let (hash_reads, reads) = (after.hash_reads - before.hash_reads, after.reads - before.reads);
        // Marquee looks each second whether somebody purged the cache: a read of one value.
        let is_right = if is_marquee { hash_reads == requests } else { hash_reads == 0 && reads >= requests };
        ensure!(is_right, "{requests} answers took {hash_reads} HGET or HMGET and {reads} GET");
        let hits = after.hits - before.hits;
        ensure!(hits >= requests, "{requests} answers, but Redis had {hits} of the keys");
        Ok(())
    }
}

/// The number after a name; 0 when Redis has nothing to tell.
fn number(text: &str, name: &str) -> u64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_by_their_whole_name() {
        let text =
            "# Stats\r\nkeyspace_hits:12\r\ncmdstat_hmget:calls=345,usec=1,x=2\r\ncmdstat_get:calls=6,usec=1\r\n";
        assert_eq!(number(text, "keyspace_hits:"), 12);
        assert_eq!((number(text, "cmdstat_hmget:calls="), number(text, "cmdstat_get:calls=")), (345, 6));
        assert_eq!(number(text, "cmdstat_mget:calls="), 0);
    }
}
