//! Events: idempotent, in batches and streams.

use marquee_proto::v1;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::harness::{Server, items, like};

fn statuses(results: &[v1::EventResult]) -> Vec<v1::EventStatus> {
    results.iter().map(v1::EventResult::status).collect()
}

#[tokio::test]
async fn an_event_id_counts_once() {
    use v1::EventStatus::{Accepted, Duplicate};
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    server.upsert(items(3)).await;
    let record =
        async |events| server.events().record_events(v1::RecordEventsRequest { events }).await.unwrap().into_inner();
    let first = record(vec![like("a", "u", "i0"), like("b", "u", "i1"), like("a", "u", "i2")]).await;
    assert_eq!(statuses(&first.results), [Accepted, Accepted, Duplicate]);
    let again = record(vec![like("b", "u", "i2"), like("c", "u", "i2")]).await;
    assert_eq!(statuses(&again.results), [Duplicate, Accepted]);
    assert!(!again.write_token.is_empty());
    let too_many = (0..1_001).map(|id| like(&id.to_string(), "u", "i0")).collect();
    let status = server.events().record_events(v1::RecordEventsRequest { events: too_many }).await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().starts_with("events: "), "{status:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_stream_is_acknowledged_message_by_message() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    server.upsert(items(3)).await;
    let (sender, messages) = tokio::sync::mpsc::channel(4);
    let mut acks = server.events().stream_events(ReceiverStream::new(messages)).await.unwrap().into_inner();
    for sequence in 0..20_u64 {
        let events = vec![like(&format!("e{sequence}"), "u", "i0"), like("same", "u", "i1")];
        sender.send(v1::StreamEventsRequest { sequence, events }).await.unwrap();
        let ack = acks.message().await.unwrap().unwrap();
        assert_eq!(ack.sequence, sequence);
        let second = if sequence == 0 { v1::EventStatus::Accepted } else { v1::EventStatus::Duplicate };
        assert_eq!(statuses(&ack.results), [v1::EventStatus::Accepted, second]);
    }
    drop(sender);
    assert!(acks.message().await.unwrap().is_none());
    let user = v1::GetUserRequest { user_id: "u".to_owned(), ..Default::default() };
    assert_eq!(server.users().get_user(user).await.unwrap().into_inner().events, 21);
    server.stop().await;
}
