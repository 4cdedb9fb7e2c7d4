//! Keeps the node alive when it runs short of memory, disk, inodes or process ids: says so, takes fewer pods, and ends one after the
//! other until there is enough again.
//!
//! ```text
//! every 10 s:  /proc, statvfs ──▶ which thresholds are met ──▶ the Node's conditions (for 5 minutes more after the last time)
//!                                          │
//!                  disk: dead containers' files, images that nobody uses
//!                                          │ still met
//!                                          ▼
//!                  one pod: beyond its requests first, then the least important, then the largest
//! ```
//!
//! As upstream's eviction manager does it: a pod that is chosen for a hard threshold ends at once, fails with the reason `Evicted`, and
//! does not come back; whoever made it makes another one. For a soft threshold, which may be met for a while, it has
//! `evictionMaxPodGracePeriodSeconds` to end. What differs: soft thresholds come after all hard ones, whatever they are of; memory that
//! is available is what the kernel says can be had, where upstream counts the page cache that was used of late as lost; the images have
//! a threshold of their own only where they have a disk of their own; and a pod that has next to nothing on a disk is not ended for it,
//! where upstream ends one after the other while somebody else fills the disk.

pub(crate) mod rank;
mod thresholds;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use node_client::{EventRecorder, NodePressure, StatusRegistry, chain};
use node_pods::{Pods, Runtimes, Stopping};
use node_runtime::{ContainerState, NodeImages};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::stats::{PodDisk, PodSample, Sample, Stats, machine};
pub use thresholds::{Amount, BadThreshold, EvictionSettings, Signal, SoftThreshold};
use thresholds::{Observation, Since, Threshold};

/// A pod that has less on the disk than this is not ended for it: nothing would be won.
const DISK_BYTES_MIN: u64 = 1 << 20;
/// The same in files.
const DISK_INODES_MIN: u64 = 100;
/// What an evicted pod's containers get to end by themselves for a hard threshold, as with other kubelets.
const GRACE: Duration = Duration::from_secs(1);
/// How long the next one waits for a pod that does not end.
const END_MAX: Duration = Duration::from_secs(30);
/// Reason of pods that were chosen.
const EVICTED: &str = "Evicted";

/// What eviction works with.
pub(crate) struct Eviction {
    pub settings: EvictionSettings,
    pub node: String,
    pub data_dir: PathBuf,
    pub stats: Stats,
    pub pods: Pods,
    pub runtimes: Runtimes,
    pub images: Option<Arc<NodeImages>>,
    pub events: EventRecorder,
    pub registry: StatusRegistry,
    pub shutdown: CancellationToken,
}

/// Looks after the node until the shutdown.
pub(crate) async fn run(eviction: Arc<Eviction>) {
    let mut looks = Looks::default();
    loop {
        let has_evicted = match eviction.look(&mut looks).await {
            Ok(has_evicted) => has_evicted,
            Err(Stopping) => return,
        };
        // What one pod has freed may be enough, or another has to go at once.
        if has_evicted && !eviction.shutdown.is_cancelled() {
            continue;
        }
        tokio::select! {
            () = eviction.shutdown.cancelled() => return,
            () = tokio::time::sleep(eviction.settings.period) => {}
        }
    }
}

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
struct Looks {
    clock: PressureClock,
    since: Since,
    /// What was short at the last look, and what no pod could be ended for: each is logged once.
    short: Option<Signal>,
    helpless: Option<Signal>,
}

/// When each condition was last seen to hold: it holds on for a while, or it would flap with every pod that comes and ends.
#[derive(Debug, Default)]
struct PressureClock {
    memory: Option<Instant>,
    disk: Option<Instant>,
    pids: Option<Instant>,
}

impl PressureClock {
    fn look(&mut self, met: &[Threshold], now: Instant, transition: Duration) -> NodePressure {
        for threshold in met {
            let last = match threshold.signal {
                Signal::MemoryAvailable => &mut self.memory,
                Signal::NodeFsAvailable | Signal::NodeFsInodesFree | Signal::ImageFsAvailable => &mut self.disk,
                Signal::PidAvailable => &mut self.pids,
            };
            *last = Some(now);
        }
        let holds = |last: Option<Instant>| last.is_some_and(|at| at == now || now.duration_since(at) < transition);
        NodePressure {
            memory: holds(self.memory),
            disk: holds(self.disk),
            pids: holds(self.pids),
            is_shutting_down: false,
        }
    }
}

impl Eviction {
    /// One look; answers whether a pod was evicted.
    async fn look(&self, looks: &mut Looks) -> Result<bool, Stopping> {
        let met = self.met(&looks.since.met()).await?;
        let now = Instant::now();
        self.publish(looks.clock.look(&met, now, self.settings.pressure_transition));
        // Memory comes first: what runs short of it is killed by the kernel.
        let due = looks.since.look(&met, now);
        let first = due.map(|threshold| threshold.signal);
        let is_news = std::mem::replace(&mut looks.short, first) != first;
        let Some(threshold) = due else {
            looks.helpless = None;
            return Ok(false);
        };
        let resource = threshold.signal.resource();
        if is_news {
            warn!(signal = threshold.signal.name(), "The node runs short of {resource}.");
            let text = format!("Attempting to reclaim {resource}");
            self.events.node(&self.node, true, "EvictionThresholdMet", text);
        }
        if threshold.signal.is_disk() && self.free_disk().await {
            let left = self.met(&met).await?;
            if !left.iter().any(|still| still.is_same(&threshold)) {
                return Ok(false);
            }
        }
        let has_evicted = self.evict_one(&threshold).await?;
        let helpless = (!has_evicted).then_some(threshold.signal);
        if std::mem::replace(&mut looks.helpless, helpless) != helpless && helpless.is_some() {
            error!(
                signal = threshold.signal.name(),
                "No pod's end would help; what runs short is used by something else."
            );
            self.registry.error(format!("the node is short of {resource}, and no pod's end would help"));
        }
        Ok(has_evicted)
    }

    /// The thresholds that are met now, the most urgent first; what was met `before` is met for longer.
    async fn met(&self, before: &[Threshold]) -> Result<Vec<Threshold>, Stopping> {
        let (data_dir, images) = (self.data_dir.clone(), self.images.as_ref().map(|images| images.dir()));
        let read = tokio::task::spawn_blocking(move || {
            let figures = machine::read(&data_dir);
            // On one disk there is one threshold.
            let images = images.filter(|dir| !is_same_disk(dir, &data_dir)).and_then(|dir| machine::disk(&dir));
            thresholds::observe(&figures, images)
        });
        // A panic was logged where it was.
        let observed: BTreeMap<Signal, Observation> = read.await.map_err(|_| Stopping)?;
        Ok(self.settings.met(&observed, before))
    }

    fn publish(&self, now: NodePressure) {
        let before = *self.registry.pressure().borrow();
        let is_news = self.registry.set_pressure(|pressure| {
            *pressure = NodePressure { is_shutting_down: pressure.is_shutting_down, ..now };
        });
        if !is_news {
            return;
        }
        let changes = [
            (before.memory, now.memory, "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
            (before.disk, now.disk, "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
            (before.pids, now.pids, "NodeHasInsufficientPID", "NodeHasSufficientPID"),
        ];
        for (_, is, yes, no) in changes.into_iter().filter(|(was, is, ..)| was != is) {
            let reason = if is { yes } else { no };
            info!(reason, "The node's condition has changed.");
            self.events.node(&self.node, false, reason, format!("Node {} status is now: {reason}", self.node));
        }
    }

    /// Deletes what nobody misses; answers whether there was anything.
    async fn free_disk(&self) -> bool {
        let mut has_freed = false;
        for runtime in &self.runtimes {
            for status in runtime.list().await.unwrap_or_default() {
                if !matches!(status.state, ContainerState::Exited(_)) {
                    continue;
                }
                match runtime.discard_writes(&status.id).await {
                    Ok(has_discarded) => has_freed |= has_discarded,
                    Err(error) => {
                        warn!(error = %chain(&error), "Failed to delete the files of a container that has ended.")
                    }
                }
            }
        }
        let Some(images) = self.images.clone() else { return has_freed };
        let collected = tokio::task::spawn_blocking(move || images.collect_unused()).await;
        match collected {
            Ok(Ok(bytes)) => has_freed | (bytes > 0),
            Ok(Err(error)) => {
                let text = chain(&error);
                warn!(error = %text, "Failed to delete images.");
                self.registry.error(format!("images: {text}"));
                has_freed
            }
            // A panic was logged where it was.
            Err(_) => has_freed,
        }
    }

    /// Evicts the pod that is to go first; answers whether there was one.
    async fn evict_one(&self, threshold: &Threshold) -> Result<bool, Stopping> {
        let sample = self.stats.sample().await?;
        let disks = match threshold.signal.is_disk() {
            true => self.stats.measure_disks(&sample).await,
            false => Arc::default(),
        };
        let Some(chosen) = choose(&sample, &disks, threshold.signal) else { return Ok(false) };
        let message = rank::message(threshold, chosen, &disks);
        let (uid, name) = (chosen.outline.uid.clone(), chosen.outline.full_name());
        warn!(pod = %name, %message, "Evicting a pod.");
        self.registry.error(format!("{name}: evicted: {message}"));
        let grace = if threshold.grace.is_some() { self.settings.max_pod_grace } else { GRACE };
        let ended = self.pods.terminate(&uid, EVICTED, message, grace);
        match tokio::time::timeout(END_MAX.saturating_add(grace), ended).await {
            Ok(ended) => ended?,
            Err(_) => warn!(pod = %name, "An evicted pod does not end."),
        }
        Ok(true)
    }
}

/// The first of those that may be evicted. While one that failed still ends, what it frees is not known.
fn choose<'s>(sample: &'s Sample, disks: &BTreeMap<String, PodDisk>, signal: Signal) -> Option<&'s PodSample> {
    let helps = |pod: &PodSample| {
        let used = disks.get(&pod.outline.uid).map(PodDisk::total).unwrap_or_default();
        match signal {
            Signal::NodeFsAvailable | Signal::ImageFsAvailable => used.bytes >= DISK_BYTES_MIN,
            Signal::NodeFsInodesFree => used.inodes >= DISK_INODES_MIN,
            Signal::MemoryAvailable | Signal::PidAvailable => true,
        }
    };
    let is_candidate =
        |pod: &&PodSample| !pod.outline.is_critical && !pod.outline.is_over && !pod.outline.is_failed && helps(pod);
    let mut candidates: Vec<&PodSample> = sample.pods.iter().filter(is_candidate).collect();
    rank::sort(&mut candidates, disks, signal);
    candidates.first().copied()
}

fn is_same_disk(one: &std::path::Path, other: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let disk = |path: &std::path::Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    disk(one) == disk(other)
}

#[cfg(test)]
mod tests;
