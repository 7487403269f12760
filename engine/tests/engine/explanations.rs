//! Every item can explain itself, and a missing one too.

use marquee_engine::types::{ExplainLevel, Filter, Item, LogEntry, Missing};

use crate::sample::{ITEMS, NOW, Sample, item, profile, query};

#[test]
fn an_item_tells_its_sources_features_and_heads() {
    let sample = Sample::new(usize::MAX);
    let mut query = query(5);
    query.explain = ExplainLevel::Full;
    let slate = sample.engine.recommend(&query, &profile(&[1, 5, 9]), &sample.world, &[]);
    for item in &slate.items {
        let explanation = item.explanation.as_ref().unwrap();
        assert!(!explanation.sources.is_empty() && !item.reasons.is_empty());
        assert_eq!(explanation.features.len(), marquee_engine::Engine::columns().len());
        assert_eq!(explanation.heads, [("score".to_owned(), item.score)]);
        assert_eq!(explanation.blend, item.blend);
    }
    let linked = slate.items.iter().flat_map(|item| &item.reasons).filter_map(|reason| reason.item.as_ref());
    assert!(linked.into_iter().all(|id| ["i1", "i5", "i9"].contains(&&**id)));
}

#[test]
fn a_missing_item_names_the_stage_that_dropped_it() {
    let sample = Sample::new(usize::MAX);
    let mut builder = sample.builder();
    let hidden = Item { hidden: true, ..item(100) };
    builder.apply(1_001, &LogEntry::Upsert { item: hidden.into(), time_ms: NOW });
    builder.apply(1_002, &LogEntry::Delete { item: "i104".into() });
    let world = builder.snapshot();
    let mut query = query(5);
    query.exclude = vec!["i13".into()];
    query.filter = Filter { genres_none: vec!["Horror".into()], ..Filter::default() };
    query.explain_missing = (0..ITEMS).map(|at| format!("i{at}").into()).chain(["nowhere".into()]).collect();
    let slate = sample.engine.recommend(&query, &profile(&[1, 5, 9]), &world, &[]);
    let stage =
        |id: &str| slate.missing.iter().find(|missing| &*missing.id == id).map(|missing| missing.stage).unwrap();
    assert_eq!(stage("nowhere"), "catalogue");
    assert_eq!(stage("i104"), "catalogue");
    assert_eq!(stage("i100"), "filter:availability");
    assert_eq!(stage("i5"), "filter:seen");
    assert_eq!(stage("i13"), "filter:excluded");
    assert_eq!(stage("i2"), "filter:request");
    let count = |wanted: &str| slate.missing.iter().filter(|missing| missing.stage == wanted).count();
    assert_eq!(count("none"), 5);
    assert!(count("rank") > 0);
    let ranked: Vec<&Missing> = slate.missing.iter().filter(|missing| missing.stage == "rank").collect();
    assert!(ranked.iter().all(|missing| missing.explanation.as_ref().unwrap().heads.len() == 1));
}

#[test]
fn a_short_slate_says_which_stage_ran_dry() {
    let sample = Sample::new(usize::MAX);
    let mut query = query(5);
    query.filter = Filter { genres_any: vec!["Musical".into()], ..Filter::default() };
    let slate = sample.engine.recommend(&query, &profile(&[1]), &sample.world, &[]);
    assert!(slate.items.is_empty());
    assert!(slate.short_reason.unwrap().starts_with("filter:request"));
}
