//! Each RPC once, in the order in which an application meets them.

use marquee_proto::v1;
use tonic::{Code, Request};

use crate::harness::{Server, authorized, ids, item, items, like, of};

#[tokio::test]
async fn without_a_bundle_popular_items_answer_and_the_status_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    let empty = server.recommend(of("nobody")).await.unwrap();
    assert!(empty.results.is_empty() && !empty.short_reason.is_empty(), "{empty:?}");

    server.upsert(items(6)).await;
    server.like("ann", &["i3"]).await;
    let token = server.like("ben", &["i3"]).await;
    let request = v1::RecommendRequest { write_token: token, require_fresh: true, ..of("new") };
    let slate = server.recommend(request).await.unwrap();
    assert_eq!(ids(&slate.results).len(), 6, "{slate:?}");
    assert_eq!(slate.results[0].item_id, "i3", "{slate:?}");
    assert_eq!((slate.bundle_version.as_str(), slate.variant.as_str()), ("", "default"));
    assert_eq!(slate.slate_id, slate.ranked_id);

    let status = server.admin().get_status(authorized(v1::GetStatusRequest {})).await.unwrap().into_inner();
    assert!(status.ready && status.notes.iter().any(|note| note.starts_with("no bundle yet")), "{status:?}");
    assert_eq!((status.items, status.has_ranker), (6, false));
    server.stop().await;
}

#[tokio::test]
async fn what_was_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    let token = server.upsert(items(8)).await;
    let fresh =
        |token: String, user: &str| v1::RecommendRequest { write_token: token, require_fresh: true, ..of(user) };
    assert_eq!(server.recommend(fresh(token, "ann")).await.unwrap().results.len(), 8);

    // A liked item was seen: it leaves the very next slate.
    for liked in ["i0", "i5", "i2"] {
        let token = server.like("ann", &[liked]).await;
        let slate = server.recommend(fresh(token, "ann")).await.unwrap();
        assert!(!ids(&slate.results).contains(&liked.to_owned()), "{liked} in {slate:?}");
    }
    // New items are recommended at once; deleted and hidden ones never again.
    let token = server.upsert(vec![item("new", "drama"), v1::Item { hidden: true, ..item("i1", "comedy") }]).await;
    let slate = ids(&server.recommend(fresh(token, "ann")).await.unwrap().results);
    assert!(slate.contains(&"new".to_owned()) && !slate.contains(&"i1".to_owned()), "{slate:?}");
    let item_ids = vec!["new".to_owned(), "unknown".to_owned()];
    let delete = || v1::DeleteItemsRequest { item_ids: item_ids.clone() };
    let refused = server.catalog().delete_items(delete()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let deleted = server.catalog().delete_items(authorized(delete())).await.unwrap().into_inner();
    assert_eq!(deleted.unknown_item_ids, ["unknown"]);
    let slate = ids(&server.recommend(fresh(deleted.write_token, "ann")).await.unwrap().results);
    assert!(!slate.contains(&"new".to_owned()) && slate.len() == 4, "{slate:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_token_that_is_never_reached_degrades_or_fails() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = crate::harness::config(folder.path());
    config.ranking.fresh_wait_ms = 20;
    let server = Server::with(config).await;
    server.upsert(items(2)).await;
    let token = marquee::events::token::encode(1_000_000);
    let slate = server.recommend(v1::RecommendRequest { write_token: token.clone(), ..of("ann") }).await.unwrap();
    assert_eq!(slate.degraded.unwrap().parts[0].what, "stale_profile");
    let request = v1::RecommendRequest { write_token: token, require_fresh: true, ..of("ann") };
    let status = server.recommend(request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_repeated_slate_has_an_id_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    let token = server.upsert(items(5)).await;
    let first = server.recommend(v1::RecommendRequest { write_token: token, ..of("ann") }).await.unwrap();
    assert_eq!(first.cache_status(), v1::CacheStatus::Miss);
    let again = server.recommendations().recommend(of("ann")).await.unwrap();
    assert_eq!(again.metadata().get("x-marquee-cache").unwrap(), "hit");
    assert_eq!(again.metadata().get("x-marquee-variant").unwrap(), "default");
    let again = again.into_inner();
    assert_eq!((again.cache_status(), &again.ranked_id), (v1::CacheStatus::Hit, &first.slate_id));
    assert_ne!(again.slate_id, first.slate_id);
    assert_eq!(again.results, first.results);
    let bypassed = server.recommend(v1::RecommendRequest { bypass_cache: true, ..of("ann") }).await.unwrap();
    assert_eq!(bypassed.cache_status(), v1::CacheStatus::Bypass);
    // What the user does makes the cached slate a miss; what the operator does, too.
    let token = server.like("ann", &["i0"]).await;
    let after = server.recommend(v1::RecommendRequest { write_token: token, ..of("ann") }).await.unwrap();
    assert_eq!(after.cache_status(), v1::CacheStatus::Miss);
    server.admin().purge_cache(authorized(v1::PurgeCacheRequest::default())).await.unwrap();
    assert_eq!(server.recommend(of("ann")).await.unwrap().cache_status(), v1::CacheStatus::Miss);

    // Both answers are in the slate log, each under its id.
    let mut logged = None;
    for _ in 0..100 {
        logged = server.store.get_slate(&again.slate_id).await.unwrap();
        if logged.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let logged = logged.unwrap();
    assert_eq!((logged.ranked_id, logged.items.len()), (first.slate_id, 5));
    server.stop().await;
}

#[tokio::test]
async fn a_variant_is_chosen_by_field_or_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    server.upsert(items(3)).await;
    let slate = server.recommend(v1::RecommendRequest { variant: "popular".to_owned(), ..of("ann") }).await.unwrap();
    assert_eq!(slate.variant, "popular");
    let mut request = Request::new(of("ann"));
    request.metadata_mut().insert("x-marquee-variant", "blend".parse().unwrap());
    let answer = server.recommendations().recommend(request).await.unwrap();
    assert_eq!(answer.metadata().get("x-marquee-variant").unwrap(), "blend");
    assert_eq!(answer.into_inner().variant, "blend");
    let status = server.recommend(v1::RecommendRequest { variant: "x".to_owned(), ..of("ann") }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    for name in ["variant", "blend", "default", "popular"] {
        assert!(status.message().contains(name), "{status:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn similar_items_and_own_candidates() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    server.upsert(items(6)).await;
    let token = server.like("ann", &["i2"]).await;
    server.recommend(v1::RecommendRequest { write_token: token, ..of("ann") }).await.unwrap();

    let request = v1::SimilarItemsRequest { item_ids: vec!["i0".to_owned()], ..Default::default() };
    let similar = server.recommendations().similar_items(request).await.unwrap().into_inner();
    assert!(!similar.slate_id.is_empty() && !ids(&similar.results).contains(&"i0".to_owned()), "{similar:?}");

    let item_ids: Vec<String> = ["i1", "i2", "i3", "nobody"].iter().map(|&id| id.to_owned()).collect();
    let request = v1::RankItemsRequest { query: Some(of("ann")), item_ids, include_seen: false };
    let ranked = server.recommendations().rank_items(request.clone()).await.unwrap().into_inner();
    let mut found = ids(&ranked.results);
    found.sort();
    assert_eq!(found, ["i1", "i3"], "{ranked:?}");
    let stages: Vec<(&str, &str)> =
        ranked.missing.iter().map(|missing| (missing.item_id.as_str(), missing.stage.as_str())).collect();
    assert_eq!(stages, [("i2", "filter:seen"), ("nobody", "catalogue")]);
    let request = v1::RankItemsRequest { include_seen: true, ..request };
    let ranked = server.recommendations().rank_items(request).await.unwrap().into_inner();
    assert_eq!(ranked.results.len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn a_batch_answers_each_request_and_survives_a_bad_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    let token = server.upsert(items(4)).await;
    server.recommend(v1::RecommendRequest { write_token: token, ..of("x") }).await.unwrap();
    let bad = v1::RecommendRequest { count: 100_000, ..of("u1") };
    let requests = vec![of("u0"), bad, of("u2"), of("u0")];
    let batch = v1::RecommendBatchRequest { requests };
    let mut stream = server.recommendations().recommend_batch(batch).await.unwrap().into_inner();
    let mut answers = std::collections::BTreeMap::new();
    while let Some(answer) = stream.message().await.unwrap() {
        answers.insert(answer.index, answer.answer.unwrap());
    }
    assert_eq!(answers.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3]);
    for (index, answer) in answers {
        match answer {
            v1::recommend_batch_response::Answer::Response(response) => {
                assert!(index != 1 && response.results.len() == 4 && !response.slate_id.is_empty(), "{response:?}");
            }
            v1::recommend_batch_response::Answer::Error(error) => {
                assert_eq!((index, error.code), (1, i32::from(Code::InvalidArgument)));
                assert!(error.message.starts_with("count: "), "{error:?}");
            }
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn users_are_kept_merged_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    server.upsert(items(4)).await;
    let user = v1::User { id: "ann".to_owned(), attributes: None };
    server.users().upsert_users(v1::UpsertUsersRequest { users: vec![user] }).await.unwrap();
    let by_visitor =
        |id: &str, item: &str| v1::Event { user_id: String::new(), anonymous_id: "v".to_owned(), ..like(id, "", item) };
    let events = vec![by_visitor("1", "i0"), by_visitor("2", "i1")];
    server.events().record_events(v1::RecordEventsRequest { events }).await.unwrap();
    let merge = v1::MergeUsersRequest { anonymous_id: "v".to_owned(), user_id: "ann".to_owned() };
    let merged = server.users().merge_users(merge).await.unwrap().into_inner();
    assert_eq!(merged.events_moved, 2);
    let request = v1::RecommendRequest { write_token: merged.write_token, require_fresh: true, ..of("ann") };
    let mut slate = ids(&server.recommend(request).await.unwrap().results);
    slate.sort();
    assert_eq!(slate, ["i2", "i3"]);

    let get = || v1::GetUserRequest { user_id: "ann".to_owned(), ..Default::default() };
    let found = server.users().get_user(get()).await.unwrap().into_inner();
    assert_eq!((found.events, found.profile_events), (2, 2));
    let list = |page_token: String| v1::ListEventsRequest {
        user_id: "ann".to_owned(),
        page_size: 1,
        page_token,
        ..Default::default()
    };
    let first = server.users().list_events(list(String::new())).await.unwrap().into_inner();
    let second = server.users().list_events(list(first.next_page_token.clone())).await.unwrap().into_inner();
    assert_eq!([&first.events[0].id, &second.events[0].id], ["2", "1"]);

    let forget = || v1::ForgetUserRequest { user_id: "ann".to_owned(), ..Default::default() };
    assert_eq!(server.users().forget_user(forget()).await.unwrap_err().code(), Code::Unauthenticated);
    let forgotten = server.users().forget_user(authorized(forget())).await.unwrap().into_inner();
    assert_eq!(forgotten.events_erased, 2);
    assert!(forgotten.slates_erased >= 1, "{forgotten:?}");
    assert_eq!(server.users().get_user(get()).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(server.recommend(of("ann")).await.unwrap().results.len(), 4);
    server.stop().await;
}

#[tokio::test]
async fn the_catalogue_is_listed_in_pages() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    server.upsert(items(5)).await;
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = server.catalog().list_items(v1::ListItemsRequest { page_size: 2, page_token }).await.unwrap();
        let page = page.into_inner();
        all.extend(page.items.into_iter().map(|item| item.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(all, ["i0", "i1", "i2", "i3", "i4"]);
    let item_ids = vec!["i3".to_owned(), "x".to_owned()];
    let found = server.catalog().get_items(v1::GetItemsRequest { item_ids }).await.unwrap().into_inner();
    assert_eq!((found.items[0].title.as_str(), found.unknown_item_ids[0].as_str()), ("Film i3", "x"));
    server.stop().await;
}

#[tokio::test]
async fn a_page_ends_before_the_message_limit() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = crate::harness::config(folder.path());
    config.server.message_max_bytes = 64 * 1024;
    let server = Server::with(config).await;
    for item in items(5) {
        server.upsert(vec![v1::Item { text: "x".repeat(20_000), ..item }]).await;
    }
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = server.catalog().list_items(v1::ListItemsRequest { page_size: 5, page_token }).await.unwrap();
        let page = page.into_inner();
        assert!(page.items.len() <= 2);
        all.extend(page.items.into_iter().map(|item| item.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(all, ["i0", "i1", "i2", "i3", "i4"]);
    let status = server.catalog().get_items(v1::GetItemsRequest { item_ids: all }).await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().contains("item_ids"), "{status:?}");
    server.stop().await;
}
