//! EventService. Unary and streamed events take the same path: [`EventWriter`].

use std::sync::Arc;
use std::time::Duration;

use marquee_proto::encoded::event_service_server::EventService;
use marquee_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use crate::error::Result;
use crate::events::writer::{EventResult, EventWriter, Written};

/// Acknowledgements that may wait for a slow reader; then the stream is read no further.
const ACKS_MAX: usize = 16;

/// Writes events.
pub(super) struct Events {
    pub(super) writer: Arc<EventWriter>,
    /// True once the server stops: streams end after what they are writing.
    pub(super) stopping: watch::Receiver<bool>,
    /// A stream on which nothing comes for so long is ended.
    pub(super) stream_idle: Duration,
}

#[tonic::async_trait]
impl EventService for Events {
    async fn record_events(
        &self,
        request: Request<v1::RecordEventsRequest>,
    ) -> Result<Response<v1::RecordEventsResponse>, Status> {
        let (results, write_token) = write(&self.writer, request.into_inner().events).await?;
        Ok(Response::new(v1::RecordEventsResponse { results, write_token }))
    }

    type StreamEventsStream = ReceiverStream<Result<v1::StreamEventsResponse, Status>>;

    async fn stream_events(
        &self,
        request: Request<Streaming<v1::StreamEventsRequest>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let (acks, stream) = mpsc::channel(ACKS_MAX);
        let (writer, stopping) = (self.writer.clone(), self.stopping.clone());
        tokio::spawn(acknowledge(request.into_inner(), writer, acks, (stopping, self.stream_idle)));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Writes message by message; an acknowledged message is durable. The first failure ends the stream: what was not
/// acknowledged is to be sent again.
async fn acknowledge(
    mut messages: Streaming<v1::StreamEventsRequest>,
    writer: Arc<EventWriter>,
    acks: mpsc::Sender<Result<v1::StreamEventsResponse, Status>>,
    (mut stopping, idle): (watch::Receiver<bool>, Duration),
) {
    loop {
        // A message that is being written is written to its end; only then is the signal heard.
        let message = tokio::select! {
            message = tokio::time::timeout(idle, messages.message()) => message.unwrap_or_else(|_| {
                Err(Status::deadline_exceeded("nothing came on this stream for server.stream_idle_ms; open another one"))
            }),
            () = stopped(&mut stopping) => {
                Err(Status::unavailable("the server is stopping; send the rest to another one"))
            }
        };
        let answer = match message {
            Ok(None) => return,
            Ok(Some(v1::StreamEventsRequest { sequence, events })) => write(&writer, events)
                .await
                .map(|(results, write_token)| v1::StreamEventsResponse { sequence, results, write_token }),
            Err(status) => Err(status),
        };
        let is_over = answer.is_err();
        if acks.send(answer).await.is_err() || is_over {
            return;
        }
    }
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

async fn write(writer: &EventWriter, events: Vec<v1::Event>) -> Result<(Vec<v1::EventResult>, String), Status> {
    let written: Written = writer.write(events.into_iter().map(convert::event_in).collect()).await?;
    let token = written.write_token();
    let result = |result| match result {
        EventResult::Accepted => outcome(v1::EventStatus::Accepted, String::new(), String::new()),
        EventResult::Duplicate => outcome(v1::EventStatus::Duplicate, String::new(), String::new()),
        EventResult::Rejected { field, rule } => outcome(v1::EventStatus::Rejected, field, rule),
    };
    Ok((written.results.into_iter().map(result).collect(), token))
}

fn outcome(status: v1::EventStatus, field: String, rule: String) -> v1::EventResult {
    v1::EventResult { status: status.into(), field, rule }
}
