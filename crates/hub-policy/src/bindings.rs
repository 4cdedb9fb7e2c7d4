//! Which key speaks as which node: checked on each request, kept in `NodeIdentity` objects, revoked with the Node.
//!
//! ```text
//! request ─▶ NodeKeyAuthenticator ─ reads NodeIdentity ─▶ 401, or the node
//!                    │ first use of a key
//!                    ▼
//! Node deleted ─▶ BindingKeeper ─ writes NodeIdentity ─▶ on_change: its connections are closed
//! ```
//!
//! A Node that is created with a key is marked in the same commit as registered with it. So whoever creates Nodes and whoever
//! deletes them see one order: a request of the node that was let in before the deletion, and is carried out after it, finds
//! that the key's Node is no more, whether or not the keeper has written that down.
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
    AdmissionError, AdmissionRequest, AuthRequest, AuthenticateError, Authenticator, CertificateAuthenticator,
    EXTRA_KEY_SHA256, Identity, Server,
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

/// For each name of a node the box that created its Node last, of its own, by [`Bound::life`].
const REGISTRATIONS: &str = "_hub/registrations";

/// The mark that nodes of older versions have been given identities, so that it happens once: afterwards a node without one
/// is unknown. It was a ConfigMap in kube-system, of this name too.
const MIGRATED_NAME: &str = "selvedge-node-identities";

/// The identity of a node, and the revision of the object that holds it.
pub fn binding(store: &Store, node: &str) -> Option<(NodeIdentitySpec, Revision)> {
    Bound::of(store, node).map(|bound| (bound.spec, bound.revision))
}

/// A node's identity as stored.
struct Bound {
    spec: NodeIdentitySpec,
    uid: String,
    revision: Revision,
}

impl Bound {
    fn of(store: &Store, node: &str) -> Option<Self> {
        Self::decode(&*store.get(&Key::new(NODE_IDENTITIES, "", node))?)
    }

    fn decode(object: &Object) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Metadata {
            #[serde(default)]
            uid: String,
        }
        #[derive(serde::Deserialize)]
        struct Stored {
            metadata: Metadata,
            spec: NodeIdentitySpec,
        }
        let Stored { metadata, spec } = serde_json::from_slice(&object.bytes).ok()?;
        Some(Self { spec, uid: metadata.uid, revision: object.revision })
    }

    /// Which of the boxes that bore the name it is, from its join to its revocation; what is recorded of it meanwhile changes
    /// the object's revision, and not this.
    fn life(&self) -> String {
        format!("{}/{}", self.uid, self.spec.generation)
    }

    /// The revision at which this box has created its Node, if it has.
    fn registration(&self, store: &Store, node: &str) -> Option<Revision> {
        let mark = store.get(&Key::new(REGISTRATIONS, "", node))?;
        (mark.bytes == self.life().as_bytes()).then_some(mark.revision)
    }

    /// Whether there has been a Node of this box, so that its absence means that it was deleted. To be asked before looking for
    /// the Node: what is created in between must not pass for deleted.
    fn is_registered(&self, store: &Store, node: &str) -> bool {
        self.spec.registered || self.registration(store, node).is_some()
    }
}

/// Lets a node create its Node, if its key is good and has had none, and has the store hold that in the commit that creates it.
pub(crate) fn admit_registration(node: &str, request: &AdmissionRequest<'_>) -> Result<(), AdmissionError> {
    let forbid = |why: String| Err(AdmissionError::Forbidden(why));
    let key = Key::new(NODE_IDENTITIES, "", node);
    let Some(bound) = Bound::of(request.store, node) else {
        // Without a key it is not the node itself that calls, but an administrator in its name.
        if request.identity.extra(EXTRA_KEY_SHA256).is_some() {
            return forbid(format!("node {node:?} is not known to this hub"));
        }
        request.commit_with(Op::Check { key, expect: Expect::Absent });
        return Ok(());
    };
    if request.identity.extra(EXTRA_KEY_SHA256).is_some_and(|key| !bound.spec.accepts(key)) || !bound.spec.is_live() {
        return forbid(format!("the key of node {node:?} is refused"));
    }
    let mark = Key::new(REGISTRATIONS, "", node);
    let marked = request.store.get(&mark);
    if bound.is_registered(request.store, node) {
        return match request.store.get(&Key::new("/nodes", "", node)) {
            // Not left to the commit, before which it may be deleted.
            Some(_) => Err(AdmissionError::Exists),
            None => forbid(format!("node {node:?} was deleted; join again with a new token")),
        };
    }
    let life = Bytes::from(bound.life());
    request.commit_with(Op::Check { key, expect: Expect::Revision(bound.revision) });
    request.commit_with(Op::Put {
        key: mark,
        expect: marked.map_or(Expect::Absent, |marked| Expect::Revision(marked.revision)),
        encode: Box::new(move |_| Encoded { bytes: life, ..Encoded::default() }),
    });
    Ok(())
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
        let Some(bound) = Bound::of(request.store, node) else {
            return Err(AuthenticateError::new(format!(
                "node {node:?} is not known to this hub; join it with a token (`selvedge token create` on the hub)"
            )));
        };
        check(node, key, &bound, request.store)?;
        if needs_record(&bound.spec, key) {
            // When there is no space, the next request tries again.
            let _ = self.uses.try_send(KeyUse { node: node.to_owned(), key_sha256: key.to_owned() });
        }
        Ok(Some(identity))
    }
}

/// Whether a key may speak as a node now.
fn check(node: &str, key: &str, identity: &Bound, store: &Store) -> Result<(), AuthenticateError> {
    let (bound, again) = (&identity.spec, "join again with a new token (`selvedge token create` on the hub)");
    if bound.state == NodeIdentityState::Revoked {
        let why = if bound.reason.is_empty() { "it was revoked" } else { &bound.reason };
        return Err(AuthenticateError::new(format!("the key of node {node:?} is refused: {why}; {again}")));
    }
    if identity.is_registered(store, node) && store.get(&Key::new("/nodes", "", node)).is_none() {
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
        let Some(bound) = Bound::decode(&identity).filter(|bound| bound.spec.is_live()) else { continue };
        let is_registered = bound.is_registered(store, name);
        let has_node = store.get(&Key::new("/nodes", "", name)).is_some();
        match (is_registered, has_node) {
            (true, false) => revoke(server, store, name, from).await,
            (_, true) if !bound.spec.registered => register(server, store, name).await,
            _ => {}
        }
    }
    Some(watches)
}

async fn record(server: &Server, store: &Store, used: &KeyUse) {
    let has_node = store.get(&Key::new("/nodes", "", &used.node)).is_some();
    change(server, store, &used.node, |bound| recorded(&bound.spec, &used.key_sha256, has_node)).await;
}

/// A Node was created: from now on its absence means that it was deleted.
async fn register(server: &Server, store: &Store, node: &str) {
    change(server, store, node, |bound| {
        let bound = &bound.spec;
        // A Node that an administrator created for a box which is still to come has no key yet.
        let is_news = bound.is_live() && !bound.registered && !bound.keys.is_empty();
        is_news.then(|| NodeIdentitySpec { registered: true, ..bound.clone() })
    })
    .await;
}

/// A Node was deleted at a revision: its key is good no longer. One that was bound after that is another's, unless it had a Node
/// that is no more: then it is the same box, of which something was recorded since.
async fn revoke(server: &Server, store: &Store, node: &str, deleted: Revision) {
    let is_done = change(server, store, node, |bound| {
        let is_older = bound.revision <= deleted;
        let is_due = is_older
            || (bound.is_registered(store, node) && store.get(&Key::new("/nodes", "", node)).is_none())
            || bound.registration(store, node).is_some_and(|at| at <= deleted);
        (bound.spec.is_live() && is_due).then(|| NodeIdentitySpec {
            state: NodeIdentityState::Revoked,
            reason: "the node was deleted".to_owned(),
            registered: false,
            ..bound.spec.clone()
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
    compute: impl Fn(&Bound) -> Option<NodeIdentitySpec>,
) -> bool {
    let path = format!("{PATH}/{node}");
    for _ in 0..TRIES {
        let Some(bound) = Bound::of(store, node) else { return false };
        let Some(next) = compute(&bound) else { return false };
        // What is empty is left out of a spec, and has to be taken away by name.
        let mut spec = json!({"keys": [], "token": null, "labels": null, "reason": null});
        if let (Some(spec), Ok(Value::Object(next))) = (spec.as_object_mut(), serde_json::to_value(&next)) {
            spec.extend(next);
        }
        let patch = json!({"metadata": {"resourceVersion": bound.revision.to_string()}, "spec": spec});
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
