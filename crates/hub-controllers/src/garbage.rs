//! Objects whose owner is gone go too; an owner that waits for them, or lets them go, is answered.
//!
//! So far DaemonSets are the only owners here: of pods and of controller revisions.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cache::Lister;
use crate::daemonsets::{controller_of, key};
use crate::driver::FirstFailure;
use crate::kinds::Kind;
use crate::writer::{WriteError, Writer};

const OWNED: [Kind; 2] = [Kind::Pod, Kind::ControllerRevision];
/// `kubectl delete --cascade=orphan`: the owner leaves once its dependents have let go of it.
const FINALIZER_ORPHAN: &str = "orphan";
/// `kubectl delete --cascade=foreground`: the owner leaves once its dependents are gone.
const FINALIZER_FOREGROUND: &str = "foregroundDeletion";

/// One run over everything that a DaemonSet owns or owned.
pub(crate) async fn reconcile(lister: &dyn Lister, writer: &Writer) -> Result<(), WriteError> {
    // Dependents first: an owner that is younger than this view of the dependents is then surely in the other.
    let dependents: Vec<(Kind, Arc<Value>)> = OWNED
        .into_iter()
        .flat_map(|kind| lister.list(kind).values().map(|object| (kind, object.clone())).collect::<Vec<_>>())
        .filter(|(_, object)| is_of_daemon_set(object))
        .collect();
    let sets = lister.list(Kind::DaemonSet);
    let alive: BTreeSet<&str> = sets.values().filter_map(|set| set["metadata"]["uid"].as_str()).collect();
    let mut failures = FirstFailure::default();
    for (kind, object) in &dependents {
        let is_orphan = controller_of(object).is_some_and(|owner| !alive.contains(owner));
        if is_orphan
            && object["metadata"]["deletionTimestamp"].is_null()
            && failures.note(owner_exists(object, writer).await) == Some(false)
        {
            failures.note(writer.delete(*kind, object, None).await);
        }
    }
    for set in sets.values().filter(|set| !set["metadata"]["deletionTimestamp"].is_null()) {
        let uid = set["metadata"]["uid"].as_str();
        let mine: Vec<&(Kind, Arc<Value>)> =
            dependents.iter().filter(|(_, object)| controller_of(object) == uid).collect();
        let finalizers: Vec<&str> =
            set["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if finalizers.contains(&FINALIZER_ORPHAN) {
            for (kind, object) in &mine {
                let patch = json!({"metadata": {"uid": object["metadata"]["uid"], "ownerReferences": null}});
                writer.merge(*kind, key(object), &patch).await?;
            }
            let_go(set, FINALIZER_ORPHAN, writer).await?;
        } else if finalizers.contains(&FINALIZER_FOREGROUND) {
            for (kind, object) in mine.iter().filter(|(_, object)| object["metadata"]["deletionTimestamp"].is_null()) {
                writer.delete(*kind, object, None).await?;
            }
            if mine.is_empty() {
                let_go(set, FINALIZER_FOREGROUND, writer).await?;
            }
        }
    }
    failures.into_result()
}

fn is_of_daemon_set(object: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|owner| owner["controller"] == true && owner["kind"] == "DaemonSet")
}

/// Asks the API itself before anything is deleted: a cache may be behind.
async fn owner_exists(object: &Value, writer: &Writer) -> Result<bool, WriteError> {
    let owners = object["metadata"]["ownerReferences"].as_array();
    let Some(owner) = owners.into_iter().flatten().find(|owner| owner["controller"] == true) else { return Ok(true) };
    let name = owner["name"].as_str().unwrap_or_default();
    let found = writer.get_now(Kind::DaemonSet, (key(object).0, name)).await?;
    Ok(found.is_some_and(|found| found["metadata"]["uid"] == owner["uid"]))
}

async fn let_go(set: &Value, finalizer: &str, writer: &Writer) -> Result<(), WriteError> {
    let finalizers = set["metadata"]["finalizers"].as_array();
    let kept: Vec<&Value> = finalizers.into_iter().flatten().filter(|one| *one != finalizer).collect();
    let patch = json!({"metadata": {"resourceVersion": set["metadata"]["resourceVersion"], "finalizers": kept}});
    writer.merge(Kind::DaemonSet, key(set), &patch).await.map(|_| ())
}
