//! For the tests of single controllers: an API in the test's own process, and a context over it in which nothing runs.

use hub_runtime::events::Recorder;
use hub_runtime::kinds::Kind;
use hub_runtime::writer::Writer;
use hub_runtime::{Context, StoreReader, WallClock};
use kube::Client;
use machinery_server::{Identity, Server, ServerConfig};
use machinery_store::{Store, StoreOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub(crate) struct TestApi {
    pub context: Context,
    _dir: tempfile::TempDir,
}

impl TestApi {
    /// An API that holds what a new hub does.
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            indexed_fields: machinery_server::INDEXED_FIELDS.to_vec(),
            index_version: machinery_server::INDEX_VERSION,
            ..StoreOptions::default()
        };
        let store = Store::open(dir.path(), options).unwrap();
        let config = ServerConfig { garbage_collected: hub_controllers::collects, ..ServerConfig::new(store.clone()) };
        let server = Server::new(config).unwrap();
        let client = Client::new(server.in_process(Identity::new("admin", ["system:masters"])), "default");
        hub_controllers::bootstrap(&client).await.unwrap();
        let writer = Writer::new(client);
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"},
        });
        writer.create(Kind::ServiceAccount, account).await.unwrap();
        // Events go nowhere: nobody runs what writes them.
        let (recorder, _) = Recorder::new(writer.clone(), WallClock::System, CancellationToken::new());
        let context = Context { reader: StoreReader::new(store), writer, recorder, clock: WallClock::System };
        Self { context, _dir: dir }
    }

    pub(crate) async fn make(&self, kind: Kind, object: Value) -> Value {
        let mut full = json!({"apiVersion": kind.api_version(), "kind": kind.name()});
        for (field, value) in object.as_object().unwrap() {
            full[field] = value.clone();
        }
        self.context.writer.create(kind, full).await.unwrap().unwrap()
    }
}
