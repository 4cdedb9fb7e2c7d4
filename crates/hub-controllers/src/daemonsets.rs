//! DaemonSets: one pod on each node that the template fits, as labels come and go.
//!
//! There is no scheduler in between: the controller sets `spec.nodeName`, which is what makes an edge node independent of
//! anything but its own pods. A pod's name is a function of DaemonSet, revision and node, so a controller that acts
//! twice on an old view creates nothing twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cache::{Lister, Objects};
use crate::driver::FirstFailure;
use crate::events::Recorder;
use crate::kinds::Kind;
use crate::selector::{fits_node, label_selector_matches, may_stay};
use crate::writer::{WriteError, Writer};

/// Label that tells which revision of the template a pod was made from.
pub(crate) const REVISION_LABEL: &str = "controller-revision-hash";
/// Names of pods are made from nodes' names, not drawn: with five letters two of a thousand nodes would often share one,
/// with ten no two of a hundred thousand do.
const POD_SUFFIX_LEN: usize = 10;
/// A pod that failed at once would fail again: the first replacement waits this long, the next twice as long.
const FAILED_PAUSE_MIN: Duration = Duration::from_secs(1);
/// As upstream's back-off of failed daemon pods.
const FAILED_PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// What the controller remembers between runs: pods that failed, so that they are not replaced in a loop.
#[derive(Default)]
pub(crate) struct DaemonSets {
    failures: BTreeMap<(String, String), (Duration, Instant)>,
}

/// What one DaemonSet needs.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Nodes that lack a pod.
    pub create_on: Vec<String>,
    /// Pods that have no business there, are of an old revision and due, or have ended.
    pub delete: Vec<Arc<Value>>,
    /// `status`, without conditions.
    pub status: Value,
    /// Pods in `delete` that ended by themselves, by node.
    pub ended_on: BTreeSet<String>,
}

/// Decides what a DaemonSet needs: its pods are those given, its template's revision is `hash`.
pub(crate) fn plan(set: &Value, hash: &str, nodes: &Objects, pods: &[Arc<Value>]) -> Plan {
    let template = &set["spec"]["template"];
    let fitting: BTreeSet<&str> = nodes
        .values()
        .filter(|node| node["metadata"]["deletionTimestamp"].is_null() && fits_node(template, node))
        .filter_map(|node| node["metadata"]["name"].as_str())
        .collect();
    let mut plan = Plan::default();
    let mut by_node: BTreeMap<&str, Vec<&Arc<Value>>> = BTreeMap::new();
    for pod in pods {
        by_node.entry(pod["spec"]["nodeName"].as_str().unwrap_or_default()).or_default().push(pod);
    }
    let (mut current, mut ready, mut updated, mut misscheduled) = (0, 0, 0, 0);
    let mut outdated = Vec::new();
    for (node, mut pods) in by_node {
        if !fitting.contains(node) {
            misscheduled += pods.len();
            let stays = nodes
                .get(&(String::new(), node.to_owned()))
                .is_some_and(|node| node["metadata"]["deletionTimestamp"].is_null() && may_stay(template, node));
            if stays {
                continue;
            }
            plan.delete.extend(pods.into_iter().filter(|pod| !is_leaving(pod)).cloned());
            continue;
        }
        // Should two stand on one node after all, the older stays.
        pods.sort_by_key(|pod| pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned());
        for (index, pod) in pods.into_iter().enumerate() {
            if is_leaving(pod) {
                continue;
            }
            let has_ended = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
            if has_ended || index > 0 {
                if has_ended {
                    plan.ended_on.insert(node.to_owned());
                }
                plan.delete.push(pod.clone());
                continue;
            }
            current += 1;
            let is_ready = is_ready(pod);
            ready += usize::from(is_ready);
            if pod["metadata"]["labels"][REVISION_LABEL] == hash {
                updated += 1;
            } else {
                outdated.push((is_ready, pod));
            }
        }
    }
    if set["spec"]["updateStrategy"]["type"] != "OnDelete" {
        let mut unavailable = fitting.len().saturating_sub(ready);
        let max_unavailable = max_unavailable(set, fitting.len());
        // An outdated pod that does not work anyway may go at once; a working one only within the limit.
        outdated.sort_by_key(|(is_ready, _)| *is_ready);
        for (is_ready, pod) in outdated {
            if is_ready && unavailable >= max_unavailable {
                break;
            }
            unavailable += usize::from(is_ready);
            plan.delete.push(pod.clone());
        }
    }
    let occupied: BTreeSet<&str> = pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    plan.create_on = fitting.iter().filter(|node| !occupied.contains(**node)).map(|node| (*node).to_owned()).collect();
    plan.status = json!({
        "observedGeneration": set["metadata"]["generation"],
        "desiredNumberScheduled": fitting.len(),
        "currentNumberScheduled": current,
        "numberMisscheduled": misscheduled,
        "numberReady": ready,
        "numberAvailable": ready,
        "numberUnavailable": fitting.len().saturating_sub(ready),
        "updatedNumberScheduled": updated,
    });
    plan
}

fn is_leaving(pod: &Value) -> bool {
    !pod["metadata"]["deletionTimestamp"].is_null()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// `maxUnavailable` as a number of pods: percentages are rounded up, and one at least may always go.
fn max_unavailable(set: &Value, desired: usize) -> usize {
    let wanted = &set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"];
    let number = match (wanted.as_u64(), wanted.as_str().and_then(|text| text.strip_suffix('%'))) {
        (Some(number), _) => usize::try_from(number).unwrap_or(usize::MAX),
        (None, Some(percent)) => percent.parse::<usize>().unwrap_or(0).saturating_mul(desired).div_ceil(100),
        (None, None) => 1,
    };
    number.max(1)
}

/// The revision of a template: short, stable, and fit for a name.
pub(crate) fn revision_hash(template: &Value) -> String {
    short_hash(template.to_string().as_bytes(), 10)
}

/// A name for the pod of a DaemonSet's revision on a node.
pub(crate) fn pod_name(set: &str, hash: &str, node: &str) -> String {
    let set: String = set.chars().take(240).collect();
    format!("{set}-{}", short_hash(format!("{hash}/{node}").as_bytes(), POD_SUFFIX_LEN))
}

/// FNV-1a in letters and digits that cannot be read as words, as Kubernetes writes its suffixes.
fn short_hash(bytes: &[u8], len: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let letters = ALPHABET.len() as u64;
    (0..len)
        .map(|_| {
            let letter = ALPHABET[usize::try_from(hash % letters).unwrap_or_default()];
            hash /= letters;
            char::from(letter)
        })
        .collect()
}

/// The pod of a DaemonSet on a node.
pub(crate) fn pod_for(set: &Value, hash: &str, node: &str) -> Value {
    let metadata = &set["metadata"];
    let template = &set["spec"]["template"];
    let mut labels = template["metadata"]["labels"].clone();
    if !labels.is_object() {
        labels = json!({});
    }
    labels[REVISION_LABEL] = json!(hash);
    let mut spec = template["spec"].clone();
    spec["nodeName"] = json!(node);
    let tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    // A daemon stays where it is whatever becomes of the node, as upstream's controller has it.
    let own = [
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    let own = own.map(|(key, effect)| json!({"key": key, "operator": "Exists", "effect": effect}));
    spec["tolerations"] = tolerations.into_iter().chain(own).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(metadata["name"].as_str().unwrap_or_default(), hash, node),
            "namespace": metadata["namespace"],
            "labels": labels,
            "annotations": template["metadata"]["annotations"],
            "ownerReferences": [owner_reference(set)],
        },
        "spec": spec,
    })
}

fn owner_reference(set: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "name": set["metadata"]["name"], "uid": set["metadata"]["uid"],
        "controller": true, "blockOwnerDeletion": true,
    })
}

impl DaemonSets {
    /// One run over all DaemonSets.
    pub(crate) async fn reconcile(
        &mut self,
        lister: &dyn Lister,
        writer: &Writer,
        recorder: &Recorder,
        now: Instant,
    ) -> Result<(), WriteError> {
        let nodes = lister.list(Kind::Node);
        let pods = lister.list(Kind::Pod);
        let mut owned: BTreeMap<&str, Vec<Arc<Value>>> = BTreeMap::new();
        for pod in pods.values() {
            if let Some(owner) = controller_of(pod) {
                owned.entry(owner).or_default().push(pod.clone());
            }
        }
        let sets = lister.list(Kind::DaemonSet);
        self.failures.retain(|(uid, _), _| sets.values().any(|set| set["metadata"]["uid"] == uid.as_str()));
        let mut failures = FirstFailure::default();
        for set in sets.values().filter(|set| set["metadata"]["deletionTimestamp"].is_null()) {
            let uid = set["metadata"]["uid"].as_str().unwrap_or_default();
            let mine = owned.remove(uid).unwrap_or_default();
            failures.note(self.reconcile_one(set, &nodes, &mine, lister, writer, recorder, now).await);
        }
        failures.into_result()
    }

    #[expect(clippy::too_many_arguments, reason = "one run's surroundings, handed on once")]
    async fn reconcile_one(
        &mut self,
        set: &Value,
        nodes: &Objects,
        pods: &[Arc<Value>],
        lister: &dyn Lister,
        writer: &Writer,
        recorder: &Recorder,
        now: Instant,
    ) -> Result<(), WriteError> {
        if !label_selector_matches(&set["spec"]["selector"], &set["spec"]["template"]["metadata"]["labels"]) {
            return Ok(());
        }
        let hash = revision_hash(&set["spec"]["template"]);
        keep_revision(set, &hash, lister, writer).await?;
        let plan = plan(set, &hash, nodes, pods);
        let uid = set["metadata"]["uid"].as_str().unwrap_or_default();
        for pod in &plan.delete {
            let node = pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
            if plan.ended_on.contains(&node) && !self.may_replace((uid.to_owned(), node), now) {
                continue;
            }
            if writer.delete(Kind::Pod, pod, None).await? {
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                recorder.normal(Kind::DaemonSet, set, "SuccessfulDelete", format!("Deleted pod: {name}"));
            }
        }
        let mut failures = FirstFailure::default();
        for node in &plan.create_on {
            let made = writer.create(Kind::Pod, pod_for(set, &hash, node)).await;
            match made {
                Ok(Some(pod)) => {
                    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                    recorder.normal(Kind::DaemonSet, set, "SuccessfulCreate", format!("Created pod: {name}"));
                }
                // It is there already, or one of that name is still leaving: its end brings the next run.
                Ok(None) => {}
                Err(error) => {
                    let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    recorder.warning(Kind::DaemonSet, set, "FailedCreate", format!("Error creating pod: {why}"));
                    failures.note::<()>(Err(error));
                    // What one is refused for, the others are too.
                    break;
                }
            }
        }
        let mut status = set["status"].clone();
        merge_into(&mut status, &plan.status);
        if status != set["status"] {
            failures.note(writer.merge_status(Kind::DaemonSet, key(set), &plan.status).await);
        }
        failures.into_result()
    }

    /// Whether the pod that ended on a node may be replaced now; counts the replacement.
    fn may_replace(&mut self, place: (String, String), now: Instant) -> bool {
        match self.failures.get_mut(&place) {
            Some((pause, last)) if now.duration_since(*last) < *pause => false,
            Some((pause, last)) => {
                *pause = (*pause * 2).min(FAILED_PAUSE_MAX);
                *last = now;
                true
            }
            None => {
                self.failures.insert(place, (FAILED_PAUSE_MIN, now));
                true
            }
        }
    }
}

/// Makes sure that the template's revision is kept, for `kubectl rollout history`.
async fn keep_revision(set: &Value, hash: &str, lister: &dyn Lister, writer: &Writer) -> Result<(), WriteError> {
    let (namespace, name) = key(set);
    let revisions = lister.list(Kind::ControllerRevision);
    let uid = &set["metadata"]["uid"];
    let mine: Vec<&Arc<Value>> =
        revisions.values().filter(|revision| revision["metadata"]["ownerReferences"][0]["uid"] == *uid).collect();
    let revision_name = format!("{name}-{hash}");
    let newest = mine.iter().filter_map(|revision| revision["revision"].as_i64()).max().unwrap_or_default();
    match mine.iter().find(|revision| revision["metadata"]["name"] == revision_name.as_str()) {
        None => {
            // kubectl finds revisions by the set's own labels, and goes back by a patch that must replace, not merge.
            let mut labels = set["spec"]["template"]["metadata"]["labels"].clone();
            merge_into(&mut labels, &json!({REVISION_LABEL: hash}));
            let mut template = set["spec"]["template"].clone();
            template["$patch"] = json!("replace");
            let object = json!({
                "apiVersion": "apps/v1",
                "kind": "ControllerRevision",
                "metadata": {
                    "name": revision_name, "namespace": namespace, "labels": labels,
                    "ownerReferences": [owner_reference(set)],
                },
                "data": {"spec": {"template": template}},
                "revision": newest + 1,
            });
            writer.create(Kind::ControllerRevision, object).await?;
        }
        // Going back to an old template makes it the newest revision.
        Some(revision) if revision["revision"].as_i64() < Some(newest) => {
            let patch = json!({"revision": newest + 1});
            writer.merge(Kind::ControllerRevision, (namespace, &revision_name), &patch).await?;
        }
        Some(_) => {}
    }
    let kept = usize::try_from(set["spec"]["revisionHistoryLimit"].as_u64().unwrap_or(10)).unwrap_or(10);
    let mut old: Vec<&&Arc<Value>> =
        mine.iter().filter(|revision| revision["metadata"]["name"] != revision_name.as_str()).collect();
    old.sort_by_key(|revision| revision["revision"].as_i64());
    for revision in old.iter().take(old.len().saturating_sub(kept)) {
        writer.delete(Kind::ControllerRevision, revision, None).await?;
    }
    Ok(())
}

/// Uid of the object that controls this one.
pub(crate) fn controller_of(object: &Value) -> Option<&str> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["controller"] == true)?["uid"].as_str()
}

/// Namespace and name.
pub(crate) fn key(object: &Value) -> (&str, &str) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    (text("namespace"), text("name"))
}

/// Puts the fields of `from` into `into`.
pub(crate) fn merge_into(into: &mut Value, from: &Value) {
    if !into.is_object() {
        *into = json!({});
    }
    for (field, value) in from.as_object().into_iter().flatten() {
        into[field] = value.clone();
    }
}

#[cfg(test)]
mod tests;
