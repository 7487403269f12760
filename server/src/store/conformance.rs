//! What every store must do. One suite; an implementation runs it with [`suite!`] and a function that opens an empty one.

use std::collections::HashSet;

use marquee_engine::event::EventKind;
use marquee_engine::types::Item;

use super::*;

/// Makes one test of each case. `$open` is an async function that gives `(guard, Arc<dyn Store>)`: an empty store and
/// whatever must outlive it.
macro_rules! suite {
    ($open:path; $($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                let (_guard, store) = $open().await;
                $crate::store::conformance::$case(&*store).await;
                store.close().await;
            }
        )*
    };
    ($open:path) => {
        $crate::store::conformance::suite! { $open;
            appended_events_are_read_back_exactly
            the_same_id_is_a_duplicate_whatever_else_it_says
            a_duplicate_within_one_call_is_found
            large_and_concurrent_appends_keep_every_event_once
            a_shared_log_is_taken_over_once
            an_id_is_remembered_from_the_moment_it_was_taken_over
            what_was_received_before_an_erasure_does_not_come_back
            histories_are_ordered_by_time_then_id
            a_history_is_bounded_and_skips_kinds
            a_history_goes_on_after_its_version
            lists_page_newest_first_without_gaps
            a_merge_moves_events_and_later_ones_too
            the_past_is_readable_after_a_merge
            a_second_merge_moves_only_later_events
            forgetting_leaves_nothing_but_hashes
            forgetting_a_visitor_spares_the_user
            forgetting_a_user_spares_who_shares_their_device
            a_slate_from_before_an_erasure_is_not_kept_after_it
            items_are_versioned_entries_of_the_log
            an_equal_item_is_not_logged_again
            deleted_items_never_come_back
            users_are_kept_exactly
            the_log_reads_in_order
            slates_read_back_bit_for_bit
            repeats_are_found_through_the_slate_that_they_repeat
            bundles_roll_back_as_a_stack
            pruning_removes_only_what_is_old
            commits_are_announced
            a_closed_store_refuses
        }
    };
}
pub(crate) use suite;

fn like(id: &str, user: &UserKey, item: &str, time_ms: TimeMs) -> Event {
    Event::new(id, user.clone(), EventKind::Like, Some(item), time_ms)
}

async fn append_one(store: &dyn Store, event: Event) -> Outcome {
    store.append_events(vec![event], 1_000).await.unwrap().remove(0)
}

fn ids(events: &[PastEvent]) -> Vec<&str> {
    events.iter().map(|past| past.id.as_str()).collect()
}

async fn history(store: &dyn Store, key: &UserKey, up_to: Option<Seq>) -> History {
    store.history(key, up_to, &[], 1_000).await.unwrap()
}

pub(crate) async fn appended_events_are_read_back_exactly(store: &dyn Store) {
    let odd = UserKey::user("Ünï\u{0}code'; --\u{1F3AC}");
    let full = Event {
        value: Some(0.1 + 0.2),
        watched_seconds: Some(f64::MIN_POSITIVE),
        surface: "home".to_owned(),
        session: "s".to_owned(),
        slate_id: "sl".to_owned(),
        position: Some(0),
        query: "q".to_owned(),
        ..Event::new("E\u{0}1", odd.clone(), EventKind::Custom("stare".to_owned()), Some(" i "), 5)
    };
    let plain = Event::new("e1", odd.clone(), EventKind::Search, None, 6);
    let outcomes = store.append_events(vec![full.clone(), plain.clone()], 77).await.unwrap();
    let expected = [1, 2].map(|seq| Outcome::Accepted { seq, user: odd.clone() });
    assert_eq!(outcomes, expected);
    let read = store.list_events(&odd, None, 10).await.unwrap();
    assert_eq!(read.iter().map(|stored| &stored.event).collect::<Vec<_>>(), [&plain, &full]);
    assert_eq!((read[0].seq, read[0].received_ms), (2, 77));
    let Event { id, kind, value, time_ms, .. } = full;
    let past = PastEvent { seq: 1, id, kind, item: " i ".to_owned(), value, time_ms };
    assert_eq!(history(store, &odd, None).await.events, [past]);
    assert_eq!(store.log_end().await.unwrap(), 2);
    assert!(store.append_events(Vec::new(), 78).await.unwrap().is_empty());
}

pub(crate) async fn the_same_id_is_a_duplicate_whatever_else_it_says(store: &dyn Store) {
    let (ann, bob) = (UserKey::user("ann"), UserKey::user("bob"));
    append_one(store, like("e", &ann, "i", 1)).await;
    for again in [like("e", &ann, "i", 1), like("e", &ann, "i", 2), like("e", &bob, "j", 1)] {
        assert_eq!(append_one(store, again).await, Outcome::Duplicate);
    }
    assert!(matches!(append_one(store, like("E", &ann, "i", 1)).await, Outcome::Accepted { seq: 2, .. }));
    assert_eq!(store.counts().await.unwrap().events, 2);
}

pub(crate) async fn a_duplicate_within_one_call_is_found(store: &dyn Store) {
    let ann = UserKey::user("ann");
    let events = vec![like("a", &ann, "i", 1), like("a", &ann, "i", 9), like("b", &ann, "i", 2)];
    let outcomes = store.append_events(events, 1).await.unwrap();
    assert_eq!(outcomes[1], Outcome::Duplicate);
    assert_eq!(ids(&history(store, &ann, None).await.events), ["a", "b"]);
}

pub(crate) async fn large_and_concurrent_appends_keep_every_event_once(store: &dyn Store) {
    // Each id comes from two writers; sizes cross every chunk size of a bulk insert.
    let writer = |first: usize, size: usize| async move {
        let mut accepted = Vec::new();
        for from in (first..first + 600).step_by(size) {
            let events = (from..(from + size).min(first + 600)).map(|n| {
                let user = UserKey::user(&format!("u{}", n % 7));
                like(&format!("e{n}"), &user, "i", n as i64)
            });
            for outcome in store.append_events(events.collect(), 1).await.unwrap() {
                if let Outcome::Accepted { seq, .. } = outcome {
                    accepted.push(seq);
                }
            }
        }
        accepted
    };
    let (a, b, c) = tokio::join!(writer(0, 289), writer(300, 17), writer(600, 1));
    let seqs: HashSet<Seq> = a.iter().chain(&b).chain(&c).copied().collect();
    assert_eq!(a.len() + b.len() + c.len(), 1_200);
    assert_eq!(seqs, (1..=1_200).collect());
    assert_eq!(store.log_end().await.unwrap(), 1_200);
}

pub(crate) async fn a_shared_log_is_taken_over_once(store: &dyn Store) {
    let ann = UserKey::user("ann");
    let received = |id: &str, received_ms| Received { event: like(id, &ann, "i", 5), received_ms };
    let at = |partition, next| Ingested { log: "topic".to_owned(), partition, next };
    let step = |from, partition, next| Step { from, to: at(partition, next) };
    assert!(store.ingested("topic").await.unwrap().is_empty());
    let first = store
        .append_ingested(vec![received("a", 7), received("b", 8)], vec![step(0, 0, 2), step(0, 3, 9)], 10)
        .await
        .unwrap();
    assert_eq!(first, [1, 2].map(|seq| Outcome::Accepted { seq, user: ann.clone() }));
    // Another consumer of the same partition, from an older position.
    let again = store.append_ingested(vec![received("b", 8), received("c", 9)], vec![step(0, 0, 1)], 11).await.unwrap();
    assert_eq!(again, [Outcome::Duplicate, Outcome::Accepted { seq: 3, user: ann.clone() }]);
    assert_eq!(store.ingested("topic").await.unwrap(), [at(0, 2), at(3, 9)]);
    assert!(store.ingested("other").await.unwrap().is_empty());
    assert!(store.append_ingested(Vec::new(), vec![step(2, 0, 5)], 12).await.unwrap().is_empty());
    assert_eq!(store.ingested("topic").await.unwrap(), [at(0, 5), at(3, 9)]);
    // The store was set back since these consumers took over: what is missing must still be found missing.
    let beyond = vec![step(6, 0, 8), step(4, 5, 7), step(9, 3, 10)];
    store.append_ingested(Vec::new(), beyond, 12).await.unwrap();
    assert_eq!(store.ingested("topic").await.unwrap(), [at(0, 5), at(3, 10)]);
    let read = store.log_after(0, 10).await.unwrap();
    assert_eq!(read.iter().map(|row| (row.seq, row.received_ms)).collect::<Vec<_>>(), [(1, 7), (2, 8), (3, 9)]);
}

pub(crate) async fn an_id_is_remembered_from_the_moment_it_was_taken_over(store: &dyn Store) {
    // It waited long in the shared log.
    let late = || vec![Received { event: like("a", &UserKey::user("ann"), "i", 5), received_ms: 7 }];
    store.append_ingested(late(), Vec::new(), 1_000).await.unwrap();
    assert_eq!(store.prune(1_000, 0).await.unwrap().event_ids, 0);
    assert_eq!(store.append_ingested(late(), Vec::new(), 1_001).await.unwrap(), [Outcome::Duplicate]);
    assert_eq!(store.prune(1_001, 0).await.unwrap().event_ids, 1, "a resend starts no new time");
}

pub(crate) async fn what_was_received_before_an_erasure_does_not_come_back(store: &dyn Store) {
    let (ann, bob) = (UserKey::user("ann"), UserKey::user("bob"));
    let received = |id: &str, user: &UserKey, received_ms| Received { event: like(id, user, "i", 5), received_ms };
    store.forget(&ann, 100).await.unwrap();
    let events = vec![received("a", &ann, 99), received("b", &ann, 101), received("c", &bob, 99)];
    let outcomes = store.append_ingested(events, Vec::new(), 102).await.unwrap();
    assert_eq!(outcomes[0], Outcome::Erased);
    assert!(matches!(outcomes[1..], [Outcome::Accepted { seq: 2, .. }, Outcome::Accepted { seq: 3, .. }]));
    assert_eq!(ids(&history(store, &ann, None).await.events), ["b"]);
}

pub(crate) async fn histories_are_ordered_by_time_then_id(store: &dyn Store) {
    let ann = UserKey::user("ann");
    for (id, time) in [("c", 5), ("b", 7), ("a", 7), ("d", 1)] {
        append_one(store, like(id, &ann, "i", time)).await;
    }
    let read = history(store, &ann, None).await;
    assert_eq!(ids(&read.events), ["d", "c", "a", "b"]);
    assert_eq!((read.version, read.user), (4, Some(ann.clone())));
    let earlier = history(store, &ann, Some(2)).await;
    assert_eq!((ids(&earlier.events), earlier.version), (vec!["c", "b"], 2));
    assert_eq!(history(store, &UserKey::user("nobody"), None).await.version, 0);
}

pub(crate) async fn a_history_is_bounded_and_skips_kinds(store: &dyn Store) {
    let ann = UserKey::user("ann");
    for n in 0..6 {
        append_one(store, like(&format!("l{n}"), &ann, "i", n)).await;
        append_one(store, Event::new(&format!("i{n}"), ann.clone(), EventKind::Impression, Some("i"), n)).await;
    }
    append_one(store, Event::new("s", ann.clone(), EventKind::Search, None, 9)).await;
    let read = store.history(&ann, None, &["impression".to_owned()], 2).await.unwrap();
    assert_eq!(ids(&read.events), ["l4", "l5"]);
    assert_eq!(read.version, 13, "the version counts entries that are not read");
    assert_eq!(store.history(&ann, Some(13), &["impression".to_owned()], 2).await.unwrap(), read);
}

pub(crate) async fn a_history_goes_on_after_its_version(store: &dyn Store) {
    let (visitor, ann, bob) = (UserKey::anonymous("x"), UserKey::user("ann"), UserKey::user("bob"));
    let after = async |key: &UserKey, seq: Seq, limit: usize| {
        store.history_after(key, seq, &["impression".to_owned()], limit).await.unwrap()
    };
    for n in 0..3 {
        append_one(store, like(&format!("e{n}"), &ann, "i", 10 * n)).await;
    }
    let nothing = after(&ann, 3, 5).await.unwrap();
    assert_eq!((nothing.user, nothing.version, nothing.events.len()), (Some(ann.clone()), 3, 0));
    append_one(store, like("e4", &ann, "i", 5)).await;
    append_one(store, like("bob's", &bob, "i", 5)).await;
    append_one(store, like("e3", &ann, "j", 5)).await;
    append_one(store, Event::new("search", ann.clone(), EventKind::Search, None, 6)).await;
    append_one(store, Event::new("seen", ann.clone(), EventKind::Impression, Some("i"), 7)).await;
    let later = after(&ann, 3, 5).await.unwrap();
    assert_eq!((ids(&later.events), later.version), (vec!["e3", "e4"], 8), "by time, then id");
    assert_eq!(after(&ann, 3, 4).await, None, "as many entries as were asked for: there may be more");
    assert_eq!(ids(&after(&visitor, 0, 5).await.unwrap().events), [""; 0]);
    store.merge_users(&visitor, &ann, 9).await.unwrap();
    assert_eq!((after(&ann, 8, 5).await, after(&visitor, 8, 5).await), (None, None), "what was before may be more now");
    append_one(store, like("e9", &visitor, "i", 9)).await;
    assert_eq!(ids(&after(&ann, 9, 5).await.unwrap().events), ["e9"]);
    assert_eq!(after(&visitor, 9, 5).await, None, "it stands for a user");
    store.forget(&bob, 11).await.unwrap();
    assert_eq!(after(&ann, 10, 5).await, None, "whose events went with it is not looked for");
    assert_eq!(after(&ann, 11, 5).await.unwrap().version, 11);
}

pub(crate) async fn lists_page_newest_first_without_gaps(store: &dyn Store) {
    let ann = UserKey::user("ann");
    for n in 0..7 {
        append_one(store, like(&format!("e{n}"), &ann, "i", i64::from(n / 3))).await;
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.list_events(&ann, after.as_ref(), 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(EventCursor { time_ms: last.event.time_ms, event_id: last.event.id.clone(), seq: last.seq });
        seen.extend(page.into_iter().map(|stored| stored.event.id));
    }
    assert_eq!(seen, ["e6", "e5", "e4", "e3", "e2", "e1", "e0"]);
}

pub(crate) async fn a_merge_moves_events_and_later_ones_too(store: &dyn Store) {
    let (visitor, ann) = (UserKey::anonymous("x"), UserKey::user("ann"));
    append_one(store, like("1", &visitor, "i", 1)).await;
    append_one(store, like("2", &ann, "j", 2)).await;
    append_one(store, like("3", &UserKey::user("x"), "k", 2)).await;
    let (moved, seq) = store.merge_users(&visitor, &ann, 5).await.unwrap();
    assert_eq!((moved, seq), (1, 4));
    let outcome = append_one(store, like("4", &visitor, "l", 4)).await;
    assert_eq!(outcome, Outcome::Accepted { seq: 5, user: ann.clone() });
    for key in [&ann, &visitor] {
        let read = history(store, key, None).await;
        assert_eq!((ids(&read.events), read.version), (vec!["1", "2", "4"], 5));
        assert_eq!(read.user.as_ref(), Some(&ann));
        assert_eq!(store.resolve(key).await.unwrap(), ann);
    }
    assert_eq!(store.merge_users(&visitor, &ann, 6).await.unwrap(), (0, 5), "again: nothing to do, no entry");
    assert!(store.merge_users(&ann, &visitor, 6).await.is_err());
    assert_eq!(ids(&history(store, &UserKey::user("x"), None).await.events), ["3"], "a user called x is someone else");
}

pub(crate) async fn the_past_is_readable_after_a_merge(store: &dyn Store) {
    let (visitor, ann) = (UserKey::anonymous("x"), UserKey::user("ann"));
    append_one(store, like("1", &visitor, "i", 1)).await;
    append_one(store, like("2", &ann, "j", 2)).await;
    let before = [history(store, &visitor, None).await, history(store, &ann, None).await];
    store.merge_users(&visitor, &ann, 5).await.unwrap();
    append_one(store, like("4", &visitor, "l", 4)).await;
    let past = [history(store, &visitor, Some(2)).await, history(store, &ann, Some(2)).await];
    for (before, past) in before.iter().zip(&past) {
        assert_eq!((ids(&before.events), before.version), (ids(&past.events), past.version));
    }
    assert_eq!(past[0].user.as_ref(), Some(&visitor), "it was nobody's then");
    let merged = history(store, &ann, Some(3)).await;
    assert_eq!((ids(&merged.events), merged.version), (vec!["1", "2"], 3));
}

pub(crate) async fn a_second_merge_moves_only_later_events(store: &dyn Store) {
    let (visitor, ann, bob) = (UserKey::anonymous("tv"), UserKey::user("ann"), UserKey::user("bob"));
    append_one(store, like("1", &visitor, "i", 1)).await;
    store.merge_users(&visitor, &ann, 5).await.unwrap();
    assert_eq!(store.merge_users(&visitor, &bob, 6).await.unwrap().0, 0);
    append_one(store, like("2", &visitor, "j", 2)).await;
    assert_eq!(ids(&history(store, &ann, None).await.events), ["1"]);
    assert_eq!(ids(&history(store, &bob, None).await.events), ["2"]);
}

pub(crate) async fn forgetting_leaves_nothing_but_hashes(store: &dyn Store) {
    let (visitor, ann, bob) = (UserKey::anonymous("x"), UserKey::user("ann"), UserKey::user("bob"));
    append_one(store, like("1", &visitor, "i", 1)).await;
    append_one(store, like("2", &ann, "j", 2)).await;
    append_one(store, like("3", &bob, "j", 2)).await;
    store.upsert_users(vec![User { id: "ann".to_owned(), ..User::default() }], 1).await.unwrap();
    let slate = |id: &str, user: &UserKey| SlateRecord {
        slate_id: id.to_owned(),
        user: Some(user.clone()),
        ..SlateRecord::default()
    };
    store.put_slates(vec![slate("s1", &ann), slate("s2", &visitor), slate("s3", &bob)]).await.unwrap();
    store.merge_users(&visitor, &ann, 5).await.unwrap();
    let end = store.log_end().await.unwrap();

    let erased = store.forget(&ann, 6).await.unwrap();
    assert_eq!((erased.events, erased.slates, erased.seq), (2, 2, end + 1));
    assert_eq!(erased.keys.iter().collect::<HashSet<_>>(), HashSet::from([&ann, &visitor]));
    for key in [&ann, &visitor] {
        assert!(store.list_events(key, None, 10).await.unwrap().is_empty());
        assert_eq!(store.get_user(key).await.unwrap(), None);
        assert_eq!(store.resolve(key).await.unwrap(), *key);
        assert_eq!(history(store, key, Some(2)).await.version, 0, "not in the past either");
    }
    assert!(store.get_slate("s2").await.unwrap().is_none() && store.get_slate("s3").await.unwrap().is_some());
    let left = store.log_after(0, 100).await.unwrap();
    assert_eq!(left.len(), 2, "bob's event and the erasure");
    let hashes: HashSet<KeyHash> = [ann.hash(), visitor.hash()].into();
    assert!(
        matches!(&left[1].entry, StoredEntry::Erasure(keys) if keys.iter().copied().collect::<HashSet<_>>() == hashes)
    );
    let tombstones = store.tombstones().await.unwrap();
    assert_eq!(tombstones.iter().map(|tombstone| tombstone.key).collect::<HashSet<_>>(), hashes);

    assert_eq!(append_one(store, like("2", &ann, "j", 2)).await, Outcome::Duplicate, "a resend brings nothing back");
    let fresh = append_one(store, like("9", &ann, "j", 9)).await;
    assert_eq!(fresh, Outcome::Accepted { seq: end + 2, user: ann.clone() }, "a new event is a new start");
}

pub(crate) async fn forgetting_a_visitor_spares_the_user(store: &dyn Store) {
    let (visitor, ann) = (UserKey::anonymous("x"), UserKey::user("ann"));
    append_one(store, like("1", &visitor, "i", 1)).await;
    append_one(store, like("2", &ann, "j", 2)).await;
    store.merge_users(&visitor, &ann, 5).await.unwrap();
    append_one(store, like("3", &visitor, "k", 3)).await;
    let erased = store.forget(&visitor, 6).await.unwrap();
    assert_eq!(erased.events, 2, "those before and those after the merge");
    assert!(erased.keys.contains(&ann), "whose profile changed");
    assert_eq!(ids(&history(store, &ann, None).await.events), ["2"]);
    assert_eq!(store.resolve(&visitor).await.unwrap(), visitor);
}

pub(crate) async fn forgetting_a_user_spares_who_shares_their_device(store: &dyn Store) {
    let (visitor, ann, bob) = (UserKey::anonymous("x"), UserKey::user("ann"), UserKey::user("bob"));
    append_one(store, like("1", &visitor, "i", 1)).await;
    store.merge_users(&visitor, &ann, 5).await.unwrap();
    append_one(store, like("2", &visitor, "j", 2)).await;
    store.merge_users(&visitor, &bob, 6).await.unwrap();
    append_one(store, like("3", &visitor, "k", 3)).await;
    let erased = store.forget(&ann, 7).await.unwrap();
    assert_eq!((erased.events, erased.keys), (2, vec![ann.clone()]));
    assert_eq!(ids(&history(store, &bob, None).await.events), ["3"]);
    assert_eq!(store.resolve(&visitor).await.unwrap(), bob);
}

pub(crate) async fn a_slate_from_before_an_erasure_is_not_kept_after_it(store: &dyn Store) {
    let ann = UserKey::user("ann");
    let slate = |id: &str, watermark| SlateRecord {
        slate_id: id.to_owned(),
        user: Some(ann.clone()),
        watermark,
        ..SlateRecord::default()
    };
    let erased = store.forget(&ann, 1).await.unwrap();
    store.put_slates(vec![slate("late", erased.seq - 1), slate("new", erased.seq)]).await.unwrap();
    assert!(store.get_slate("late").await.unwrap().is_none());
    assert!(store.get_slate("new").await.unwrap().is_some());
}

fn item(id: &str, title: &str) -> Item {
    Item { id: id.into(), title: title.to_owned(), ..Item::default() }
}

pub(crate) async fn items_are_versioned_entries_of_the_log(store: &dyn Store) {
    let first = store.upsert_items(vec![item("b", "B"), item("a", "A")], Some(10), 10).await.unwrap();
    assert_eq!(first, Upserted { seq: 2, changed: 2 });
    let again = store.upsert_items(vec![item("a", "A2")], Some(20), 20).await.unwrap();
    assert_eq!(again, Upserted { seq: 3, changed: 1 });
    let asked = ["a", "zz", "b"].map(str::to_owned);
    let got = store.get_items(&asked).await.unwrap();
    assert_eq!(got[0], Some(Item { created_ms: Some(10), ..item("a", "A2") }), "created at its first upsert");
    assert!(got[1].is_none() && got[2].is_some());
    let listed = store.list_items(None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|item| &*item.id).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(store.list_items(Some("a"), 10).await.unwrap().len(), 1);
    let titles: Vec<String> = store
        .log_after(0, 10)
        .await
        .unwrap()
        .into_iter()
        .map(|row| match row.entry {
            StoredEntry::Upsert(item) => item.title.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(titles, ["B", "A", "A2"]);
}

pub(crate) async fn an_equal_item_is_not_logged_again(store: &dyn Store) {
    let attributes = serde_json::from_value(serde_json::json!({"b": 0.1, "a": [true, "x"]})).unwrap();
    let full = Item { attributes, ..item("a", "A") };
    store.upsert_items(vec![full.clone()], None, 10).await.unwrap();
    let again = store.upsert_items(vec![full.clone(), item("b", "B"), item("b", "B")], None, 20).await.unwrap();
    assert_eq!(again, Upserted { seq: 2, changed: 1 });
    assert_eq!(store.get_items(&["a".to_owned()]).await.unwrap(), [Some(full)]);
}

pub(crate) async fn deleted_items_never_come_back(store: &dyn Store) {
    store.upsert_items(vec![item("a", "A"), item("b", "B")], None, 1).await.unwrap();
    let deleted = store.delete_items(["a", "zz", "a"].map(str::to_owned).to_vec(), 2).await.unwrap();
    assert_eq!(deleted, Deleted { seq: 3, unknown: vec!["zz".to_owned(), "a".to_owned()] });
    let refused = store.upsert_items(vec![item("c", "C"), item("a", "A")], None, 3).await;
    assert!(matches!(refused, Err(Error::FailedPrecondition(_))));
    assert_eq!(store.get_items(&["a".to_owned(), "c".to_owned()]).await.unwrap(), [None, None], "all or none");
    assert_eq!(store.list_items(None, 10).await.unwrap().len(), 1);
    assert_eq!(store.counts().await.unwrap().items, 1);
}

pub(crate) async fn users_are_kept_exactly(store: &dyn Store) {
    let attributes = serde_json::from_value(serde_json::json!({"age": 24, "job": "technician"})).unwrap();
    let ann = User { id: "ann".to_owned(), attributes };
    let users = vec![ann.clone(), User { id: "Ann".to_owned(), ..User::default() }];
    assert_eq!(store.upsert_users(users.clone(), 1).await.unwrap(), 2);
    assert_eq!(store.upsert_users(users, 2).await.unwrap(), 0, "nothing differs");
    let key = UserKey::user("ann");
    append_one(store, like("1", &key, "i", 1)).await;
    let summary = store.get_user(&key).await.unwrap().unwrap();
    assert_eq!(summary, UserSummary { user: Some(ann), events: 1, version: 1 });
    assert_eq!(store.list_users(Some("Ann"), 10).await.unwrap().len(), 1);
    assert_eq!(store.get_user(&UserKey::anonymous("ann")).await.unwrap(), None);
}

pub(crate) async fn the_log_reads_in_order(store: &dyn Store) {
    let (visitor, ann) = (UserKey::anonymous("x"), UserKey::user("ann"));
    append_one(store, like("1", &visitor, "i", 1)).await;
    store.upsert_items(vec![item("i", "I")], None, 2).await.unwrap();
    store.merge_users(&visitor, &ann, 3).await.unwrap();
    store.delete_items(vec!["i".to_owned()], 4).await.unwrap();
    let rows = store.log_after(1, 2).await.unwrap();
    assert_eq!(rows.iter().map(|row| (row.seq, row.received_ms)).collect::<Vec<_>>(), [(2, 2), (3, 3)]);
    assert_eq!(rows[1].entry, StoredEntry::Merge { anonymous: visitor, user: ann });
    let last = store.log_after(3, 10).await.unwrap();
    assert_eq!(last, [LogRow { seq: 4, received_ms: 4, entry: StoredEntry::Delete("i".into()) }]);
}

pub(crate) async fn slates_read_back_bit_for_bit(store: &dyn Store) {
    let slate = |id: &str, now_ms| SlateRecord {
        slate_id: id.to_owned(),
        ranked_id: id.to_owned(),
        user: Some(UserKey::user("ann")),
        now_ms,
        query: serde_json::json!({"count": 20}),
        watermark: u64::from(u32::MAX) + 1,
        variant: "default".to_owned(),
        arms: vec![("e".to_owned(), "a".to_owned())],
        items: vec![SlateRecordItem { id: "i".to_owned(), position: 0, propensity: 0.1, score: 1.0e-7 }],
        degraded: vec!["ranker".to_owned()],
        ..SlateRecord::default()
    };
    let features = vec![f32::NAN, -0.0, 0.1, f32::MIN_POSITIVE];
    let rows = SlateRows { columns_hash: u64::MAX, items: vec!["i".to_owned()], features: features.clone() };
    let sampled = SlateRecord { rows: Some(rows), ..slate("b", 10) };
    store.put_slates(vec![slate("a", 10), sampled, slate("c", 20)]).await.unwrap();
    store.put_slates(vec![slate("a", 99)]).await.unwrap();
    assert_eq!(store.get_slate("a").await.unwrap(), Some(slate("a", 10)), "the first stays");
    let read = store.get_slate("b").await.unwrap().unwrap().rows.unwrap();
    assert_eq!(read.columns_hash, u64::MAX);
    assert_eq!(
        read.features.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
        features.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    );
    let page = store.slates_between(0, 20, Some((10, "a".to_owned())), 10).await.unwrap();
    assert_eq!(page.iter().map(|slate| slate.slate_id.as_str()).collect::<Vec<_>>(), ["b"]);
}

pub(crate) async fn repeats_are_found_through_the_slate_that_they_repeat(store: &dyn Store) {
    let (ids, ann) = (crate::ids::Ids::new(), UserKey::user("ann"));
    let ranked = SlateRecord {
        slate_id: ids.slate(1_000),
        ranked_id: ids.slate(1_000),
        user: Some(ann.clone()),
        now_ms: 1_000,
        variant: "default".to_owned(),
        ..SlateRecord::default()
    };
    let ranked_id: std::sync::Arc<str> = ranked.slate_id.as_str().into();
    let repeat = |now_ms| Repeat { slate_id: ids.slate(now_ms), ranked_id: ranked_id.clone(), now_ms };
    let repeats: Vec<Repeat> = (0..5_000).map(|at| repeat(1_001 + at)).chain([repeat(90_000_000)]).collect();
    store.put_slates(vec![ranked.clone()]).await.unwrap();
    store.put_repeats(repeats.clone()).await.unwrap();
    for repeat in [&repeats[0], &repeats[4_321], &repeats[5_000]] {
        let found = store.get_slate(&repeat.slate_id).await.unwrap().unwrap();
        let wanted = SlateRecord { slate_id: repeat.slate_id.clone(), now_ms: repeat.now_ms, ..ranked.clone() };
        assert_eq!(found, wanted);
    }
    assert_eq!(store.get_slate(&ids.slate(1_001)).await.unwrap(), None, "of that moment, but not there");
    assert_eq!(store.get_slate("another kind of id").await.unwrap(), None);
    let page = store.slates_between(0, i64::MAX, None, 10).await.unwrap();
    assert_eq!(page, [ranked], "only what was ranked");
    assert!(store.prune(0, 80_000_000).await.unwrap().repeats > 0);
    store.put_slates(vec![page[0].clone()]).await.unwrap();
    assert_eq!(store.get_slate(&repeats[0].slate_id).await.unwrap(), None);
    assert!(store.get_slate(&repeats[5_000].slate_id).await.unwrap().is_some());
    store.forget(&ann, 6).await.unwrap();
    assert_eq!(store.get_slate(&repeats[5_000].slate_id).await.unwrap(), None, "whose slate was erased");
}

pub(crate) async fn bundles_roll_back_as_a_stack(store: &dyn Store) {
    let bundle = |version: &str, created_ms| BundleRecord {
        version: version.to_owned(),
        created_ms,
        parent: String::new(),
        location: version.to_owned(),
        manifest: "{}".to_owned(),
    };
    assert_eq!(store.activations().await.unwrap(), Activations::default());
    for (n, version) in ["a", "b", "c"].iter().enumerate() {
        store.register_bundle(bundle(version, n as i64)).await.unwrap();
        store.activate_bundle(version, 1).await.unwrap();
    }
    assert!(matches!(store.activate_bundle("zz", 1).await, Err(Error::NotFound(_))));
    let versions: Vec<String> = store.list_bundles().await.unwrap().into_iter().map(|bundle| bundle.version).collect();
    assert_eq!(versions, ["c", "b", "a"]);
    let now = |serving: &str, previous: Option<&str>| Activations {
        serving: Some(serving.to_owned()),
        previous: previous.map(str::to_owned),
    };
    assert_eq!(store.activate_bundle("c", 2).await.unwrap(), now("c", Some("b")), "it serves already");
    assert_eq!(store.roll_back_bundle("c", 3).await.unwrap(), now("b", Some("a")));
    assert!(store.roll_back_bundle("c", 3).await.is_err(), "sent twice, it goes back once");
    assert_eq!(store.roll_back_bundle("b", 3).await.unwrap(), now("a", None));
    assert!(matches!(store.roll_back_bundle("a", 3).await, Err(Error::FailedPrecondition(_))));
    assert_eq!(store.activate_bundle("c", 4).await.unwrap(), now("c", Some("a")));
}

pub(crate) async fn pruning_removes_only_what_is_old(store: &dyn Store) {
    let ann = UserKey::user("ann");
    store.append_events(vec![like("old", &ann, "i", 1)], 100).await.unwrap();
    store.append_events(vec![like("new", &ann, "i", 1)], 200).await.unwrap();
    let slate = |id: &str, now_ms| SlateRecord { slate_id: id.to_owned(), now_ms, ..SlateRecord::default() };
    store.put_slates(vec![slate("old", 100), slate("new", 200)]).await.unwrap();
    assert_eq!(store.prune(200, 200).await.unwrap(), Pruned { event_ids: 1, slates: 1, repeats: 0 });
    assert!(store.get_slate("new").await.unwrap().is_some());
    assert_eq!(append_one(store, like("new", &ann, "i", 1)).await, Outcome::Duplicate);
    assert!(matches!(append_one(store, like("old", &ann, "i", 1)).await, Outcome::Accepted { seq: 3, .. }));
}

pub(crate) async fn commits_are_announced(store: &dyn Store) {
    let mut commits = store.commits();
    assert_eq!(*commits.borrow_and_update(), 0);
    append_one(store, like("1", &UserKey::user("ann"), "i", 1)).await;
    assert!(commits.has_changed().unwrap(), "before the answer");
    assert_eq!(*commits.borrow_and_update(), 1);
}

pub(crate) async fn a_closed_store_refuses(store: &dyn Store) {
    append_one(store, like("1", &UserKey::user("ann"), "i", 1)).await;
    store.close().await;
    let refused = store.append_events(vec![like("2", &UserKey::user("ann"), "i", 1)], 1).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })));
    assert!(matches!(store.log_end().await, Err(Error::Unavailable { .. })));
}
