use super::*;

fn no_environment() -> Vec<(String, String)> {
    Vec::new()
}

#[track_caller]
fn problems(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let environment = environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Config::parse(text, environment).expect_err("it should have problems").0
}

/// Every leaf of a tree, by path.
fn keys(table: &Table, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        match value {
            Value::Table(inner) if !inner.is_empty() => found.extend(keys(inner, &format!("{path}."))),
            _ => found.push(path),
        }
    }
    found
}

#[test]
fn the_sample_holds_every_key_with_its_default() {
    let text = include_str!("../../../marquee.sample.toml");
    let parsed = Config::parse(text, no_environment()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(parsed, Config::default());
    let sample = keys(&text.parse().unwrap(), "");
    let missing: Vec<String> = keys(&table_of(&Config::default()), "")
        .into_iter()
        .filter(|key| !sample.contains(key) && !key.ends_with(".name"))
        .collect();
    assert!(missing.is_empty(), "not in the sample: {missing:?}");
}

#[test]
fn nothing_given_is_the_default() {
    assert_eq!(Config::parse("", no_environment()).unwrap(), Config::default());
}

#[test]
fn all_problems_come_at_once() {
    let text = r#"
        surprise = 1
        [server]
        listen = "nowhere"
        lissten = "127.0.0.1:1"
        drain_ms = -5
        [limits]
        count_max = 0
        id_max_bytes = 10000
        [log]
        level = "loud"
        [variants.mine]
        ranker = true
        [variants.blend]
        ranker = true
    "#;
    let found = problems(text, &[("MARQUEE_CACHE__TTL_MS", "soon"), ("MARQUEE_STROE__URL", "sqlite://x")]);
    for start in [
        "surprise:",
        "server.listen:",
        "server.lissten:",
        "server.drain_ms:",
        "limits.count_max:",
        "limits.id_max_bytes:",
        "log.level:",
        "variants.mine:",
        "variants.blend.ranker:",
        "cache.ttl_ms:",
        "stroe:",
    ] {
        assert!(found.iter().any(|problem| problem.starts_with(start)), "{start} is missing in {found:#?}");
    }
}

#[test]
fn the_environment_goes_over_the_file() {
    let environment = [
        ("MARQUEE_NAMESPACE", "42"),
        ("MARQUEE_SERVER__LISTEN", "127.0.0.1:0"),
        ("MARQUEE_SLATE_LOG__SAMPLE_ROWS", "0.5"),
        ("MARQUEE_VARIANTS__DEFAULT__RANKER", "false"),
        ("MARQUEE_EVENTS__POLICY__LIKE", "{ weight = 2.0 }"),
        ("MARQUEE_ADMIN_TOKEN", "swordfish"),
        ("MARQUEE_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let config = Config::parse("[slate_log]\nsample_rows = 0.1\nretention_days = 7", environment).unwrap();
    assert_eq!((config.namespace.as_str(), config.server.listen.port()), ("42", 0));
    assert_eq!((config.slate_log.sample_rows, config.slate_log.retention_days), (0.5, 7));
    assert!(!config.variants["default"].ranker);
    assert_eq!(config.events.policy.kinds["like"].weight, 2.0);
    assert_eq!(config.events.policy.kinds["dislike"].weight, -1.0, "kinds that are not given keep theirs");
    assert_eq!(config.admin_token.as_ref().map(Secret::expose), Some("swordfish"));
    assert!(!format!("{config:?}").contains("swordfish"));
}

#[test]
fn secrets_are_refused_in_the_file() {
    assert!(problems("admin_token = \"x\"", &[])[0].starts_with("admin_token:"));
}

#[test]
fn a_bind_beyond_loopback_needs_insecure() {
    let text = "[server]\nlisten = \"0.0.0.0:50051\"\n";
    assert!(problems(text, &[])[0].contains("insecure = true"));
    assert!(Config::parse(&format!("{text}insecure = true"), no_environment()).is_ok());
    assert!(problems("[server]\ntls_key_path = \"k\"", &[])[0].contains("both or neither"));
}

#[test]
fn a_new_variant_needs_every_key_and_known_sources() {
    let text = r#"
        [variants.mine]
        ranker = false
        candidates_max_items = 100
        [variants.mine.sources]
        popular = { weight = 1.0, budget_items = 100 }
        astrology = { weight = nan, budget_items = 0 }
    "#;
    let found = problems(text, &[]);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found.iter().all(|problem| problem.starts_with("variants.mine.sources.astrology")));
}

#[test]
fn text_that_is_not_toml_is_one_problem_with_its_place() {
    let found = problems("[server\nlisten = 1", &[]);
    assert!(found.len() == 1 && found[0].contains("line 1"), "{found:?}");
}

#[test]
fn a_redis_is_checked_before_anything_is_opened() {
    let found = problems("[cache]\nurl = \"redis+cluster://:hush@a:1/2\"\nttl_ms = 2\nhard_ttl_ms = 1", &[]);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("cache.url: ") && !found[0].contains("hush"), "{found:#?}");
    assert!(found[1].contains("cache.hard_ttl_ms"), "{found:#?}");
    let redis = "[cache]\nurl = \"rediss+sentinel://u:p@a:1,b:2/main\"";
    assert!(Config::parse(redis, no_environment()).is_ok());
}
