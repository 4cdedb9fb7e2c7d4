//! Fleet objects become one `NodeAssignment` per node, in parts that stay small.
//!
//! A Device names its node; a Stream, Rule or Export has a selector. What a node should run is a plain function of all of
//! them ([`resolve`]), and only assignments that differ are written: one rule changed for ten of a thousand nodes is
//! ten writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_edge::resources::{ASSIGNMENT_PART_BYTES_MAX, AssignmentEntry, NodeAssignmentSpec};
use api_edge::{API_VERSION, LABEL_NODE};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cache::{Lister, Objects};
use crate::daemonsets::key;
use crate::driver::FirstFailure;
use crate::events::Recorder;
use crate::fleet_status;
use crate::kinds::Kind;
use crate::selector::node_selector_matches;
use crate::writer::{WriteError, Writer};

/// Kinds that a selector spreads over nodes, in the order in which a node takes them over.
pub(crate) const SPREAD: [Kind; 3] = [Kind::Stream, Kind::Rule, Kind::Export];

/// Why an object reaches no node although it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// One word.
    pub reason: &'static str,
    /// A sentence with the next step.
    pub message: String,
}

/// What [`resolve`] found.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Resolved {
    /// What each node should run; a node with nothing is absent.
    pub by_node: BTreeMap<String, Vec<AssignmentEntry>>,
    /// Objects that were left out.
    pub problems: BTreeMap<(Kind, String, String), Problem>,
}

/// All fleet objects at one moment.
pub(crate) struct Fleet {
    pub nodes: Objects,
    pub profiles: Objects,
    pub devices: Objects,
    pub spread: [(Kind, Objects); 3],
}

impl Fleet {
    /// Takes them from a lister.
    pub(crate) fn from(lister: &dyn Lister) -> Self {
        Self {
            nodes: lister.list(Kind::Node),
            profiles: lister.list(Kind::DeviceProfile),
            devices: lister.list(Kind::Device),
            spread: SPREAD.map(|kind| (kind, lister.list(kind))),
        }
    }
}

/// Decides what each node should run.
pub(crate) fn resolve(fleet: &Fleet) -> Resolved {
    let mut resolved = Resolved::default();
    let alive = |objects: &Objects| -> Vec<Arc<Value>> {
        objects.values().filter(|object| object["metadata"]["deletionTimestamp"].is_null()).cloned().collect()
    };
    let mut devices = alive(&fleet.devices);
    // Of two devices with one EdgeX name on a node the older keeps it.
    devices.sort_by_key(|device| {
        (device["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned(), uid(device).to_owned())
    });
    let mut names: BTreeMap<(String, String), String> = BTreeMap::new();
    let mut accepted: Vec<&Arc<Value>> = Vec::new();
    for device in &devices {
        match device_problem(device, fleet, &names) {
            Some(problem) => {
                resolved.problems.insert(problem_key(Kind::Device, device), problem);
            }
            None => {
                names.insert(
                    (text(&device["spec"]["nodeName"]).to_owned(), edgex_name(device).to_owned()),
                    full_name(device),
                );
                accepted.push(device);
            }
        }
    }
    accepted.sort_by_key(|device| full_name(device));
    for device in accepted {
        let entries = resolved.by_node.entry(text(&device["spec"]["nodeName"]).to_owned()).or_default();
        let profile = text(&device["spec"]["profileName"]);
        let has_profile = entries.iter().any(|entry| entry.kind == Kind::DeviceProfile.name() && entry.name == profile);
        if let (false, Some(profile)) = (has_profile, fleet.profiles.get(&(String::new(), profile.to_owned()))) {
            entries.push(entry(Kind::DeviceProfile, profile));
        }
        entries.push(entry(Kind::Device, device));
    }
    for (kind, objects) in &fleet.spread {
        for object in alive(objects) {
            let mut is_anywhere = false;
            for ((_, name), node) in fleet.nodes.iter() {
                if node_selector_matches(&object["spec"]["nodeSelector"], &node["metadata"]["labels"]) {
                    resolved.by_node.entry(name.clone()).or_default().push(entry(*kind, &object));
                    is_anywhere = true;
                }
            }
            if !is_anywhere {
                let message =
                    "no node has the labels of spec.nodeSelector; label one, or change the selector".to_owned();
                resolved.problems.insert(problem_key(*kind, &object), Problem { reason: "NoMatchingNode", message });
            }
        }
    }
    resolved
}

fn device_problem(device: &Value, fleet: &Fleet, names: &BTreeMap<(String, String), String>) -> Option<Problem> {
    let (node, profile) = (text(&device["spec"]["nodeName"]), text(&device["spec"]["profileName"]));
    if !fleet.nodes.contains_key(&(String::new(), node.to_owned())) {
        let message = format!("spec.nodeName: there is no node {node}; see `kubectl get nodes`");
        return Some(Problem { reason: "NodeNotFound", message });
    }
    if !fleet.profiles.contains_key(&(String::new(), profile.to_owned())) {
        let message = format!("spec.profileName: there is no DeviceProfile {profile}; apply it, or correct the name");
        return Some(Problem { reason: "ProfileNotFound", message });
    }
    let name = edgex_name(device);
    names.get(&(node.to_owned(), name.to_owned())).map(|other| Problem {
        reason: "NameClash",
        message: format!(
            "device {other} on node {node} has the EdgeX name {name} already; give this one another spec.name"
        ),
    })
}

/// The EdgeX name of a device.
fn edgex_name(device: &Value) -> &str {
    device["spec"]["name"].as_str().filter(|name| !name.is_empty()).unwrap_or_else(|| text(&device["metadata"]["name"]))
}

fn full_name(object: &Value) -> String {
    let (namespace, name) = key(object);
    format!("{namespace}/{name}")
}

fn uid(object: &Value) -> &str {
    text(&object["metadata"]["uid"])
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Under which key a problem of an object stands.
pub(crate) fn problem_key(kind: Kind, object: &Value) -> (Kind, String, String) {
    let (namespace, name) = key(object);
    (kind, namespace.to_owned(), name.to_owned())
}

fn entry(kind: Kind, object: &Value) -> AssignmentEntry {
    let (namespace, name) = key(object);
    AssignmentEntry {
        kind: kind.name().to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid(object).to_owned(),
        generation: object["metadata"]["generation"].as_i64().unwrap_or_default(),
        spec: object["spec"].clone(),
    }
}

/// Cuts a node's entries into parts that each stay below the limit; at least one part.
pub(crate) fn parts(node: &str, entries: &[AssignmentEntry]) -> Vec<NodeAssignmentSpec> {
    // The object around the entries: names, labels, and a status of the same length at worst.
    const AROUND: usize = 4 * 1024;
    let mut groups: Vec<Vec<AssignmentEntry>> = vec![Vec::new()];
    let mut bytes = AROUND;
    for entry in entries {
        let len = serde_json::to_vec(entry).map_or(0, |encoded| encoded.len() + 1);
        let is_full = bytes + len > ASSIGNMENT_PART_BYTES_MAX && groups.last().is_some_and(|group| !group.is_empty());
        if is_full {
            groups.push(Vec::new());
            bytes = AROUND;
        }
        bytes += len;
        groups.last_mut().expect("there is always one group").push(entry.clone());
    }
    let count = u32::try_from(groups.len()).unwrap_or(u32::MAX);
    let spec = |(part, entries)| NodeAssignmentSpec { node_name: node.to_owned(), part, parts: count, entries };
    (0..count).zip(groups).map(spec).collect()
}

/// Name of a part.
pub(crate) fn part_name(node: &str, part: u32) -> String {
    if part == 0 { node.to_owned() } else { format!("{node}.part-{part}") }
}

/// One run: assignments first, then what the nodes have told about them.
pub(crate) async fn reconcile(
    lister: &dyn Lister,
    writer: &Writer,
    recorder: &Recorder,
    now: Timestamp,
) -> Result<(), WriteError> {
    let fleet = Fleet::from(lister);
    let resolved = resolve(&fleet);
    let existing = lister.list(Kind::NodeAssignment);
    let mut wanted: BTreeMap<String, NodeAssignmentSpec> = BTreeMap::new();
    // A node that ran something keeps an empty assignment: its emptiness is what tells the node to stop.
    let nodes_with_assignment = existing
        .values()
        .map(|one| text(&one["spec"]["nodeName"]).to_owned())
        .filter(|node| fleet.nodes.contains_key(&(String::new(), node.clone())));
    for node in nodes_with_assignment.chain(resolved.by_node.keys().cloned()) {
        let entries = resolved.by_node.get(&node).map(Vec::as_slice).unwrap_or_default();
        for spec in parts(&node, entries) {
            wanted.insert(part_name(&node, spec.part), spec);
        }
    }
    let mut failures = FirstFailure::default();
    for (name, spec) in &wanted {
        let spec = serde_json::to_value(spec).unwrap_or_default();
        let node = spec["nodeName"].clone();
        match existing.get(&(String::new(), name.clone())) {
            Some(current) if current["spec"] == spec => {}
            Some(current) => {
                let mut changed = (**current).clone();
                changed["spec"] = spec;
                failures.note(writer.replace(Kind::NodeAssignment, &changed).await);
            }
            None => {
                let object = json!({
                    "apiVersion": API_VERSION, "kind": Kind::NodeAssignment.name(),
                    "metadata": {"name": name, "labels": {LABEL_NODE: node}}, "spec": spec,
                });
                failures.note(writer.create(Kind::NodeAssignment, object).await);
            }
        }
    }
    for ((_, name), object) in existing.iter().filter(|((_, name), _)| !wanted.contains_key(name)) {
        tracing::info!(assignment = name, "Deleting an assignment whose node or part is gone.");
        failures.note(writer.delete(Kind::NodeAssignment, object, None).await);
    }
    failures.note(fleet_status::reconcile(&fleet, &resolved, &existing, writer, recorder, now).await);
    failures.into_result()
}

#[cfg(test)]
mod tests;
