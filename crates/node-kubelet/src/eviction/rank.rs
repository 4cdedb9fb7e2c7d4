//! Which pod is to end first, and what is said of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::thresholds::{Signal, Threshold};
use crate::stats::{PodDisk, PodSample};

/// What one pod uses of something, and what it was promised of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Use {
    used: u64,
    promised: u64,
}

/// Puts those first that are to end first: whoever uses more than it was promised, then the least important, then whoever uses most
/// beyond that. Nobody is promised inodes or process ids.
pub(crate) fn sort(pods: &mut [&PodSample], disks: &BTreeMap<String, PodDisk>, signal: Signal) {
    pods.sort_by_cached_key(|pod| {
        let Use { used, promised } = of_pod(pod, disks, signal);
        let beyond = used.saturating_sub(promised);
        let under = promised.saturating_sub(used);
        let within = matches!(signal, Signal::MemoryAvailable | Signal::NodeFsAvailable | Signal::ImageFsAvailable)
            && beyond == 0;
        (within, pod.outline.priority, std::cmp::Reverse(beyond), under, pod.outline.uid.clone())
    });
}

fn of_pod(pod: &PodSample, disks: &BTreeMap<String, PodDisk>, signal: Signal) -> Use {
    let stats = pod.usage.unwrap_or_default().stats;
    let disk = disks.get(&pod.outline.uid).map(PodDisk::total).unwrap_or_default();
    let (used, promised): (u64, u64) = match signal {
        Signal::MemoryAvailable => {
            (stats.working_set_bytes, pod.outline.containers.iter().map(|one| one.memory_request_bytes).sum())
        }
        Signal::NodeFsAvailable | Signal::ImageFsAvailable => {
            (disk.bytes, pod.outline.containers.iter().map(|one| one.storage_request_bytes).sum())
        }
        Signal::NodeFsInodesFree => (disk.inodes, 0),
        Signal::PidAvailable => (stats.pids, 0),
    };
    Use { used, promised }
}

/// Why a pod was evicted, in upstream's words: the containers are named that use more than they were promised.
pub(crate) fn message(threshold: &Threshold, pod: &PodSample, disks: &BTreeMap<String, PodDisk>) -> String {
    let (signal, mut text) = (threshold.signal, threshold.to_string());
    let disk = disks.get(&pod.outline.uid);
    for container in &pod.outline.containers {
        let Use { used, promised } = match signal {
            Signal::MemoryAvailable => {
                let sample = pod.containers.iter().find(|sample| sample.id.container == container.name);
                let used = sample.and_then(|sample| sample.usage).unwrap_or_default().stats.working_set_bytes;
                Use { used, promised: container.memory_request_bytes }
            }
            Signal::NodeFsAvailable | Signal::ImageFsAvailable => {
                let of_container = disk.and_then(|disk| disk.containers.get(&container.name));
                let used = of_container.map_or(0, |(root, logs)| root.bytes + logs.bytes);
                Use { used, promised: container.storage_request_bytes }
            }
            Signal::NodeFsInodesFree | Signal::PidAvailable => continue,
        };
        if used > promised {
            // A String takes whatever is written.
            let _ = write!(
                text,
                "Container {} was using {}, request is {}, has larger consumption of {}. ",
                container.name,
                signal.quantity(used),
                signal.quantity(promised),
                signal.resource()
            );
        }
    }
    text
}
