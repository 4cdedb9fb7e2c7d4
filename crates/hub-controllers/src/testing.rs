//! For the tests of single controllers: an API in the test's own process, and a context over it in which nothing runs.

use std::ops::Deref;

use hub_runtime::Context;
use hub_runtime::kinds::Kind;
use hub_testing::Hub;
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use machinery_server::ServerConfig;
use serde_json::json;

pub(crate) struct TestApi {
    pub context: Context,
    hub: Hub,
}

impl Deref for TestApi {
    type Target = Hub;

    fn deref(&self) -> &Hub {
        &self.hub
    }
}

impl TestApi {
    /// An API that holds what a new hub does.
    pub(crate) async fn start() -> Self {
        let hub = Hub::new(|config| ServerConfig { garbage_collected: crate::collects, ..config });
        crate::bootstrap::run(&hub.admin).await.unwrap();
        hub.make_service_account().await;
        Self { context: hub.context(), hub }
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
        Api::namespaced_with(self.client(), namespace, &gadgets())
    }
}

fn gadgets() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("example.org", "v1", "Gadget"), "gadgets")
}
