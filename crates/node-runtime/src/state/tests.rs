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
        open: Vec::new(),
        cgroup_parent: "selvedge".into(),
        isolation: Isolation::Auto,
        image_id: "file:///bin/true".into(),
        log_bytes_max: 1,
        log_files_max: 1,
    }
}

#[test]
fn an_identity_is_spent_once() {
    let root = tempfile::tempdir().unwrap();
    let dir = StateDir::new(root.path(), &launch().spec.id());
    dir.create(root.path(), &launch()).unwrap();
    assert!(matches!(dir.create(root.path(), &launch()), Err(RuntimeError::AlreadyStarted(_))));
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
fn an_exit_record_uses_the_room_that_was_reserved() {
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
    dir.write_exit(&ExitRecord { version: 2, ..ExitRecord::start_error("") }).unwrap();
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
fn a_process_is_told_from_a_later_one_with_its_id() {
    let me = Process::of(std::process::id() as i32).unwrap();
    assert!(me.exists());
    assert!(!Process { start_ticks: me.start_ticks + 1, ..me.clone() }.exists());
    assert!(!Process { boot_id: "another".into(), ..me }.exists());
    let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 3 4 0 0 20 0 1 0 4711 1000 100";
    assert_eq!(parse_start_ticks(stat), Some(4711));
}
