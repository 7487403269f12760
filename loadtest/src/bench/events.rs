//! `make bench-events`: what an event costs the next request of its user, by how much they did before.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use marquee_proto::v1::event_service_client::EventServiceClient;
use marquee_proto::v1::recommendation_service_client::RecommendationServiceClient;
use marquee_proto::v1::{Event, EventType, RecommendRequest, RecordEventsRequest};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::server::{Server, question};
use super::{median, print};
use crate::generate::{Member, read_members};

/// Events of the users that are asked for: about so many each.
const HISTORIES: [usize; 5] = [20, 100, 300, 1_000, 1_900];
/// Users of one run; each run has others, since events make histories longer.
const USERS: usize = 5;
/// Requests of each user in one run; the processor's clock ticks a hundred times a second.
const REQUESTS: usize = 10;
/// Runs; the median counts.
const RUNS: usize = 3;

/// A folder with a copy of a state's store, that goes with its value.
struct Copy(PathBuf);

impl Copy {
    fn of(state: &Path) -> Result<Copy> {
        let written = std::fs::metadata(state.join("marquee.db-wal")).map_or(0, |wal| wal.len());
        ensure!(written == 0, "{}: a server was killed there, or runs: start and stop one", state.display());
        let folder = state.join("bench-events");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let copy = Copy(folder);
        let store = state.join("marquee.db");
        std::fs::copy(&store, copy.store()).with_context(|| store.display().to_string())?;
        Ok(copy)
    }

    fn store(&self) -> PathBuf {
        self.0.join("marquee.db")
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// What is asked for of each user.
#[derive(Clone, Copy)]
enum Asked {
    Slates,
    Events,
    /// An event, then a slate that knows it.
    Both,
}

/// Prints, for users by the length of their history, the server's CPU for a ranked request, and for the first one after an
/// event of the same user.
///
/// # Errors
/// The server does not start, a slate is short, or it has an item that its user just liked.
pub fn compare(state: &Path, marquee: &Path) -> Result<Value> {
    let mut members = read_members(&state.join("members.jsonl"))?;
    members.sort_by_key(|member| member.events.len());
    ensure!(!members.is_empty(), "no user has 20 events or more");
    let copy = Copy::of(state)?;
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    runtime.block_on(async {
        let server = Server::start(state, marquee, &members[0].id, Some(&copy.store())).await?;
        let mut caller = Caller::new(&server).await?;
        print(&format!("CPU us of the server, {USERS} users x {REQUESTS} requests, median of {RUNS}"));
        print("  events before   a slate   one after an event    ratio");
        let mut figures = Vec::new();
        for wanted in HISTORIES {
            let nearest = nearest(&members, wanted);
            let events = median(nearest.iter().map(|member| member.events.len() as f64));
            let mut costs: Vec<[f64; 3]> = Vec::new();
            for users in nearest.chunks(USERS) {
                let slates = caller.cost(&server, users, Asked::Slates).await?;
                let written = caller.cost(&server, users, Asked::Events).await?;
                let both = caller.cost(&server, users, Asked::Both).await?;
                costs.push([slates, written, both]);
            }
            let of = |which: fn(&[f64; 3]) -> f64| median(costs.iter().map(which));
            let (slate, after) = (of(|cost| cost[0]), of(|cost| cost[2] - cost[1]));
            print(&format!("  {events:>13} {slate:>9.0} {after:>20.0} {:>8.2}", after / slate));
            figures.push(json!({"events": events, "slate_us": slate, "after_event_us": after}));
        }
        Ok(Value::from(figures))
    })
}

/// Those whose histories are nearest to that length.
fn nearest(members: &[Member], wanted: usize) -> &[Member] {
    let users = (USERS * RUNS).min(members.len());
    let first = members.partition_point(|member| member.events.len() < wanted);
    let first = first.saturating_sub(users / 2).min(members.len() - users);
    &members[first..first + users]
}

struct Caller {
    recommendations: RecommendationServiceClient<Channel>,
    events: EventServiceClient<Channel>,
    /// Numbers events.
    written: usize,
}

impl Caller {
    async fn new(server: &Server) -> Result<Caller> {
        let channel = server.channel().await?;
        let (recommendations, events) =
            (RecommendationServiceClient::new(channel.clone()), EventServiceClient::new(channel));
        Ok(Caller { recommendations, events, written: 0 })
    }

    /// The server's CPU a round, in microseconds.
    async fn cost(&mut self, server: &Server, users: &[Member], asked: Asked) -> Result<f64> {
        let mut liked: Vec<Vec<String>> = Vec::new();
        for user in users {
            // Also brings the profile into memory.
            liked.push(self.slate(&user.id, String::new()).await?);
        }
        let before = server.cpu_us()?;
        for turn in 0..REQUESTS {
            for (user, liked) in users.iter().zip(&liked) {
                let item = &liked[turn % liked.len()];
                let token = match asked {
                    Asked::Slates => String::new(),
                    Asked::Events | Asked::Both => self.like(&user.id, item).await?,
                };
                if !matches!(asked, Asked::Events) {
                    let slate = self.slate(&user.id, token).await?;
                    let is_again = matches!(asked, Asked::Both) && slate.contains(item);
                    ensure!(!is_again, "user {}: {item} was just liked and comes again", user.id);
                }
            }
        }
        Ok((server.cpu_us()? - before) / (REQUESTS * users.len()) as f64)
    }

    async fn slate(&mut self, user: &str, write_token: String) -> Result<Vec<String>> {
        let question = RecommendRequest { write_token, ..question(user) };
        let slate = self.recommendations.recommend(question).await?.into_inner();
        ensure!(slate.degraded.is_none_or(|degraded| degraded.parts.is_empty()), "user {user}: degraded");
        ensure!(slate.results.len() == super::COUNT, "user {user}: {} items", slate.results.len());
        Ok(slate.results.into_iter().map(|item| item.item_id).collect())
    }

    /// Gives the write token.
    async fn like(&mut self, user: &str, item: &str) -> Result<String> {
        self.written += 1;
        let event = Event {
            id: format!("bench-{}", self.written),
            user_id: user.to_owned(),
            item_id: item.to_owned(),
            surface: "home".to_owned(),
            r#type: EventType::Like.into(),
            ..Event::default()
        };
        let answer = self.events.record_events(RecordEventsRequest { events: vec![event] }).await?.into_inner();
        ensure!(!answer.write_token.is_empty(), "user {user}: the event was not accepted");
        Ok(answer.write_token)
    }
}
