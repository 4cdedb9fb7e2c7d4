//! The devices of this node: who they are, when they are read, and the door for commands.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api_edge::edgex::{AdminState, Device, DeviceProfile};
use api_edge::go_duration;
use base_retry::{Backoff, BackoffLaw};
use edge_bus::Made;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::driver::{Driver, DriverError};
use crate::readings::{LastSeen, Outcome, Source};
use crate::task::{AutoSource, CommandError, DeviceReport, DeviceTask, Job, Shared};

/// Jobs that wait for one device; auto-events take one place each at most, the rest is for commands.
const JOBS_WAITING_MAX: usize = 32;

/// Additions and removals that wait for the scheduler.
const SCHEDULES_WAITING_MAX: usize = 64;

/// Times of the manager. The defaults suit field devices.
#[derive(Clone)]
pub struct ManagerOptions {
    /// Nanoseconds since 1970, for the origin of readings.
    pub clock: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// How long a driver may take to connect.
    pub open_timeout: Duration,
    /// How long one read or write may take. Drivers have shorter limits of their own; this one is for a driver that hangs.
    pub call_timeout: Duration,
    /// Before a device that is down is tried again: one that comes back is used within a minute.
    pub retry: BackoffLaw,
}

impl Default for ManagerOptions {
    fn default() -> Self {
        Self {
            clock: Arc::new(|| {
                let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX)
            }),
            open_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            retry: BackoffLaw::new(Duration::from_secs(1), Duration::from_secs(60)),
        }
    }
}

/// Why a device cannot be put into service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddDeviceError {
    /// No driver of that name is built in.
    #[error("device `{device}`: there is no driver `{service}`; built in are {known}")]
    UnknownDriver {
        /// The device.
        device: String,
        /// Its `serviceName`.
        service: String,
        /// The drivers there are.
        known: String,
    },
    /// A device of this name is in service already.
    #[error("a device named `{device}` is in service already")]
    NameTaken {
        /// The name.
        device: String,
    },
    /// An auto-event cannot work.
    #[error("device `{device}`, autoEvents[{index}]: {problem}")]
    AutoEvent {
        /// The device.
        device: String,
        /// Which, from 0.
        index: usize,
        /// What is wrong.
        problem: String,
    },
    /// The driver refuses the device or its profile.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

/// Owns the devices. All calls may be made at the same time from anywhere.
pub struct DeviceManager {
    drivers: BTreeMap<&'static str, Arc<dyn Driver>>,
    devices: Mutex<HashMap<String, Entry>>,
    produced: mpsc::Sender<Made>,
    options: ManagerOptions,
    schedule: mpsc::Sender<Schedule>,
    scheduler: JoinHandle<()>,
    changes: watch::Sender<u64>,
    next_id: AtomicU64,
}

struct Entry {
    id: u64,
    is_locked: bool,
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl DeviceManager {
    /// A manager without devices; events of auto-events go to `produced`, which holds devices up when it is full.
    ///
    /// Must be called within a tokio runtime.
    pub fn new(drivers: Vec<Arc<dyn Driver>>, produced: mpsc::Sender<Made>, options: ManagerOptions) -> Self {
        let (schedule, schedules) = mpsc::channel(SCHEDULES_WAITING_MAX);
        Self {
            drivers: drivers.into_iter().map(|driver| (driver.name(), driver)).collect(),
            devices: Mutex::default(),
            produced,
            options,
            schedule,
            scheduler: tokio::spawn(run_scheduler(schedules)),
            changes: watch::Sender::new(0),
            next_id: AtomicU64::new(0),
        }
    }

    /// Checks a device and its profile with the device's driver. Nothing is sent.
    ///
    /// # Errors
    /// As for [`DeviceManager::add`], but for [`AddDeviceError::NameTaken`].
    pub fn validate(&self, device: &Device, profile: &DeviceProfile) -> Result<(), AddDeviceError> {
        self.driver(device)?.validate(device, profile)?;
        auto_events(device, profile).map(|_| ())
    }

    /// Puts a device into service: connects to it in the background, and reads what its auto-events say, the first time
    /// as soon as it is connected. A device that does not answer is no error here; see [`DeviceManager::reports`].
    ///
    /// # Errors
    /// [`AddDeviceError`] when the device can never work as it is described.
    pub async fn add(&self, device: Device, profile: DeviceProfile) -> Result<(), AddDeviceError> {
        let driver = self.driver(&device)?;
        driver.validate(&device, &profile)?;
        let autos = auto_events(&device, &profile)?;
        let intervals: Vec<Duration> = autos.iter().map(|(interval, _)| *interval).collect();
        let is_locked = device.admin_state == AdminState::Locked;
        let (jobs, jobs_rx) = mpsc::channel(JOBS_WAITING_MAX + autos.len());
        let shared = Arc::new(Shared {
            report: Mutex::new(DeviceReport {
                name: device.name.clone(),
                service: device.service_name.clone(),
                is_locked,
                ..DeviceReport::default()
            }),
            waiting: autos.iter().map(|_| AtomicBool::new(false)).collect(),
            skipped: Default::default(),
            changes: self.changes.clone(),
        });
        let id = {
            let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
            if devices.contains_key(&device.name) {
                return Err(AddDeviceError::NameTaken { device: device.name });
            }
            // Never used twice, so that the scheduler cannot mistake a new device for one that was removed.
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            let name = device.name.clone();
            let task = DeviceTask {
                service: Arc::from(driver.name()),
                device: Arc::new(device),
                profile: Arc::new(profile),
                driver,
                autos: autos.into_iter().map(|(_, auto)| auto).collect(),
                jobs: jobs_rx,
                produced: self.produced.clone(),
                shared: shared.clone(),
                options: self.options.clone(),
                session: None,
                losses: 0,
                backoff: Backoff::new(self.options.retry),
                retry_at: Instant::now(),
            };
            let task = tokio::spawn(task.run());
            devices.insert(name, Entry { id, is_locked, jobs: jobs.clone(), shared: shared.clone(), task });
            id
        };
        if !is_locked && !intervals.is_empty() {
            // The scheduler ends only with the manager.
            drop(self.schedule.send(Schedule::Add { id, intervals, jobs, shared }).await);
        }
        self.changes.send_modify(|version| *version += 1);
        Ok(())
    }

    /// Takes a device out of service; returns when its session is closed. Whether there was one of that name.
    pub async fn remove(&self, name: &str) -> bool {
        let entry = self.devices.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        let Some(entry) = entry else { return false };
        drop(self.schedule.send(Schedule::Remove(entry.id)).await);
        entry.task.abort();
        // An aborted task ends with an error, and that is all there is to know.
        drop(entry.task.await);
        self.changes.send_modify(|version| *version += 1);
        true
    }

    /// Reads a resource or command now. The event is returned only, not sent to the bus, as EdgeX does by default.
    ///
    /// # Errors
    /// [`CommandError`]; single resources that failed are in [`Outcome::failures`].
    pub async fn read(&self, device: &str, source: &str) -> Result<Outcome, CommandError> {
        self.command(device, |reply| Job::Read { source: source.to_owned(), reply }).await
    }

    /// Writes a resource or command: `settings` are resource → value, text or JSON; what is missing takes its default.
    ///
    /// # Errors
    /// [`CommandError`]; nothing is sent unless every value is of the right type and in range.
    pub async fn write(
        &self,
        device: &str,
        source: &str,
        settings: BTreeMap<String, serde_json::Value>,
    ) -> Result<(), CommandError> {
        self.command(device, |reply| Job::Write { source: source.to_owned(), settings, reply }).await
    }

    /// How each device fares, by name.
    pub fn reports(&self) -> Vec<DeviceReport> {
        let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reports: Vec<DeviceReport> = devices.values().map(|entry| entry.shared.snapshot()).collect();
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        reports
    }

    /// Changes when a device comes, goes, goes up or down, or a resource begins or ceases to fail.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Closes every session and stops.
    pub async fn shutdown(&self) {
        self.scheduler.abort();
        let entries: Vec<Entry> = {
            let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
            devices.drain().map(|(_, entry)| entry).collect()
        };
        for entry in &entries {
            entry.task.abort();
        }
        for entry in entries {
            drop(entry.task.await);
        }
    }

    async fn command<T>(
        &self,
        device: &str,
        job: impl FnOnce(oneshot::Sender<Result<T, CommandError>>) -> Job,
    ) -> Result<T, CommandError> {
        let busy = || CommandError::Busy { device: device.to_owned() };
        let (reply, answer) = oneshot::channel();
        {
            let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = devices.get(device).ok_or_else(|| CommandError::UnknownDevice { device: device.to_owned() })?;
            if entry.is_locked {
                return Err(CommandError::Locked { device: device.to_owned() });
            }
            entry.jobs.try_send(job(reply)).map_err(|_| busy())?;
        }
        answer.await.map_err(|_| busy())?
    }

    fn driver(&self, device: &Device) -> Result<Arc<dyn Driver>, AddDeviceError> {
        self.drivers.get(device.service_name.as_str()).cloned().ok_or_else(|| AddDeviceError::UnknownDriver {
            device: device.name.clone(),
            service: device.service_name.clone(),
            known: self.drivers.keys().copied().collect::<Vec<_>>().join(", "),
        })
    }
}

impl Drop for DeviceManager {
    fn drop(&mut self) {
        self.scheduler.abort();
        for entry in self.devices.get_mut().unwrap_or_else(PoisonError::into_inner).values() {
            entry.task.abort();
        }
    }
}

/// The auto-events of a device, checked.
fn auto_events(device: &Device, profile: &DeviceProfile) -> Result<Vec<(Duration, AutoSource)>, AddDeviceError> {
    let check = |(index, auto): (usize, &api_edge::edgex::AutoEvent)| {
        let wrong = |problem: String| AddDeviceError::AutoEvent { device: device.name.clone(), index, problem };
        let interval = go_duration::parse(&auto.interval).map_err(|error| wrong(format!("interval: {error}")))?;
        if interval < Duration::from_millis(1) {
            return Err(wrong(format!("interval `{}` is shorter than 1ms", auto.interval)));
        }
        let source = Source::find(profile, &auto.source_name).ok_or_else(|| {
            wrong(format!("profile `{}` has no resource or command `{}`", profile.name, auto.source_name))
        })?;
        if !source.can_read(profile) {
            return Err(wrong(format!("`{}` may not be read", auto.source_name)));
        }
        let auto = AutoSource {
            source: auto.source_name.clone(),
            on_change: auto.on_change,
            threshold: auto.on_change_threshold.unwrap_or(0.0),
            last_seen: LastSeen::default(),
        };
        Ok((interval, auto))
    };
    device.auto_events.iter().enumerate().map(check).collect()
}

enum Schedule {
    Add { id: u64, intervals: Vec<Duration>, jobs: mpsc::Sender<Job>, shared: Arc<Shared> },
    Remove(u64),
}

struct Scheduled {
    intervals: Vec<Duration>,
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
}

/// One heap and one timer for the auto-events of all devices.
///
/// The next time is the last due time plus the interval, never "now" plus the interval, so that readings do not drift.
/// Times that passed while the machine slept are left out, not caught up on.
async fn run_scheduler(mut schedules: mpsc::Receiver<Schedule>) {
    let mut devices: HashMap<u64, Scheduled> = HashMap::new();
    let mut heap: BinaryHeap<Reverse<(Instant, u64, usize)>> = BinaryHeap::new();
    loop {
        let next = heap.peek().map(|Reverse((at, ..))| *at);
        tokio::select! {
            schedule = schedules.recv() => match schedule {
                None => return,
                Some(Schedule::Remove(id)) => drop(devices.remove(&id)),
                Some(Schedule::Add { id, intervals, jobs, shared }) => {
                    let now = Instant::now();
                    heap.extend((0..intervals.len()).map(|index| Reverse((now, id, index))));
                    devices.insert(id, Scheduled { intervals, jobs, shared });
                }
            },
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                run_due(&devices, &mut heap, Instant::now());
            }
        }
    }
}

fn run_due(devices: &HashMap<u64, Scheduled>, heap: &mut BinaryHeap<Reverse<(Instant, u64, usize)>>, now: Instant) {
    while let Some(Reverse((at, id, index))) = heap.peek().copied().filter(|Reverse((at, ..))| *at <= now) {
        heap.pop();
        let Some(device) = devices.get(&id) else { continue };
        let interval = device.intervals[index];
        let missed = (now - at).as_nanos() / interval.as_nanos();
        let next = at + interval.saturating_mul(u32::try_from(missed + 1).unwrap_or(u32::MAX));
        heap.push(Reverse((next.max(now + Duration::from_nanos(1)), id, index)));
        let was_waiting = device.shared.waiting[index].swap(true, Ordering::Relaxed);
        if was_waiting || device.jobs.try_send(Job::Auto(index)).is_err() {
            if !was_waiting {
                device.shared.waiting[index].store(false, Ordering::Relaxed);
            }
            device.shared.skipped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
