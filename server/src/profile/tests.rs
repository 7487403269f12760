use marquee_engine::event::EventKind;

use bytes::Bytes;

use super::*;
use crate::cache::{self, Wanted};
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
async fn a_profile_that_goes_on_is_the_one_that_is_read_anew() {
    let ground = ground(100).await;
    let (ann, bob, visitor) = (UserKey::user("ann"), UserKey::user("bob"), UserKey::anonymous("x"));
    let mut extended = 0;
    for n in 0..40_i64 {
        let near = ground.profiles.look(&ann);
        if let Some(older) = &near.outdated {
            extended += usize::from(ground.profiles.extended(&ann, older).await.unwrap().is_some());
        }
        let profile = ground.profiles.get(&ann).await.unwrap();
        let anew = ground.profiles.as_of(&ann, None).await.unwrap().profile;
        // NaN is no equal of itself.
        assert_eq!(format!("{profile:?}"), format!("{anew:?}"), "after {n}");
        // Now and then late, at a moment that had one, of a merged visitor, or beside an erasure.
        let time_ms = if n % 8 == 3 { n / 2 } else { 2 * n };
        let seq = match n % 10 {
            5 => {
                ground.like(&format!("v{n}"), &visitor, "of a visitor").await;
                ground.store.merge_users(&visitor, &ann, n).await.unwrap().1
            }
            7 => ground.store.forget(&bob, n).await.unwrap().seq,
            _ => {
                let event = Event::new(&format!("e{n}"), ann.clone(), EventKind::Like, Some("i"), time_ms);
                ground.store.append_events(vec![event], n).await.unwrap();
                ground.store.log_end().await.unwrap()
            }
        };
        ground.profiles.invalidate([&ann, &visitor], seq);
    }
    assert!((15..39).contains(&extended), "{extended}");
}

#[tokio::test]
async fn what_was_erased_or_lost_does_not_come_back_through_an_older_profile() {
    let ground = ground(100).await;
    let (ann, visitor) = (UserKey::user("ann"), UserKey::anonymous("x"));
    ground.like("1", &visitor, "erased").await;
    ground.store.merge_users(&visitor, &ann, 2).await.unwrap();
    ground.like("2", &ann, "i").await;
    assert_eq!(ground.items(&ann).await, ["erased", "i"]);
    ground.profiles.invalidate([&ann], 4);
    let near = ground.profiles.look(&ann);
    // By another process, of which this one has not heard yet.
    ground.store.forget(&visitor, 3).await.unwrap();
    ground.like("3", &ann, "j").await;
    let items = async |near: &Near| {
        let read = ground.profiles.read(near).await.unwrap();
        read.profile.events.iter().map(|event| event.item.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(items(&near).await, ["i", "j"]);
    // Of a log that had another end.
    let end = ground.store.log_end().await.unwrap();
    let mut lost = Profile { user: Some(ann.as_arc()), version: end, ..Profile::default() };
    lost.events = ground.profiles.get(&ann).await.unwrap().events[..1].to_vec();
    lost.events[0].item = "lost".into();
    let outdated = Some(Arc::new(Held::of_entries(Arc::new(lost), Some(1))));
    let near = Near { outdated, ..ground.profiles.look(&ann) };
    assert_eq!(items(&near).await, ["lost"], "nothing came after it, as far as anybody knows");
    ground.profiles.doubt();
    assert_eq!(items(&near).await, ["i", "j"]);
}

#[tokio::test]
async fn a_history_that_may_hold_more_is_read_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.store.url = format!("sqlite://{}/store.db", folder.path().display()).into();
    (config.limits.profile_events_max, config.limits.profile_seen_max) = (4, 6);
    let metrics = Arc::new(Metrics::new());
    let store = crate::store::open(&config, Arc::clone(&metrics)).await.unwrap();
    let profiles = Profiles::new(&config, Arc::clone(&store), metrics);
    let ann = UserKey::user("ann");
    for n in 0..20_i64 {
        let item = format!("i{}", n % 13);
        let event = Event::new(&n.to_string(), ann.clone(), EventKind::Like, Some(&item), n);
        store.append_events(vec![event], n).await.unwrap();
        profiles.invalidate([&ann], n as Seq + 1);
        let near = profiles.look(&ann);
        let is_whole = near.outdated.as_ref().is_some_and(|older| older.entries().is_some());
        assert_eq!(is_whole, (1..10).contains(&n), "at {n}");
        let profile = profiles.get(&ann).await.unwrap();
        let anew = profiles.as_of(&ann, None).await.unwrap().profile;
        assert_eq!(format!("{profile:?}"), format!("{anew:?}"), "at {n}");
    }
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

/// Two processes over one store and one Redis; nobody else uses their keys.
struct Pair {
    ground: Ground,
    config: Config,
    caches: [Arc<Cache>; 2],
    processes: [Profiles; 2],
    metrics: Arc<Metrics>,
}

async fn pair() -> Pair {
    let ground = ground(100).await;
    let mut config = Config { namespace: crate::testkit::unique("profiles"), ..Config::default() };
    config.cache.url = crate::testkit::server("MARQUEE_TEST_REDIS").into();
    config.cache.response_timeout_ms = 5_000;
    config.store.breaker_failures = 2;
    let metrics = Arc::new(Metrics::new());
    let open = async || Arc::new(Cache::open(&config, metrics.clone()).await.unwrap());
    let caches = [open().await, open().await];
    let process = |at: usize| {
        let profiles = Profiles::new(&config, ground.store.clone(), metrics.clone()).over(caches[at].clone());
        profiles.begin(0);
        profiles
    };
    let processes = [process(0), process(1)];
    Pair { ground, config, caches, processes, metrics }
}

impl Pair {
    /// Both processes have followed the log to its end.
    async fn follow(&self) {
        for process in &self.processes {
            let rows = self.ground.store.log_after(process.reached(), 100).await.unwrap();
            process.observe(&rows);
        }
    }

    /// The first process reads it and writes it to Redis; then it is there.
    async fn publish(&self, key: &UserKey) -> Sought {
        let sought = self.processes[0].seek(key, None, None).await;
        assert_eq!(sought.standing, Standing::Fresh);
        assert!(!sought.unsaved.is_empty(), "it came from the store");
        for (owner, bytes) in &sought.unsaved {
            self.caches[0].write(owner, Some(bytes.clone()), None);
            let wanted = Wanted { question: None, profile: true, deadline: None };
            for _ in 0..500 {
                if self.caches[1].read(owner, wanted).await.profile.as_ref() == Some(bytes) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        sought
    }
}

fn items(sought: &Sought) -> Vec<String> {
    sought.profile.profile().unwrap().events.iter().map(|event| event.item.to_string()).collect()
}

#[tokio::test]
async fn what_another_process_read_needs_no_store() {
    let pair = pair().await;
    let (visitor, ann) = (UserKey::anonymous("x"), UserKey::user("ann"));
    pair.ground.like("1", &ann, "i").await;
    pair.ground.like("2", &visitor, "j").await;
    pair.ground.store.merge_users(&visitor, &ann, 2).await.unwrap();
    pair.follow().await;
    let first = pair.publish(&visitor).await;
    assert_eq!(first.unsaved.len(), 2, "whose the visitor is, and the profile");
    pair.ground.store.close().await;
    for key in [&visitor, &ann, &visitor] {
        let sought = pair.processes[1].seek(key, None, None).await;
        assert_eq!((items(&sought), sought.standing), (vec!["i".to_owned(), "j".to_owned()], Standing::Fresh));
        // NaN is no number's equal.
        assert_eq!(format!("{:?}", sought.profile.profile()), format!("{:?}", first.profile.profile()));
        assert!(sought.unsaved.is_empty() && !sought.is_cache_down);
    }
}

#[tokio::test]
async fn without_the_store_an_older_profile_is_told_to_be_one_and_an_erased_one_is_none() {
    let pair = pair().await;
    let (ann, ben) = (UserKey::user("ann"), UserKey::user("ben"));
    pair.ground.like("1", &ann, "i").await;
    pair.follow().await;
    pair.publish(&ann).await;
    // Somebody writes; Redis hears nothing of it.
    pair.ground.like("2", &ann, "j").await;
    let rows = pair.ground.store.log_after(1, 10).await.unwrap();
    let erased = pair.ground.store.forget(&ben, 3).await.unwrap();
    let erasure = pair.ground.store.log_after(erased.seq - 1, 1).await.unwrap();
    pair.ground.store.close().await;
    for process in &pair.processes {
        process.observe(&rows);
        // From this process's memory in the one, from Redis in the other.
        let sought = process.seek(&ann, None, None).await;
        assert_eq!((items(&sought), sought.standing), (vec!["i".to_owned()], Standing::Stale));
        let sought = process.seek(&ben, None, None).await;
        assert_eq!((items(&sought), sought.standing), (vec![], Standing::Missing));
        assert_eq!(sought.profile.profile().unwrap().user.as_deref(), Some("u:ben"));
        process.observe(&erasure);
        let sought = process.seek(&ann, None, None).await;
        assert_eq!(sought.standing, Standing::Missing, "it may be what was erased");
        assert!(process.get(&ann).await.is_err(), "who must have it is told");
    }
    assert!(pair.metrics.render().contains("marquee_store_reads_up 0"));
}

#[tokio::test]
async fn an_acknowledged_write_is_read_whatever_redis_holds() {
    let pair = pair().await;
    let ann = UserKey::user("ann");
    for n in 0..30_usize {
        let (writer, reader) = (&pair.processes[n % 2], &pair.processes[(n + 1) % 2]);
        let old = pair.processes[0].seek(&ann, None, None).await;
        let event = Event::new(&n.to_string(), ann.clone(), EventKind::Like, Some("i"), n as i64);
        pair.ground.store.append_events(vec![event], 1).await.unwrap();
        writer.invalidate([&ann], n as Seq + 1);
        assert_eq!(writer.seek(&ann, None, None).await.profile.profile().unwrap().events.len(), n + 1, "its own");
        // What was read before comes to Redis late.
        for (owner, bytes) in old.unsaved {
            pair.caches[0].write(&owner, Some(bytes), None);
        }
        pair.follow().await;
        let read = reader.seek(&ann, None, None).await;
        assert_eq!(
            (read.profile.profile().unwrap().events.len(), read.standing),
            (n + 1, Standing::Fresh),
            "the other's"
        );
    }
}

/// Whoever asks with a slate at hand gets the profile unread; should it be no profile, the next one asks the store.
#[tokio::test]
async fn a_slate_of_the_same_version_needs_the_head_of_a_profile_alone() {
    let pair = pair().await;
    let (ann, process) = (UserKey::user("ann"), &pair.processes[1]);
    pair.ground.like("1", &ann, "i").await;
    pair.follow().await;
    let (_, bytes) = pair.publish(&ann).await.unsaved.remove(0);
    let key = cache::Key::new(ann.as_str(), &[b"q"]);
    let question = pair.caches[0].question(&key);
    let told = crate::answer::Told { variant: Bytes::new(), bundle_version: Bytes::new() };
    let slate = |profile| cache::Entry {
        state: cache::State { profile, item_changes: 0 },
        as_of: 1,
        old_from_ms: 1,
        expires_ms: 2,
        body: Bytes::new(),
        ranked_id: "r".into(),
        told: told.clone(),
    };
    let write = async |profile: Bytes, version| {
        let wanted = Wanted { question, profile: true, deadline: None };
        pair.caches[0].write(&ann, Some(profile.clone()), Some((question.unwrap(), &slate(version))));
        while pair.caches[1].read(&ann, wanted).await.slate.map(|slate| slate.state.profile) != Some(version) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let cut = bytes.slice(..bytes.len() - 1);
    write(cut.clone(), 7).await;
    let sought = process.seek(&ann, question, None).await;
    assert_eq!((items(&sought), sought.unsaved.len()), (vec!["i".to_owned()], 1), "the store's");
    process.invalidate([&ann], 0);
    write(cut, 1).await;
    let sought = process.seek(&ann, question, None).await;
    assert_eq!((sought.profile.version(), sought.unsaved.len()), (1, 0), "only the head was read");
    assert!(sought.profile.profile().is_none());
    write(bytes, 1).await;
    let sought = process.seek(&ann, question, None).await;
    assert_eq!((items(&sought), sought.unsaved.len()), (vec!["i".to_owned()], 0));
}

#[tokio::test]
async fn a_profile_that_other_rules_made_is_not_taken() {
    let pair = pair().await;
    let ann = UserKey::user("ann");
    pair.ground.like("1", &ann, "i").await;
    pair.follow().await;
    pair.publish(&ann).await;
    let mut config = pair.config.clone();
    config.limits.profile_events_max += 1;
    let other = Profiles::new(&config, pair.ground.store.clone(), pair.metrics.clone()).over(pair.caches[1].clone());
    other.begin(0);
    let sought = other.seek(&ann, None, None).await;
    assert_eq!(
        (items(&sought), sought.unsaved.len()),
        (vec!["i".to_owned()], 1),
        "it is read from the store and written again"
    );
}
