//! The nodes that a rollout leaves out.
//!
//! A node out of reach runs what it has, and nobody can change that before it is back. A box whose owner holds updates
//! (`selvedge node hold-updates`) could be changed, and should not. Both keep their pods of the former template; the rollout
//! continues on the other nodes, and has these in their turn when they are back or released. New pods may still be placed on a held
//! node: it holds what runs, not what comes.
//!
//! A pod that was not ready when its node was last heard of does not work as far as anybody knows, whatever is heard: it counts like
//! one on any other node, so that nothing that works is deleted in its stead.
//!
//! The status of a workload counts what is so: a rollout with such nodes is not complete, and `kubectl rollout status` waits for
//! them. The condition `NodesSkipped` says which ones, and no deadline counts while there is nothing else to do.

use std::collections::BTreeMap;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::events::seconds;
use crate::kinds::Kind;
use crate::views::{NodeStatusView, PodView, Text, condition, nullable, time};
use crate::{Change, Event, ObjectRef};

/// Type of the condition.
pub const NODES_SKIPPED: &str = "NodesSkipped";
/// Nodes that the condition names of each reason.
const NAMED_MAX: usize = 10;

/// Why a rollout leaves a node out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skip {
    /// Nobody has heard of it.
    Unreachable,
    /// Its owner holds updates.
    Held,
}

/// Nodes that are left out, in order of their names.
pub type Skipped = BTreeMap<Box<str>, Skip>;

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeSeen<'a> {
    #[serde(borrow)]
    metadata: MetaSeen<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    status: NodeStatusView<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MetaSeen<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    annotations: AnnotationsSeen<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AnnotationsSeen<'a> {
    #[serde(rename = "selvedge.dev/hold-updates", borrow)]
    hold: Option<Text<'a>>,
}

/// Whether the value of [`ANNOTATION_HOLD_UPDATES`](api_edge::ANNOTATION_HOLD_UPDATES) holds updates. A time does until the node takes it away, by its own clock: what
/// depended on the hub's would change without anybody noticing.
pub fn is_held(value: &str) -> bool {
    value == "true" || time(value).is_some()
}

/// Why rollouts leave a node out, if they do. One that is held and out of reach is out of reach.
pub fn skip_of(node: &ObjectRef) -> Option<Skip> {
    let seen: NodeSeen<'_> = node.view_or_log()?;
    let ready = condition(&seen.status.conditions, "Ready");
    if ready.is_some_and(|ready| ready.status == "Unknown") {
        return Some(Skip::Unreachable);
    }
    seen.metadata.annotations.hold.is_some_and(|value| is_held(&value)).then_some(Skip::Held)
}

/// Whether a rollout leaves a pod out that is on such a node: one out of reach ran well when it was last heard of. Its `Ready` says
/// that it is out of reach; what its kubelet said stays in `ContainersReady`.
pub fn leaves_out(skip: Skip, pod: &PodView<'_>) -> bool {
    let is_true = |r#type: &str| condition(&pod.status.conditions, r#type).is_some_and(|one| one.status == "True");
    skip == Skip::Held || is_true("Ready") || is_true("ContainersReady")
}

/// The nodes that are left out now, kept up to date by the events of nodes.
#[derive(Debug, Default)]
pub struct SkippedNodes(Mutex<Skipped>);

impl SkippedNodes {
    /// Takes an event in; the name of the node for which it makes a difference, if it is one alone.
    pub fn apply<'e>(&self, event: &'e Event) -> Option<&'e str> {
        let mut skipped = self.0.lock();
        match event {
            Event::Listed(Kind::Node, nodes) => {
                *skipped = nodes.iter().filter_map(|node| Some((node.name().into(), skip_of(node)?))).collect();
                None
            }
            Event::Changed(change @ Change { kind: Kind::Node, current, .. }) => {
                let name = change.newest().name();
                let skip = current.as_ref().and_then(skip_of);
                let before = match skip {
                    Some(skip) => skipped.insert(name.into(), skip),
                    None => skipped.remove(name),
                };
                (before != skip).then_some(name)
            }
            _ => None,
        }
    }

    /// Whether none is left out now.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Those that are left out now.
    pub fn now(&self) -> Skipped {
        self.0.lock().clone()
    }
}

/// The conditions of a workload, with the one that names the nodes which its rollout has left out.
pub fn with_skipped(conditions: &[Value], skipped: &Skipped, now: Timestamp) -> Vec<Value> {
    let (held, mut others): (Vec<Value>, Vec<Value>) =
        conditions.iter().cloned().partition(|condition| condition["type"] == NODES_SKIPPED);
    let named = |why: Skip| {
        let names: Vec<&str> = skipped.iter().filter(|(_, skip)| **skip == why).map(|(name, _)| &**name).collect();
        let more = if names.len() > NAMED_MAX { ", …" } else { "" };
        let shown = names.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
        (!names.is_empty()).then(|| format!("({}): {shown}{more}", names.len()))
    };
    let unreachable = named(Skip::Unreachable)
        .map(|nodes| format!("Nodes out of reach keep the former template until they are back {nodes}"));
    let owned = named(Skip::Held).map(|nodes| {
        format!("Nodes keep the former template until the owner of the box, who holds updates, releases them {nodes}")
    });
    let (reason, message) = match (unreachable, owned) {
        (None, None) => return others,
        (Some(unreachable), None) => ("NodesUnreachable", unreachable),
        (None, Some(owned)) => ("UpdatesHeld", owned),
        (Some(unreachable), Some(owned)) => ("NodesUnreachableAndUpdatesHeld", format!("{unreachable}. {owned}")),
    };
    let since = held.first().map_or_else(|| seconds(now).into(), |held| held["lastTransitionTime"].clone());
    others.push(json!({
        "type": NODES_SKIPPED, "status": "True", "reason": reason, "message": message, "lastTransitionTime": since,
    }));
    others
}

#[cfg(test)]
mod tests {
    use api_edge::ANNOTATION_HOLD_UPDATES;

    use super::*;

    fn node(name: &str, ready: &str, hold: Option<&str>) -> ObjectRef {
        let mut node = json!({
            "metadata": {"name": name, "annotations": {}}, "status": {"conditions": [{"type": "Ready", "status": ready}]},
        });
        if let Some(hold) = hold {
            node["metadata"]["annotations"][ANNOTATION_HOLD_UPDATES] = hold.into();
        }
        ObjectRef::watched("", name, 1, node.to_string().into())
    }

    #[test]
    fn a_node_is_left_out_when_it_is_out_of_reach_or_held() {
        let check = |ready, hold, expected| assert_eq!(skip_of(&node("a", ready, hold)), expected, "{ready} {hold:?}");
        check("True", None, None);
        check("False", None, None);
        check("Unknown", None, Some(Skip::Unreachable));
        check("Unknown", Some("true"), Some(Skip::Unreachable));
        check("True", Some("true"), Some(Skip::Held));
        check("True", Some("2026-05-01T08:00:00Z"), Some(Skip::Held));
        check("True", Some("false"), None);
        check("True", Some("soon"), None);
    }

    #[test]
    fn only_a_change_that_makes_a_difference_is_one() {
        let nodes = SkippedNodes::default();
        let change = |previous: Option<ObjectRef>, current: Option<ObjectRef>| {
            Event::Changed(Change { kind: Kind::Node, previous, current })
        };
        assert_eq!(nodes.apply(&change(None, Some(node("a", "True", None)))), None);
        assert_eq!(nodes.apply(&change(None, Some(node("a", "Unknown", None)))), Some("a"));
        assert_eq!(nodes.apply(&change(None, Some(node("a", "Unknown", Some("true"))))), None);
        assert_eq!(nodes.apply(&change(None, Some(node("a", "True", Some("true"))))), Some("a"));
        assert_eq!(nodes.now(), [("a".into(), Skip::Held)].into());
        assert_eq!(nodes.apply(&change(Some(node("a", "True", None)), None)), Some("a"));
        assert_eq!(nodes.apply(&Event::Listed(Kind::Node, [node("b", "Unknown", None)].into())), None);
        assert_eq!(nodes.now(), [("b".into(), Skip::Unreachable)].into());
    }

    #[test]
    fn a_workload_names_the_nodes_that_its_rollout_has_left_out() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let away = |names: &[&str]| names.iter().map(|name| ((*name).into(), Skip::Unreachable)).collect::<Skipped>();
        let first = with_skipped(&[], &away(&["gw-1"]), at(1));
        assert_eq!(first[0]["message"], "Nodes out of reach keep the former template until they are back (1): gw-1");
        let many: Vec<String> = (10..22).map(|number| format!("n{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let second = with_skipped(&first, &away(&many), at(2));
        assert_eq!((second.len(), &second[0]["lastTransitionTime"]), (1, &first[0]["lastTransitionTime"]));
        assert!(
            second[0]["message"]
                .as_str()
                .unwrap()
                .ends_with("(12): n10, n11, n12, n13, n14, n15, n16, n17, n18, n19, …")
        );
        let mut both = away(&["gw-1"]);
        both.insert("gw-2".into(), Skip::Held);
        let third = with_skipped(&second, &both, at(3));
        assert_eq!(third[0]["reason"], "NodesUnreachableAndUpdatesHeld");
        assert!(third[0]["message"].as_str().unwrap().contains("releases them (1): gw-2"), "{third:?}");
        assert!(with_skipped(&third, &Skipped::new(), at(4)).is_empty());
    }
}
