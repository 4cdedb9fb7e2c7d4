//! The task of one device: owns its session, reads, writes, notices that it is gone and tries again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use api_edge::edgex::{AdminState, Device, DeviceProfile};
use base_retry::Backoff;
use edge_bus::{Made, Maker};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::driver::{DeviceSession, Driver, DriverError, ResourceError, SessionError, WriteFailure};
use crate::manager::ManagerOptions;
use crate::readings::{LastSeen, Outcome, Source};

/// One lost answer is normal on a serial line or a radio link; three in a row are not.
const LOSSES_MAX: u32 = 3;

/// EdgeX's operating state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OperatingState {
    /// Nothing has been tried yet, or the device is locked.
    #[default]
    Unknown,
    /// It answers.
    Up,
    /// It does not; it is tried again with growing pauses.
    Down,
}

/// How a device fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceReport {
    /// EdgeX name.
    pub name: String,
    /// Its driver.
    pub service: String,
    /// Whether `adminState` is `LOCKED`: there is no traffic then.
    pub is_locked: bool,
    /// Whether it answers.
    pub state: OperatingState,
    /// Why it is down: the address, what happened, and the next step.
    pub unreachable: Option<String>,
    /// Resources that could not be read the last time, with the reason.
    pub failing_resources: BTreeMap<String, String>,
    /// Resources that were read the last time they were tried.
    pub resources_read: usize,
    /// The last failure of any kind; stays after it is over.
    pub last_error: Option<String>,
    /// Events made by auto-events since start.
    pub events_sent: u64,
    /// Readings in them.
    pub readings_sent: u64,
    /// Reads, of auto-events and commands, that brought at least one error.
    pub reads_failed: u64,
    /// Auto-events left out since the device was down or still busy with the one before.
    pub auto_events_skipped: u64,
    /// Commands served.
    pub commands_executed: u64,
    /// When the device last answered, in nanoseconds since 1970.
    pub last_connected: Option<i64>,
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No such device on this node.
    #[error("there is no device `{device}` on this node")]
    UnknownDevice {
        /// The name asked for.
        device: String,
    },
    /// No such resource or command.
    #[error("profile `{profile}` of device `{device}` has no resource or command `{source_name}`")]
    UnknownSource {
        /// The device.
        device: String,
        /// Its profile.
        profile: String,
        /// The name asked for.
        source_name: String,
    },
    /// `adminState` is `LOCKED`.
    #[error("device `{device}` is LOCKED; set adminState to UNLOCKED to use it")]
    Locked {
        /// The device.
        device: String,
    },
    /// The source, or a resource of it, may not be read.
    #[error("`{source_name}` of device `{device}` may not be read")]
    NotReadable {
        /// The device.
        device: String,
        /// The resource or command.
        source_name: String,
    },
    /// The source, or a resource of it, may not be written.
    #[error("`{source_name}` of device `{device}` may not be written")]
    NotWritable {
        /// The device.
        device: String,
        /// The resource or command.
        source_name: String,
    },
    /// The settings name a resource that the source has not.
    #[error("`{source_name}` has no resource `{resource}`")]
    UnknownSetting {
        /// The resource or command.
        source_name: String,
        /// The name given.
        resource: String,
    },
    /// There is no value for a resource, and no default.
    #[error("resource `{resource}` needs a value: none is given, and the profile has no defaultValue")]
    MissingSetting {
        /// The resource.
        resource: String,
    },
    /// A value is of the wrong type or out of range.
    #[error("resource `{resource}`: {problem}")]
    Setting {
        /// The resource.
        resource: String,
        /// What is wrong with the value.
        problem: String,
    },
    /// The device is down.
    #[error("device `{device}` is DOWN: {problem}")]
    Down {
        /// The device.
        device: String,
        /// Why.
        problem: String,
    },
    /// The device refused one resource.
    #[error(transparent)]
    Resource(#[from] ResourceError),
    /// The device was lost while the command ran.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Too many commands wait for this device, or it was just removed.
    #[error("device `{device}` is busy; try again")]
    Busy {
        /// The device.
        device: String,
    },
}

/// What a device's task is asked to do.
pub(crate) enum Job {
    /// The auto-event of this index is due.
    Auto(usize),
    /// Read a source.
    Read { source: String, reply: oneshot::Sender<Result<Outcome, CommandError>> },
    /// Write a source.
    Write {
        source: String,
        settings: BTreeMap<String, serde_json::Value>,
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
}

/// What the task, the scheduler and the reports share.
pub(crate) struct Shared {
    pub report: Mutex<DeviceReport>,
    /// One per auto-event: set while it waits in the queue, so that a slow device never collects a backlog.
    pub waiting: Vec<AtomicBool>,
    pub skipped: AtomicU64,
    pub changes: watch::Sender<u64>,
}

impl Shared {
    pub fn snapshot(&self) -> DeviceReport {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        report.auto_events_skipped = self.skipped.load(Ordering::Relaxed);
        report
    }

    /// Changes the report; wakes those who wait for changes when something other than a counter changed.
    fn update(&self, act: impl FnOnce(&mut DeviceReport)) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let state = |report: &DeviceReport| {
            (report.state, report.unreachable.clone(), report.failing_resources.clone(), report.resources_read == 0)
        };
        let before = state(&report);
        act(&mut report);
        let is_news = before != state(&report);
        drop(report);
        if is_news {
            self.changes.send_modify(|version| *version += 1);
        }
    }
}

/// An auto-event as the task sees it.
pub(crate) struct AutoSource {
    pub source: String,
    pub on_change: bool,
    pub threshold: f64,
    pub last_seen: LastSeen,
}

pub(crate) struct DeviceTask {
    pub device: Arc<Device>,
    pub profile: Arc<DeviceProfile>,
    pub driver: Arc<dyn Driver>,
    pub autos: Vec<AutoSource>,
    pub jobs: mpsc::Receiver<Job>,
    pub produced: mpsc::Sender<Made>,
    pub service: Arc<str>,
    pub shared: Arc<Shared>,
    pub options: ManagerOptions,
    pub session: Option<Box<dyn DeviceSession>>,
    /// Sessions lost since the device last answered: one that opens is no answer.
    pub losses: u32,
    /// Of the attempts since the device was last up. Random, so that devices behind one gateway that came back are not all
    /// asked in the same instant.
    pub backoff: Backoff,
    /// When to try to open a session again, while there is none.
    pub retry_at: Instant,
}

impl DeviceTask {
    /// Runs until the manager drops its end of the queue, or aborts the task.
    pub async fn run(mut self) {
        loop {
            let must_connect = self.session.is_none() && self.device.admin_state == AdminState::Unlocked;
            tokio::select! {
                job = self.jobs.recv() => match job {
                    Some(job) => self.handle(job).await,
                    None => return,
                },
                () = tokio::time::sleep_until(self.retry_at), if must_connect => self.connect().await,
            }
        }
    }

    async fn handle(&mut self, job: Job) {
        match job {
            Job::Auto(index) => {
                self.shared.waiting[index].store(false, Ordering::Relaxed);
                self.auto_event(index).await;
            }
            Job::Read { source, reply } => {
                let outcome = self.read(&source).await;
                self.shared.update(|report| report.commands_executed += 1);
                // The asker may have given up; the device was read all the same.
                drop(reply.send(outcome));
            }
            Job::Write { source, settings, reply } => {
                let outcome = self.write(&source, &settings).await;
                self.shared.update(|report| report.commands_executed += 1);
                drop(reply.send(outcome));
            }
        }
    }

    async fn connect(&mut self) {
        let opening = self.driver.open(&self.device, &self.profile);
        let opened = tokio::time::timeout(self.options.open_timeout, opening).await;
        match opened {
            Ok(Ok(session)) => {
                self.session = Some(session);
                // A device that accepts connections but never answers stays down until it does.
                if self.losses < LOSSES_MAX {
                    self.mark_up();
                }
            }
            Ok(Err(error)) => self.mark_down(error.to_string()),
            Err(_) => {
                let error = DriverError::Unreachable {
                    address: format!("device `{}`", self.device.name),
                    problem: format!("no connection within {:?}", self.options.open_timeout),
                    next_step: "check that it is switched on and its address is right".to_owned(),
                };
                self.mark_down(error.to_string());
            }
        }
    }

    async fn auto_event(&mut self, index: usize) {
        if self.session.is_none() && self.retry_at <= Instant::now() {
            self.connect().await;
        }
        if self.session.is_none() {
            self.shared.skipped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let source = self.autos[index].source.clone();
        let Ok(Outcome { event: Some(event), .. }) = self.read(&source).await else { return };
        let auto = &mut self.autos[index];
        if auto.on_change && !auto.last_seen.has_changed(&event, auto.threshold) {
            return;
        }
        let readings = event.readings.len() as u64;
        // Waits while the journal is slower than the devices. The receiver is gone only when everything stops.
        if self.produced.send(Made { event, maker: Maker::Device(self.service.clone()) }).await.is_ok() {
            self.shared.update(|report| {
                report.events_sent += 1;
                report.readings_sent += readings;
            });
        }
    }

    async fn read(&mut self, name: &str) -> Result<Outcome, CommandError> {
        let profile = self.profile.clone();
        let device = self.device.clone();
        let source = Source::find(&profile, name).ok_or_else(|| self.unknown_source(name))?;
        if !source.can_read(&profile) {
            return Err(CommandError::NotReadable { device: device.name.clone(), source_name: name.to_owned() });
        }
        let resources: Vec<_> = source.parts.iter().map(|(resource, _)| *resource).collect();
        let timeout = self.options.call_timeout;
        let no_answer = self.no_answer();
        let session = self.session()?;
        let answer = tokio::time::timeout(timeout, session.read(&resources)).await;
        let raw = match answer {
            Ok(Ok(raw)) => raw,
            Ok(Err(error)) => return Err(self.lose_session(error).into()),
            Err(_) => return Err(self.lose_session(no_answer).into()),
        };
        let outcome = source.outcome(&device, raw, (self.options.clock)());
        self.note_outcome(&resources.iter().map(|resource| resource.name.as_str()).collect::<Vec<_>>(), &outcome);
        Ok(outcome)
    }

    async fn write(&mut self, name: &str, settings: &BTreeMap<String, serde_json::Value>) -> Result<(), CommandError> {
        let profile = self.profile.clone();
        let source = Source::find(&profile, name).ok_or_else(|| self.unknown_source(name))?;
        if !source.can_write(&profile) {
            return Err(CommandError::NotWritable { device: self.device.name.clone(), source_name: name.to_owned() });
        }
        let values = source.raw_values(settings)?;
        let timeout = self.options.call_timeout;
        let no_answer = self.no_answer();
        let session = self.session()?;
        let answer = tokio::time::timeout(timeout, session.write(&values)).await;
        match answer {
            Ok(Ok(())) => {
                self.note_answer();
                Ok(())
            }
            Ok(Err(WriteFailure::Resource(error))) => {
                self.shared.update(|report| report.last_error = Some(error.to_string()));
                Err(error.into())
            }
            Ok(Err(WriteFailure::Session(error))) => Err(self.lose_session(error).into()),
            Err(_) => Err(self.lose_session(no_answer).into()),
        }
    }

    /// The session, or why there is none.
    fn session(&mut self) -> Result<&mut Box<dyn DeviceSession>, CommandError> {
        let device = &self.device;
        if device.admin_state == AdminState::Locked {
            return Err(CommandError::Locked { device: device.name.clone() });
        }
        let shared = &self.shared;
        self.session.as_mut().ok_or_else(|| CommandError::Down {
            device: device.name.clone(),
            problem: shared.snapshot().unreachable.unwrap_or_else(|| "it is not connected yet".to_owned()),
        })
    }

    fn unknown_source(&self, name: &str) -> CommandError {
        CommandError::UnknownSource {
            device: self.device.name.clone(),
            profile: self.profile.name.clone(),
            source_name: name.to_owned(),
        }
    }

    fn no_answer(&self) -> SessionError {
        SessionError {
            address: format!("device `{}`", self.device.name),
            problem: format!("no answer within {:?}", self.options.call_timeout),
        }
    }

    fn note_outcome(&mut self, resources: &[&str], outcome: &Outcome) {
        if outcome.failures.is_empty() || outcome.event.is_some() {
            self.note_answer();
        }
        self.shared.update(|report| {
            for resource in resources {
                report.failing_resources.remove(*resource);
            }
            for failure in &outcome.failures {
                report.failing_resources.insert(failure.resource.clone(), failure.problem.clone());
            }
            report.resources_read = outcome.event.as_ref().map_or(0, |event| event.readings.len());
            if let Some(failure) = outcome.failures.first() {
                report.reads_failed += 1;
                report.last_error = Some(failure.to_string());
            }
        });
    }

    fn note_answer(&mut self) {
        self.losses = 0;
        self.mark_up();
    }

    fn mark_up(&mut self) {
        self.backoff.reset();
        let now = (self.options.clock)();
        let mut was_down = false;
        self.shared.update(|report| {
            was_down = report.state == OperatingState::Down;
            report.state = OperatingState::Up;
            report.unreachable = None;
            report.last_connected = Some(now);
        });
        if was_down {
            info!(device = %self.device.name, "The device answers again.");
        }
    }

    /// Drops the session. The first losses are followed by a new connection at once; after [`LOSSES_MAX`] the device is
    /// down until it answers.
    fn lose_session(&mut self, error: SessionError) -> SessionError {
        self.session = None;
        let text = error.to_string();
        self.shared.update(|report| {
            report.reads_failed += 1;
            report.last_error = Some(text.clone());
        });
        self.losses = self.losses.saturating_add(1);
        if self.losses >= LOSSES_MAX {
            self.mark_down(format!("{text}; check the device and its connection"));
        } else {
            self.retry_at = Instant::now();
        }
        error
    }

    fn mark_down(&mut self, problem: String) {
        self.retry_at = Instant::now() + self.backoff.next_delay();
        for auto in &mut self.autos {
            auto.last_seen.clear();
        }
        let mut is_news = false;
        self.shared.update(|report| {
            is_news = report.state != OperatingState::Down;
            report.state = OperatingState::Down;
            report.last_error = Some(problem.clone());
            report.unreachable = Some(problem.clone());
        });
        if is_news {
            warn!(device = %self.device.name, error = %problem, "The device is down; trying again with growing pauses.");
        }
    }
}
