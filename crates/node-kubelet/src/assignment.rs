//! Whether this node has anything to do for the edge plane.

use std::collections::BTreeMap;
use std::sync::Arc;

use node_client::list_watch::{self, Reflector};
use node_client::{ApiClient, Object, StatusRegistry, encode};
use node_pods::{Store, StoreError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Follows the NodeAssignment of a node, and publishes whether it has entries.
struct Assignment {
    node: String,
    store: Arc<Store>,
    present: watch::Sender<Option<bool>>,
    parts: BTreeMap<String, bool>,
}

/// Follows the NodeAssignment of `node` until `shutdown`.
pub(crate) async fn run(
    client: ApiClient,
    node: String,
    store: Arc<Store>,
    present: watch::Sender<Option<bool>>,
    registry: StatusRegistry,
    shutdown: CancellationToken,
) {
    let source = Assignment { node, store, present, parts: BTreeMap::new() };
    list_watch::run(client, source, registry, shutdown).await;
}

impl Assignment {
    async fn publish(&mut self) -> Result<(), StoreError> {
        let present = self.parts.values().any(|has_entries| *has_entries);
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || store.put_assignment_present(present)).await {
            Ok(kept) => kept?,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
        self.present.send_if_modified(|current| current.replace(present) != Some(present));
        Ok(())
    }

    fn note(&mut self, part: &Object, is_deleted: bool) {
        let has_entries = part.field("spec")["entries"].as_array().is_some_and(|entries| !entries.is_empty());
        self.parts.insert(part.name().to_owned(), has_entries && !is_deleted);
    }
}

impl Reflector for Assignment {
    type Error = StoreError;

    fn path(&self) -> String {
        // By name alone, as a role with `resourceNames` allows it. A second part exists only where the first one is full.
        let selector = encode(&format!("metadata.name={}", self.node));
        format!("/apis/{}/nodeassignments?fieldSelector={selector}", api_edge::API_VERSION)
    }

    fn kind(&self) -> &'static str {
        "NodeAssignment"
    }

    async fn replace(&mut self, items: Vec<Object>, _resource_version: &str) -> Result<(), StoreError> {
        self.parts.clear();
        for item in &items {
            self.note(item, false);
        }
        self.publish().await
    }

    async fn apply(&mut self, part: Object) -> Result<(), StoreError> {
        self.note(&part, false);
        self.publish().await
    }

    async fn delete(&mut self, part: Object) -> Result<(), StoreError> {
        self.note(&part, true);
        self.publish().await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[tokio::test]
    async fn an_assignment_with_entries_in_any_part_is_present_and_remembered() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("node/pki")).unwrap();
        let store = Arc::new(Store::open(dir.path(), tokio_util::task::TaskTracker::new().token()).unwrap());
        assert_eq!(store.assignment_present(), None, "not known yet, which is not the same as none");
        let (present, seen) = watch::channel(None);
        let mut source = Assignment { node: "n".into(), store: store.clone(), present, parts: BTreeMap::new() };
        let part = |name: &str, entries: Value| {
            let metadata = json!({"name": name, "resourceVersion": "1"});
            Object::new(json!({"metadata": metadata, "spec": {"entries": entries}})).unwrap()
        };
        let parts = vec![part("n", json!([])), part("n.part-1", json!([{"kind": "Rule"}]))];
        source.replace(parts, "1").await.unwrap();
        assert_eq!((*seen.borrow(), store.assignment_present()), (Some(true), Some(true)));
        source.delete(part("n.part-1", json!([{"kind": "Rule"}]))).await.unwrap();
        assert_eq!((*seen.borrow(), store.assignment_present()), (Some(false), Some(false)));
    }
}
