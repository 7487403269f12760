//! What every log of events does, whatever it is made of.

use std::sync::Arc;

use marquee_engine::event::EventKind;
use marquee_engine::types::Seq;

use super::{EventLog, Logged, Mark, Shared};
use crate::store::{Event, LogRow, Store, StoredEntry, UserKey};

/// A log and the store that it fills.
pub(crate) struct Ground {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) store: Arc<dyn Store>,
}

/// The suite for one implementation; `$ground` makes an empty one, and something that lives as long.
macro_rules! suite {
    ($ground:path) => {
        $crate::events::log::conformance::suite!($ground:
            what_is_acknowledged_lands_in_the_store,
            an_id_lands_once_however_often_it_is_sent,
            an_empty_call_says_nothing_and_waits_for_nothing,
            one_user_s_events_keep_their_order,
            calls_at_once_land_all_of_them,
            a_mark_of_another_log_is_never_reached,
            nothing_is_acknowledged_after_the_end,
        );
    };
    ($ground:path: $($name:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let (_alive, ground) = $ground().await;
                $crate::events::log::conformance::$name(&ground).await;
                ground.log.close(std::time::Duration::from_secs(10)).await;
            }
        )*
    };
}
pub(crate) use suite;

pub(crate) fn like(id: &str, user: &str, item: &str) -> Event {
    Event::new(id, UserKey::user(user), EventKind::Like, Some(item), 5)
}

/// Waits until the mark is reached and gives everything in the store's log.
pub(crate) async fn landed(ground: &Ground, mark: &Mark) -> Vec<LogRow> {
    let wait = std::time::Duration::from_secs(60);
    let seq = tokio::time::timeout(wait, ground.log.landed(mark)).await.expect("it lands").expect("a mark of this log");
    let rows = ground.store.log_after(0, 100_000).await.unwrap();
    assert!(rows.last().map_or(0, |row| row.seq) >= seq);
    rows
}

pub(crate) fn ids(rows: &[LogRow]) -> Vec<String> {
    let id = |row: &LogRow| match &row.entry {
        StoredEntry::Event(event) => event.id.clone(),
        other => panic!("not an event: {other:?}"),
    };
    rows.iter().map(id).collect()
}

pub(crate) async fn what_is_acknowledged_lands_in_the_store(ground: &Ground) {
    let full = Event {
        value: Some(0.5),
        watched_seconds: Some(61.25),
        surface: "home".to_owned(),
        session: "s".to_owned(),
        slate_id: "slate".to_owned(),
        position: Some(3),
        query: "ü \u{1f3ac}".to_owned(),
        ..Event::new("ü/1", UserKey::anonymous("v"), EventKind::Custom("poke".to_owned()), Some("i"), 1_234_567)
    };
    let appended = ground.log.append(vec![full.clone(), like("b", "bob", "j")], 2_000_000).await.unwrap();
    assert_eq!(appended.outcomes.len(), 2);
    assert!(appended.outcomes.iter().all(|outcome| matches!(outcome, Logged::Accepted(_))));
    let rows = landed(ground, &appended.mark).await;
    let found: Vec<&LogRow> = rows.iter().filter(|row| row.entry == StoredEntry::Event(full.clone())).collect();
    assert!(rows.len() == 2 && found.len() == 1 && found[0].received_ms == 2_000_000, "{rows:?}");
}

pub(crate) async fn an_id_lands_once_however_often_it_is_sent(ground: &Ground) {
    for _ in 0..3 {
        let appended = ground.log.append(vec![like("a", "ann", "i"), like("a", "ann", "j")], 9).await.unwrap();
        let rows = landed(ground, &appended.mark).await;
        assert_eq!(ids(&rows), ["a"]);
        assert_eq!(rows[0].entry, StoredEntry::Event(like("a", "ann", "i")), "the first one counts");
    }
}

pub(crate) async fn an_empty_call_says_nothing_and_waits_for_nothing(ground: &Ground) {
    let appended = ground.log.append(Vec::new(), 9).await.unwrap();
    assert!(appended.outcomes.is_empty());
    assert!(landed(ground, &appended.mark).await.is_empty());
}

pub(crate) async fn one_user_s_events_keep_their_order(ground: &Ground) {
    let mut mark = Mark::default();
    for call in 0..5 {
        let events = (0..40).map(|n| like(&format!("{call}-{n:02}"), "ann", "i")).collect();
        mark = ground.log.append(events, 9).await.unwrap().mark;
    }
    let found = ids(&landed(ground, &mark).await);
    assert!(found.len() == 200 && found.is_sorted(), "{found:?}");
}

pub(crate) async fn calls_at_once_land_all_of_them(ground: &Ground) {
    let calls: Vec<_> = (0..20)
        .map(|call| {
            let log = ground.log.clone();
            let events = (0..50).map(|n| like(&format!("{call}-{n}"), &format!("u{n}"), "i")).collect();
            tokio::spawn(async move { log.append(events, 9).await.unwrap().mark })
        })
        .collect();
    let mut rows = Vec::new();
    for call in calls {
        rows = landed(ground, &call.await.unwrap()).await;
    }
    let mut found = ids(&rows);
    found.sort();
    found.dedup();
    assert_eq!((rows.len(), found.len()), (1_000, 1_000));
}

pub(crate) async fn a_mark_of_another_log_is_never_reached(ground: &Ground) {
    let shared = Shared { log: super::log_id("no such log"), next: vec![(0, 1)] };
    assert_eq!(ground.log.landed(&Mark { seq: 0, shared: Some(shared) }).await, None);
    assert_eq!(ground.log.landed(&Mark::from(7)).await, Some(7 as Seq), "positions of the store are their own proof");
}

pub(crate) async fn nothing_is_acknowledged_after_the_end(ground: &Ground) {
    ground.log.append(vec![like("a", "ann", "i")], 9).await.unwrap();
    ground.log.close(std::time::Duration::from_secs(10)).await;
    ground.store.close().await;
    ground.log.append(vec![like("b", "ann", "i")], 9).await.expect_err("it is closed");
}
