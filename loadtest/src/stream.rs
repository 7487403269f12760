//! Events in a stream, with ids made from a seed; and the check that each acknowledged one is there exactly once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use marquee_proto::v1;
use marquee_proto::v1::event_service_client::EventServiceClient;
use marquee_proto::v1::user_service_client::UserServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::calls::say;
use crate::mix::{PROGRESS_EVERY, items};
use crate::numbers::Numbers;

/// Messages that wait for their acknowledgement.
const IN_FLIGHT_MAX: usize = 8;

#[derive(Debug, clap::Args)]
pub(crate) struct StreamArgs {
    /// Events in all.
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    /// Makes the events' ids: the same seed sends the same events.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Events in a message.
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// Users that the events are of.
    #[arg(long, default_value_t = 200)]
    users: usize,
    /// Ids that were acknowledged are appended here, before the next message is read.
    #[arg(long)]
    acknowledged: PathBuf,
    /// Leave out what the file holds; without it everything is sent (again).
    #[arg(long)]
    resume: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// As it was streamed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// As it was streamed.
    #[arg(long, default_value_t = 200)]
    users: usize,
    /// The file that stream-events wrote.
    #[arg(long)]
    acknowledged: PathBuf,
    /// So many different events must be there.
    #[arg(long)]
    expect: Option<usize>,
}

pub(crate) async fn run(channel: Channel, args: StreamArgs) -> anyhow::Result<()> {
    let items = items(&channel).await?;
    ensure!(!items.is_empty(), "the catalogue is empty: nothing to draw events from");
    let known = if args.resume { read(&args.acknowledged)? } else { HashSet::new() };
    let mut file = OpenOptions::new().create(true).append(true).open(&args.acknowledged)?;
    let left: Vec<u64> = (0..args.events).filter(|&number| !known.contains(&id(args.seed, number))).collect();
    let batch = args.batch.max(1);
    let (sender, messages) = mpsc::channel(IN_FLIGHT_MAX);
    let (waiting, mut sent) = mpsc::channel::<(u64, Vec<String>)>(IN_FLIGHT_MAX);
    let sending = tokio::spawn(async move {
        for (sequence, numbers) in (0_u64..).zip(left.chunks(batch)) {
            let events: Vec<v1::Event> = numbers.iter().map(|&number| event(&args, number, &items)).collect();
            let ids = events.iter().map(|event| event.id.clone()).collect();
            if waiting.send((sequence, ids)).await.is_err()
                || sender.send(v1::StreamEventsRequest { sequence, events }).await.is_err()
            {
                return;
            }
        }
    });
    let started = Instant::now();
    let answer = EventServiceClient::new(channel).stream_events(ReceiverStream::new(messages)).await;
    let mut acks = answer.context("opening the stream")?.into_inner();
    let (mut accepted, mut duplicates, mut told) = (0_usize, 0_usize, Instant::now());
    while let Some(ack) = acks.message().await.with_context(|| format!("after {accepted} accepted events"))? {
        let (sequence, ids) = sent.recv().await.context("an acknowledgement of nothing")?;
        ensure!(ack.sequence == sequence, "acknowledged {}, expected {sequence}", ack.sequence);
        ensure!(ack.results.len() == ids.len(), "{} results for {} events", ack.results.len(), ids.len());
        note(&mut file, &ids, &ack.results, &mut accepted, &mut duplicates)?;
        if told.elapsed() > PROGRESS_EVERY {
            told = Instant::now();
            say(&format!("{accepted} accepted, {duplicates} duplicates"));
        }
    }
    sending.await?;
    ensure!(sent.recv().await.is_none(), "the stream ended with messages that nobody acknowledged");
    let seconds = started.elapsed().as_secs_f64();
    let rate = (accepted + duplicates) as f64 / seconds;
    say(&format!("{accepted} accepted, {duplicates} duplicates in {seconds:.1} s ({rate:.0} events a second)"));
    Ok(())
}

fn note(
    file: &mut File,
    ids: &[String],
    results: &[v1::EventResult],
    accepted: &mut usize,
    duplicates: &mut usize,
) -> anyhow::Result<()> {
    let mut text = String::new();
    for (id, result) in ids.iter().zip(results) {
        match result.status() {
            v1::EventStatus::Accepted => *accepted += 1,
            v1::EventStatus::Duplicate => *duplicates += 1,
            _ => bail!("{id} was rejected: {} {}", result.field, result.rule),
        }
        text.push_str(id);
        text.push('\n');
    }
    file.write_all(text.as_bytes()).context("noting what was acknowledged")
}

pub(crate) async fn verify(channel: Channel, args: VerifyArgs) -> anyhow::Result<()> {
    let acknowledged = read(&args.acknowledged)?;
    let mut there: HashMap<String, usize> = HashMap::new();
    let mut users: VecDeque<String> = (0..args.users).map(|number| user(args.seed, number)).collect();
    let mut client = UserServiceClient::new(channel).max_decoding_message_size(64 << 20);
    while let Some(user_id) = users.pop_front() {
        let mut page_token = String::new();
        loop {
            let user_id = user_id.clone();
            let request = v1::ListEventsRequest { user_id, page_size: 1_000, page_token, ..Default::default() };
            let page = client.list_events(request).await.context("listing events")?.into_inner();
            for event in page.events {
                *there.entry(event.id).or_default() += 1;
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
    }
    let lost = acknowledged.iter().filter(|id| !there.contains_key(*id)).count();
    let twice = there.values().filter(|&&count| count > 1).count();
    let (acknowledged, there) = (acknowledged.len(), there.len());
    say(&format!("{acknowledged} acknowledged, {there} there, {lost} lost, {twice} there more than once"));
    ensure!(lost == 0 && twice == 0, "{lost} acknowledged events are lost, {twice} are there more than once");
    if let Some(expected) = args.expect {
        ensure!(there == expected, "{there} events are there, expected {expected}");
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<HashSet<String>> {
    match std::fs::read_to_string(file) {
        // A line without an end was cut by the end of the process that wrote it.
        Ok(text) => {
            Ok(text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(HashSet::new()),
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

fn id(seed: u64, number: u64) -> String {
    format!("stream-{seed}-{number}")
}

fn user(seed: u64, number: usize) -> String {
    format!("stream-{seed}-user-{number}")
}

fn event(args: &StreamArgs, number: u64, items: &[String]) -> v1::Event {
    let mut draw = Numbers::new(args.seed, number);
    v1::Event {
        id: id(args.seed, number),
        user_id: user(args.seed, draw.below(args.users)),
        item_id: items[draw.below(items.len())].clone(),
        r#type: v1::EventType::Rating.into(),
        value: Some((1 + draw.below(5)) as f64),
        ..Default::default()
    }
}
