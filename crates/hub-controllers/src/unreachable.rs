//! Pods of a node that is out of reach are not ready, as upstream's node lifecycle controller has it: nobody knows how they
//! fare, and whoever counts pods must not count on them. That is all: they run on, and none is evicted.
//!
//! A node is taken at the word of its condition `Ready`, which `nodes` makes unknown when the lease has expired; a network that
//! is away for less changes nothing here. The pods are looked at when that happens and at the start, not whenever one of them
//! changes: a pod that becomes ready meanwhile was reported by its kubelet.
//!
//! A kubelet that is back reports what the hub shows and is not so. Older ones compare with what they said last, which is that
//! the pod is ready, and say nothing: what nobody has said anew a while after the node is back is undone here. A hub is upgraded
//! before its nodes.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::debug;

use hub_runtime::Context;
use hub_runtime::ReconcileError;
use hub_runtime::batch::slow_start;
use hub_runtime::events::seconds;
use hub_runtime::kinds::Kind;
use hub_runtime::views::{NodeView, PodView, condition};
use hub_runtime::writer::Writer;
use hub_runtime::{Event, Field, Next, ObjectRef, Queue, ReadObjectError, Reader, Reconciler};

/// After a write that met another.
const CONFLICT_RETRY: Duration = Duration::from_millis(500);
/// A kubelet that is back has this time to say itself how its pods fare: a slow link takes some seconds for a hundred of them.
const RESTORE_AFTER: Duration = Duration::from_secs(60);

/// What upstream says of such a pod in an Event, which would be one more write for each.
const REASON: &str = "NodeNotReady";
const MESSAGE: &str = "Node is not ready";

/// The controller.
pub(crate) struct Unreachable {
    context: Context,
    /// Since when nodes are known to be back whose pods nobody has reported yet.
    returned: Mutex<HashMap<Box<str>, Instant>>,
}

impl Unreachable {
    pub fn new(context: Context) -> Self {
        Self { context, returned: Mutex::default() }
    }
}

impl Reconciler for Unreachable {
    type Key = Box<str>;

    fn name(&self) -> &'static str {
        "unreachable"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Node, Kind::Pod]
    }

    fn observe(&self, event: &Event, queue: &Queue<Box<str>>) {
        match event {
            // What an earlier start of the hub has marked is to be undone as well.
            Event::Listed(Kind::Node, nodes) => nodes.iter().for_each(|node| queue.add(node.name().into())),
            Event::Changed(change) if change.kind == Kind::Node => {
                let was_unreachable = change.previous.as_ref().map(is_unreachable);
                let is_unreachable = change.current.as_ref().map(is_unreachable);
                let Some(node) = change.current.as_ref().or(change.previous.as_ref()) else { return };
                if is_unreachable != Some(false) {
                    self.returned.lock().remove(node.name());
                }
                if is_unreachable.is_some_and(|now| now != was_unreachable.unwrap_or(false)) {
                    queue.add(node.name().into());
                }
            }
            // Pods are only read, and their first list is waited for.
            _ => {}
        }
    }

    async fn reconcile(&self, name: &Box<str>) -> Result<Next, ReconcileError> {
        let Context { reader, writer, clock, .. } = &self.context;
        let Some(node) = reader.get(Kind::Node, "", name) else { return Ok(Next::OnChange) };
        let is_back = !is_unreachable(&node);
        let pods = reader.by_field(Kind::Pod, Field::NodeName, name);
        let pods: Vec<ObjectRef> = pods.into_iter().filter(if is_back { is_marked } else { is_ready }).collect();
        if pods.is_empty() {
            self.returned.lock().remove(name);
            return Ok(Next::OnChange);
        }
        if is_back {
            let since = *self.returned.lock().entry(name.clone()).or_insert_with(Instant::now);
            let left = RESTORE_AFTER.saturating_sub(since.elapsed());
            if !left.is_zero() {
                return Ok(Next::After(left));
            }
        }
        debug!(node = &**name, pods = pods.len(), is_back, "Pods are as ready as their node is in reach.");
        let marked = slow_start(pods, |pod| {
            let (reader, writer, name, now) = (reader.clone(), writer.clone(), name.clone(), clock.now());
            async move { mark(&*reader, &writer, &name, &pod, is_back, now).await }
        })
        .await;
        match marked.error {
            Some(error) => Err(error),
            None if marked.done.contains(&false) => Ok(Next::After(CONFLICT_RETRY)),
            None => {
                self.returned.lock().remove(name);
                Ok(Next::OnChange)
            }
        }
    }
}

/// Makes one pod ready or not; whether that is done, or needs to be done no more.
async fn mark(
    reader: &dyn Reader,
    writer: &Writer,
    node: &str,
    pod: &ObjectRef,
    is_back: bool,
    now: Timestamp,
) -> Result<bool, ReconcileError> {
    if reader.get(Kind::Node, "", node).is_none_or(|node| is_unreachable(&node) == is_back) {
        // It went again, or is back and its kubelet is in charge.
        return Ok(true);
    }
    let patch = with_ready(pod, is_back, now)?;
    Ok(writer.patch_status(Kind::Pod, (pod.namespace(), pod.name()), &patch).await?)
}

/// A patch of the pod as it was read: what its kubelet writes meanwhile is newer than what is known here.
fn with_ready(pod: &ObjectRef, is_ready: bool, now: Timestamp) -> Result<Value, ReadObjectError> {
    let pod = pod.value()?;
    let mut conditions = pod["status"]["conditions"].clone();
    for ready in conditions.as_array_mut().into_iter().flatten().filter(|condition| condition["type"] == "Ready") {
        (ready["status"], ready["lastTransitionTime"]) =
            (if is_ready { "True" } else { "False" }.into(), seconds(now).into());
        if !is_ready {
            (ready["reason"], ready["message"]) = (REASON.into(), MESSAGE.into());
        } else if let Some(fields) = ready.as_object_mut() {
            fields.remove("reason");
            fields.remove("message");
        }
    }
    let metadata = &pod["metadata"];
    Ok(json!({
        "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
        "status": {"conditions": conditions},
    }))
}

fn is_unreachable(node: &ObjectRef) -> bool {
    node.view_or_log::<NodeView<'_>>().is_some_and(|node| node.is_unreachable())
}

fn is_ready(pod: &ObjectRef) -> bool {
    let pod = pod.view_or_log::<PodView<'_>>();
    pod.is_some_and(|pod| condition(&pod.status.conditions, "Ready").is_some_and(|ready| ready.status == "True"))
}

/// Whether a pod is not ready by what is written here alone: its kubelet last said that its containers are.
fn is_marked(pod: &ObjectRef) -> bool {
    let Some(pod) = pod.view_or_log::<PodView<'_>>() else { return false };
    let conditions = &pod.status.conditions;
    let is_taken =
        condition(conditions, "Ready").is_some_and(|ready| ready.status == "False" && ready.reason == *REASON);
    let do_containers_run = condition(conditions, "ContainersReady").is_some_and(|ready| ready.status == "True");
    is_taken && do_containers_run && pod.metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests;
