//! gRPC: the only code that knows prost and tonic types.
//!
//! [`serve`] puts the services on two listeners, the public one and the admin's, behind one [`Gate`].

mod admin;
mod auth;
mod catalog;
pub mod client;
mod convert;
mod event;
mod gate;
pub(crate) mod logged;
mod recommendation;
mod shortcut;
mod status;
mod user;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use marquee_engine::types::TimeMs;
use marquee_proto::FILE_DESCRIPTOR_SET;
use marquee_proto::encoded::admin_service_server::AdminServiceServer;
use marquee_proto::encoded::catalog_service_server::CatalogServiceServer;
use marquee_proto::encoded::event_service_server::EventServiceServer;
use marquee_proto::encoded::recommendation_service_server::RecommendationServiceServer;
use marquee_proto::encoded::user_service_server::UserServiceServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::answer::Desk;
use crate::bundles::Bundles;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::events::writer::EventWriter;
use crate::store::Store;

pub use gate::Gate;
use shortcut::Shortcut;

/// What tonic would give a stream, 64 KiB, throttles a single connection.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Streams of one connection; the gate bounds them all together.
const STREAMS_MAX: u32 = 1_024;
/// Calls that a caller may give up before they are accepted: at its deadline every gRPC client does so with all that still
/// wait, and beyond this number the whole connection is closed (20 unless said otherwise).
const RESETS_PENDING_MAX: usize = STREAMS_MAX as usize;
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// What the services stand on.
#[derive(Clone)]
pub struct Parts {
    /// Answers questions.
    pub desk: Arc<Desk>,
    /// Writes events.
    pub writer: Arc<EventWriter>,
    /// Which bundle serves.
    pub bundles: Arc<Bundles>,
    /// Items, users, log.
    pub store: Arc<dyn Store>,
    /// When the server started.
    pub started_ms: TimeMs,
    /// True once it stops.
    pub stopping: watch::Receiver<bool>,
}

/// The names under which health is asked for; the empty one is the server as a whole.
const PUBLIC: [&str; 5] = [
    "",
    "marquee.v1.RecommendationService",
    "marquee.v1.EventService",
    "marquee.v1.CatalogService",
    "marquee.v1.UserService",
];
const ADMIN: [&str; 2] = ["", "marquee.v1.AdminService"];

/// Tells health checks of both listeners what to say.
#[derive(Clone)]
pub struct Health {
    public: HealthReporter,
    admin: HealthReporter,
}

impl Health {
    /// From now on: do not send anything new.
    pub async fn stop(&self) {
        for (reporter, services) in [(&self.public, &PUBLIC[..]), (&self.admin, &ADMIN[..])] {
            for service in services {
                reporter.set_service_status(*service, ServingStatus::NotServing).await;
            }
        }
    }

    /// Ends the streams that watch: each would hold its connection until the drain's last moment.
    pub async fn end(mut self) {
        for (reporter, services) in [(&mut self.public, &PUBLIC[..]), (&mut self.admin, &ADMIN[..])] {
            for service in services {
                reporter.clear_service_status(service).await;
            }
        }
    }
}

/// What is behind one listener.
pub struct Listened {
    routes: Routes,
    shortcut: Shortcut,
}

/// The services of both listeners.
pub struct Services {
    /// What the application calls.
    pub public: Listened,
    /// What operators call.
    pub admin: Listened,
    /// Health of both.
    pub health: Health,
}

/// Every service, ready to be served.
///
/// # Errors
/// The compiled descriptors cannot be read.
pub async fn services(parts: Parts) -> Result<Services> {
    let Parts { desk, writer, bundles, store, started_ms, stopping } = parts;
    let most = desk.config.server.message_max_bytes;
    let (limits, clock) = (desk.config.limits.clone(), desk.clock.clone());
    let admin_token = desk.config.admin_token.clone();
    let stream_idle = Duration::from_millis(desk.config.server.stream_idle_ms);
    macro_rules! bounded {
        ($server:ident, $service:expr) => {
            $server::new($service).max_decoding_message_size(most).max_encoding_message_size(most)
        };
    }
    let (public_health, public) = health(&PUBLIC).await;
    let (admin_health, admin) = health(&ADMIN).await;
    let recommend = bounded!(RecommendationServiceServer, recommendation::Recommendation { desk: desk.clone() });
    let shortcut = Shortcut { recommend: Some(recommend.clone()) };
    let public = reflected(public)?
        .add_service(recommend)
        .add_service(bounded!(EventServiceServer, event::Events { writer, stopping, stream_idle }))
        .add_service(bounded!(
            CatalogServiceServer,
            catalog::Catalog { store: store.clone(), limits, clock, message_max_bytes: most, admin_token }
        ))
        .add_service(bounded!(UserServiceServer, user::Users { store: store.clone(), desk: desk.clone() }));
    let admin =
        reflected(admin)?.add_service(bounded!(AdminServiceServer, admin::Admin { store, desk, bundles, started_ms }));
    let (public, admin) =
        (Listened { routes: public, shortcut }, Listened { routes: admin, shortcut: Shortcut::none() });
    Ok(Services { public, admin, health: Health { public: public_health, admin: admin_health } })
}

async fn health(services: &[&str]) -> (HealthReporter, Routes) {
    let (reporter, server) = tonic_health::server::health_reporter();
    for service in services {
        reporter.set_service_status(*service, ServingStatus::Serving).await;
    }
    (reporter, Routes::new(server))
}

/// Reflection in both versions: grpcurl and other tools still ask for v1alpha.
fn reflected(routes: Routes) -> Result<Routes> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let unreadable = |error| Error::internal("reading the compiled protos", error);
    let v1 = builder().build_v1().map_err(unreadable)?;
    let v1alpha = builder().build_v1alpha().map_err(unreadable)?;
    Ok(routes.add_service(v1).add_service(v1alpha))
}

/// Serves until `stop` ends and the last call is answered.
///
/// # Errors
/// The TLS files cannot be used; the listener fails.
pub async fn serve(
    listener: TcpListener,
    Listened { routes, shortcut }: Listened,
    gate: Gate,
    config: &Config,
    stop: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let mut server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_PENDING_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT));
    if let Some(tls) = tls(config)? {
        server = server.tls_config(tls)?;
    }
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    server.layer(gate).layer(shortcut).add_routes(routes).serve_with_incoming_shutdown(incoming, stop).await?;
    Ok(())
}

fn tls(config: &Config) -> anyhow::Result<Option<ServerTlsConfig>> {
    use anyhow::Context;
    let server = &config.server;
    if server.tls_certificate_path.is_empty() {
        return Ok(None);
    }
    let read = |path: &str| std::fs::read(path).with_context(|| format!("reading {path}"));
    let identity = Identity::from_pem(read(&server.tls_certificate_path)?, read(&server.tls_key_path)?);
    Ok(Some(ServerTlsConfig::new().identity(identity)))
}
