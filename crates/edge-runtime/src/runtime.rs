//! Runs what is desired: compares it with what runs, changes the difference, and tells how each entry fares.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_edge::conditions::{ACCEPTED, APPLIED, READY};
use api_edge::resources::AssignmentEntry;
use api_edge::status::{EdgeReport, EntryReport, ExportReport};
use api_kube::Condition;
use base_journal::Journal;
use base_retry::Wake;
use edge_bus::Bus;
use edge_core::Intake;
use edge_device_sdk::{AddDeviceError, DeviceManager, DeviceReport, Driver, ManagerOptions, OperatingState};
use edge_export::{BatchTransport, ExportHandle, cursor_name, spawn_export};
use edge_rules::Rule;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::desired::{Fault, Item, Key, Resolved, exports_without_devices, resolve};
use crate::rules::{RuleReport, Rules, RunningRule};

/// Failures that a report lists.
const LAST_ERRORS_MAX: usize = 10;

/// What an entry runs as.
enum Running {
    /// A profile or a stream: used by others.
    Definition,
    Device(String),
    Rule,
    Export(ExportHandle, CancellationToken),
    /// No receiver: there is no hub.
    ExportWithoutHub,
    Refused(Fault),
}

struct Entry {
    generation: i64,
    fingerprint: String,
    running: Running,
    /// What a person should know of it, though it runs.
    note: Option<String>,
}

/// The parts of the edge plane, and what they run.
pub struct Runtime {
    journal: Journal,
    intake: Intake,
    devices: DeviceManager,
    rules: Rules,
    transport: Option<Arc<dyn BatchTransport>>,
    restored: Wake,
    entries: BTreeMap<Key, Entry>,
}

impl Runtime {
    /// Starts the parts; they have nothing to do yet. Must be called within a tokio runtime.
    pub fn start(
        journal: Journal,
        drivers: Vec<Arc<dyn Driver>>,
        options: ManagerOptions,
        transport: Option<Arc<dyn BatchTransport>>,
        restored: Wake,
    ) -> Self {
        let bus = Bus::new();
        let intake = edge_core::spawn_intake(journal.clone(), bus.clone());
        let rules = Rules::start(&bus, intake.events.clone(), options.clock.clone());
        let devices = DeviceManager::new(drivers, intake.events.clone(), options);
        Self { journal, intake, devices, rules, transport, restored, entries: BTreeMap::new() }
    }

    /// Makes what runs equal to `wanted`. What did not change is not touched.
    pub async fn apply(&mut self, wanted: &[AssignmentEntry]) {
        let mut resolved = resolve(wanted);
        let stale: Vec<Key> = self
            .entries
            .iter()
            .filter(|(key, entry)| !resolved.get(key).is_some_and(|new| is_same(entry, new)))
            .map(|(key, _)| key.clone())
            .collect();
        // Everything old ends before anything new begins, so that a name can pass from one to the other.
        for key in &stale {
            if let Some(entry) = self.entries.remove(key) {
                self.stop(key, entry.running).await;
            }
        }
        for (key, entry) in &mut self.entries {
            // The generation may have moved without a change that matters here.
            if let Some(new) = resolved.remove(key) {
                entry.generation = new.generation;
            }
        }
        for (key, new) in resolved {
            let running = match new.item {
                Err(fault) => Running::Refused(fault),
                Ok(item) => self.run(&key, item).await,
            };
            match &running {
                Running::Refused(fault) => {
                    warn!(kind = %key.kind, name = %key.path(), reason = fault.reason, error = %fault.message, "Cannot run this.");
                }
                _ => info!(kind = %key.kind, name = %key.path(), "Running."),
            }
            let entry = Entry { generation: new.generation, fingerprint: new.fingerprint, running, note: None };
            self.entries.insert(key, entry);
        }
        let mut notes = exports_without_devices(wanted);
        for (key, entry) in &mut self.entries {
            let note = notes.remove(key);
            if let Some(note) = note.as_ref().filter(|_| note != entry.note) {
                warn!(kind = %key.kind, name = %key.path(), "{note}");
            }
            entry.note = note;
        }
    }

    async fn run(&mut self, key: &Key, item: Item) -> Running {
        match item {
            Item::Profile | Item::Stream => Running::Definition,
            Item::Device { device, profile } => {
                let name = device.name.clone();
                match self.devices.add(*device, *profile).await {
                    Ok(()) => Running::Device(name),
                    Err(error) => Running::Refused(device_fault(&error)),
                }
            }
            Item::Rule { select, streams, actions } => match Rule::new(&select, streams.iter()) {
                Ok(rule) => {
                    let streams = streams.into_iter().map(|stream| stream.name).collect();
                    let rule = RunningRule { rule, streams, actions, short_name: key.name.clone() };
                    self.rules.set(&key.path(), rule).await;
                    Running::Rule
                }
                Err(error) => Running::Refused(Fault::new("ParseError", error.to_string())),
            },
            Item::Export(options) => match &self.transport {
                None => Running::ExportWithoutHub,
                Some(transport) => {
                    let token = CancellationToken::new();
                    let (journal, transport) = (self.journal.clone(), transport.clone());
                    let handle = spawn_export(journal, *options, transport, &self.restored, token.clone());
                    Running::Export(handle, token)
                }
            },
        }
    }

    async fn stop(&self, key: &Key, running: Running) {
        match running {
            Running::Device(name) => drop(self.devices.remove(&name).await),
            Running::Rule => self.rules.remove(&key.path()).await,
            Running::Export(handle, token) => {
                token.cancel();
                if let Err(error) = handle.task.await {
                    warn!(export = %key.path(), %error, "An export ended with a panic.");
                }
            }
            Running::Definition | Running::ExportWithoutHub | Running::Refused(_) => {}
        }
    }

    /// Removes the cursors of exports that are not wanted any more: they would hold events that nobody asks for. Only to
    /// be called when all that is wanted is known.
    pub async fn forget_exports(&self) {
        let is_wanted =
            |name: &str| self.entries.keys().any(|key| key.kind == "Export" && cursor_name(&key.path()) == name);
        for (name, _) in self.journal.cursors() {
            if is_wanted(&name) {
                continue;
            }
            let (journal, cursor) = (self.journal.clone(), name.clone());
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || journal.remove_cursor(&cursor)).await {
                warn!(cursor = name, %error, "The cursor of a deleted export stays behind and keeps events.");
            }
        }
    }

    /// Gives back what every export has passed.
    pub async fn trim(&self) {
        let journal = self.journal.clone();
        // Waited for: whoever hears that the edge plane has stopped may open its journal.
        if let Err(error) = tokio::task::spawn_blocking(move || edge_core::journal::trim(&journal)).await {
            warn!(%error, "Giving back journal segments ended with a panic.");
        }
    }

    /// Changes when a device comes, goes, or begins or ceases to fail.
    pub fn device_changes(&self) -> watch::Receiver<u64> {
        self.devices.changes()
    }

    /// The conditions of every entry, without times.
    pub fn conditions(&self) -> BTreeMap<Key, (i64, Vec<Condition>)> {
        let devices: BTreeMap<String, DeviceReport> =
            self.devices.reports().into_iter().map(|report| (report.name.clone(), report)).collect();
        let rules = self.rules.reports();
        let trouble = self.intake.report().trouble;
        let of = |(key, entry): (&Key, &Entry)| {
            let conditions = match &entry.running {
                Running::Refused(fault) => {
                    let message = fault.message.as_str();
                    vec![
                        Condition::new(ACCEPTED, false, fault.reason, message),
                        Condition::new(APPLIED, false, fault.reason, message),
                        Condition::new(READY, false, fault.reason, message),
                    ]
                }
                running => {
                    let ready = match running {
                        Running::Device(name) => device_ready(devices.get(name)),
                        Running::Rule => rule_ready(rules.get(&key.path())),
                        Running::Export(handle, _) => export_ready(handle, trouble.as_deref(), entry.note.as_deref()),
                        Running::ExportWithoutHub => {
                            let message = "this edge plane works without a hub; start it on a node that has joined one";
                            Condition::new(READY, false, "NoHub", message)
                        }
                        Running::Definition | Running::Refused(_) => Condition::new(READY, true, "Defined", ""),
                    };
                    vec![
                        Condition::new(ACCEPTED, true, "Valid", ""),
                        Condition::new(APPLIED, true, "Applied", ""),
                        ready,
                    ]
                }
            };
            (key.clone(), (entry.generation, conditions))
        };
        self.entries.iter().map(of).collect()
    }

    /// What the status socket tells.
    pub fn report(&self, node: &str, other_errors: &[String]) -> EdgeReport {
        let devices: BTreeMap<String, DeviceReport> =
            self.devices.reports().into_iter().map(|report| (report.name.clone(), report)).collect();
        let rules = self.rules.reports();
        let conditions = self.conditions();
        let intake = self.intake.report();
        let mut last_errors: Vec<String> = intake.trouble.iter().cloned().chain(other_errors.iter().cloned()).collect();
        let mut entries = Vec::new();
        for (key, entry) in self.entries.iter().filter(|(key, _)| key.kind != "DeviceProfile") {
            let ready = conditions.get(key).and_then(|(_, conditions)| conditions.last());
            let (is_ready, message) = match ready {
                Some(ready) if ready.is_true() && ready.message.is_empty() => (true, ready.reason.clone()),
                Some(ready) => (ready.is_true(), ready.message.clone()),
                None => (false, String::new()),
            };
            let (name, kind) = (key.path(), key.kind.clone());
            let mut entry_report = EntryReport { kind, name, ready: is_ready, message, ..EntryReport::default() };
            match &entry.running {
                Running::Device(name) => {
                    if let Some(report) = devices.get(name) {
                        entry_report.events = report.events_sent;
                        entry_report.taken = report.readings_sent;
                        entry_report.errors = report.reads_failed;
                    }
                }
                Running::Rule => {
                    if let Some(report) = rules.get(&key.path()) {
                        entry_report.events = report.stats.rows_out;
                        entry_report.taken = report.stats.rows_in;
                        entry_report.errors = report.stats.errors + report.dropped;
                    }
                }
                Running::Export(handle, _) => {
                    let status = handle.status.borrow().clone();
                    let acknowledged = self.journal.cursor(&cursor_name(&key.path())).unwrap_or_default();
                    entry_report.events = status.sent;
                    entry_report.errors = status.refused;
                    entry_report.export = Some(ExportReport { acknowledged, backlog: status.depth, lost: status.lost });
                }
                Running::Definition | Running::ExportWithoutHub | Running::Refused(_) => {}
            }
            if !is_ready {
                last_errors.push(format!("{} {}: {}", key.kind, key.path(), entry_report.message));
            } else if let Running::Device(name) = &entry.running
                && let Some(error) = devices.get(name).and_then(|report| report.last_error.clone())
            {
                last_errors.push(format!("Device {}: {error}", key.path()));
            }
            entries.push(entry_report);
        }
        last_errors.truncate(LAST_ERRORS_MAX);
        EdgeReport { node: node.to_owned(), entries, journal: edge_core::journal::report(&self.journal), last_errors }
    }

    /// Stops devices first, then rules; writes what is on its way; exports go on after the next start.
    pub async fn stop_all(self) {
        self.devices.shutdown().await;
        drop(self.devices);
        self.rules.stop().await;
        self.intake.drain().await;
        let mut tasks = Vec::new();
        for (_, entry) in self.entries {
            if let Running::Export(handle, token) = entry.running {
                token.cancel();
                tasks.push(handle.task);
            }
        }
        for task in tasks {
            drop(task.await);
        }
    }
}

/// Refused entries are tried again whenever something changes: a driver or a name may have become free.
fn is_same(entry: &Entry, new: &Resolved) -> bool {
    match (&entry.running, &new.item) {
        (Running::Refused(old), Err(fault)) => old == fault,
        (Running::Refused(_), Ok(_)) | (_, Err(_)) => false,
        _ => entry.fingerprint == new.fingerprint,
    }
}

fn device_fault(error: &AddDeviceError) -> Fault {
    let reason = match error {
        AddDeviceError::UnknownDriver { .. } => "UnknownDriver",
        AddDeviceError::NameTaken { .. } => "NameTaken",
        AddDeviceError::AutoEvent { .. } => "InvalidDevice",
        AddDeviceError::Driver(edge_device_sdk::DriverError::Profile { .. }) => "InvalidProfile",
        AddDeviceError::Driver(_) => "InvalidDevice",
    };
    Fault::new(reason, error.to_string())
}

fn device_ready(report: Option<&DeviceReport>) -> Condition {
    let ready = |is_true, reason: &str, message: &str| Condition::new(READY, is_true, reason, message);
    let Some(report) = report else { return ready(false, "Stopping", "the device is being taken out of service") };
    if report.is_locked {
        return ready(false, "Locked", "adminState is LOCKED; there is no traffic with the device");
    }
    let failing: Vec<String> = report
        .failing_resources
        .iter()
        .map(|(resource, problem)| format!("resource `{resource}`: {problem}"))
        .collect();
    match report.state {
        OperatingState::Down => {
            ready(false, "DeviceUnreachable", report.unreachable.as_deref().unwrap_or("the device does not answer"))
        }
        OperatingState::Unknown => ready(false, "Connecting", "no answer yet"),
        OperatingState::Up if failing.is_empty() => ready(true, "DeviceUp", ""),
        OperatingState::Up if report.resources_read == 0 && report.events_sent == 0 => {
            ready(false, "ReadFailed", &failing.join("; "))
        }
        OperatingState::Up => ready(true, "SomeResourcesFail", &failing.join("; ")),
    }
}

fn rule_ready(report: Option<&RuleReport>) -> Condition {
    let Some(report) = report else { return Condition::new(READY, true, "Running", "") };
    if report.dropped > 0 {
        let message = "the rule makes events faster than the journal takes them; some were dropped";
        return Condition::new(READY, true, "EventsDropped", message);
    }
    match &report.stats.last_error {
        Some(error) => Condition::new(READY, true, "RowErrors", format!("the last row that failed: {error}")),
        None => Condition::new(READY, true, "Running", ""),
    }
}

fn export_ready(handle: &ExportHandle, trouble: Option<&str>, note: Option<&str>) -> Condition {
    if let Some(trouble) = trouble {
        return Condition::new(READY, false, "JournalFailed", trouble);
    }
    let status = handle.status.borrow();
    match (&status.last_error, status.connected) {
        (Some(error), false) => Condition::new(READY, false, "ReceiverUnreachable", error.as_str()),
        (Some(error), true) => Condition::new(READY, true, "SomeRefused", error.as_str()),
        (None, _) => match note {
            Some(note) => Condition::new(READY, true, "NoSuchDevice", note),
            None => Condition::new(READY, true, "Sending", ""),
        },
    }
}
