//! Pods of nodes that are out of reach are replaced where their workload asks for it, and nowhere else.
//!
//! Upstream evicts them after five minutes. At the edge a node is out of reach because its link is down: it runs on, nobody else
//! can read its meter, and another pod for it would only wait for a node that fits. So a workload says when it is different:
//! `selvedge.dev/replace-when-unreachable: 10m` among its annotations. Its pods on a node that is out of reach for so long are
//! deleted then; a ReplicaSet creates others at once, a StatefulSet waits for the node to confirm, since it never has two pods
//! of one name. The node ends them when it is back.
//!
//! When not one node is in reach, it is the hub that is cut off: nothing is replaced.

use std::time::Duration;

use api_edge::ANNOTATION_REPLACE_WHEN_UNREACHABLE as ANNOTATION;
use api_edge::go_duration;
use hub_runtime::batch::slow_start;
use hub_runtime::events::seconds;
use hub_runtime::kinds::Kind;
use hub_runtime::views::{NodeView, ObjectMeta, PodView, Text, condition, nullable, time};
use hub_runtime::writer::{Target, Writer};
use hub_runtime::{Context, Event, Field, Next, ObjectRef, Queue, ReconcileError, Reconciler};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

/// A change of the wall clock is noticed within this time.
const DEADLINE_MAX: Duration = Duration::from_secs(60);
/// After a write that met another.
const CONFLICT_RETRY: Duration = Duration::from_millis(500);

/// The controller.
pub(crate) struct Replacements {
    context: Context,
}

/// A workload's annotation.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Workload<'a> {
    #[serde(borrow)]
    metadata: WorkloadMeta<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WorkloadMeta<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    uid: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    annotations: Annotations<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotations<'a> {
    #[serde(rename = "selvedge.dev/replace-when-unreachable", borrow)]
    replace: Option<Text<'a>>,
}

/// What a workload says of its pods on nodes that are out of reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    /// They stay.
    Keep,
    /// They are replaced after this time.
    After(Duration),
    /// What it says is no duration.
    Unreadable,
}

impl Policy {
    fn read(text: Option<&str>) -> Self {
        match text.map(go_duration::parse) {
            None => Self::Keep,
            Some(Ok(after)) => Self::After(after),
            Some(Err(_)) => Self::Unreadable,
        }
    }
}

/// A pod that is to be replaced.
struct Due {
    object: ObjectRef,
    uid: String,
}

impl Replacements {
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// What the pod's workload says; a complaint goes to the workload.
    fn policy_of(&self, namespace: &str, meta: &ObjectMeta<'_>) -> Policy {
        let Some(owner) = meta.controller() else { return Policy::Keep };
        let Some(kind) = Kind::find(&owner.api_version, &owner.kind).filter(|kind| SOURCES.contains(kind)) else {
            return Policy::Keep;
        };
        let Some(object) = self.context.reader.get(kind, namespace, &owner.name) else { return Policy::Keep };
        let Some(workload) = object.view_or_log::<Workload<'_>>() else { return Policy::Keep };
        if *workload.metadata.uid != *owner.uid {
            return Policy::Keep;
        }
        let text = workload.metadata.annotations.replace.as_deref();
        let policy = Policy::read(text);
        if policy == Policy::Unreadable {
            let target = Target { namespace, name: &owner.name, uid: &owner.uid };
            let message = format!(
                "{ANNOTATION}: {:?} is no duration such as 10m or 1h30m; pods on nodes that are out of reach stay",
                text.unwrap_or_default()
            );
            self.context.recorder.warning(kind, target, "InvalidAnnotation", message);
        }
        policy
    }

    fn is_any_node_in_reach(&self) -> bool {
        let nodes = self.context.reader.list(Kind::Node, None);
        nodes.into_iter().any(|node| {
            let node = node.view_or_log::<NodeView<'_>>();
            node.is_some_and(|node| {
                condition(&node.status.conditions, "Ready").is_some_and(|ready| *ready.status != *"Unknown")
            })
        })
    }
}

/// Whose annotation counts, and the nodes and pods that it is about.
const SOURCES: &[Kind] =
    &[Kind::Node, Kind::Pod, Kind::ReplicaSet, Kind::ReplicationController, Kind::StatefulSet, Kind::Job];

impl Reconciler for Replacements {
    /// The name of a node.
    type Key = Box<str>;

    fn name(&self) -> &'static str {
        "replacements"
    }

    fn sources(&self) -> &'static [Kind] {
        SOURCES
    }

    fn observe(&self, event: &Event, queue: &Queue<Box<str>>) {
        let says = |object: &ObjectRef| {
            let workload = object.view_or_log::<Workload<'_>>();
            workload.and_then(|workload| workload.metadata.annotations.replace.map(|text| text.to_string()))
        };
        match event {
            Event::Listed(Kind::Node, nodes) => {
                nodes.iter().filter(|node| is_unreachable(node)).for_each(|node| queue.add(node.name().into()));
            }
            Event::Changed(change) if change.kind == Kind::Node => {
                let was = change.previous.as_ref().is_some_and(is_unreachable);
                let is = change.current.as_ref().is_some_and(is_unreachable);
                if is && !was {
                    queue.add(change.newest().name().into());
                } else if was && !is {
                    // Somebody is in reach again: what waited because nobody was is looked at.
                    let nodes = self.context.reader.list(Kind::Node, None);
                    nodes.filter(is_unreachable).for_each(|node| queue.add(node.name().into()));
                }
            }
            Event::Changed(change) if change.kind != Kind::Pod => {
                let now = change.current.as_ref().and_then(says);
                if now.is_some() && now != change.previous.as_ref().and_then(says) {
                    let nodes = self.context.reader.list(Kind::Node, None);
                    nodes.filter(is_unreachable).for_each(|node| queue.add(node.name().into()));
                }
            }
            // A pod does not come to a node that is out of reach.
            _ => {}
        }
    }

    async fn reconcile(&self, name: &Box<str>) -> Result<Next, ReconcileError> {
        let Context { reader, writer, clock, .. } = &self.context;
        let Some(node) = reader.get(Kind::Node, "", name) else { return Ok(Next::OnChange) };
        let view: NodeView<'_> = node.view()?;
        let Some(since) = unreachable_since(&view) else { return Ok(Next::OnChange) };
        let now = clock.now();
        let away = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        let (mut due, mut next) = (Vec::new(), Next::OnChange);
        for object in reader.by_field(Kind::Pod, Field::NodeName, name) {
            let pod: PodView<'_> = object.view()?;
            if pod.metadata.is_terminating() || pod.has_ended() {
                continue;
            }
            let Policy::After(after) = self.policy_of(object.namespace(), &pod.metadata) else { continue };
            match after.saturating_sub(away) {
                Duration::ZERO => {
                    let uid = pod.metadata.uid.to_string();
                    drop(pod);
                    due.push(Due { object, uid });
                }
                left => next = next.or(Next::After(left.min(DEADLINE_MAX))),
            }
        }
        if due.is_empty() {
            return Ok(next);
        }
        if !self.is_any_node_in_reach() {
            return Ok(next.or(Next::After(DEADLINE_MAX)));
        }
        let replaced = slow_start(due, |due| {
            let (writer, node) = (writer.clone(), name.clone());
            async move { replace(&writer, &node, due, now).await }
        })
        .await;
        match replaced.error {
            Some(error) => Err(error),
            None if replaced.done.contains(&false) => Ok(next.or(Next::After(CONFLICT_RETRY))),
            None => Ok(next),
        }
    }
}

/// Says why a pod is deleted, and deletes it; `Ok(false)` when it was changed meanwhile.
async fn replace(writer: &Writer, node: &str, due: Due, now: Timestamp) -> Result<bool, ReconcileError> {
    let pod = due.object.value()?;
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let mut conditions: Vec<_> = conditions.into_iter().filter(|one| one["type"] != "DisruptionTarget").collect();
    conditions.push(json!({
        "type": "DisruptionTarget", "status": "True", "reason": "NodeUnreachable",
        "message": format!("Node {node} is out of reach for as long as the workload waits for it"),
        "lastTransitionTime": seconds(now),
    }));
    let patch = json!({
        "metadata": {"uid": due.uid, "resourceVersion": pod["metadata"]["resourceVersion"]},
        "status": {"conditions": conditions},
    });
    let key = (due.object.namespace(), due.object.name());
    if !writer.patch_status(Kind::Pod, key, &patch).await? {
        return Ok(false);
    }
    let target = Target { namespace: key.0, name: key.1, uid: &due.uid };
    writer.delete_target(Kind::Pod, target, None, None).await?;
    Ok(true)
}

/// Since when a node is out of reach, if it is.
fn unreachable_since(node: &NodeView<'_>) -> Option<Timestamp> {
    let ready = condition(&node.status.conditions, "Ready").filter(|ready| ready.status == "Unknown")?;
    time(ready.last_transition_time.as_deref()?)
}

fn is_unreachable(node: &ObjectRef) -> bool {
    node.view_or_log::<NodeView<'_>>().is_some_and(|node| node.is_unreachable())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_a_duration() {
        for (text, policy) in [
            (None, Policy::Keep),
            (Some("10m"), Policy::After(Duration::from_secs(600))),
            (Some("1h30m"), Policy::After(Duration::from_secs(5400))),
            (Some("0s"), Policy::After(Duration::ZERO)),
            (Some("soon"), Policy::Unreadable),
            (Some("-5m"), Policy::Unreadable),
            (Some(""), Policy::Unreadable),
        ] {
            assert_eq!(Policy::read(text), policy, "{text:?}");
        }
    }
}
