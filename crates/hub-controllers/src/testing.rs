//! For the tests of single controllers: an API in the test's own process, and a context over it in which nothing runs.

use kube::Client;
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use machinery_server::{Identity, Server, ServerConfig};
use machinery_store::{Store, StoreOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use hub_runtime::Context;
use hub_runtime::StoreReader;
use hub_runtime::WallClock;
use hub_runtime::events::Recorder;
use hub_runtime::kinds::Kind;
use hub_runtime::writer::Writer;

pub(crate) struct TestApi {
    pub context: Context,
    pub server: Server,
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
        let config = ServerConfig { garbage_collected: crate::collects, ..ServerConfig::new(store.clone()) };
        let server = Server::new(config).unwrap();
        let writer = Writer::new(client(&server));
        crate::bootstrap::run(&writer).await.unwrap();
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"},
        });
        writer.create(Kind::ServiceAccount, account).await.unwrap();
        // Events go nowhere: nobody runs what writes them.
        let (recorder, _) = Recorder::new(writer.clone(), WallClock::System, CancellationToken::new());
        let context = Context { reader: StoreReader::new(store), writer, recorder, clock: WallClock::System };
        Self { context, server, _dir: dir }
    }

    pub(crate) fn writer_as(&self, user: &str, groups: &[&str]) -> Writer {
        let identity = Identity::new(user, groups.iter().copied());
        Writer::new(Client::new(self.server.in_process(identity), "default"))
    }

    pub(crate) async fn make(&self, kind: Kind, object: Value) -> Value {
        let mut full = json!({"apiVersion": kind.api_version(), "kind": kind.name()});
        for (field, value) in object.as_object().unwrap() {
            full[field] = value.clone();
        }
        self.context.writer.create(kind, full).await.unwrap().unwrap()
    }

    pub(crate) async fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        self.context.writer.get_now(kind, (namespace, name)).await.unwrap()
    }

    /// Defines the kind Gadget, which no controller knows.
    pub(crate) async fn define_gadgets(&self) {
        let version = json!({
            "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}},
        });
        let definition = json!({
            "metadata": {"name": "gadgets.example.org"},
            "spec": {
                "group": "example.org", "scope": "Namespaced", "versions": [version],
                "names": {"kind": "Gadget", "plural": "gadgets", "singular": "gadget", "listKind": "GadgetList"},
            },
        });
        self.make(Kind::CustomResourceDefinition, definition).await;
    }

    pub(crate) async fn gadget(&self, namespace: &str, name: &str) -> DynamicObject {
        let gadget = DynamicObject::new(name, &gadgets());
        self.gadgets(namespace).create(&PostParams::default(), &gadget).await.unwrap()
    }

    pub(crate) fn gadgets(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(client(&self.server), namespace, &gadgets())
    }
}

fn gadgets() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("example.org", "v1", "Gadget"), "gadgets")
}

fn client(server: &Server) -> Client {
    Client::new(server.in_process(Identity::new("admin", ["system:masters"])), "default")
}
