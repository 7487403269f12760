//! One server for one test: its own ports, its own folder, nothing left behind.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use marquee::app::{App, Listeners};
use marquee::clock::Clock;
use marquee::config::{Config, Secret};
use marquee::store::Store;
use marquee_engine::bundle::{self, ArrayFiles, Parts};
use marquee_engine::index::BuildParams;
use marquee_engine::types::Item;
use marquee_engine::world::ItemStats;
use marquee_proto::v1;
use marquee_proto::v1::admin_service_client::AdminServiceClient;
use marquee_proto::v1::catalog_service_client::CatalogServiceClient;
use marquee_proto::v1::event_service_client::EventServiceClient;
use marquee_proto::v1::recommendation_service_client::RecommendationServiceClient;
use marquee_proto::v1::user_service_client::UserServiceClient;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

pub(crate) const TOKEN: &str = "an-admin-token-of-a-test";

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) store: Arc<dyn Store>,
    public: Channel,
    admin: Channel,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<anyhow::Result<()>>,
}

/// The default config over that folder, with the admin token.
pub(crate) fn config(folder: &Path) -> Config {
    let mut config = Config::default();
    config.store.url = format!("sqlite://{}", folder.join("marquee.db").display()).into();
    config.artifacts.url = format!("file://{}", folder.join("bundles").display()).into();
    config.events.quarantine_folder = folder.join("quarantine").display().to_string();
    config.server.compute_threads = 2;
    // The machine that tests run on may be slow; freshness is tested, its speed is not.
    config.ranking.fresh_wait_ms = 5_000;
    config.admin_token = Some(Secret::new(TOKEN.to_owned()));
    config
}

impl Server {
    /// The default server over that folder.
    pub(crate) async fn start(folder: &TempDir) -> Server {
        Server::with(config(folder.path())).await
    }

    /// A server of that config.
    pub(crate) async fn with(config: Config) -> Server {
        let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listeners = Listeners { public: bind().await, admin: bind().await, metrics: bind().await };
        let at = |listener: &TcpListener| listener.local_addr().unwrap();
        let (address, admin, metrics) = (at(&listeners.public), at(&listeners.admin), at(&listeners.metrics));
        let app = App::build(config, Clock::system()).await.unwrap();
        let store = app.store.clone();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(app.run(listeners, async move {
            let _ = stopped.await;
        }));
        let channel =
            async |address| Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        let (public, admin) = (channel(address).await, channel(admin).await);
        Server { address, metrics, store, public, admin, stop: Some(stop), task }
    }

    pub(crate) fn recommendations(&self) -> RecommendationServiceClient<Channel> {
        RecommendationServiceClient::new(self.public.clone())
    }

    pub(crate) fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.public.clone())
    }

    pub(crate) fn catalog(&self) -> CatalogServiceClient<Channel> {
        CatalogServiceClient::new(self.public.clone())
    }

    pub(crate) fn users(&self) -> UserServiceClient<Channel> {
        UserServiceClient::new(self.public.clone())
    }

    pub(crate) fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.admin.clone())
    }

    pub(crate) fn channel(&self) -> Channel {
        self.public.clone()
    }

    /// Adds items; gives the write token.
    pub(crate) async fn upsert(&self, items: Vec<v1::Item>) -> String {
        self.catalog().upsert_items(v1::UpsertItemsRequest { items }).await.unwrap().into_inner().write_token
    }

    /// Records likes; gives the write token.
    pub(crate) async fn like(&self, user: &str, items: &[&str]) -> String {
        let events = items.iter().map(|item| like(&format!("{user}-{item}"), user, item)).collect();
        let answer = self.events().record_events(v1::RecordEventsRequest { events }).await.unwrap().into_inner();
        assert!(answer.results.iter().all(|result| result.status() != v1::EventStatus::Rejected), "{answer:?}");
        answer.write_token
    }

    pub(crate) async fn recommend(&self, request: v1::RecommendRequest) -> Result<v1::RecommendResponse, Status> {
        self.recommendations().recommend(request).await.map(tonic::Response::into_inner)
    }

    /// Tells it to stop and does not wait.
    pub(crate) fn signal(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Tells it to stop and waits until it has.
    pub(crate) async fn stop(mut self) {
        self.signal();
        drop((self.public, self.admin));
        tokio::time::timeout(Duration::from_secs(30), self.task).await.unwrap().unwrap().unwrap();
    }
}

/// An item of a genre.
pub(crate) fn item(id: &str, genre: &str) -> v1::Item {
    v1::Item {
        id: id.to_owned(),
        title: format!("Film {id}"),
        year: 1990,
        genres: vec![genre.to_owned()],
        ..Default::default()
    }
}

/// `count` items "i0" and so on, of two genres.
pub(crate) fn items(count: usize) -> Vec<v1::Item> {
    (0..count).map(|at| item(&format!("i{at}"), if at % 2 == 0 { "drama" } else { "comedy" })).collect()
}

/// A like.
pub(crate) fn like(id: &str, user: &str, item: &str) -> v1::Event {
    v1::Event {
        id: id.to_owned(),
        user_id: user.to_owned(),
        item_id: item.to_owned(),
        r#type: v1::EventType::Like.into(),
        ..Default::default()
    }
}

/// A request of a user.
pub(crate) fn of(user: &str) -> v1::RecommendRequest {
    v1::RecommendRequest { user_id: user.to_owned(), ..Default::default() }
}

/// Item ids of a slate.
pub(crate) fn ids(results: &[v1::Result]) -> Vec<String> {
    results.iter().map(|result| result.item_id.clone()).collect()
}

/// With the admin token.
pub(crate) fn authorized<T>(message: T) -> Request<T> {
    with_token(message, TOKEN)
}

/// With that bearer token.
pub(crate) fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// Writes a bundle of these items without any model and gives its folder.
pub(crate) fn write_bundle(folder: &Path, version: &str, ids: &[&str]) -> PathBuf {
    let bundles = folder.join("bundles");
    // Nobody did anything with them: they are found because they are new.
    let created_ms = Some(Clock::system().now_ms());
    let item =
        |id: &&str| Arc::new(Item { id: (*id).into(), title: format!("Film {id}"), created_ms, ..Item::default() });
    let items: Vec<Arc<Item>> = ids.iter().map(item).collect();
    let stats = vec![ItemStats::default(); items.len()];
    let parts = Parts {
        version: version.to_owned(),
        created_ms: 1_700_000_000_000 + i64::try_from(version.len()).unwrap(),
        watermark: 0,
        until_ms: None,
        parent: None,
        items: &items,
        stats: &stats,
        surfaces: &[],
        users: &[],
        files: ArrayFiles { models: folder.join("no-models"), vocabulary: folder.join("no-vocabulary.jsonl") },
        metrics: BTreeMap::from([("ndcg_at_10".to_owned(), 0.1)]),
        no_ranker_because: Some("0 positive events in the training window".to_owned()),
        graph: BuildParams::default(),
    };
    std::fs::create_dir_all(&bundles).unwrap();
    bundle::write(&bundles, &parts, |_| ()).unwrap();
    bundles.join(version)
}
