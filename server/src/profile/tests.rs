use marquee_engine::event::EventKind;

use super::*;
use crate::store::Event;

struct Ground {
    _folder: tempfile::TempDir,
    store: Arc<dyn Store>,
    profiles: Profiles,
}

async fn ground(cache_max_users: usize) -> Ground {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.store.url = format!("sqlite://{}/store.db", folder.path().display()).into();
    config.limits.profile_cache_max_users = cache_max_users;
    let metrics = Arc::new(Metrics::new());
    let store = crate::store::open(&config, Arc::clone(&metrics)).await.unwrap();
    let profiles = Profiles::new(&config, Arc::clone(&store), metrics);
    Ground { _folder: folder, store, profiles }
}

impl Ground {
    async fn like(&self, id: &str, user: &UserKey, item: &str) {
        let event = Event::new(id, user.clone(), EventKind::Like, Some(item), 1);
        self.store.append_events(vec![event], 1).await.unwrap();
    }

    async fn items(&self, user: &UserKey) -> Vec<String> {
        self.profiles.get(user).await.unwrap().events.iter().map(|event| event.item.to_string()).collect()
    }
}

#[tokio::test]
async fn a_merged_visitor_has_the_users_profile() {
    let ground = ground(100).await;
    let (visitor, ann) = (UserKey::anonymous("x"), UserKey::user("ann"));
    ground.like("1", &visitor, "i").await;
    assert_eq!(ground.items(&visitor).await, ["i"]);
    assert!(ground.items(&ann).await.is_empty());
    ground.store.merge_users(&visitor, &ann, 2).await.unwrap();
    ground.profiles.invalidate([&visitor, &ann], 2);
    for _ in 0..2 {
        assert_eq!(ground.items(&visitor).await, ["i"]);
        assert_eq!(ground.items(&ann).await, ["i"]);
    }
    ground.like("2", &visitor, "j").await;
    ground.profiles.invalidate([&ann], 3);
    assert_eq!(ground.items(&visitor).await, ["i", "j"], "through the user");
    let before = ground.profiles.at(&visitor, 1).await.unwrap();
    assert_eq!((before.version, before.user.as_deref()), (1, Some("a:x")));
}

#[tokio::test]
async fn another_process_is_seen_through_the_log() {
    let ground = ground(100).await;
    let ann = UserKey::user("ann");
    assert!(ground.items(&ann).await.is_empty());
    ground.like("1", &ann, "i").await;
    ground.profiles.observe(&ground.store.log_after(0, 10).await.unwrap());
    assert_eq!(ground.items(&ann).await, ["i"]);
    ground.store.forget(&ann, 2).await.unwrap();
    ground.profiles.observe(&ground.store.log_after(1, 10).await.unwrap());
    assert!(ground.items(&ann).await.is_empty());
}

#[tokio::test]
async fn the_cache_is_bounded_by_its_count() {
    let ground = ground(SHARDS).await;
    for n in 0..200 {
        ground.profiles.get(&UserKey::user(&n.to_string())).await.unwrap();
    }
    let kept: usize = ground.profiles.shards.iter().map(|shard| lock(shard).kept.len()).sum();
    assert!(kept <= SHARDS);
}
