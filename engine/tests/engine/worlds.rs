//! The world: new, changed and deleted items, statistics, erased users.

use std::sync::Arc;

use marquee_engine::Engine;
use marquee_engine::bundle::Bundle;
use marquee_engine::types::{DAY_MS, Item, LogEntry, Profile, Slate};
use marquee_engine::world::{Popularity, World, WorldBuilder};
use proptest::prelude::*;

use crate::sample::{ITEMS, NOW, Sample, event, item, profile, query, touch, variant};

fn upsert(item: Item, time_ms: i64) -> LogEntry {
    LogEntry::Upsert { item: Arc::new(item), time_ms }
}

fn rated(item: usize, time_ms: i64, surface: &str) -> LogEntry {
    LogEntry::Event { item: format!("i{item}").into(), touch: touch(1.0), time_ms, surface: surface.into() }
}

fn new_item() -> Item {
    Item { id: "new".into(), created_ms: None, ..item(1) }
}

/// One of many things that can happen, from a number.
fn anything(number: u32) -> LogEntry {
    let (item, time_ms) = ((number / 8) as usize % ITEMS, NOW - i64::from(number % 97) * DAY_MS / 7);
    match number % 16 {
        0 => LogEntry::Delete { item: format!("i{item}").into() },
        1 => upsert(Item { hidden: number.is_multiple_of(3), created_ms: None, ..crate::sample::item(item) }, time_ms),
        2 => upsert(Item { id: format!("new{item}").into(), created_ms: None, ..crate::sample::item(item) }, time_ms),
        3 => rated(item, time_ms, ""),
        4 => rated(item, time_ms + 10 * DAY_MS, "tv"),
        _ => rated(item, time_ms, if number.is_multiple_of(5) { "tv" } else { "home" }),
    }
}

/// What is derived from a world, down to the bits:
/// lists of popular rows with their scores, percentiles, arrivals with their rows, and how many rows there are.
type Derived = (Vec<Vec<(u32, u32)>>, Vec<u32>, Vec<(i64, u32)>, usize);

fn derived(world: &World) -> Derived {
    let surfaces = ["home", "tv"].into_iter().filter_map(|name| world.surface(name)).map(Popularity::Surface);
    let kinds = [Popularity::Ever].into_iter().chain((0..4).map(Popularity::HalfLife)).chain(surfaces);
    let list = |by| world.popular(by).iter().map(|&(row, score)| (row, score.to_bits())).collect();
    let percentiles = (0..40).map(|events| world.percentile(events).to_bits()).collect();
    (kinds.map(list).collect(), percentiles, world.arrivals(NOW).collect(), world.len())
}

fn world(sample: &Sample, entries: &[LogEntry]) -> World {
    let mut builder = sample.builder();
    (1_001..).zip(entries).for_each(|(seq, entry)| builder.apply(seq, entry));
    builder.snapshot()
}

fn has(slate: &Slate, id: &str) -> bool {
    slate.items.iter().any(|item| &*item.id == id)
}

#[test]
fn a_new_item_is_recommended_as_soon_as_it_is_there() {
    let sample = Sample::new(usize::MAX);
    let mut query = query(100);
    query.variant = variant(false);
    let before = sample.engine.recommend(&query, &profile(&[1, 5, 9]), &sample.world, &[]);
    let world = world(&sample, &[upsert(new_item(), NOW - 1_000)]);
    let after = sample.engine.recommend(&query, &profile(&[1, 5, 9]), &world, &[]);
    assert!(!has(&before, "new") && has(&after, "new"));
    assert_eq!(world.watermark(), 1_001);
}

#[test]
fn deleted_hidden_and_expired_items_are_gone() {
    let sample = Sample::new(usize::MAX);
    let hidden = Item { hidden: true, ..item(5) };
    let expired = Item { available_until_ms: Some(NOW), ..item(9) };
    let early = Item { available_from_ms: Some(NOW + 1), ..item(13) };
    let delete = LogEntry::Delete { item: "i1".into() };
    let world = world(&sample, &[upsert(hidden, NOW), upsert(expired, NOW), upsert(early, NOW), delete]);
    let mut query = query(ITEMS);
    query.candidates = Some((0..ITEMS).map(|at| format!("i{at}").into()).collect());
    let slate = sample.engine.recommend(&query, &Profile::default(), &world, &[]);
    assert!(["i1", "i5", "i9", "i13"].iter().all(|id| !has(&slate, id)));
    assert_eq!((slate.items.len(), world.len()), (ITEMS - 4, ITEMS - 1));
}

#[test]
fn an_item_of_a_later_world_takes_its_new_words() {
    let sample = Sample::new(usize::MAX);
    let western = Item { genres: item(3).genres, cast: item(3).cast, title: item(3).title, ..item(0) };
    let world = world(&sample, &[upsert(western, NOW)]);
    let mut query = query(10);
    query.variant = {
        let mut only = (*variant(false)).clone();
        only.sources.retain(|name, _| name == "content");
        Arc::new(only)
    };
    let slate = sample.engine.recommend(&query, &profile(&[3]), &world, &[]);
    assert_eq!(&*slate.items[0].id, "i0");
}

#[test]
fn events_move_popularity_on_their_surface() {
    let sample = Sample::new(usize::MAX);
    let events: Vec<LogEntry> = (0..400).map(|at| rated(200, NOW - DAY_MS + at, "kids")).collect();
    let world = world(&sample, &events);
    let mut query = query(1);
    query.variant = {
        let mut only = (*variant(false)).clone();
        only.sources.retain(|name, _| name == "popular");
        Arc::new(only)
    };
    query.surface = "kids".into();
    let on_kids = sample.engine.recommend(&query, &Profile::default(), &world, &[]);
    assert_eq!(&*on_kids.items[0].id, "i200");
    assert_eq!(on_kids.items[0].propensity, 1.0);
}

#[test]
fn after_years_without_events_a_stranger_still_gets_what_was_popular() {
    let sample = Sample::new(usize::MAX);
    let world = world(&sample, &[rated(200, NOW + 10_000 * DAY_MS, "home")]);
    for name in ["popular", "popular_day"] {
        let mut query = query(10);
        query.now_ms = NOW + 10_000 * DAY_MS;
        query.variant = {
            let mut only = (*variant(false)).clone();
            let plan = only.sources["popular"];
            only.sources = [(name.to_owned(), plan)].into_iter().collect();
            Arc::new(only)
        };
        let slate = sample.engine.recommend(&query, &Profile::default(), &world, &[]);
        assert_eq!((slate.items.len(), &*slate.items[0].id), (10, "i200"), "{name}: {:?}", slate.short_reason);
    }
}

#[test]
fn an_erased_user_no_longer_counts_as_a_neighbour() {
    let sample = Sample::new(usize::MAX);
    let forget = |user: usize| LogEntry::Forget { user_hash: marquee_engine::types::id_hash(&format!("u:{user}")) };
    let all: Vec<LogEntry> = (0..crate::sample::USERS).map(forget).collect();
    let world = world(&sample, &all);
    let mut query = query(10);
    query.variant = {
        let mut only = (*variant(false)).clone();
        only.sources.retain(|name, _| name == "user_neighbours");
        Arc::new(only)
    };
    let ask = |world: &World| sample.engine.recommend(&query, &profile(&[1, 5, 9]), world, &[]).items.len();
    assert_eq!((ask(&sample.world), ask(&world)), (10, 0));
}

#[test]
fn without_a_bundle_popular_and_fresh_items_answer() {
    let bundle = Arc::new(Bundle::empty());
    let mut builder = WorldBuilder::new(bundle.clone());
    let entries =
        (0..5).map(|at| upsert(item(at), NOW - DAY_MS)).chain([rated(3, NOW, "home"), rated(77, NOW, "home")]);
    (1..).zip(entries).for_each(|(seq, entry)| builder.apply(seq, &entry));
    let world = builder.snapshot();
    let slate = Engine::new(bundle).recommend(&query(10), &Profile::default(), &world, &[]);
    assert_eq!((slate.items.len(), &*slate.items[0].id), (5, "i3"));
    assert!(!slate.ranked && slate.degraded[0].what == "ranker" && slate.degraded[0].why == "no bundle yet");
    assert!(slate.short_reason.is_some());
}

#[test]
fn an_empty_catalogue_says_so() {
    let bundle = Arc::new(Bundle::empty());
    let world = WorldBuilder::new(bundle.clone()).snapshot();
    let slate = Engine::new(bundle).recommend(&query(10), &Profile::default(), &world, &[]);
    assert_eq!(slate.short_reason.unwrap(), "catalogue: there is no item");
}

#[test]
fn a_world_of_another_bundle_is_refused() {
    let sample = Sample::new(usize::MAX);
    let world = WorldBuilder::new(Arc::new(Bundle::empty())).snapshot();
    let slate = sample.engine.recommend(&query(10), &Profile::default(), &world, &[]);
    assert!(slate.items.is_empty() && slate.degraded[0].what == "bundle");
}

#[test]
fn what_a_user_does_now_changes_the_next_slate() {
    let sample = Sample::new(usize::MAX);
    let before = profile(&[1]);
    let mut after = before.clone();
    after.events.push(event(2, NOW - 1));
    let ask = |profile: &Profile| sample.engine.recommend(&query(20), profile, &sample.world, &[]);
    let ids = |slate: Slate| slate.items.iter().map(|item| item.id.clone()).collect::<Vec<_>>();
    assert_ne!(ids(ask(&before)), ids(ask(&after)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn what_is_derived_does_not_depend_on_when_snapshots_were_taken(
        numbers in prop::collection::vec(any::<u32>(), 1..80),
        asked in any::<u64>(),
    ) {
        static SAMPLE: std::sync::LazyLock<Sample> = std::sync::LazyLock::new(|| Sample::new(usize::MAX));
        let sample = &*SAMPLE;
        let mut stepwise = sample.builder();
        for (at, &number) in numbers.iter().enumerate() {
            stepwise.apply(1_001 + at as u64, &anything(number));
            // Some snapshots are taken, and some of these are asked: lists go from one to the next.
            if asked >> (at % 32) & 1 == 1 {
                let world = stepwise.snapshot();
                if asked >> (32 + at % 32) & 1 == 1 {
                    derived(&world);
                }
            }
        }
        let entries: Vec<LogEntry> = numbers.iter().map(|&number| anything(number)).collect();
        prop_assert_eq!(derived(&stepwise.snapshot()), derived(&world(sample, &entries)));
    }

    #[test]
    fn the_order_of_events_within_the_watermark_does_not_matter(
        events in prop::collection::vec((0..ITEMS, 0_i64..200), 1..80), turn in 0_usize..80,
    ) {
        static SAMPLE: std::sync::LazyLock<Sample> = std::sync::LazyLock::new(|| Sample::new(usize::MAX));
        let entries: Vec<LogEntry> =
            events.iter().map(|&(item, day)| rated(item, NOW - day * DAY_MS / 7, "home")).collect();
        let mut turned = entries.clone();
        let turn = turn % turned.len();
        turned.rotate_left(turn);
        turned.reverse();
        let slates = [entries, turned].map(|entries| {
            let slate = SAMPLE.engine.recommend(&query(40), &profile(&[2, 6]), &world(&SAMPLE, &entries), &[]);
            slate.items.iter().map(|item| (item.id.clone(), item.score.to_bits())).collect::<Vec<_>>()
        });
        prop_assert_eq!(&slates[0], &slates[1]);
    }
}
