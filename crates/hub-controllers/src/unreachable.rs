//! Pods of a node that is out of reach are not ready, as upstream's node lifecycle controller has it: nobody knows how they
//! fare, and whoever counts pods must not count on them. That is all: they run on, and none is evicted.
//!
//! A node is taken at the word of its condition `Ready`, which `nodes` makes unknown when the lease has expired; a network that
//! is away for less changes nothing here. The pods are looked at when that happens and at the start, not whenever one of them
//! changes: a pod that becomes ready meanwhile was reported by its kubelet. Nothing is undone, either: a kubelet that is back
//! reports what the hub shows and is not so.

use jiff::Timestamp;
use serde_json::{Value, json};
use tracing::debug;

use crate::Context;
use crate::events::seconds;
use crate::kinds::Kind;
use crate::runtime::batch::slow_start;
use crate::runtime::controller::ReconcileError;
use crate::runtime::{Event, Field, Next, ObjectRef, Queue, ReadObjectError, Reader, Reconciler};
use crate::views::{NodeView, PodView, condition};
use crate::writer::Writer;

/// After a write that met another.
const CONFLICT_RETRY: std::time::Duration = std::time::Duration::from_millis(500);

/// What upstream says of such a pod in an Event, which would be one more write for each.
const REASON: &str = "NodeNotReady";
const MESSAGE: &str = "Node is not ready";

/// The controller.
pub(crate) struct Unreachable {
    context: Context,
}

impl Unreachable {
    pub fn new(context: Context) -> Self {
        Self { context }
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
            Event::Listed(Kind::Node, nodes) => {
                nodes.iter().filter(|node| is_unreachable(node)).for_each(|node| queue.add(node.name().into()));
            }
            Event::Changed(change) if change.kind == Kind::Node => {
                let was_unreachable = change.previous.as_ref().is_some_and(is_unreachable);
                if let Some(node) = change.current.as_ref().filter(|node| !was_unreachable && is_unreachable(node)) {
                    queue.add(node.name().into());
                }
            }
            // Pods are only read, and their first list is waited for.
            _ => {}
        }
    }

    async fn reconcile(&self, name: &Box<str>) -> Result<Next, ReconcileError> {
        let Context { reader, writer, .. } = &self.context;
        if !reader.get(Kind::Node, "", name).is_some_and(|node| is_unreachable(&node)) {
            return Ok(Next::OnChange);
        }
        let pods = reader.by_field(Kind::Pod, Field::NodeName, name);
        let ready: Vec<ObjectRef> = pods.into_iter().filter(is_ready).collect();
        if ready.is_empty() {
            return Ok(Next::OnChange);
        }
        debug!(node = &**name, pods = ready.len(), "Pods of a node that is out of reach are not ready.");
        let marked = slow_start(ready, |pod| {
            let (reader, writer, name) = (reader.clone(), writer.clone(), name.clone());
            async move { mark(&*reader, &writer, &name, &pod).await }
        })
        .await;
        match marked.error {
            Some(error) => Err(error),
            None if marked.done.contains(&false) => Ok(Next::After(CONFLICT_RETRY)),
            None => Ok(Next::OnChange),
        }
    }
}

/// Makes one pod not ready; whether that is done, or needs to be done no more.
async fn mark(reader: &dyn Reader, writer: &Writer, node: &str, pod: &ObjectRef) -> Result<bool, ReconcileError> {
    if !reader.get(Kind::Node, "", node).is_some_and(|node| is_unreachable(&node)) {
        // It is back; its kubelet is in charge.
        return Ok(true);
    }
    let patch = not_ready(pod, Timestamp::now())?;
    Ok(writer.patch_status(Kind::Pod, (pod.namespace(), pod.name()), &patch).await?)
}

/// A patch of the pod as it was read: what its kubelet writes meanwhile is newer than what is known here.
fn not_ready(pod: &ObjectRef, now: Timestamp) -> Result<Value, ReadObjectError> {
    let pod = pod.value()?;
    let mut conditions = pod["status"]["conditions"].clone();
    for ready in conditions.as_array_mut().into_iter().flatten().filter(|condition| condition["type"] == "Ready") {
        ready["status"] = "False".into();
        (ready["reason"], ready["message"]) = (REASON.into(), MESSAGE.into());
        ready["lastTransitionTime"] = seconds(now).into();
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
