//! What surrounds every call: a global bound on calls in flight, the deadline, the metrics.
//!
//! One layer over both listeners' services. tonic's own concurrency limits count per connection, and its own timeout
//! answers CANCELLED; here the bound is for the process and a deadline that passes answers DEADLINE_EXCEEDED.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::status;
use crate::config;
use crate::telemetry::{METHODS, Metrics};

/// tonic's own timer starts a moment before ours and would answer CANCELLED: be first.
const AHEAD_OF_TONIC: Duration = Duration::from_millis(2);

/// When a call came and when its caller stops waiting; in the extensions of every request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) received: Instant,
    pub(super) deadline: Instant,
}

/// The layer. Clones share the same bound.
#[derive(Clone)]
pub struct Gate {
    shared: Arc<Shared>,
}

struct Shared {
    calls: Room,
    streams: Room,
    timeout_max: Duration,
    admin_timeout_max: Duration,
    is_draining: AtomicBool,
    metrics: Arc<Metrics>,
}

/// So many at once, under the name of their limit.
struct Room {
    limit: &'static str,
    max: usize,
    free: Arc<Semaphore>,
}

impl Room {
    fn new(limit: &'static str, max: usize) -> Room {
        Room { limit, max, free: Arc::new(Semaphore::new(max)) }
    }
}

impl Gate {
    /// The bounds of the config: calls and streams at once, and the longest time to a first answer.
    pub fn new(server: &config::Server, metrics: Arc<Metrics>) -> Gate {
        let calls = Room::new("server.in_flight_max_requests", server.in_flight_max_requests);
        let streams = Room::new("server.streams_max_calls", server.streams_max_calls);
        let timeout_max = Duration::from_millis(server.request_timeout_ms);
        let admin_timeout_max = Duration::from_millis(server.admin_timeout_ms);
        let is_draining = AtomicBool::new(false);
        Gate { shared: Arc::new(Shared { calls, streams, timeout_max, admin_timeout_max, is_draining, metrics }) }
    }

    /// Ends when no call runs any more. Callers have heard by then that they should go elsewhere (each connection is told);
    /// who calls all the same after `notice` is answered UNAVAILABLE. What a caller sent before it heard is still done.
    pub async fn drained(&self, notice: Duration) {
        tokio::time::sleep(notice).await;
        self.shared.is_draining.store(true, Ordering::Relaxed);
        for room in [&self.shared.calls, &self.shared.streams] {
            let all = u32::try_from(room.max).unwrap_or(u32::MAX);
            // It fails only when the semaphore is closed, which nobody does.
            let _ = room.free.acquire_many(all).await;
        }
        // The last answers are on their way.
        tokio::time::sleep(notice).await;
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, shared: self.shared.clone() }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub struct Gated<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let shared = self.shared.clone();
        let started = Instant::now();
        let method = method(request.uri().path());
        let most = if ADMIN.contains(&method) { shared.admin_timeout_max } else { shared.timeout_max };
        let timeout = grpc_timeout(request.headers()).map_or(most, |asked| asked.min(most));
        let timeout = timeout.saturating_sub(AHEAD_OF_TONIC);
        // A call whose time is over already is refused at once, not after the work.
        let in_time = if timeout.is_zero() { Err(late()) } else { Ok(()) };
        let permit = match in_time.and_then(|()| admit(&shared, method)) {
            Ok(permit) => permit,
            Err(status) => {
                shared.metrics.call(method, status::name(status.code()), started.elapsed().as_secs_f64());
                return Box::pin(async move { Ok(status.into_http()) });
            }
        };
        request.extensions_mut().insert(Arrival { received: started, deadline: started + timeout });
        Box::pin(async move {
            shared.metrics.in_flight.inc();
            let held = Held { method, started, code: None, metrics: shared.metrics.clone(), _permit: permit };
            let response = match tokio::time::timeout(timeout, inner.call(request)).await {
                Ok(response) => response?,
                Err(_) => late().into_http(),
            };
            Ok(response.map_headers_into(held))
        })
    }
}

fn late() -> Status {
    Status::deadline_exceeded("deadline exceeded")
}

/// Room for one more call, or the answer that there is none. Health is always answered.
fn admit(shared: &Shared, method: &str) -> Result<Option<OwnedSemaphorePermit>, Status> {
    if method == HEALTH {
        return Ok(None);
    }
    if shared.is_draining.load(Ordering::Relaxed) {
        return Err(Status::unavailable("the server is stopping; ask another one"));
    }
    // A stream may stand idle for hours: it must not take the room of calls that end.
    let room = if matches!(method, "StreamEvents" | REFLECTION) { &shared.streams } else { &shared.calls };
    room.free.clone().try_acquire_owned().map(Some).map_err(|_| {
        let Room { limit, max, .. } = room;
        shared.metrics.shed(limit.trim_start_matches("server."));
        Status::resource_exhausted(format!("{limit} ({max}) calls are running; try again later"))
    })
}

const HEALTH: &str = "Health";
const REFLECTION: &str = "Reflection";
const UNKNOWN: &str = "unknown";

/// Methods that open whole bundles and have a longest time of their own.
const ADMIN: [&str; 5] = ["ListBundles", "ActivateBundle", "RollbackBundle", "GetStatus", "PurgeCache"];

/// A label of a bounded set: the method's name for our own services, one name for everything else.
fn method(path: &str) -> &'static str {
    let mut parts = path.trim_start_matches('/').split('/');
    match (parts.next(), parts.next()) {
        (Some(service), Some(method)) if service.starts_with("marquee.v1.") => {
            METHODS.into_iter().find(|known| *known == method).unwrap_or(UNKNOWN)
        }
        (Some("grpc.health.v1.Health"), _) => HEALTH,
        (Some(service), _) if service.starts_with("grpc.reflection.") => REFLECTION,
        _ => UNKNOWN,
    }
}

/// The caller's deadline as gRPC sends it: up to eight digits and a unit.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// What a call holds until its last byte is sent or its caller is gone; then it is counted.
struct Held {
    method: &'static str,
    started: Instant,
    code: Option<Code>,
    metrics: Arc<Metrics>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Held {
    fn read(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get("grpc-status") {
            self.code = Some(Code::from_bytes(code.as_bytes()));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        // No status at all: the caller hung up.
        let code = self.code.unwrap_or(Code::Cancelled);
        // A method that we do not have must not become a label.
        let method = if code == Code::Unimplemented { UNKNOWN } else { self.method };
        self.metrics.call(method, status::name(code), self.started.elapsed().as_secs_f64());
    }
}

trait MapHeadersInto {
    fn map_headers_into(self, held: Held) -> Response<Body>;
}

impl MapHeadersInto for Response<Body> {
    fn map_headers_into(self, mut held: Held) -> Response<Body> {
        held.read(self.headers());
        self.map(|body| Body::new(HeldBody { body, held }))
    }
}

/// A body that ends a call when it ends.
struct HeldBody {
    body: Body,
    held: Held,
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            this.held.read(trailers);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            grpc_timeout(&headers)
        };
        assert_eq!(read("15m"), Some(Duration::from_millis(15)));
        assert_eq!(read("3S"), Some(Duration::from_secs(3)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in ["", "m", "5", "-1m", "123456789m", "5x"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn labels_are_of_a_bounded_set() {
        assert_eq!(method("/marquee.v1.EventService/RecordEvents"), "RecordEvents");
        assert_eq!(method("/grpc.health.v1.Health/Check"), HEALTH);
        assert_eq!(method("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"), "Reflection");
        assert_eq!(method("/marquee.v1.EventService/DropTables"), UNKNOWN);
        assert_eq!(method("/etc/passwd"), UNKNOWN);
        assert_eq!(method(""), UNKNOWN);
    }
}
