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
        let met = EvictionSettings::default().met(&thresholds::observe(&now, images), &[]);
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
    let (met, none) = (settings.met(&thresholds::observe(&short, None), &[]), Vec::new());
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

fn given(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, amount)| ((*name).to_owned(), (*amount).to_owned())).collect()
}

#[test]
fn a_soft_threshold_is_due_once_it_was_met_for_its_time_without_a_break() {
    let mut settings = EvictionSettings::default();
    let graces = BTreeMap::from([("memory.available".to_owned(), 90), ("nodefs.available".to_owned(), 10)]);
    settings.set_soft(&given(&[("memory.available", "1Gi"), ("nodefs.available", "50%")]), &graces).unwrap();
    let with = |memory: u64, disk: u64| {
        let mut now = figures();
        now.memory.available_bytes = memory * MIB;
        now.disk.as_mut().unwrap().available_bytes = disk * MIB;
        settings.met(&thresholds::observe(&now, None), &[])
    };
    let (start, mut since) = (Instant::now(), Since::default());
    let mut due = |seconds, met: &[Threshold]| {
        since.look(met, start + Duration::from_secs(seconds)).map(|due| (due.signal, due.grace.is_some()))
    };
    let (memory, disk) = (Signal::MemoryAvailable, Signal::NodeFsAvailable);
    assert_eq!(with(1000, 600).iter().map(|one| one.signal).collect::<Vec<_>>(), [memory], "it is pressure at once");
    assert_eq!(due(0, &with(1000, 600)), None);
    assert_eq!(due(80, &with(1000, 400)), None);
    assert_eq!(due(89, &with(1000, 400)), None);
    assert_eq!(due(90, &with(1000, 400)), Some((memory, true)));
    // The disk has less than its hard threshold, and that comes first.
    assert_eq!(due(91, &with(1000, 50)), Some((disk, false)));
    assert_eq!(due(92, &with(2000, 400)), Some((disk, true)));
    assert_eq!(due(93, &with(2000, 600)), None);
    assert_eq!(due(94, &with(1000, 600)), None, "its time begins anew");
    assert_eq!(due(183, &with(1000, 600)), None);
    assert_eq!(due(184, &with(1000, 600)), Some((memory, true)));
}

#[test]
fn what_was_short_is_short_until_as_much_is_won_back_as_the_settings_say() {
    let mut settings = EvictionSettings::default();
    settings.set_minimum_reclaim(&given(&[("memory.available", "200Mi"), ("nodefs.available", "5%")])).unwrap();
    let at = |memory: u64, disk: u64, before: &[Threshold]| {
        let mut now = figures();
        now.memory.available_bytes = memory * MIB;
        now.disk.as_mut().unwrap().available_bytes = disk * MIB;
        settings.met(&thresholds::observe(&now, None), before)
    };
    let signals = |met: &[Threshold]| met.iter().map(|met| met.signal).collect::<Vec<_>>();
    let (memory, disk) = (Signal::MemoryAvailable, Signal::NodeFsAvailable);
    assert!(at(299, 149, &[]).is_empty());
    let met = at(99, 99, &[]);
    assert_eq!(signals(&met), [memory, disk]);
    assert_eq!(signals(&at(299, 149, &met)), [memory, disk]);
    let met = at(300, 149, &met);
    assert_eq!(signals(&met), [disk]);
    assert_eq!(met[0].threshold, 100 * MIB, "what is said is the threshold");
    assert!(at(299, 150, &met).is_empty());
}

#[test]
fn soft_thresholds_and_what_is_to_be_won_back_are_checked() {
    let mut settings = EvictionSettings::default();
    let graces = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 60)).collect::<BTreeMap<_, _>>();
    let text = |mistakes: Vec<BadThreshold>| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>();
    let wrong = settings.set_soft(&given(&[("memory.free", "1"), ("pid.available", "x")]), &graces(&[])).unwrap_err();
    assert_eq!(wrong.len(), 2);
    let wrong = settings.set_soft(&given(&[("memory.available", "1Gi")]), &graces(&["pid.available", "pids"]));
    let wrong = text(wrong.unwrap_err());
    let expected = [
        "`memory.available` has no grace period; say how many seconds in evictionSoftGracePeriodSeconds",
        "`pid.available` has a grace period in evictionSoftGracePeriodSeconds, and no threshold in evictionSoft",
    ];
    assert_eq!(wrong[..2], expected);
    assert!(wrong[2].starts_with("`pids` is not watched; use one of memory.available, "), "{wrong:?}");
    assert_eq!(settings.set_minimum_reclaim(&given(&[("disk", "1"), ("pid.available", "-1")])).unwrap_err().len(), 2);
    assert_eq!(settings, EvictionSettings::default(), "what is wrong changes nothing");
    settings.set_soft(&given(&[("memory.available", "0")]), &graces(&["memory.available"])).unwrap();
    assert!(settings.soft.is_empty());
}

#[test]
fn the_message_is_upstreams() {
    let mut short = figures();
    short.memory.available_bytes = 83_760 << 10;
    let met = EvictionSettings::default().met(&thresholds::observe(&short, None), &[]);
    let text = rank::message(&met[0], &pod("web", 0, 60 * MIB, 50 * MIB), &BTreeMap::new());
    let expected = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 83760Ki. \
                    Container a was using 60Mi, request is 50Mi, has larger consumption of memory. ";
    assert_eq!(text, expected);
    // One that keeps to what it was promised is not named.
    let text = rank::message(&met[0], &pod("web", 0, 40 * MIB, 50 * MIB), &BTreeMap::new());
    assert!(text.ends_with("available: 83760Ki. "), "{text}");
}
