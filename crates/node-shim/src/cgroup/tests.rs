use super::*;

#[test]
fn the_hierarchy_is_read_from_the_mounts() {
    let v2 = |base: &str| Hierarchy::V2 { base: base.into() };
    let v1 = |names: &[(&str, &str)]| Hierarchy::V1 {
        mounts: names.iter().map(|(name, path)| (name.to_string(), PathBuf::from(path))).collect(),
    };
    for (mounts, own, expected) in [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0", "", v2("/sys/fs/cgroup/")),
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0", "0::/user.slice/me\n", v2("/sys/fs/cgroup/user.slice/me")),
        (
            "cgroup /c/memory cgroup rw,memory 0 0\ncgroup /c/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\ncgroup2 /c/u cgroup2 rw 0 0",
            "4:memory:/x\n0::/",
            v1(&[("memory", "/c/memory"), ("cpu", "/c/cpu,cpuacct"), ("cpuacct", "/c/cpu,cpuacct")]),
        ),
        ("proc /proc proc rw 0 0", "", Hierarchy::Absent),
    ] {
        assert_eq!(Hierarchy::parse(mounts, own), expected, "{mounts}");
    }
}

fn spec(limits: Limits) -> ContainerSpec {
    let pod = crate::PodRef { uid: "u".into(), ..crate::PodRef::default() };
    ContainerSpec { pod, container: "c".into(), attempt: 1, limits, ..ContainerSpec::default() }
}

#[test]
fn limits_are_written_where_each_version_has_them() {
    let root = tempfile::tempdir().unwrap();
    let limits = Limits { cpu_millis: Some(250), memory_bytes: Some(1 << 20), pids: Some(7) };
    let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();

    Hierarchy::V2 { base: root.path().join("v2") }.create("s", &spec(limits)).unwrap_err();
    fs::create_dir(root.path().join("v2")).unwrap();
    Hierarchy::V2 { base: root.path().join("v2") }.create("s", &spec(limits)).unwrap();
    assert_eq!(read("v2/s/u/c_1/memory.max"), "1048576");
    assert_eq!(read("v2/s/u/c_1/cpu.max"), "25000 100000");
    assert_eq!(read("v2/s/u/c_1/pids.max"), "7");

    let mounts: BTreeMap<String, PathBuf> =
        ["memory", "cpu", "pids"].iter().map(|name| (name.to_string(), root.path().join(name))).collect();
    mounts.values().for_each(|path| fs::create_dir(path).unwrap());
    Hierarchy::V1 { mounts }.create("s", &spec(limits)).unwrap();
    assert_eq!(read("memory/s/u/c_1/memory.limit_in_bytes"), "1048576");
    assert_eq!(read("cpu/s/u/c_1/cpu.cfs_quota_us"), "25000");
    assert_eq!(read("pids/s/u/c_1/pids.max"), "7");
}

#[test]
fn a_limit_without_its_controller_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let mounts = BTreeMap::from([("pids".to_owned(), root.path().to_owned())]);
    let hierarchy = Hierarchy::V1 { mounts };
    let error = hierarchy.create("s", &spec(Limits { memory_bytes: Some(1), ..Limits::default() })).unwrap_err();
    assert!(error.to_string().contains("`memory` is not mounted"));
    hierarchy.create("s", &spec(Limits::default())).unwrap();
    Hierarchy::Absent.create("s", &spec(Limits::default())).unwrap_err();
}

#[test]
fn a_small_share_of_a_core_is_still_accepted_by_the_kernel() {
    assert_eq!((quota_us(1), quota_us(10), quota_us(1500)), (1_000, 1_000, 150_000));
}

#[test]
fn weights_are_those_of_kubelets() {
    for (millis, on_v1, on_v2) in [
        (0, 2, 1),
        (1, 2, 1),
        (100, 102, 4),
        (500, 512, 20),
        (1000, 1024, 39),
        (16_000, 16_384, 625),
        (u64::MAX, 262_144, 10_000),
    ] {
        assert_eq!((shares(millis), weight(shares(millis))), (on_v1, on_v2), "{millis} m");
    }
}

#[test]
fn requests_become_weights_of_pod_and_container() {
    let root = tempfile::tempdir().unwrap();
    let mut spec = spec(Limits::default());
    spec.requests.cpu_millis = Some(500);
    spec.pod_resources = PodResources {
        cpu_request_millis: Some(1000),
        cpu_limit_millis: Some(2000),
        memory_limit_bytes: Some(1 << 30),
        pids_max: Some(99),
    };
    let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
    let v2 = Hierarchy::V2 { base: root.path().to_owned() };
    v2.create("s", &spec).unwrap();
    assert_eq!((read("s/u/cpu.weight"), read("s/u/c_1/cpu.weight")), ("39".to_owned(), "20".to_owned()));
    assert_eq!((read("s/u/pids.max"), read("s/u/memory.max")), ("99".to_owned(), (1 << 30).to_string()));
    assert!(!root.path().join("s/u/memory.oom.group").exists(), "one container of a pod dies alone");

    let mounts: BTreeMap<String, PathBuf> =
        ["memory", "cpu"].iter().map(|name| (name.to_string(), root.path().join(name))).collect();
    mounts.values().for_each(|path| fs::create_dir(path).unwrap());
    // Processes are not counted here; a default must not keep a pod from running.
    Hierarchy::V1 { mounts }.create("s", &spec).unwrap();
    assert_eq!((read("cpu/s/u/cpu.shares"), read("cpu/s/u/c_1/cpu.shares")), ("1024".to_owned(), "512".to_owned()));
    assert_eq!(read("cpu/s/u/cpu.cfs_quota_us"), "200000");
}

#[test]
fn a_pods_group_stays_until_it_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let hierarchy = Hierarchy::V1 { mounts: BTreeMap::from([("cpuacct".to_owned(), root.path().to_owned())]) };
    let pod = hierarchy.create_pod("s", "u", "marker", &PodResources::default()).unwrap();
    let container = hierarchy.create("s", &spec(Limits::default())).unwrap();
    assert!(pod.exist() && container.exist());
    container.remove();
    assert_eq!((pod.exist(), container.exist(), pod.children()), (true, false, vec!["marker".to_owned()]));
    pod.remove_all();
    assert!(!pod.exist());
}

#[test]
fn what_is_used_is_read_where_each_version_has_it() {
    let expected = ContainerStats {
        cpu_nanos: 7_000,
        memory_bytes: 1000,
        working_set_bytes: 700,
        rss_bytes: 400,
        page_faults: 50,
        major_page_faults: 6,
        pids: 3,
    };
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("v2/cpu.stat", "usage_usec 7\nuser_usec 5\n");
    write("v2/memory.current", "1000\n");
    write("v2/pids.current", "3\n");
    write("v2/memory.stat", "anon 400\nfile 600\ninactive_file 300\npgfault 50\npgmajfault 6\n");
    assert_eq!(CgroupPaths(BTreeMap::from([(String::new(), root.path().join("v2"))])).stats(), expected);

    write("cpuacct/cpuacct.usage", "7000\n");
    write("memory/memory.usage_in_bytes", "1000\n");
    write("pids/pids.current", "3\n");
    // The group's own pages are named as well, and are not the whole.
    let stat = "rss 1\ninactive_file 2\npgfault 3\ntotal_rss 400\ntotal_inactive_file 300\ntotal_pgfault 50\ntotal_pgmajfault 6\n";
    write("memory/memory.stat", stat);
    let v1 = ["cpuacct", "memory", "pids"].map(|name| (name.to_owned(), root.path().join(name)));
    assert_eq!(CgroupPaths(v1.into()).stats(), expected);
}
