//! `echo`: a bare tonic server that answers every Recommend with one slate, to be measured beside Marquee (`floor`).
//!
//! The slate is taken from a running Marquee and is a message that is encoded on each call, or bytes; or it is whatever
//! one GET of a Redis key brings, given on as it is. It must know nothing of who asks.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use marquee_proto::v1::recommendation_service_client::RecommendationServiceClient;
use marquee_proto::{Encoded, encoded, v1};
use prost::Message;
use redis::aio::MultiplexedConnection;
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

/// As Marquee sets them (`server/src/rpc/mod.rs`): the comparison is of what happens behind the transport.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const STREAMS_MAX: u32 = 1_024;
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a process may take to answer for the first time.
const START_MAX: Duration = Duration::from_secs(30);
/// Visitors that ask.
pub(crate) const USERS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// The slate is a message, encoded on each call.
    Message,
    /// The slate is bytes.
    Bytes,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EchoArgs {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// The Marquee whose slate is repeated.
    #[arg(long, required_unless_present = "redis", conflicts_with = "redis")]
    slate_of: Option<String>,
    #[arg(long, value_enum, default_value = "bytes")]
    mode: Mode,
    /// Answer with what one GET of that key brings.
    #[arg(long, num_args = 2, value_names = ["URL", "KEY"])]
    redis: Option<Vec<String>>,
}

/// Answers every Recommend with the same message.
struct OfMessage(v1::RecommendResponse);

/// Answers every Recommend with the same bytes.
struct OfBytes(Encoded);

/// Answers every Recommend with a value of Redis, read for it.
struct OfRedis {
    connection: MultiplexedConnection,
    key: String,
}

impl OfMessage {
    async fn answer(&self) -> Result<v1::RecommendResponse, Status> {
        Ok(self.0.clone())
    }
}

impl OfBytes {
    async fn answer(&self) -> Result<Encoded, Status> {
        Ok(self.0.clone())
    }
}

impl OfRedis {
    async fn answer(&self) -> Result<Encoded, Status> {
        let mut connection = self.connection.clone();
        let value: Option<Vec<u8>> = redis::cmd("GET")
            .arg(&self.key)
            .query_async(&mut connection)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        value.map(Encoded::from).ok_or_else(|| Status::not_found("redis has no such key"))
    }
}

macro_rules! echo {
    ($echo:ty, $service:path, $answer:ty, $batch:ty) => {
        #[tonic::async_trait]
        impl $service for $echo {
            async fn recommend(&self, _: Request<v1::RecommendRequest>) -> Result<Response<$answer>, Status> {
                self.answer().await.map(Response::new)
            }

            type RecommendBatchStream = ReceiverStream<Result<$batch, Status>>;

            async fn recommend_batch(
                &self,
                _: Request<v1::RecommendBatchRequest>,
            ) -> Result<Response<Self::RecommendBatchStream>, Status> {
                Err(Status::unimplemented("an echo"))
            }

            async fn similar_items(
                &self,
                _: Request<v1::SimilarItemsRequest>,
            ) -> Result<Response<v1::SimilarItemsResponse>, Status> {
                Err(Status::unimplemented("an echo"))
            }

            async fn rank_items(
                &self,
                _: Request<v1::RankItemsRequest>,
            ) -> Result<Response<v1::RankItemsResponse>, Status> {
                Err(Status::unimplemented("an echo"))
            }
        }
    };
}

echo!(
    OfMessage,
    v1::recommendation_service_server::RecommendationService,
    v1::RecommendResponse,
    v1::RecommendBatchResponse
);
echo!(OfBytes, encoded::recommendation_service_server::RecommendationService, Encoded, Encoded);
echo!(OfRedis, encoded::recommendation_service_server::RecommendationService, Encoded, Encoded);

/// Serves the echo until the process is ended.
pub(crate) async fn serve(args: EchoArgs) -> anyhow::Result<()> {
    let mut server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT));
    let router = if let Some(words) = &args.redis {
        let [url, key] = &words[..] else { anyhow::bail!("--redis takes a URL and a key") };
        let echo = OfRedis { connection: redis_connection(url).await?, key: key.clone() };
        server.add_service(encoded::recommendation_service_server::RecommendationServiceServer::new(echo))
    } else {
        let address = args.slate_of.as_deref().context("--slate-of is needed")?;
        let answer = RecommendationServiceClient::new(connect(address).await?).recommend(ask(0)).await?;
        let slate = answer.into_inner();
        match args.mode {
            Mode::Message => server
                .add_service(v1::recommendation_service_server::RecommendationServiceServer::new(OfMessage(slate))),
            Mode::Bytes => {
                let echo = OfBytes(slate.encode_to_vec().into());
                server.add_service(encoded::recommendation_service_server::RecommendationServiceServer::new(echo))
            }
        }
    };
    let incoming = TcpIncoming::from(TcpListener::bind(args.listen).await?).with_nodelay(Some(true));
    Ok(router.serve_with_incoming(incoming).await?)
}

/// A question of one of the visitors.
pub(crate) fn ask(number: u64) -> v1::RecommendRequest {
    let user_id = format!("floor-user-{:04}", number % USERS as u64);
    v1::RecommendRequest { user_id, surface: "home".to_owned(), ..Default::default() }
}

/// Connects as soon as the server is there.
///
/// # Errors
/// It does not come.
pub(crate) async fn connect(address: &str) -> anyhow::Result<Channel> {
    let started = Instant::now();
    loop {
        match Endpoint::from_shared(address.to_owned())?.tcp_nodelay(true).connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) if started.elapsed() > START_MAX => {
                return Err(error).context(format!("connecting to {address}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// One connection that all calls share, with the client's defaults but for Nagle's delay.
///
/// # Errors
/// It cannot be reached.
pub(crate) async fn redis_connection(url: &str) -> anyhow::Result<MultiplexedConnection> {
    use redis::IntoConnectionInfo;
    let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
    let info = url.into_connection_info().context("--redis")?.set_tcp_settings(tcp);
    let connection = redis::Client::open(info)?.get_multiplexed_async_connection().await;
    connection.with_context(|| format!("connecting to {url}"))
}
