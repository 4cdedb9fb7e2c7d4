//! Fleet objects become one `NodeAssignment` per node, in parts that stay small; what the nodes report about them is
//! summed up into each object's status.
//!
//! Where an object runs is kept up to date by [`fleet::Fleet`], change by change. A key is a node, whose assignment is
//! compared and written when it differs, or an object, whose status is.
//!
//! Beside them a node is given the Services that concern it ([`services`]): entries that nobody reports of.
//!
//! A part belongs to the node in its `spec.nodeName`, whatever its own name is: a node may be called as another's part
//! would be, and must not get at it by that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_edge::resources::{
    ASSIGNMENT_PART_BYTES_MAX, ASSIGNMENT_PART_ENTRIES_MAX, AssignmentEntry, NodeAssignmentSpec, NodeAssignmentStatus,
    assignment_name,
};
use api_edge::{API_VERSION, LABEL_NODE};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tracing::{info, warn};

use hub_runtime::Context;
use hub_runtime::ReconcileError;
use hub_runtime::kinds::Kind;
use hub_runtime::views::{AnyView, Labels, NodeView, ObjectMeta, Text};
use hub_runtime::writer::Target;
use hub_runtime::{Change, Event, Field, Next, ObjectRef, Queue, Reader, Reconciler};

mod fleet;
mod fleet_status;
mod services;

use fleet::{Device, Fleet, ObjectId, Selected, Touched};
use fleet_status::Report;
use services::{OfNode, Services};

/// Kinds that a selector places on nodes, in the order in which a node takes them over.
const SELECTED: [Kind; 3] = [Kind::Stream, Kind::Rule, Kind::Export];
/// After a write that met another.
const CONFLICT_RETRY: Duration = Duration::from_millis(200);

/// What is looked at alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    /// The assignment of a node.
    Node(Arc<str>),
    /// The status of an object.
    Object(ObjectId),
}

/// The controller.
pub(crate) struct Assignments {
    context: Context,
    fleet: Mutex<Fleet>,
    services: Mutex<Services>,
}

/// A Stream, Rule or Export, as far as placing it needs.
#[derive(Default, Deserialize)]
#[serde(default)]
struct SelectedView<'a> {
    #[serde(borrow)]
    metadata: ObjectMeta<'a>,
    #[serde(borrow)]
    spec: Option<&'a RawValue>,
}

impl SelectedView<'_> {
    fn spec(&self) -> SelectedSpecView<'_> {
        self.spec.and_then(|spec| serde_json::from_str(spec.get()).ok()).unwrap_or_default()
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SelectedSpecView<'a> {
    #[serde(borrow)]
    node_selector: Option<Labels<'a>>,
}

/// A Device, as far as placing it needs.
#[derive(Default, Deserialize)]
#[serde(default)]
struct DeviceView<'a> {
    #[serde(borrow)]
    metadata: ObjectMeta<'a>,
    #[serde(borrow)]
    spec: DeviceSpecView<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeviceSpecView<'a> {
    #[serde(borrow)]
    node_name: Option<Text<'a>>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    profile_name: Option<Text<'a>>,
}

/// An object with its spec, as it goes into an assignment.
#[derive(Default, Deserialize)]
#[serde(default)]
struct SpecView<'a> {
    #[serde(borrow)]
    metadata: ObjectMeta<'a>,
    spec: Value,
}

/// A part of an assignment, as far as its reports need: specs of entries are skipped.
#[derive(Default, Deserialize)]
#[serde(default)]
struct PartView<'a> {
    #[serde(borrow)]
    metadata: ObjectMeta<'a>,
    #[serde(borrow)]
    spec: PartSpecView<'a>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PartSpecView<'a> {
    #[serde(borrow)]
    node_name: Option<Text<'a>>,
    #[serde(borrow)]
    entries: Option<Vec<PartEntryView<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PartEntryView<'a> {
    #[serde(borrow)]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    namespace: Option<Text<'a>>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    uid: Option<Text<'a>>,
}

fn owned(text: &Option<Text<'_>>) -> Arc<str> {
    text.as_deref().unwrap_or_default().into()
}

impl Assignments {
    pub fn new(context: Context) -> Self {
        Self { context, fleet: Mutex::default(), services: Mutex::default() }
    }

    fn reader(&self) -> &dyn Reader {
        &*self.context.reader
    }

    fn put_node(fleet: &mut Fleet, node: &ObjectRef, touched: &mut Touched) {
        let Some(view) = node.view_or_log::<NodeView<'_>>() else { return };
        fleet.put_node(node.name(), &view.metadata.labels, touched);
        fleet.set_unreachable(node.name(), view.is_unreachable(), touched);
    }

    /// Compares all nodes with the objects, after selectors have changed.
    fn put_all_nodes(&self, fleet: &mut Fleet, touched: &mut Touched) {
        for node in self.reader().list(Kind::Node, None) {
            // A node that was not observed yet is compared when it is.
            if fleet.has_node(node.name()) {
                Self::put_node(fleet, &node, touched);
            }
        }
    }

    /// Takes a fleet object in; whether all nodes are to be compared with it.
    fn put_object(fleet: &mut Fleet, kind: Kind, object: &ObjectRef, touched: &mut Touched) -> bool {
        let id: ObjectId = (kind, object.namespace().into(), object.name().into());
        if kind == Kind::Device {
            match object.view_or_log::<DeviceView<'_>>().filter(|view| !view.metadata.is_terminating()) {
                None => fleet.remove_object(&id, touched),
                Some(view) => {
                    let named = view.spec.name.as_deref().filter(|name| !name.is_empty());
                    let device = Device {
                        uid: view.metadata.uid.as_str().into(),
                        generation: view.metadata.generation,
                        node: owned(&view.spec.node_name),
                        profile: view.spec.profile_name.as_deref().unwrap_or_default().into(),
                        edgex_name: named.unwrap_or(object.name()).into(),
                        created: view.metadata.created(),
                    };
                    fleet.put_device(&id, device, touched);
                }
            }
            return false;
        }
        match object.view_or_log::<SelectedView<'_>>().filter(|view| !view.metadata.is_terminating()) {
            None => {
                fleet.remove_object(&id, touched);
                false
            }
            Some(view) => {
                let spec = view.spec();
                let selector = spec.node_selector.iter().flat_map(Labels::iter);
                let selected = Selected {
                    uid: view.metadata.uid.as_str().into(),
                    generation: view.metadata.generation,
                    selector: selector.map(|(key, value)| (key.into(), value.into())).collect(),
                    bytes: view.spec.map_or(0, |spec| spec.get().len()),
                };
                fleet.put_selected(&id, selected, touched)
            }
        }
    }

    /// Takes in what a node reports in one part of its assignment.
    fn put_part(fleet: &mut Fleet, object: &ObjectRef, touched: &mut Touched) {
        let Some(view) = object.view_or_log::<PartView<'_>>() else { return };
        // A node writes its own status: what does not read as one says nothing.
        let status: NodeAssignmentStatus =
            view.status.and_then(|status| serde_json::from_str(status.get()).ok()).unwrap_or_default();
        let is_current = view.metadata.generation <= status.observed_generation;
        let mut reported: BTreeMap<(&str, &str, &str), _> = BTreeMap::new();
        for entry in &status.entries {
            reported.insert((&entry.kind, &entry.namespace, &entry.name), entry);
        }
        let entries = view.spec.entries.as_deref().unwrap_or_default();
        let reports = entries.iter().filter_map(|entry| {
            let (kind, namespace, name) = (owned(&entry.kind), owned(&entry.namespace), owned(&entry.name));
            let report = Report::of(reported.get(&(&*kind, &*namespace, &*name))?, is_current);
            let kind = SELECTED.into_iter().chain([Kind::Device]).find(|one| one.name() == &*kind)?;
            Some((owned(&entry.uid), (kind, namespace, name), report))
        });
        let reports: Vec<(Arc<str>, ObjectId, Report)> = reports.collect();
        fleet.put_report(object.name(), view.spec.node_name.as_deref().unwrap_or_default(), reports, touched);
    }

    fn observe_list(&self, fleet: &mut Fleet, kind: Kind, objects: &[ObjectRef], touched: &mut Touched) {
        let is_listed = |namespace: &str, name: &str| {
            let position = objects.binary_search_by(|one| (one.namespace(), one.name()).cmp(&(namespace, name)));
            position.is_ok()
        };
        match kind {
            Kind::Node => {
                let removed: Vec<Arc<str>> = fleet.node_names().filter(|name| !is_listed("", name)).cloned().collect();
                removed.iter().for_each(|name| fleet.remove_node(name, touched));
                objects.iter().for_each(|node| Self::put_node(fleet, node, touched));
            }
            Kind::DeviceProfile => {
                let removed: Vec<Box<str>> =
                    fleet.profile_names().into_iter().filter(|name| !is_listed("", name)).collect();
                removed.iter().for_each(|name| fleet.remove_profile(name, touched));
                objects.iter().for_each(|profile| Self::put_profile(fleet, profile, touched));
            }
            Kind::NodeAssignment => {
                let removed: Vec<Box<str>> = fleet.parts().into_iter().filter(|name| !is_listed("", name)).collect();
                removed.iter().for_each(|part| fleet.remove_report(part, touched));
                for part in objects {
                    Self::put_part(fleet, part, touched);
                    touched.nodes.extend(node_of_part(part));
                }
            }
            _ => {
                let removed: Vec<ObjectId> =
                    fleet.ids(kind).into_iter().filter(|(_, namespace, name)| !is_listed(namespace, name)).collect();
                removed.iter().for_each(|id| fleet.remove_object(id, touched));
                let mut is_new = false;
                for object in objects {
                    is_new |= Self::put_object(fleet, kind, object, touched);
                }
                if is_new {
                    self.put_all_nodes(fleet, touched);
                }
            }
        }
    }

    fn put_profile(fleet: &mut Fleet, profile: &ObjectRef, touched: &mut Touched) {
        if let Some(view) = profile.view_or_log::<AnyView<'_>>() {
            fleet.put_profile(profile.name(), view.metadata.generation, touched);
        }
    }

    fn observe_change(&self, fleet: &mut Fleet, change: &Change, touched: &mut Touched) {
        let newest = change.newest();
        match (change.kind, &change.current) {
            (Kind::Node, None) => fleet.remove_node(newest.name(), touched),
            (Kind::Node, Some(node)) => {
                // The status of a node changes often, its labels and whether it is heard hardly ever.
                let is_same = change.previous.as_ref().is_some_and(|previous| is_same_to_fleet(previous, node));
                if !is_same || !fleet.has_node(node.name()) {
                    Self::put_node(fleet, node, touched);
                }
            }
            (Kind::DeviceProfile, None) => fleet.remove_profile(newest.name(), touched),
            (Kind::DeviceProfile, Some(profile)) => Self::put_profile(fleet, profile, touched),
            (Kind::NodeAssignment, current) => {
                match current {
                    None => fleet.remove_report(newest.name(), touched),
                    Some(part) => Self::put_part(fleet, part, touched),
                }
                // A node writes a status only; another generation is ours, or somebody has meddled.
                let generation = |object: &ObjectRef| Some(object.view_or_log::<AnyView<'_>>()?.metadata.generation);
                if change.previous.as_ref().and_then(generation) != current.as_ref().and_then(generation) {
                    touched.nodes.extend(node_of_part(newest));
                }
            }
            (kind, None) => {
                fleet.remove_object(&(kind, newest.namespace().into(), newest.name().into()), touched);
            }
            (kind, Some(object)) => {
                if Self::put_object(fleet, kind, object, touched) {
                    self.put_all_nodes(fleet, touched);
                }
                // Its own status may have been written by somebody else.
                touched.objects.insert((kind, object.namespace().into(), object.name().into()));
            }
        }
    }

    /// Takes in what concerns Services; answers whether the event did.
    fn observe_services(&self, event: &Event, touched: &mut Touched) -> bool {
        let nodes = &mut touched.nodes;
        match event {
            Event::Listed(Kind::Pod, pods) => {
                let counted = pods.iter().filter_map(|pod| Some((pod.namespace(), services::node_of_pod(pod)?)));
                self.services.lock().replace_pods(counted, nodes);
            }
            Event::Listed(Kind::Service, listed) => {
                let entry = |service| Some(services::bytes_of(&services::entry(service)?));
                let found = listed.iter().filter_map(|one| Some((one.namespace(), one.name(), entry(one)?)));
                self.services.lock().replace_services(found, nodes);
            }
            Event::Changed(change) if change.kind == Kind::Pod => {
                // A status comes often, another place hardly ever.
                let [before, after] =
                    [&change.previous, &change.current].map(|pod| services::node_of_pod(pod.as_ref()?));
                if before != after {
                    let (namespace, mut services) = (change.newest().namespace(), self.services.lock());
                    before.iter().for_each(|node| services.remove_pod(namespace, node, nodes));
                    after.iter().for_each(|node| services.add_pod(namespace, node, nodes));
                }
            }
            Event::Changed(change) if change.kind == Kind::Service => {
                let [before, after] = [&change.previous, &change.current].map(|one| services::entry(one.as_ref()?));
                let (namespace, name) = (change.newest().namespace(), change.newest().name());
                match after {
                    after if after == before => {}
                    None => self.services.lock().remove_service(namespace, name, nodes),
                    Some(entry) => {
                        self.services.lock().put_service(namespace, name, services::bytes_of(&entry), nodes);
                    }
                }
            }
            _ => return false,
        }
        true
    }

    /// Says at the Services that a node is not given why that is so.
    fn report_left_out(&self, node: &str, of_node: &OfNode) {
        for ((namespace, name), is_node_full) in &of_node.left_out {
            let Some(service) = self.reader().get(Kind::Service, namespace, name) else { continue };
            let Some(view) = service.view_or_log::<AnyView<'_>>() else { continue };
            let (reason, message) = match is_node_full {
                true => (
                    "TooManyServices",
                    format!(
                        "node {node} takes {} Services at most, those of all its pods' namespaces together; it is not given this one \
                         and those after it by name",
                        services::OF_NODE_MAX
                    ),
                ),
                false => (
                    "NamespaceTooLarge",
                    format!(
                        "the Services of this namespace would be more than {} MiB, each counted for every node that has pods of the \
                         namespace; no node is given this one and those after it by name: delete some, or spread them over namespaces",
                        fleet::PLACED_BYTES_MAX >> 20
                    ),
                ),
            };
            let target = Target { namespace, name, uid: &view.metadata.uid };
            self.context.recorder.warning(Kind::Service, target, reason, message);
        }
    }

    /// Brings the assignment of a node to what it should be.
    async fn reconcile_node(&self, node: &str) -> Result<Next, ReconcileError> {
        let (ids, exists) = {
            let fleet = self.fleet.lock();
            (fleet.on_node(node), fleet.has_node(node))
        };
        let of_node = if exists { self.services.lock().on_node(node) } else { OfNode::default() };
        self.report_left_out(node, &of_node);
        let existing = self.reader().by_field(Kind::NodeAssignment, Field::NodeName, node);
        let mut desired: BTreeMap<String, NodeAssignmentSpec> = BTreeMap::new();
        // A node that ran something keeps an empty assignment: its emptiness is what makes the node stop.
        let is_empty = ids.is_empty() && of_node.services.is_empty();
        if exists && !(is_empty && existing.is_empty()) {
            let mut entries: Vec<AssignmentEntry> = ids.iter().filter_map(|id| self.entry(id)).collect();
            // Last, so that a Service more moves nothing that runs to another part.
            let services = of_node.services.iter();
            let found = services.filter_map(|(namespace, name)| self.reader().get(Kind::Service, namespace, name));
            entries.extend(found.filter_map(|service| services::entry(&service)));
            desired = parts(node, entries).into_iter().map(|spec| (assignment_name(node, spec.part), spec)).collect();
        }
        let mut next = Next::OnChange;
        for (name, spec) in &desired {
            next = next.or(self.keep_part(node, name, spec).await?);
        }
        for part in existing.iter().filter(|part| !desired.contains_key(part.name())) {
            let view: AnyView<'_> = part.view()?;
            info!(assignment = part.name(), node, "Deleting an assignment whose node or part is deleted.");
            let target = Target { namespace: "", name: part.name(), uid: &view.metadata.uid };
            self.context.writer.delete_target(Kind::NodeAssignment, target, None, None).await?;
        }
        Ok(next)
    }

    fn entry(&self, (kind, namespace, name): &ObjectId) -> Option<AssignmentEntry> {
        let object = self.reader().get(*kind, namespace, name)?;
        let view = object.view_or_log::<SpecView<'_>>()?;
        Some(AssignmentEntry {
            kind: kind.name().to_owned(),
            namespace: namespace.to_string(),
            name: name.to_string(),
            uid: view.metadata.uid.to_string(),
            generation: view.metadata.generation,
            spec: view.spec,
        })
    }

    /// Writes one part, unless it is as it should be.
    async fn keep_part(&self, node: &str, name: &str, spec: &NodeAssignmentSpec) -> Result<Next, ReconcileError> {
        let Context { reader, writer, recorder, .. } = &self.context;
        let spec = serde_json::to_value(spec)
            .map_err(|error| ReconcileError::Rejected(format!("the assignment {name} cannot be encoded: {error}")))?;
        let Some(current) = reader.get(Kind::NodeAssignment, "", name) else {
            let object = json!({
                "apiVersion": API_VERSION, "kind": Kind::NodeAssignment.name(),
                "metadata": {"name": name, "labels": {LABEL_NODE: node}}, "spec": spec,
            });
            let is_new = writer.create(Kind::NodeAssignment, object).await?.is_some();
            return Ok(if is_new { Next::OnChange } else { Next::After(CONFLICT_RETRY) });
        };
        let mut object = current.value()?;
        if object["spec"]["nodeName"] != node {
            let owner = object["spec"]["nodeName"].as_str().unwrap_or_default();
            let message = format!(
                "the NodeAssignment {name} is of node {owner}, so node {node} cannot have it; rename one of the nodes"
            );
            warn!(assignment = name, node, owner, "An assignment's name is taken by another node's.");
            if let Some(found) = reader.get(Kind::Node, "", node) {
                let view: AnyView<'_> = found.view()?;
                let target = Target { namespace: "", name: node, uid: &view.metadata.uid };
                recorder.warning(Kind::Node, target, "AssignmentNameTaken", message.clone());
            }
            return Err(ReconcileError::Rejected(message));
        }
        if object["spec"] == spec {
            return Ok(Next::OnChange);
        }
        object["spec"] = spec;
        let is_written = writer.replace(Kind::NodeAssignment, &object).await?;
        Ok(if is_written { Next::OnChange } else { Next::After(CONFLICT_RETRY) })
    }

    /// Brings the status of an object to what its nodes report.
    async fn reconcile_object(&self, id: &ObjectId) -> Result<Next, ReconcileError> {
        let (kind, namespace, name) = id;
        let Some(object) = self.reader().get(*kind, namespace, name) else { return Ok(Next::OnChange) };
        let old = fleet_status::read(&object)?;
        let new = {
            let fleet = self.fleet.lock();
            let Some(standing) = fleet.of_object(id) else { return Ok(Next::OnChange) };
            fleet_status::sum_up(&old.status, &standing, self.context.clock.now())
        };
        if new == old.status {
            return Ok(Next::OnChange);
        }
        let mut status = serde_json::to_value(&new)
            .map_err(|error| ReconcileError::Rejected(format!("the status of {name} cannot be encoded: {error}")))?;
        if new.failures.is_empty() {
            // A merge keeps what is not named.
            status["failures"] = Value::Null;
        }
        let target = Target { namespace, name, uid: &old.uid };
        if self.context.writer.merge_status_of(*kind, target, &status).await? {
            fleet_status::emit_event(*kind, target, &old.status, &new, &self.context.recorder);
        }
        Ok(Next::OnChange)
    }
}

impl Reconciler for Assignments {
    type Key = Key;

    fn name(&self) -> &'static str {
        "assignments"
    }

    fn sources(&self) -> &'static [Kind] {
        const SOURCES: &[Kind] = &[
            Kind::Node,
            Kind::DeviceProfile,
            Kind::Device,
            Kind::Stream,
            Kind::Rule,
            Kind::Export,
            Kind::NodeAssignment,
            Kind::Pod,
            Kind::Service,
        ];
        SOURCES
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        let mut touched = Touched::default();
        if !self.observe_services(event, &mut touched) {
            let mut fleet = self.fleet.lock();
            match event {
                Event::Listed(kind, objects) => self.observe_list(&mut fleet, *kind, objects, &mut touched),
                Event::Changed(change) => self.observe_change(&mut fleet, change, &mut touched),
            }
            if fleet.take_space_again() {
                self.put_all_nodes(&mut fleet, &mut touched);
            }
        }
        touched.nodes.into_iter().for_each(|node| queue.add(Key::Node(node)));
        touched.objects.into_iter().for_each(|id| queue.add(Key::Object(id)));
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        match key {
            Key::Node(node) => self.reconcile_node(node).await,
            Key::Object(id) => self.reconcile_object(id).await,
        }
    }
}

/// Whether two versions of a node run the same objects, and say as much about them.
fn is_same_to_fleet(one: &ObjectRef, other: &ObjectRef) -> bool {
    match (one.view_or_log::<NodeView<'_>>(), other.view_or_log::<NodeView<'_>>()) {
        (Some(one), Some(other)) => {
            one.metadata.labels == other.metadata.labels && one.is_unreachable() == other.is_unreachable()
        }
        _ => false,
    }
}

/// The node that a part says it is of.
fn node_of_part(part: &ObjectRef) -> Option<Arc<str>> {
    let view = part.view_or_log::<PartView<'_>>()?;
    Some(owned(&view.spec.node_name)).filter(|node| !node.is_empty())
}

/// Distributes a node's entries over parts that each stay below the limits, for themselves and for what is reported of them; at
/// least one part.
fn parts(node: &str, entries: Vec<AssignmentEntry>) -> Vec<NodeAssignmentSpec> {
    // The object around the entries: names and labels.
    const AROUND: usize = 4 * 1024;
    let mut groups: Vec<Vec<AssignmentEntry>> = vec![Vec::new()];
    let mut bytes = AROUND;
    for entry in entries {
        let len = serde_json::to_vec(&entry).map_or(0, |encoded| encoded.len() + 1);
        let is_full = groups.last().is_some_and(|group| {
            let is_too_large = bytes + len > ASSIGNMENT_PART_BYTES_MAX && !group.is_empty();
            is_too_large || group.len() >= ASSIGNMENT_PART_ENTRIES_MAX
        });
        if is_full {
            groups.push(Vec::new());
            bytes = AROUND;
        }
        bytes += len;
        groups.last_mut().expect("there is always one group").push(entry);
    }
    let count = u32::try_from(groups.len()).unwrap_or(u32::MAX);
    let spec = |(part, entries)| NodeAssignmentSpec { node_name: node.to_owned(), part, parts: count, entries };
    (0..count).zip(groups).map(spec).collect()
}

#[cfg(test)]
mod tests;
