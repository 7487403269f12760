//! Both stores side by side: the same operations, whatever they are, give the same answers and the same content.

use std::sync::Arc;

use marquee_engine::event::EventKind;
use marquee_engine::types::Item;
use proptest::prelude::*;

use super::postgres::testing::Schema;
use super::*;

/// One call. Numbers choose from few ids, so that they meet.
#[derive(Debug, Clone)]
enum Call {
    Append(Vec<(u8, u8, u8, i64)>, i64),
    Ingest(Vec<(u8, u8, u8, i64)>, i64, i64),
    Upsert(Vec<(u8, u8)>, Option<i64>),
    Delete(Vec<u8>),
    Users(Vec<(u8, u8)>),
    Merge(u8, u8),
    Forget(u8),
    Slate(u8, u8, u8, i64),
    Prune(i64),
    Bundle(u8),
    RollBack(u8),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let events = || prop::collection::vec((0..20_u8, 0..6_u8, 0..5_u8, -2..3_i64), 0..6);
    let call = prop_oneof![
        4 => (events(), 0..9_i64).prop_map(|(events, now)| Call::Append(events, now)),
        2 => (events(), 0..9_i64, 0..5_i64).prop_map(|(events, now, next)| Call::Ingest(events, now, next)),
        2 => (prop::collection::vec((0..5_u8, 0..3_u8), 0..5), prop::option::of(0..3_i64)).prop_map(|(items, created)| Call::Upsert(items, created)),
        1 => prop::collection::vec(0..5_u8, 0..3).prop_map(Call::Delete),
        1 => prop::collection::vec((0..4_u8, 0..3_u8), 0..4).prop_map(Call::Users),
        2 => (0..6_u8, 0..6_u8).prop_map(|(from, to)| Call::Merge(from, to)),
        1 => (0..6_u8).prop_map(Call::Forget),
        2 => (0..5_u8, 0..6_u8, 0..9_u8, 0..9_i64).prop_map(|(id, user, mark, now)| Call::Slate(id, user, mark, now)),
        1 => (0..9_i64).prop_map(Call::Prune),
        1 => (0..4_u8).prop_map(Call::Bundle),
        1 => (0..4_u8).prop_map(Call::RollBack),
    ];
    prop::collection::vec(call, 1..40)
}

/// Even numbers are visitors.
fn key(n: u8) -> UserKey {
    let id = format!("{}\u{0}{}", n / 2, ["é", "z", "\u{1F3AC}"][usize::from(n) % 3]);
    if n.is_multiple_of(2) { UserKey::anonymous(&id) } else { UserKey::user(&id) }
}

fn event((id, user, item, time_ms): (u8, u8, u8, i64)) -> Event {
    let kind = [EventKind::Like, EventKind::Impression, EventKind::Custom("x".to_owned())][usize::from(id) % 3].clone();
    Event::new(&format!("e{id}"), key(user), kind, (item > 0).then(|| format!("i{item}")).as_deref(), time_ms)
}

/// What a call answers, as text.
async fn make(store: &dyn Store, call: Call) -> String {
    let now = 7;
    match call {
        Call::Append(events, now) => {
            format!("{:?}", store.append_events(events.into_iter().map(event).collect(), now).await)
        }
        Call::Ingest(events, received_ms, next) => {
            let events = events.into_iter().map(|given| Received { event: event(given), received_ms }).collect();
            let at = |partition| Step {
                // Now and then over a hole.
                from: next / 2,
                to: Ingested { log: "t".to_owned(), partition, next: next + i64::from(partition) },
            };
            format!("{:?}", store.append_ingested(events, vec![at(0), at(1), at(0)], now).await)
        }
        Call::Upsert(items, created) => {
            let item = |(id, title): (u8, u8)| Item {
                id: format!("i{id}").into(),
                title: title.to_string(),
                ..Item::default()
            };
            format!("{:?}", store.upsert_items(items.into_iter().map(item).collect(), created, now).await)
        }
        Call::Delete(ids) => {
            format!("{:?}", store.delete_items(ids.into_iter().map(|id| format!("i{id}")).collect(), now).await)
        }
        Call::Users(users) => {
            let user = |(id, age): (u8, u8)| User {
                id: key(2 * id + 1).id().to_owned(),
                attributes: serde_json::from_value(serde_json::json!({"age": age})).unwrap(),
            };
            format!("{:?}", store.upsert_users(users.into_iter().map(user).collect(), now).await)
        }
        Call::Merge(from, to) => format!("{:?}", store.merge_users(&key(from), &key(to), now).await),
        Call::Forget(user) => format!("{:?}", store.forget(&key(user), now).await),
        Call::Slate(id, user, watermark, now_ms) => {
            let slate = SlateRecord {
                slate_id: format!("s{id}"),
                user: Some(key(user)),
                now_ms,
                watermark: u64::from(watermark),
                ..SlateRecord::default()
            };
            format!("{:?}", store.put_slates(vec![slate.clone(), slate]).await)
        }
        Call::Prune(before) => format!("{:?}", store.prune(before, before).await),
        Call::Bundle(version) => {
            let bundle = BundleRecord {
                version: version.to_string(),
                created_ms: i64::from(version / 2),
                parent: String::new(),
                location: String::new(),
                manifest: "{}".to_owned(),
            };
            let registered = if version < 3 { Some(store.register_bundle(bundle).await) } else { None };
            format!("{registered:?} {:?}", store.activate_bundle(&version.to_string(), now).await)
        }
        Call::RollBack(version) => format!("{:?}", store.roll_back_bundle(&version.to_string(), now).await),
    }
}

/// Everything that can be asked, as text.
async fn ask(store: &dyn Store) -> String {
    let mut text = format!("{:?}\n", store.log_after(0, 1_000).await);
    let end = store.log_end().await.unwrap();
    for user in 0..6 {
        let key = key(user);
        text += &format!("{:?}\n{:?}\n", store.resolve(&key).await, store.get_user(&key).await);
        text += &format!("{:?}\n", store.history(&key, None, &["like".to_owned()], 3).await);
        for up_to in [0, end / 2, end] {
            let then = store.history(&key, Some(up_to), &[], 50).await.unwrap();
            let later = store.history_after(&key, then.version, &[], 50).await.unwrap();
            text += &format!("{then:?}\n{later:?}\n");
            if let Some(later) = later {
                let now = store.history(&key, None, &[], 50).await.unwrap();
                let mut events = [then.events, later.events].concat();
                events.sort_by_key(|past| (past.time_ms, past.id.clone(), past.seq));
                assert_eq!((now.version, now.events), (later.version, events), "{key:?} after {}", then.version);
            }
        }
        let page = store.list_events(&key, None, 3).await.unwrap();
        let after = page.last().map(|last| EventCursor {
            time_ms: last.event.time_ms,
            event_id: last.event.id.clone(),
            seq: last.seq,
        });
        text += &format!("{page:?}\n{:?}\n", store.list_events(&key, after.as_ref(), 50).await);
    }
    text += &format!("{:?}\n{:?}\n", store.counts().await, store.tombstones().await);
    text += &format!("{:?}\n{:?}\n", store.list_items(None, 50).await, store.list_users(Some("0"), 50).await);
    text += &format!("{:?}\n{:?}\n", store.slates_between(0, 8, None, 50).await, store.list_bundles().await);
    text += &format!("{:?}\n{:?}\n", store.activations().await, store.ingested("t").await);
    let mut dumped = Vec::new();
    dump::write(&mut *store.dump().await.unwrap(), &mut dumped, &|_| ()).await.unwrap();
    text + &String::from_utf8(dumped).unwrap()
}

proptest! {
    // Few: each makes a schema on a real server.
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_same_calls_give_the_same_answers_and_the_same_content(calls in calls()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (answers, contents) = runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let mut config = Config::default();
            config.store.url = format!("sqlite://{}/store.db", folder.path().display()).into();
            let file = super::open(&config, Arc::new(Metrics::new())).await.unwrap();
            let schema = Schema::new();
            let server = schema.open().await.unwrap();
            let mut answers = Vec::new();
            for call in calls {
                answers.push((make(&*file, call.clone()).await, make(&server, call.clone()).await, call));
            }
            let contents = (ask(&*file).await, ask(&server).await);
            file.close().await;
            server.close().await;
            (answers, contents)
        });
        for (of_file, of_server, call) in answers {
            prop_assert_eq!(of_file, of_server, "{:?}", call);
        }
        prop_assert_eq!(contents.0, contents.1);
    }
}
