//! Labels and what is demanded of them: which nodes and which pods are meant, which taints are tolerated.

use std::hash::{Hash, Hasher};

use api_kube::LabelSelector;
use api_kube::selector::{Operator, Requirement};

/// Labels in order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// Labels of these pairs; of a key that comes twice the last one counts.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut sorted: Vec<(Box<str>, Box<str>)> = Vec::new();
        for (key, value) in pairs {
            match sorted.binary_search_by(|(held, _)| (**held).cmp(key)) {
                Ok(at) => sorted[at].1 = value.into(),
                Err(at) => sorted.insert(at, (key.into(), value.into())),
            }
        }
        Self(sorted.into())
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(held, _)| (**held).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// Pairs in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Which pods are meant: by their namespaces and their labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodMatcher {
    /// Namespaces by their names, sorted.
    pub namespaces: Vec<Box<str>>,
    /// Namespaces by their labels; none where it selects nothing.
    pub namespace_selector: LabelSelector,
    /// The pods in them.
    pub selector: LabelSelector,
}

impl PodMatcher {
    /// The pods of one namespace that a selector selects.
    pub fn in_namespace(namespace: &str, selector: LabelSelector) -> Self {
        Self { namespaces: vec![namespace.into()], namespace_selector: LabelSelector::nothing(), selector }
    }

    /// Whether it depends on the labels of namespaces.
    pub fn selects_namespaces(&self) -> bool {
        // The one that selects nothing is the only one that is neither everything nor has a requirement.
        self.namespace_selector.is_everything() || !self.namespace_selector.requirements().is_empty()
    }

    /// Whether a pod with these labels in a namespace with those is meant.
    pub fn matches(&self, namespace: &str, of_namespace: Option<&Labels>, labels: &Labels) -> bool {
        let is_named = || self.namespaces.iter().any(|one| **one == *namespace);
        let is_selected = || self.namespace_selector.matches(|key| of_namespace.and_then(|labels| labels.get(key)));
        (is_named() || is_selected()) && self.selector.matches(|key| labels.get(key))
    }
}

impl Hash for PodMatcher {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.namespaces.hash(state);
        for requirement in self.selector.requirements() {
            requirement.key().hash(state);
            match requirement.operator() {
                Operator::In(values) | Operator::NotIn(values) => values.hash(state),
                Operator::Greater(bound) | Operator::Less(bound) => bound.hash(state),
                Operator::Exists | Operator::Absent => {}
            }
        }
    }
}

/// One term of a node selector. All of it must hold; one that demands nothing holds nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTerm {
    /// What is demanded of labels; `None` where the API should not have let it pass: it holds nowhere then.
    pub labels: Option<Vec<Requirement>>,
    /// What is demanded of the name: `In` or not, and the names.
    pub names: Vec<(bool, Vec<Box<str>>)>,
}

impl NodeTerm {
    /// Whether a node satisfies it.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        let Some(requirements) = &self.labels else { return false };
        !(requirements.is_empty() && self.names.is_empty())
            && self.names.iter().all(|(is_in, names)| names.iter().any(|one| **one == *name) == *is_in)
            && requirements.iter().all(|requirement| requirement.matches(labels.get(requirement.key())))
    }

    /// The only nodes that can satisfy it, if it names them.
    pub fn only_names(&self) -> Option<Vec<&str>> {
        let mut lists = self.names.iter().filter(|(is_in, _)| *is_in).map(|(_, names)| names);
        let mut names: Vec<&str> = lists.next()?.iter().map(|name| &**name).collect();
        for list in lists {
            names.retain(|name| list.iter().any(|one| **one == **name));
        }
        Some(names)
    }
}

/// Where a pod may run by the properties of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDemand {
    /// `nodeSelector`: labels that a node must have.
    pub selector: Labels,
    /// Required node affinity: one of the terms must hold.
    pub required: Option<Vec<NodeTerm>>,
}

impl NodeDemand {
    /// Whether it demands nothing.
    pub fn is_empty(&self) -> bool {
        self.selector.is_empty() && self.required.is_none()
    }

    /// Whether a node satisfies it.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.required.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)))
    }

    /// The only nodes that can satisfy it, when every term names some.
    pub fn only_names(&self) -> Option<Vec<&str>> {
        let mut all: Vec<&str> = Vec::new();
        let terms = self.required.as_ref().filter(|terms| !terms.is_empty())?;
        for term in terms {
            all.extend(term.only_names()?);
        }
        all.sort_unstable();
        all.dedup();
        Some(all)
    }
}

/// What a taint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// New pods stay away.
    NoSchedule,
    /// New pods had better stay away.
    PreferNoSchedule,
    /// All pods stay away.
    NoExecute,
}

impl Effect {
    /// By its name.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "NoSchedule" => Some(Self::NoSchedule),
            "PreferNoSchedule" => Some(Self::PreferNoSchedule),
            "NoExecute" => Some(Self::NoExecute),
            _ => None,
        }
    }

    /// Whether it keeps a new pod out.
    pub fn is_hard(self) -> bool {
        self != Self::PreferNoSchedule
    }
}

/// One taint of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// `key`.
    pub key: Box<str>,
    /// `value`.
    pub value: Box<str>,
    /// `effect`.
    pub effect: Effect,
}

/// One toleration of a pod. For how long it tolerates does not matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toleration {
    /// `key`; any where it is empty.
    pub key: Box<str>,
    /// `value`; `None` where the operator is `Exists`.
    pub value: Option<Box<str>>,
    /// `effect`; any where it is absent.
    pub effect: Option<Effect>,
}

impl Toleration {
    /// Whether it tolerates a taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.effect.is_none_or(|effect| effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && self.value.as_ref().is_none_or(|value| *value == taint.value)
    }
}

/// Whether one of the tolerations tolerates the taint.
pub fn is_tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| toleration.tolerates(taint))
}

/// Whether the pod is kept out by none of the taints.
pub fn tolerates_all(taints: &[Taint], tolerations: &[Toleration]) -> bool {
    taints.iter().all(|taint| !taint.effect.is_hard() || is_tolerated(taint, tolerations))
}
