//! Pods that nobody placed: there is no scheduler yet, and the pod itself says so.

use jiff::Timestamp;
use serde_json::json;

use crate::cache::Lister;
use crate::daemonsets::key;
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
    for pod in lister.list(Kind::Pod).values() {
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
        writer.merge_status(Kind::Pod, key(pod), &json!({"phase": "Pending", "conditions": [condition]})).await?;
        recorder.warning(Kind::Pod, pod, "FailedScheduling", MESSAGE.to_owned());
    }
    Ok(())
}
