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

fn id() -> ContainerId {
    ContainerId { pod_uid: "u".into(), container: "c".into(), attempt: 1 }
}

#[test]
fn limits_are_written_where_each_version_has_them() {
    let root = tempfile::tempdir().unwrap();
    let limits = Limits { cpu_millis: Some(250), memory_bytes: Some(1 << 20), pids: Some(7) };
    let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();

    Hierarchy::V2 { base: root.path().join("v2") }.create("s", &id(), &limits).unwrap_err();
    fs::create_dir(root.path().join("v2")).unwrap();
    Hierarchy::V2 { base: root.path().join("v2") }.create("s", &id(), &limits).unwrap();
    assert_eq!(read("v2/s/u/c_1/memory.max"), "1048576");
    assert_eq!(read("v2/s/u/c_1/cpu.max"), "25000 100000");
    assert_eq!(read("v2/s/u/c_1/pids.max"), "7");

    let mounts: BTreeMap<String, PathBuf> =
        ["memory", "cpu", "pids"].iter().map(|name| (name.to_string(), root.path().join(name))).collect();
    mounts.values().for_each(|path| fs::create_dir(path).unwrap());
    Hierarchy::V1 { mounts }.create("s", &id(), &limits).unwrap();
    assert_eq!(read("memory/s/u/c_1/memory.limit_in_bytes"), "1048576");
    assert_eq!(read("cpu/s/u/c_1/cpu.cfs_quota_us"), "25000");
    assert_eq!(read("pids/s/u/c_1/pids.max"), "7");
}

#[test]
fn a_limit_without_its_controller_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let mounts = BTreeMap::from([("pids".to_owned(), root.path().to_owned())]);
    let hierarchy = Hierarchy::V1 { mounts };
    let error = hierarchy.create("s", &id(), &Limits { memory_bytes: Some(1), ..Limits::default() }).unwrap_err();
    assert!(error.to_string().contains("`memory` is not mounted"));
    hierarchy.create("s", &id(), &Limits::default()).unwrap();
    Hierarchy::Absent.create("s", &id(), &Limits::default()).unwrap_err();
}

#[test]
fn a_small_share_of_a_core_is_still_accepted_by_the_kernel() {
    assert_eq!((quota_us(1), quota_us(10), quota_us(1500)), (1_000, 1_000, 150_000));
}
