//! A new user likes two items and asks for a slate that knows it.
//!
//! In this repository: `cargo run -p marquee-loadtest --example client`. Elsewhere: depend on `marquee-proto`, `tonic`
//! and `tokio`. The server: `make demo`.

use marquee_proto::v1;
use marquee_proto::v1::event_service_client::EventServiceClient;
use marquee_proto::v1::recommendation_service_client::RecommendationServiceClient;
use tonic::transport::Endpoint;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:50051".to_owned());
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
    let mut events = EventServiceClient::new(channel.clone());
    let mut recommendations = RecommendationServiceClient::new(channel);

    let like = |item: &str| v1::Event {
        // Chosen by the caller: sent twice, it counts once.
        id: format!("example-rust-{item}"),
        user_id: "example-rust".to_owned(),
        item_id: item.to_owned(),
        r#type: v1::EventType::Like.into(),
        ..Default::default()
    };
    let request = v1::RecordEventsRequest { events: vec![like("50"), like("89")] };
    let written = events.record_events(request).await?.into_inner();

    let request = v1::RecommendRequest {
        user_id: "example-rust".to_owned(),
        surface: "home".to_owned(),
        count: 5,
        // The answer knows the likes.
        write_token: written.write_token,
        explain: v1::ExplainLevel::Reasons.into(),
        ..Default::default()
    };
    let slate = recommendations.recommend(request).await?.into_inner();
    let mut lines = format!("slate {} of bundle {:?}\n", slate.slate_id, slate.bundle_version);
    for result in slate.results {
        let reasons: Vec<String> = result.reasons.iter().map(|why| format!("{} {}", why.kind, why.item_id)).collect();
        lines += &format!("{:>6}  {:.3}  {}\n", result.item_id, result.score, reasons.join(", "));
    }
    std::io::Write::write_all(&mut std::io::stdout(), lines.as_bytes())?;
    Ok(())
}
