//! Against a real broker.

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use sqlx::Connection;
use tempfile::TempDir;

use super::*;
use crate::events::log::conformance::{self, Ground, like};
use crate::store::{Step, UserKey};
use crate::testkit;

const PARTITIONS: i32 = 3;
const LONG: Duration = Duration::from_secs(60);
const NOW: TimeMs = 1_700_000_000_000;

/// One topic, one group, one store.
struct House {
    folder: TempDir,
    config: Config,
}

impl House {
    fn new() -> House {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config { namespace: testkit::unique("kafka"), ..Config::default() };
        config.store.url = format!("sqlite://{}/store.db", folder.path().display()).into();
        config.events.url = testkit::server("MARQUEE_TEST_KAFKA").into();
        config.events.create_topic = true;
        config.events.topic_partitions = PARTITIONS as u32;
        config.events.connect_timeout_ms = 30_000;
        // The machine that tests run on may be slow.
        config.events.produce_timeout_ms = 20_000;
        House { folder, config }
    }

    async fn store(&self) -> Arc<dyn Store> {
        crate::store::open(&self.config, Arc::new(Metrics::new())).await.unwrap()
    }

    /// A process that takes over, or not, and its metrics.
    async fn process(&self, store: &Arc<dyn Store>, ingest: bool) -> (Ground, Arc<Metrics>) {
        let mut config = self.config.clone();
        config.events.ingest = ingest;
        let metrics = Arc::new(Metrics::new());
        let log = KafkaLog::open(&config, store.clone(), metrics.clone(), Clock::fixed(NOW)).await.unwrap();
        (Ground { log: Arc::new(log), store: store.clone() }, metrics)
    }

    fn settings(&self) -> Arc<Settings> {
        Arc::new(Settings::new(&self.config).unwrap())
    }

    /// Every record of a topic, read without any group.
    fn read<T>(&self, topic: &str, count: usize, what: impl Fn(&BorrowedMessage<'_>) -> T) -> Vec<T> {
        let consumer: BaseConsumer = client::base(&self.settings()).set("group.id", "reader").create().unwrap();
        let mut all = TopicPartitionList::new();
        (0..PARTITIONS).for_each(|part| all.add_partition_offset(topic, part, Offset::Beginning).unwrap());
        consumer.assign(&all).unwrap();
        let started = Instant::now();
        let mut found = Vec::new();
        while found.len() < count && started.elapsed() < LONG {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                found.push(what(&message));
            }
        }
        // Nothing that was not expected either.
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(500)) {
            found.push(what(&message));
        }
        found
    }
}

async fn close(ground: Ground) {
    ground.log.close(LONG).await;
}

async fn ground() -> (House, Ground) {
    let house = House::new();
    let store = house.store().await;
    let (ground, _) = house.process(&store, true).await;
    (house, ground)
}

conformance::suite!(ground);

fn likes(prefix: &str, count: usize) -> Vec<Event> {
    (0..count).map(|n| like(&format!("{prefix}-{n}"), &format!("u{}", n % 17), "i")).collect()
}

/// Every id once: how many there are.
async fn distinct(store: &Arc<dyn Store>) -> usize {
    let mut ids = conformance::ids(&store.log_after(0, 1_000_000).await.unwrap());
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all, "an event is there twice");
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_event_is_in_the_topic_under_its_user() {
    let house = House::new();
    let (ground, _) = house.process(&house.store().await, false).await;
    ground.log.append(likes("a", 40), NOW).await.unwrap();
    let limits = &house.config.limits;
    let arrived = logged::Arrived { logged_ms: None, now_ms: NOW };
    let read = |message: &BorrowedMessage<'_>| {
        let received = logged::decode(message.payload().unwrap(), arrived, limits).unwrap();
        assert_eq!(message.key().unwrap(), received.event.user.as_str().as_bytes());
        (received.event.id, received.event.user, message.partition())
    };
    let settings = house.settings();
    let mut found = tokio::task::block_in_place(|| house.read(&settings.topic, 40, read));
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let mut wanted: Vec<String> = likes("a", 40).into_iter().map(|event| event.id).collect();
    wanted.sort();
    assert_eq!(found.iter().map(|row| row.0.clone()).collect::<Vec<_>>(), wanted);
    for row in &found {
        assert!(found.iter().all(|other| other.1 != row.1 || other.2 == row.2), "a user's events lie in one partition");
    }
    close(ground).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_goes_on_from_its_own_position_when_the_group_s_offsets_are_lost() {
    let mut house = House::new();
    let store = house.store().await;
    let (first, _) = house.process(&store, true).await;
    let mark = first.log.append(likes("a", 300), NOW).await.unwrap().mark;
    conformance::landed(&first, &mark).await;
    close(first).await;
    // Another group has no offsets at all, as if the process had been killed before it committed any.
    let topic = house.settings().topic.clone();
    let url = format!("{}/{topic}", house.config.events.url.expose());
    house.config.events.url = url.into();
    house.config.namespace.push_str("-other");
    let (second, metrics) = house.process(&store, true).await;
    let mark = second.log.append(likes("b", 300), NOW).await.unwrap().mark;
    conformance::landed(&second, &mark).await;
    assert_eq!(distinct(&store).await, 600);
    close(second).await;
    let text = metrics.render();
    assert!(text.contains("marquee_ingest_total{name=\"ingested\"} 300"), "{text}");
    assert!(!text.contains("name=\"duplicate\""), "nothing is read twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_the_store_knows_nothing_of_is_read_from_its_beginning() {
    let house = House::new();
    let full = house.store().await;
    let (first, _) = house.process(&full, true).await;
    let mark = first.log.append(likes("a", 300), NOW).await.unwrap().mark;
    conformance::landed(&first, &mark).await;
    // The group's own offsets are committed at the end of every partition.
    close(first).await;
    let mut known = full.ingested(&house.settings().topic).await.unwrap();
    assert_eq!(known.len(), PARTITIONS as usize, "300 likes of 17 users are in all of them");
    known.truncate(1);
    let skipped = known[0].next as usize;
    let other = tempfile::tempdir().unwrap();
    let mut empty = house.config.clone();
    empty.store.url = format!("sqlite://{}/store.db", other.path().display()).into();
    let store = crate::store::open(&empty, Arc::new(Metrics::new())).await.unwrap();
    let steps = known.into_iter().map(|to| Step { from: 0, to }).collect();
    store.append_ingested(Vec::new(), steps, NOW).await.unwrap();
    let (second, _) = house.process(&store, true).await;
    tokio::time::timeout(LONG, second.log.landed(&mark)).await.unwrap();
    assert_eq!(distinct(&store).await, 300 - skipped);
    close(second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_a_process_with_a_clock_ahead_acknowledged_lands() {
    const AHEAD_MS: TimeMs = 3_600_000;
    let house = House::new();
    let store = house.store().await;
    let (taker, metrics) = house.process(&store, true).await;
    let (sender, _) = house.process(&store, false).await;
    let event = Event { time_ms: NOW + AHEAD_MS, ..like("a", "ann", "i") };
    let mark = sender.log.append(vec![event.clone()], NOW + AHEAD_MS).await.unwrap().mark;
    tokio::time::timeout(LONG, taker.log.landed(&mark)).await.unwrap();
    let rows = store.log_after(0, 10).await.unwrap();
    assert_eq!(rows[0].entry, crate::store::StoredEntry::Event(event));
    assert!(!metrics.render().contains("name=\"dead\""), "it is not buried");
    close(sender).await;
    close(taker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_set_back_while_it_is_filled_gets_again_what_it_lost() {
    let house = House::new();
    let store = house.store().await;
    let (ground, _) = house.process(&store, true).await;
    let mark = ground.log.append(likes("a", 200), NOW).await.unwrap().mark;
    conformance::landed(&ground, &mark).await;
    let mut sql = sqlx::SqliteConnection::connect(house.config.store.url.expose()).await.unwrap();
    let lose = "BEGIN IMMEDIATE; DELETE FROM log; DELETE FROM event_ids; UPDATE ingested SET next = 1 WHERE partition = 0; \
         DELETE FROM ingested WHERE partition > 0; COMMIT";
    sqlx::raw_sql(lose).execute(&mut sql).await.unwrap();
    // What comes right behind must not hide the hole.
    ground.log.append(likes("b", 100), NOW).await.unwrap();
    let started = Instant::now();
    while distinct(&store).await < 299 && started.elapsed() < LONG {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // One record of partition 0 counts as taken over.
    assert_eq!(distinct(&store).await, 299);
    close(ground).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_from_a_backup_catches_up_from_the_log() {
    let house = House::new();
    let store = house.store().await;
    let (first, _) = house.process(&store, true).await;
    let mark = first.log.append(likes("a", 200), NOW).await.unwrap().mark;
    conformance::landed(&first, &mark).await;
    close(first).await;
    store.close().await;
    let (file, backup) = (house.folder.path().join("store.db"), house.folder.path().join("backup.db"));
    std::fs::copy(&file, &backup).unwrap();
    let store = house.store().await;
    let (second, _) = house.process(&store, true).await;
    let mark = second.log.append(likes("b", 200), NOW).await.unwrap().mark;
    conformance::landed(&second, &mark).await;
    close(second).await;
    store.close().await;
    std::fs::copy(&backup, &file).unwrap();
    let store = house.store().await;
    assert_eq!(distinct(&store).await, 200);
    let (third, _) = house.process(&store, true).await;
    tokio::time::timeout(LONG, third.log.landed(&mark)).await.unwrap();
    assert_eq!(distinct(&store).await, 400);
    close(third).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_goes_to_the_dead_letters_and_holds_nothing_up() {
    let house = House::new();
    let store = house.store().await;
    let (ground, metrics) = house.process(&store, true).await;
    let settings = house.settings();
    let other = Producer::new(settings.clone(), Arc::new(Metrics::new())).unwrap();
    let values = [
        "\u{1}nonsense",
        r#"{"id":"good-1","userId":"ann","itemId":"i","type":"EVENT_TYPE_LIKE"}"#,
        r#"{"id":"bad","user_id":"ann","type":"like"}"#,
        r#"{"id":"good-2","user_id":"ann","item_id":"j","type":"poke","time_ms":5}"#,
    ];
    let records =
        values.iter().map(|value| Outgoing { key: b"one key".to_vec(), value: value.as_bytes().to_vec() }).collect();
    let next = other.send(records).await.unwrap();
    let mark = Mark { seq: 0, shared: Some(Shared { log: log_id(&settings.topic), next: next.into_iter().collect() }) };
    assert_eq!(conformance::ids(&conformance::landed(&ground, &mark).await), ["good-1", "good-2"]);
    let text = metrics.render();
    assert!(text.contains("marquee_ingest_total{name=\"dead\"} 2"), "{text}");
    let read = |message: &BorrowedMessage<'_>| {
        let headers = message.headers().unwrap();
        let header = |key: &str| {
            let found = headers.iter().find(|header| header.key == key).unwrap();
            String::from_utf8(found.value.unwrap().to_vec()).unwrap()
        };
        let value = String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
        (header("marquee-offset"), header("marquee-reason"), header("marquee-topic"), value)
    };
    let dead = tokio::task::block_in_place(|| house.read(&settings.dead_topic, 2, read));
    assert_eq!(dead.iter().map(|row| row.0.as_str()).collect::<Vec<_>>(), ["0", "2"]);
    assert!(dead[0].1.starts_with("neither") && dead[1].1.starts_with("item_id: "), "{dead:?}");
    assert!(dead[0].2 == settings.topic && dead[1].3 == values[2]);
    close(ground).await;
    other.close(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_change_hands_lose_and_double_nothing() {
    let house = House::new();
    let store = house.store().await;
    let (first, _) = house.process(&store, true).await;
    let sender = {
        let log = house.process(&store, false).await.0;
        tokio::spawn(async move {
            let mut mark = Mark::default();
            for call in 0..60 {
                mark = log.log.append(likes(&call.to_string(), 50), NOW).await.unwrap().mark;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            close(log).await;
            mark
        })
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (second, _) = house.process(&store, true).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    close(first).await;
    sender.await.unwrap();
    let started = Instant::now();
    while distinct(&store).await < 3_000 && started.elapsed() < LONG {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(distinct(&store).await, 3_000);
    close(second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_acknowledged_while_the_store_is_locked_and_land_afterwards() {
    let mut house = House::new();
    house.config.store.busy_timeout_ms = 50;
    let store = house.store().await;
    let (ground, _) = house.process(&store, true).await;
    let url = house.config.store.url.expose().to_owned();
    let mut holder = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut holder).await.unwrap();
    let mark = ground.log.append(likes("a", 500), NOW).await.unwrap().mark;
    assert!(tokio::time::timeout(Duration::from_secs(2), ground.log.landed(&mark)).await.is_err());
    sqlx::query("ROLLBACK").execute(&mut holder).await.unwrap();
    conformance::landed(&ground, &mark).await;
    assert_eq!(distinct(&store).await, 500);
    close(ground).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_cannot_write_loses_its_partitions_to_one_that_can() {
    let mut house = House::new();
    house.config.events.ingest_failover_ms = house.config.events.session_timeout_ms;
    let (broken, good) = (house.store().await, house.store().await);
    let (first, _) = house.process(&broken, true).await;
    let mark = first.log.append(likes("a", 100), NOW).await.unwrap().mark;
    conformance::landed(&first, &mark).await;
    broken.close().await;
    let (second, _) = house.process(&good, true).await;
    let mark = second.log.append(likes("b", 100), NOW).await.unwrap().mark;
    tokio::time::timeout(LONG, second.log.landed(&mark)).await.unwrap();
    assert_eq!(distinct(&good).await, 200);
    close(first).await;
    close(second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_user_s_events_do_not_come_back_from_the_log() {
    let house = House::new();
    let store = house.store().await;
    let (sender, _) = house.process(&store, false).await;
    sender.log.append(vec![like("before", "ann", "i"), like("bob's", "bob", "i")], NOW).await.unwrap();
    store.forget(&UserKey::user("ann"), NOW + 1).await.unwrap();
    let mark = sender.log.append(vec![like("after", "ann", "i")], NOW + 2).await.unwrap().mark;
    let (taker, metrics) = house.process(&store, true).await;
    tokio::time::timeout(LONG, taker.log.landed(&mark)).await.unwrap();
    let started = Instant::now();
    let both = || async {
        let ann = store.history(&UserKey::user("ann"), None, &[], 10).await.unwrap().events;
        let bob = store.history(&UserKey::user("bob"), None, &[], 10).await.unwrap().events;
        (ann.into_iter().map(|past| past.id).collect::<Vec<_>>(), bob.len())
    };
    while both().await.1 == 0 && started.elapsed() < LONG {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(both().await, (vec!["after".to_owned()], 1));
    assert!(metrics.render().contains("marquee_ingest_total{name=\"erased\"} 1"));
    close(sender).await;
    close(taker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_bounded_and_a_silent_broker_is_no_acknowledgement() {
    // Takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = Config::default();
    config.events.url = format!("kafka://{}", silent.local_addr().unwrap()).into();
    config.events.in_flight_max_events = 100;
    config.events.produce_timeout_ms = 1_500;
    let settings = Arc::new(Settings::new(&config).unwrap());
    let metrics = Arc::new(Metrics::new());
    let producer = Arc::new(Producer::new(settings, metrics.clone()).unwrap());
    let records = || (0..60).map(|_| Outgoing { key: b"k".to_vec(), value: b"v".to_vec() }).collect::<Vec<_>>();
    let first = tokio::spawn({
        let producer = producer.clone();
        async move { producer.send(records()).await }
    });
    while metrics.event_log_waiting.get() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = producer.send(records()).await.unwrap_err();
    assert!(matches!(&refused, Error::ResourceExhausted(why) if why.contains("in_flight_max_events")), "{refused}");
    // A caller that leaves frees nothing before the broker, or its time, has answered.
    assert!(matches!(first.await.unwrap(), Err(Error::Unavailable { .. })));
    assert_eq!(metrics.event_log_waiting.get(), 0);
    assert!(matches!(producer.send(records()).await, Err(Error::Unavailable { .. })), "there is room again");
    producer.close(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_at_the_start_is_told_of_events_url() {
    let told = async |change: &dyn Fn(&mut Config)| {
        let mut house = House::new();
        house.config.events.create_topic = false;
        change(&mut house.config);
        let store = house.store().await;
        let opened = KafkaLog::open(&house.config, store, Arc::new(Metrics::new()), Clock::fixed(NOW)).await;
        opened.err().expect("it cannot open").to_string()
    };
    let missing = told(&|_| ()).await;
    assert!(missing.starts_with("events.url: topic kafka-") && missing.contains("does not exist"), "{missing}");
    let unreachable = told(&|config| {
        config.events.url = "kafka://127.0.0.1:1".into();
        config.events.connect_timeout_ms = 1_000;
    })
    .await;
    assert!(unreachable.starts_with("events.url: no broker at 127.0.0.1:1 answers"), "{unreachable}");
    let option = told(&|config| {
        let url = format!("{}?security.protocol=hush", config.events.url.expose());
        config.events.url = url.into();
    })
    .await;
    assert!(option.starts_with("events.url: has an option") && !option.contains("hush"), "{option}");
}
