//! There and back: the same bytes from both stores, and nothing from a dump that is not whole.

use std::sync::Arc;

use marquee_engine::event::EventKind;
use marquee_engine::types::{Attributes, Item, TimeMs};

use super::*;
use crate::config::Config;
use crate::store::postgres::testing::Schema;
use crate::store::{
    BundleRecord, Event, Ingested, Received, Repeat, SlateRecord, SlateRows, Step, Store, User, UserKey, sqlite,
};
use crate::telemetry::Metrics;

struct File {
    _folder: tempfile::TempDir,
    store: Arc<dyn Store>,
}

async fn file() -> File {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.store.url = format!("sqlite://{}/store.db", folder.path().display()).into();
    let store = sqlite::Sqlite::open(&config.store, Arc::new(Metrics::new())).await.unwrap();
    File { _folder: folder, store: Arc::new(store) }
}

/// Something of everything, with what is hard to copy.
async fn fill(store: &dyn Store) {
    let odd = UserKey::user("\u{dc}n\u{ef}\u{0}code'; --\u{1F3AC}\\x");
    let (visitor, ann) = (UserKey::anonymous("x"), UserKey::user("ann"));
    let event = |id: &str, user: &UserKey, time_ms: TimeMs| Event {
        value: Some(0.1 + 0.2),
        watched_seconds: Some(f64::MIN_POSITIVE),
        surface: "home\u{0}".to_owned(),
        position: Some(u32::MAX),
        query: "\"q\"\n".to_owned(),
        ..Event::new(id, user.clone(), EventKind::Custom("stare\u{0}".to_owned()), Some(" i\u{0} "), time_ms)
    };
    let now = 1_767_225_600_000;
    store.append_events(vec![event("E\u{0}1", &odd, -5), event("2", &visitor, 7)], 5).await.unwrap();
    store.append_events(vec![Event::new("3", ann.clone(), EventKind::Search, None, i64::MAX)], now).await.unwrap();
    store.merge_users(&visitor, &ann, now).await.unwrap();
    store.append_events(vec![event("4", &visitor, 9)], i64::MIN).await.unwrap();
    let received = Received { event: event("5", &ann, 9), received_ms: -7 };
    let positions = vec![Step { from: 0, to: Ingested { log: "topic".to_owned(), partition: 3, next: 9 } }];
    store.append_ingested(vec![received], positions, now).await.unwrap();
    let attributes: Attributes = serde_json::from_value(serde_json::json!({"b": 0.1, "a": [true, "x\u{0}"]})).unwrap();
    let item = |id: &str| Item { attributes: attributes.clone(), ..Item { id: id.into(), ..Item::default() } };
    store.upsert_items(vec![item("i\u{0}"), item("gone")], Some(1), now).await.unwrap();
    store.delete_items(vec!["gone".to_owned()], now).await.unwrap();
    store
        .upsert_users(
            vec![User { id: "ann".to_owned(), attributes }, User { id: "bob".to_owned(), ..User::default() }],
            4,
        )
        .await
        .unwrap();
    let features = vec![f32::NAN, -0.0, 0.1, f32::from_bits(0x7fc0_1234)];
    let rows = SlateRows { columns_hash: u64::MAX, items: vec!["i\u{0}".to_owned()], features };
    let ids = crate::ids::Ids::new();
    let slate = SlateRecord {
        slate_id: ids.slate(1_000),
        user: Some(ann),
        now_ms: 1_000,
        rows: Some(rows),
        ..SlateRecord::default()
    };
    let repeat = Repeat { slate_id: ids.slate(2_000), ranked_id: slate.slate_id.as_str().into(), now_ms: 2_000 };
    store
        .put_slates(vec![slate, SlateRecord { slate_id: "b\u{0}".to_owned(), ..SlateRecord::default() }])
        .await
        .unwrap();
    store.put_repeats(vec![repeat.clone()]).await.unwrap();
    store.put_repeats(vec![repeat]).await.unwrap();
    for version in ["a", "b"] {
        let bundle = BundleRecord {
            version: version.to_owned(),
            created_ms: 1,
            parent: String::new(),
            location: version.to_owned(),
            manifest: "{}".to_owned(),
        };
        store.register_bundle(bundle).await.unwrap();
        store.activate_bundle(version, 1).await.unwrap();
    }
    store.roll_back_bundle("b", 2).await.unwrap();
    // The log's last position is an erased one.
    store.append_events(vec![event("9", &UserKey::anonymous("y"), 3)], now).await.unwrap();
    store.forget(&UserKey::anonymous("y"), now).await.unwrap();
    store.append_events(vec![event("10", &UserKey::user("z"), 3)], now).await.unwrap();
}

async fn dumped(store: &dyn Store) -> (Vec<u8>, Summary) {
    let mut bytes = Vec::new();
    let summary = write(&mut *store.dump().await.unwrap(), &mut bytes, &|_| ()).await.unwrap();
    (bytes, summary)
}

async fn restored(store: &dyn Store, bytes: &[u8]) -> std::result::Result<Summary, Problem> {
    let restore = store.restore().await.map_err(Problem::Store)?;
    read(restore, &mut &*bytes, &|_| ()).await
}

#[tokio::test]
async fn from_a_file_to_a_server_and_back_every_byte_is_the_same() {
    let first = file().await;
    fill(&*first.store).await;
    let (bytes, summary) = dumped(&*first.store).await;
    for (table, rows) in &summary.rows {
        assert!(*rows > 0, "{table} is not shown to be copied");
    }
    let schema = Schema::new();
    let server = schema.open().await.unwrap();
    assert_eq!(restored(&server, &bytes).await.unwrap(), summary);
    let (again, _) = dumped(&server).await;
    assert_eq!(String::from_utf8(again).unwrap(), String::from_utf8(bytes.clone()).unwrap());
    let last = file().await;
    restored(&*last.store, &bytes).await.unwrap();
    assert_eq!(dumped(&*last.store).await.0, bytes);
    // And they go on where the first would have.
    for store in [&first.store, &last.store] {
        assert_eq!(store.log_after(0, 100).await.unwrap(), server.log_after(0, 100).await.unwrap());
        assert_eq!(store.counts().await.unwrap(), server.counts().await.unwrap());
    }
    let next = Event::new("next", UserKey::user("n"), EventKind::Like, Some("i"), 1);
    let wanted = first.store.append_events(vec![next.clone()], 1).await.unwrap();
    assert_eq!(server.append_events(vec![next.clone()], 1).await.unwrap(), wanted);
    assert_eq!(last.store.append_events(vec![next], 1).await.unwrap(), wanted);
    for store in [&*first.store, &*last.store, &server] {
        store.activate_bundle("b", 5).await.unwrap();
        store.put_repeats(vec![Repeat { slate_id: "r".to_owned(), ranked_id: "s".into(), now_ms: 1 }]).await.unwrap();
    }
    assert_eq!(dumped(&server).await.0, dumped(&*first.store).await.0);
    assert_eq!(dumped(&*last.store).await.0, dumped(&*first.store).await.0);
    for store in [&*first.store, &*last.store, &server] {
        store.close().await;
    }
}

#[tokio::test]
async fn what_is_no_whole_dump_leaves_nothing() {
    let source = file().await;
    fill(&*source.store).await;
    let (bytes, _) = dumped(&*source.store).await;
    let text = String::from_utf8(bytes.clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let without = |line: usize| {
        let kept = lines.iter().enumerate().filter(|(at, _)| *at != line).map(|(_, line)| *line);
        kept.collect::<Vec<_>>().join("\n") + "\n"
    };
    let spoilt = [
        (String::new(), "no dump"),
        ("hello\n".to_owned(), "no JSON"),
        (text[..text.len() - 1].to_owned(), "cut off"),
        (without(lines.len() - 1), "ends before its closing line"),
        (without(0), "no dump"),
        (without(1), "checksum"),
        (text.replacen("\"watched_seconds\"", "\"watched_minutes\"", 1), "not known"),
        (text.replacen("\"updated_ms\":4", "\"updated_ms\":5", 1), "checksum"),
        (text.replacen("\"updated_ms\":4", "\"updated_ms\":\"4\"", 1), "another kind"),
        (text.replacen("\"format\":1", "\"format\":2", 1), "format 2"),
        (format!("{text}{}\n", lines[1]), "follows the closing line"),
        (text.replacen("\"rows\":{\"activations\":2", "\"rows\":{\"activations\":3", 1), "counts"),
        (text.replacen(lines[1], &format!("{}\n{}", lines[lines.len() - 2], lines[1]), 1), "too late"),
    ];
    let schema = Schema::new();
    let server = schema.open().await.unwrap();
    let target = file().await;
    for store in [&*target.store, &server] {
        let (empty, _) = dumped(store).await;
        for (dump, why) in &spoilt {
            assert_ne!(*dump, text, "{why}: it was not spoilt");
            let refused = restored(store, dump.as_bytes()).await.unwrap_err();
            assert!(refused.to_string().contains(why), "{why}: {refused}");
            assert_eq!(dumped(store).await.0, empty, "{why}");
        }
        restored(store, &bytes).await.unwrap();
        let refused = restored(store, &bytes).await.unwrap_err();
        assert!(refused.to_string().contains("not empty"), "{refused}");
        store.close().await;
    }
    source.store.close().await;
}

#[tokio::test]
async fn a_dump_is_one_moment() {
    let schema = Schema::new();
    let server = schema.open().await.unwrap();
    let file = file().await;
    for store in [&*file.store, &server] {
        fill(store).await;
        let (before, _) = dumped(store).await;
        let mut dump = store.dump().await.unwrap();
        fill_more(store).await;
        let mut during = Vec::new();
        write(&mut *dump, &mut during, &|_| ()).await.unwrap();
        assert_eq!(during, before);
        drop(dump);
        assert_ne!(dumped(store).await.0, before);
        store.close().await;
    }
}

async fn fill_more(store: &dyn Store) {
    store.append_events(vec![Event::new("later", UserKey::user("n"), EventKind::Like, Some("i"), 1)], 1).await.unwrap();
}
