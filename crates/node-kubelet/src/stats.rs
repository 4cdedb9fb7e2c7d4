//! What the node, its pods and their containers use: one sample of all of it, and the two forms in which others read it.
//!
//! ```text
//! cgroups, /proc, statvfs ──▶ Sample ──┬─▶ summary     /stats/summary, as upstream's stats/v1alpha1
//!                                      └─▶ exposition  /metrics/resource, /metrics/cadvisor
//! ```
//!
//! Whoever asks gets a sample of this moment: it costs some files of `/proc` and `/sys` for each container. What pods have on the
//! disk costs a walk through their files and is kept for a while. A rate needs two samples; the one before is kept.

pub(crate) mod exposition;
pub(crate) mod machine;
pub(crate) mod summary;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use node_pods::{DirUsage, PodOutline, Pods, Stopping, dir_usage};
use node_runtime::{ContainerId, ContainerState, ContainerStats, ContainerStatus, PodRuntime};

pub(crate) use machine::{Disk, Interface, NodeFigures};

/// A rate over less time says little.
const RATE_PERIOD_MIN: Duration = Duration::from_secs(5);
/// What pods have on the disk is measured this often at most.
const DISK_PERIOD: Duration = Duration::from_secs(60);
/// Files of one directory that are counted; a pod that has more has at least this many.
const INODES_MAX: u64 = 500_000;

/// Takes samples. Clones share what they remember.
#[derive(Clone)]
pub(crate) struct Stats {
    pods: Pods,
    data_dir: PathBuf,
    memory: Arc<Mutex<Remembered>>,
}

#[derive(Default)]
struct Remembered {
    /// What rates are counted from: CPU time by what used it, and when.
    base: Option<(Instant, BTreeMap<Key, u64>)>,
    next: Option<(Instant, BTreeMap<Key, u64>)>,
    disks: Option<(Instant, Arc<BTreeMap<String, PodDisk>>)>,
}

/// Whose CPU time it is: the node's, a pod's, a container's.
type Key = (String, Option<(String, u32)>);

/// Everything that was used at one moment.
#[derive(Debug)]
pub(crate) struct Sample {
    pub time: Timestamp,
    pub node: NodeFigures,
    /// Billionths of a core, of the node.
    pub nano_cores: Option<u64>,
    pub pods: Vec<PodSample>,
}

/// One pod in a [`Sample`].
#[derive(Debug)]
pub(crate) struct PodSample {
    pub outline: PodOutline,
    /// `None` where nobody counts.
    pub usage: Option<Usage>,
    /// Where it has a network of its own.
    pub network: Vec<Interface>,
    /// Those that run.
    pub containers: Vec<ContainerSample>,
}

/// One container that runs.
#[derive(Debug)]
pub(crate) struct ContainerSample {
    pub id: ContainerId,
    pub image: String,
    pub started_at: Timestamp,
    pub usage: Option<Usage>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub stats: ContainerStats,
    /// Billionths of a core, since a sample some seconds ago.
    pub nano_cores: Option<u64>,
}

/// What a pod has on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodDisk {
    pub volumes: Vec<(String, DirUsage)>,
    /// By container: what it has written into its image, and its logs.
    pub containers: BTreeMap<String, (DirUsage, DirUsage)>,
}

impl PodDisk {
    /// All of it.
    pub fn total(&self) -> DirUsage {
        let volumes = self.volumes.iter().map(|(_, usage)| *usage);
        let containers = self.containers.values().flat_map(|(root, logs)| [*root, *logs]);
        volumes.chain(containers).fold(DirUsage::default(), std::ops::Add::add)
    }
}

impl Stats {
    pub fn new(pods: Pods, data_dir: PathBuf) -> Self {
        Self { pods, data_dir, memory: Arc::default() }
    }

    /// What is used at this moment.
    ///
    /// # Errors
    /// At shutdown.
    pub async fn sample(&self) -> Result<Sample, Stopping> {
        let outlines = self.pods.outlines().await?;
        let running = running(&outlines).await;
        let mut pods = Vec::new();
        for outline in outlines {
            let containers = running.get(&outline.uid).map(Vec::as_slice).unwrap_or_default();
            pods.push(sample_pod(outline, containers).await);
        }
        let data_dir = self.data_dir.clone();
        let pids: Vec<Option<u32>> = pods.iter().map(|(_, pid)| *pid).collect();
        let read = tokio::task::spawn_blocking(move || {
            let networks: Vec<Vec<Interface>> = pids.into_iter().map(machine::network_of).collect();
            (machine::read(&data_dir), networks)
        });
        // A panic was logged where it was.
        let (node, networks) = read.await.map_err(|_| Stopping)?;
        let pods = pods.into_iter().zip(networks).map(|((pod, _), network)| PodSample { network, ..pod });
        let mut sample = Sample { time: Timestamp::now(), node, nano_cores: None, pods: pods.collect() };
        self.locked().rate(&mut sample, Instant::now());
        Ok(sample)
    }

    /// What the pods of a sample have on the disk, by uid.
    pub async fn disks(&self, sample: &Sample) -> Arc<BTreeMap<String, PodDisk>> {
        if let Some((at, known)) = &self.locked().disks
            && at.elapsed() < DISK_PERIOD
        {
            return known.clone();
        }
        self.measure_disks(sample).await
    }

    /// The same as they are now.
    pub async fn measure_disks(&self, sample: &Sample) -> Arc<BTreeMap<String, PodDisk>> {
        let plans: Vec<_> = sample.pods.iter().map(places).collect();
        let measured = tokio::task::spawn_blocking(move || plans.into_iter().map(measure).collect());
        let disks: Arc<BTreeMap<String, PodDisk>> = Arc::new(measured.await.unwrap_or_default());
        self.locked().disks = Some((Instant::now(), disks.clone()));
        disks
    }

    fn locked(&self) -> MutexGuard<'_, Remembered> {
        // Every change is complete in itself.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remembered {
    /// Fills in what each has used of a core since a sample some seconds ago.
    fn rate(&mut self, sample: &mut Sample, now: Instant) {
        let mut times: BTreeMap<Key, u64> = BTreeMap::new();
        if self.next.as_ref().is_some_and(|(at, _)| now.duration_since(*at) >= RATE_PERIOD_MIN) {
            self.base = self.next.take();
        }
        let rate = |key: &Key, nanos: u64| {
            let (at, before) = self.base.as_ref()?;
            let used = nanos.saturating_sub(*before.get(key)?);
            let period = u64::try_from(now.duration_since(*at).as_millis()).ok().filter(|millis| *millis > 0)?;
            Some(used.saturating_mul(1000) / period)
        };
        let of_node = (String::new(), None);
        sample.nano_cores = rate(&of_node, sample.node.cpu_nanos);
        times.insert(of_node, sample.node.cpu_nanos);
        for pod in &mut sample.pods {
            let uid = &pod.outline.uid;
            let of_containers = pod.containers.iter_mut().filter_map(|container| {
                let id = &container.id;
                Some(((uid.clone(), Some((id.container.clone(), id.attempt))), container.usage.as_mut()?))
            });
            let of_pod = pod.usage.as_mut().map(|usage| ((uid.clone(), None), usage));
            for (key, usage) in of_containers.chain(of_pod) {
                usage.nano_cores = rate(&key, usage.stats.cpu_nanos);
                times.insert(key, usage.stats.cpu_nanos);
            }
        }
        if self.next.is_none() {
            self.next = Some((now, times));
        }
    }
}

/// The containers that run, by the uid of their pod.
async fn running(outlines: &[PodOutline]) -> BTreeMap<String, Vec<ContainerStatus>> {
    let mut runtimes: BTreeMap<&str, &Arc<dyn PodRuntime>> = BTreeMap::new();
    for runtime in outlines.iter().filter_map(|outline| outline.runtime.as_ref()) {
        runtimes.insert(runtime.handler(), runtime);
    }
    let mut running: BTreeMap<String, Vec<ContainerStatus>> = BTreeMap::new();
    for runtime in runtimes.into_values() {
        // Those of one that does not answer are not counted this time.
        for status in runtime.list().await.unwrap_or_default() {
            if matches!(status.state, ContainerState::Running { .. }) {
                running.entry(status.id.pod_uid.clone()).or_default().push(status);
            }
        }
    }
    running
}

/// What a pod uses, and a process in its network.
async fn sample_pod(outline: PodOutline, running: &[ContainerStatus]) -> (PodSample, Option<u32>) {
    let Some(runtime) = outline.runtime.clone() else {
        return (PodSample { outline, usage: None, network: Vec::new(), containers: Vec::new() }, None);
    };
    let (mut containers, mut pid) = (Vec::new(), None);
    for status in running {
        let ContainerState::Running { pid: of_container, started_at } = status.state else { continue };
        pid = Some(of_container);
        containers.push(ContainerSample {
            id: status.id.clone(),
            image: status.image.clone(),
            started_at,
            usage: counted(runtime.stats(&status.id).await.ok()),
        });
    }
    let mut usage = counted(runtime.stats_pod(&outline.uid).await.ok());
    if usage.is_none() {
        // Where pods have no group of their own, it is what its containers use together.
        usage = containers.iter().filter_map(|container| container.usage).reduce(sum);
    }
    (PodSample { outline, usage, network: Vec::new(), containers }, pid)
}

/// Nothing at all is what is read where there are no control groups.
fn counted(stats: Option<ContainerStats>) -> Option<Usage> {
    let stats = stats.filter(|stats| *stats != ContainerStats::default())?;
    Some(Usage { stats, nano_cores: None })
}

fn sum(one: Usage, other: Usage) -> Usage {
    let (one, other) = (one.stats, other.stats);
    let stats = ContainerStats {
        cpu_nanos: one.cpu_nanos + other.cpu_nanos,
        memory_bytes: one.memory_bytes + other.memory_bytes,
        working_set_bytes: one.working_set_bytes + other.working_set_bytes,
        rss_bytes: one.rss_bytes + other.rss_bytes,
        page_faults: one.page_faults + other.page_faults,
        major_page_faults: one.major_page_faults + other.major_page_faults,
        pids: one.pids + other.pids,
    };
    Usage { stats, nano_cores: None }
}

/// Where the files of a pod are.
struct Places {
    uid: String,
    volumes: Vec<(String, PathBuf)>,
    containers: Vec<(String, Option<PathBuf>, PathBuf)>,
}

fn places(pod: &PodSample) -> Places {
    let outline = &pod.outline;
    let volumes = outline.disk_volumes.iter().map(|name| (name.clone(), outline.volume_dir(name)));
    let containers = outline.containers.iter().map(|container| {
        let sample = pod.containers.iter().find(|sample| sample.id.container == container.name);
        let written = sample.and_then(|sample| outline.runtime.as_ref()?.writable_dir(&sample.id));
        (container.name.clone(), written, outline.log_dir(&container.name))
    });
    Places { uid: outline.uid.clone(), volumes: volumes.collect(), containers: containers.collect() }
}

fn measure(places: Places) -> (String, PodDisk) {
    let measure = |dir: PathBuf| dir_usage(&dir, INODES_MAX);
    let volumes = places.volumes.into_iter().map(|(name, dir)| (name, measure(dir)));
    let containers = places.containers.into_iter().map(|(name, written, logs)| {
        let written = written.map(measure).unwrap_or_default();
        (name, (written, measure(logs)))
    });
    (places.uid, PodDisk { volumes: volumes.collect(), containers: containers.collect() })
}

#[cfg(test)]
mod tests;
