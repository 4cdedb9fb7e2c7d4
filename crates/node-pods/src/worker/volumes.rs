//! The volumes of a pod: prepared, looked at again, and what is done while they do not answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use node_runtime::{PodInstance, RuntimeError};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Halt, Worker};
use crate::admission::{self, AdmissionError};
use crate::inbox::Done;
use crate::volumes::{self, Places, Prepared, VolumeError, usage};

/// A volume that could not be made is tried again this often, or as soon as its objects change.
const RETRY: Duration = Duration::from_secs(5);
/// How long the first start of a pod waits for what it can do without, its service account's token above all, while the hub is
/// connected: programs read it when they start. A hub that takes longer must not keep a pod from running.
const LACKS_PATIENCE: Duration = Duration::from_millis(1500);
/// Volumes are compared with their sources this often, should a change have passed unseen.
const RESYNC_PERIOD: Duration = Duration::from_secs(60);
/// Volumes that take longer are on a disk or share that does not answer.
const SLOW_AFTER: Duration = Duration::from_secs(30);

/// What has a limit on the disk is measured this often, as other kubelets do it, …
const MEASURE_PERIOD: Duration = Duration::from_secs(10);
/// … and one that has many files less often: measuring takes no more than this part of the time.
const MEASURE_SHARE: u32 = 50;
/// What the containers of a pod that has too much there get to end, as with other kubelets: each moment it may fill the disk.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// What is known of a pod's volumes.
#[derive(Debug, Default)]
pub(super) struct PodVolumes {
    places: Option<Places>,
    /// One preparation is under way; a share that hangs must not collect threads.
    is_preparing: bool,
    /// Something changed meanwhile.
    is_outdated: bool,
    look_at: Option<Instant>,
    error: Option<String>,
    /// Until when the first start waits for what its volumes lack.
    lacks_until: Option<Instant>,
    /// Whether the runtime has said that it can start the containers.
    is_checked: bool,
    /// Whether the runtime has set the pod up since this worker began.
    is_set_up: bool,
    /// They take longer than they should.
    is_slow: bool,
    /// When what is in those with a limit is measured again; `None` while that is under way, or before there are any.
    measure_at: Option<Instant>,
}

impl PodVolumes {
    /// Where each volume is, once all are in place.
    pub(super) fn places(&self) -> Option<&Places> {
        self.places.as_ref()
    }

    /// When they are to be looked at again.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at.filter(|_| !self.is_preparing)
    }

    /// Whether it is known that the pod can be run here, or that this will take a while.
    pub(super) fn is_checked(&self) -> bool {
        self.is_checked || self.is_slow
    }

    /// Whether the pod cannot be removed yet: what is set up for it meanwhile would be left. A share that hangs keeps no pod.
    pub(super) fn hold_removal(&self) -> bool {
        self.is_preparing && !(self.is_set_up && self.is_slow)
    }

    /// When those with a limit are to be measured.
    pub(super) fn measure_at(&self) -> Option<Instant> {
        self.measure_at
    }

    fn is_due(&self) -> bool {
        self.look_at.is_none_or(|at| at <= Instant::now())
    }
}

impl Worker {
    /// Begins to bring the volumes up to date, unless that is under way or was put off.
    pub(super) fn prepare_volumes(&mut self) {
        if self.volumes.is_preparing || !self.volumes.is_due() {
            return;
        }
        self.volumes.is_preparing = true;
        self.volumes.is_outdated = false;
        let (pod, dir, facts) = (self.pod.clone(), self.dir.clone(), self.shared.facts());
        let store = self.shared.context.store.clone();
        // What ran before was accepted before.
        let is_new =
            !self.volumes.is_checked && self.containers.values().all(|record| record.observed.current.is_none());
        let checking = self.runtime.clone().filter(|_| is_new);
        let setting_up = self.runtime.clone().filter(|_| !self.volumes.is_set_up);
        let spec = admission::pod_spec(&self.pod, self.addresses().to_vec(), &self.shared.context.dns.domain);
        // Programs of the node can do without a group; what they lack they say when they are started.
        let is_container = self.runtime.as_ref().is_some_and(|runtime| admission::runs_images(runtime.handler()));
        let inbox = self.inbox.clone();
        base_observe::spawn_detached("pod-volumes", async move {
            if let Some(runtime) = setting_up {
                match runtime.ensure_pod(spec).await {
                    Ok(instance) => inbox.done(Done::SetUp(instance)),
                    Err(error) => {
                        // None can do without a network of its own: the node's would be another one, with what is the node's alone.
                        let is_needed = is_container || matches!(error, RuntimeError::Sandbox { .. });
                        let why = node_client::chain(&error);
                        inbox.done(Done::NotSetUp { why, is_needed });
                        if is_needed {
                            return;
                        }
                    }
                }
            }
            let mut work = tokio::task::spawn_blocking(move || {
                if let Some(runtime) = checking {
                    admission::check_runtime(&pod, &*runtime)?;
                }
                Ok::<_, AdmissionError>(volumes::prepare(&pod, &dir, &facts, &*store))
            });
            let mut is_slow = false;
            let finished = loop {
                tokio::select! {
                    finished = &mut work => break finished,
                    () = tokio::time::sleep(SLOW_AFTER), if !is_slow => {
                        is_slow = true;
                        inbox.done(Done::VolumesSlow);
                    }
                }
            };
            inbox.done(match finished {
                Ok(Ok(prepared)) => Done::Volumes(prepared),
                Ok(Err(rejection)) => Done::Rejected(rejection),
                Err(error) => Done::VolumesDied(error.to_string()),
            });
        });
    }

    /// Looks at the volumes when it is time to.
    pub(super) fn look_at_volumes(&mut self) {
        if self.volumes.look_at().is_none_or(|at| at > Instant::now()) {
            return;
        }
        // Without volumes the next decision asks for them, if it still needs them.
        self.volumes.look_at = None;
        if self.volumes.places.is_some() && !self.is_ending() {
            self.prepare_volumes();
        }
    }

    /// Measures what the pod has on the disk, where that has a limit, when it is time to.
    pub(super) fn measure_volumes(&mut self) {
        if self.volumes.measure_at.is_none_or(|at| at > Instant::now()) || self.is_ending() {
            return;
        }
        self.volumes.measure_at = None;
        let (pod, dir, inbox) = (self.pod.clone(), self.dir.clone(), self.inbox.clone());
        let written = self.containers.iter().filter_map(|(name, record)| {
            let current = record.observed.current.as_ref()?;
            Some((name.clone(), self.runtime.as_ref()?.writable_dir(&current.id)?))
        });
        let written: BTreeMap<String, PathBuf> = written.collect();
        base_observe::spawn_blocking_named("volume-sizes", move || {
            let begun = std::time::Instant::now();
            let excess = usage::excess(&pod, &dir, &written);
            inbox.done(Done::Measured { excess, took: begun.elapsed() });
        });
    }

    /// A pod that has more on the disk than it may ends, within a second, as on other kubelets' nodes.
    pub(super) fn volumes_measured(&mut self, excess: Option<String>, took: Duration) {
        self.volumes.measure_at = Some(Instant::now() + MEASURE_PERIOD.max(took * MEASURE_SHARE));
        if let Some(message) = excess.filter(|_| self.state.failure.is_none() && !self.is_ending()) {
            self.shared.events.pod_warning(&self.pod, None, "Evicted", message.clone());
            self.fail("Evicted", message);
            self.halt.get_or_insert(Halt { grace: EVICTION_GRACE, done: None });
        }
    }

    /// Objects that the pod refers to have changed, or its token.
    pub(super) fn refresh(&mut self) {
        self.volumes.look_at = None;
        self.volumes.is_outdated = true;
        if self.volumes.places.is_some() && !self.is_ending() {
            self.prepare_volumes();
        }
        for record in self.containers.values_mut() {
            let waiting = record.observed.waiting.as_ref();
            if waiting.is_some_and(|waiting| waiting.reason == "CreateContainerConfigError") {
                record.held_until = None;
            }
        }
    }

    pub(super) fn volumes_prepared(&mut self, result: Result<Prepared, VolumeError>) {
        self.volumes.is_preparing = false;
        self.volumes.is_checked = true;
        match result {
            Ok(prepared) if self.waits_for_lacks(&prepared) => {}
            Ok(Prepared { places, .. }) => {
                self.volumes.look_at = (!self.pod.spec.volumes.is_empty()).then(|| Instant::now() + RESYNC_PERIOD);
                self.volumes.places = Some(places);
                if usage::has_limits(&self.pod) && self.volumes.measure_at.is_none() {
                    self.volumes.measure_at = Some(Instant::now() + MEASURE_PERIOD);
                }
                self.volumes.error = None;
                self.begin();
            }
            Err(error) => {
                self.volumes.look_at = Some(Instant::now() + RETRY);
                let text = node_client::chain(&error);
                if let VolumeError::Io { source, .. } = &error {
                    self.report_disk(source);
                }
                // Waiting for a first answer of the hub is no fault.
                if !matches!(error, VolumeError::Pending { .. }) {
                    self.report_volume_error(text);
                }
            }
        }
        if self.volumes.is_outdated {
            self.volumes.look_at = None;
            if self.volumes.places.is_some() {
                self.prepare_volumes();
            }
        }
    }

    fn report_volume_error(&mut self, text: String) {
        if self.volumes.error.as_ref() == Some(&text) {
            return;
        }
        warn!(pod = %self.pod.full_name(), error = %text, "Failed to prepare a volume; trying again.");
        self.shared.events.pod_warning(&self.pod, None, "FailedMount", text.clone());
        self.shared.context.registry.error(format!("{}: {text}", self.pod.full_name()));
        self.volumes.error = Some(text);
    }

    pub(super) fn set_up(&mut self, instance: PodInstance) {
        self.volumes.is_set_up = true;
        self.take_instance(instance);
    }

    pub(super) fn not_set_up(&mut self, why: String, is_needed: bool) {
        if is_needed {
            self.volumes.is_preparing = false;
            self.volumes.is_checked = true;
            self.volumes.look_at = Some(Instant::now() + RETRY);
        }
        if self.volumes.error.as_ref() != Some(&why) {
            warn!(pod = %self.pod.full_name(), error = %why, "Failed to set a pod up; trying again.");
            let text = format!("Failed to create pod sandbox: {why}");
            self.shared.events.pod_warning(&self.pod, None, "FailedCreatePodSandBox", text);
            self.shared.context.registry.error(format!("{}: {why}", self.pod.full_name()));
            self.volumes.error = Some(why);
        }
    }

    pub(super) fn volumes_slow(&mut self) {
        self.volumes.is_slow = true;
        let text = format!(
            "the volumes of the pod are not in place after {} s: a disk or share does not answer; the pod starts when it does",
            SLOW_AFTER.as_secs()
        );
        self.report_volume_error(text);
    }

    pub(super) fn volumes_died(&mut self, cause: &str) {
        self.volumes.is_preparing = false;
        self.volumes.look_at = Some(Instant::now() + RETRY);
        self.shared.context.registry.error(format!("volumes of {}: {cause}", self.pod.full_name()));
    }

    /// The runtime cannot start the pod's containers, now or later.
    pub(super) fn rejected(&mut self, rejection: AdmissionError) {
        self.volumes.is_preparing = false;
        self.volumes.is_checked = true;
        self.shared.events.pod_warning(&self.pod, None, rejection.reason.clone(), rejection.message.clone());
        self.shared.context.registry.error(format!("{}: {}", self.pod.full_name(), rejection.message));
        self.fail(&rejection.reason, rejection.message);
    }

    /// Whether a start is to wait a moment longer for what the volumes lack; sets when to look again.
    fn waits_for_lacks(&mut self, prepared: &Prepared) -> bool {
        // What runs already, or ran before, is not kept waiting, nor is anyone for a hub that is not there.
        let is_first =
            self.volumes.places.is_none() && self.containers.values().all(|record| record.observed.current.is_none());
        if !is_first || prepared.lacks.is_empty() {
            return false;
        }
        let now = Instant::now();
        let until = *self.volumes.lacks_until.get_or_insert(now + LACKS_PATIENCE);
        if now < until && self.token_rejection.is_none() && self.shared.context.client.is_connected() {
            self.volumes.look_at = Some(until);
            return true;
        }
        info!(pod = %self.pod.full_name(), lacks = prepared.lacks.join(", "), "Starting a pod without all of its volumes' files; they follow.");
        false
    }

    pub(super) fn token_rejected(&mut self, why: String) {
        if self.volumes.places.is_none() {
            self.volumes.look_at = None;
        }
        if self.token_rejection.as_ref() != Some(&why) {
            let volume = volumes::token_volume(&self.pod).unwrap_or_default();
            let text = format!(
                "MountVolume.SetUp failed for volume \"{volume}\" : failed to fetch token: {why}; the pod runs without it until it is issued"
            );
            self.shared.events.pod_warning(&self.pod, None, "FailedMount", text);
            self.token_rejection = Some(why);
        }
    }

    /// Notes when the pod was admitted, once.
    fn begin(&mut self) {
        if self.state.start_time.is_none() {
            let stored = self.pod.status.start_time.as_deref().and_then(|time| time.parse().ok());
            self.state.start_time = Some(stored.unwrap_or_else(Timestamp::now));
            // The hub has it as well, and a start that is a little late does no harm.
            self.keep_state(false);
        }
    }
}
