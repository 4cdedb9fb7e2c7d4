//! A sample as `/stats/summary` has it: upstream's `stats/v1alpha1`.

use std::collections::BTreeMap;

use node_client::seconds;
use node_pods::DirUsage;
use serde_json::{Map, Value, json};

use super::{ContainerSample, Disk, Interface, PodDisk, PodSample, Sample, Usage};

/// Where upstream says that container roots are.
pub(crate) struct Disks<'a> {
    /// What pods have on the disk, by uid.
    pub of_pods: &'a BTreeMap<String, PodDisk>,
    /// The disk of the images, and what they take of it.
    pub images: Option<(Disk, u64)>,
}

/// The whole summary.
pub(crate) fn summary(node: &str, sample: &Sample, disks: &Disks<'_>) -> Value {
    let pods: Vec<Value> =
        sample.pods.iter().filter(|pod| !pod.outline.is_over).map(|one| pod(one, sample, disks)).collect();
    json!({"node": of_node(node, sample, disks), "pods": pods})
}

/// CPU and memory alone, for whoever asks for no more.
pub(crate) fn cpu_and_memory_only(summary: &mut Value) {
    let keep = |value: &mut Value, kept: &[&str]| {
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|name, _| kept.contains(&name.as_str()));
        }
    };
    if let Some(node) = summary.get_mut("node") {
        keep(node, &["nodeName", "startTime", "cpu", "memory"]);
    }
    for pod in summary.get_mut("pods").and_then(Value::as_array_mut).into_iter().flatten() {
        keep(pod, &["podRef", "startTime", "containers", "cpu", "memory"]);
        for container in pod.get_mut("containers").and_then(Value::as_array_mut).into_iter().flatten() {
            keep(container, &["name", "startTime", "cpu", "memory"]);
        }
    }
}

fn of_node(name: &str, sample: &Sample, disks: &Disks<'_>) -> Value {
    let figures = &sample.node;
    let time = seconds(sample.time);
    let memory = figures.memory;
    let mut node = Map::new();
    node.insert("nodeName".to_owned(), name.into());
    if let Some(start) = figures.boot_time {
        node.insert("startTime".to_owned(), seconds(start).into());
    }
    node.insert("cpu".to_owned(), cpu(&time, figures.cpu_nanos, sample.nano_cores));
    let of_memory = json!({
        "time": time,
        // As upstream counts it, which is less than what the kernel says is available.
        "availableBytes": memory.total_bytes.saturating_sub(memory.working_set_bytes),
        "usageBytes": memory.usage_bytes,
        "workingSetBytes": memory.working_set_bytes,
        "rssBytes": memory.rss_bytes,
        "pageFaults": memory.page_faults,
        "majorPageFaults": memory.major_page_faults,
    });
    node.insert("memory".to_owned(), of_memory);
    node.insert("network".to_owned(), network(&time, &figures.network, figures.uplink.as_deref()));
    if let Some(disk) = figures.disk {
        node.insert("fs".to_owned(), fs(&time, &disk, disk.used_bytes, disk.inodes.saturating_sub(disk.inodes_free)));
    }
    if let Some((disk, used_bytes)) = disks.images {
        let of_images = fs(&time, &disk, used_bytes, disk.inodes.saturating_sub(disk.inodes_free));
        node.insert("runtime".to_owned(), json!({"imageFs": of_images}));
    }
    let rlimit = json!({"time": time, "maxpid": figures.processes_max, "curproc": figures.processes});
    node.insert("rlimit".to_owned(), rlimit);
    Value::Object(node)
}

fn pod(pod: &PodSample, sample: &Sample, disks: &Disks<'_>) -> Value {
    let (outline, time) = (&pod.outline, seconds(sample.time));
    let disk = sample.node.disk.unwrap_or_default();
    let used = disks.of_pods.get(&outline.uid);
    let containers: Vec<Value> = pod.containers.iter().map(|one| container(one, &time, &disk, used)).collect();
    let mut value = Map::new();
    let reference = json!({"name": outline.name, "namespace": outline.namespace, "uid": outline.uid});
    value.insert("podRef".to_owned(), reference);
    if let Some(start) = outline.start_time.or_else(|| pod.containers.iter().map(|one| one.started_at).min()) {
        value.insert("startTime".to_owned(), seconds(start).into());
    }
    value.insert("containers".to_owned(), containers.into());
    add_usage(&mut value, &time, pod.usage);
    if !pod.network.is_empty() {
        value.insert("network".to_owned(), network(&time, &pod.network, None));
    }
    if let Some(used) = used {
        let volumes: Vec<Value> = used
            .volumes
            .iter()
            .map(|(name, usage)| {
                let mut volume = of_dir(&time, &disk, *usage);
                node_client::set_field(&mut volume, "name", name.clone());
                volume
            })
            .collect();
        if !volumes.is_empty() {
            value.insert("volume".to_owned(), volumes.into());
        }
        value.insert("ephemeral-storage".to_owned(), of_dir(&time, &disk, used.total()));
    }
    if let Some(usage) = pod.usage {
        value.insert("process_stats".to_owned(), json!({"process_count": usage.stats.pids}));
    }
    Value::Object(value)
}

fn container(container: &ContainerSample, time: &str, disk: &Disk, used: Option<&PodDisk>) -> Value {
    let mut value = Map::new();
    value.insert("name".to_owned(), container.id.container.clone().into());
    value.insert("startTime".to_owned(), seconds(container.started_at).into());
    add_usage(&mut value, time, container.usage);
    if let Some((root, logs)) = used.and_then(|used| used.containers.get(&container.id.container)) {
        value.insert("rootfs".to_owned(), of_dir(time, disk, *root));
        value.insert("logs".to_owned(), of_dir(time, disk, *logs));
    }
    Value::Object(value)
}

fn add_usage(value: &mut Map<String, Value>, time: &str, usage: Option<Usage>) {
    let Some(Usage { stats, nano_cores }) = usage else { return };
    value.insert("cpu".to_owned(), cpu(time, stats.cpu_nanos, nano_cores));
    let memory = json!({
        "time": time,
        "usageBytes": stats.memory_bytes,
        "workingSetBytes": stats.working_set_bytes,
        "rssBytes": stats.rss_bytes,
        "pageFaults": stats.page_faults,
        "majorPageFaults": stats.major_page_faults,
    });
    value.insert("memory".to_owned(), memory);
}

fn cpu(time: &str, nanos: u64, nano_cores: Option<u64>) -> Value {
    let mut cpu = json!({"time": time, "usageCoreNanoSeconds": nanos});
    if let Some(nano_cores) = nano_cores {
        node_client::set_field(&mut cpu, "usageNanoCores", nano_cores);
    }
    cpu
}

/// The first is the one that is meant when nobody says which, as upstream has it.
fn network(time: &str, interfaces: &[Interface], default: Option<&str>) -> Value {
    let one = |interface: &Interface| {
        json!({
            "name": interface.name, "rxBytes": interface.rx_bytes, "rxErrors": interface.rx_errors,
            "txBytes": interface.tx_bytes, "txErrors": interface.tx_errors,
        })
    };
    let chosen = interfaces.iter().find(|interface| Some(interface.name.as_str()) == default).or(interfaces.first());
    let mut network = chosen.map_or_else(|| json!({}), one);
    node_client::set_field(&mut network, "time", time);
    node_client::set_field(&mut network, "interfaces", interfaces.iter().map(one).collect::<Vec<_>>());
    network
}

fn fs(time: &str, disk: &Disk, used_bytes: u64, inodes_used: u64) -> Value {
    json!({
        "time": time,
        "availableBytes": disk.available_bytes, "capacityBytes": disk.capacity_bytes, "usedBytes": used_bytes,
        "inodesFree": disk.inodes_free, "inodes": disk.inodes, "inodesUsed": inodes_used,
    })
}

fn of_dir(time: &str, disk: &Disk, usage: DirUsage) -> Value {
    fs(time, disk, usage.bytes, usage.inodes)
}
