//! Are the brokers there, is the login right, do the topics exist? Asked once, when the log is opened.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::time::Instant;

use super::broken;
use super::client::{self, Plain, Voice};
use super::settings::{Settings, bad};
use crate::error::Result;
use crate::events::log::PARTITIONS_MAX;

/// A topic that was made just now is looked for again after so long.
const AGAIN: Duration = Duration::from_millis(100);

impl ConsumerContext for Voice {}

/// InvalidArgument of `events.url` for whatever is missing; topics are made if the config says so.
pub(super) async fn check(settings: &Settings) -> Result<()> {
    let until = Instant::now() + Duration::from_millis(settings.events.connect_timeout_ms);
    let mut topics = vec![&settings.topic];
    if settings.events.ingest {
        topics.push(&settings.dead_topic);
    }
    for topic in topics {
        let mut partitions = find(settings, topic, until).await?;
        if partitions.is_none() && settings.events.create_topic {
            make(settings, topic, until).await?;
            while partitions.is_none() && Instant::now() < until {
                partitions = find(settings, topic, until).await?;
                if partitions.is_none() {
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        match partitions {
            None => {
                return Err(bad(format!("topic {topic} does not exist: make it, or set events.create_topic = true")));
            }
            Some(count) if count > PARTITIONS_MAX => {
                return Err(bad(format!("topic {topic} has {count} partitions; at most {PARTITIONS_MAX} are allowed")));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The number of the topic's partitions; `None` when there is no such topic.
async fn find(settings: &Settings, topic: &str, until: Instant) -> Result<Option<usize>> {
    let voice = Voice::default();
    // A consumer, because asking for a topic with a producer makes it where brokers make topics by themselves.
    let client: BaseConsumer<Voice> = client::base(settings)
        .set("allow.auto.create.topics", "false")
        .create_with_context(voice.clone())
        .map_err(|error| bad(client::not_made(&error)))?;
    let (name, wait) = (topic.to_owned(), until.saturating_duration_since(Instant::now()));
    let (client, answer) = tokio::task::spawn_blocking(move || {
        let answer = client.fetch_metadata(Some(&name), wait);
        if answer.is_err() {
            // The reason is an event that nobody took yet.
            while let Some(event) = client.poll(Duration::from_millis(10)) {
                if let Err(error) = event {
                    client.context().keep(error);
                }
            }
        }
        (client, answer)
    })
    .await
    .map_err(broken)?;
    drop(client);
    let answer = answer.map_err(|error| unreachable(settings, &error, voice.complaint().as_ref()))?;
    let Some(found) = answer.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
    match found.error().map(RDKafkaErrorCode::from) {
        None => Ok(Some(found.partitions().len()).filter(|count| *count > 0)),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
        Some(code) => Err(bad(format!("topic {topic} cannot be used: {code}"))),
    }
}

fn unreachable(settings: &Settings, error: &KafkaError, reason: Option<&KafkaError>) -> crate::error::Error {
    let (brokers, wait) = (&settings.brokers, settings.events.connect_timeout_ms);
    match reason.and_then(KafkaError::rdkafka_error_code) {
        Some(RDKafkaErrorCode::Authentication) => bad(format!(
            "the broker at {brokers} refuses the login: check sasl.mechanism, sasl.username and the password"
        )),
        Some(RDKafkaErrorCode::SSL) => {
            bad(format!("no TLS with the broker at {brokers}: check ssl.ca.location and names"))
        }
        Some(RDKafkaErrorCode::Resolve) => bad(format!("the name of a broker of {brokers} is not known")),
        _ => bad(format!(
            "no broker at {brokers} answers within events.connect_timeout_ms ({wait}): {}",
            Plain(reason.unwrap_or(error))
        )),
    }
}

async fn make(settings: &Settings, topic: &str, until: Instant) -> Result<()> {
    let client: AdminClient<Voice> =
        client::base(settings).create_with_context(Voice::default()).map_err(|error| bad(client::not_made(&error)))?;
    let partitions = i32::try_from(settings.events.topic_partitions).unwrap_or(i32::MAX);
    let replicas = match i32::try_from(settings.events.topic_replicas) {
        Ok(0) => -1,
        Ok(replicas) => replicas,
        Err(_) => i32::MAX,
    };
    let topic_to_make = NewTopic::new(topic, partitions, TopicReplication::Fixed(replicas));
    let wait = until.saturating_duration_since(Instant::now());
    let options = AdminOptions::new().request_timeout(Some(wait)).operation_timeout(Some(wait));
    let failed =
        |error: &dyn std::fmt::Display| bad(format!("topic {topic} does not exist and cannot be made: {error}"));
    let made = client.create_topics([&topic_to_make], &options).await.map_err(|error| failed(&Plain(&error)))?;
    match made.into_iter().next() {
        Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => Err(failed(&code)),
        _ => {
            tracing::info!(topic, partitions, "made a topic for events");
            Ok(())
        }
    }
}
