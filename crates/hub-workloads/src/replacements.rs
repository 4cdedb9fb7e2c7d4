//! Pods of nodes that are out of reach are replaced where their workload asks for it, and nowhere else.
//!
//! Upstream evicts them after five minutes. At the edge a node is out of reach because its link is down: it runs on, nobody else
//! can read its meter, and another pod for it would only wait for a node that fits. So a workload says when it is different:
//! `selvedge.dev/replace-when-unreachable: 10m` among its annotations. Its pods on a node that is out of reach for so long are
//! deleted then; a ReplicaSet creates others at once, a StatefulSet waits for the node to confirm, since it never has two pods
//! of one name. The node ends them when it is back.
//!
//! When not one node is in reach, it is the hub that is cut off: nothing is replaced.

use std::collections::BTreeSet;
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
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;

/// A change of the wall clock is noticed within this time.
const DEADLINE_MAX: Duration = Duration::from_secs(60);
/// After a write that met another.
const CONFLICT_RETRY: Duration = Duration::from_millis(500);

/// The controller.
pub(crate) struct Replacements {
    context: Context,
    reach: Mutex<Reach>,
}

/// Which nodes are in reach, by their events. Thousands leave and return at once: each costs the same however many there are. In order, so
/// that a simulation is the same again.
#[derive(Default)]
struct Reach {
    near: BTreeSet<Box<str>>,
    away: BTreeSet<Box<str>>,
    /// Those out of reach whose pods are due, and stay, since no other node was in reach.
    waiting: BTreeSet<Box<str>>,
}

/// What a change of a node means.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Leaves,
    /// It is in reach, for which these have waited.
    Returns(BTreeSet<Box<str>>),
    Same,
}

impl Reach {
    /// A node is in reach, out of reach, or has never said.
    fn put(&mut self, node: &str, is_near: Option<bool>) -> Turn {
        if is_near != Some(true) {
            self.near.remove(node);
        }
        if is_near != Some(false) {
            self.away.remove(node);
            self.waiting.remove(node);
        }
        match is_near {
            Some(true) if self.near.insert(node.into()) => Turn::Returns(std::mem::take(&mut self.waiting)),
            Some(false) if self.away.insert(node.into()) => Turn::Leaves,
            _ => Turn::Same,
        }
    }
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
        Self { context, reach: Mutex::default() }
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
        let mut reach = self.reach.lock();
        match event {
            Event::Listed(Kind::Node, nodes) => {
                *reach = Reach::default();
                for node in nodes.iter() {
                    reach.put(node.name(), is_near(node));
                }
                reach.away.iter().for_each(|node| queue.add(node.clone()));
            }
            Event::Changed(change) if change.kind == Kind::Node => {
                let name = change.newest().name();
                match reach.put(name, change.current.as_ref().and_then(is_near)) {
                    Turn::Leaves => queue.add(name.into()),
                    Turn::Returns(waiting) => waiting.into_iter().for_each(|node| queue.add(node)),
                    Turn::Same => {}
                }
            }
            Event::Changed(change) if change.kind != Kind::Pod => {
                let now = change.current.as_ref().and_then(says);
                if now.is_some() && now != change.previous.as_ref().and_then(says) {
                    reach.away.iter().for_each(|node| queue.add(node.clone()));
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
        {
            let mut reach = self.reach.lock();
            if reach.near.is_empty() {
                reach.waiting.insert(name.clone());
                return Ok(next.or(Next::After(DEADLINE_MAX)));
            }
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

/// Whether a node is in reach, if it has ever said how it is.
fn is_near(node: &ObjectRef) -> Option<bool> {
    let node: NodeView<'_> = node.view_or_log()?;
    Some(*condition(&node.status.conditions, "Ready")?.status != *"Unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_returns_wakes_those_that_have_waited_for_one_and_no_others() {
        let mut reach = Reach::default();
        let none = BTreeSet::new;
        assert_eq!(reach.put("a", None), Turn::Same);
        assert_eq!(reach.put("a", Some(true)), Turn::Returns(none()));
        assert_eq!(reach.put("a", Some(true)), Turn::Same);
        for name in ["a", "b", "c", "d"] {
            assert_eq!(reach.put(name, Some(false)), Turn::Leaves);
            assert_eq!(reach.put(name, Some(false)), Turn::Same);
        }
        assert!(reach.near.is_empty());
        reach.waiting = ["a", "b", "c"].map(Into::into).into();
        assert_eq!(reach.put("c", None), Turn::Same, "it is deleted");
        assert_eq!(reach.put("a", Some(true)), Turn::Returns(["b".into()].into()));
        assert_eq!(reach.put("b", Some(true)), Turn::Returns(none()));
        assert_eq!(reach.away, ["d".into()].into());
    }

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
