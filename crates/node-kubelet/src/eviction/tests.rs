use api_kube::QosClass;
use jiff::Timestamp;
use node_pods::{ContainerOutline, DirUsage, PodOutline};
use node_runtime::{ContainerId, ContainerStats};

use super::*;
use crate::stats::{ContainerSample, Disk, NodeFigures, Usage};

const MIB: u64 = 1 << 20;

fn usage(working_set_bytes: u64, pids: u64) -> Option<Usage> {
    Some(Usage { stats: ContainerStats { working_set_bytes, pids, ..ContainerStats::default() }, nano_cores: None })
}

fn pod(name: &str, priority: i32, used: u64, promised: u64) -> PodSample {
    let container =
        ContainerOutline { name: "a".to_owned(), memory_request_bytes: promised, storage_request_bytes: promised };
    let outline = PodOutline {
        uid: name.to_owned(),
        namespace: "d".to_owned(),
        name: name.to_owned(),
        start_time: None,
        priority,
        is_critical: false,
        qos: QosClass::Burstable,
        containers: vec![container],
        disk_volumes: Vec::new(),
        is_over: false,
        is_failed: false,
        dir: PathBuf::new(),
        runtime: None,
    };
    let container = ContainerSample {
        id: ContainerId { pod_uid: name.to_owned(), container: "a".to_owned(), attempt: 0 },
        image: String::new(),
        started_at: Timestamp::UNIX_EPOCH,
        usage: usage(used, 1),
    };
    PodSample { outline, usage: usage(used, used / MIB), network: Vec::new(), containers: vec![container] }
}

fn order(mut pods: Vec<PodSample>, signal: Signal) -> Vec<String> {
    let disk = |pod: &PodSample| {
        let bytes = pod.usage.unwrap().stats.working_set_bytes;
        let of_container = (DirUsage { bytes, inodes: bytes / MIB * 100 }, DirUsage::default());
        (pod.outline.uid.clone(), PodDisk { containers: [("a".to_owned(), of_container)].into(), ..PodDisk::default() })
    };
    let disks: BTreeMap<String, PodDisk> = pods.iter().map(disk).collect();
    let mut order = Vec::new();
    let sample = |pods| Sample { time: Timestamp::UNIX_EPOCH, node: NodeFigures::default(), nano_cores: None, pods };
    loop {
        let now = sample(std::mem::take(&mut pods));
        let Some(chosen) = choose(&now, &disks, signal).map(|pod| pod.outline.uid.clone()) else { return order };
        pods = now.pods;
        pods.retain(|pod| pod.outline.uid != chosen);
        order.push(chosen);
    }
}

#[test]
fn pods_end_in_the_order_of_what_they_were_promised_and_how_important_they_are() {
    let pods = || {
        vec![
            pod("within-its-request", -5, 50 * MIB, 80 * MIB),
            pod("important", 100, 900 * MIB, 0),
            pod("small", 0, 10 * MIB, 5 * MIB),
            pod("large", 0, 60 * MIB, 50 * MIB),
            pod("largest", 0, 500 * MIB, 400 * MIB),
        ]
    };
    let by_request = ["largest", "large", "small", "important", "within-its-request"];
    assert_eq!(order(pods(), Signal::MemoryAvailable), by_request);
    assert_eq!(order(pods(), Signal::NodeFsAvailable), by_request);
    // Nobody is promised any of these.
    let by_use = ["within-its-request", "largest", "large", "small", "important"];
    assert_eq!(order(pods(), Signal::PidAvailable), by_use);
    assert_eq!(order(pods(), Signal::NodeFsInodesFree), by_use);
}

#[test]
fn some_pods_are_never_evicted() {
    let mut critical = pod("critical", 2_000_000_000, 900 * MIB, 0);
    critical.outline.is_critical = true;
    let mut over = pod("over", 0, 900 * MIB, 0);
    over.outline.is_over = true;
    let mut ending = pod("ending", 0, 900 * MIB, 0);
    ending.outline.is_failed = true;
    let pods = vec![critical, over, ending, pod("other", 0, MIB, 0)];
    assert_eq!(order(pods, Signal::MemoryAvailable), ["other"]);
}

#[test]
fn who_has_nothing_on_a_disk_is_not_ended_for_it() {
    let pods = || vec![pod("tiny", 0, MIB - 1, 0), pod("large", 0, 3 * MIB, 0)];
    assert_eq!(order(pods(), Signal::NodeFsAvailable), ["large"]);
    assert_eq!(order(pods(), Signal::NodeFsInodesFree), ["large"]);
    assert_eq!(order(pods(), Signal::MemoryAvailable), ["large", "tiny"]);
}

fn figures() -> NodeFigures {
    let disk = Disk {
        capacity_bytes: 1000 * MIB,
        available_bytes: 500 * MIB,
        used_bytes: 500 * MIB,
        inodes: 1000,
        inodes_free: 500,
    };
    let mut figures = NodeFigures { disk: Some(disk), processes: 100, processes_max: 1000, ..NodeFigures::default() };
    figures.memory.total_bytes = 4096 * MIB;
    figures.memory.available_bytes = 2048 * MIB;
    figures
}

#[test]
fn thresholds_are_met_below_them() {
    let check = |change: &dyn Fn(&mut NodeFigures), images: Option<Disk>, expected: &[Signal]| {
        let mut now = figures();
        change(&mut now);
        let met = EvictionSettings::default().met(&thresholds::observe(&now, images));
        assert_eq!(met.iter().map(|met| met.signal).collect::<Vec<_>>(), expected, "{now:?}");
    };
    check(&|_| (), None, &[]);
    check(&|now| now.memory.available_bytes = 100 * MIB, None, &[]);
    check(&|now| now.memory.available_bytes = 100 * MIB - 1, None, &[Signal::MemoryAvailable]);
    // A tenth of a small machine.
    let small = |now: &mut NodeFigures| (now.memory.total_bytes, now.memory.available_bytes) = (512 * MIB, 60 * MIB);
    check(&small, None, &[]);
    let short = |now: &mut NodeFigures| (now.memory.total_bytes, now.memory.available_bytes) = (512 * MIB, 51 * MIB);
    check(&short, None, &[Signal::MemoryAvailable]);
    check(&|now| now.disk.as_mut().unwrap().available_bytes = 99 * MIB, None, &[Signal::NodeFsAvailable]);
    check(&|now| now.disk.as_mut().unwrap().inodes_free = 49, None, &[Signal::NodeFsInodesFree]);
    // A file system that counts none has enough.
    check(&|now| (now.disk.as_mut().unwrap().inodes, now.disk.as_mut().unwrap().inodes_free) = (0, 0), None, &[]);
    let images = Disk { capacity_bytes: 1000, available_bytes: 149, ..Disk::default() };
    check(&|_| (), Some(images), &[Signal::ImageFsAvailable]);
    // Nobody has asked for it.
    check(&|now| now.processes = 999, None, &[]);
    let all = |now: &mut NodeFigures| {
        now.memory.available_bytes = 0;
        now.disk = Some(Disk { available_bytes: 0, inodes_free: 0, ..now.disk.unwrap() });
    };
    let expected =
        [Signal::MemoryAvailable, Signal::NodeFsAvailable, Signal::NodeFsInodesFree, Signal::ImageFsAvailable];
    check(&all, Some(images), &expected);
}

#[test]
fn settings_are_read_as_upstreams_and_mistakes_are_all_named() {
    let read = |pairs: &[(&str, &str)]| {
        let mut settings = EvictionSettings::default();
        let given = pairs.iter().map(|(name, amount)| ((*name).to_owned(), (*amount).to_owned())).collect();
        settings.set_hard(&given).map(|()| settings.hard)
    };
    let set = read(&[("memory.available", "250Mi"), ("pid.available", "12.5%"), ("nodefs.available", "0%")]).unwrap();
    assert_eq!(set.get(&Signal::MemoryAvailable), Some(&Amount::Units(250 * MIB)));
    assert_eq!(set.get(&Signal::PidAvailable), Some(&Amount::Share(1250)));
    assert_eq!(set.get(&Signal::NodeFsAvailable), None);
    assert_eq!(set.get(&Signal::NodeFsInodesFree), Some(&Amount::Share(500)));
    let given =
        [("memory.free", "1"), ("memory.available", "much"), ("pid.available", "101%"), ("nodefs.available", "-1")];
    assert_eq!(read(&given).unwrap_err().len(), 4);
}

#[test]
fn a_condition_holds_for_a_while_after_its_cause() {
    let settings = EvictionSettings::default();
    let mut short = figures();
    short.memory.available_bytes = 0;
    let (met, none) = (settings.met(&thresholds::observe(&short, None)), Vec::new());
    let (start, mut clock) = (Instant::now(), PressureClock::default());
    let mut at = |seconds, met: &[Threshold]| {
        clock.look(met, start + Duration::from_secs(seconds), Duration::from_secs(300)).memory
    };
    assert!(!at(0, &none));
    assert!(at(10, &met));
    assert!(at(20, &none), "the pod that has ended would come back at once");
    assert!(at(309, &none));
    assert!(!at(310, &none));
    assert!(at(311, &met), "short again");
}

#[test]
fn the_message_is_upstreams() {
    let mut short = figures();
    short.memory.available_bytes = 83_760 << 10;
    let met = EvictionSettings::default().met(&thresholds::observe(&short, None));
    let text = rank::message(&met[0], &pod("web", 0, 60 * MIB, 50 * MIB), &BTreeMap::new());
    let expected = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 83760Ki. \
                    Container a was using 60Mi, request is 50Mi, has larger consumption of memory. ";
    assert_eq!(text, expected);
    // One that keeps to what it was promised is not named.
    let text = rank::message(&met[0], &pod("web", 0, 40 * MIB, 50 * MIB), &BTreeMap::new());
    assert!(text.ends_with("available: 83760Ki. "), "{text}");
}
