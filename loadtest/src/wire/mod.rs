//! gRPC calls over several HTTP/2 connections, straight on `h2`.
//!
//! One thread drives everything: no locks, no channels, no hops between tasks. Connections that are lost are opened
//! again; a call that was on one is told so. Must not know what is called.

pub(crate) mod frame;
mod target;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use tonic::Code;

pub(crate) use target::Target;

/// How long opening a connection and a first answer may take.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries to open a connection that was lost.
const REOPEN_EVERY: Duration = Duration::from_millis(100);
/// What a server may send before it is told that it was read.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Until the server says how many streams it takes.
const STREAMS_FIRST: usize = 256;

/// The answer to a call.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) code: Code,
    /// The server's own words; empty for OK.
    pub(crate) message: String,
    /// The framed messages.
    pub(crate) body: Bytes,
}

impl Reply {
    /// A call that got no answer from the server.
    fn lost(why: impl std::fmt::Display) -> Reply {
        Reply { code: Code::Unavailable, message: format!("no answer: {why}"), body: Bytes::new() }
    }

    /// The code's name and the server's words.
    pub(crate) fn told(&self) -> String {
        format!("{}: {}", code_name(self.code), self.message)
    }
}

/// Connections to one server, or to several processes of one installation, taken in turn.
pub(crate) struct Connections {
    targets: Vec<Target>,
    slots: Vec<Rc<Slot>>,
    next: Cell<usize>,
}

/// A connection that is there.
pub(crate) struct Picked {
    pub(crate) sender: SendRequest<Bytes>,
    /// Which of the addresses it leads to.
    pub(crate) server: usize,
}

struct Slot {
    server: usize,
    sender: RefCell<Option<SendRequest<Bytes>>>,
    /// Since when it is lost.
    lost: Cell<Option<Instant>>,
    is_closing: Cell<bool>,
}

impl Connections {
    /// Opens `count` connections, at least one to each server; their tasks run on the current `LocalSet`.
    ///
    /// # Errors
    /// A server cannot be reached, or does not speak HTTP/2.
    pub(crate) async fn open(targets: Vec<Target>, count: usize) -> anyhow::Result<Connections> {
        let mut slots = Vec::with_capacity(count.max(targets.len()));
        let turns = (0..targets.len()).cycle().take(count.max(targets.len()));
        for server in turns {
            let target = &targets[server];
            let opened = open(target).await?;
            let slot = Rc::new(Slot {
                server,
                sender: RefCell::new(Some(opened.0)),
                lost: Cell::new(None),
                is_closing: Cell::new(false),
            });
            tokio::task::spawn_local(keep(slot.clone(), opened.1, target.clone()));
            slots.push(slot);
        }
        Ok(Connections { targets, slots, next: Cell::new(0) })
    }

    /// How many servers there are.
    pub(crate) fn servers(&self) -> usize {
        self.targets.len()
    }

    /// The head of calls of that path on one of the servers.
    pub(crate) fn head(&self, server: usize, path: &str, deadline: Duration) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = self.targets[server].uri(path);
        let headers = request.headers_mut();
        headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
        headers.insert("te", http::HeaderValue::from_static("trailers"));
        let millis = deadline.as_millis().clamp(1, 99_999_999);
        let timeout = format!("{millis}m").parse().expect("digits and a letter");
        headers.insert("grpc-timeout", timeout);
        request
    }

    /// The next connection that is there.
    pub(crate) fn pick(&self) -> Option<Picked> {
        for _ in 0..self.slots.len() {
            let at = self.next.get();
            self.next.set((at + 1) % self.slots.len());
            let slot = &self.slots[at];
            if let Some(sender) = &*slot.sender.borrow() {
                return Some(Picked { sender: sender.clone(), server: slot.server });
            }
        }
        None
    }

    /// For how long there has been no connection at all.
    pub(crate) fn lost_for(&self) -> Option<Duration> {
        let since = self.slots.iter().map(|slot| slot.lost.get()).collect::<Option<Vec<_>>>()?;
        since.into_iter().max().map(|since| since.elapsed())
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        for slot in &self.slots {
            slot.is_closing.set(true);
            slot.sender.borrow_mut().take();
        }
    }
}

type Driver = std::pin::Pin<Box<dyn Future<Output = Result<(), h2::Error>>>>;

async fn open(target: &Target) -> anyhow::Result<(SendRequest<Bytes>, Driver)> {
    let opening = async {
        let stream = target.connect().await?;
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_max_send_streams(STREAMS_FIRST);
        let (sender, connection) = builder.handshake::<_, Bytes>(stream).await.context("greeting the server")?;
        let driver: Driver = Box::pin(connection);
        anyhow::Ok((sender, driver))
    };
    let late = || format!("{target} did not take the connection within {} s", OPEN_TIMEOUT.as_secs());
    tokio::time::timeout(OPEN_TIMEOUT, opening).await.with_context(late)?
}

/// Drives a connection, and opens it again whenever it ends.
async fn keep(slot: Rc<Slot>, mut driver: Driver, target: Target) {
    loop {
        let _why_it_ended = driver.await;
        slot.sender.borrow_mut().take();
        slot.lost.set(Some(Instant::now()));
        driver = loop {
            if slot.is_closing.get() {
                return;
            }
            if let Ok((sender, driver)) = open(&target).await {
                slot.sender.borrow_mut().replace(sender);
                slot.lost.set(None);
                break driver;
            }
            tokio::time::sleep(REOPEN_EVERY).await;
        };
    }
}

/// One call. Dropping the future cancels it on the wire.
pub(crate) async fn call(mut sender: SendRequest<Bytes>, head: Request<()>, body: Bytes) -> Reply {
    let sent = sender.send_request(head, false).and_then(|(response, mut stream)| {
        stream.send_data(body, true)?;
        Ok(response)
    });
    let response = match sent {
        Ok(response) => response,
        Err(error) => return Reply::lost(error),
    };
    match response.await {
        Ok(response) => read(response).await.unwrap_or_else(Reply::lost),
        Err(error) => Reply::lost(error),
    }
}

async fn read(response: http::Response<h2::RecvStream>) -> Result<Reply, h2::Error> {
    let (head, mut stream) = response.into_parts();
    if !is_grpc(&head.headers) {
        let message = format!("HTTP status {} instead of a gRPC answer", head.status.as_u16());
        return Ok(Reply { code: Code::Unknown, message, body: Bytes::new() });
    }
    let (mut body, mut more) = (Bytes::new(), BytesMut::new());
    while let Some(part) = stream.data().await {
        let part = part?;
        stream.flow_control().release_capacity(part.len())?;
        if body.is_empty() {
            body = part;
        } else if !part.is_empty() {
            if more.is_empty() {
                more.extend_from_slice(&body);
            }
            more.extend_from_slice(&part);
        }
    }
    if !more.is_empty() {
        body = more.freeze();
    }
    let trailers = stream.trailers().await?;
    let last = trailers.as_ref().unwrap_or(&head.headers);
    let Some(code) = last.get("grpc-status") else { return Ok(Reply::lost("the answer ended without a grpc-status")) };
    let code = Code::from_bytes(code.as_bytes());
    let message = match last.get("grpc-message") {
        Some(message) if code != Code::Ok => unescape(message.as_bytes()),
        _ => String::new(),
    };
    Ok(Reply { code, message, body })
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Percent-encoded UTF-8, as gRPC sends messages.
fn unescape(message: &[u8]) -> String {
    let (mut bytes, mut at) = (Vec::with_capacity(message.len()), 0);
    while at < message.len() {
        let escaped = message[at..].strip_prefix(b"%").and_then(|rest| std::str::from_utf8(rest.get(..2)?).ok());
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                at += 3;
            }
            None => {
                bytes.push(message[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A code as the gRPC documents write it.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn calls_take_turns_between_servers_and_leave_out_one_that_is_gone() {
        let listeners =
            [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
        let address = |at: usize| format!("http://{}", listeners[at].local_addr().unwrap());
        let targets = [0, 1].map(|at| Target::parse(&address(at), None).unwrap()).to_vec();
        let turns = async {
            let connections = Connections::open(targets, 1).await.unwrap();
            let picked = || connections.pick().map(|picked| picked.server);
            assert_eq!([picked(), picked(), picked()], [Some(0), Some(1), Some(0)]);
            assert!(connections.head(1, "/a.B/C", OPEN_TIMEOUT).uri().to_string().starts_with(&address(1)));
            drop(listeners[1].accept().await.unwrap());
            while connections.slots[1].lost.get().is_none() {
                tokio::task::yield_now().await;
            }
            // It is connected to again after a while: its place is empty until then.
            connections.slots[1].sender.borrow_mut().take();
            assert_eq!([picked(), picked()], [Some(0), Some(0)]);
            assert_eq!(connections.lost_for(), None, "one is left");
        };
        tokio::task::LocalSet::new().run_until(turns).await;
    }

    #[test]
    fn messages_are_unescaped() {
        assert_eq!(unescape(b"count: caf%C3%A9 100%25 %zz %"), "count: café 100% %zz %");
    }
}
