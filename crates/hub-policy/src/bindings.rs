//! Which key speaks as which node: checked on each request, kept in `NodeIdentity` objects, revoked with the Node.
//!
//! ```text
//! request ─▶ NodeKeyAuthenticator ─ reads NodeIdentity ─▶ 401, or the node
//!                    │ first use of a key
//!                    ▼
//! Node deleted ─▶ BindingKeeper ─ writes NodeIdentity ─▶ on_change: its connections are closed
//! ```
//!
//! A node whose identity is revoked, whose Node was deleted, or that shows another key than the bound one is answered with
//! 401 from that moment on: the authenticator reads the store, so nothing has to be reported to it. The keeper records what
//! follows: that a key was used, that a Node is deleted.

use std::sync::Arc;

use api_edge::identity::{NodeIdentitySpec, NodeIdentityState};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use machinery_server::{
    AuthRequest, AuthenticateError, Authenticator, CertificateAuthenticator, EXTRA_KEY_SHA256, Identity, Server,
};
use machinery_store::{ChangeKind, Durability, Encoded, Expect, Key, Object, Op, Revision, Store, Watch};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use tracing::{info, warn};

/// The store's name of the kind.
pub const NODE_IDENTITIES: &str = "edge.selvedge.dev/nodeidentities";
const PATH: &str = "/apis/edge.selvedge.dev/v1alpha1/nodeidentities";

/// Uses that wait to be recorded. One that finds no space is reported again by the next request.
const USES_MAX: usize = 1024;

/// How often a binding is read and written anew when somebody else was faster.
const TRIES: usize = 5;

/// What the hub records for itself, in the store and of a resource that no API can serve: nobody deletes it by accident, and a
/// backup has it together with what it speaks of.
const MARKS: &str = "_hub/marks";

/// The mark that nodes of older versions have been given identities, so that it happens once: afterwards a node without one
/// is unknown. It was a ConfigMap in kube-system, of this name too.
const MIGRATED_NAME: &str = "selvedge-node-identities";

/// The identity of a node, and the revision of the object that holds it.
pub fn binding(store: &Store, node: &str) -> Option<(NodeIdentitySpec, Revision)> {
    let object = store.get(&Key::new(NODE_IDENTITIES, "", node))?;
    spec(&object).map(|spec| (spec, object.revision))
}

fn spec(object: &Object) -> Option<NodeIdentitySpec> {
    #[derive(serde::Deserialize)]
    struct Stored {
        spec: NodeIdentitySpec,
    }
    serde_json::from_slice::<Stored>(&object.bytes).ok().map(|stored| stored.spec)
}

/// A key was used for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyUse {
    node: String,
    key_sha256: String,
}

/// Recognises client certificates; those of nodes only as long as their key is the bound one.
pub struct NodeKeyAuthenticator {
    certificates: CertificateAuthenticator,
    uses: mpsc::Sender<KeyUse>,
}

/// Keeps the bindings; see [`BindingKeeper::run`].
pub struct BindingKeeper {
    uses: mpsc::Receiver<KeyUse>,
}

/// Both ends.
pub fn bindings() -> (NodeKeyAuthenticator, BindingKeeper) {
    let (tx, rx) = mpsc::channel(USES_MAX);
    (NodeKeyAuthenticator { certificates: CertificateAuthenticator, uses: tx }, BindingKeeper { uses: rx })
}

impl Authenticator for NodeKeyAuthenticator {
    fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Option<Identity>, AuthenticateError> {
        let Some(identity) = self.certificates.authenticate(request)? else { return Ok(None) };
        let Some(node) = identity.node_name() else { return Ok(Some(identity)) };
        let key = identity.extra(EXTRA_KEY_SHA256).unwrap_or_default();
        let Some((bound, _)) = binding(request.store, node) else {
            return Err(AuthenticateError::new(format!(
                "node {node:?} is not known to this hub; join it with a token (`selvedge token create` on the hub)"
            )));
        };
        check(node, key, &bound, request.store)?;
        if needs_record(&bound, key) {
            // When there is no space, the next request tries again.
            let _ = self.uses.try_send(KeyUse { node: node.to_owned(), key_sha256: key.to_owned() });
        }
        Ok(Some(identity))
    }
}

/// Whether a key may speak as a node now.
fn check(node: &str, key: &str, bound: &NodeIdentitySpec, store: &Store) -> Result<(), AuthenticateError> {
    let again = "join again with a new token (`selvedge token create` on the hub)";
    if bound.state == NodeIdentityState::Revoked {
        let why = if bound.reason.is_empty() { "it was revoked" } else { &bound.reason };
        return Err(AuthenticateError::new(format!("the key of node {node:?} is refused: {why}; {again}")));
    }
    if bound.registered && store.get(&Key::new("/nodes", "", node)).is_none() {
        return Err(AuthenticateError::new(format!("node {node:?} was deleted; {again}")));
    }
    if !bound.accepts(key) {
        return Err(AuthenticateError::new(format!("node {node:?} is bound to another key; {again}")));
    }
    Ok(())
}

/// Whether the use of a key is news: the first of a node, or the first after a renewal.
fn needs_record(bound: &NodeIdentitySpec, key: &str) -> bool {
    bound.keys.is_empty()
        || !bound.registered
        || (bound.keys.len() > 1 && bound.keys.last().is_some_and(|last| last == key))
}

/// What a binding is after a key was used; `None` when it stays.
fn recorded(bound: &NodeIdentitySpec, key: &str, has_node: bool) -> Option<NodeIdentitySpec> {
    if !bound.accepts(key) {
        return None;
    }
    let mut next = bound.clone();
    if bound.keys.is_empty() || bound.keys.last().is_some_and(|last| last == key) {
        // The first key is bound, and the renewed one alone is good from its first use.
        next.keys = vec![key.to_owned()];
    }
    next.registered |= has_node;
    (next != *bound).then_some(next)
}

/// Called with a node's name when its identity has changed.
pub type OnChange = Arc<dyn Fn(&str) + Send + Sync>;

impl BindingKeeper {
    /// Gives the nodes of older versions, which joined before keys were bound, an identity to which their first key will be
    /// bound. Does nothing at later starts. To be called when our kinds are served and nodes are not yet.
    ///
    /// # Errors
    /// When the API rejects it; the sentence says what.
    pub async fn migrate(&self, server: &Server, store: &Store) -> Result<(), String> {
        let mark = Key::new(MARKS, "", MIGRATED_NAME);
        if store.get(&mark).is_some() {
            return Ok(());
        }
        let is_done = store.get(&Key::new("/configmaps", "kube-system", MIGRATED_NAME)).is_some();
        if !is_done {
            bind_older_nodes(server, store).await?;
        }
        let encode = Box::new(|_| Encoded { bytes: Bytes::from_static(b"{}"), ..Encoded::default() });
        match store.commit(vec![Op::Put { key: mark, expect: Expect::Any, encode }], Durability::Group).await {
            // A full disk must not keep a hub from serving the nodes it has; the next start tries again.
            Err(error) if is_done => warn!(%error, "Failed to record that the nodes have identities."),
            Err(error) => return Err(format!("failed to record that the nodes have identities: {error}")),
            Ok(_) => {}
        }
        Ok(())
    }

    /// Records uses of keys and deletions of Nodes until `shutdown`; calls `on_change` after a node's identity has changed.
    pub async fn run(mut self, server: Server, store: Store, on_change: OnChange, shutdown: CancellationToken) {
        loop {
            // Listed first, then watched from there: nothing is missed, and a watch that fell behind begins anew.
            let (mut nodes, mut identities) = match start(&server, &store).await {
                Some(watches) => watches,
                None => {
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(std::time::Duration::from_secs(1)) => continue,
                    }
                }
            };
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    used = self.uses.recv() => match used {
                        Some(used) => record(&server, &store, &used).await,
                        None => return,
                    },
                    batch = nodes.next() => match batch {
                        Ok(batch) => for change in &batch.changes {
                            let name = &*change.object.key.name;
                            match change.kind {
                                ChangeKind::Delete => revoke(&server, &store, name, change.revision).await,
                                ChangeKind::Put if change.previous.is_none() => register(&server, &store, name).await,
                                ChangeKind::Put => {}
                            }
                        },
                        Err(_) => break,
                    },
                    batch = identities.next() => match batch {
                        Ok(batch) => for change in &batch.changes {
                            on_change(&change.object.key.name);
                        },
                        Err(_) => break,
                    },
                }
            }
            if shutdown.is_cancelled() {
                return;
            }
        }
    }
}

/// Gives every Node that is there an identity without a key.
async fn bind_older_nodes(server: &Server, store: &Store) -> Result<(), String> {
    let nodes = store.range("/nodes", None, None, None, None).map_err(|error| error.to_string())?;
    for node in &nodes.items {
        let bound = NodeIdentitySpec { generation: 1, registered: true, ..NodeIdentitySpec::default() };
        let object = json!({"metadata": {"name": &*node.key.name}, "spec": bound});
        match send(server, "POST", PATH, "application/json", &object).await {
            StatusCode::CREATED | StatusCode::CONFLICT => {}
            code => return Err(format!("failed to create the identity of node {}: {code}", node.key.name)),
        }
    }
    if !nodes.items.is_empty() {
        info!(
            nodes = nodes.items.len(),
            "Nodes that joined before keys were bound are bound to the next key they show."
        );
    }
    Ok(())
}

/// Brings the identities up to the Nodes that are there, and watches both from then on.
async fn start(server: &Server, store: &Store) -> Option<(Watch, Watch)> {
    let from = store.current();
    let watches = (store.watch("/nodes", from).ok()?, store.watch(NODE_IDENTITIES, from).ok()?);
    for identity in store.range(NODE_IDENTITIES, None, None, None, None).ok()?.items {
        let name = &*identity.key.name;
        let has_node = store.get(&Key::new("/nodes", "", name)).is_some();
        match spec(&identity) {
            Some(spec) if spec.is_live() && spec.registered && !has_node => revoke(server, store, name, from).await,
            Some(spec) if spec.is_live() && !spec.registered && has_node => register(server, store, name).await,
            _ => {}
        }
    }
    Some(watches)
}

async fn record(server: &Server, store: &Store, used: &KeyUse) {
    let has_node = store.get(&Key::new("/nodes", "", &used.node)).is_some();
    change(server, store, &used.node, |bound, _| recorded(bound, &used.key_sha256, has_node)).await;
}

/// A Node was created: from now on its absence means that it was deleted.
async fn register(server: &Server, store: &Store, node: &str) {
    change(server, store, node, |bound, _| {
        // A Node that an administrator created for a box which is still to come has no key yet.
        let is_news = bound.is_live() && !bound.registered && !bound.keys.is_empty();
        is_news.then(|| NodeIdentitySpec { registered: true, ..bound.clone() })
    })
    .await;
}

/// A Node was deleted at a revision: its key is good no longer. One that was bound after that is another's.
async fn revoke(server: &Server, store: &Store, node: &str, deleted: Revision) {
    let is_done = change(server, store, node, |bound, revision| {
        let is_due = bound.is_live() && revision <= deleted;
        is_due.then(|| NodeIdentitySpec {
            state: NodeIdentityState::Revoked,
            reason: "the node was deleted".to_owned(),
            registered: false,
            ..bound.clone()
        })
    })
    .await;
    if is_done {
        info!(node, "Revoked the key of a deleted node.");
    }
}

/// Changes a node's identity, unless `compute` sees nothing to do; answers whether something was written.
async fn change(
    server: &Server,
    store: &Store,
    node: &str,
    compute: impl Fn(&NodeIdentitySpec, Revision) -> Option<NodeIdentitySpec>,
) -> bool {
    let path = format!("{PATH}/{node}");
    for _ in 0..TRIES {
        let Some((bound, revision)) = binding(store, node) else { return false };
        let Some(next) = compute(&bound, revision) else { return false };
        // What is empty is left out of a spec, and has to be taken away by name.
        let mut spec = json!({"keys": [], "token": null, "labels": null, "reason": null});
        if let (Some(spec), Ok(Value::Object(next))) = (spec.as_object_mut(), serde_json::to_value(&next)) {
            spec.extend(next);
        }
        let patch = json!({"metadata": {"resourceVersion": revision.to_string()}, "spec": spec});
        match send(server, "PATCH", &path, "application/merge-patch+json", &patch).await {
            StatusCode::OK => return true,
            StatusCode::CONFLICT => {}
            StatusCode::NOT_FOUND => return false,
            code => {
                warn!(node, %code, "Failed to record a node's identity.");
                return false;
            }
        }
    }
    false
}

async fn send(server: &Server, method: &str, path: &str, media: &str, body: &Value) -> StatusCode {
    let request = Request::builder().method(method).uri(path).header(http::header::CONTENT_TYPE, media);
    let body = Full::new(Bytes::from(body.to_string()));
    let request = request.body(body).expect("method, path and media type are written here, names are Kubernetes'");
    let response = server.in_process(Identity::controllers()).call(request).await.expect("in process nothing fails");
    let code = response.status();
    if !code.is_success() {
        let text = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        tracing::debug!(path, %code, answer = %String::from_utf8_lossy(&text), "A write of the hub's own was rejected.");
    }
    code
}

#[cfg(test)]
mod tests;
