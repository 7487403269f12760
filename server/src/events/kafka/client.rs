//! Clients of librdkafka: how they are configured, what they say of themselves, and what its errors mean in plain words.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::settings::Settings;

/// Connections are tried again at least this often, so that a broker that is back is used at once.
const RECONNECT_MAX_MS: u64 = 1_000;

/// What every client is configured with.
pub(super) fn base(settings: &Settings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("client.id", "marquee")
        .set("socket.nagle.disable", "true")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", RECONNECT_MAX_MS.to_string())
        .set_log_level(RDKafkaLogLevel::Warning);
    for (key, value) in &settings.options {
        config.set(key, value);
    }
    config
}

/// librdkafka's own words go to the debug log; the first error is kept, and a refused login
/// over any other, because calls that time out do not say why.
#[derive(Clone, Default)]
pub(super) struct Voice {
    told: Arc<Mutex<Option<KafkaError>>>,
}

impl Voice {
    /// What the connections complained of.
    pub(super) fn complaint(&self) -> Option<KafkaError> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps an error that came another way.
    pub(super) fn keep(&self, error: KafkaError) {
        let is_login = |error: &KafkaError| error.rdkafka_error_code() == Some(RDKafkaErrorCode::Authentication);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        // "All brokers are down" comes after the reason and says less.
        if told.is_none() || is_login(&error) {
            *told = Some(error);
        }
    }
}

impl ClientContext for Voice {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // A broker that does not take the login is told in a log line alone, when nobody asks.
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
        self.keep(error);
    }
}

/// Why a client cannot be made, without the values of options: one may be a password.
pub(super) fn not_made(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, rule, key, _) => {
            format!("has an option that librdkafka refuses, `{key}`: {}", first_line(rule))
        }
        other => format!("makes no client: {}", Plain(other)),
    }
}

fn first_line(text: &str) -> &str {
    // "Invalid value "X" for configuration property "Y"" repeats the value.
    if text.starts_with("Invalid value") { "invalid value" } else { text.lines().next().unwrap_or_default() }
}

/// An error of librdkafka without the noise around it.
pub(super) struct Plain<'a>(pub(super) &'a KafkaError);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.0.rdkafka_error_code()) {
            (KafkaError::ClientConfig(..), _) => f.write_str(&not_made(self.0)),
            (_, Some(code)) => write!(f, "{code}"),
            (other, None) => write!(f, "{other}"),
        }
    }
}
