//! Tells the hub how pods fare: one task, one request at a time, only what the hub does not know yet.
//!
//! Workers hand over the newest status and forget about it. While the hub is away the newest one per pod is kept, so a
//! night without a link costs one patch per pod that changed, not one per change.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

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
    /// The hub's image of a static pod.
    Mirror { namespace: String, name: String, hub_uid: String, hash: String },
    /// The hub's image of a static pod is gone.
    MirrorGone { namespace: String, name: String },
}

/// One pod in the publisher.
#[derive(Debug, Default)]
struct Entry {
    namespace: String,
    name: String,
    status: Option<Value>,
    told: Value,
    finalize: bool,
    /// Manifest of a static pod, shown at the hub as a mirror.
    manifest: Option<Value>,
    /// uid of the mirror at the hub, once known.
    mirror_uid: Option<String>,
    retry_at: Option<tokio::time::Instant>,
}

impl Entry {
    fn has_news(&self, now: tokio::time::Instant) -> bool {
        if self.retry_at.is_some_and(|at| at > now) {
            return false;
        }
        let wants_mirror = self.manifest.is_some() && self.mirror_uid.is_none();
        self.finalize || wants_mirror || self.status.as_ref().is_some_and(|status| !tells(&self.told, status))
    }
}

/// Whether `told` already says everything that `status` does.
pub(crate) fn tells(told: &Value, status: &Value) -> bool {
    match status.as_object() {
        Some(fields) => fields.iter().all(|(key, value)| told.get(key) == Some(value)),
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
        Publication::Mirror { namespace, name, hub_uid, hash } => match entries.get_mut(&hash) {
            Some(entry) if entry.manifest.is_some() => {
                if entry.mirror_uid.as_ref() != Some(&hub_uid) {
                    entry.mirror_uid = Some(hub_uid);
                    entry.told = Value::Null;
                    entry.retry_at = None;
                }
            }
            _ => strangers.push((namespace, name, hub_uid)),
        },
        Publication::MirrorGone { namespace, name } => {
            for entry in entries.values_mut() {
                if entry.manifest.is_some() && entry.namespace == namespace && entry.name == name {
                    entry.mirror_uid = None;
                    entry.told = Value::Null;
                }
            }
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

enum Told {
    Everything,
    /// The hub has no such pod any more.
    Gone,
}

/// Conditions are merged by type, and a merge keeps what is not named: the reason of a condition that holds again must
/// be taken back by name.
fn as_patch(status: &Value) -> Value {
    let mut patch = status.clone();
    for condition in patch["conditions"].as_array_mut().into_iter().flatten() {
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
            Ok(_) => entry.told = status,
            // Another pod of that name, or none: this one is history.
            Err(error) if matches!(error.code(), Some(404 | 409)) => {
                return Ok(if entry.manifest.is_some() {
                    entry.mirror_uid = None;
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
            entry.mirror_uid = created["metadata"]["uid"].as_str().map(str::to_owned);
            entry.told = Value::Null;
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
