use super::*;

fn launch() -> Launch {
    let spec = ContainerSpec {
        pod: crate::PodRef { uid: "u".into(), namespace: "default".into(), name: "p".into() },
        container: "c".into(),
        ..ContainerSpec::default()
    };
    Launch {
        version: STATE_VERSION,
        spec,
        program: "/bin/true".into(),
        argv: vec!["true".into()],
        bind_mounts: true,
        files: Vec::new(),
        hidden: Vec::new(),
        cgroup_parent: "selvedge".into(),
        isolation: Isolation::Auto,
        image_id: "file:///bin/true".into(),
        image: None,
        oci: None,
        namespaces: Vec::new(),
        processes_of: None,
        users: None,
        stop_signal: None,
        private: None,
        boot_id: String::new(),
        log_bytes_max: 1,
        log_files_max: 1,
    }
}

#[test]
fn an_identity_is_spent_once() {
    let root = tempfile::tempdir().unwrap();
    let dir = StateDir::new(root.path(), &launch().spec.id());
    assert!(dir.create(root.path(), &launch()).unwrap());
    assert!(!dir.create(root.path(), &launch()).unwrap());
    assert_eq!(dir.launch().unwrap(), launch());
}

#[test]
fn a_draft_of_a_killed_kubelet_is_no_container() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join(".new-u_c_0")).unwrap();
    StateDir::new(root.path(), &launch().spec.id()).create(root.path(), &launch()).unwrap();
    assert!(!root.path().join(".new-u_c_0").exists());
}

#[test]
fn an_exit_record_uses_the_space_that_was_reserved() {
    let root = tempfile::tempdir().unwrap();
    let dir = StateDir::at(root.path());
    dir.reserve_exit().unwrap();
    assert_eq!(dir.exit().unwrap(), None);
    let record = ExitRecord::start_error("no such file");
    dir.write_exit(&record).unwrap();
    assert_eq!(dir.exit().unwrap(), Some(record));
}

#[test]
fn a_newer_record_is_refused_and_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let dir = StateDir::at(root.path());
    dir.write_exit(&ExitRecord { version: STATE_VERSION + 1, ..ExitRecord::start_error("") }).unwrap();
    assert!(dir.exit().unwrap_err().to_string().contains("newer program"));
}

#[test]
fn the_lock_has_one_holder() {
    let root = tempfile::tempdir().unwrap();
    let dir = StateDir::new(root.path(), &launch().spec.id());
    dir.create(root.path(), &launch()).unwrap();
    let held = dir.try_lock().unwrap();
    assert!(held.is_some() && dir.try_lock().unwrap().is_none());
    drop(held);
    assert!(dir.try_lock().unwrap().is_some());
}

#[test]
fn a_process_is_not_taken_for_a_later_one_with_its_id() {
    let me = Process::of(std::process::id() as i32).unwrap();
    assert!(me.exists());
    assert!(!Process { start_ticks: me.start_ticks + 1, ..me.clone() }.exists());
    assert!(!Process { boot_id: "another".into(), ..me }.exists());
    let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 3 4 0 0 20 0 1 0 4711 1000 100";
    assert_eq!(parse_start_ticks(stat), Some(4711));
}

/// State directories as each format wrote them; `writes_the_fixture` shows how.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");

fn fixture(version: u32) -> (Launch, Running, ExitRecord) {
    let process = |pid| Process { pid, start_ticks: 12345, boot_id: "8d9a2f0e-0000-4000-8000-000000000001".into() };
    let mut launch = Launch { version, ..launch() };
    launch.spec.image = "file:///bin/true".into();
    launch.spec.security.privileged = true;
    launch.spec.args = vec!["-v".into()];
    launch.spec.env = [("HOME".to_owned(), "/".to_owned())].into();
    launch.spec.mounts = vec![crate::Mount {
        host_path: "/srv".into(),
        container_path: "/data".into(),
        read_only: true,
        ..crate::Mount::default()
    }];
    launch.spec.limits.memory_bytes = Some(1 << 20);
    launch.spec.log_dir = "/var/log/p".into();
    let started_at = "2026-11-22T06:00:00Z".parse().unwrap();
    let running = Running {
        version,
        shim: process(10),
        child: process(11),
        stop_signal: None,
        started_at,
        cgroups: serde_json::from_value(serde_json::json!({"memory": "/sys/fs/cgroup/memory/p"})).unwrap(),
        notices: vec!["no control groups".into()],
    };
    let exit = ExitRecord {
        version,
        exit_code: 137,
        signal: Some(9),
        reason: ExitReason::OomKilled,
        message: "out of memory".into(),
        started_at: Some(started_at),
        finished_at: "2026-11-22T06:01:00Z".parse().unwrap(),
    };
    (launch, running, exit)
}

#[test]
fn nothing_that_may_be_secret_is_on_the_disk() {
    let root = tempfile::tempdir().unwrap();
    let mut launch = launch();
    launch.spec.env = [("PASSWORD".to_owned(), "s3cret".to_owned())].into();
    launch.spec.args = vec!["--token=s3cret".into()];
    launch.argv.push("--token=s3cret".into());
    launch.private = Some(root.path().join("in-memory.json"));
    let dir = StateDir::new(root.path(), &launch.spec.id());
    assert!(dir.create(root.path(), &launch).unwrap());
    dir.write_private(&launch).unwrap();
    for entry in fs::read_dir(dir.path()).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        assert!(!fs::read_to_string(entry.path()).unwrap().contains("s3cret"), "{:?}", entry.path());
    }
    assert_eq!(dir.launch().unwrap(), launch);
    // After a reboot.
    fs::remove_file(root.path().join("in-memory.json")).unwrap();
    assert_eq!((dir.record().unwrap().spec.id(), dir.launch().is_err()), (launch.spec.id(), true));
}

#[test]
fn each_format_is_read() {
    for version in 1..=STATE_VERSION {
        let (launch, running, exit) = fixture(version);
        let dir = StateDir::new(&Path::new(FIXTURES).join(format!("v{version}")), &launch.spec.id());
        assert_eq!(dir.launch().unwrap(), launch);
        assert_eq!(dir.running().unwrap(), Some(running));
        assert_eq!(dir.exit().unwrap(), Some(exit));
        let lock = dir.lock().unwrap();
        assert_eq!(lock.file().metadata().unwrap().is_file(), version == 1, "the lock of version 1 is a file");
        assert!(dir.try_lock().unwrap().is_none());
    }
}

#[test]
#[ignore = "run once when a format is made: SELVEDGE_FIXTURE=directory"]
fn writes_the_fixture() {
    let root = PathBuf::from(std::env::var("SELVEDGE_FIXTURE").unwrap());
    let (launch, running, exit) = fixture(STATE_VERSION);
    let dir = StateDir::new(&root, &launch.spec.id());
    dir.create(&root, &launch).unwrap();
    dir.write_running(&running).unwrap();
    dir.write_exit(&exit).unwrap();
}
