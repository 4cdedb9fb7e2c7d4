//! From the entries of an assignment to things that can be run. Pure: the same entries give the same result.

use std::collections::{BTreeMap, BTreeSet};

use api_edge::edgex::{Device, DeviceProfile};
use api_edge::resources::{AssignmentEntry, DeviceSpec, EdgexActionProps, ExportSpec, RuleSpec, StreamSpec};
use edge_core::metadata;
use edge_export::ExportOptions;
use edge_rules::{Select, SourceType, SqlError, StreamStatement, parse_select, parse_stream};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Which entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// `DeviceProfile`, `Device`, `Stream`, `Rule`, `Export`.
    pub kind: String,
    /// Empty for a profile.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl Key {
    /// `namespace/name`, or the name alone.
    pub fn path(&self) -> String {
        if self.namespace.is_empty() { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }
}

/// Why an entry cannot be run, for its condition `Accepted`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// One word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

impl Fault {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What an entry is, ready to be run.
#[derive(Clone, Debug)]
pub enum Item {
    Profile,
    Device { device: Box<Device>, profile: Box<DeviceProfile> },
    Stream,
    Rule { select: Box<Select>, streams: Vec<StreamStatement>, actions: Vec<Action> },
    Export(Box<ExportOptions>),
}

/// Where a rule's rows go.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Onto the bus and into the journal.
    Edgex(EdgexActionProps),
    /// Into our log.
    Log,
    /// Nowhere; for measuring.
    Nop,
}

/// An entry and what became of it.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Of the entry.
    pub generation: i64,
    /// Everything the item was made of; when it is unchanged, the running thing is left alone.
    pub fingerprint: String,
    pub item: Result<Item, Fault>,
}

/// Resolves all entries.
pub fn resolve(entries: &[AssignmentEntry]) -> BTreeMap<Key, Resolved> {
    let profiles: BTreeMap<&str, &AssignmentEntry> = entries
        .iter()
        .filter(|entry| entry.kind == "DeviceProfile")
        .map(|entry| (entry.name.as_str(), entry))
        .collect();
    let streams: Vec<(&AssignmentEntry, Result<StreamStatement, Fault>)> =
        entries.iter().filter(|entry| entry.kind == "Stream").map(|entry| (entry, stream(entry))).collect();
    let mut devices_seen = BTreeSet::new();
    let mut sorted: Vec<&AssignmentEntry> = entries.iter().collect();
    sorted.sort_by(|a, b| (&a.kind, &a.namespace, &a.name).cmp(&(&b.kind, &b.namespace, &b.name)));
    let mut resolved = BTreeMap::new();
    for entry in sorted {
        let mut made_of = vec![&entry.spec];
        let item = match entry.kind.as_str() {
            "DeviceProfile" => profile(entry).map(|_| Item::Profile),
            "Device" => device(entry, &profiles, &mut made_of).and_then(|(device, profile)| {
                if devices_seen.insert(device.name.clone()) {
                    Ok(Item::Device { device: Box::new(device), profile: Box::new(profile) })
                } else {
                    let message =
                        format!("another Device of this node is named `{}` already; set spec.name", device.name);
                    Err(Fault::new("NameTaken", message))
                }
            }),
            "Stream" => stream_of(entry, &streams).map(|_| Item::Stream),
            "Rule" => rule(entry, &streams, &mut made_of),
            "Export" => export(entry),
            other => Err(Fault::new("UnknownKind", format!("this version does not know the kind `{other}`"))),
        };
        let fingerprint = json!(made_of).to_string();
        let key = Key { kind: entry.kind.clone(), namespace: entry.namespace.clone(), name: entry.name.clone() };
        resolved.insert(key, Resolved { generation: entry.generation, fingerprint, item });
    }
    resolved
}

fn parse_spec<T: DeserializeOwned>(entry: &AssignmentEntry) -> Result<T, Fault> {
    serde_json::from_value(entry.spec.clone())
        .map_err(|error| Fault::new("InvalidSpec", format!("{} `{}`, spec: {error}", entry.kind, entry.name)))
}

fn profile(entry: &AssignmentEntry) -> Result<DeviceProfile, Fault> {
    let mut profile: DeviceProfile = parse_spec(entry)?;
    if profile.name.is_empty() {
        profile.name = entry.name.clone();
    }
    let errors = metadata::check_profile(&profile);
    refuse(errors, "InvalidProfile", &format!("profile `{}`", profile.name)).map(|()| profile)
}

fn refuse(errors: Vec<metadata::MetadataError>, reason: &'static str, what: &str) -> Result<(), Fault> {
    if errors.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Err(Fault::new(reason, format!("{what}: {}", texts.join("; "))))
}

fn device<'a>(
    entry: &AssignmentEntry,
    profiles: &BTreeMap<&str, &'a AssignmentEntry>,
    made_of: &mut Vec<&'a Value>,
) -> Result<(Device, DeviceProfile), Fault> {
    let spec: DeviceSpec = parse_spec(entry)?;
    let profile_entry = profiles.get(spec.profile_name.as_str()).ok_or_else(|| {
        let message =
            format!("there is no DeviceProfile `{}`; create it, or correct spec.profileName", spec.profile_name);
        Fault::new("ProfileNotFound", message)
    })?;
    made_of.push(&profile_entry.spec);
    let profile = profile(profile_entry)?;
    let device = Device {
        name: spec.name.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| entry.name.clone()),
        description: spec.description,
        admin_state: spec.admin_state,
        labels: spec.labels,
        service_name: spec.service_name,
        profile_name: profile.name.clone(),
        auto_events: spec.auto_events,
        protocols: spec.protocols,
        properties: spec.properties,
    };
    let errors = metadata::check_device(&device, &profile);
    refuse(errors, "InvalidDevice", &format!("device `{}`", device.name)).map(|()| (device, profile))
}

fn stream(entry: &AssignmentEntry) -> Result<StreamStatement, Fault> {
    let spec: StreamSpec = parse_spec(entry)?;
    let statement = parse_stream(&spec.sql).map_err(parse_error)?;
    match &statement.options.source_type {
        SourceType::Edgex => Ok(statement),
        other => {
            let message = format!("streams of TYPE `{}` cannot be read yet; write TYPE=\"edgex\"", other.as_str());
            Err(Fault::new("UnsupportedSource", message))
        }
    }
}

fn stream_of(
    entry: &AssignmentEntry,
    streams: &[(&AssignmentEntry, Result<StreamStatement, Fault>)],
) -> Result<StreamStatement, Fault> {
    let own = streams.iter().find(|(other, _)| std::ptr::eq(*other, entry));
    own.map_or_else(|| stream(entry), |(_, statement)| statement.clone())
}

fn parse_error(error: SqlError) -> Fault {
    Fault::new("ParseError", error.to_string())
}

fn rule<'a>(
    entry: &AssignmentEntry,
    streams: &[(&'a AssignmentEntry, Result<StreamStatement, Fault>)],
    made_of: &mut Vec<&'a Value>,
) -> Result<Item, Fault> {
    let spec: RuleSpec = parse_spec(entry)?;
    let select = parse_select(&spec.sql).map_err(parse_error)?;
    // A JOIN is not served: that its streams are to be created would be advice that does not help.
    if !select.joins.is_empty() {
        edge_rules::Rule::new(&select, []).map_err(parse_error)?;
    }
    let mut used = Vec::new();
    for name in select.streams() {
        let found = streams.iter().find(|(other, statement)| {
            other.namespace == entry.namespace
                && statement.as_ref().map_or(other.name == name, |statement| statement.name == name)
        });
        let Some((stream_entry, statement)) = found else {
            let place =
                if entry.namespace.is_empty() { String::new() } else { format!(" in namespace `{}`", entry.namespace) };
            // `FROM` takes the name in the statement, which need not be the object's.
            let of_object = streams.iter().find_map(|(other, statement)| match statement {
                Ok(statement) if other.namespace == entry.namespace && other.name == name => Some(&statement.name),
                _ => None,
            });
            let message = match of_object {
                Some(defined) => format!(
                    "the Stream object `{name}`{place} defines the stream `{defined}` (CREATE STREAM {defined} …), and FROM takes that name: write FROM {defined}"
                ),
                None => {
                    format!("there is no Stream `{name}`{place} on this node; create it, or widen its nodeSelector")
                }
            };
            return Err(Fault::new("StreamNotFound", message));
        };
        made_of.push(&stream_entry.spec);
        match statement {
            Ok(statement) => used.push(statement.clone()),
            Err(fault) => {
                let message = format!("stream `{name}` cannot be used: {}", fault.message);
                return Err(Fault::new("StreamNotAccepted", message));
            }
        }
    }
    edge_rules::Rule::new(&select, used.iter()).map_err(parse_error)?;
    let actions = actions(&spec)?;
    Ok(Item::Rule { select: Box::new(select), streams: used, actions })
}

fn actions(spec: &RuleSpec) -> Result<Vec<Action>, Fault> {
    let mut actions = Vec::new();
    for (index, action) in spec.actions.iter().enumerate() {
        let wrong = |message: String| Fault::new("InvalidAction", format!("spec.actions[{index}]: {message}"));
        let (name, properties) = match (action.iter().next(), action.len()) {
            (Some(only), 1) => only,
            _ => return Err(wrong("write one sink in each entry: edgex, log or nop".to_owned())),
        };
        actions.push(match name.as_str() {
            "edgex" if properties.is_null() => Action::Edgex(EdgexActionProps::default()),
            "edgex" => Action::Edgex(
                serde_json::from_value(properties.clone()).map_err(|error| wrong(format!("edgex: {error}")))?,
            ),
            "log" => Action::Log,
            "nop" => Action::Nop,
            other => return Err(wrong(format!("there is no sink `{other}`; use edgex, log or nop"))),
        });
    }
    Ok(actions)
}

/// Exports that name devices of which this node has none, each with a sentence. One that has some of them is in order: an
/// Export is for many nodes, and the others may be on those.
pub fn exports_without_devices(entries: &[AssignmentEntry]) -> BTreeMap<Key, String> {
    let of_kind = |kind: &'static str| entries.iter().filter(move |entry| entry.kind == kind);
    let own_name = |value: &Value, entry: &AssignmentEntry| {
        value.as_str().filter(|name| !name.is_empty()).unwrap_or(&entry.name).to_owned()
    };
    let mut made: BTreeSet<String> = of_kind("Device").map(|entry| own_name(&entry.spec["name"], entry)).collect();
    for entry in of_kind("Rule") {
        let actions = entry.spec["actions"].as_array().into_iter().flatten();
        made.extend(
            actions
                .filter_map(|action| action.get("edgex"))
                .map(|properties| own_name(&properties["deviceName"], entry)),
        );
    }
    let sentence = |entry: &AssignmentEntry| {
        let spec: ExportSpec = parse_spec(entry).ok()?;
        if spec.devices.is_empty() || spec.devices.iter().any(|name| made.contains(name)) {
            return None;
        }
        let there = if made.is_empty() { "it has none".to_owned() } else { format!("it has {}", some_of(&made)) };
        let wanted: BTreeSet<String> = spec.devices.into_iter().collect();
        Some(format!("nothing is sent: this node has no device of spec.devices ({}); {there}", some_of(&wanted)))
    };
    of_kind("Export")
        .filter_map(|entry| {
            let key = Key { kind: entry.kind.clone(), namespace: entry.namespace.clone(), name: entry.name.clone() };
            Some((key, sentence(entry)?))
        })
        .collect()
}

/// The first of many names, for a sentence.
fn some_of(names: &BTreeSet<String>) -> String {
    const SHOWN_MAX: usize = 5;
    let shown: Vec<String> = names.iter().take(SHOWN_MAX).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > SHOWN_MAX { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

fn export(entry: &AssignmentEntry) -> Result<Item, Fault> {
    let spec: ExportSpec = parse_spec(entry)?;
    ExportOptions::from_spec(format!("{}/{}", entry.namespace, entry.name), &spec)
        .map(|options| Item::Export(Box::new(options)))
        .map_err(|error| Fault::new("InvalidSpec", error.to_string()))
}
