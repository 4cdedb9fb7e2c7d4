//! What the hub wishes for: lists and watches, each change on disk before anyone hears of it.
//!
//! Three sources: the pods of this node, the objects those refer to, and whether the node has an assignment. Each begins with a list when
//! there is a hub, follows with a watch, and begins anew when the watch breaks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::hub::{Event, Hub, HubError};
use crate::pods::Command;
use crate::pods::model::ANNOTATION_CONFIG_MIRROR;
use crate::pods::publisher::{Publication, revision_of};
use crate::report::{Board, chain};
use crate::store::{ObjectKey, Store, StoreError};

/// How long a watch is asked to last; the hub ends it in good order and it is opened anew from where it was.
const WATCH_SECONDS: u64 = 1800;
/// Objects beyond this are asked for instead of watched: each watch is a stream, and a hub allows some 250.
const WATCHED_MAX: usize = 100;
/// How often such an object is asked for, as Kubernetes' kubelets look at theirs.
const POLL_PERIOD: Duration = Duration::from_secs(60);
/// How often the API's CA is requested, which is replaced once in years: a watch of it by each node of a fleet would cost the hub more
/// than it tells.
const ROOT_CA_PERIOD: Duration = Duration::from_secs(900);
/// Pods in one page of a list.
const PAGE: u32 = 100;

/// A stream of objects: what to list, and what to do with what comes.
trait Source: Send {
    /// Path of the list, with its selectors.
    fn path(&self) -> String;
    /// The whole list. Answers whether it could be kept.
    fn replace(&mut self, items: Vec<Value>) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// One change.
    fn change(&mut self, object: Value, deleted: bool) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// Lists and watches until `shutdown`.
async fn follow(mut hub: Hub, mut source: impl Source, board: Board, shutdown: CancellationToken) {
    let mut retry = hub.retry();
    let mut since: Option<String> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = hub.connected() => {}
        }
        retry.attempt();
        let result = tokio::select! {
            () = shutdown.cancelled() => return,
            result = follow_once(&hub, &mut source, &mut since) => result,
        };
        match result {
            Ok(()) => retry.succeeded(),
            Err(error) => {
                let failures = retry.failures();
                // The place in the stream is only good while nothing was missed.
                if !error.is_outage() {
                    since = None;
                }
                let text = chain(&error);
                if failures == 0 && !matches!(error, FollowError::Expired) {
                    debug!(path = %source.path(), error = %text, "A watch ended.");
                }
                if !error.is_outage() && !matches!(error, FollowError::Expired) {
                    if failures == 0 {
                        warn!(path = %source.path(), error = %text, "Failed to follow the hub; trying again.");
                    }
                    board.error(text);
                }
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    _ = retry.pause() => {}
                }
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error("failed to keep what the hub told; it is not acted on until it is kept")]
    Store(#[from] StoreError),
    #[error("the hub asks for a new list")]
    Expired,
    #[error("the hub has not published it yet")]
    Unpublished,
}

impl FollowError {
    fn is_outage(&self) -> bool {
        matches!(self, Self::Hub(error) if error.is_outage())
    }
}

async fn follow_once(hub: &Hub, source: &mut impl Source, since: &mut Option<String>) -> Result<(), FollowError> {
    let path = source.path();
    let separator = if path.contains('?') { '&' } else { '?' };
    if since.is_none() {
        let mut items = Vec::new();
        let mut page = String::new();
        let version = loop {
            let mut list = hub.get(&format!("{path}{separator}limit={PAGE}{page}")).await?;
            if let Value::Array(more) = list["items"].take() {
                items.extend(more);
            }
            match list["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
                Some(token) => page = format!("&continue={}", encode(token)),
                None => break list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned(),
            }
        };
        source.replace(items).await?;
        *since = Some(version);
    }
    let version = since.clone().unwrap_or_default();
    let query = format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={version}");
    let mut watch = match hub.watch(&format!("{path}{separator}{query}")).await {
        Err(error) if error.code() == Some(410) => return expired(since),
        other => other?,
    };
    while let Some(event) = watch.next().await? {
        let (object, deleted) = match event {
            Event::Bookmark(version) => {
                *since = Some(version);
                continue;
            }
            Event::Error { code: 410, .. } => return expired(since),
            Event::Error { code, message } => {
                *since = None;
                let code = u16::try_from(code).unwrap_or(500);
                return Err(HubError::Status {
                    act: format!("watch {path}"),
                    code,
                    reason: String::new(),
                    message,
                    fields: Vec::new(),
                }
                .into());
            }
            Event::Applied(object) => (object, false),
            Event::Deleted(object) => (object, true),
        };
        let version = object["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        source.change(object, deleted).await?;
        if version.is_some() {
            *since = version;
        }
    }
    Ok(())
}

fn expired(since: &mut Option<String>) -> Result<(), FollowError> {
    *since = None;
    Err(FollowError::Expired)
}

/// What RFC 3986 leaves as it is.
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A value for a query string.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, QUERY_VALUE).to_string()
}

/// Runs a change of the store where it may block.
async fn keep<T: Send + 'static>(
    store: &Arc<Store>,
    change: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let store = store.clone();
    match tokio::task::spawn_blocking(move || change(&store)).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// The pods of this node.
struct Pods {
    node: String,
    store: Arc<Store>,
    commands: mpsc::Sender<Command>,
    publications: mpsc::Sender<Publication>,
}

/// Follows the pods of `node`.
pub(crate) async fn pods(
    hub: Hub,
    node: String,
    store: Arc<Store>,
    commands: mpsc::Sender<Command>,
    publications: mpsc::Sender<Publication>,
    board: Board,
    shutdown: CancellationToken,
) {
    follow(hub, Pods { node, store, commands, publications }, board, shutdown).await;
}

fn uid_of(object: &Value) -> Option<String> {
    object["metadata"]["uid"].as_str().filter(|uid| !uid.is_empty()).map(str::to_owned)
}

/// A Pod as it is kept: without what only the API server's bookkeeping needs.
fn trimmed(mut pod: Value) -> Bytes {
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod.to_string().into()
}

fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"][ANNOTATION_CONFIG_MIRROR].is_string()
}

impl Pods {
    /// What the hub shows of a pod, for whoever reports its status. Nothing depends on its being kept: a list says it again.
    async fn publish_shown(&self, pod: &Value) {
        let Some(uid) = uid_of(pod) else { return };
        let (is_mirror, revision) = (is_mirror(pod), revision_of(pod));
        let shown = Publication::Shown { uid, is_mirror, revision, status: pod["status"].clone() };
        // The publisher is gone at shutdown only.
        let _ = self.publications.send(shown).await;
    }
}

impl Source for Pods {
    fn path(&self) -> String {
        format!("/api/v1/pods?fieldSelector={}", encode(&format!("spec.nodeName={}", self.node)))
    }

    async fn replace(&mut self, items: Vec<Value>) -> Result<(), StoreError> {
        for pod in &items {
            self.publish_shown(pod).await;
        }
        // The publisher is gone at shutdown only.
        let _ = self.publications.send(Publication::Listed { uids: items.iter().filter_map(uid_of).collect() }).await;
        let pods: Vec<(String, Bytes)> =
            items.into_iter().filter_map(|pod| Some((uid_of(&pod)?, trimmed(pod)))).collect();
        let kept = pods.clone();
        keep(&self.store, move |store| store.replace_pods(&kept)).await?;
        // The manager is gone at shutdown only.
        let _ = self.commands.send(Command::HubPods(pods)).await;
        Ok(())
    }

    async fn change(&mut self, object: Value, deleted: bool) -> Result<(), StoreError> {
        let Some(uid) = uid_of(&object) else { return Ok(()) };
        if deleted {
            if is_mirror(&object) {
                let _ = self.publications.send(Publication::MirrorGone { hub_uid: uid.clone() }).await;
            }
            // The manager forgets it on disk when nothing of it needs it any more.
            let _ = self.commands.send(Command::HubPodGone(uid)).await;
            return Ok(());
        }
        self.publish_shown(&object).await;
        let json = trimmed(object);
        let (key, kept) = (uid.clone(), json.clone());
        keep(&self.store, move |store| store.put_pod(&key, kept)).await?;
        let _ = self.commands.send(Command::HubPod(uid, json)).await;
        Ok(())
    }
}

/// Whether this node has anything to do for the edge plane.
struct Assignment {
    node: String,
    store: Arc<Store>,
    present: watch::Sender<bool>,
    parts: BTreeMap<String, bool>,
}

/// Follows the NodeAssignment of `node` and publishes whether it has entries.
pub(crate) async fn assignment(
    hub: Hub,
    node: String,
    store: Arc<Store>,
    present: watch::Sender<bool>,
    board: Board,
    shutdown: CancellationToken,
) {
    let source = Assignment { node, store, present, parts: BTreeMap::new() };
    follow(hub, source, board, shutdown).await;
}

impl Assignment {
    async fn tell(&mut self) -> Result<(), StoreError> {
        let present = self.parts.values().any(|has_entries| *has_entries);
        keep(&self.store, move |store| store.put_assignment_present(present)).await?;
        self.present.send_if_modified(|current| std::mem::replace(current, present) != present);
        Ok(())
    }

    fn note(&mut self, object: &Value, deleted: bool) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let has_entries = object["spec"]["entries"].as_array().is_some_and(|entries| !entries.is_empty());
        self.parts.insert(name, has_entries && !deleted);
    }
}

impl Source for Assignment {
    fn path(&self) -> String {
        let selector = encode(&format!("{}={}", api_edge::LABEL_NODE, self.node));
        format!("/apis/{}/nodeassignments?labelSelector={selector}", api_edge::API_VERSION)
    }

    async fn replace(&mut self, items: Vec<Value>) -> Result<(), StoreError> {
        self.parts.clear();
        for item in &items {
            self.note(item, false);
        }
        self.tell().await
    }

    async fn change(&mut self, object: Value, deleted: bool) -> Result<(), StoreError> {
        self.note(&object, deleted);
        self.tell().await
    }
}

/// Keeps a task per object that some pod refers to.
pub(crate) async fn objects(
    hub: Hub,
    store: Arc<Store>,
    mut wanted: watch::Receiver<BTreeSet<ObjectKey>>,
    commands: mpsc::Sender<Command>,
    shutdown: CancellationToken,
) {
    let mut tasks: BTreeMap<ObjectKey, tokio_util::sync::DropGuard> = BTreeMap::new();
    let mut running = tokio::task::JoinSet::new();
    let mut listed_once = false;
    loop {
        // What has ended is taken out of the set.
        while running.try_join_next().is_some() {}
        let now: BTreeSet<ObjectKey> = wanted.borrow_and_update().clone();
        tasks.retain(|key, _| now.contains(key));
        for key in &now {
            if !tasks.contains_key(key) {
                let stop = shutdown.child_token();
                let watched = tasks.len() < WATCHED_MAX && !key.is_root_ca();
                running.spawn(object(hub.clone(), store.clone(), key.clone(), watched, commands.clone(), stop.clone()));
                tasks.insert(key.clone(), stop.drop_guard());
            }
        }
        // The first value is from before the stored pods were taken up.
        if listed_once {
            let kept = now.clone();
            if let Err(error) = keep(&store, move |store| store.retain_objects(&kept)).await {
                warn!(error = %chain(&error), "Failed to forget objects that no pod refers to.");
            }
        }
        listed_once = true;
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = wanted.changed() => if changed.is_err() { break },
        }
    }
    running.shutdown().await;
}

/// Keeps one object up to date.
async fn object(
    mut hub: Hub,
    store: Arc<Store>,
    key: ObjectKey,
    watched: bool,
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
) {
    let base = format!("/api/v1/namespaces/{}/{}", key.namespace, key.kind.plural());
    let mut retry = hub.retry();
    loop {
        let round = async {
            hub.connected().await;
            retry.attempt();
            let object = match hub.get(&format!("{base}/{}", key.name)).await {
                Ok(object) => Some(object),
                Err(error) if error.code() == Some(404) => None,
                Err(error) => return Err(FollowError::from(error)),
            };
            let is_published = object.is_some() || !key.is_root_ca();
            take_object(&store, &key, object, &commands).await?;
            if !is_published {
                // A namespace gets it right after its creation.
                return Err(FollowError::Unpublished);
            }
            if !watched {
                retry.succeeded();
                retry.rest(if key.is_root_ca() { ROOT_CA_PERIOD } else { POLL_PERIOD }).await;
                return Ok(());
            }
            let selector = encode(&format!("metadata.name={}", key.name));
            let list = hub.get(&format!("{base}?fieldSelector={selector}&limit=1")).await?;
            take_object(&store, &key, list["items"].get(0).cloned(), &commands).await?;
            let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            let query = format!("watch=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={version}");
            let mut watch = hub.watch(&format!("{base}?fieldSelector={selector}&{query}")).await?;
            while let Some(event) = watch.next().await? {
                match event {
                    Event::Applied(object) => take_object(&store, &key, Some(object), &commands).await?,
                    Event::Deleted(_) => take_object(&store, &key, None, &commands).await?,
                    Event::Bookmark(_) => {}
                    Event::Error { .. } => return Err(FollowError::Expired),
                }
            }
            Ok(())
        };
        let result = tokio::select! {
            () = stop.cancelled() => return,
            result = round => result,
        };
        let pause = async {
            match result {
                Ok(()) => retry.succeeded(),
                // A hub that lets the object be read but not watched: ask now and then.
                Err(FollowError::Hub(HubError::Status { code: 400 | 403 | 405, .. })) => {
                    retry.rest(POLL_PERIOD).await;
                }
                Err(error) => {
                    debug!(kind = key.kind.singular(), name = %key.name, error = %chain(&error), "An object could not be followed.");
                    retry.pause().await;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = pause => {}
        }
    }
}

async fn take_object(
    store: &Arc<Store>,
    key: &ObjectKey,
    mut object: Option<Value>,
    commands: &mpsc::Sender<Command>,
) -> Result<(), StoreError> {
    if let Some(metadata) = object.as_mut().and_then(|object| object["metadata"].as_object_mut()) {
        metadata.remove("managedFields");
    }
    let kept = key.clone();
    if keep(store, move |store| store.put_object(&kept, object.as_ref())).await? {
        let _ = commands.send(Command::ObjectChanged(key.clone())).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
