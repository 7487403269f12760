//! Bad input is refused with the field and the rule; nothing that a caller sends ends the process.

use marquee_proto::v1;
use prost_types::Timestamp;
use tonic::{Code, Status};

use crate::harness::{Server, item, like, of};

#[track_caller]
fn names(status: &Status, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().starts_with(&format!("{field}: ")), "{field}: {status:?}");
}

#[tokio::test]
async fn bad_questions_are_refused_by_field() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    let long = "x".repeat(10_240);
    let recommend = v1::RecommendRequest::default;
    let cases = [
        ("count", v1::RecommendRequest { count: 100_000, ..recommend() }),
        ("user_id", v1::RecommendRequest { user_id: long.clone(), ..recommend() }),
        ("anonymous_id", v1::RecommendRequest { user_id: "a".to_owned(), anonymous_id: "b".to_owned(), ..recommend() }),
        ("diversity", v1::RecommendRequest { diversity: f64::INFINITY, ..recommend() }),
        ("promotions", v1::RecommendRequest { promotions: vec![v1::Promotion::default()], ..recommend() }),
        ("page_token", v1::RecommendRequest { page_token: "garbage".to_owned(), ..recommend() }),
        ("write_token", v1::RecommendRequest { write_token: "garbage".to_owned(), ..recommend() }),
        ("variant", v1::RecommendRequest { variant: "nobody".to_owned(), ..recommend() }),
    ];
    for (field, request) in cases {
        names(&server.recommend(request).await.unwrap_err(), field);
    }
    let status = server.recommend(v1::RecommendRequest { count: 100_000, ..recommend() }).await.unwrap_err();
    assert!(status.message().contains("limits.count_max (500)"), "{status:?}");

    let similar = v1::SimilarItemsRequest::default();
    names(&server.recommendations().similar_items(similar).await.unwrap_err(), "item_ids");
    let rank = v1::RankItemsRequest { item_ids: vec![long; 1], ..Default::default() };
    names(&server.recommendations().rank_items(rank).await.unwrap_err(), "item_ids[0]");
    let list = v1::ListItemsRequest { page_token: "garbage".to_owned(), ..Default::default() };
    names(&server.catalog().list_items(list).await.unwrap_err(), "page_token");
    let list = v1::ListItemsRequest { page_size: -1, ..Default::default() };
    names(&server.catalog().list_items(list).await.unwrap_err(), "page_size");
    let events = v1::ListEventsRequest { user_id: "a".to_owned(), page_token: "l1.x".to_owned(), ..Default::default() };
    names(&server.users().list_events(events).await.unwrap_err(), "page_token");
    let merge = v1::MergeUsersRequest { user_id: "a".to_owned(), ..Default::default() };
    names(&server.users().merge_users(merge).await.unwrap_err(), "anonymous_id");
    server.stop().await;
}

#[tokio::test]
async fn bad_items_are_refused_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    let not_a_number = prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(f64::NAN)) };
    let attributes = Some(prost_types::Struct { fields: [("a".to_owned(), not_a_number)].into() });
    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let cases = [
        ("items[1].id", v1::Item { id: String::new(), ..item("x", "drama") }),
        ("items[1].id", v1::Item { id: "x".repeat(10_240), ..item("x", "drama") }),
        ("items[1].year", v1::Item { year: 10_000, ..item("x", "drama") }),
        ("items[1].attributes", v1::Item { attributes, ..item("x", "drama") }),
        ("items[1].available_from", v1::Item { available_from: time(i64::MAX), ..item("x", "drama") }),
        ("items[1].title", v1::Item { title: "t".repeat(2_000), ..item("x", "drama") }),
    ];
    for (field, bad) in cases {
        let items = vec![item("good", "drama"), bad];
        let status = server.catalog().upsert_items(v1::UpsertItemsRequest { items }).await.unwrap_err();
        names(&status, field);
    }
    let item_ids = vec!["good".to_owned()];
    let found = server.catalog().get_items(v1::GetItemsRequest { item_ids }).await.unwrap().into_inner();
    assert!(found.items.is_empty(), "all or none");
    server.stop().await;
}

#[tokio::test]
async fn bad_events_are_rejected_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let rating = |value| v1::Event { r#type: v1::EventType::Rating.into(), value: Some(value), ..like("r", "u", "i") };
    let events = vec![
        like("good", "u", "unknown-item"),
        like("", "u", "i"),
        like(&"x".repeat(10_240), "u", "i"),
        like("2", "", "i"),
        v1::Event { anonymous_id: "b".to_owned(), ..like("3", "u", "i") },
        like("4", "u", ""),
        rating(f64::NAN),
        rating(f64::INFINITY),
        v1::Event { time: time(-62_135_596_800), ..like("7", "u", "i") },
        v1::Event { time: time(253_402_300_799), ..like("8", "u", "i") },
        v1::Event { r#type: 99, ..like("9", "u", "i") },
        v1::Event { position: Some(-1), ..like("10", "u", "i") },
    ];
    let answer = server.events().record_events(v1::RecordEventsRequest { events }).await.unwrap().into_inner();
    let fields: Vec<&str> = answer.results.iter().map(|result| result.field.as_str()).collect();
    let expected =
        ["", "id", "id", "user_id", "anonymous_id", "item_id", "value", "value", "time", "time", "type", "position"];
    assert_eq!(fields, expected, "{answer:?}");
    assert_eq!(answer.results[0].status(), v1::EventStatus::Accepted, "an unknown item is kept");
    assert!(
        answer.results[1..]
            .iter()
            .all(|result| result.status() == v1::EventStatus::Rejected && !result.rule.is_empty())
    );
    server.stop().await;
}

#[tokio::test]
async fn a_filter_that_excludes_everything_says_which_stage_emptied_the_slate() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    let token = server.upsert(crate::harness::items(5)).await;
    let filter = Some(v1::Filter { genres_any: vec!["nobody's".to_owned()], ..Default::default() });
    let slate = server.recommend(v1::RecommendRequest { filter, write_token: token, ..of("ann") }).await.unwrap();
    assert!(slate.results.is_empty() && slate.short_reason.starts_with("filter:request"), "{slate:?}");
    server.stop().await;
}
