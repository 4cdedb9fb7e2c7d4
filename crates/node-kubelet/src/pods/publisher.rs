//! Tells the hub how pods fare: one task, one request at a time, only what the hub does not know yet.
//!
//! Workers hand over the newest status and forget about it. While the hub is away the newest one per pod is kept, so a
//! night without a link costs one patch per pod that changed, not one per change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::STATIC_UID_PREFIX;
use super::model::{ANNOTATION_CONFIG_HASH, ANNOTATION_CONFIG_MIRROR, ANNOTATION_CONFIG_SOURCE};
use crate::hub::{Hub, HubError, Patch};
use crate::report::{Board, chain};

/// A status that the hub refuses is tried again this often: a person may have put right what made it refuse.
const REFUSED_RETRY: Duration = Duration::from_secs(60);
/// Changes of one pod that come within this are told together.
const GATHER: Duration = Duration::from_millis(50);

/// What workers and the manager hand over.
#[derive(Clone, Debug)]
pub(crate) enum Publication {
    /// A pod's status; `base` is what the hub was known to have when the worker started.
    Status { uid: String, namespace: String, name: String, status: Value, base: Value },
    /// Nothing of the pod runs any more: take it off the hub.
    Finalize { uid: String, namespace: String, name: String },
    /// The pod is gone.
    Forget { uid: String },
    /// A static pod that the hub should show.
    Static { uid: String, manifest: Value },
    /// The hub's image of a static pod; somebody may have asked for its deletion.
    Mirror { namespace: String, name: String, hub_uid: String, hash: String, is_terminating: bool },
    /// The hub's image of a static pod is deleted.
    MirrorGone { hub_uid: String },
    /// What the hub shows of a pod as of this revision. Others write there too: a hub takes the pods of a node that it does
    /// not hear for not ready, and only the node can say that they are.
    Shown { uid: String, is_mirror: bool, revision: u64, status: Value },
    /// The hub has these pods for this node, and no others. One that ended while the link was gone is said to be gone by nothing
    /// else.
    Listed { uids: BTreeSet<String> },
}

/// One pod in the publisher.
#[derive(Debug, Default)]
struct Entry {
    namespace: String,
    name: String,
    status: Option<Value>,
    /// What the hub is known to show, …
    told: Value,
    /// … and as of which revision: what a watch says of an older one is known already.
    revision: u64,
    finalize: bool,
    /// Manifest of a static pod, shown at the hub as a mirror.
    manifest: Option<Value>,
    /// uid of the mirror at the hub, once known.
    mirror_uid: Option<String>,
    retry_at: Option<tokio::time::Instant>,
}

impl Entry {
    /// The static pod has another mirror at the hub, or none: whatever was told of the one before is not told of this one.
    fn show_as(&mut self, mirror_uid: Option<String>) {
        self.mirror_uid = mirror_uid;
        (self.told, self.revision) = (Value::Null, 0);
    }

    fn has_news(&self, now: tokio::time::Instant) -> bool {
        if self.retry_at.is_some_and(|at| at > now) {
            return false;
        }
        let wants_mirror = self.manifest.is_some() && self.mirror_uid.is_none();
        self.finalize || wants_mirror || self.status.as_ref().is_some_and(|status| !tells(&self.told, status))
    }
}

/// Whether `told` already says everything that `status` does. Conditions of other types are other people's.
pub(crate) fn tells(told: &Value, status: &Value) -> bool {
    let tells_conditions = |conditions: &[Value]| {
        let told = told["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        conditions.iter().all(|condition| {
            let same_type = told.iter().find(|one| one["type"] == condition["type"]);
            same_type.is_some_and(|one| {
                // An API may write what is absent as null, or add fields of its own.
                ["status", "reason", "message", "lastTransitionTime"].iter().all(|field| one[field] == condition[field])
            })
        })
    };
    match status.as_object() {
        Some(fields) => fields.iter().all(|(key, value)| match (key.as_str(), value.as_array()) {
            ("conditions", Some(conditions)) => tells_conditions(conditions),
            _ => told.get(key) == Some(value),
        }),
        None => told == status,
    }
}

/// Publishes until `shutdown`.
pub(crate) async fn run(
    mut hub: Hub,
    mut publications: mpsc::Receiver<Publication>,
    board: Board,
    shutdown: CancellationToken,
) {
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    let mut strangers: Vec<(String, String, String)> = Vec::new();
    loop {
        let now = tokio::time::Instant::now();
        let has_news = !strangers.is_empty() || entries.values().any(|entry| entry.has_news(now));
        let retry_at = entries.values().filter_map(|entry| entry.retry_at).filter(|at| *at > now).min();
        let until = retry_at.unwrap_or_else(|| now + Duration::from_secs(3600));
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            publication = publications.recv() => {
                let Some(publication) = publication else { return };
                take(&mut entries, &mut strangers, publication);
                tokio::time::sleep(GATHER).await;
                while let Ok(more) = publications.try_recv() {
                    take(&mut entries, &mut strangers, more);
                }
            }
            () = hub.connected(), if has_news => {
                let outage = tell_all(&hub, &mut entries, &mut strangers, &board).await;
                if outage {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            () = tokio::time::sleep_until(until), if !has_news => {}
        }
    }
}

fn take(
    entries: &mut BTreeMap<String, Entry>,
    strangers: &mut Vec<(String, String, String)>,
    publication: Publication,
) {
    match publication {
        Publication::Status { uid, namespace, name, status, base } => {
            let entry = entries.entry(uid).or_insert_with(|| Entry { told: base, ..Entry::default() });
            (entry.namespace, entry.name) = (namespace, name);
            entry.status = Some(status);
        }
        Publication::Finalize { uid, namespace, name } => {
            let entry = entries.entry(uid).or_default();
            (entry.namespace, entry.name, entry.finalize) = (namespace, name, true);
        }
        Publication::Forget { uid } => {
            if let Some(entry) = entries.remove(&uid)
                && let Some(mirror) = entry.mirror_uid
            {
                strangers.push((entry.namespace, entry.name, mirror));
            }
        }
        Publication::Static { uid, manifest } => {
            let entry = entries.entry(uid).or_default();
            let text = |field: &str| manifest["metadata"][field].as_str().unwrap_or_default().to_owned();
            (entry.namespace, entry.name) = (text("namespace"), text("name"));
            entry.manifest = Some(manifest);
        }
        Publication::Mirror { namespace, name, hub_uid, hash, is_terminating } => match entries.get_mut(&hash) {
            Some(entry) if entry.manifest.is_some() && !is_terminating => {
                if entry.mirror_uid.as_ref() != Some(&hub_uid) {
                    entry.show_as(Some(hub_uid));
                    entry.retry_at = None;
                }
            }
            shown => {
                // Nothing runs for a mirror's sake, so its end waits for nothing. The static pod runs on, and gets another one.
                if let Some(entry) = shown.filter(|entry| entry.mirror_uid.as_ref() == Some(&hub_uid)) {
                    entry.show_as(None);
                }
                let orphaned = (namespace, name, hub_uid);
                if !strangers.contains(&orphaned) {
                    strangers.push(orphaned);
                }
            }
        },
        Publication::MirrorGone { hub_uid } => {
            if let Some(entry) = entries.values_mut().find(|entry| entry.mirror_uid.as_ref() == Some(&hub_uid)) {
                entry.show_as(None);
            }
        }
        Publication::Shown { uid, is_mirror, revision, status } => {
            let entry = match is_mirror {
                // One that is news says so by itself, and is then told everything.
                true => entries.values_mut().find(|entry| entry.mirror_uid.as_ref() == Some(&uid)),
                // Its worker may not have had its first word yet.
                false => Some(entries.entry(uid).or_default()),
            };
            if let Some(entry) = entry.filter(|entry| entry.revision < revision) {
                (entry.told, entry.revision) = (status, revision);
            }
        }
        // Static pods are on no list; their mirrors are.
        Publication::Listed { uids } => {
            entries.retain(|uid, _| uid.starts_with(STATIC_UID_PREFIX) || uids.contains(uid))
        }
    }
}

/// Tells what is new; answers whether the hub went away meanwhile.
async fn tell_all(
    hub: &Hub,
    entries: &mut BTreeMap<String, Entry>,
    strangers: &mut Vec<(String, String, String)>,
    board: &Board,
) -> bool {
    // Mirrors of static pods that are no more, left by an earlier start.
    while let Some((namespace, name, uid)) = strangers.pop() {
        match delete(hub, &namespace, &name, &uid).await {
            Err(error) if error.is_outage() => {
                strangers.push((namespace, name, uid));
                return true;
            }
            Err(error) => debug!(pod = %format!("{namespace}/{name}"), %error, "A mirror pod was not removed."),
            Ok(()) => {}
        }
    }
    let now = tokio::time::Instant::now();
    let dirty: Vec<String> =
        entries.iter().filter(|(_, entry)| entry.has_news(now)).map(|(uid, _)| uid.clone()).collect();
    for uid in dirty {
        let Some(entry) = entries.get_mut(&uid) else { continue };
        match tell(hub, &uid, entry).await {
            Ok(Told::Everything) => {}
            Ok(Told::Gone) => {
                entries.remove(&uid);
            }
            Err(error) if error.is_outage() => {
                debug!(%error, "The hub went away while pod status was told.");
                return true;
            }
            Err(error) => {
                let pod = format!("{}/{}", entry.namespace, entry.name);
                warn!(%pod, error = %chain(&error), "The hub refused a pod's status; trying again in a minute.");
                board.error(format!("status of {pod}: {error}"));
                entry.retry_at = Some(now + REFUSED_RETRY);
            }
        }
    }
    false
}

/// The revision of an object; 0 where it is no number, as older than any.
pub(crate) fn revision_of(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

enum Told {
    Everything,
    /// The hub has no such pod any more.
    Gone,
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
    for condition in conditions.into_iter().flatten() {
        for field in ["reason", "message"] {
            if condition[field].is_null() {
                condition[field] = Value::Null;
            }
        }
    }
    patch
}

async fn tell(hub: &Hub, uid: &str, entry: &mut Entry) -> Result<Told, HubError> {
    if let (Some(manifest), None) = (&entry.manifest, &entry.mirror_uid) {
        return mirror(hub, uid, manifest.clone(), entry).await;
    }
    let hub_uid = entry.mirror_uid.clone().unwrap_or_else(|| uid.to_owned());
    if let Some(status) = entry.status.clone().filter(|status| !tells(&entry.told, status)) {
        let path = format!("/api/v1/namespaces/{}/pods/{}/status", entry.namespace, entry.name);
        let patch = json!({"metadata": {"uid": hub_uid}, "status": as_patch(&status)});
        match hub.patch(&path, Patch::Strategic, &patch).await {
            Ok(patched) => {
                entry.told = status;
                entry.revision = entry.revision.max(revision_of(&patched));
            }
            // Another pod of that name, whose uid is not to be changed, or none: this one is history.
            Err(error) if matches!(error.code(), Some(404 | 409)) || error.is_about("metadata.uid") => {
                return Ok(if entry.manifest.is_some() {
                    entry.show_as(None);
                    Told::Everything
                } else {
                    Told::Gone
                });
            }
            Err(error) => return Err(error),
        }
    }
    if entry.finalize {
        delete(hub, &entry.namespace, &entry.name, &hub_uid).await?;
        return Ok(Told::Gone);
    }
    Ok(Told::Everything)
}

async fn mirror(hub: &Hub, hash: &str, mut manifest: Value, entry: &mut Entry) -> Result<Told, HubError> {
    let annotations = &mut manifest["metadata"]["annotations"];
    annotations[ANNOTATION_CONFIG_MIRROR] = hash.into();
    annotations[ANNOTATION_CONFIG_HASH] = hash.into();
    annotations[ANNOTATION_CONFIG_SOURCE] = "api".into();
    if let Some(metadata) = manifest["metadata"].as_object_mut() {
        metadata.remove("uid");
    }
    let path = format!("/api/v1/namespaces/{}/pods", entry.namespace);
    match hub.create(&path, &manifest).await {
        Ok(created) => {
            entry.show_as(created["metadata"]["uid"].as_str().map(str::to_owned));
            Ok(Told::Everything)
        }
        // There is one; the watch tells its uid, or that it is another's and must go.
        Err(error) if error.code() == Some(409) => {
            entry.retry_at = Some(tokio::time::Instant::now() + REFUSED_RETRY);
            Ok(Told::Everything)
        }
        Err(error) => Err(error),
    }
}

async fn delete(hub: &Hub, namespace: &str, name: &str, uid: &str) -> Result<(), HubError> {
    let options = json!({
        "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": uid},
    });
    match hub.delete(&format!("/api/v1/namespaces/{namespace}/pods/{name}"), &options).await {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
