//! Which labels a selector means, and which node a pod fits on.

use api_kube::selector::Expression;
use serde::Deserialize;

use crate::views::{LabelSelector, Labels, NodeView, ObjectMeta, Requirement, Taint, Text};

/// Taints that a DaemonSet's pod tolerates in any case: what happens to a node must not drive its daemons away.
const DAEMON_TOLERATES: &[&str] = &[
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/unschedulable",
];
/// And one on the network of the node.
const HOST_DAEMON_TOLERATES: &str = "node.kubernetes.io/network-unavailable";

/// What a pod template demands of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Placement<'a> {
    #[serde(borrow)]
    node_name: Option<Text<'a>>,
    #[serde(borrow)]
    node_selector: Option<Labels<'a>>,
    #[serde(borrow)]
    affinity: Option<Affinity<'a>>,
    #[serde(borrow)]
    tolerations: Option<Vec<Toleration<'a>>>,
    host_network: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Affinity<'a> {
    #[serde(borrow)]
    node_affinity: Option<NodeAffinity<'a>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeAffinity<'a> {
    #[serde(borrow)]
    required_during_scheduling_ignored_during_execution: Option<NodeSelector<'a>>,
}

/// A selector of nodes, as pods and volumes have one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelector<'a> {
    #[serde(borrow)]
    node_selector_terms: Option<Vec<NodeSelectorTerm<'a>>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSelectorTerm<'a> {
    #[serde(borrow)]
    match_expressions: Option<Vec<Requirement<'a>>>,
    #[serde(borrow)]
    match_fields: Option<Vec<Requirement<'a>>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Toleration<'a> {
    #[serde(borrow)]
    key: Option<Text<'a>>,
    #[serde(borrow)]
    operator: Option<Text<'a>>,
    #[serde(borrow)]
    value: Option<Text<'a>>,
    #[serde(borrow)]
    effect: Option<Text<'a>>,
}

/// Whether a daemon belongs on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It should run there.
    Run,
    /// A new one is kept out, one that is there stays: of the taints only `NoExecute` drives it away.
    Stay,
    /// It has no business there.
    Leave,
}

impl Placement<'_> {
    /// Whether a daemon's pod belongs on a node: its name, node selector, required node affinity, taints. A node that waits
    /// for its deletion has its daemons until it is deleted.
    pub fn fit(&self, node: &NodeView<'_>) -> Fit {
        let labels = &node.metadata.labels;
        let is_named = self.node_name.as_deref().is_none_or(|name| name.is_empty() || *name == *node.metadata.name);
        let is_selected = self.node_selector.as_ref().is_none_or(|selector| has_labels(selector, labels));
        if !is_named || !is_selected || !self.affinity_matches(node) {
            return Fit::Leave;
        }
        let tolerations = self.tolerations.as_deref().unwrap_or_default();
        let is_on_host = self.host_network == Some(true);
        let is_daemons = |taint: &Taint<'_>| is_on_host && *taint.key == *HOST_DAEMON_TOLERATES;
        let untolerated = |taint: &&Taint<'_>| !is_tolerated(taint, tolerations) && !is_daemons(taint);
        match node.spec.taints.iter().filter(untolerated).map(|taint| &*taint.effect == "NoExecute").max() {
            None => Fit::Run,
            Some(false) => Fit::Stay,
            Some(true) => Fit::Leave,
        }
    }

    fn affinity_matches(&self, node: &NodeView<'_>) -> bool {
        let required = self.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required = required.and_then(|one| one.required_during_scheduling_ignored_during_execution.as_ref());
        required.is_none_or(|required| required.matches(&node.metadata))
    }
}

impl NodeSelector<'_> {
    /// Whether one of the terms holds for a node. A term without a demand holds nowhere, so what has only such terms, or none,
    /// matches no node.
    pub fn matches(&self, node: &ObjectMeta<'_>) -> bool {
        self.node_selector_terms.iter().flatten().any(|term| {
            let expressions = term.match_expressions.as_deref().unwrap_or_default();
            let fields = term.match_fields.as_deref().unwrap_or_default();
            !(expressions.is_empty() && fields.is_empty())
                && expressions.iter().all(|one| is_met(one, node.labels.get(&one.key)))
                && fields.iter().all(|one| &*one.key == "metadata.name" && is_named(one, &node.name))
        })
    }
}

impl LabelSelector<'_> {
    /// Whether labels satisfy the selector. An empty selector matches everything.
    pub fn matches(&self, labels: &Labels<'_>) -> bool {
        has_labels(&self.match_labels, labels)
            && self.match_expressions.iter().all(|one| is_met(one, labels.get(&one.key)))
    }

    /// Whether it demands nothing.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }
}

/// Whether labels have every pair of a `nodeSelector`.
pub fn has_labels(selector: &Labels<'_>, labels: &Labels<'_>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// What a requirement means is decided in one place, for the API's selectors and for these.
fn is_met(requirement: &Requirement<'_>, value: Option<&str>) -> bool {
    let expression = Expression {
        key: requirement.key.to_string(),
        operator: requirement.operator.to_string(),
        values: requirement.values.iter().map(ToString::to_string).collect(),
    };
    expression.to_requirement().is_ok_and(|requirement| requirement.matches(value))
}

/// A name may be longer than any label's value, so it is compared as it is.
fn is_named(requirement: &Requirement<'_>, name: &str) -> bool {
    let is_among = requirement.values.iter().any(|one| **one == *name);
    match &*requirement.operator {
        "In" => is_among,
        "NotIn" => !is_among,
        _ => false,
    }
}

fn is_tolerated(taint: &Taint<'_>, tolerations: &[Toleration<'_>]) -> bool {
    if &*taint.effect == "PreferNoSchedule" || DAEMON_TOLERATES.contains(&&*taint.key) {
        return true;
    }
    let text = |value: &Option<Text<'_>>| value.as_deref().unwrap_or_default().to_owned();
    tolerations.iter().any(|toleration| {
        let effect = text(&toleration.effect);
        let is_effect = effect.is_empty() || effect == *taint.effect;
        let key = text(&toleration.key);
        let is_value = if text(&toleration.operator) == "Exists" {
            key.is_empty() || key == *taint.key
        } else {
            key == *taint.key && text(&toleration.value) == *taint.value
        };
        is_effect && is_value
    })
}

#[cfg(test)]
mod tests;
