//! Recommend and RecordEvents, mixed, by several workers.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use marquee_proto::v1;
use marquee_proto::v1::catalog_service_client::CatalogServiceClient;
use marquee_proto::v1::event_service_client::EventServiceClient;
use marquee_proto::v1::recommendation_service_client::RecommendationServiceClient;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;

use crate::calls::{Report, say};
use crate::numbers::Numbers;

/// Items that are drawn from, at most.
const ITEMS_MAX: usize = 10_000;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Recommend requests in all.
    #[arg(long, default_value_t = 1_000)]
    requests: u64,
    /// Workers, each with one call in flight.
    #[arg(long, default_value_t = 4)]
    concurrency: usize,
    /// File of user ids, one a line; without it: users that nobody knows yet.
    #[arg(long)]
    users: Option<PathBuf>,
    /// How many users there are without a file.
    #[arg(long, default_value_t = 100)]
    new_users: usize,
    /// Share of requests that an event goes before; the request then carries its write token.
    #[arg(long, default_value_t = 0.5)]
    events_share: f64,
    /// Items of a slate.
    #[arg(long, default_value_t = 20)]
    count: i32,
    /// Rank every slate anew.
    #[arg(long)]
    bypass_cache: bool,
    /// The same seed asks the same.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Writes one JSON line a slate: slate_id, user, items.
    #[arg(long)]
    record: Option<PathBuf>,
}

struct Shared {
    args: Args,
    users: Vec<String>,
    items: Vec<String>,
    run: String,
    next: AtomicU64,
}

pub(crate) async fn run(channel: Channel, args: Args) -> anyhow::Result<()> {
    let items = items(&channel).await?;
    ensure!(!items.is_empty(), "the catalogue is empty: nothing to draw events from");
    let users = match &args.users {
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
            text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
        }
        None => (0..args.new_users.max(1)).map(|user| format!("mix-{}-{user}", args.seed)).collect(),
    };
    let mut record = args.record.as_ref().map(std::fs::File::create).transpose().context("creating the record")?;
    // Event ids of an earlier run would be duplicates: then nothing would happen between the requests.
    let run = format!("mix-{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros());
    let (started, workers) = (Instant::now(), args.concurrency.max(1));
    let shared = Arc::new(Shared { args, users, items, run, next: AtomicU64::new(0) });
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        tasks.spawn(work(channel.clone(), shared.clone()));
    }
    let mut report = Report::default();
    while let Some(done) = tasks.join_next().await {
        let (part, lines) = done?;
        report.merge(part);
        if let Some(file) = &mut record {
            lines.iter().try_for_each(|line| writeln!(file, "{line}"))?;
        }
    }
    let errors = report.errors();
    report.print(started.elapsed());
    ensure!(errors == 0, "{errors} calls failed");
    Ok(())
}

async fn work(channel: Channel, shared: Arc<Shared>) -> (Report, Vec<serde_json::Value>) {
    let mut recommendations = RecommendationServiceClient::new(channel.clone());
    let mut events = EventServiceClient::new(channel);
    let (mut report, mut slates) = (Report::default(), Vec::new());
    loop {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if number >= shared.args.requests {
            return (report, slates);
        }
        let mut draw = Numbers::new(shared.args.seed, number);
        let user = shared.users[draw.below(shared.users.len())].clone();
        let mut write_token = String::new();
        if draw.chance(shared.args.events_share) {
            let request = v1::RecordEventsRequest { events: vec![event(&shared, number, &user, &mut draw)] };
            let started = Instant::now();
            let answer = events.record_events(request).await;
            report.add("RecordEvents", started.elapsed(), failure(answer.as_ref().err()));
            write_token = answer.map(|answer| answer.into_inner().write_token).unwrap_or_default();
        }
        let (count, bypass_cache) = (shared.args.count, shared.args.bypass_cache);
        let request =
            v1::RecommendRequest { user_id: user.clone(), count, write_token, bypass_cache, ..Default::default() };
        let started = Instant::now();
        let answer = recommendations.recommend(request).await;
        report.add("Recommend", started.elapsed(), failure(answer.as_ref().err()));
        if let Ok(answer) = answer {
            let answer = answer.into_inner();
            let items: Vec<String> = answer.results.into_iter().map(|result| result.item_id).collect();
            slates.push(serde_json::json!({"slate_id": answer.slate_id, "user": user, "items": items}));
        }
    }
}

fn event(shared: &Shared, number: u64, user: &str, draw: &mut Numbers) -> v1::Event {
    let kinds = [
        (v1::EventType::Like, None),
        (v1::EventType::Rating, Some((1 + draw.below(5)) as f64)),
        (v1::EventType::Watch, Some(draw.below(11) as f64 / 10.0)),
        (v1::EventType::Click, None),
    ];
    let (kind, value) = kinds[draw.below(kinds.len())];
    v1::Event {
        id: format!("{}-{number}", shared.run),
        user_id: user.to_owned(),
        item_id: shared.items[draw.below(shared.items.len())].clone(),
        r#type: kind.into(),
        value,
        ..Default::default()
    }
}

fn failure(error: Option<&Status>) -> Option<String> {
    error.map(|status| format!("{:?} {}", status.code(), status.message()))
}

/// Ids of the catalogue's items.
pub(crate) async fn items(channel: &Channel) -> anyhow::Result<Vec<String>> {
    let mut catalog = CatalogServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
    let (mut ids, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListItemsRequest { page_size: 200, page_token };
        let page = catalog.list_items(request).await.context("listing items")?.into_inner();
        ids.extend(page.items.into_iter().map(|item| item.id));
        page_token = page.next_page_token;
        if page_token.is_empty() || ids.len() >= ITEMS_MAX {
            say(&format!("{} items", ids.len()));
            return Ok(ids);
        }
    }
}

/// How long between two lines about the progress.
pub(crate) const PROGRESS_EVERY: Duration = Duration::from_secs(2);
