//! How much a pod has on the disk, where that has a limit: in a volume, or in all of its volumes, its logs and what its containers have
//! written into their images.
//!
//! What is in a volume is its containers': a directory may be a link by the time it is opened. So each is opened without following
//! links, and read by its descriptor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::ReadDir;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::admission;
use crate::model::{Container, Pod, Quantity};

/// Directories within directories; a volume that has more is not measured below.
const DEPTH_MAX: usize = 256;

/// The resource of which a pod's files take.
const STORAGE: &str = "ephemeral-storage";

/// The volumes of a pod on the disk, with the limits of those that have one. Those in memory are limited by what they are.
fn volumes(pod: &Pod) -> impl Iterator<Item = (&str, Option<(&Quantity, u64)>)> {
    pod.spec.volumes.iter().filter_map(|volume| {
        let empty_dir = volume.empty_dir.as_ref().filter(|empty_dir| empty_dir.medium != "Memory")?;
        let limit = empty_dir.size_limit.as_ref();
        let bytes_max = limit.and_then(Quantity::units).filter(|bytes| *bytes > 0);
        Some((volume.name.as_str(), limit.zip(bytes_max)))
    })
}

fn limit_of(container: &Container) -> Option<&Quantity> {
    container.resources.limits.get(STORAGE)
}

/// What the pod may have on the disk, when one of its containers has a limit: those without one add nothing, as upstream counts.
fn limit_of_all(pod: &Pod) -> Option<(u64, String)> {
    let units = |limit: Option<&Quantity>| limit.and_then(Quantity::units).unwrap_or(0);
    let mut limits = pod.all_containers().filter_map(limit_of).filter_map(Quantity::amount).peekable();
    let first = *limits.peek()?;
    let first = limits.find(|limit| !limit.is_zero()).unwrap_or(first);
    let bytes_max = admission::total(pod, |container| units(limit_of(container)));
    // There and back again: the sum is written in the family of suffixes of the first.
    let sum = api_kube::Quantity::from_units(i64::try_from(bytes_max).unwrap_or(i64::MAX));
    Some((bytes_max, first.saturating_add(sum).saturating_sub(first).to_string()))
}

/// Whether the pod is to be measured. Critical ones are not evicted, whatever they have.
pub(crate) fn has_limits(pod: &Pod) -> bool {
    let is_limited = volumes(pod).any(|(_, limit)| limit.is_some()) || limit_of_all(pod).is_some();
    is_limited && !pod.is_critical()
}

/// What the pod has too much on the disk, in Kubernetes' words: `written` is where what each of its containers has written into its
/// image is. What cannot be read counts nothing.
pub(crate) fn excess(pod: &Pod, pod_dir: &Path, written: &BTreeMap<String, PathBuf>) -> Option<String> {
    let volume_dir = |name: &str| pod_dir.join(".volumes").join(name);
    let of_volume = volumes(pod).find_map(|(name, limit)| {
        let (limit, bytes_max) = limit?;
        let bytes = bytes_in(&volume_dir(name), bytes_max);
        (bytes > bytes_max)
            .then(|| format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{}\". ", text(limit)))
    });
    if of_volume.is_some() {
        return of_volume;
    }
    let (bytes_max, shown) = limit_of_all(pod)?;
    // No container's limit is beyond that of all, so what is more than this need not be counted.
    let mut left = bytes_max;
    let mut take = |dir: &Path| {
        let bytes = bytes_in(dir, left);
        left = left.checked_sub(bytes)?;
        Some(bytes)
    };
    let of_pod = || format!("Pod ephemeral local storage usage exceeds the total limit of containers {shown}. ");
    let mut of_container = None;
    for (name, _) in volumes(pod) {
        if take(&volume_dir(name)).is_none() {
            return Some(of_pod());
        }
    }
    for container in pod.every_container() {
        let logs = take(&pod_dir.join(&container.name));
        let image = written.get(&container.name).map_or(Some(0), |dir| take(dir));
        let Some((logs, image)) = logs.zip(image) else { return Some(of_pod()) };
        let limit = limit_of(container).filter(|_| pod.spec.containers.iter().any(|one| one.name == container.name));
        if let Some(limit) = limit
            && limit.units().is_some_and(|bytes_max| bytes_max > 0 && logs + image > bytes_max)
        {
            let (name, limit) = (&container.name, text(limit));
            let said = || format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". ");
            of_container.get_or_insert_with(said);
        }
    }
    of_container
}

/// As it is written in canonical form.
fn text(quantity: &Quantity) -> String {
    match quantity {
        Quantity::Text(text) => quantity.amount().map_or_else(|| text.clone(), |amount| amount.to_string()),
        Quantity::Number(number) => number.to_string(),
    }
}

/// What is below a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirUsage {
    /// Bytes of the disk.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

impl std::ops::Add for DirUsage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, inodes: self.inodes + other.inodes }
    }
}

/// What is below `dir`, which may be anybody's: links are not followed. Reading ends after `inodes_max` of them; what cannot be read
/// counts nothing. It waits for the disk.
pub fn dir_usage(dir: &Path, inodes_max: u64) -> DirUsage {
    measure(dir, u64::MAX, inodes_max)
}

/// What the files below `dir` take of the disk; reading ends once it is more than `bytes_max`.
fn bytes_in(dir: &Path, bytes_max: u64) -> u64 {
    measure(dir, bytes_max, u64::MAX).bytes
}

fn measure(dir: &Path, bytes_max: u64, inodes_max: u64) -> DirUsage {
    let (mut usage, mut seen) = (DirUsage::default(), BTreeSet::new());
    let mut open: Vec<(OwnedFd, ReadDir)> = read_dir(dir).into_iter().collect();
    while let Some((_, entries)) = open.last_mut() {
        let Some(entry) = entries.next() else {
            open.pop();
            continue;
        };
        // It may be deleted by now.
        let Some((path, meta)) = entry.ok().and_then(|entry| Some((entry.path(), entry.metadata().ok()?))) else {
            continue;
        };
        if meta.nlink() < 2 || meta.is_dir() || seen.insert((meta.dev(), meta.ino())) {
            usage.bytes += meta.blocks() * 512;
            usage.inodes += 1;
        }
        if usage.bytes > bytes_max || usage.inodes >= inodes_max {
            break;
        }
        if meta.is_dir() && open.len() < DEPTH_MAX {
            open.extend(read_dir(&path));
        }
    }
    usage
}

/// The entries' paths lead through the descriptor, so it is kept open as long as they are read.
fn read_dir(path: &Path) -> io::Result<(OwnedFd, ReadDir)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    let entries = std::fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    Ok((directory, entries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_volume_that_holds_more_than_its_limit_is_named_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let pod: Pod = serde_json::from_value(json!({"spec": {"volumes": [
            {"name": "free", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1"}},
            {"name": "small", "emptyDir": {"sizeLimit": "64Ki"}},
        ]}}))
        .unwrap();
        assert!(has_limits(&pod));
        let volume = |name: &str| dir.path().join(".volumes").join(name);
        for name in ["free", "memory", "small"] {
            std::fs::create_dir_all(volume(name).join("a/b")).unwrap();
        }
        for name in ["free", "memory"] {
            std::fs::write(volume(name).join("a/b/c"), vec![1; 200_000]).unwrap();
        }
        // What is in another place does not count, nor does one file twice.
        std::os::unix::fs::symlink(volume("free"), volume("small").join("link")).unwrap();
        std::fs::write(volume("small").join("one"), vec![1; 30_000]).unwrap();
        for number in 0..5 {
            std::fs::hard_link(volume("small").join("one"), volume("small").join(number.to_string())).unwrap();
        }
        assert_eq!(excess(&pod, dir.path(), &BTreeMap::new()), None);
        std::fs::write(volume("small").join("a/b/more"), vec![1; 40_000]).unwrap();
        let expected = "Usage of EmptyDir volume \"small\" exceeds the limit \"64Ki\". ";
        assert_eq!(excess(&pod, dir.path(), &BTreeMap::new()).as_deref(), Some(expected));
    }

    /// A pod of two containers with these limits of storage, and a volume.
    fn pod_of(limits: [Option<&str>; 2]) -> Pod {
        let container = |name: &str, limit: Option<&str>| {
            let limits = limit.map_or_else(|| json!({}), |limit| json!({"ephemeral-storage": limit}));
            json!({"name": name, "resources": {"limits": limits}})
        };
        serde_json::from_value(json!({"spec": {
            "initContainers": [{"name": "before"}],
            "containers": [container("a", limits[0]), container("b", limits[1])],
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}],
        }}))
        .unwrap()
    }

    #[test]
    fn all_that_a_pod_has_on_the_disk_counts_against_the_limits_of_its_containers() {
        let dir = tempfile::tempdir().unwrap();
        let write = |place: &str, bytes: usize| {
            let place = dir.path().join(place);
            std::fs::create_dir_all(&place).unwrap();
            std::fs::write(place.join("file"), vec![1; bytes]).unwrap();
        };
        let written: BTreeMap<String, PathBuf> =
            ["a", "b"].map(|name| (name.to_owned(), dir.path().join("upper").join(name))).into();
        let check = |limits: [Option<&str>; 2], expected: Option<&str>| {
            let found = excess(&pod_of(limits), dir.path(), &written);
            assert_eq!(found.as_deref(), expected, "{limits:?}");
        };
        write(".volumes/data", 200_000);
        write(".volumes/memory", 900_000);
        write("a", 100_000);
        write("upper/a", 300_000);
        write("before", 100_000);
        check([None, None], None);
        check([Some("2M"), None], None);
        check([Some("500k"), Some("1500k")], None);
        // The volume is nobody's of them, and what an init container has said is the pod's.
        let exceeded =
            |limit: &str| format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ");
        check([Some("600k"), None], Some(&exceeded("600k")));
        check([None, Some("0.5Mi")], Some(&exceeded("512Ki")));
        check([Some("300Ki"), Some("340Ki")], Some(&exceeded("640Ki")));
        let of_a = "Container a exceeded its local ephemeral storage limit \"350k\". ";
        check([Some("350000"), Some("5M")], Some(of_a));
        // A limit of nothing is none of a container, and keeps the pod from having anything.
        check([Some("0"), Some("5M")], None);
        check([Some("0"), Some("1Ki")], Some(&exceeded("1Ki")));
        check([Some("0"), None], Some(&exceeded("0")));
    }

    #[test]
    fn a_critical_pod_is_not_measured() {
        let mut pod = pod_of([Some("1"), None]);
        assert!(has_limits(&pod) && !has_limits(&pod_of([None, None])));
        pod.spec.priority = 2_000_000_000;
        assert!(!has_limits(&pod));
    }
}
