//! What the hub desires of this node: its pods, and the objects that they refer to. Each change is on disk before it is acted on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use node_client::list_watch::{self, Reflector};
use node_client::{ApiClient, ApiError, Event, HubState, Malformed, Object, StatusRegistry, Verified, chain, encode};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::claims;
use crate::manager::Command;
use crate::model::ANNOTATION_CONFIG_MIRROR;
use crate::publisher::Publisher;
use crate::store::{ObjectKey, ObjectKind, Store, StoreError};

/// How long a watch is asked to last; the hub ends it in good order and it is opened anew from where it was.
const WATCH_SECONDS: u64 = 1800;
/// Objects beyond this are polled instead of watched. Each watch is a stream, and stock API servers allow a hundred on a connection:
/// leases and statuses need theirs as well.
const WATCHED_MAX: usize = 60;
/// How often such an object is polled, as Kubernetes' kubelets do with theirs.
const POLL_PERIOD: Duration = Duration::from_secs(60);
/// How often a claim or its volume is requested until it is there and bound: a pod waits for it.
const CLAIM_PERIOD: Duration = Duration::from_secs(5);
/// How often the API's CA is requested, which is replaced once in years: a watch of it by each node of a fleet would cost the hub more
/// than it is worth.
const ROOT_CA_PERIOD: Duration = Duration::from_secs(900);
/// How long the pods of a new connection wait for the Lease's word on whether this is the hub that was known.
const VERIFY_MAX: Duration = Duration::from_secs(30);

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

/// Follows the pods of this node.
pub(crate) struct Pods {
    pub node: String,
    pub store: Arc<Store>,
    pub commands: mpsc::Sender<Command>,
    pub publisher: Publisher,
    /// What the Lease says of the hub.
    pub verified: watch::Receiver<Verified>,
    /// What the hub must show that the pods here were listed from.
    pub known: HubState,
    /// What the hub shows over the present connection.
    pub present: Verified,
    /// What is on disk of `known`, and the connection over which it was learned.
    pub kept: watch::Sender<(u64, HubState)>,
    /// The last list could not be kept.
    pub is_incomplete: bool,
    pub registry: StatusRegistry,
}

fn is_mirror(pod: &Object) -> bool {
    pod.field("metadata")["annotations"][ANNOTATION_CONFIG_MIRROR].is_string()
}

/// A Pod as it is kept: without what only the API server's bookkeeping needs.
fn trimmed(mut pod: Object) -> Bytes {
    pod.trim();
    pod.set_type("v1", "Pod");
    pod.into_value().to_string().into()
}

/// What a version of a pod is worth to a node that has an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worth {
    /// It says nothing that the node does not say itself.
    Nothing,
    /// A power cut may undo it.
    Later,
    /// It must still be known after a power cut.
    Now,
}

/// What the difference between two versions of a pod is worth. The node's own status comes back with each report; but a pod that is
/// over must not start again.
fn worth_keeping(before: &[u8], now: &[u8]) -> Worth {
    fn essence(bytes: &[u8]) -> Option<(Value, Value)> {
        let mut pod: Value = serde_json::from_slice(bytes).ok()?;
        let fields = pod.as_object_mut()?;
        let status = fields.remove("status").unwrap_or_default();
        fields.get_mut("metadata")?.as_object_mut()?.remove("resourceVersion");
        let is_over = matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"));
        fields.insert("isOver".to_owned(), is_over.into());
        let report = ["phase", "reason", "startTime"].map(|field| status.get(field).cloned().unwrap_or_default());
        Some((pod, Value::from(report.to_vec())))
    }
    match (essence(before), essence(now)) {
        (Some(before), Some(now)) if before == now => Worth::Nothing,
        (Some((before, _)), Some((now, _))) if before == now => Worth::Later,
        _ => Worth::Now,
    }
}

impl Pods {
    async fn keep_pod(&self, uid: String, json: Bytes, state: HubState) -> Result<(), StoreError> {
        keep(&self.store, move |store| {
            match store.pod(&uid).map_or(Worth::Now, |before| worth_keeping(&before, &json)) {
                Worth::Nothing => Ok(()),
                Worth::Later => {
                    // How far the hub had come is what a hub that was put back is known by.
                    store.put_hub_state(&state)?;
                    store.put_pod_later(&uid, json)
                }
                Worth::Now => {
                    store.put_hub_state(&state)?;
                    store.put_pod(&uid, json)
                }
            }
        })
        .await
    }

    /// What the hub that is listed now must show later.
    fn known_from_now_on(&self) -> HubState {
        match &self.present.state {
            Some(state) if state.lease_uid == self.present.confirmed.lease_uid => self.present.confirmed.clone(),
            Some(state) => HubState { lease_uid: state.lease_uid.clone(), ..HubState::default() },
            None => HubState { seen: 0, ..self.known.clone() },
        }
    }

    /// Notes how far the hub has come, for the disk: with each pod that is kept.
    fn advance(&mut self, revision: u64) -> HubState {
        let now = self.verified.borrow().clone();
        if now.connection == self.present.connection {
            self.present = now;
        }
        let seen = self.known.seen.max(revision);
        self.known = HubState { seen, ..self.known_from_now_on() };
        self.kept.send_replace((self.present.connection, self.known.clone()));
        self.known.clone()
    }

    /// Whether the hub is the one that started the pods that are here.
    fn is_same_hub(&self, list_revision: u64) -> bool {
        let is_known = self.present.state.as_ref().is_none_or(|present| self.known.continues_as(present));
        // A list of before a renewal of the Lease that is known comes from a hub that was restored.
        is_known && (list_revision == 0 || list_revision >= self.known.revision.max(self.known.seen))
    }
}

impl Reflector for Pods {
    type Error = StoreError;

    fn path(&self) -> String {
        format!("/api/v1/pods?fieldSelector={}", encode(&format!("spec.nodeName={}", self.node)))
    }

    fn kind(&self) -> &'static str {
        "Pod"
    }

    fn check(&self, pod: &Object) -> Result<(), Malformed> {
        pod.require_uid()?;
        if pod.namespace().is_empty() {
            return Err(Malformed::Missing("metadata.namespace"));
        }
        match pod.field("spec")["nodeName"].as_str() {
            Some(node) if node == self.node => Ok(()),
            other => Err(Malformed::Foreign(format!(
                "pod {}/{} is of node `{}`, not of this one",
                pod.namespace(),
                pod.name(),
                other.unwrap_or_default()
            ))),
        }
    }

    async fn verify(&mut self, client: &ApiClient) -> Result<(), ApiError> {
        let number = client.connection_number();
        let verified = self.verified.wait_for(|verified| verified.connection >= number);
        match tokio::time::timeout(VERIFY_MAX, verified).await {
            Ok(Ok(verified)) => {
                let now = verified.clone();
                // A watch that would continue on another hub begins with a list instead.
                let is_other = now.state.as_ref().is_some_and(|state| !self.known.continues_as(state));
                let is_news = self.present.state != now.state;
                self.present = now;
                if is_other && is_news {
                    let message = "it is not the hub that this node knew: what it was known to have is missing";
                    warn!("The hub has another state than the one that started the pods here; they are listed anew.");
                    return Err(ApiError::Unreadable { act: "the Lease".to_owned(), message: message.to_owned() });
                }
                Ok(())
            }
            // The Lease is renewed in the background; a hub that does not let it is asked for its pods all the same.
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }

    fn is_incomplete(&self) -> bool {
        self.is_incomplete
    }

    async fn replace(&mut self, items: Vec<Object>, resource_version: &str) -> Result<(), StoreError> {
        let is_same = self.is_same_hub(resource_version.parse().unwrap_or(0));
        for pod in &items {
            self.publisher.shown(pod, is_mirror(pod));
        }
        let uids: BTreeSet<String> = items.iter().map(|pod| pod.uid().to_owned()).collect();
        if is_same {
            self.publisher.listed(&uids);
        }
        let pods: Vec<(String, Bytes)> = items.into_iter().map(|pod| (pod.uid().to_owned(), trimmed(pod))).collect();
        let revision = resource_version.parse().unwrap_or(0);
        let state = HubState { seen: revision, ..self.known_from_now_on() };
        let (kept, known) = (pods.clone(), state.clone());
        let written = keep(&self.store, move |store| {
            for (uid, json) in &kept {
                if store.pod(uid).is_none_or(|before| worth_keeping(&before, json) != Worth::Nothing) {
                    store.put_pod_later(uid, Bytes::clone(json))?;
                }
            }
            store.put_hub_state(&state)?;
            store.sync()
        })
        .await;
        self.is_incomplete = written.is_err();
        let pods = match written {
            Ok(()) => {
                self.known = known;
                self.kept.send_replace((self.present.connection, self.known.clone()));
                pods
            }
            // What is new does not start before it is kept. What was deleted is stopped, which frees the disk.
            Err(error) => {
                warn!(error = %chain(&error), "The hub's pods could not be kept; only deletions are acted on until the disk takes them.");
                self.registry.error(chain(&error));
                pods.into_iter().filter(|(uid, _)| self.store.pod(uid).is_some()).collect()
            }
        };
        // The manager ends at shutdown only.
        let _ = self.commands.send(Command::HubPods { pods, listed: uids, is_same_hub: is_same }).await;
        Ok(())
    }

    async fn apply(&mut self, pod: Object) -> Result<(), StoreError> {
        self.publisher.shown(&pod, is_mirror(&pod));
        let state = self.advance(pod.revision());
        let is_deletion = pod.field("metadata")["deletionTimestamp"].is_string();
        let (uid, json) = (pod.uid().to_owned(), trimmed(pod));
        match self.keep_pod(uid.clone(), json.clone(), state).await {
            // A deletion frees the disk: it is acted on even when that is full, and comes again with the next list.
            Err(error) if is_deletion => {
                warn!(error = %chain(&error), "A pod's deletion could not be kept; it is acted on all the same.");
            }
            kept => kept?,
        }
        let _ = self.commands.send(Command::HubPod(uid, json)).await;
        Ok(())
    }

    async fn delete(&mut self, pod: Object) -> Result<(), StoreError> {
        if is_mirror(&pod) {
            self.publisher.mirror_deleted(pod.uid());
        }
        // The manager removes it from the disk when nothing of it needs it any more.
        let _ = self.commands.send(Command::HubPodDeleted(pod.uid().to_owned())).await;
        Ok(())
    }
}

/// Follows the pods of this node until `shutdown`.
pub(crate) async fn pods(client: ApiClient, source: Pods, registry: StatusRegistry, shutdown: CancellationToken) {
    let renewals = keep_a_renewal(source.store.clone(), source.verified.clone(), source.kept.clone());
    tokio::select! {
        () = list_watch::run(client, source, registry, shutdown) => {}
        () = renewals => {}
    }
}

/// Keeps the first renewal of the Lease that is later than all that is kept of the hub.
///
/// A hub that was restored from a backup without the newest pod has an older Lease than that, however far others have brought it
/// meanwhile; nothing more is needed until there is another pod.
async fn keep_a_renewal(
    store: Arc<Store>,
    mut verified: watch::Receiver<Verified>,
    kept: watch::Sender<(u64, HubState)>,
) {
    while verified.changed().await.is_ok() {
        let Verified { connection, confirmed, .. } = verified.borrow_and_update().clone();
        let Some(state) = with_renewal(&kept.borrow(), connection, &confirmed) else { continue };
        let written = state.clone();
        match keep(&store, move |store| store.put_hub_state(&written)).await {
            Ok(()) => {
                // Another pod may have come meanwhile, which the next renewal is for.
                kept.send_if_modified(|(_, held)| {
                    let is_this = held.seen == state.seen && held.lease_uid == state.lease_uid;
                    if is_this {
                        held.revision = state.revision;
                    }
                    is_this
                });
            }
            Err(error) => {
                warn!(error = %chain(&error), "Failed to keep how far the hub has come; the next renewal is kept.")
            }
        }
    }
    // At shutdown, which the other half sees, too.
    std::future::pending::<()>().await;
}

/// What is kept with this renewal, when it is the first one that says more.
fn with_renewal((over, kept): &(u64, HubState), connection: u64, confirmed: &HubState) -> Option<HubState> {
    let is_first = *over == connection
        && kept.lease_uid == confirmed.lease_uid
        && kept.revision <= kept.seen
        && confirmed.revision > kept.seen;
    is_first.then(|| HubState { seen: kept.seen, ..confirmed.clone() })
}

/// Keeps a task per object that some pod refers to.
pub(crate) async fn objects(
    client: ApiClient,
    store: Arc<Store>,
    mut desired: watch::Receiver<BTreeSet<ObjectKey>>,
    commands: mpsc::Sender<Command>,
    registry: StatusRegistry,
    shutdown: CancellationToken,
) {
    let mut tasks: BTreeMap<ObjectKey, tokio_util::sync::DropGuard> = BTreeMap::new();
    let mut running = tokio::task::JoinSet::new();
    let mut listed_once = false;
    loop {
        let now: BTreeSet<ObjectKey> = desired.borrow_and_update().clone();
        tasks.retain(|key, _| now.contains(key));
        for key in &now {
            if !tasks.contains_key(key) {
                let stop = shutdown.child_token();
                let is_watchable = !key.is_root_ca() && !key.kind.is_read_only_now_and_then();
                let watched = is_watchable && tasks.len() < WATCHED_MAX;
                let task = object(client.clone(), store.clone(), key.clone(), watched, commands.clone(), stop.clone());
                let of = key.clone();
                running.spawn(async move {
                    let ended = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(task)).await;
                    (of, ended.err().map(|panic| node_client::panic_text(&*panic)))
                });
                tasks.insert(key.clone(), stop.drop_guard());
            }
        }
        // The first value is from before the stored pods were admitted.
        if listed_once {
            let kept = now.clone();
            if let Err(error) = keep(&store, move |store| store.retain_objects(&kept)).await {
                warn!(error = %chain(&error), "Failed to forget objects that no pod refers to.");
            }
        }
        listed_once = true;
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = desired.changed() => if changed.is_err() { break },
            Some(ended) = running.join_next() => {
                if let Ok((key, Some(cause))) = ended {
                    registry.error(format!("following {} {} has died: {cause}", key.kind.singular(), key.name));
                    // The next turn starts it again, after a moment in which nothing else is lost.
                    tasks.remove(&key);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
    running.shutdown().await;
}

#[derive(Debug, thiserror::Error)]
enum ObjectError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("failed to keep what the hub sent; it is not acted on until it is kept")]
    Keep(#[from] StoreError),
    #[error("the hub has not published it yet")]
    Unpublished,
    #[error("the hub ended the watch")]
    Ended,
}

/// Keeps one object up to date.
async fn object(
    mut client: ApiClient,
    store: Arc<Store>,
    key: ObjectKey,
    watched: bool,
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
) {
    let mut retry = client.retry();
    loop {
        let followed = async {
            client.connected().await;
            retry.attempt();
            let is_published = read_object(&client, &store, &key, &commands).await? || !key.is_root_ca();
            if !is_published {
                // A namespace gets it right after its creation.
                return Err(ObjectError::Unpublished);
            }
            if watched {
                return watch_object(&client, &store, &key, &commands).await;
            }
            retry.succeeded();
            retry.rest(period_of(&key, &store)).await;
            Ok(())
        };
        let result = tokio::select! {
            () = stop.cancelled() => return,
            result = followed => result,
        };
        let pause = async {
            match result {
                Ok(()) => retry.succeeded(),
                // A hub that lets the object be read but not watched: ask now and then.
                Err(ObjectError::Api(ApiError::Status { code: 400 | 403 | 405, .. })) => {
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

/// How long an object that is not watched is believed.
fn period_of(key: &ObjectKey, store: &Store) -> Duration {
    match key.kind {
        _ if key.is_root_ca() => ROOT_CA_PERIOD,
        ObjectKind::Claim if claims::volume_of(&store.object(key)).is_none() => CLAIM_PERIOD,
        ObjectKind::Volume if !claims::is_bound(&store.object(key)) => CLAIM_PERIOD,
        _ => POLL_PERIOD,
    }
}

fn path_of(key: &ObjectKey) -> String {
    match key.kind {
        ObjectKind::Volume => format!("/api/v1/{}", key.kind.plural()),
        _ => format!("/api/v1/namespaces/{}/{}", key.namespace, key.kind.plural()),
    }
}

fn is_requested(key: &ObjectKey, object: &Object) -> Result<(), ApiError> {
    if (object.namespace(), object.name()) == (key.namespace.as_str(), key.name.as_str()) {
        return Ok(());
    }
    let error = Malformed::Foreign(format!("it is {}/{}, which was not requested", object.namespace(), object.name()));
    Err(ApiError::unreadable(format!("GET {}/{}", path_of(key), key.name), &error))
}

/// Reads an object once; returns whether there is one.
async fn read_object(
    client: &ApiClient,
    store: &Arc<Store>,
    key: &ObjectKey,
    commands: &mpsc::Sender<Command>,
) -> Result<bool, ObjectError> {
    let object = match client.get(&format!("{}/{}", path_of(key), key.name), key.kind.name()).await {
        Ok(object) => Some(object),
        Err(error) if error.code() == Some(404) => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(object) = &object {
        is_requested(key, object)?;
    }
    let exists = object.is_some();
    take_object(store, key, object, commands).await?;
    Ok(exists)
}

async fn watch_object(
    client: &ApiClient,
    store: &Arc<Store>,
    key: &ObjectKey,
    commands: &mpsc::Sender<Command>,
) -> Result<(), ObjectError> {
    let (base, kind) = (path_of(key), key.kind.name());
    let selector = encode(&format!("metadata.name={}", key.name));
    let list = client.list(&format!("{base}?fieldSelector={selector}&limit=2"), kind).await?.list;
    list.items.iter().try_for_each(|object| is_requested(key, object))?;
    let version = list.resource_version;
    take_object(store, key, list.items.into_iter().next(), commands).await?;
    let query = format!("watch=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={version}");
    let mut watch = client.watch(&format!("{base}?fieldSelector={selector}&{query}"), kind).await?;
    while let Some(event) = watch.next().await? {
        match event {
            Event::Applied(object) => {
                is_requested(key, &object)?;
                take_object(store, key, Some(object), commands).await?;
            }
            Event::Deleted(object) => {
                is_requested(key, &object)?;
                take_object(store, key, None, commands).await?;
            }
            Event::Bookmark(_) => {}
            Event::Error { .. } => return Err(ObjectError::Ended),
        }
    }
    Ok(())
}

async fn take_object(
    store: &Arc<Store>,
    key: &ObjectKey,
    object: Option<Object>,
    commands: &mpsc::Sender<Command>,
) -> Result<(), StoreError> {
    let object = object.map(|mut object| {
        object.trim();
        object.into_value()
    });
    let kept = key.clone();
    if keep(store, move |store| store.put_object(&kept, object.as_ref())).await? {
        let _ = commands.send(Command::ObjectChanged(key.clone())).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(value: Value) -> Object {
        Object::new(value).unwrap()
    }

    #[test]
    fn a_pod_is_kept_without_bookkeeping() {
        let metadata = json!({"name": "p", "resourceVersion": "1", "managedFields": [{}]});
        let kept: Value = serde_json::from_slice(&trimmed(pod(json!({"metadata": metadata, "spec": {}})))).unwrap();
        let metadata = json!({"name": "p", "resourceVersion": "1"});
        assert_eq!(kept, json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}}));
    }

    #[test]
    fn the_first_renewal_after_a_pod_is_kept_and_no_other() {
        let state = |uid: &str, revision, seen| HubState { lease_uid: uid.to_owned(), revision, seen };
        let kept = |revision, seen| (3, state("a", revision, seen));
        for (before, connection, confirmed, expected) in [
            (kept(5, 9), 3, state("a", 12, 0), Some(state("a", 12, 9))),
            // Not later than the pod; of another connection, or hub; not the first.
            (kept(5, 9), 3, state("a", 8, 0), None),
            (kept(5, 9), 4, state("a", 12, 0), None),
            (kept(5, 9), 3, state("b", 12, 0), None),
            (kept(12, 9), 3, state("a", 20, 0), None),
        ] {
            assert_eq!(with_renewal(&before, connection, &confirmed), expected, "{before:?} {confirmed:?}");
        }
    }

    #[test]
    fn the_echo_of_a_status_is_not_written_to_the_flash_and_an_end_is() {
        let pod = |version: u64, phase: &str, ready: bool, image: &str| {
            let metadata = json!({"name": "p", "resourceVersion": version.to_string()});
            json!({"metadata": metadata, "spec": {"image": image}, "status": {"phase": phase, "ready": ready}})
                .to_string()
        };
        let before = pod(1, "Running", true, "a");
        for (now, expected) in [
            (pod(2, "Running", false, "a"), Worth::Nothing),
            (pod(2, "Pending", false, "a"), Worth::Later),
            (pod(2, "Failed", false, "a"), Worth::Now),
            (pod(2, "Running", true, "b"), Worth::Now),
        ] {
            assert_eq!(worth_keeping(before.as_bytes(), now.as_bytes()), expected, "{now}");
        }
    }
}
