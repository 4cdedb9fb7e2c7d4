//! Whoever dies, nothing starts twice, nothing runs unobserved, and no end is lost.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use node_runtime::{ContainerSpec, ContainerState, ExitReason, ProcessRuntime, RuntimeError};

use crate::fixture::{Fixture, config, eventually, pid_in};

fn state(fixture: &Fixture, spec: &ContainerSpec) -> PathBuf {
    fixture.folder.path().join("state/selvedge-process").join(spec.id().to_string())
}

/// The shim's program as a file.
fn shim_program(fixture: &Fixture) -> PathBuf {
    let path = fixture.folder.path().join("shim");
    fs::write(&path, node_runtime::SHIM).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o500)).unwrap();
    path
}

fn kill(pid: i32) {
    assert!(Command::new("/bin/kill").args(["-9", &pid.to_string()]).status().unwrap().success());
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
async fn a_folder_that_cannot_be_read_does_not_hide_the_others() {
    let mut fixture = Fixture::new();
    let spec = fixture.shell("exit 0");
    fixture.run(&spec).await;
    let broken = state(&fixture, &spec).with_file_name("broken_main_0");
    fs::create_dir(&broken).unwrap();
    fs::write(broken.join("launch.json"), "{").unwrap();
    fixture.reopen();
    assert_eq!(fixture.runtime().list().await.unwrap().len(), 1);
    assert!(broken.exists());
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
