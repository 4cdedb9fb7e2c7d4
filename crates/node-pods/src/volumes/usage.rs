//! How much is in the volumes on disk that have a limit.
//!
//! What is in a volume is its containers': a directory may be a link by the time it is opened. So each is opened without following
//! links, and read by its descriptor.

use std::collections::BTreeSet;
use std::fs::ReadDir;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::model::{Pod, Quantity};

/// Directories within directories; a volume that has more is not measured below.
const DEPTH_MAX: usize = 256;

/// The volumes of a pod that are to be measured, with their limits. Those in memory are limited by what they are.
fn limited(pod: &Pod) -> impl Iterator<Item = (&str, &Quantity, u64)> {
    pod.spec.volumes.iter().filter_map(|volume| {
        let empty_dir = volume.empty_dir.as_ref().filter(|empty_dir| empty_dir.medium != "Memory")?;
        let limit = empty_dir.size_limit.as_ref()?;
        Some((volume.name.as_str(), limit, limit.units().filter(|bytes| *bytes > 0)?))
    })
}

pub(crate) fn has_limits(pod: &Pod) -> bool {
    limited(pod).next().is_some()
}

/// What a volume of the pod has too much, in Kubernetes' words. What cannot be read counts nothing.
pub(crate) fn excess(pod: &Pod, pod_dir: &Path) -> Option<String> {
    limited(pod).find_map(|(name, limit, bytes_max)| {
        let bytes = bytes_in(&pod_dir.join(".volumes").join(name), bytes_max);
        (bytes > bytes_max)
            .then(|| format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{}\". ", text(limit)))
    })
}

fn text(quantity: &Quantity) -> String {
    match quantity {
        Quantity::Text(text) => text.clone(),
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
        assert_eq!(excess(&pod, dir.path()), None);
        std::fs::write(volume("small").join("a/b/more"), vec![1; 40_000]).unwrap();
        let expected = "Usage of EmptyDir volume \"small\" exceeds the limit \"64Ki\". ";
        assert_eq!(excess(&pod, dir.path()).as_deref(), Some(expected));
    }
}
