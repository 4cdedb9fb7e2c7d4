//! Runs the rules: one task that reads the bus, keeps their deadlines and carries their actions out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_edge::edgex::{self, Event, Reading, Value, ValueType};
use api_edge::resources::EdgexActionProps;
use edge_bus::{Bus, Delivery, Filter, Made, Maker, Subscriber};
use edge_rules::{Datum, EventRow, Row, Rule, RuleStats};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{info, warn};
use uuid::Uuid;

use crate::desired::Action;

/// Events that wait for the rules. The bus waits when it is full: a window must not miss rows.
const EVENTS_WAITING_MAX: usize = 1024;

/// Events taken from the queue at once.
const EVENTS_BATCH_MAX: usize = 256;

/// Events made by rules that wait for the journal. Rules read what the journal has written, so they must never wait for
/// it themselves: beyond this, rules make more than the disk takes, and what they make is dropped and counted.
const OUTBOX_MAX: usize = 4096;

/// Changes of rules that wait.
const COMMANDS_MAX: usize = 64;

/// How a rule fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleReport {
    /// What the query did.
    pub stats: RuleStats,
    /// Events that were made, but could not be handed to the journal in time.
    pub dropped: u64,
}

/// A rule as the task runs it.
pub struct RunningRule {
    pub rule: Rule,
    pub streams: Vec<String>,
    pub actions: Vec<Action>,
    /// `metadata.name`: default of device, profile and source names.
    pub short_name: String,
}

enum Command {
    Set(String, Box<RunningRule>),
    Remove(String),
}

/// Nanoseconds since 1970.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The running task.
pub struct Rules {
    commands: mpsc::Sender<Command>,
    reports: Arc<Mutex<BTreeMap<String, RuleReport>>>,
    task: JoinHandle<()>,
}

impl Rules {
    /// Starts without rules. Their events go to `made`. Must be called within a tokio runtime.
    pub fn start(bus: &Bus, made: mpsc::Sender<Made>, clock: Clock) -> Self {
        let (commands, commands_rx) = mpsc::channel(COMMANDS_MAX);
        let reports: Arc<Mutex<BTreeMap<String, RuleReport>>> = Arc::default();
        let events = bus.subscribe("rules", EVENTS_WAITING_MAX, Delivery::Lossless, Filter::all());
        let task = RulesTask { rules: BTreeMap::new(), outbox: VecDeque::new(), reports: reports.clone(), clock };
        let task = tokio::spawn(task.run(commands_rx, events, made));
        Self { commands, reports, task }
    }

    /// Adds or replaces the rule `name` (`namespace/name`).
    pub async fn set(&self, name: &str, rule: RunningRule) {
        // The task ends only with this handle.
        drop(self.commands.send(Command::Set(name.to_owned(), Box::new(rule))).await);
    }

    /// Stops the rule `name`; a window that is open is given up.
    pub async fn remove(&self, name: &str) {
        drop(self.commands.send(Command::Remove(name.to_owned())).await);
    }

    /// How each rule fares, by name.
    pub fn reports(&self) -> BTreeMap<String, RuleReport> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops, when what the rules have made is handed over. Windows that are open are given up.
    pub async fn stop(self) {
        drop(self.commands);
        if let Err(error) = self.task.await {
            warn!(%error, "The rules ended with a panic.");
        }
    }
}

struct RulesTask {
    rules: BTreeMap<String, RunningRule>,
    /// Events on their way to the journal.
    outbox: VecDeque<Made>,
    reports: Arc<Mutex<BTreeMap<String, RuleReport>>>,
    clock: Clock,
}

impl RulesTask {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut events: Subscriber, made: mpsc::Sender<Made>) {
        let mut batch = Vec::with_capacity(EVENTS_BATCH_MAX);
        loop {
            let pause = self.until_next_deadline();
            tokio::select! {
                command = commands.recv() => match command {
                    None => break,
                    Some(command) => self.command(command),
                },
                permit = made.reserve(), if !self.outbox.is_empty() => match (permit, self.outbox.pop_front()) {
                    (Ok(permit), Some(event)) => permit.send(event),
                    // Everything stops.
                    _ => return,
                },
                _ = events.recv_many(&mut batch, EVENTS_BATCH_MAX) => {
                    for message in batch.drain(..) {
                        self.event(&message.event, &message.maker);
                    }
                    self.publish();
                },
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {
                    self.tick();
                    self.publish();
                }
            }
        }
        // The journal's writer must not wait for us while we wait for it.
        drop(events);
        for event in self.outbox {
            if made.send(event).await.is_err() {
                return;
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Set(name, rule) => drop(self.rules.insert(name, *rule)),
            Command::Remove(name) => {
                self.rules.remove(&name);
                self.reports.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            }
        }
        self.publish();
    }

    fn now_ms(&self) -> i64 {
        (self.clock)().div_euclid(1_000_000)
    }

    /// Deadlines are absolute times of the clock, so the wait is computed anew in each turn.
    fn until_next_deadline(&self) -> Option<Duration> {
        let next = self.rules.values().filter_map(|running| running.rule.next_deadline()).min()?;
        Some(Duration::from_millis(u64::try_from(next - self.now_ms()).unwrap_or(0)))
    }

    fn event(&mut self, event: &Event, maker: &Maker) {
        let now_ms = self.now_ms();
        let mut rows = Vec::new();
        let mut made = Vec::new();
        for (name, running) in &mut self.rules {
            // A rule that read what it makes would never end.
            if matches!(maker, Maker::Rule(maker) if **maker == **name) {
                continue;
            }
            for stream in &running.streams {
                running.rule.push(stream, now_ms, &EventRow(event), &mut rows);
            }
            act(name, running, &mut rows, &self.clock, &mut made);
        }
        self.hand_out(made);
    }

    fn tick(&mut self) {
        let now_ms = self.now_ms();
        let mut rows = Vec::new();
        let mut made = Vec::new();
        for (name, running) in &mut self.rules {
            running.rule.tick(now_ms, &mut rows);
            act(name, running, &mut rows, &self.clock, &mut made);
        }
        self.hand_out(made);
    }

    fn hand_out(&mut self, made: Vec<Made>) {
        for made in made {
            if self.outbox.len() < OUTBOX_MAX {
                self.outbox.push_back(made);
                continue;
            }
            if let Maker::Rule(name) = &made.maker {
                let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
                let report = reports.entry(name.to_string()).or_default();
                if report.dropped == 0 {
                    warn!(rule = %name, "The rule makes events faster than the journal takes them; some are dropped.");
                }
                report.dropped += 1;
            }
        }
    }

    fn publish(&self) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, running) in &self.rules {
            match reports.get_mut(name) {
                Some(report) => report.stats.clone_from(running.rule.stats()),
                None => {
                    let report = RuleReport { stats: running.rule.stats().clone(), dropped: 0 };
                    reports.insert(name.clone(), report);
                }
            }
        }
    }
}

fn act(name: &str, running: &RunningRule, rows: &mut Vec<Row>, clock: &Clock, made: &mut Vec<Made>) {
    for row in rows.drain(..) {
        for action in &running.actions {
            match action {
                Action::Nop => {}
                Action::Log => info!(rule = %name, row = %row.to_json(), "A rule emitted a row."),
                Action::Edgex(properties) => {
                    if let Some(event) = row_event(&row, properties, &running.short_name, clock()) {
                        made.push(Made { event, maker: Maker::Rule(Arc::from(name)) });
                    }
                }
            }
        }
    }
}

/// A row as an event, one reading per column; `None` when every column is null.
pub fn row_event(row: &Row, properties: &EdgexActionProps, rule: &str, origin: i64) -> Option<Event> {
    let name = |chosen: &Option<String>| chosen.clone().unwrap_or_else(|| rule.to_owned());
    let (device_name, profile_name) = (name(&properties.device_name), name(&properties.profile_name));
    let readings: Vec<Reading> = row
        .iter()
        .filter_map(|(column, datum)| {
            let (value_type, value) = reading_value(datum)?;
            Some(Reading {
                id: Uuid::new_v4().to_string(),
                origin,
                device_name: device_name.clone(),
                resource_name: column.to_owned(),
                profile_name: profile_name.clone(),
                value_type,
                units: None,
                media_type: (value_type == ValueType::Binary).then(|| "application/octet-stream".to_owned()),
                value,
            })
        })
        .collect();
    (!readings.is_empty()).then(|| Event {
        api_version: edgex::API_VERSION.to_owned(),
        id: Uuid::new_v4().to_string(),
        device_name,
        profile_name,
        source_name: name(&properties.source_name),
        origin,
        readings,
        tags: BTreeMap::new(),
    })
}

/// The reading's type follows the value's own.
fn reading_value(datum: &Datum) -> Option<(ValueType, Value)> {
    Some(match datum {
        Datum::Null => return None,
        Datum::Bool(value) => (ValueType::Bool, Value::Bool(*value)),
        Datum::Int(value) => (ValueType::Int64, Value::Int(*value)),
        Datum::Float(value) => (ValueType::Float64, Value::Float(*value)),
        Datum::String(value) => (ValueType::String, Value::String(value.to_string())),
        Datum::Bytes(value) => (ValueType::Binary, Value::Binary(value.to_vec())),
        Datum::Array(_) => (ValueType::ObjectArray, Value::Object(datum.to_json())),
        Datum::Object(_) => (ValueType::Object, Value::Object(datum.to_json())),
    })
}
