//! Whoever dies, nothing starts twice, nothing runs unobserved, and no end is lost.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use node_runtime::{ContainerSpec, ContainerState, ExitReason, ProcessRuntime, RuntimeError};

use crate::fixture::{Fixture, PATIENCE, config, eventually, pid_in};

fn state(fixture: &Fixture, spec: &ContainerSpec) -> PathBuf {
    fixture.folder.path().join("state/selvedge-process").join(spec.id().to_string())
}

/// The shim's program as a file.
fn shim_program(fixture: &Fixture) -> PathBuf {
    let (bytes, path) = (fixture.folder.path().join("bytes"), fixture.folder.path().join("shim"));
    fs::write(&bytes, node_runtime::SHIM).unwrap();
    fs::set_permissions(&bytes, fs::Permissions::from_mode(0o500)).unwrap();
    // By another process: a child that is just being started would hold a copy of our descriptor, and who has it open to
    // write cannot be run.
    assert!(Command::new("/bin/cp").args([&bytes, &path]).status().unwrap().success());
    path
}

/// Kills it and waits till it holds nothing any more, the lock of its container above all.
fn kill(pid: i32) {
    assert!(Command::new("/bin/kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    let runs = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    };
    let deadline = Instant::now() + PATIENCE;
    while runs() {
        assert!(Instant::now() < deadline, "process {pid} does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn pid(fixture: &Fixture, spec: &ContainerSpec, who: &str) -> i32 {
    pid_in(&fs::read_to_string(state(fixture, spec).join("state.json")).unwrap(), who).unwrap()
}

#[tokio::test]
async fn a_container_goes_on_without_its_kubelet_and_is_adopted() {
    let mut fixture = Fixture::new();
    let spec = fixture.shell("echo up; while [ ! -e $STOP ]; do sleep 0.05; done; echo down; exit 5");
    let mut spec = spec;
    let stop = fixture.folder.path().join("stop");
    spec.env.insert("STOP".to_owned(), stop.display().to_string());
    let before = fixture.start(&spec).await;
    fixture.until_logged(&spec, "up").await;
    fixture.reopen();
    assert_eq!(fixture.runtime().status(&spec.id()).await.unwrap(), before);
    let mut events = fixture.runtime().events();
    fs::write(&stop, "").unwrap();
    assert!(matches!(events.recv().await.unwrap(), node_runtime::ContainerEvent::Exited(_)));
    assert_eq!(fixture.exit(&spec.id()).await.exit_code, 5);
    assert_eq!(fixture.log(&spec), ["stdout F up", "stdout F down"]);
}

#[tokio::test]
async fn an_end_without_a_kubelet_is_found_later() {
    let mut fixture = Fixture::new();
    let spec = fixture.shell("sleep 0.2; exit 6");
    fixture.start(&spec).await;
    fixture.runtime = None;
    let exit = state(&fixture, &spec).join("exit.json");
    eventually("the exit record", async || if exit.exists() { Ok(()) } else { Err("none".to_owned()) }).await;
    fixture.reopen();
    assert_eq!(fixture.exit(&spec.id()).await.exit_code, 6);
    assert!(matches!(fixture.runtime().start(spec).await, Err(RuntimeError::AlreadyStarted(_))));
}

#[tokio::test]
async fn without_its_shim_a_container_does_not_run_unobserved() {
    for isolation in [node_runtime::Isolation::Auto, node_runtime::Isolation::None] {
        let fixture = Fixture::with(|config| config.isolation = isolation);
        let spec = fixture.shell("echo up; sleep 1000");
        fixture.start(&spec).await;
        fixture.until_logged(&spec, "up").await;
        let child = pid(&fixture, &spec, "child");
        kill(pid(&fixture, &spec, "shim"));
        let record = fixture.exit(&spec.id()).await;
        assert_eq!((record.exit_code, record.reason), (137, ExitReason::ContainerStatusUnknown));
        let is_up = || fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        eventually("the child's end", async || if is_up() { Err("it runs".to_owned()) } else { Ok(()) }).await;
    }
}

#[tokio::test]
async fn a_kubelet_that_died_before_its_shim_started_has_spent_the_attempt() {
    let mut fixture = Fixture::new();
    let spec = fixture.shell("echo must not run");
    fixture.run(&spec).await;
    // As the folder was before the shim took the lock.
    for file in ["state.json", "exit.json"] {
        fs::remove_file(state(&fixture, &spec).join(file)).unwrap();
    }
    fs::remove_file(spec.log_path()).unwrap();
    fixture.reopen();
    let record = fixture.exit(&spec.id()).await;
    assert_eq!((record.reason, record.started_at), (ExitReason::StartError, None));
    // The shim comes late.
    let shim = Command::new(shim_program(&fixture)).arg("shim").arg(state(&fixture, &spec)).output().unwrap();
    assert!(!shim.status.success());
    assert!(String::from_utf8_lossy(&shim.stderr).contains("started before"));
    assert_eq!(fixture.log(&spec), [""; 0]);
}

#[tokio::test]
async fn a_second_runtime_over_the_same_folder_is_refused() {
    let fixture = Fixture::new();
    let Err(error) = ProcessRuntime::open(config(fixture.folder.path())) else { panic!("it was opened twice") };
    let reason = std::error::Error::source(&error).unwrap().to_string();
    assert!(reason.contains("another node runs"), "{error}: {reason}");
}

#[tokio::test]
async fn a_runtime_lets_go_of_its_folder_while_children_are_started_and_watched() {
    let mut fixture = Fixture::new();
    fixture.start(&fixture.shell("sleep 1000")).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let spawners = [(); 2].map(|()| {
        let is_over = Arc::clone(&is_over);
        std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                assert!(Command::new("/bin/true").status().unwrap().success());
            }
        })
    });
    for round in 0..300 {
        // Now and then just as long as the watcher of an adopted container takes to its first look.
        tokio::time::sleep(Duration::from_millis(if round % 8 == 0 { 50 } else { 0 })).await;
        fixture.reopen();
    }
    is_over.store(true, Ordering::Relaxed);
    spawners.into_iter().for_each(|spawner| spawner.join().unwrap());
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_does_not_hide_the_others() {
    let mut fixture = Fixture::new();
    let spec = fixture.shell("exit 0");
    fixture.run(&spec).await;
    let foreign = state(&fixture, &spec).with_file_name("no-container");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("launch.json"), "{").unwrap();
    fixture.reopen();
    assert_eq!(fixture.runtime().list().await.unwrap().len(), 1);
    assert!(foreign.exists());
}

fn damage(path: &Path, how: &str) {
    let bytes = fs::read(path).unwrap();
    match how {
        "empty" => fs::write(path, "").unwrap(),
        "half" => fs::write(path, &bytes[..bytes.len() / 2]).unwrap(),
        "flipped" => fs::write(path, bytes.iter().map(|byte| byte ^ 0x10).collect::<Vec<_>>()).unwrap(),
        _ => fs::remove_file(path).unwrap(),
    }
}

/// One file of a container is damaged while no agent runs. The attempt is listed as ended, the next one runs alone, and both
/// can be removed.
async fn check_damage(file: &str, how: &str, runs: bool) {
    let mut fixture = Fixture::new();
    let what = format!("{file} {how}, {}", if runs { "running" } else { "killed" });
    let lock = fixture.folder.path().join("program.lock");
    let script = format!("exec 9>{}; flock -n 9 || exit 66; echo up; sleep 1000", lock.display());
    let mut spec = fixture.shell(&script);
    fixture.start(&spec).await;
    fixture.until_logged(&spec, "up").await;
    let (shim, child) = (pid(&fixture, &spec, "shim"), pid(&fixture, &spec, "child"));
    fixture.runtime = None;
    if !runs {
        kill(shim);
        let _ = Command::new("/bin/kill").args(["-9", &child.to_string()]).stderr(std::process::Stdio::null()).status();
    }
    let path = state(&fixture, &spec).join(file);
    match file {
        "exit.json" => fs::write(&path, "{").unwrap(),
        _ => damage(&path, how),
    }
    fixture.reopen();
    let record = fixture.exit(&spec.id()).await;
    assert_eq!(record.reason, ExitReason::ContainerStatusUnknown, "{what}: {record:?}");

    spec.attempt = 1;
    fixture.start(&spec).await;
    fixture.until_logged(&spec, "up").await;
    fixture.runtime().stop(&spec.id(), Duration::ZERO).await.unwrap();
    for attempt in [0, 1] {
        spec.attempt = attempt;
        fixture.runtime().remove(&spec.id()).await.unwrap();
    }
    assert_eq!(fixture.runtime().list().await.unwrap().len(), 0, "{what}");
}

#[tokio::test]
async fn a_damaged_file_neither_blocks_a_container_nor_starts_it_beside_itself() {
    if Command::new("flock").arg("--version").output().is_err() {
        return testkit::skip("there is no flock here");
    }
    let mut checks = Vec::new();
    for runs in [true, false] {
        for file in ["launch.json", "state.json"] {
            for how in ["empty", "half", "flipped", "removed"] {
                // Without state.json a killed shim was one that had not started.
                if !runs && (file, how) == ("state.json", "removed") {
                    continue;
                }
                checks.push(check_damage(file, how, runs));
            }
        }
        checks.push(check_damage("exit.json", "half", runs));
    }
    for check in checks {
        check.await;
    }
}

#[tokio::test]
async fn nothing_of_a_container_whose_state_was_lost_runs_beside_the_next() {
    for is_restarted in [true, false] {
        let mut fixture = Fixture::new();
        let lock = fixture.folder.path().join("program.lock");
        let script = format!("exec 9>{}; flock -n 9 || exit 66; echo up; sleep 1000", lock.display());
        let spec = fixture.shell(&script);
        fixture.start(&spec).await;
        fixture.until_logged(&spec, "up").await;
        fixture.runtime = None;
        fs::remove_dir_all(fixture.folder.path().join("state")).unwrap();
        fs::remove_file(spec.log_path()).unwrap();
        fixture.reopen();
        if is_restarted {
            fixture.start(&spec).await;
            fixture.until_logged(&spec, "up").await;
        }
        // The pod is deleted: nothing of it is left, whatever is known of it.
        fixture.runtime().stop(&spec.id(), Duration::ZERO).await.ok();
        fixture.runtime().remove(&spec.id()).await.unwrap();
        let is_free = Command::new("flock").args(["-n", lock.to_str().unwrap(), "true"]).status().unwrap().success();
        assert!(is_free, "restarted: {is_restarted}");
    }
}

#[tokio::test]
async fn a_container_of_another_boot_is_closed_by_its_record_alone() {
    let mut fixture = Fixture::new();
    let spec = fixture.shell("echo up; sleep 1000");
    fixture.start(&spec).await;
    let (shim, state) = (pid(&fixture, &spec, "shim"), state(&fixture, &spec));
    fixture.runtime = None;
    kill(shim);
    fs::remove_dir_all(fixture.folder.path().join("in-memory")).unwrap();
    let launch = fs::read_to_string(state.join("launch.json")).unwrap();
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fs::write(state.join("launch.json"), launch.replace(boot_id.trim(), "00000000-0000-4000-8000-000000000000"))
        .unwrap();
    // Not synced, so it may be empty.
    fs::write(state.join("state.json"), "").unwrap();
    fixture.reopen();
    let record = fixture.exit(&spec.id()).await;
    assert_eq!(record.reason, ExitReason::ContainerStatusUnknown);
    assert!(record.message.contains("the machine went down"), "{record:?}");
    fixture.runtime().remove(&spec.id()).await.unwrap();
}

#[tokio::test]
async fn a_container_of_the_previous_version_is_adopted() {
    let mut fixture = Fixture::new();
    let mut spec = fixture.shell("echo up; while [ ! -e $STOP ]; do sleep 0.05; done; exit 5");
    let stop = fixture.folder.path().join("stop");
    spec.env.insert("STOP".to_owned(), stop.display().to_string());
    fixture.start(&spec).await;
    fixture.until_logged(&spec, "up").await;
    fixture.runtime = None;
    // As it wrote launch.json: with the environment, and without what came later.
    let private = fixture.folder.path().join("in-memory").join(format!("{}.json", spec.id()));
    let mut launch: serde_json::Value = serde_json::from_slice(&fs::read(&private).unwrap()).unwrap();
    let launch_map = launch.as_object_mut().unwrap();
    ["private", "bootId", "files"].iter().for_each(|field| drop(launch_map.remove(*field)));
    launch_map.insert("open".to_owned(), serde_json::json!([]));
    fs::write(state(&fixture, &spec).join("launch.json"), launch.to_string()).unwrap();
    fs::remove_file(private).unwrap();
    fixture.reopen();
    let argv = vec!["sh".to_owned(), "-c".to_owned(), "echo $STOP".to_owned()];
    let output = fixture.runtime().exec(&spec.id(), argv, Duration::from_secs(30)).await.unwrap().stdout;
    assert_eq!(String::from_utf8(output).unwrap().trim(), stop.display().to_string());
    fs::write(&stop, "").unwrap();
    assert_eq!(fixture.exit(&spec.id()).await.exit_code, 5);
}

#[tokio::test]
async fn an_adopted_container_can_be_stopped_and_entered() {
    let mut fixture = Fixture::new();
    let spec = fixture.shell("echo up; sleep 1000");
    fixture.start(&spec).await;
    fixture.until_logged(&spec, "up").await;
    fixture.reopen();
    let answer = fixture.runtime().exec(&spec.id(), vec!["true".to_owned()], Duration::from_secs(30)).await.unwrap();
    assert_eq!(answer.exit_code, 0);
    let status = fixture.runtime().stop(&spec.id(), Duration::from_millis(100)).await.unwrap();
    assert!(matches!(status.state, ContainerState::Exited(_)));
}

#[tokio::test]
async fn on_a_disk_that_became_read_only_ends_are_seen_and_containers_start() {
    let Some(disk) = testkit::disk::FailingDisk::mount(32 * 1024 * 1024).unwrap() else { return };
    let state_dir = disk.path().join("state");
    let launch_dir = PathBuf::from(format!("/dev/shm/selvedge-test-{}", std::process::id()));
    fs::create_dir_all(&launch_dir).unwrap();
    let change = |config: &mut node_runtime::ProcessConfig| {
        config.state_dir = state_dir.clone();
        config.launch_dir = Some(launch_dir.clone());
    };
    let mut fixture = Fixture::with(change);
    let logs = disk.path().join("logs");
    let on_disk = |mut spec: ContainerSpec| {
        spec.log_dir = logs.join(&spec.pod.uid);
        spec
    };
    let stop = fixture.folder.path().join("stop");
    let waiting = format!("while [ ! -e {} ]; do sleep 0.05; done; exit 5", stop.display());
    let (first, second) = (on_disk(fixture.shell(&waiting)), on_disk(fixture.shell("sleep 1000")));
    fixture.start(&first).await;
    fixture.start(&second).await;
    disk.fail().unwrap();
    // Its shim says how it ended.
    fs::write(&stop, "").unwrap();
    assert_eq!(fixture.exit(&first.id()).await.exit_code, 5);
    // Without its shim, the agent does.
    let shim = fs::read_to_string(state_dir.join("selvedge-process").join(second.id().to_string()).join("state.json"));
    kill(pid_in(&shim.unwrap(), "shim").unwrap());
    assert_eq!(fixture.exit(&second.id()).await.reason, ExitReason::ContainerStatusUnknown);
    // The next attempt, and what the next agent knows of all of them.
    let again = ContainerSpec { attempt: 1, args: vec!["-c".into(), "echo up; sleep 1000".into()], ..first.clone() };
    let started = fixture.start(&again).await;
    eventually("its log", async || {
        let log = fs::read_to_string(&started.log_path).unwrap_or_default();
        if log.contains("up") { Ok(()) } else { Err(log) }
    })
    .await;
    fixture.runtime = None;
    let mut config = config(fixture.folder.path());
    change(&mut config);
    fixture.runtime = Some(Box::new(ProcessRuntime::open(config).unwrap()));
    assert_eq!(fixture.exit(&first.id()).await.exit_code, 5);
    assert_eq!(fixture.runtime().status(&again.id()).await.unwrap().state, started.state);
    assert!(matches!(fixture.runtime().start(again.clone()).await, Err(RuntimeError::AlreadyStarted(_))));
    fixture.runtime().stop(&again.id(), Duration::ZERO).await.unwrap();
    for id in [first.id(), second.id(), again.id()] {
        fixture.runtime().remove(&id).await.unwrap();
        assert!(matches!(fixture.runtime().status(&id).await, Err(RuntimeError::NotFound(_))));
    }
    drop(fixture);
    fs::remove_dir_all(&launch_dir).unwrap();
}
