//! Reports to the hub how pods fare: only what it does not know yet, and never in anybody's way.
//!
//! For each pod there is one place with its newest status. Workers and the manager leave theirs there and continue; one task sends
//! what the hub has not seen, several requests at a time. So a hub that takes 15 s for an answer, or that fails for one pod, delays
//! reports and nothing else, and a night without a link costs one patch per pod that changed.
//!
//! What the hub shows is compared, not remembered: others write there too (a hub takes the pods of a node that it does not hear for
//! not ready), and only the node can say that they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base_retry::{Backoff, BackoffLaw};
use node_client::{ApiClient, ApiError, Object, Patch, StatusRegistry, chain, set_field};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::manager::STATIC_UID_PREFIX;
use crate::model::{ANNOTATION_CONFIG_HASH, ANNOTATION_CONFIG_MIRROR, ANNOTATION_CONFIG_SOURCE};
use crate::packed::Packed;

/// A status that the hub rejects is tried again this often: a person may have put right what made it reject.
const REJECTED_RETRY: Duration = Duration::from_secs(60);
/// Between two tries for one pod while the hub answers with errors, or not at all.
const OUTAGE_RETRY: BackoffLaw = BackoffLaw::new(Duration::from_millis(500), Duration::from_secs(60));
/// Changes of a pod within this are sent together; a new phase, of which there are few, and the pod's end do not wait for it.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Requests under way at a time. A slow hub is not made faster by more.
const REQUESTS_MAX: usize = 8;

/// One pod as the hub should show it, and does.
#[derive(Debug, Default)]
struct Entry {
    namespace: String,
    name: String,
    status: Option<Packed>,
    /// What the hub is known to show, …
    shown: Packed,
    /// … and as of which revision: what a watch says of an older one is known already.
    revision: u64,
    finalize: bool,
    /// Manifest of a static pod, shown at the hub as a mirror.
    manifest: Option<Value>,
    /// uid of the mirror at the hub, once known.
    mirror_uid: Option<String>,
    /// Whether anything was heard of mirrors since the last request: an answer may come after what it speaks of has changed.
    has_mirror_changed: bool,
    /// When it may be sent again at the earliest, after a failure.
    not_before: Option<Instant>,
    /// When what is no news of weight is sent.
    settles_at: Option<Instant>,
    backoff: Option<Backoff>,
    in_flight: bool,
    /// Whether there is something to send. Kept, as all pods are looked through whenever one of them changes.
    has_news: bool,
    /// Whether nobody is made to wait for it.
    is_urgent: bool,
}

impl Entry {
    /// The static pod has another mirror at the hub, or none: whatever was reported of the one before is not of this one.
    fn show_as(&mut self, mirror_uid: Option<String>) {
        self.mirror_uid = mirror_uid;
        (self.shown, self.revision) = (Packed::default(), 0);
        self.look();
    }

    fn lacks_mirror(&self) -> bool {
        self.manifest.is_some() && self.mirror_uid.is_none()
    }

    /// Looks whether there is something to send: after each change of it.
    fn look(&mut self) {
        let differs = self.status.as_ref().is_some_and(|status| *status != self.shown);
        let versions =
            differs.then(|| (self.shown.value(), self.status.as_ref().map(Packed::value).unwrap_or_default()));
        let is_new = |(shown, status): &(Value, Value)| !shows(shown, status);
        // A pod ends once, and its phase changes three times at most. That a new pod is Pending is no news.
        let has_new_phase = |(shown, status): &(Value, Value)| phase_of(shown) != phase_of(status);
        let matters = self.finalize || self.lacks_mirror();
        self.has_news = matters || versions.as_ref().is_some_and(is_new);
        self.is_urgent = matters || versions.as_ref().is_some_and(has_new_phase);
    }

    /// When it is to be sent, where there is something to send; `None` for at once.
    fn due_at(&self) -> Option<Instant> {
        let settles_at = self.settles_at.filter(|_| !self.is_urgent);
        self.not_before.into_iter().chain(settles_at).max()
    }

    fn is_due(&self, now: Instant) -> bool {
        self.has_news && !self.in_flight && self.due_at().is_none_or(|at| at <= now)
    }
}

/// Its phase; that of a new pod is what everybody took it for.
fn phase_of(status: &Value) -> Option<&str> {
    status["phase"].as_str().filter(|phase| *phase != "Pending")
}

/// Whether `shown` already says everything that `status` does. Conditions of other types are other people's.
fn shows(shown: &Value, status: &Value) -> bool {
    let shows_conditions = |conditions: &[Value]| {
        let shown = shown["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        conditions.iter().all(|condition| {
            let same_type = shown.iter().find(|one| one["type"] == condition["type"]);
            same_type.is_some_and(|one| {
                // An API may write what is absent as null, or add fields of its own.
                ["status", "reason", "message", "lastTransitionTime"].iter().all(|field| one[field] == condition[field])
            })
        })
    };
    match status.as_object() {
        Some(fields) => fields.iter().all(|(key, value)| match (key.as_str(), value.as_array()) {
            ("conditions", Some(conditions)) => shows_conditions(conditions),
            _ => shown.get(key) == Some(value),
        }),
        None => shown == status,
    }
}

/// Which pod, for people and paths.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodName {
    pub namespace: String,
    pub name: String,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    /// Mirrors of static pods that are no more, left by an earlier start: uid and name.
    orphaned_mirrors: BTreeMap<String, (PodName, Option<Instant>)>,
}

/// Where statuses are left. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Publisher(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    notify: Notify,
}

impl Publisher {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.0.notify.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete in itself.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod's status; `base` is what the hub was known to show when its worker started.
    pub(crate) fn status(&self, uid: &str, pod: PodName, status: &Value, base: &Packed) {
        self.change(|state| {
            let fresh = || Entry { shown: base.clone(), ..Entry::default() };
            let entry = state.entries.entry(uid.to_owned()).or_insert_with(fresh);
            (entry.namespace, entry.name) = (pod.namespace, pod.name);
            if entry.status.replace(Packed::from(status)).is_none() {
                // A new pod: most start within this, and the hub hears of it once.
                entry.settles_at = Some(Instant::now() + DEBOUNCE);
            }
            entry.look();
        });
    }

    /// Nothing of the pod runs any more: take it off the hub.
    pub(crate) fn finalize(&self, uid: &str, pod: PodName) {
        self.change(|state| {
            let entry = state.entries.entry(uid.to_owned()).or_default();
            (entry.namespace, entry.name, entry.finalize) = (pod.namespace, pod.name, true);
            entry.look();
        });
    }

    /// The pod has ended and is not the hub's to show.
    pub(crate) fn forget(&self, uid: &str) {
        self.change(|state| {
            if let Some(Entry { namespace, name, mirror_uid: Some(mirror), .. }) = state.entries.remove(uid) {
                state.orphaned_mirrors.insert(mirror, (PodName { namespace, name }, None));
            }
        });
    }

    /// A static pod that the hub should show.
    pub(crate) fn static_pod(&self, uid: &str, manifest: Value) {
        self.change(|state| {
            let entry = state.entries.entry(uid.to_owned()).or_default();
            let text = |field: &str| manifest["metadata"][field].as_str().unwrap_or_default().to_owned();
            (entry.namespace, entry.name) = (text("namespace"), text("name"));
            entry.manifest = Some(manifest);
            entry.look();
        });
    }

    /// The hub's image of the static pod `of`; somebody may have asked for its deletion.
    pub(crate) fn mirror(&self, pod: PodName, mirror_uid: &str, of: &str, is_terminating: bool) {
        self.change(|state| match state.entries.get_mut(of) {
            Some(entry) if entry.manifest.is_some() && !is_terminating => {
                entry.has_mirror_changed = true;
                if entry.mirror_uid.as_deref() != Some(mirror_uid) {
                    entry.show_as(Some(mirror_uid.to_owned()));
                    entry.not_before = None;
                }
            }
            shown => {
                // Nothing runs for a mirror's sake, so its end waits for nothing. The static pod runs on, and gets another one.
                if let Some(entry) = shown.filter(|entry| entry.mirror_uid.as_deref() == Some(mirror_uid)) {
                    entry.show_as(None);
                }
                state.orphaned_mirrors.entry(mirror_uid.to_owned()).or_insert((pod, None));
            }
        });
    }

    /// The hub's image of a static pod is deleted.
    pub(crate) fn mirror_deleted(&self, mirror_uid: &str) {
        self.change(|state| {
            state.orphaned_mirrors.remove(mirror_uid);
            for entry in state.entries.values_mut().filter(|entry| entry.manifest.is_some()) {
                if entry.mirror_uid.as_deref() == Some(mirror_uid) {
                    entry.show_as(None);
                }
                if entry.mirror_uid.is_none() {
                    // Its name was taken until now.
                    (entry.not_before, entry.has_mirror_changed) = (None, true);
                }
            }
        });
    }

    /// What the hub shows of a pod.
    pub(crate) fn shown(&self, pod: &Object, is_mirror: bool) {
        let (uid, revision) = (pod.uid(), pod.revision());
        self.change(|state| {
            let entry = match is_mirror {
                // One that is news says so by itself, and is then sent everything.
                true => state.entries.values_mut().find(|entry| entry.mirror_uid.as_deref() == Some(uid)),
                // Its worker may not have published anything yet.
                false => Some(state.entries.entry(uid.to_owned()).or_default()),
            };
            if let Some(entry) = entry.filter(|entry| entry.revision < revision) {
                (entry.shown, entry.revision) = (Packed::from(pod.field("status")), revision);
                entry.look();
            }
        });
    }

    /// The hub has these pods for this node, and no others. Static pods are on no list; their mirrors are.
    pub(crate) fn listed(&self, uids: &BTreeSet<String>) {
        self.change(|state| state.entries.retain(|uid, _| uid.starts_with(STATIC_UID_PREFIX) || uids.contains(uid)));
    }

    /// What is to be sent now; it counts as under way from now on.
    fn take_due(&self, now: Instant, requests_max: usize) -> Vec<(Key, Request)> {
        let mut state = self.state();
        let mut due = Vec::new();
        for (uid, (pod, not_before)) in &mut state.orphaned_mirrors {
            if due.len() < requests_max && not_before.is_none_or(|at| at <= now) {
                // Not again before this one has been answered, or was lost.
                *not_before = Some(now + REJECTED_RETRY);
                due.push((Key::Mirror(uid.clone()), Request::Delete(pod.clone(), uid.clone())));
            }
        }
        for (uid, entry) in state.entries.iter_mut().filter(|(_, entry)| entry.is_due(now)) {
            if due.len() >= requests_max {
                break;
            }
            (entry.in_flight, entry.has_mirror_changed) = (true, false);
            due.push((Key::Pod(uid.clone()), entry.request(uid)));
        }
        due
    }

    /// When something is to be sent again at the earliest.
    fn next_at(&self, now: Instant) -> Option<Instant> {
        let state = self.state();
        let pods = state.entries.values().filter(|entry| !entry.in_flight && entry.has_news);
        let mirrors = state.orphaned_mirrors.values().map(|(_, at)| *at);
        pods.map(Entry::due_at).chain(mirrors).map(|at| at.unwrap_or(now)).min()
    }

    /// The link is there again: what was put off for its absence is due now.
    fn restored(&self) {
        self.change(|state| {
            for entry in state.entries.values_mut().filter(|entry| entry.backoff.is_some()) {
                (entry.backoff, entry.not_before) = (None, None);
            }
            state.orphaned_mirrors.values_mut().for_each(|(_, at)| *at = None);
        });
    }

    fn answered(&self, key: &Key, answer: Result<Answer, ApiError>, registry: &StatusRegistry) {
        let now = Instant::now();
        let mut state = self.state();
        let uid = match key {
            Key::Mirror(uid) => {
                match answer {
                    Ok(_) => drop(state.orphaned_mirrors.remove(uid)),
                    Err(error) => debug!(mirror = %uid, %error, "A mirror pod was not removed."),
                }
                return;
            }
            Key::Pod(uid) => uid,
        };
        let Some(entry) = state.entries.get_mut(uid) else { return };
        entry.in_flight = false;
        match answer {
            Ok(answer) => {
                entry.backoff = None;
                (entry.not_before, entry.settles_at) = (None, Some(now + DEBOUNCE));
                match answer {
                    Answer::Shown { status, revision } if entry.revision <= revision || revision == 0 => {
                        (entry.shown, entry.revision) = (Packed::from(&status), entry.revision.max(revision));
                        entry.look();
                    }
                    Answer::Shown { .. } => {}
                    Answer::Mirrored(uid) => entry.show_as(uid),
                    Answer::MirrorExists if entry.has_mirror_changed => {}
                    Answer::MirrorExists => entry.not_before = Some(now + REJECTED_RETRY),
                    Answer::Missing if entry.manifest.is_some() => entry.show_as(None),
                    Answer::Missing => drop(state.entries.remove(uid)),
                }
            }
            Err(error) if error.is_outage() => {
                let backoff = entry.backoff.get_or_insert_with(|| Backoff::new(OUTAGE_RETRY));
                entry.not_before = Some(now + backoff.next_delay());
                debug!(pod = %entry.name, %error, "A status did not reach the hub.");
            }
            Err(error) if matches!(error.code(), Some(413 | 422)) && entry.finalize => {
                // What is over needs no status to be deleted.
                warn!(pod = %entry.name, error = %chain(&error), "The hub does not take the last status of a pod; it is left out.");
                entry.shown = entry.status.clone().unwrap_or_default();
                entry.look();
            }
            Err(error) => {
                let pod = format!("{}/{}", entry.namespace, entry.name);
                warn!(%pod, error = %chain(&error), "The hub rejected a pod's status; trying again in a minute.");
                registry.error(format!("status of {pod}: {error}"));
                entry.not_before = Some(now + REJECTED_RETRY);
            }
        }
    }
}

/// What an answer is for.
#[derive(Clone, Debug)]
enum Key {
    Pod(String),
    Mirror(String),
}

/// One thing to send.
#[derive(Debug)]
enum Request {
    Mirror(PodName, Value),
    Status { pod: PodName, uid: String, status: Value, finalize: bool },
    Delete(PodName, String),
}

enum Answer {
    /// The hub shows this now.
    Shown { status: Value, revision: u64 },
    /// The mirror was created.
    Mirrored(Option<String>),
    /// There is one already; the watch says whose it is.
    MirrorExists,
    /// The hub has no such pod any more.
    Missing,
}

impl Entry {
    fn request(&self, uid: &str) -> Request {
        let pod = PodName { namespace: self.namespace.clone(), name: self.name.clone() };
        if let (Some(manifest), None) = (&self.manifest, &self.mirror_uid) {
            return Request::Mirror(pod, mirror_of(uid, manifest.clone()));
        }
        let uid = self.mirror_uid.clone().unwrap_or_else(|| uid.to_owned());
        let shown = self.shown.value();
        match self.status.as_ref().map(Packed::value).filter(|status| !shows(&shown, status)) {
            Some(status) => Request::Status { pod, uid, status, finalize: self.finalize },
            None => Request::Delete(pod, uid),
        }
    }
}

/// Publishes until `shutdown`.
pub(crate) async fn run(
    publisher: Publisher,
    mut client: ApiClient,
    registered: watch::Receiver<Option<String>>,
    registry: StatusRegistry,
    shutdown: CancellationToken,
) {
    let restored = client.restored();
    let mut restored = restored.notice();
    let mut requests: JoinSet<(Key, Result<Answer, ApiError>)> = JoinSet::new();
    loop {
        let now = Instant::now();
        if client.is_connected() {
            for (key, request) in publisher.take_due(now, REQUESTS_MAX.saturating_sub(requests.len())) {
                let (client, mut registered) = (client.clone(), registered.clone());
                base_observe::spawn_in_set(&mut requests, "pod-status", async move {
                    let answer = send(&client, request, &mut registered).await;
                    (key, answer)
                });
            }
        }
        let is_free = requests.len() < REQUESTS_MAX;
        let connected = client.is_connected();
        let next = (connected && is_free).then(|| publisher.next_at(now)).flatten();
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = publisher.0.notify.notified() => {}
            () = restored.called() => publisher.restored(),
            Some(done) = requests.join_next() => match done {
                Ok((key, answer)) => publisher.answered(&key, answer, &registry),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            },
            () = client.connected(), if !connected => {}
            () = tokio::time::sleep_until(next.unwrap_or(now)), if next.is_some() => {}
        }
    }
    requests.shutdown().await;
}

/// `registered` changes when the node has registered.
async fn send(
    client: &ApiClient,
    request: Request,
    registered: &mut watch::Receiver<Option<String>>,
) -> Result<Answer, ApiError> {
    match request {
        Request::Delete(pod, uid) => delete(client, &pod, &uid).await.map(|()| Answer::Missing),
        Request::Mirror(pod, mut manifest) => {
            let node = manifest["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
            let Some(uid) = node_uid(client, &node, registered).await? else { return Ok(Answer::Missing) };
            // One without a controller would be adopted by the first workload whose selector fits; with it, it goes with its Node.
            let owner = json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid, "controller": true});
            if let Some(metadata) = manifest.get_mut("metadata") {
                set_field(metadata, "ownerReferences", json!([owner]));
            }
            match client.create(&format!("/api/v1/namespaces/{}/pods", pod.namespace), &manifest).await {
                Ok(created) => Ok(Answer::Mirrored(created["metadata"]["uid"].as_str().map(str::to_owned))),
                Err(error) if error.code() == Some(409) => Ok(Answer::MirrorExists),
                Err(error) => Err(error),
            }
        }
        Request::Status { pod, uid, status, finalize } => {
            let path = format!("/api/v1/namespaces/{}/pods/{}/status", pod.namespace, pod.name);
            let patch = json!({"metadata": {"uid": uid}, "status": as_patch(&status)});
            let revision = match client.patch(&path, Patch::Strategic, &patch).await {
                Ok(patched) => Object::new(patched).map_or(0, |patched| patched.revision()),
                // Another pod of that name, whose uid is not to be changed, or none: this one is history.
                Err(error) if matches!(error.code(), Some(404 | 409)) || error.is_about("metadata.uid") => {
                    return Ok(Answer::Missing);
                }
                Err(error) => return Err(error),
            };
            if finalize {
                return delete(client, &pod, &uid).await.map(|()| Answer::Missing);
            }
            Ok(Answer::Shown { status, revision })
        }
    }
}

/// The uid that the node has at the hub of now; `None` at shutdown. A node that is not registered there will be in a moment.
async fn node_uid(
    client: &ApiClient,
    node: &str,
    registered: &mut watch::Receiver<Option<String>>,
) -> Result<Option<String>, ApiError> {
    loop {
        registered.mark_unchanged();
        match client.get(&format!("/api/v1/nodes/{node}"), "Node").await {
            Err(error) if error.code() == Some(404) => {
                if registered.changed().await.is_err() {
                    return Ok(None);
                }
            }
            found => return found.map(|node| Some(node.uid().to_owned())),
        }
    }
}

/// Conditions are merged by type, and a merge keeps what is not named: the reason of a condition that holds again must
/// be taken back by name, and so must addresses that the node has no more, which are merged too.
fn as_patch(status: &Value) -> Value {
    let mut patch = status.clone();
    for addresses in ["hostIPs", "podIPs"] {
        if let Some(addresses) = patch.get_mut(addresses).and_then(Value::as_array_mut) {
            addresses.insert(0, json!({"$patch": "replace"}));
        }
    }
    let conditions = patch.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        for field in ["reason", "message"] {
            condition.entry(field).or_insert(Value::Null);
        }
    }
    patch
}

fn mirror_of(hash: &str, mut manifest: Value) -> Value {
    if let Some(metadata) = manifest.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("uid");
        if let Some(annotations) = metadata.entry("annotations").or_insert_with(|| json!({})).as_object_mut() {
            annotations.insert(ANNOTATION_CONFIG_MIRROR.to_owned(), hash.into());
            annotations.insert(ANNOTATION_CONFIG_HASH.to_owned(), hash.into());
            annotations.insert(ANNOTATION_CONFIG_SOURCE.to_owned(), "api".into());
        }
    }
    manifest
}

async fn delete(client: &ApiClient, pod: &PodName, uid: &str) -> Result<(), ApiError> {
    let options = json!({
        "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": uid},
    });
    match client.delete(&format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name), &options).await {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
