//! What types cannot say: bounds, and keys that must agree with each other.

use std::net::SocketAddr;

use marquee_engine::types::Variant;

use super::{Address, Config, RedisUrl};
use crate::events::log::PARTITIONS_MAX;

/// Adds a sentence for every rule that the configuration breaks.
pub(super) fn check(config: &Config, problems: &mut Vec<String>) {
    namespace(config, problems);
    listeners(config, problems);
    urls(config, problems);
    bounds(config, problems);
    policy(config, problems);
    for variant in config.variants.values() {
        recipe(variant, problems);
    }
}

fn namespace(config: &Config, problems: &mut Vec<String>) {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    let name = &config.namespace;
    if name.is_empty() || name.len() > 48 || !name.bytes().all(plain) {
        problems.push(format!("namespace: `{name}` must be 1 to 48 of a-z, 0-9, - and _"));
    }
}

fn listeners(config: &Config, problems: &mut Vec<String>) {
    let server = &config.server;
    if server.tls_certificate_path.is_empty() != server.tls_key_path.is_empty() {
        problems.push("server.tls_certificate_path, server.tls_key_path: both or neither must be set".to_owned());
    }
    // Metrics are plain HTTP whatever the certificates say.
    let is_encrypted = |key: &str| !server.tls_certificate_path.is_empty() && key != "server.metrics_listen";
    let all = [
        ("server.listen", server.listen),
        ("server.admin_listen", server.admin_listen),
        ("server.metrics_listen", server.metrics_listen),
    ];
    for (key, address) in all {
        if !address.ip().is_loopback() && !server.insecure && !is_encrypted(key) {
            problems.push(format!(
                "{key}: {address} is not loopback and not encrypted; give it TLS, or set server.insecure = true to listen there in plain text"
            ));
        }
    }
    let same = |a: SocketAddr, b: SocketAddr| a.port() != 0 && a == b;
    for (index, (key, address)) in all.iter().enumerate() {
        for (other, taken) in &all[..index] {
            if same(*address, *taken) {
                problems.push(format!("{key}: {address} is taken by {other}"));
            }
        }
    }
}

fn urls(config: &Config, problems: &mut Vec<String>) {
    let mut scheme =
        |key: &str, url: &Address, known: &[(&str, bool)]| match known.iter().find(|of| of.0 == url.scheme()) {
            None => {
                let known: Vec<String> = known.iter().map(|(scheme, _)| format!("{scheme}://")).collect();
                problems.push(format!("{key}: `{url}` must start with {}", known.join(" or ")));
            }
            Some((_, true)) if url.rest().is_empty() => problems.push(format!("{key}: `{url}` names no path")),
            Some(_) => {}
        };
    // Each scheme, and whether something must follow it.
    scheme("store.url", &config.store.url, &[("sqlite", true), ("postgres", true), ("postgresql", true)]);
    scheme("artifacts.url", &config.artifacts.url, &[("file", true), ("s3", true)]);
    scheme("events.url", &config.events.url, &[("store", false), ("kafka", true)]);
    if config.cache.is_shared()
        && let Err(rule) = RedisUrl::parse(&config.cache.url)
    {
        problems.push(format!("cache.url: `{}` {rule}", config.cache.url));
    }
    if config.artifacts.cache_folder.is_empty() {
        problems.push("artifacts.cache_folder: must not be empty".to_owned());
    }
    if config.events.quarantine_folder.is_empty() {
        problems.push("events.quarantine_folder: must not be empty".to_owned());
    }
}

/// Two centuries.
const CLOCK_OFFSET_MAX_MS: u64 = 200 * 366 * 86_400_000;

fn bounds(config: &Config, problems: &mut Vec<String>) {
    let Config { server, store, cache, artifacts, limits, ranking, events, slate_log, .. } = config;
    let rows: &[(&str, u64, u64, u64)] = &[
        ("server.compute_threads", server.compute_threads as u64, 0, 1_024),
        ("server.queue_max_requests", server.queue_max_requests as u64, 1, 1_000_000),
        ("server.queue_wait_max_ms", server.queue_wait_max_ms, 1, 600_000),
        ("server.queue_wait_overload_ms", server.queue_wait_overload_ms, 1, 600_000),
        ("server.admin_timeout_ms", server.admin_timeout_ms, 1, 86_400_000),
        ("server.stream_idle_ms", server.stream_idle_ms, 1, 604_800_000),
        ("server.drain_ms", server.drain_ms, 0, 600_000),
        ("server.drain_notice_ms", server.drain_notice_ms, 0, 600_000),
        ("server.drain_quiet_ms", server.drain_quiet_ms, 1, 60_000),
        ("server.in_flight_max_requests", server.in_flight_max_requests as u64, 1, 1_000_000),
        ("server.streams_max_calls", server.streams_max_calls as u64, 1, 1_000_000),
        ("server.request_timeout_ms", server.request_timeout_ms, 1, 600_000),
        ("server.clock_offset_ms (either way)", server.clock_offset_ms.unsigned_abs(), 0, CLOCK_OFFSET_MAX_MS),
        ("server.message_max_bytes", server.message_max_bytes as u64, 1_024, 256 * 1024 * 1024),
        ("store.write_queue_max_entries", store.write_queue_max_entries as u64, 1, 10_000_000),
        ("store.write_batch_max_entries", store.write_batch_max_entries as u64, 1, 1_000_000),
        ("store.write_wait_ms", store.write_wait_ms, 0, 600_000),
        ("store.read_connections_max", u64::from(store.read_connections_max), 1, 256),
        ("store.busy_timeout_ms", store.busy_timeout_ms, 1, 600_000),
        ("store.connection_wait_ms", store.connection_wait_ms, 1, 600_000),
        ("store.connect_timeout_ms", store.connect_timeout_ms, 1, 600_000),
        ("store.statement_timeout_ms", store.statement_timeout_ms, 1, 3_600_000),
        ("store.write_retry_ms", store.write_retry_ms, 0, 600_000),
        ("store.dedup_retention_days", u64::from(store.dedup_retention_days), 1, 36_500),
        ("store.read_wait_ms", store.read_wait_ms, 1, 60_000),
        ("store.breaker_failures", u64::from(store.breaker_failures), 1, 1_000),
        ("store.breaker_open_ms", store.breaker_open_ms, 1, 600_000),
        ("cache.ttl_ms", cache.ttl_ms, 1, 86_400_000),
        ("cache.hard_ttl_ms", cache.hard_ttl_ms, 1, 86_400_000),
        ("cache.refresh_max_requests", cache.refresh_max_requests as u64, 0, 1_024),
        ("cache.connect_timeout_ms", cache.connect_timeout_ms, 1, 60_000),
        ("cache.response_timeout_ms", cache.response_timeout_ms, 1, 10_000),
        ("cache.breaker_failures", u64::from(cache.breaker_failures), 1, 1_000),
        ("cache.breaker_open_ms", cache.breaker_open_ms, 1, 600_000),
        ("cache.redis_ttl_ms", cache.redis_ttl_ms, 1, 30 * 86_400_000),
        ("cache.redis_slates_per_user", cache.redis_slates_per_user as u64, 1, 64),
        ("cache.redis_value_max_bytes", cache.redis_value_max_bytes as u64, 1_024, 16 * 1024 * 1024),
        ("cache.redis_writes_max", cache.redis_writes_max as u64, 1, 100_000),
        ("cache.recent_slots", cache.recent_slots as u64, 1, 1 << 30),
        ("artifacts.cache_max_bundles", artifacts.cache_max_bundles as u64, 2, 1_000),
        ("artifacts.poll_ms", artifacts.poll_ms, 0, 3_600_000),
        ("artifacts.request_timeout_ms", artifacts.request_timeout_ms, 100, 600_000),
        // S3 takes no smaller part.
        ("artifacts.part_bytes", artifacts.part_bytes, 5 * 1024 * 1024, 512 * 1024 * 1024),
        ("artifacts.transfers_max", artifacts.transfers_max as u64, 1, 64),
        ("artifacts.attempts_max", u64::from(artifacts.attempts_max), 1, 100),
        ("limits.count_max", limits.count_max as u64, 1, 10_000),
        ("limits.count_default", limits.count_default as u64, 1, 10_000),
        ("limits.exclude_max_items", limits.exclude_max_items as u64, 0, 100_000),
        ("limits.filter_max_conditions", limits.filter_max_conditions as u64, 1, 10_000),
        ("limits.events_max_per_call", limits.events_max_per_call as u64, 1, 100_000),
        ("limits.items_max_per_call", limits.items_max_per_call as u64, 1, 100_000),
        ("limits.users_max_per_call", limits.users_max_per_call as u64, 1, 100_000),
        ("limits.batch_max_requests", limits.batch_max_requests as u64, 1, 10_000),
        ("limits.rank_items_max", limits.rank_items_max as u64, 1, 100_000),
        ("limits.similar_items_max", limits.similar_items_max as u64, 1, 10_000),
        ("limits.explain_missing_max_items", limits.explain_missing_max_items as u64, 0, 10_000),
        ("limits.page_depth_max_items", limits.page_depth_max_items as u64, 1, 100_000),
        ("limits.list_page_max_entries", limits.list_page_max_entries as u64, 1, 100_000),
        ("limits.clock_skew_future_ms", limits.clock_skew_future_ms, 0, 86_400_000),
        ("limits.id_max_bytes", limits.id_max_bytes as u64, 1, 256),
        ("limits.surface_max_bytes", limits.surface_max_bytes as u64, 1, 64),
        ("limits.query_max_bytes", limits.query_max_bytes as u64, 1, 64 * 1024),
        ("limits.title_max_bytes", limits.title_max_bytes as u64, 1, 64 * 1024),
        ("limits.text_max_bytes", limits.text_max_bytes as u64, 1, 1024 * 1024),
        ("limits.list_max_entries", limits.list_max_entries as u64, 1, 10_000),
        ("limits.list_entry_max_bytes", limits.list_entry_max_bytes as u64, 1, 4_096),
        ("limits.attributes_max_bytes", limits.attributes_max_bytes as u64, 2, 1024 * 1024),
        ("limits.attributes_max_depth", limits.attributes_max_depth as u64, 1, 32),
        ("limits.profile_events_max", limits.profile_events_max as u64, 1, 100_000),
        ("limits.profile_seen_max", limits.profile_seen_max as u64, 0, 1_000_000),
        ("limits.profile_cache_max_users", limits.profile_cache_max_users as u64, 1, 100_000_000),
        ("ranking.ef_search", ranking.ef_search as u64, 1, 10_000),
        ("ranking.world_tick_ms", ranking.world_tick_ms, 1, 60_000),
        ("ranking.fresh_wait_ms", ranking.fresh_wait_ms, 0, 60_000),
        ("ranking.effort_full_ms", ranking.effort_full_ms, 0, 60_000),
        ("events.connect_timeout_ms", events.connect_timeout_ms, 100, 600_000),
        ("events.topic_partitions", u64::from(events.topic_partitions), 1, PARTITIONS_MAX as u64),
        ("events.topic_replicas", u64::from(events.topic_replicas), 0, 100),
        ("events.in_flight_max_events", events.in_flight_max_events as u64, 1, 1_000_000),
        ("events.produce_timeout_ms", events.produce_timeout_ms, 10, 600_000),
        ("events.linger_ms", events.linger_ms, 0, 1_000),
        ("events.ingest_batch_max_events", events.ingest_batch_max_events as u64, 1, 100_000),
        ("events.ingest_wait_ms", events.ingest_wait_ms, 0, 60_000),
        ("events.ingest_queue_max_bytes", events.ingest_queue_max_bytes as u64, 1024 * 1024, 1024 * 1024 * 1024),
        ("events.session_timeout_ms", events.session_timeout_ms, 1_000, 300_000),
        ("events.ingest_failover_ms", events.ingest_failover_ms, 1_000, 3_600_000),
        ("events.poll_ms", events.poll_ms, 1, 10_000),
        ("slate_log.retention_days", u64::from(slate_log.retention_days), 1, 36_500),
        ("slate_log.queue_max_slates", slate_log.queue_max_slates as u64, 1, 1_000_000),
        ("slate_log.queue_max_repeats", slate_log.queue_max_repeats as u64, 1, 10_000_000),
    ];
    for &(key, value, least, most) in rows {
        if !(least..=most).contains(&value) {
            problems.push(format!("{key}: {value} must lie within {least} and {most}"));
        }
    }
    if events.in_flight_max_events < limits.events_max_per_call {
        problems.push("events.in_flight_max_events: must be at least limits.events_max_per_call".to_owned());
    }
    if events.ingest_failover_ms < events.session_timeout_ms {
        problems.push("events.ingest_failover_ms: must be at least events.session_timeout_ms".to_owned());
    }
    if events.linger_ms >= events.produce_timeout_ms {
        problems.push("events.linger_ms: must be less than events.produce_timeout_ms".to_owned());
    }
    if limits.count_default > limits.count_max {
        problems.push("limits.count_default: must not exceed limits.count_max".to_owned());
    }
    if cache.hard_ttl_ms < cache.ttl_ms || cache.redis_ttl_ms < cache.hard_ttl_ms {
        problems.push("cache.ttl_ms, cache.hard_ttl_ms, cache.redis_ttl_ms: none may exceed the next".to_owned());
    }
    if limits.page_depth_max_items < limits.count_max {
        problems.push("limits.page_depth_max_items: must be at least limits.count_max".to_owned());
    }
    if !(0.0..=1.0).contains(&slate_log.sample_rows) {
        problems.push(format!("slate_log.sample_rows: {} must lie within 0 and 1", slate_log.sample_rows));
    }
}

fn policy(config: &Config, problems: &mut Vec<String>) {
    for (kind, policy) in &config.events.policy.kinds {
        let weights = policy.steps.iter().map(|step| step.weight).chain([policy.weight]);
        if weights.into_iter().any(|weight| !weight.is_finite()) {
            problems.push(format!("events.policy.{kind}: weights must be finite"));
        }
        for step in &policy.steps {
            let bounds = [step.at_least, step.at_most];
            if bounds.iter().all(Option::is_none) {
                problems.push(format!("events.policy.{kind}: a step needs at_least or at_most"));
            }
            if bounds.iter().flatten().any(|bound| !bound.is_finite()) {
                problems.push(format!("events.policy.{kind}: a step's bounds must be finite"));
            }
        }
    }
}

fn recipe(variant: &Variant, problems: &mut Vec<String>) {
    let name = &variant.name;
    if name.is_empty() || name.len() > 64 {
        problems.push(format!("variants.{name}: a name has 1 to 64 bytes"));
    }
    if variant.sources.is_empty() {
        problems.push(format!("variants.{name}.sources: names no source"));
    }
    for (source, plan) in &variant.sources {
        if !marquee_engine::source_names().any(|known| known == source) {
            let known = marquee_engine::source_names().collect::<Vec<_>>().join(", ");
            problems.push(format!("variants.{name}.sources.{source}: unknown source; known are {known}"));
        }
        if !plan.weight.is_finite() || plan.weight < 0.0 {
            problems.push(format!("variants.{name}.sources.{source}.weight: must be finite and not negative"));
        }
        if !(1..=10_000).contains(&plan.budget_items) {
            problems.push(format!("variants.{name}.sources.{source}.budget_items: must lie within 1 and 10000"));
        }
    }
    if variant.head_weights.values().any(|weight| !weight.is_finite()) {
        problems.push(format!("variants.{name}.head_weights: must be finite"));
    }
    if !(1..=10_000).contains(&variant.candidates_max_items) {
        problems.push(format!("variants.{name}.candidates_max_items: must lie within 1 and 10000"));
    }
    if matches!(name.as_str(), "blend" | "popular") && variant.ranker {
        problems.push(format!("variants.{name}.ranker: must be false; this variant is the one without a ranker"));
    }
}
