//! Pods that no kubelet answers for: those that nobody placed (there is no scheduler yet, and the pod itself says so),
//! and those on their way out of a node that is no longer there.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cache::{Lister, Objects};
use crate::daemonsets::key;
use crate::driver::FirstFailure;
use crate::events::{Recorder, seconds};
use crate::kinds::Kind;
use crate::writer::{WriteError, Writer};

const REASON: &str = "NoScheduler";
const MESSAGE: &str = "this hub places no pods by itself; set spec.nodeName, or use a DaemonSet";

/// One run over all pods.
pub(crate) async fn reconcile(
    lister: &dyn Lister,
    writer: &Writer,
    recorder: &Recorder,
    now: Timestamp,
) -> Result<(), WriteError> {
    let mut failures = FirstFailure::default();
    let pods = lister.list(Kind::Pod);
    let nodes = lister.list(Kind::Node);
    for pod in pods.values() {
        if is_stranded(pod, &nodes) {
            failures.note(end_stranded(pod, writer).await);
            continue;
        }
        let is_placed = pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
        let conditions = pod["status"]["conditions"].as_array();
        let is_told = conditions.into_iter().flatten().any(|one| one["type"] == "PodScheduled");
        if is_placed || is_told || !pod["metadata"]["deletionTimestamp"].is_null() {
            continue;
        }
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": REASON, "message": MESSAGE,
            "lastTransitionTime": seconds(now),
        });
        let status = json!({"phase": "Pending", "conditions": [condition]});
        failures.note(writer.merge_status(Kind::Pod, key(pod), &status).await);
        recorder.warning(Kind::Pod, pod, "FailedScheduling", MESSAGE.to_owned());
    }
    failures.into_result()
}

/// Whether a pod was told to end on a node that is gone: nobody would ever confirm its end. A pod of a node that is
/// only out of reach is left alone.
pub(crate) fn is_stranded(pod: &Value, nodes: &Objects) -> bool {
    let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
    !pod["metadata"]["deletionTimestamp"].is_null()
        && node.is_some_and(|node| !nodes.contains_key(&(String::new(), node.to_owned())))
}

/// Asks the API itself before the pod goes: a cache may be behind a node that has just joined.
async fn end_stranded(pod: &Value, writer: &Writer) -> Result<(), WriteError> {
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if writer.get_now(Kind::Node, ("", node)).await?.is_none() {
        writer.delete(Kind::Pod, pod, Some(0)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
