//! Control groups, version 2 and version 1: limits, killing all, whether memory ran out, what is used.
//!
//! A container's group is `<parent>/<pod uid>/<container>_<attempt>`, under the root of the hierarchy and not under the
//! kubelet's own group, so that stopping the kubelet's service does not stop its containers. (A service manager
//! that kills by group must still leave the shims alone: `KillMode=process`.)
//!
//! The layout is flat: no level for the class of a pod (upstream has `burstable` and `besteffort`). What those levels bring is
//! that all pods of a class together are weighed against the others; here each pod has the weight of its own requests, the
//! least when it has none, which says the same of any two pods with one level less to make, to clean and to explain. Whom the
//! kernel kills first is decided by `oom_score_adj`, not by levels.

mod devices;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{ContainerId, ContainerResources, ContainerSpec, ContainerStats, Limits, PodResources};

/// The kernel's default period; quotas are per period.
pub const CPU_PERIOD_US: u64 = 100_000;

/// Smallest quota the kernel takes.
const CPU_QUOTA_US_MIN: u64 = 1_000;

/// Weights that the kernel takes on version 1. Who has asked for nothing gets the least: it runs on what others leave.
const CPU_SHARES_MIN: u64 = 2;
const CPU_SHARES_MAX: u64 = 262_144;

/// Of all pods together: half of what the kernel gives a group that nobody says anything about.
const SHARES_OF_ALL_PODS: u64 = 512;
const WEIGHT_OF_ALL_PODS: u64 = 50;

/// Deeper than anything of ours; a container with rights may have made more below its group.
const DEPTH_MAX: usize = 16;

/// How often the groups of a container are made when those above it go meanwhile.
const CREATE_TRIES: usize = 4;

/// Controllers of version 1 that we use.
const V1_CONTROLLERS: [&str; 5] = ["memory", "pids", "cpu", "cpuacct", "devices"];

/// Where this node's hierarchies are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// The unified one, and the group in it that we may use.
    V2 { base: PathBuf },
    /// Controller → mount point.
    V1 { mounts: BTreeMap<String, PathBuf> },
    /// None is mounted.
    Absent,
}

/// Removes a group and all below it from every hierarchy of this machine, those among them that only other runtimes use. What is
/// still in use stays.
pub fn remove_everywhere(group: &Path) {
    for line in fs::read_to_string("/proc/mounts").unwrap_or_default().lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        if let [_, target, "cgroup" | "cgroup2", ..] = fields[..] {
            remove_below(&Path::new(target).join(group), DEPTH_MAX);
        }
    }
}

/// A container's groups; one path for version 2 (`""`), one per controller for version 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CgroupPaths(BTreeMap<String, PathBuf>);

/// The one of this process, once one was found.
static DETECTED: OnceLock<Hierarchy> = OnceLock::new();

impl Hierarchy {
    /// The one of this process. It is looked for until one is mounted, and not again.
    pub fn of_this_process() -> Self {
        if let Some(detected) = DETECTED.get() {
            return detected.clone();
        }
        let detected = Self::detect(crate::sys::is_root());
        match detected {
            Self::Absent => detected,
            _ => DETECTED.get_or_init(|| detected).clone(),
        }
    }

    /// Reads `/proc/mounts`. Without root's rights the group we are in may be delegated to us.
    fn detect(is_root: bool) -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::parse(&mounts, if is_root { "" } else { &own })
    }

    fn parse(mounts: &str, own_groups: &str) -> Self {
        let mut v1 = BTreeMap::new();
        let mut v2 = None;
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, target, kind, options, ..] = fields[..] else { continue };
            match kind {
                "cgroup" => {
                    for name in
                        V1_CONTROLLERS.into_iter().filter(|name| options.split(',').any(|option| option == *name))
                    {
                        v1.entry(name.to_owned()).or_insert_with(|| PathBuf::from(target));
                    }
                }
                "cgroup2" if v2.is_none() => v2 = Some(PathBuf::from(target)),
                _ => {}
            }
        }
        // On a hybrid machine the unified hierarchy has no controllers; they are in version 1.
        if !v1.is_empty() {
            return Self::V1 { mounts: v1 };
        }
        match v2 {
            Some(root) => {
                let own = own_groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
                Self::V2 { base: root.join(own.trim_start_matches('/')) }
            }
            None => Self::Absent,
        }
    }

    /// The groups that [`create`](Self::create) makes, whether they exist or not.
    pub fn groups(&self, parent: &str, id: &ContainerId) -> CgroupPaths {
        self.paths(&group(parent, id))
    }

    /// The groups of a whole pod, above those of its containers.
    pub fn pod_groups(&self, parent: &str, uid: &str) -> CgroupPaths {
        self.paths(&pod_group(parent, uid))
    }

    fn paths(&self, group: &Path) -> CgroupPaths {
        match self {
            Self::V2 { base } => CgroupPaths(BTreeMap::from([(String::new(), base.join(group))])),
            Self::V1 { mounts } => {
                CgroupPaths(mounts.iter().map(|(name, mount)| (name.clone(), mount.join(group))).collect())
            }
            Self::Absent => CgroupPaths::default(),
        }
    }

    /// Makes the groups of a container and of its pod, with their limits and shares. A container's that were made are removed
    /// again when a later step fails.
    pub fn create(&self, parent: &str, spec: &ContainerSpec) -> io::Result<CgroupPaths> {
        let (pod, group) = (pod_group(parent, &spec.pod.uid), group(parent, &spec.id()));
        self.retried(&group, |paths| {
            self.make(&pod)?;
            self.paths(&pod).set_pod(&spec.pod_resources)?;
            self.make(&group)?;
            paths.set_limits(&spec.limits)?;
            paths.set_shares(spec.requests.cpu_millis);
            Ok(())
        })
    }

    /// Makes a pod's groups, and in them an empty one of this name: as long as it is there, no end of a container takes the
    /// pod's groups along.
    pub fn create_pod(
        &self,
        parent: &str,
        uid: &str,
        marker: &str,
        resources: &PodResources,
    ) -> io::Result<CgroupPaths> {
        let pod = pod_group(parent, uid);
        let group = pod.join(marker);
        self.retried(&group, |_| {
            self.make(&group)?;
            self.paths(&pod).set_pod(resources)
        })?;
        Ok(self.paths(&pod))
    }

    /// Makes a group by its path under the hierarchy's root, as [`create`](Self::create) does.
    pub fn create_group(&self, group: &Path, limits: &Limits) -> io::Result<CgroupPaths> {
        self.retried(group, |paths| {
            self.make(group)?;
            paths.set_limits(limits)
        })
    }

    fn retried(&self, group: &Path, attempt: impl Fn(&CgroupPaths) -> io::Result<()>) -> io::Result<CgroupPaths> {
        let paths = self.paths(group);
        let mut tries_left = CREATE_TRIES;
        loop {
            tries_left -= 1;
            match attempt(&paths) {
                Ok(()) => return Ok(paths),
                Err(error) => {
                    paths.remove();
                    // The pod's last other container has just ended and took the pod's group along.
                    if error.kind() != io::ErrorKind::NotFound || tries_left == 0 {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Makes the group of all pods, which together weigh half of what a single service of the box does: however many processes
    /// fork in it, whoever is to stop them gets the processor.
    pub fn create_parent(&self, parent: &str) -> io::Result<()> {
        self.make(Path::new(parent))?;
        let paths = self.paths(Path::new(parent));
        paths.write_shares(if paths.is_v2() { WEIGHT_OF_ALL_PODS } else { SHARES_OF_ALL_PODS });
        Ok(())
    }

    /// Makes a group and all above it.
    fn make(&self, group: &Path) -> io::Result<()> {
        match self {
            Self::V2 { base } => {
                let mut level = base.to_owned();
                for part in group.components() {
                    // What is not available here fails only when a limit needs it.
                    for controller in ["+memory", "+pids", "+cpu"] {
                        let _ = fs::write(level.join("cgroup.subtree_control"), controller);
                    }
                    level.push(part);
                    make_dir(&level)?;
                }
                Ok(())
            }
            Self::V1 { mounts } => mounts.values().try_for_each(|mount| make_dirs(mount, group)),
            Self::Absent => Err(io::Error::new(io::ErrorKind::Unsupported, "no control group hierarchy is mounted")),
        }
    }

    /// Removes the groups directly below `parent` that are older than `age` and that nothing is in any more.
    pub fn remove_empty_below(&self, parent: &Path, age: Duration) {
        for entry in self.paths(parent).0.values().flat_map(fs::read_dir).flatten().flatten() {
            let modified = entry.metadata().and_then(|meta| meta.modified());
            if modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|elapsed| elapsed > age)) {
                // The kernel refuses while something is in it, and files of a group cannot be removed at all.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

fn pod_group(parent: &str, uid: &str) -> PathBuf {
    Path::new(parent).join(uid)
}

fn group(parent: &str, id: &ContainerId) -> PathBuf {
    pod_group(parent, &id.pod_uid).join(format!("{}_{}", id.container, id.attempt))
}

/// Weight of what has asked for so much CPU, as kubelets compute it: 1024 is one core's.
pub fn shares(cpu_millis: u64) -> u64 {
    (cpu_millis.saturating_mul(1024) / 1000).clamp(CPU_SHARES_MIN, CPU_SHARES_MAX)
}

/// The same for version 2, whose weights reach from 1 to 10,000; as kubelets convert it.
fn weight(shares: u64) -> u64 {
    (shares.clamp(CPU_SHARES_MIN, CPU_SHARES_MAX) - CPU_SHARES_MIN) * 9_999 / (CPU_SHARES_MAX - CPU_SHARES_MIN) + 1
}

/// What it may use in each [`CPU_PERIOD_US`].
pub fn quota_us(millis: u64) -> u64 {
    (millis.saturating_mul(CPU_PERIOD_US) / 1000).max(CPU_QUOTA_US_MIN)
}

fn make_dirs(root: &Path, group: &Path) -> io::Result<()> {
    let mut level = root.to_owned();
    for part in group.components() {
        level.push(part);
        make_dir(&level)?;
    }
    Ok(())
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(path, error)),
        _ => Ok(()),
    }
}

fn set(group: &Path, file: &str, value: impl ToString) -> io::Result<()> {
    let path = group.join(file);
    fs::write(&path, value.to_string()).map_err(|error| at(&path, error))
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl CgroupPaths {
    /// Whether there is no group at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether they exist.
    pub fn exist(&self) -> bool {
        self.0.values().next().is_some_and(|path| path.is_dir())
    }

    /// The groups of this name directly below.
    pub fn child(&self, name: &str) -> Self {
        Self(self.0.iter().map(|(controller, path)| (controller.clone(), path.join(name))).collect())
    }

    /// Names of the groups directly below.
    pub fn children(&self) -> Vec<String> {
        let entries = self.0.values().next().map(|path| subgroups(path));
        let names = entries.into_iter().flatten();
        names.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
    }

    /// Removes the groups directly below whose names begin with `prefix`. What is still in use stays.
    pub fn remove_children(&self, prefix: &str) {
        let is_meant = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
        for path in self.0.values().flat_map(|path| subgroups(path)).filter(is_meant) {
            let _ = fs::remove_dir(path);
        }
    }

    fn controller(&self, name: &str) -> io::Result<&PathBuf> {
        self.0.get("").or_else(|| self.0.get(name)).ok_or_else(|| {
            let text = format!("controller `{name}` is not mounted");
            io::Error::new(io::ErrorKind::Unsupported, text)
        })
    }

    fn is_v2(&self) -> bool {
        self.0.contains_key("")
    }

    /// Changes what a container that runs in these groups gets, with those of its `pod`.
    ///
    /// A limit of memory that is already exceeded is rejected: the kernel would end the program for it.
    pub fn resize(&self, pod: &Self, resources: &ContainerResources) -> io::Result<()> {
        let used = self.memory_in_use();
        if let Some(bytes) = resources.limits.memory_bytes.filter(|bytes| *bytes < used) {
            let text = format!("attempting to set memory limit ({bytes}) below current usage ({used})");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        // Where more is given the pod comes first, where less the container: version 1 lets no quota exceed the one above it.
        let above = pod.set_pod(&resources.pod);
        self.set_limits(&resources.limits)?;
        self.set_shares(resources.requests.cpu_millis);
        above.or_else(|_| pod.set_pod(&resources.pod))
    }

    /// Bytes that the kernel could not take back by dropping what it has read from files.
    fn memory_in_use(&self) -> u64 {
        let (name, field) = if self.is_v2() { ("", "inactive_file") } else { ("memory", "total_inactive_file") };
        let text = self.0.get(name).and_then(|path| fs::read_to_string(path.join("memory.stat")).ok());
        self.stats().memory_bytes.saturating_sub(count(&text.unwrap_or_default(), field))
    }

    fn set_limits(&self, limits: &Limits) -> io::Result<()> {
        self.set_memory_and_cpu(limits.memory_bytes, limits.cpu_millis)?;
        if limits.memory_bytes.is_some() && self.is_v2() {
            // The program's helpers die with it, as the pod would.
            let _ = fs::write(self.controller("memory")?.join("memory.oom.group"), "1");
        }
        match limits.pids {
            Some(pids) => set(self.controller("pids")?, "pids.max", pids),
            None => Ok(()),
        }
    }

    /// What all containers of a pod may take together. Processes are counted where the kernel can.
    fn set_pod(&self, resources: &PodResources) -> io::Result<()> {
        self.set_memory_and_cpu(resources.memory_limit_bytes, resources.cpu_limit_millis)?;
        self.set_shares(resources.cpu_request_millis);
        if let (Some(pids), Ok(path)) = (resources.pids_max, self.controller("pids")) {
            let _ = fs::write(path.join("pids.max"), pids.to_string());
        }
        Ok(())
    }

    fn set_memory_and_cpu(&self, memory_bytes: Option<u64>, cpu_millis: Option<u64>) -> io::Result<()> {
        if let Some(bytes) = memory_bytes {
            let path = self.controller("memory")?;
            let (limit, swap, swap_bytes) = match self.is_v2() {
                true => ("memory.max", "memory.swap.max", 0),
                false => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", bytes),
            };
            if !self.is_v2() {
                // Memory and swap together must not be less than memory: it is raised before, and lowered after.
                let _ = fs::write(path.join(swap), swap_bytes.to_string());
            }
            set(path, limit, bytes)?;
            // Swap is accounted on some kernels only; where it is, it would soften the limit.
            let _ = fs::write(path.join(swap), swap_bytes.to_string());
        }
        if let Some(millis) = cpu_millis {
            let path = self.controller("cpu")?;
            if self.is_v2() {
                set(path, "cpu.max", format!("{} {CPU_PERIOD_US}", quota_us(millis)))?;
            } else {
                set(path, "cpu.cfs_period_us", CPU_PERIOD_US)?;
                set(path, "cpu.cfs_quota_us", quota_us(millis))?;
            }
        }
        Ok(())
    }

    /// Of what nobody is promised anything the kernel's lowest weight is right. Without the controller all are equal.
    fn set_shares(&self, cpu_millis: Option<u64>) {
        let shares = shares(cpu_millis.unwrap_or(0));
        self.write_shares(if self.is_v2() { weight(shares) } else { shares });
    }

    fn write_shares(&self, shares: u64) {
        if let Ok(path) = self.controller("cpu") {
            let file = if self.is_v2() { "cpu.weight" } else { "cpu.shares" };
            let _ = fs::write(path.join(file), shares.to_string());
        }
    }

    /// Moves a process into the groups. What it starts from then on is in them, too.
    pub fn join(&self, pid: i32) -> io::Result<()> {
        self.0.values().try_for_each(|path| set(path, "cgroup.procs", pid))
    }

    /// Moves this process, which must have one thread only, into the groups.
    ///
    /// A kernel that moves another process, or one of several threads, first waits until nobody on any processor is about to fork or
    /// to end: some 10 ms of the start of a container. A thread that moves itself need not wait (Linux 5.13, version 1).
    pub fn enter(&self) -> io::Result<()> {
        let file = if self.is_v2() { "cgroup.procs" } else { "tasks" };
        self.0.values().try_for_each(|path| set(path, file, 0))
    }

    /// Whether all of them are the groups of this container. What was read from a disk is not believed before it is: its groups
    /// are killed.
    pub fn are_of(&self, parent: &str, id: &ContainerId) -> bool {
        let group = group(parent, id);
        self.0
            .values()
            .all(|path| path.ends_with(&group) && path.components().all(|part| part != std::path::Component::ParentDir))
    }

    /// Kills everything in the groups; `false` when something was still there after a second of trying.
    pub fn kill_all(&self) -> bool {
        let Some(path) = self.0.values().next() else { return true };
        if fs::write(path.join("cgroup.kill"), "1").is_err() && !path.exists() {
            return true;
        }
        // What forks without end would always have a process that is not on the list yet.
        let forks = self.controller("pids").map(|path| path.join("pids.max")).ok();
        let limit = forks.as_ref().and_then(|forks| fs::read_to_string(forks).ok());
        if let Some(forks) = &forks {
            let _ = fs::write(forks, "0");
        }
        let killed = self.kill_listed();
        if let (Some(forks), Some(limit)) = (forks, limit) {
            // The group may be used again.
            let _ = fs::write(forks, limit.trim());
        }
        killed
    }

    fn kill_listed(&self) -> bool {
        for _ in 0..100 {
            let pids = self.pids();
            if pids.is_empty() {
                return true;
            }
            for pid in pids {
                crate::sys::kill(pid, libc::SIGKILL);
            }
            // The kernel gives no sign on version 1 that a group has become empty.
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    fn pids(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        if let Some(path) = self.0.values().next() {
            collect_pids(path, DEPTH_MAX, &mut pids);
        }
        pids
    }

    /// Whether the kernel has killed something in the group for want of memory.
    pub fn oom_killed(&self) -> bool {
        let file = |name: &str, file: &str| {
            self.0.get(name).and_then(|path| fs::read_to_string(path.join(file)).ok()).unwrap_or_default()
        };
        count(&file("", "memory.events"), "oom_kill") > 0
            || count(&file("memory", "memory.oom_control"), "oom_kill") > 0
    }

    /// What the group uses; zero for what no controller counts.
    pub fn stats(&self) -> ContainerStats {
        let read = |name: &str, file: &str| {
            self.0.get(name).and_then(|path| fs::read_to_string(path.join(file)).ok()).unwrap_or_default()
        };
        let number = |text: String| text.trim().parse().unwrap_or(0);
        let (cpu_nanos, memory_bytes, pids, memory, prefix) = match self.is_v2() {
            true => (
                count(&read("", "cpu.stat"), "usage_usec").saturating_mul(1000),
                number(read("", "memory.current")),
                number(read("", "pids.current")),
                read("", "memory.stat"),
                "",
            ),
            // What is below the group counts as well, under names of its own.
            false => (
                number(read("cpuacct", "cpuacct.usage")),
                number(read("memory", "memory.usage_in_bytes")),
                number(read("pids", "pids.current")),
                read("memory", "memory.stat"),
                "total_",
            ),
        };
        let of_memory = |name: &str| count(&memory, &format!("{prefix}{name}"));
        ContainerStats {
            cpu_nanos,
            memory_bytes,
            working_set_bytes: memory_bytes.saturating_sub(of_memory("inactive_file")),
            rss_bytes: of_memory(if self.is_v2() { "anon" } else { "rss" }),
            page_faults: of_memory("pgfault"),
            major_page_faults: of_memory("pgmajfault"),
            pids,
        }
    }

    /// Removes the groups, and the pod's when this was its last container. What is still in use stays.
    pub fn remove(&self) {
        for path in self.0.values() {
            let _ = fs::remove_dir(path);
            if let Some(pod) = path.parent() {
                let _ = fs::remove_dir(pod);
            }
        }
    }

    /// Removes the groups and all below them. What is still in use stays.
    pub fn remove_all(&self) {
        self.0.values().for_each(|path| remove_below(path, DEPTH_MAX));
    }
}

fn subgroups(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn collect_pids(path: &Path, depth: usize, pids: &mut Vec<i32>) {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    if depth > 0 {
        subgroups(path).iter().for_each(|below| collect_pids(below, depth - 1, pids));
    }
}

fn remove_below(path: &Path, depth: usize) {
    if depth > 0 {
        subgroups(path).iter().for_each(|below| remove_below(below, depth - 1));
    }
    let _ = fs::remove_dir(path);
}

/// The number after `name` in a file of `name number` lines.
fn count(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .map_or(0, |(_, value)| value.trim().parse().unwrap_or(0))
}

#[cfg(test)]
mod tests;
