//! What holds for every slate.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, LazyLock};

use marquee_engine::types::{Filter, Profile, Query, Record, Slate, id_hash};
use proptest::prelude::*;

use crate::sample::{ITEMS, Sample, profile, query, variant};

/// Scanned exactly, and walked through the graph.
static SAMPLES: LazyLock<[Sample; 2]> = LazyLock::new(|| [Sample::new(usize::MAX), Sample::new(0)]);

fn ids(slate: &Slate) -> Vec<Arc<str>> {
    slate.items.iter().map(|item| item.id.clone()).collect()
}

fn ask(sample: &Sample, query: &Query, profile: &Profile) -> Slate {
    sample.engine.recommend(query, profile, &sample.world, &[])
}

/// Everything of a slate that is a number or an id, bit for bit.
fn bits(slate: &Slate) -> Vec<(Arc<str>, u32, u32)> {
    slate.items.iter().map(|item| (item.id.clone(), item.score.to_bits(), item.blend.to_bits())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn nothing_seen_excluded_or_filtered_comes_through(
        history in prop::collection::vec(0..ITEMS, 0..60),
        exclude in prop::collection::vec(0..ITEMS, 0..60),
        min in 1980_u16..2010, walk in any::<bool>(), ranked in any::<bool>(),
    ) {
        let sample = &SAMPLES[usize::from(walk)];
        let mut query = query(50);
        query.variant = variant(ranked);
        query.exclude = exclude.iter().map(|item| format!("i{item}").into()).collect();
        query.filter = Filter { year_min: Some(min), genres_none: vec!["SHORT".into()], ..Filter::default() };
        let slate = ask(sample, &query, &profile(&history));
        let found: HashSet<String> = slate.items.iter().map(|item| item.id.to_string()).collect();
        prop_assert_eq!(found.len(), slate.items.len(), "an item stands twice");
        for item in history.iter().chain(&exclude) {
            let id = format!("i{item}");
            prop_assert!(!found.contains(&id));
        }
        for id in &found {
            let item = sample.world.item(id).unwrap();
            prop_assert!(item.year.unwrap() >= min && item.genres.iter().all(|genre| genre != "Short"));
        }
        prop_assert!(slate.items.iter().all(|item| item.score.is_finite()));
        prop_assert!(slate.items.windows(2).all(|pair| pair[0].score >= pair[1].score));
    }

    #[test]
    fn pages_never_repeat_an_item(history in prop::collection::vec(0..ITEMS, 0..30), count in 1_usize..30, walk in any::<bool>()) {
        let sample = &SAMPLES[usize::from(walk)];
        let (mut query, profile) = (query(count), profile(&history));
        let mut shown: HashSet<Arc<str>> = HashSet::new();
        for _ in 0..5 {
            for id in ids(&ask(sample, &query, &profile)) {
                query.shown.push(id_hash(&id));
                prop_assert!(shown.insert(id));
            }
        }
    }

    #[test]
    fn a_score_does_not_depend_on_the_other_candidates(
        history in prop::collection::vec(0..ITEMS, 0..30),
        mut brought in prop::collection::vec(0..ITEMS, 1..40), turn in 0_usize..40, walk in any::<bool>(),
    ) {
        let sample = &SAMPLES[usize::from(walk)];
        let profile = profile(&history);
        let scores = |brought: &[usize]| -> BTreeMap<Arc<str>, u32> {
            let mut query = query(ITEMS);
            query.candidates = Some(brought.iter().map(|item| format!("i{item}").into()).collect());
            ask(sample, &query, &profile).items.iter().map(|item| (item.id.clone(), item.score.to_bits())).collect()
        };
        let all = scores(&brought);
        let turn = turn % brought.len();
        brought.rotate_left(turn);
        prop_assert_eq!(&all, &scores(&brought));
        for (id, score) in scores(&brought[..brought.len().div_ceil(2)]) {
            prop_assert_eq!(all[&id], score);
        }
        for item in ask(sample, &query(100), &profile).items {
            if let Some(score) = all.get(&item.id) {
                prop_assert_eq!(*score, item.score.to_bits());
            }
        }
    }
}

#[test]
fn the_same_question_gives_the_same_slate_on_one_and_two_threads() {
    for sample in SAMPLES.iter() {
        let profiles: Vec<Profile> = (0..20).map(|at| profile(&[at, at + 40, at * 3 + 1])).collect();
        let run = || profiles.iter().map(|profile| bits(&ask(sample, &query(30), profile))).collect::<Vec<_>>();
        let alone = run();
        let (a, b) = std::thread::scope(|scope| {
            let threads = (scope.spawn(run), scope.spawn(run));
            (threads.0.join().unwrap(), threads.1.join().unwrap())
        });
        assert!(alone == a && alone == b);
    }
}

#[test]
fn the_graph_finds_what_the_scan_finds() {
    let mut same = 0;
    for at in 0..20 {
        let profile = profile(&[at, at + 4, at + 8]);
        let [exact, walked] = [0, 1].map(|sample| ids(&ask(&SAMPLES[sample], &query(20), &profile)));
        same += walked.iter().filter(|id| exact.contains(id)).count();
    }
    assert!(same >= 392, "{same} of 400");
}

#[test]
fn a_taste_is_answered_with_its_like() {
    let sample = &SAMPLES[0];
    let mut query = query(20);
    query.variant = variant(false);
    let slate = ask(sample, &query, &profile(&[1, 5, 9, 13, 17]));
    let of_taste = slate.items.iter().filter(|item| item.id[1..].parse::<usize>().unwrap() % 4 == 1).count();
    assert!(of_taste >= 15, "{of_taste} of 20");
}

#[test]
fn a_slate_longer_than_the_budgets_is_filled_up() {
    let mut query = query(ITEMS);
    query.variant = variant(false);
    let slate = ask(&SAMPLES[0], &query, &Profile::default());
    assert_eq!(slate.items.len(), query.variant.candidates_max_items);
}

#[test]
fn a_stranger_gets_what_is_popular() {
    let slate = ask(&SAMPLES[0], &query(20), &Profile::default());
    assert_eq!(slate.items.len(), 20);
    assert!(slate.ranked && slate.degraded.is_empty());
}

#[test]
fn head_weights_that_name_no_head_leave_the_order_to_the_blend_and_say_so() {
    let mut query = query(10);
    let mut recipe = (*query.variant).clone();
    recipe.head_weights = [("click".to_owned(), 1.0)].into();
    query.variant = Arc::new(recipe);
    let slate = ask(&SAMPLES[0], &query, &profile(&[1, 5]));
    assert!(!slate.ranked && slate.degraded[0].why.contains("score"));
}

#[test]
fn less_effort_asks_for_fewer_candidates() {
    let (mut query, profile) = (query(10), profile(&[1, 5, 9]));
    let full = ask(&SAMPLES[0], &query, &profile);
    query.effort = 0.2;
    let little = ask(&SAMPLES[0], &query, &profile);
    assert!(little.funnel.candidates < full.funnel.candidates);
    assert_eq!(little.items.len(), 10);
}

#[test]
fn rows_hold_every_ranked_candidate() {
    let mut query = query(10);
    query.record = Record { rows: true, hits: true };
    let slate = ask(&SAMPLES[0], &query, &profile(&[1, 5, 9]));
    let rows = slate.rows.unwrap();
    assert_eq!(rows.features.len(), rows.items.len() * marquee_engine::Engine::columns().len());
    assert!(rows.items.len() == slate.funnel.eligible as usize && !slate.hits.is_empty());
    let at = rows.items.iter().position(|id| *id == slate.items[0].id).unwrap();
    assert_eq!(rows.scores[at].to_bits(), slate.items[0].score.to_bits());
}

#[test]
fn similar_items_leave_out_themselves_and_what_was_seen() {
    let sample = &SAMPLES[0];
    let of: Vec<Arc<str>> = vec!["i1".into(), "i5".into()];
    let slate = sample.engine.similar(&of, &query(30), &profile(&[9]), &sample.world);
    let found = ids(&slate);
    assert!(found.len() >= 20, "{}", found.len());
    assert!(["i1", "i5", "i9"].iter().all(|id| !found.contains(&Arc::from(*id))));
}
