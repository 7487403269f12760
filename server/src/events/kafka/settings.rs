//! What `events.url` says: brokers, topic, options of librdkafka. Pure: it opens nothing.

use std::fmt;

use crate::config::{self, Config, Secret};
use crate::error::{Error, Result};

/// Options that the URL may set; the rest is ours, because acknowledgement and order hang on it.
const OPTIONS: [&str; 21] = [
    "broker.address.family",
    "client.id",
    "client.rack",
    "compression.type",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.cipher.suites",
    "ssl.crl.location",
    "ssl.curves.list",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.keystore.location",
    "ssl.keystore.password",
];
/// Of a topic's name, as Kafka bounds it; room is left for `.dead`.
const TOPIC_MAX_BYTES: usize = 244;

/// How to reach the log. `Debug` shows no secret.
#[derive(Clone)]
pub(super) struct Settings {
    /// HOST:PORT, HOST:PORT ...
    pub(super) brokers: String,
    /// The log.
    pub(super) topic: String,
    /// Where records go that cannot be taken.
    pub(super) dead_topic: String,
    /// The consumers that fill one store.
    pub(super) group: String,
    /// librdkafka's options, secrets among them.
    pub(super) options: Vec<(String, String)>,
    /// The section of the config.
    pub(super) events: config::Events,
    /// Rules of events.
    pub(super) limits: config::Limits,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Settings({} of {})", self.topic, self.brokers)
    }
}

/// A problem of the URL.
pub(super) fn bad(rule: impl Into<String>) -> Error {
    Error::invalid("events.url", rule)
}

impl Settings {
    /// Reads the config.
    pub(super) fn new(config: &Config) -> Result<Settings> {
        let url = &config.events.url;
        let (place, query) = url.rest().split_once('?').unwrap_or((url.rest(), ""));
        let (hosts, topic) = place.split_once('/').unwrap_or((place, ""));
        if place.contains('@') {
            return Err(bad("must not hold a login: use ?sasl.username=NAME and the variable MARQUEE_KAFKA_PASSWORD"));
        }
        for host in hosts.split(',') {
            let is_good = |(name, port): (&str, &str)| !name.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0);
            if !host.rsplit_once(':').is_some_and(is_good) {
                return Err(bad(format!(
                    "`{host}` must be HOST:PORT; brokers stand behind kafka://, parted by commas"
                )));
            }
        }
        let topic = if topic.is_empty() { format!("{}.events", config.namespace) } else { topic.to_owned() };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if topic.len() > TOPIC_MAX_BYTES || !topic.bytes().all(is_plain) || matches!(topic.as_str(), "." | "..") {
            return Err(bad(format!(
                "the topic must be at most {TOPIC_MAX_BYTES} of letters, digits, '.', '_' and '-'"
            )));
        }
        Ok(Settings {
            brokers: hosts.to_owned(),
            dead_topic: format!("{topic}.dead"),
            topic,
            group: format!("{}.ingest", config.namespace),
            options: options(query, config.kafka_password.as_ref())?,
            events: config.events.clone(),
            limits: config.limits.clone(),
        })
    }
}

fn options(query: &str, password: Option<&Secret>) -> Result<Vec<(String, String)>> {
    let mut options: Vec<(String, String)> = Vec::new();
    // A plus is a plus: passwords are often base64.
    for (key, value) in url::form_urlencoded::parse(query.replace('+', "%2B").as_bytes()) {
        if !OPTIONS.contains(&&*key) {
            return Err(bad(format!(
                "has the option `{key}`, which may not be set here; known are {}",
                OPTIONS.join(", ")
            )));
        }
        if options.iter().any(|(known, _)| *known == *key) {
            return Err(bad(format!("has the option `{key}` twice")));
        }
        options.push((key.into_owned(), value.into_owned()));
    }
    let find = |key: &str| options.iter().find(|(known, _)| known == key).map(|(_, value)| value.to_lowercase());
    let is_encrypted = find("security.protocol").is_some_and(|protocol| protocol.ends_with("ssl"));
    if is_encrypted && !cfg!(feature = "kafka-tls") {
        return Err(bad("asks for TLS, and this build has none for Kafka: build with the cargo feature kafka-tls"));
    }
    let is_scram = ["sasl.mechanism", "sasl.mechanisms"]
        .iter()
        .any(|key| find(key).is_some_and(|mechanism| mechanism.starts_with("scram")));
    if is_scram && !cfg!(feature = "kafka-tls") {
        return Err(bad("asks for SCRAM, and this build has none for Kafka: build with the cargo feature kafka-tls"));
    }
    if let Some(password) = password
        && find("sasl.username").is_some()
        && find("sasl.password").is_none()
    {
        options.push(("sasl.password".to_owned(), password.expose().to_owned()));
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Settings> {
        let mut config = Config { namespace: "shop".to_owned(), ..Config::default() };
        config.events.url = url.into();
        config.kafka_password = Some(Secret::new("hush".to_owned()));
        Settings::new(&config)
    }

    #[test]
    fn names_follow_the_namespace_unless_the_topic_is_given() {
        let settings = read("kafka://a:9092,b:9093").unwrap();
        assert_eq!((settings.brokers.as_str(), settings.topic.as_str()), ("a:9092,b:9093", "shop.events"));
        assert_eq!((settings.dead_topic.as_str(), settings.group.as_str()), ("shop.events.dead", "shop.ingest"));
        assert!(settings.options.is_empty(), "a password without a name is not sent");
        assert_eq!(read("kafka://a:9092/other?client.id=x").unwrap().topic, "other");
    }

    #[test]
    fn the_password_comes_from_the_environment_and_is_not_shown() {
        let settings =
            read("kafka://a:1?security.protocol=sasl_plaintext&sasl.mechanism=PLAIN&sasl.username=a%26b").unwrap();
        assert!(settings.options.contains(&("sasl.username".to_owned(), "a&b".to_owned())));
        assert!(settings.options.contains(&("sasl.password".to_owned(), "hush".to_owned())));
        assert!(!format!("{settings:?}").contains("hush"));
        let own = read("kafka://a:1?sasl.username=a&sasl.password=x+y").unwrap();
        assert!(own.options.contains(&("sasl.password".to_owned(), "x+y".to_owned())));
    }

    #[test]
    fn every_problem_is_told_of_events_url_without_a_secret() {
        for (url, part) in [
            ("kafka://a", "HOST:PORT"),
            ("kafka://a:0", "HOST:PORT"),
            ("kafka://a:1,,b:2", "HOST:PORT"),
            ("kafka://ann:hush@a:1", "MARQUEE_KAFKA_PASSWORD"),
            ("kafka://a:1/to pic", "topic"),
            ("kafka://a:1?acks=0", "`acks`"),
            ("kafka://a:1?client.id=x&client.id=y", "twice"),
        ] {
            let error = read(url).unwrap_err().to_string();
            assert!(
                error.starts_with("events.url: ") && error.contains(part) && !error.contains("hush"),
                "{url}: {error}"
            );
        }
    }

    #[cfg(not(feature = "kafka-tls"))]
    #[test]
    fn tls_is_refused_in_plain_words_by_a_build_without_it() {
        for url in [
            "kafka://a:1?security.protocol=SSL",
            "kafka://a:1?security.protocol=sasl_ssl",
            "kafka://a:1?sasl.mechanism=SCRAM-SHA-256",
        ] {
            assert!(read(url).unwrap_err().to_string().contains("kafka-tls"), "{url}");
        }
    }
}
