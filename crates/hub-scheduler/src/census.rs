//! Which pods are where, counted: what affinity and spreading are decided by.
//!
//! Nobody walks all pods for a decision. A set of pods that some pod's rule means ([`PodMatcher`]) is counted per node when it is
//! first needed and kept up to date with every pod that is placed or ends; a rule of a placed pod that may concern pods to come is
//! kept by its text, with the number of pods on each node that have it. Both are sparse: they cost what the pods that they
//! mean cost. The values of a topology label are numbered, so that a count per zone is an array.

use std::collections::HashMap;

use crate::cluster::NodeId;
use crate::pod::AffinityTerm;
use crate::terms::{Labels, PodMatcher};

/// Sets of pods that are counted at a time. Those that no decision has needed for long are dropped first.
const TALLIES_MAX: usize = 512;

/// No value.
const NONE: u32 = u32::MAX;

/// A topology label by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopologyId(usize);

/// The values of one label of nodes, numbered.
#[derive(Debug, Default)]
pub struct Topology {
    key: Box<str>,
    numbers: HashMap<Box<str>, u32>,
    of_node: Vec<u32>,
}

impl Topology {
    /// The number of a node's value.
    pub fn value(&self, node: NodeId) -> Option<usize> {
        let number = *self.of_node.get(node as usize)?;
        (number != NONE).then_some(number as usize)
    }

    /// One more than the largest number.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether no node ever had the label.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    fn set(&mut self, node: NodeId, labels: Option<&Labels>) {
        let at = node as usize;
        if self.of_node.len() <= at {
            self.of_node.resize(at + 1, NONE);
        }
        self.of_node[at] = match labels.and_then(|labels| labels.get(&self.key)) {
            None => NONE,
            Some(value) => match self.numbers.get(value) {
                Some(number) => *number,
                None => {
                    let number = u32::try_from(self.numbers.len()).unwrap_or(NONE);
                    self.numbers.insert(value.into(), number);
                    number
                }
            },
        };
    }
}

/// All topology labels that a rule has named.
#[derive(Debug, Default)]
pub struct Topologies(Vec<Topology>);

impl Topologies {
    /// A label; its nodes' values are read when it is new.
    pub fn find<'l>(&mut self, key: &str, nodes: impl Iterator<Item = (NodeId, &'l Labels)>) -> TopologyId {
        if let Some(known) = self.known(key) {
            return known;
        }
        let mut topology = Topology { key: key.into(), ..Topology::default() };
        nodes.for_each(|(node, labels)| topology.set(node, Some(labels)));
        self.0.push(topology);
        TopologyId(self.0.len() - 1)
    }

    /// A label that has a number already.
    pub fn known(&self, key: &str) -> Option<TopologyId> {
        self.0.iter().position(|one| &*one.key == key).map(TopologyId)
    }

    /// Its values.
    pub fn get(&self, id: TopologyId) -> &Topology {
        &self.0[id.0]
    }

    /// A node has these labels now, or is absent.
    pub fn set(&mut self, node: NodeId, labels: Option<&Labels>) {
        for topology in &mut self.0 {
            topology.set(node, labels);
        }
    }

    /// Whether the numbers of values that no node has any more had better be forgotten; hosts come and go.
    pub fn are_stale(&self, nodes: usize) -> bool {
        self.0.iter().any(|topology| topology.numbers.len() > 2 * nodes + 64)
    }
}

/// How many pods of a set are on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All of them.
    pub all: u32,
    /// Those that do not wait for their deletion.
    pub alive: u32,
}

/// The pods that match all of some matchers, per node.
#[derive(Debug)]
struct Tally {
    matchers: Box<[PodMatcher]>,
    counts: HashMap<NodeId, Count>,
    used: u64,
}

/// A counted set of pods by its number. Valid until the next set is counted for another decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TallyId(usize);

/// What of a pod is counted.
#[derive(Clone, Copy, Debug)]
pub struct Counted<'p> {
    /// Its namespace.
    pub namespace: &'p str,
    /// The labels of that.
    pub of_namespace: Option<&'p Labels>,
    /// Its own.
    pub labels: &'p Labels,
    /// Where it is.
    pub node: NodeId,
    /// Whether it waits for its deletion.
    pub is_terminating: bool,
}

impl Counted<'_> {
    /// Whether all matchers mean it.
    pub fn is_meant(&self, matchers: &[PodMatcher]) -> bool {
        matchers.iter().all(|one| one.matches(self.namespace, self.of_namespace, self.labels))
    }
}

/// All sets of pods that are counted.
#[derive(Debug, Default)]
pub struct Tallies {
    all: Vec<Tally>,
    by_matchers: HashMap<Box<[PodMatcher]>, usize>,
    clock: u64,
}

impl Tallies {
    /// Begins a decision: what it uses is not dropped before its end.
    pub fn begin(&mut self) {
        self.clock += 1;
        if self.all.len() > TALLIES_MAX {
            let mut uses: Vec<u64> = self.all.iter().map(|tally| tally.used).collect();
            uses.sort_unstable();
            let oldest = uses[uses.len() / 2];
            self.retain(|tally| tally.used > oldest);
        }
    }

    fn retain(&mut self, keep: impl Fn(&Tally) -> bool) {
        self.all.retain(keep);
        self.by_matchers = self.all.iter().enumerate().map(|(at, one)| (one.matchers.clone(), at)).collect();
    }

    /// The number of a set; `pods` is counted when it is new.
    pub fn find<'p>(&mut self, matchers: &[PodMatcher], pods: impl Iterator<Item = Counted<'p>>) -> TallyId {
        if let Some(at) = self.by_matchers.get(matchers) {
            self.all[*at].used = self.clock;
            return TallyId(*at);
        }
        let mut tally = Tally { matchers: matchers.into(), counts: HashMap::new(), used: self.clock };
        pods.for_each(|pod| tally.count(&pod, 1));
        self.all.push(tally);
        self.by_matchers.insert(matchers.into(), self.all.len() - 1);
        TallyId(self.all.len() - 1)
    }

    /// Pods of the set on nodes that have any.
    pub fn counts(&self, id: TallyId) -> impl Iterator<Item = (NodeId, Count)> + '_ {
        self.all[id.0].counts.iter().map(|(node, count)| (*node, *count))
    }

    /// Pods of the set on one node.
    pub fn count(&self, id: TallyId, node: NodeId) -> Count {
        self.all[id.0].counts.get(&node).copied().unwrap_or_default()
    }

    /// A pod is added or taken off.
    pub fn apply(&mut self, pod: &Counted<'_>, sign: i32) {
        self.all.iter_mut().for_each(|tally| tally.count(pod, sign));
    }

    /// The labels of namespaces have changed: what depends on them is counted anew when it is needed.
    pub fn namespaces_changed(&mut self) {
        self.retain(|tally| !tally.matchers.iter().any(PodMatcher::selects_namespaces));
    }
}

impl Tally {
    fn count(&mut self, pod: &Counted<'_>, sign: i32) {
        if !pod.is_meant(&self.matchers) {
            return;
        }
        let count = self.counts.entry(pod.node).or_default();
        count.all = count.all.saturating_add_signed(sign);
        if !pod.is_terminating {
            count.alive = count.alive.saturating_add_signed(sign);
        }
        if *count == Count::default() {
            self.counts.remove(&pod.node);
        }
    }
}

/// How a rule of a placed pod concerns pods to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleKind {
    /// It keeps them out.
    RequiredAnti,
    /// It attracts them, or with a negative weight repels them.
    Weighted(i64),
}

/// A rule of placed pods, and on which nodes how many pods have it.
#[derive(Debug)]
pub struct Rule {
    /// How it concerns a pod to come.
    pub kind: RuleKind,
    /// Which pods, and where.
    pub term: AffinityTerm,
    /// The nodes with pods that have it.
    pub holders: HashMap<NodeId, u32>,
}

/// The affinity rules of all placed pods, found by the namespace of the pods that they mean.
#[derive(Debug, Default)]
pub struct Rules {
    all: Vec<Option<Rule>>,
    free: Vec<usize>,
    by_term: HashMap<(RuleKind, AffinityTerm), usize>,
    by_namespace: HashMap<Box<str>, Vec<usize>>,
    /// Rules that mean namespaces by their labels.
    of_any: Vec<usize>,
}

impl Rules {
    /// A pod on a node has the rule, or has it no more.
    pub fn apply(&mut self, kind: RuleKind, term: &AffinityTerm, node: NodeId, sign: i32) {
        let key = (kind, term.clone());
        let at = match self.by_term.get(&key) {
            Some(at) => *at,
            None if sign < 0 => return,
            None => self.insert(key),
        };
        let Some(rule) = &mut self.all[at] else { return };
        let count = rule.holders.entry(node).or_default();
        *count = count.saturating_add_signed(sign);
        if *count == 0 {
            rule.holders.remove(&node);
        }
        if rule.holders.is_empty() {
            self.remove(at);
        }
    }

    fn insert(&mut self, key: (RuleKind, AffinityTerm)) -> usize {
        let rule = Rule { kind: key.0, term: key.1.clone(), holders: HashMap::new() };
        let at = self.free.pop().unwrap_or(self.all.len());
        if rule.term.matcher.selects_namespaces() {
            self.of_any.push(at);
        }
        for namespace in &rule.term.matcher.namespaces {
            self.by_namespace.entry(namespace.clone()).or_default().push(at);
        }
        if at == self.all.len() {
            self.all.push(Some(rule));
        } else {
            self.all[at] = Some(rule);
        }
        self.by_term.insert(key, at);
        at
    }

    fn remove(&mut self, at: usize) {
        let Some(rule) = self.all[at].take() else { return };
        self.of_any.retain(|one| *one != at);
        for namespace in &rule.term.matcher.namespaces {
            if let Some(rules) = self.by_namespace.get_mut(namespace) {
                rules.retain(|one| *one != at);
                if rules.is_empty() {
                    self.by_namespace.remove(namespace);
                }
            }
        }
        self.by_term.remove(&(rule.kind, rule.term));
        self.free.push(at);
    }

    /// The rules that mean pods of a namespace with these labels.
    pub fn meaning<'r>(
        &'r self,
        namespace: &'r str,
        of_namespace: Option<&'r Labels>,
        labels: &'r Labels,
    ) -> impl Iterator<Item = &'r Rule> {
        let named = self.by_namespace.get(namespace).into_iter().flatten();
        // A rule may name the namespace and mean it by its labels as well.
        let of_any = self.of_any.iter().filter(move |at| {
            let rule = self.all[**at].as_ref();
            rule.is_some_and(|rule| !rule.term.matcher.namespaces.iter().any(|one| **one == *namespace))
        });
        named
            .chain(of_any)
            .filter_map(|at| self.all[*at].as_ref())
            .filter(move |rule| rule.term.matcher.matches(namespace, of_namespace, labels))
    }
}
