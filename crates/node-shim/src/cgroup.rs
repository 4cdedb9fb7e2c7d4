//! Control groups, version 2 and version 1: limits, killing all, whether memory ran out, what is used.
//!
//! A container's group is `<parent>/<pod uid>/<container>_<attempt>`, under the root of the hierarchy and not under the
//! kubelet's own group, so that stopping the kubelet's service does not stop its containers. (A service manager
//! that kills by group must still leave the shims alone: `KillMode=process`.)

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{ContainerId, ContainerStats, Limits};

/// The kernel's default period; quotas are per period.
const CPU_PERIOD_US: u64 = 100_000;

/// Smallest quota the kernel takes.
const CPU_QUOTA_US_MIN: u64 = 1_000;

/// How often the groups of a container are made when those above it go meanwhile.
const CREATE_TRIES: usize = 4;

/// Controllers of version 1 that we use.
const V1_CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "cpuacct"];

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

/// A container's groups; one path for version 2 (`""`), one per controller for version 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CgroupPaths(BTreeMap<String, PathBuf>);

impl Hierarchy {
    /// Reads `/proc/mounts`. Without root's rights the group we are in may be delegated to us.
    pub fn detect(is_root: bool) -> Self {
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
        let group = group(parent, id);
        match self {
            Self::V2 { base } => CgroupPaths(BTreeMap::from([(String::new(), base.join(group))])),
            Self::V1 { mounts } => {
                CgroupPaths(mounts.iter().map(|(name, mount)| (name.clone(), mount.join(&group))).collect())
            }
            Self::Absent => CgroupPaths::default(),
        }
    }

    /// Makes the container's groups with their limits. What was made is removed again when a later step fails.
    pub fn create(&self, parent: &str, id: &ContainerId, limits: &Limits) -> io::Result<CgroupPaths> {
        self.create_group(&group(parent, id), limits)
    }

    /// Makes a group by its path under the hierarchy's root, as [`create`](Self::create) does.
    pub fn create_group(&self, group: &Path, limits: &Limits) -> io::Result<CgroupPaths> {
        let mut tries_left = CREATE_TRIES;
        loop {
            tries_left -= 1;
            let mut made = CgroupPaths::default();
            let result = match self {
                Self::V2 { base } => create_v2(base, group, limits, &mut made),
                Self::V1 { mounts } => create_v1(mounts, group, limits, &mut made),
                Self::Absent => {
                    Err(io::Error::new(io::ErrorKind::Unsupported, "no control group hierarchy is mounted"))
                }
            };
            match result {
                Ok(()) => return Ok(made),
                // The pod's last other container has just ended and took the pod's group along.
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries_left > 0 => made.remove(),
                Err(error) => {
                    made.remove();
                    return Err(error);
                }
            }
        }
    }
}

impl Hierarchy {
    /// Removes the groups directly below `parent` that are older than `age` and that nothing is in any more.
    pub fn remove_empty_below(&self, parent: &Path, age: Duration) {
        let bases: Vec<&PathBuf> = match self {
            Self::V2 { base } => vec![base],
            Self::V1 { mounts } => mounts.values().collect(),
            Self::Absent => Vec::new(),
        };
        for entry in bases.into_iter().flat_map(|base| fs::read_dir(base.join(parent))).flatten().flatten() {
            let modified = entry.metadata().and_then(|meta| meta.modified());
            if modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|elapsed| elapsed > age)) {
                // The kernel refuses while something is in it, and files of a group cannot be removed at all.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

fn group(parent: &str, id: &ContainerId) -> PathBuf {
    Path::new(parent).join(&id.pod_uid).join(format!("{}_{}", id.container, id.attempt))
}

fn create_v2(base: &Path, group: &Path, limits: &Limits, made: &mut CgroupPaths) -> io::Result<()> {
    let path = base.join(group);
    let mut level = base.to_owned();
    for part in group.components() {
        // What is not available here fails only when a limit needs it, below.
        for controller in ["+memory", "+pids", "+cpu"] {
            let _ = fs::write(level.join("cgroup.subtree_control"), controller);
        }
        level.push(part);
        make_dir(&level)?;
    }
    made.0.insert(String::new(), path.clone());
    if let Some(bytes) = limits.memory_bytes {
        set(&path, "memory.max", bytes)?;
        let _ = fs::write(path.join("memory.swap.max"), "0");
        // The program's helpers die with it, as the pod would.
        let _ = fs::write(path.join("memory.oom.group"), "1");
    }
    if let Some(pids) = limits.pids {
        set(&path, "pids.max", pids)?;
    }
    if let Some(millis) = limits.cpu_millis {
        set(&path, "cpu.max", format!("{} {CPU_PERIOD_US}", quota_us(millis)))?;
    }
    Ok(())
}

fn create_v1(
    mounts: &BTreeMap<String, PathBuf>,
    group: &Path,
    limits: &Limits,
    made: &mut CgroupPaths,
) -> io::Result<()> {
    let is_needed = |name: &str| match name {
        "memory" => limits.memory_bytes.is_some(),
        "pids" => limits.pids.is_some(),
        "cpu" => limits.cpu_millis.is_some(),
        _ => false,
    };
    for name in V1_CONTROLLERS {
        match mounts.get(name) {
            Some(mount) => {
                let path = mount.join(group);
                make_dirs(mount, group)?;
                made.0.insert(name.to_owned(), path);
            }
            None if is_needed(name) => {
                let text = format!("controller `{name}` is not mounted");
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
            None => {}
        }
    }
    if let (Some(bytes), Some(path)) = (limits.memory_bytes, made.0.get("memory")) {
        set(path, "memory.limit_in_bytes", bytes)?;
        // Swap is accounted on some kernels only; where it is, it would soften the limit.
        let _ = fs::write(path.join("memory.memsw.limit_in_bytes"), bytes.to_string());
    }
    if let (Some(pids), Some(path)) = (limits.pids, made.0.get("pids")) {
        set(path, "pids.max", pids)?;
    }
    if let (Some(millis), Some(path)) = (limits.cpu_millis, made.0.get("cpu")) {
        set(path, "cpu.cfs_period_us", CPU_PERIOD_US)?;
        set(path, "cpu.cfs_quota_us", quota_us(millis))?;
    }
    Ok(())
}

fn quota_us(millis: u64) -> u64 {
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

    /// Moves a process into the groups. What it starts from then on is in them, too.
    pub fn join(&self, pid: i32) -> io::Result<()> {
        self.0.values().try_for_each(|path| set(path, "cgroup.procs", pid))
    }

    /// Kills everything in the groups; `false` when something was still there after a second of trying.
    pub fn kill_all(&self) -> bool {
        let Some(path) = self.0.values().next() else { return true };
        if fs::write(path.join("cgroup.kill"), "1").is_err() && !path.exists() {
            return true;
        }
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
        let text = self.0.values().next().and_then(|path| fs::read_to_string(path.join("cgroup.procs")).ok());
        text.unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
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
        if self.0.contains_key("") {
            return ContainerStats {
                cpu_nanos: count(&read("", "cpu.stat"), "usage_usec") * 1000,
                memory_bytes: number(read("", "memory.current")),
                pids: number(read("", "pids.current")),
            };
        }
        ContainerStats {
            cpu_nanos: number(read("cpuacct", "cpuacct.usage")),
            memory_bytes: number(read("memory", "memory.usage_in_bytes")),
            pids: number(read("pids", "pids.current")),
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
