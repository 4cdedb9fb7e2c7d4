//! Which Services concern which node, kept up to date change by change: those of every namespace in which the node has a pod that is
//! bound to it and not over.
//!
//! Pods are counted by node and namespace, so the first and the last one of a namespace on a node touch that node, and no other pod
//! touches anything. Of a Service only how long its entry is, is kept here.
//!
//! `pod ──first, last──▶ its node`, `Service ──changed──▶ nodes with pods of its namespace`

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use api_edge::resources::AssignmentEntry;
use api_edge::services::{KIND, ServiceSpec};
use serde::Deserialize;

use super::fleet::PLACED_BYTES_MAX;
use hub_runtime::ObjectRef;
use hub_runtime::views::{ObjectMeta, PodSpecView, Text};

/// Services that one node is given: parts of an assignment have 400 entries, and a node follows 64 of them.
pub(super) const OF_NODE_MAX: usize = 4_000;
/// What their entries may take together: eight parts.
const OF_NODE_BYTES_MAX: usize = 2 << 20;

/// A namespace and a name in it.
pub(super) type Name = (Arc<str>, Box<str>);

#[derive(Default)]
struct Namespace {
    /// How long the entry of each of its Services is.
    services: BTreeMap<Box<str>, usize>,
    /// The sum of these.
    bytes: usize,
    /// How many pods each node has of it.
    pods: BTreeMap<Arc<str>, u32>,
    /// The first of its Services, by name, that reaches no node because all of them together are too much.
    cut: Option<Box<str>>,
}

impl Namespace {
    /// Decides anew where to cut; answers whether that is another place. The budget halves when the number of nodes doubles, so a node
    /// more does not move the cut every time.
    fn settle(&mut self) -> bool {
        let budget = PLACED_BYTES_MAX / self.pods.len().max(1).next_power_of_two();
        let mut cut = None;
        if self.bytes > budget {
            let mut taken = 0;
            let over = self.services.iter().find(|(_, bytes)| {
                taken += **bytes;
                taken > budget
            });
            cut = over.map(|(name, _)| name.clone());
        }
        std::mem::replace(&mut self.cut, cut.clone()) != cut
    }
}

/// What a node is given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OfNode {
    /// Its Services, by namespace and name.
    pub services: Vec<Name>,
    /// Of each namespace the first one that it is not given, and whether the node is full, not the namespace too large.
    pub left_out: Vec<(Name, bool)>,
}

/// All Services and pods, as far as the nodes that they concern need.
#[derive(Default)]
pub(super) struct Services {
    namespaces: BTreeMap<Arc<str>, Namespace>,
    /// The namespaces of each node's pods.
    nodes: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
}

impl Services {
    /// A Service is there, or is another than before; its entry has this length.
    pub fn put_service(&mut self, namespace: &str, name: &str, bytes: usize, touched: &mut BTreeSet<Arc<str>>) {
        let of = self.namespace(namespace);
        let before = of.services.insert(name.into(), bytes);
        of.bytes = of.bytes + bytes - before.unwrap_or(0);
        of.settle();
        touched.extend(of.pods.keys().cloned());
    }

    /// A Service is deleted.
    pub fn remove_service(&mut self, namespace: &str, name: &str, touched: &mut BTreeSet<Arc<str>>) {
        let Some(of) = self.namespaces.get_mut(namespace) else { return };
        let Some(before) = of.services.remove(name) else { return };
        of.bytes -= before;
        of.settle();
        touched.extend(of.pods.keys().cloned());
        self.forget_if_empty(namespace);
    }

    /// These are all Services there are: namespace, name and length of the entry of each.
    pub fn replace_services<'a>(
        &mut self,
        services: impl Iterator<Item = (&'a str, &'a str, usize)>,
        touched: &mut BTreeSet<Arc<str>>,
    ) {
        for of in self.namespaces.values_mut().filter(|of| !of.services.is_empty()) {
            of.services.clear();
            (of.bytes, of.cut) = (0, None);
            touched.extend(of.pods.keys().cloned());
        }
        services.for_each(|(namespace, name, bytes)| self.put_service(namespace, name, bytes, touched));
        self.namespaces.retain(|_, of| !of.services.is_empty() || !of.pods.is_empty());
    }

    /// A node has a pod more.
    pub fn add_pod(&mut self, namespace: &str, node: &str, touched: &mut BTreeSet<Arc<str>>) {
        let node = self.nodes.get_key_value(node).map_or_else(|| Arc::from(node), |(node, _)| node.clone());
        let of = self.namespace(namespace);
        let count = of.pods.entry(node.clone()).or_default();
        *count += 1;
        if *count > 1 {
            return;
        }
        let has_cut_moved = of.settle();
        touch(of, &node, has_cut_moved, touched);
        let namespace = self.namespaces.get_key_value(namespace).map(|(namespace, _)| namespace.clone());
        self.nodes.entry(node).or_default().extend(namespace);
    }

    /// A node has a pod less.
    pub fn remove_pod(&mut self, namespace: &str, node: &str, touched: &mut BTreeSet<Arc<str>>) {
        let Some(of) = self.namespaces.get_mut(namespace) else { return };
        let Some(count) = of.pods.get_mut(node) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        of.pods.remove(node);
        let has_cut_moved = of.settle();
        touch(of, node, has_cut_moved, touched);
        if let Some(of_node) = self.nodes.get_mut(node) {
            of_node.remove(namespace);
            if of_node.is_empty() {
                self.nodes.remove(node);
            }
        }
        self.forget_if_empty(namespace);
    }

    /// These are all pods there are that count: namespace and node of each.
    pub fn replace_pods<'a>(
        &mut self,
        pods: impl Iterator<Item = (&'a str, Arc<str>)>,
        touched: &mut BTreeSet<Arc<str>>,
    ) {
        let before = std::mem::take(&mut self.nodes);
        self.namespaces.values_mut().for_each(|of| of.pods.clear());
        let mut unknown = BTreeSet::new();
        pods.for_each(|(namespace, node)| self.add_pod(namespace, &node, &mut unknown));
        // Where to cut may have moved with the number of nodes: lists are rare, and what is as it should be is not written.
        touched.append(&mut unknown);
        touched.extend(before.into_keys());
        self.namespaces.retain(|_, of| {
            of.settle();
            !of.services.is_empty() || !of.pods.is_empty()
        });
    }

    /// What a node is given, in order, so that the same state gives the same assignment.
    pub fn on_node(&self, node: &str) -> OfNode {
        let mut found = OfNode::default();
        let mut bytes = 0;
        for namespace in self.nodes.get(node).into_iter().flatten() {
            let Some(of) = self.namespaces.get(namespace) else { continue };
            for (name, len) in &of.services {
                let is_cut = of.cut.as_ref() == Some(name);
                let is_full = found.services.len() >= OF_NODE_MAX || bytes + len > OF_NODE_BYTES_MAX;
                if is_cut || is_full {
                    found.left_out.push(((namespace.clone(), name.clone()), !is_cut));
                    break;
                }
                bytes += len;
                found.services.push((namespace.clone(), name.clone()));
            }
        }
        found
    }

    fn namespace(&mut self, name: &str) -> &mut Namespace {
        if !self.namespaces.contains_key(name) {
            self.namespaces.insert(name.into(), Namespace::default());
        }
        self.namespaces.get_mut(name).expect("it is there, or was put there")
    }

    fn forget_if_empty(&mut self, namespace: &str) {
        if self.namespaces.get(namespace).is_some_and(|of| of.services.is_empty() && of.pods.is_empty()) {
            self.namespaces.remove(namespace);
        }
    }
}

/// A node has the first pod of a namespace, or none any more.
fn touch(of: &Namespace, node: &str, has_cut_moved: bool, touched: &mut BTreeSet<Arc<str>>) {
    if !of.services.is_empty() {
        touched.insert(node.into());
    }
    if has_cut_moved {
        touched.extend(of.pods.keys().cloned());
    }
}

/// The node that a pod counts for: the one that it is bound to, until it is over.
pub(super) fn node_of_pod(pod: &ObjectRef) -> Option<Arc<str>> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct View<'a> {
        #[serde(borrow)]
        spec: PodSpecView<'a>,
        #[serde(borrow)]
        status: Option<StatusView<'a>>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct StatusView<'a> {
        #[serde(borrow)]
        phase: Option<Text<'a>>,
    }
    let view: View<'_> = pod.view_or_log()?;
    let phase = view.status.and_then(|status| status.phase);
    let is_over = phase.is_some_and(|phase| matches!(&*phase, "Failed" | "Succeeded"));
    (!view.spec.node_name.is_empty() && !is_over).then(|| view.spec.node_name.as_str().into())
}

/// A Service as an entry; `None` for one that no node needs, because nodes lead it to the API by themselves.
pub(super) fn entry(service: &ObjectRef) -> Option<AssignmentEntry> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct View<'a> {
        #[serde(borrow)]
        metadata: ObjectMeta<'a>,
        spec: ServiceSpec,
    }
    if (service.namespace(), service.name()) == ("default", "kubernetes") {
        return None;
    }
    let view: View<'_> = service.view_or_log()?;
    Some(AssignmentEntry {
        kind: KIND.to_owned(),
        namespace: service.namespace().to_owned(),
        name: service.name().to_owned(),
        uid: view.metadata.uid.to_string(),
        generation: view.metadata.generation,
        spec: serde_json::to_value(&view.spec).ok()?,
    })
}

/// How long an entry is.
pub(super) fn bytes_of(entry: &AssignmentEntry) -> usize {
    serde_json::to_vec(entry).map_or(0, |encoded| encoded.len() + 1)
}

#[cfg(test)]
mod tests;
