use marquee_engine::event::EventKind;
use safetensors::SafeTensors;

use super::*;
use crate::store::UserKey;

async fn exported(from: Option<TimeMs>, until: Option<TimeMs>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.store.url = format!("sqlite://{}/store.db", folder.path().display()).into();
    let store = open_store(&config).await.unwrap();
    let item = |id: &str, genre: &str| Item { id: id.into(), genres: vec![genre.to_owned()], ..Item::default() };
    store.upsert_items(vec![item("b", "Drama"), item("a", "Crime")], None, 1).await.unwrap();
    let event = |id: &str, user: UserKey, item: &str, value: f64, time_ms| Event {
        value: Some(value),
        ..Event::new(id, user, EventKind::Rating, Some(item), time_ms)
    };
    let events = vec![
        event("3", UserKey::user("ann"), "b", 5.0, 30),
        event("1", UserKey::anonymous("ann"), "a", 1.0, 10),
        event("2", UserKey::user("ann"), "gone", 5.0, 20),
        Event::new("4", UserKey::user("ann"), EventKind::Impression, Some("a"), 40),
    ];
    store.append_events(events, 1).await.unwrap();
    store.close().await;
    let args = Args { out: folder.path().join("export"), until, from };
    run(&config, &args).await.unwrap();
    run(&config, &args).await.unwrap();
    folder
}

#[track_caller]
fn column(bytes: &[u8], name: &str) -> Vec<u8> {
    SafeTensors::deserialize(bytes).unwrap().tensor(name).unwrap().data().to_vec()
}

#[tokio::test]
async fn events_come_in_order_of_time_with_their_weights() {
    let folder = exported(None, None).await;
    let file = |name: &str| std::fs::read(folder.path().join("export").join(name)).unwrap();
    let events = file("events.safetensors");
    let u32s =
        |name| column(&events, name).as_chunks::<4>().0.iter().map(|x| u32::from_le_bytes(*x)).collect::<Vec<_>>();
    let f32s =
        |name| column(&events, name).as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect::<Vec<_>>();
    assert_eq!((u32s("user"), u32s("item")), (vec![0, 1, 1], vec![0, 1, 0]));
    assert_eq!(f32s("weight"), [-0.5, 1.0, 0.0]);
    assert!(f32s("rating")[2].is_nan());
    assert_eq!((column(&events, "seen"), column(&events, "interaction")), (vec![1, 1, 0], vec![1, 1, 0]));
    assert_eq!(String::from_utf8(file("users.jsonl")).unwrap(), "{\"id\":\"a:ann\"}\n{\"id\":\"u:ann\"}\n");
    let summary: serde_json::Value = serde_json::from_slice(&file("export.json")).unwrap();
    assert_eq!((&summary["skipped_unknown_items"], &summary["watermark"]), (&1.into(), &6.into()));
    assert_eq!(String::from_utf8(file("items.jsonl")).unwrap().lines().count(), 2);

    let tokens = file("tokens.safetensors");
    assert_eq!(column(&tokens, "offsets").len(), 3 * 8);
    let vocabulary = String::from_utf8(file("vocabulary.jsonl")).unwrap();
    assert_eq!(vocabulary, "\"genre:crime\"\n\"genre:drama\"\n");
}

#[tokio::test]
async fn a_period_is_half_open() {
    let folder = exported(Some(10), Some(30)).await;
    let events = std::fs::read(folder.path().join("export/events.safetensors")).unwrap();
    assert_eq!(column(&events, "time_ms"), 10_i64.to_le_bytes());
}

#[tokio::test]
async fn a_folder_of_something_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.store.url = format!("sqlite://{}/store.db", folder.path().display()).into();
    let out = folder.path().join("photos");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("holiday.jpg"), "x").unwrap();
    let args = Args { out: out.clone(), until: None, from: None };
    assert!(run(&config, &args).await.is_err());
    assert!(out.join("holiday.jpg").exists());
}
