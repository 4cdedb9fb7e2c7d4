//! Which fleet object runs on which node, kept up to date change by change.
//!
//! A Device names its node; a Stream, Rule or Export has a selector. Objects are indexed by one term of their selectors,
//! so a node whose labels change is compared with the objects that could match it and with nothing else; specs are not
//! kept here, only what decides where they go. Each change reports whom it touched: nodes whose assignment may differ
//! now, objects whose status may.
//!
//! `node + labels ──by_term──▶ candidates ──match──▶ difference to before ──▶ Touched`

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use jiff::Timestamp;

use super::fleet_status::Report;
use hub_runtime::kinds::Kind;
use hub_runtime::views::Labels;

/// Bytes of specs that one namespace may place on nodes, each counted once for every node that it is on: whoever may write one Rule
/// would have it copied a thousand times otherwise.
pub(crate) const PLACED_BYTES_MAX: usize = 64 << 20;

/// Kind, namespace and name of a fleet object.
pub(crate) type ObjectId = (Kind, Arc<str>, Arc<str>);

/// Why an object reaches no node although it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// One word.
    pub reason: &'static str,
    /// A sentence with the next step.
    pub message: String,
}

/// Whom a change concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Nodes whose assignment may differ now.
    pub nodes: BTreeSet<Arc<str>>,
    /// Objects whose status may differ now.
    pub objects: BTreeSet<ObjectId>,
}

/// What of a Stream, Rule or Export decides where it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    pub uid: Box<str>,
    pub generation: i64,
    pub selector: Vec<(Box<str>, Box<str>)>,
    /// How long its spec is.
    pub bytes: usize,
}

/// What of a Device decides where it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub uid: Box<str>,
    pub generation: i64,
    pub node: Arc<str>,
    pub profile: Box<str>,
    pub edgex_name: Box<str>,
    pub created: Timestamp,
}

#[derive(Debug)]
enum Spec {
    Selected(Selected),
    Device(Device),
}

#[derive(Debug)]
struct Entry {
    spec: Spec,
    nodes: BTreeSet<Arc<str>>,
    problem: Option<Problem>,
}

impl Entry {
    fn uid(&self) -> &str {
        match &self.spec {
            Spec::Selected(spec) => &spec.uid,
            Spec::Device(spec) => &spec.uid,
        }
    }

    fn bytes(&self) -> usize {
        match &self.spec {
            Spec::Selected(spec) => spec.bytes,
            Spec::Device(_) => 0,
        }
    }

    fn generation(&self) -> i64 {
        match &self.spec {
            Spec::Selected(spec) => spec.generation,
            Spec::Device(spec) => spec.generation,
        }
    }
}

/// The node of a part of an assignment, and the objects that it reports of by their uids.
type Reported = (Arc<str>, BTreeMap<Arc<str>, ObjectId>);

/// A term of a selector.
type Term = (Box<str>, Box<str>);

#[derive(Debug, Default)]
struct Placed {
    bytes: usize,
    held_back: BTreeSet<ObjectId>,
}

/// All fleet objects and nodes, as far as placing them needs.
#[derive(Default)]
pub(crate) struct Fleet {
    /// Nodes, and the selected objects that each runs.
    nodes: HashMap<Arc<str>, BTreeSet<ObjectId>>,
    /// Nodes that are out of reach: what they reported last is not known to hold.
    unreachable: HashSet<Arc<str>>,
    objects: BTreeMap<ObjectId, Entry>,
    by_term: HashMap<Term, BTreeSet<ObjectId>>,
    everywhere: BTreeSet<ObjectId>,
    /// Bytes that each namespace has placed on nodes, and its objects that were held back because there were too many.
    placed: HashMap<Arc<str>, Placed>,
    /// Whether there is space again for what was held back.
    has_space_again: bool,
    /// Generations of device profiles.
    profiles: HashMap<Box<str>, i64>,
    devices_by_node: HashMap<Arc<str>, BTreeSet<ObjectId>>,
    devices_by_profile: HashMap<Box<str>, BTreeSet<ObjectId>>,
    /// What nodes report, by the uid of the object.
    reports: HashMap<Arc<str>, BTreeMap<Arc<str>, Report>>,
    /// Of which objects each part of an assignment reports: node, uids.
    reported: HashMap<Box<str>, Reported>,
    /// How often a node was compared with the objects, for tests and metrics.
    evaluations: u64,
}

impl Fleet {
    /// How often a node was compared with the objects.
    #[cfg(test)]
    pub fn evaluations(&self) -> u64 {
        self.evaluations
    }

    /// A node is there, with these labels.
    pub fn put_node(&mut self, name: &str, labels: &Labels<'_>, touched: &mut Touched) {
        let (name, is_new) = match self.nodes.get_key_value(name) {
            Some((name, _)) => (name.clone(), false),
            None => (Arc::from(name), true),
        };
        let mut matched = self.matching(labels);
        let before = self.nodes.insert(name.clone(), BTreeSet::new()).unwrap_or_default();
        // What leaves makes space for what comes.
        for id in before.difference(&matched) {
            self.unplace(id, &name);
            touched.objects.insert(id.clone());
            touched.nodes.insert(name.clone());
        }
        let new: Vec<ObjectId> = matched.difference(&before).cloned().collect();
        for id in new {
            if self.place(&id, &name) {
                touched.nodes.insert(name.clone());
            } else {
                matched.remove(&id);
            }
            touched.objects.insert(id);
        }
        self.nodes.insert(name.clone(), matched);
        if is_new {
            touched.nodes.insert(name.clone());
            self.settle_devices(&name, touched);
        }
    }

    /// A node is out of reach, or is not any more. That concerns how its objects fare, not what it should run.
    pub fn set_unreachable(&mut self, name: &str, is_unreachable: bool, touched: &mut Touched) {
        let Some((name, selected)) = self.nodes.get_key_value(name) else { return };
        let is_news = match is_unreachable {
            true => self.unreachable.insert(name.clone()),
            false => self.unreachable.remove(name),
        };
        if is_news {
            touched.objects.extend(selected.iter().cloned());
            touched.objects.extend(self.devices_by_node.get(name).into_iter().flatten().cloned());
        }
    }

    /// A node is deleted.
    pub fn remove_node(&mut self, name: &str, touched: &mut Touched) {
        self.unreachable.remove(name);
        let Some((name, before)) = self.nodes.remove_entry(name) else { return };
        for id in before {
            self.unplace(&id, &name);
            touched.objects.insert(id);
        }
        self.settle_devices(&name, touched);
        touched.nodes.insert(name);
    }

    /// Whether objects were held back for which there is space now: then every node is to be [put](Self::put_node) again.
    pub fn take_space_again(&mut self) -> bool {
        let has_space = std::mem::take(&mut self.has_space_again);
        if has_space {
            self.placed.values_mut().for_each(|placed| placed.held_back.clear());
        }
        has_space
    }

    /// Puts an object on a node, unless its namespace has placed too much.
    fn place(&mut self, id: &ObjectId, node: &Arc<str>) -> bool {
        let Some(entry) = self.objects.get_mut(id) else { return false };
        let placed = self.placed.entry(id.1.clone()).or_default();
        let is_placed = placed.bytes + entry.bytes() <= PLACED_BYTES_MAX;
        if is_placed {
            placed.bytes += entry.bytes();
            entry.nodes.insert(node.clone());
        } else {
            placed.held_back.insert(id.clone());
        }
        settle_selected(entry, placed.held_back.contains(id));
        is_placed
    }

    /// Takes an object from a node.
    fn unplace(&mut self, id: &ObjectId, node: &str) {
        let Some(entry) = self.objects.get_mut(id) else { return };
        let placed = self.placed.entry(id.1.clone()).or_default();
        if entry.nodes.remove(node) {
            placed.bytes = placed.bytes.saturating_sub(entry.bytes());
            self.has_space_again |= !placed.held_back.is_empty();
        }
        settle_selected(entry, placed.held_back.contains(id));
    }

    /// Takes an object from all nodes, and gives back what it was.
    fn take_selected(&mut self, id: &ObjectId) -> Option<Entry> {
        let nodes: Vec<Arc<str>> = self.objects.get(id)?.nodes.iter().cloned().collect();
        for node in &nodes {
            self.unplace(id, node);
            if let Some(objects) = self.nodes.get_mut(node) {
                objects.remove(id);
            }
        }
        if let Some(placed) = self.placed.get_mut(&id.1) {
            placed.held_back.remove(id);
            if placed.bytes == 0 && placed.held_back.is_empty() {
                self.placed.remove(&id.1);
            }
        }
        let mut entry = self.objects.remove(id)?;
        self.drop_from_indexes(id, &entry);
        entry.nodes.extend(nodes);
        Some(entry)
    }

    /// Whether an object that is on so many nodes may be so much larger there.
    fn resize(&mut self, namespace: &Arc<str>, nodes: usize, before: usize, now: usize) -> bool {
        let placed = self.placed.entry(namespace.clone()).or_default();
        let bytes = (placed.bytes + now * nodes).saturating_sub(before * nodes);
        if now > before && bytes > PLACED_BYTES_MAX {
            return false;
        }
        self.has_space_again |= now < before && !placed.held_back.is_empty();
        placed.bytes = bytes;
        true
    }

    /// The nodes that are there.
    pub fn node_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.nodes.keys()
    }

    /// Whether a node is there.
    pub fn has_node(&self, name: &str) -> bool {
        self.nodes.contains_key(name)
    }

    /// A Stream, Rule or Export is there. Answers whether its selector is new: then every node is to be
    /// [put](Self::put_node) again.
    pub fn put_selected(&mut self, id: &ObjectId, spec: Selected, touched: &mut Touched) -> bool {
        if let Some(Entry { spec: Spec::Selected(held), nodes, .. }) = self.objects.get(id) {
            if *held == spec {
                return false;
            }
            let (before, count) = (held.bytes, nodes.len());
            if held.selector == spec.selector && self.resize(&id.1, count, before, spec.bytes) {
                if let Some(Entry { spec: held, nodes, .. }) = self.objects.get_mut(id) {
                    *held = Spec::Selected(spec);
                    touched.nodes.extend(nodes.iter().cloned());
                }
                touched.objects.insert(id.clone());
                return false;
            }
        }
        // Those that match still hear of the new spec; those that do not, once they are put again.
        touched.nodes.extend(self.take_selected(id).into_iter().flat_map(|before| before.nodes));
        touched.objects.insert(id.clone());
        match spec.selector.first() {
            None => self.everywhere.insert(id.clone()),
            Some(term) => self.by_term.entry(term.clone()).or_default().insert(id.clone()),
        };
        let mut entry = Entry { spec: Spec::Selected(spec), nodes: BTreeSet::new(), problem: None };
        settle_selected(&mut entry, false);
        self.objects.insert(id.clone(), entry);
        true
    }

    /// A Device is there.
    pub fn put_device(&mut self, id: &ObjectId, device: Device, touched: &mut Touched) {
        let before = match self.objects.get(id) {
            Some(Entry { spec: Spec::Device(held), .. }) if *held == device => return,
            Some(_) => self.objects.remove(id),
            None => None,
        };
        if let Some(entry) = &before {
            self.drop_from_indexes(id, entry);
        }
        let (node, profile) = (device.node.clone(), device.profile.clone());
        self.devices_by_node.entry(node.clone()).or_default().insert(id.clone());
        self.devices_by_profile.entry(profile).or_default().insert(id.clone());
        self.objects.insert(id.clone(), Entry { spec: Spec::Device(device), nodes: BTreeSet::new(), problem: None });
        touched.objects.insert(id.clone());
        touched.nodes.insert(node.clone());
        self.settle_devices(&node, touched);
        if let Some(Entry { spec: Spec::Device(held), .. }) = before
            && held.node != node
        {
            touched.nodes.insert(held.node.clone());
            self.settle_devices(&held.node, touched);
        }
    }

    /// An object is deleted, or on its way out.
    pub fn remove_object(&mut self, id: &ObjectId, touched: &mut Touched) {
        let node = match self.objects.get(id).map(|entry| &entry.spec) {
            None => return,
            Some(Spec::Selected(_)) => {
                touched.nodes.extend(self.take_selected(id).into_iter().flat_map(|before| before.nodes));
                return;
            }
            Some(Spec::Device(device)) => device.node.clone(),
        };
        if let Some(entry) = self.objects.remove(id) {
            self.drop_from_indexes(id, &entry);
            touched.nodes.extend(entry.nodes);
        }
        self.settle_devices(&node, touched);
    }

    /// The objects of a kind that are there.
    pub fn ids(&self, kind: Kind) -> Vec<ObjectId> {
        self.objects.keys().filter(|(of, ..)| *of == kind).cloned().collect()
    }

    /// A profile is there, at this generation.
    pub fn put_profile(&mut self, name: &str, generation: i64, touched: &mut Touched) {
        if self.profiles.insert(name.into(), generation) != Some(generation) {
            self.profile_changed(name, touched);
        }
    }

    /// A profile is deleted.
    pub fn remove_profile(&mut self, name: &str, touched: &mut Touched) {
        if self.profiles.remove(name).is_some() {
            self.profile_changed(name, touched);
        }
    }

    /// The profiles that are there.
    pub fn profile_names(&self) -> Vec<Box<str>> {
        self.profiles.keys().cloned().collect()
    }

    fn profile_changed(&mut self, name: &str, touched: &mut Touched) {
        let devices = self.devices_by_profile.get(name).into_iter().flatten();
        let nodes: BTreeSet<Arc<str>> = devices
            .filter_map(|id| match &self.objects.get(id)?.spec {
                Spec::Device(device) => Some(device.node.clone()),
                Spec::Selected(_) => None,
            })
            .collect();
        for node in nodes {
            self.settle_devices(&node, touched);
            touched.nodes.insert(node);
        }
    }

    /// A part of a node's assignment reports this of the objects in it, by their uids.
    pub fn put_report(
        &mut self,
        part: &str,
        node: &str,
        reported: Vec<(Arc<str>, ObjectId, Report)>,
        touched: &mut Touched,
    ) {
        let node: Arc<str> = match self.nodes.get_key_value(node) {
            Some((node, _)) => node.clone(),
            None => node.into(),
        };
        let mut before = match self.reported.remove(part) {
            Some((of, before)) if of == node => before,
            Some((of, before)) => {
                self.drop_reports(&of, before, touched);
                BTreeMap::new()
            }
            None => BTreeMap::new(),
        };
        let mut now = BTreeMap::new();
        for (uid, id, report) in reported {
            before.remove(&uid);
            let of_object = self.reports.entry(uid.clone()).or_default();
            if of_object.get(&node) != Some(&report) {
                of_object.insert(node.clone(), report);
                touched.objects.insert(id.clone());
            }
            now.insert(uid, id);
        }
        self.drop_reports(&node, before, touched);
        if !now.is_empty() {
            self.reported.insert(part.into(), (node, now));
        }
    }

    /// A part of an assignment is deleted.
    pub fn remove_report(&mut self, part: &str, touched: &mut Touched) {
        if let Some((node, before)) = self.reported.remove(part) {
            self.drop_reports(&node, before, touched);
        }
    }

    /// The parts that report.
    pub fn parts(&self) -> Vec<Box<str>> {
        self.reported.keys().cloned().collect()
    }

    /// Forgets what a part of a node reported, unless another part of the node reports of the same object: objects move from
    /// part to part, and the part that takes one in may be heard of before the one that gives it away.
    fn drop_reports(&mut self, node: &str, removed: BTreeMap<Arc<str>, ObjectId>, touched: &mut Touched) {
        if removed.is_empty() {
            return;
        }
        let others: Vec<&BTreeMap<Arc<str>, ObjectId>> =
            self.reported.values().filter(|(of, _)| **of == *node).map(|(_, uids)| uids).collect();
        for (uid, id) in removed {
            if others.iter().any(|uids| uids.contains_key(&uid)) {
                continue;
            }
            if let Some(of_object) = self.reports.get_mut(&uid) {
                of_object.remove(node);
                if of_object.is_empty() {
                    self.reports.remove(&uid);
                }
            }
            touched.objects.insert(id);
        }
    }

    /// What a node should run, in the order in which it takes it over: each device after its profile, then streams,
    /// rules and exports.
    pub fn on_node(&self, node: &str) -> Vec<ObjectId> {
        let of_node = self.devices_by_node.get(node).into_iter().flatten();
        let mut devices: Vec<(&ObjectId, &Device)> = of_node
            .filter_map(|id| match self.objects.get(id) {
                Some(Entry { spec: Spec::Device(device), nodes, .. }) if nodes.contains(node) => Some((id, device)),
                _ => None,
            })
            .collect();
        devices.sort_by_key(|(id, _)| full_name(id));
        let mut ids = Vec::new();
        let mut profiles = BTreeSet::new();
        for (id, device) in devices {
            if profiles.insert(&device.profile) {
                ids.push((Kind::DeviceProfile, "".into(), device.profile.as_ref().into()));
            }
            ids.push(id.clone());
        }
        ids.extend(self.nodes.get(node).into_iter().flatten().cloned());
        ids
    }

    /// How an object fares: its generation, what is wrong with it, and what each of its nodes reports.
    pub fn of_object(&self, id: &ObjectId) -> Option<Standing<'_>> {
        let entry = self.objects.get(id)?;
        let reports = self.reports.get(entry.uid());
        let of_node = |node: &Arc<str>| reports.and_then(|reports| reports.get(node));
        Some(Standing {
            generation: entry.generation(),
            problem: entry.problem.as_ref(),
            nodes: entry.nodes.iter().map(|node| (&**node, of_node(node))).collect(),
            unreachable: entry
                .nodes
                .iter()
                .map(|node| &**node)
                .filter(|node| self.unreachable.contains(*node))
                .collect(),
        })
    }

    /// Objects whose selectors match these labels.
    fn matching(&mut self, labels: &Labels<'_>) -> BTreeSet<ObjectId> {
        self.evaluations += 1;
        let mut matched = self.everywhere.clone();
        for (key, value) in labels.iter() {
            let candidates = self.by_term.get(&(key.into(), value.into())).into_iter().flatten();
            matched.extend(candidates.filter(|id| self.matches(id, labels)).cloned());
        }
        matched
    }

    fn matches(&self, id: &ObjectId, labels: &Labels<'_>) -> bool {
        match self.objects.get(id).map(|entry| &entry.spec) {
            Some(Spec::Selected(spec)) => spec.selector.iter().all(|(key, value)| labels.get(key) == Some(value)),
            _ => false,
        }
    }

    fn drop_from_indexes(&mut self, id: &ObjectId, entry: &Entry) {
        match &entry.spec {
            Spec::Selected(spec) => match spec.selector.first() {
                None => drop(self.everywhere.remove(id)),
                Some(term) => drop_from(&mut self.by_term, term, id),
            },
            Spec::Device(device) => {
                drop_from(&mut self.devices_by_node, &device.node, id);
                drop_from(&mut self.devices_by_profile, &device.profile, id);
            }
        }
    }

    /// Decides anew which of a node's devices it runs. Of two with one EdgeX name the older keeps it.
    fn settle_devices(&mut self, node: &str, touched: &mut Touched) {
        let Some(ids) = self.devices_by_node.get(node) else { return };
        let has_node = self.nodes.contains_key(node);
        let mut devices: Vec<(&Device, &ObjectId)> = ids
            .iter()
            .filter_map(|id| match &self.objects.get(id)?.spec {
                Spec::Device(device) => Some((device, id)),
                Spec::Selected(_) => None,
            })
            .collect();
        devices.sort_by_key(|(device, id)| (device.created, &device.uid, *id));
        let mut names: HashMap<&str, String> = HashMap::new();
        let mut settled: Vec<(ObjectId, Option<Problem>)> = Vec::with_capacity(devices.len());
        for (device, id) in devices {
            let problem = if !has_node {
                let message = format!("spec.nodeName: there is no node {node}; see `kubectl get nodes`");
                Some(Problem { reason: "NodeNotFound", message })
            } else if !self.profiles.contains_key(&device.profile) {
                let profile = &device.profile;
                let message =
                    format!("spec.profileName: there is no DeviceProfile {profile}; apply it, or correct the name");
                Some(Problem { reason: "ProfileNotFound", message })
            } else if let Some(other) = names.get(&*device.edgex_name) {
                let name = &device.edgex_name;
                let message = format!(
                    "device {other} on node {node} has the EdgeX name {name} already; give this one another spec.name"
                );
                Some(Problem { reason: "NameClash", message })
            } else {
                names.insert(&device.edgex_name, full_name(id));
                None
            };
            settled.push((id.clone(), problem));
        }
        for (id, problem) in settled {
            let Some(entry) = self.objects.get_mut(&id) else { continue };
            let nodes: BTreeSet<Arc<str>> = match (&problem, &entry.spec) {
                (None, Spec::Device(device)) => [device.node.clone()].into(),
                _ => BTreeSet::new(),
            };
            if entry.problem != problem || entry.nodes != nodes {
                touched.nodes.insert(node.into());
                touched.objects.insert(id);
                (entry.problem, entry.nodes) = (problem, nodes);
            }
        }
    }
}

/// How an object fares.
pub(crate) struct Standing<'a> {
    pub generation: i64,
    pub problem: Option<&'a Problem>,
    /// The nodes that should run it, in order of their names, and what each reports.
    pub nodes: Vec<(&'a str, Option<&'a Report>)>,
    /// Those of them that are out of reach.
    pub unreachable: BTreeSet<&'a str>,
}

fn settle_selected(entry: &mut Entry, is_held_back: bool) {
    entry.problem = if is_held_back {
        let message = format!(
            "what this namespace places on nodes would be more than {} MiB, each spec counted for every node that it is on; \
             delete or shorten some, or narrow their spec.nodeSelector",
            PLACED_BYTES_MAX >> 20
        );
        Some(Problem { reason: "NamespaceTooLarge", message })
    } else if entry.nodes.is_empty() {
        let message = "no node matches spec.nodeSelector; join a node, label one, or change the selector".to_owned();
        Some(Problem { reason: "NoMatchingNode", message })
    } else {
        None
    };
}

fn full_name((_, namespace, name): &ObjectId) -> String {
    format!("{namespace}/{name}")
}

fn drop_from<K, Q>(index: &mut HashMap<K, BTreeSet<ObjectId>>, key: &Q, id: &ObjectId)
where
    K: Hash + Eq + Borrow<Q>,
    Q: Hash + Eq + ?Sized,
{
    if let Some(ids) = index.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
