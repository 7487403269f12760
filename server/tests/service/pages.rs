//! Pages never repeat an item, whatever happens between them.

use std::collections::HashSet;

use marquee_proto::v1;

use crate::harness::{Server, ids, item, items, of};

#[tokio::test]
async fn pages_never_repeat_an_item_although_the_world_moves() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    let token = server.upsert(items(40)).await;
    server.recommend(v1::RecommendRequest { write_token: token, ..of("x") }).await.unwrap();
    let (mut shown, mut page_token) = (Vec::new(), String::new());
    for page in 0..20 {
        let request = v1::RecommendRequest { count: 7, page_token, ..of("ann") };
        let slate = server.recommend(request).await.unwrap();
        shown.extend(ids(&slate.results));
        page_token = slate.next_page_token;
        if page_token.is_empty() {
            break;
        }
        // Popularity changes and new items arrive between two pages.
        server.like("other", &[&format!("i{}", 39 - page)]).await;
        server.upsert(vec![item(&format!("late{page}"), "drama")]).await;
    }
    let different: HashSet<&String> = shown.iter().collect();
    assert_eq!(different.len(), shown.len(), "{shown:?}");
    assert!(shown.len() >= 40, "{shown:?}");
    server.stop().await;
}

#[tokio::test]
async fn pages_end_at_the_depth() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = crate::harness::config(folder.path());
    config.limits.page_depth_max_items = 10;
    let server = Server::with(config).await;
    let token = server.upsert(items(30)).await;
    let first = server.recommend(v1::RecommendRequest { count: 7, write_token: token, ..of("ann") }).await.unwrap();
    let request = v1::RecommendRequest { count: 7, page_token: first.next_page_token, ..of("ann") };
    let second = server.recommend(request).await.unwrap();
    assert_eq!((first.results.len(), second.results.len()), (7, 3));
    assert_eq!(second.next_page_token, "");
    server.stop().await;
}

#[tokio::test]
async fn a_page_token_is_of_its_own_request_alone() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    let token = server.upsert(items(30)).await;
    let first = server.recommend(v1::RecommendRequest { count: 5, write_token: token, ..of("ann") }).await.unwrap();
    let page_token = first.next_page_token;
    assert!(!page_token.is_empty());
    for request in [
        v1::RecommendRequest { page_token: page_token.clone(), ..of("ben") },
        v1::RecommendRequest { page_token: page_token.clone(), variant: "popular".to_owned(), ..of("ann") },
        v1::RecommendRequest { page_token: format!("{page_token}A"), ..of("ann") },
    ] {
        let status = server.recommend(request).await.unwrap_err();
        assert!(status.message().starts_with("page_token: "), "{status:?}");
    }
    server.recommend(v1::RecommendRequest { page_token, count: 3, ..of("ann") }).await.unwrap();
    server.stop().await;
}
