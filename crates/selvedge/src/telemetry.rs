//! Wires telemetry to the API server: the hub's port, the exports that nodes have been given, and Events for people.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use base_http::Body;
use futures::future::BoxFuture;
use http::{Request, Response};
use hub_telemetry::routes::{Sender, TelemetryRoutes};
use hub_telemetry::{AssignedExports, EpochConflict, Observer};
use k8s_openapi::api::core::v1::{Event, Node};
use kube::api::{Api, PostParams};
use machinery_server::{Extension, Identity, RequestBody};
use machinery_store::{ChangeKind, Object, Revision, Store};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Where the API server keeps assignments.
const ASSIGNMENTS: &str = "edge.selvedge.dev/nodeassignments";

/// Telemetry on the API's port, with the API's identities.
pub struct TelemetryExtension(pub TelemetryRoutes);

impl Extension for TelemetryExtension {
    fn prefix(&self) -> &'static str {
        TelemetryRoutes::PREFIX
    }

    fn call<'a>(&'a self, request: Request<RequestBody>, identity: &'a Identity) -> BoxFuture<'a, Response<Body>> {
        Box::pin(self.0.call(request, Sender { user: &identity.user, groups: &identity.groups }))
    }
}

/// The exports that each node has been given, kept up to date by a watch of the API server's store.
///
/// A node may know its assignment a moment before this does; its batch is then rejected in a way that makes it try again.
#[derive(Default)]
pub struct Assignments {
    /// By node, then by the part of the assignment.
    exports: RwLock<HashMap<String, HashMap<String, HashSet<String>>>>,
}

/// As much of a `NodeAssignment` as is looked at.
#[derive(Deserialize)]
struct Assignment {
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
    entries: Vec<Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    kind: String,
    namespace: String,
    name: String,
}

impl AssignedExports for Assignments {
    fn is_assigned(&self, node: &str, export: &str) -> bool {
        let exports = self.exports.read().unwrap_or_else(PoisonError::into_inner);
        exports.get(node).is_some_and(|parts| parts.values().any(|names| names.contains(export)))
    }
}

impl Assignments {
    /// Reads what the store holds, so that nothing is rejected that was taken before a restart.
    pub fn load(&self, store: &Store) -> Result<Revision> {
        let range = store.range(ASSIGNMENTS, None, None, None, None).context("failed to list the assignments")?;
        self.exports.write().unwrap_or_else(PoisonError::into_inner).clear();
        range.items.iter().for_each(|object| self.put(object));
        Ok(range.revision)
    }

    /// Follows the store from the revision of [`Assignments::load`] until the shutdown, or until the store is closed.
    pub async fn follow(self: Arc<Self>, store: Store, mut from: Revision, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let followed = shutdown.run_until_cancelled(self.follow_once(&store, from)).await;
            let Some(ended) = followed else { return };
            debug!(ended, "The watch of assignments ended; reading them again.");
            match self.load(&store) {
                Ok(revision) => from = revision,
                Err(error) => {
                    warn!("{error:#}");
                    return;
                }
            }
        }
    }

    async fn follow_once(&self, store: &Store, from: Revision) -> String {
        let mut watch = match store.watch(ASSIGNMENTS, from) {
            Ok(watch) => watch,
            Err(error) => return error.to_string(),
        };
        loop {
            match watch.next().await {
                Ok(batch) => {
                    for change in batch.changes {
                        match change.kind {
                            ChangeKind::Put => self.put(&change.object),
                            ChangeKind::Delete => self.remove(&change.object.key.name),
                        }
                    }
                }
                Err(ended) => return ended.to_string(),
            }
        }
    }

    /// Whose assignment an object is, is written in the object, never in its name.
    fn put(&self, object: &Object) {
        let name = &*object.key.name;
        self.remove(name);
        match serde_json::from_slice::<Assignment>(&object.bytes) {
            Ok(Assignment { spec }) => {
                let exports = spec.entries.into_iter().filter(|entry| entry.kind == "Export");
                let exports = exports.map(|entry| format!("{}/{}", entry.namespace, entry.name)).collect();
                let mut all = self.exports.write().unwrap_or_else(PoisonError::into_inner);
                all.entry(spec.node_name).or_default().insert(name.to_owned(), exports);
            }
            Err(error) => warn!(assignment = name, %error, "An assignment cannot be read; its exports are rejected."),
        }
    }

    fn remove(&self, name: &str) {
        let mut all = self.exports.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, parts| {
            parts.remove(name);
            !parts.is_empty()
        });
    }
}

/// Conflicts that wait to be written; more than that at a time are many boxes made from one image, and one is enough.
const CONFLICTS_WAITING_MAX: usize = 16;

/// A node that is rejected tries again within seconds; one Event in this time says it all.
const EVENT_PERIOD_MIN: Duration = Duration::from_secs(600);

/// Nodes whose last Event is remembered.
const NODES_REMEMBERED_MAX: usize = 1_024;

/// Hands conflicts on to [`write_conflicts`].
pub struct Conflicts(mpsc::Sender<EpochConflict>);

impl Conflicts {
    /// The observer, and what it hands on.
    pub fn channel() -> (Self, mpsc::Receiver<EpochConflict>) {
        let (sender, receiver) = mpsc::channel(CONFLICTS_WAITING_MAX);
        (Self(sender), receiver)
    }
}

impl Observer for Conflicts {
    fn epoch_conflict(&self, conflict: &EpochConflict) {
        // One that does not fit comes again with the next try of the node.
        let _ = self.0.try_send(conflict.clone());
    }
}

/// Makes an Event on the Node of each conflict, until the sender is dropped.
pub async fn write_conflicts(mut conflicts: mpsc::Receiver<EpochConflict>, client: kube::Client) {
    let mut written: HashMap<String, Instant> = HashMap::new();
    while let Some(conflict) = conflicts.recv().await {
        if written.get(&conflict.node).is_some_and(|at| at.elapsed() < EVENT_PERIOD_MIN) {
            continue;
        }
        if let Err(error) = write_conflict(&conflict, &client).await {
            warn!(node = conflict.node, "Failed to write an Event: {error:#}");
            continue;
        }
        if written.len() >= NODES_REMEMBERED_MAX {
            written.clear();
        }
        written.insert(conflict.node, Instant::now());
    }
}

async fn write_conflict(conflict: &EpochConflict, client: &kube::Client) -> Result<()> {
    let node = Api::<Node>::all(client.clone()).get(&conflict.node).await.context("failed to get the node")?;
    let now = jiff::Timestamp::now();
    let seconds = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let event: Event = serde_json::from_value(json!({
        "metadata": {"name": format!("{}.{:x}", conflict.node, now.as_nanosecond()), "namespace": "default"},
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": conflict.node, "uid": node.metadata.uid},
        "reason": "TelemetryEpochConflict",
        "message": conflict.to_string(),
        "type": "Warning",
        "count": 1,
        "firstTimestamp": seconds,
        "lastTimestamp": seconds,
        "source": {"component": "selvedge-hub"},
        "reportingComponent": "selvedge-hub",
        "reportingInstance": "",
    }))
    .context("an Event is JSON")?;
    let events = Api::<Event>::namespaced(client.clone(), "default");
    events.create(&PostParams::default(), &event).await.context("failed to create it").map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use machinery_store::{Durability, Encoded, Expect, Key, Op, StoreOptions};

    use super::*;

    async fn put(store: &Store, name: &str, object: serde_json::Value) {
        let bytes = bytes::Bytes::from(object.to_string());
        let op = Op::Put {
            key: Key::new(ASSIGNMENTS, "", name),
            expect: Expect::Any,
            encode: Box::new(move |_| Encoded { bytes, ..Encoded::default() }),
        };
        store.commit(vec![op], Durability::Group).await.expect("a sound disk");
    }

    fn assignment(node: &str, exports: &[&str]) -> serde_json::Value {
        let entries = exports.iter().map(|name| json!({"kind": "Export", "namespace": "default", "name": name}));
        let rule = json!({"kind": "Rule", "namespace": "default", "name": "rule", "spec": {"sql": "SELECT"}});
        json!({"spec": {"nodeName": node, "part": 0, "parts": 1, "entries": entries.chain([rule]).collect::<Vec<_>>()}})
    }

    async fn becomes(assignments: &Assignments, node: &str, export: &str, expected: bool) {
        let waiting = async {
            while assignments.is_assigned(node, export) != expected {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        waited.unwrap_or_else(|_| panic!("{export} of {node} never becomes {expected}"));
    }

    #[tokio::test]
    async fn exports_are_taken_as_soon_as_the_store_assigns_them_and_no_longer() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path(), StoreOptions::default()).expect("a new store");
        // The name of a part says nothing: an object belongs to the node that it names.
        put(&store, "gw-1.part-1", assignment("gw-2", &["first"])).await;
        let assignments = Arc::new(Assignments::default());
        let from = assignments.load(&store).expect("a list");
        assert!(assignments.is_assigned("gw-2", "default/first"));
        assert!(!assignments.is_assigned("gw-1", "default/first"));
        assert!(!assignments.is_assigned("gw-2", "default/rule"));
        let shutdown = CancellationToken::new();
        let following = tokio::spawn(assignments.clone().follow(store.clone(), from, shutdown.clone()));
        put(&store, "gw-1", assignment("gw-1", &["second"])).await;
        becomes(&assignments, "gw-1", "default/second", true).await;
        put(&store, "gw-1", assignment("gw-1", &[])).await;
        becomes(&assignments, "gw-1", "default/second", false).await;
        let key = Key::new(ASSIGNMENTS, "", "gw-1.part-1");
        let delete = Op::Delete { key, expect: Expect::Any, final_bytes: Box::new(|_| bytes::Bytes::new()) };
        store.commit(vec![delete], Durability::Group).await.expect("a sound disk");
        becomes(&assignments, "gw-2", "default/first", false).await;
        shutdown.cancel();
        following.await.expect("no panic");
    }
}
