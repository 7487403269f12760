use marquee_proto::v1;
use prost::Message;

use super::*;
use crate::traffic::Written;

const ANN: u32 = 7;

fn results(items: &[&str]) -> Vec<v1::Result> {
    let result = |id: &&str| v1::Result {
        item_id: (*id).to_owned(),
        score: 0.5,
        reasons: vec![v1::Reason { kind: "popular".to_owned(), ..Default::default() }],
        ..Default::default()
    };
    items.iter().map(result).collect()
}

fn slate(items: &[&str]) -> v1::RecommendResponse {
    v1::RecommendResponse {
        slate_id: "s".to_owned(),
        results: results(items),
        cache_status: v1::CacheStatus::Miss.into(),
        ..Default::default()
    }
}

fn asked(count: u32, memory: &Memory) -> Asked {
    Asked { count, user: Some(ANN), seen: memory.seen(ANN) }
}

#[track_caller]
fn check(kind: Kind, expect: &Expect, answer: &impl Message, memory: &mut Memory) -> Verdict {
    let bytes = answer.encode_to_vec();
    Checker::default().check(kind, expect, [bytes.as_slice()].into_iter(), memory)
}

/// Ann likes this, and the server says that it knows.
fn like(item: &str, memory: &mut Memory) {
    let written = Expect::Written(vec![Written { user: Some(ANN), item: hash(item.as_bytes()) }]);
    let answer = v1::RecordEventsResponse {
        results: vec![v1::EventResult { status: v1::EventStatus::Accepted.into(), ..Default::default() }],
        write_token: "t1".to_owned(),
    };
    assert_eq!(check(Kind::RecordEvents, &written, &answer, memory), Verdict::default());
}

#[test]
fn a_good_slate_is_good_and_says_what_it_is() {
    let mut memory = Memory::default();
    let expect = Expect::Slate(asked(3, &memory));
    assert_eq!(check(Kind::Recommend, &expect, &slate(&["a", "b", "c"]), &mut memory), Verdict::default());
    let mut hit = slate(&["a", "b", "c"]);
    hit.cache_status = v1::CacheStatus::Hit.into();
    hit.degraded = Some(v1::Degraded::default());
    let verdict = check(Kind::Recommend, &expect, &hit, &mut memory);
    assert_eq!(verdict, Verdict { degraded: true, cached: true, violation: None });
}

#[test]
fn an_item_twice_is_caught() {
    let mut memory = Memory::default();
    let expect = Expect::Slate(asked(3, &memory));
    let verdict = check(Kind::Recommend, &expect, &slate(&["a", "b", "a"]), &mut memory);
    assert_eq!(verdict.violation, Some(Violation::Duplicate));
    let similar = v1::SimilarItemsResponse { results: results(&["a", "a", "b"]), ..Default::default() };
    assert_eq!(check(Kind::Similar, &expect, &similar, &mut memory).violation, Some(Violation::Duplicate));
}

#[test]
fn a_short_slate_needs_a_reason_and_a_long_one_has_none() {
    let mut memory = Memory::default();
    let expect = Expect::Slate(asked(3, &memory));
    let mut short = slate(&["a", "b"]);
    assert_eq!(check(Kind::Recommend, &expect, &short, &mut memory).violation, Some(Violation::Count));
    short.short_reason = "retrieval ran dry".to_owned();
    assert_eq!(check(Kind::Recommend, &expect, &short, &mut memory).violation, None);
    let long = slate(&["a", "b", "c", "d"]);
    assert_eq!(check(Kind::Recommend, &expect, &long, &mut memory).violation, Some(Violation::Count));
}

#[test]
fn a_seen_item_is_caught_once_its_event_was_acknowledged() {
    let mut memory = Memory::default();
    let before = Expect::Slate(asked(2, &memory));
    like("b", &mut memory);
    let after = Expect::Slate(asked(2, &memory));
    let answer = slate(&["a", "b"]);
    assert_eq!(check(Kind::Recommend, &before, &answer, &mut memory).violation, None, "asked before the answer came");
    assert_eq!(check(Kind::Recommend, &after, &answer, &mut memory).violation, Some(Violation::Seen));
    assert_eq!(check(Kind::Recommend, &after, &slate(&["a", "c"]), &mut memory).violation, None);
    assert_eq!(memory.token(ANN), Some("t1"));
}

#[test]
fn a_slate_that_says_that_its_profile_may_be_stale_may_repeat_what_was_seen_and_no_other() {
    let mut memory = Memory::default();
    like("b", &mut memory);
    let expect = Expect::Slate(asked(2, &memory));
    let mut told = |what: &str| {
        let part = v1::Degradation { what: what.to_owned(), why: "it is gone".to_owned() };
        let other = v1::Degradation { what: "cache".to_owned(), ..Default::default() };
        let answer =
            v1::RecommendResponse { degraded: Some(v1::Degraded { parts: vec![other, part] }), ..slate(&["a", "b"]) };
        check(Kind::Recommend, &expect, &answer, &mut memory)
    };
    for what in ["stale_profile", "profile"] {
        assert_eq!(told(what), Verdict { degraded: true, ..Verdict::default() });
    }
    for what in ["ranker", "profiles", ""] {
        assert_eq!(told(what).violation, Some(Violation::Seen), "{what}");
    }
}

#[test]
fn every_candidate_of_a_ranking_is_accounted_for() {
    let mut memory = Memory::default();
    let expect = Expect::Ranking(asked(20, &memory), 3);
    let mut answer = v1::RankItemsResponse { results: results(&["a", "b"]), ..Default::default() };
    assert_eq!(check(Kind::Rank, &expect, &answer, &mut memory).violation, Some(Violation::Count));
    answer.missing =
        vec![v1::Missing { item_id: "c".to_owned(), stage: "filter:seen".to_owned(), ..Default::default() }];
    assert_eq!(check(Kind::Rank, &expect, &answer, &mut memory), Verdict::default());
}

#[test]
fn a_batch_answers_each_request_once() {
    let mut memory = Memory::default();
    let expect = Expect::Slates(vec![asked(1, &memory), asked(1, &memory)]);
    let part = |index, items: &[&str]| {
        let answer = Some(v1::recommend_batch_response::Answer::Response(slate(items)));
        v1::RecommendBatchResponse { index, answer }.encode_to_vec()
    };
    let mut check = |parts: &[Vec<u8>]| {
        let parts = parts.iter().map(Vec::as_slice);
        Checker::default().check(Kind::RecommendBatch, &expect, parts, &mut memory).violation
    };
    assert_eq!(check(&[part(1, &["a"]), part(0, &["b"])]), None);
    assert_eq!(check(&[part(1, &["a"])]), Some(Violation::Count));
    assert_eq!(check(&[part(1, &["a"]), part(1, &["b"])]), Some(Violation::Duplicate));
    assert_eq!(check(&[part(0, &["a"]), part(2, &["b"])]), Some(Violation::Count));
    assert_eq!(check(&[part(0, &["a"]), part(1, &["b", "c"])]), Some(Violation::Count));
}

#[test]
fn a_refused_event_and_an_unreadable_answer_are_caught() {
    let mut memory = Memory::default();
    let written = Expect::Written(vec![Written { user: Some(ANN), item: 1 }]);
    let refused = v1::RecordEventsResponse {
        results: vec![v1::EventResult { status: v1::EventStatus::Rejected.into(), ..Default::default() }],
        write_token: String::new(),
    };
    assert_eq!(check(Kind::RecordEvents, &written, &refused, &mut memory).violation, Some(Violation::Rejected));
    assert_eq!(memory.seen(ANN), 0);
    let expect = Expect::Slate(asked(1, &memory));
    let bytes = slate(&["a"]).encode_to_vec();
    let cut = &bytes[..bytes.len() - 1];
    let verdict = Checker::default().check(Kind::Recommend, &expect, [cut].into_iter(), &mut memory);
    assert_eq!(verdict.violation, Some(Violation::Unreadable));
}
