//! Containers of a pod that share their processes, and one that looks into another.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use node_runtime::{
    ContainerRuntime, ContainerSpec, ContainerState, ExitRecord, PodInstance, PodSpec, RuntimeError, Security,
};
use rustix::process::{Pid, Signal};

use crate::{
    container::{OneImage, fixture, image_of, pod_of, spec},
    fixture::{self, Fixture, eventually, message},
};

fn shared(of: &ContainerSpec) -> PodSpec {
    PodSpec { shares_processes: true, ..pod_of(of) }
}

/// Another container of the same pod.
fn beside(first: &ContainerSpec, name: &str, script: &str) -> ContainerSpec {
    ContainerSpec {
        container: name.to_owned(),
        log_dir: first.log_dir.join(name),
        args: vec![format!("exec 2>&1; {script}")],
        ..first.clone()
    }
}

/// Starts the first container of a pod, and waits until its program runs.
async fn start_first(fixture: &Fixture, script: &str) -> (ContainerSpec, PodInstance) {
    let first = spec(fixture, script);
    let instance = fixture.runtime().ensure_pod(shared(&first)).await.unwrap();
    fixture.runtime().start(first.clone()).await.unwrap();
    fixture.until_logged(&first, "up").await;
    (first, instance)
}

/// Runs a container of a pod that is set up; what it printed, and its end.
async fn run_in_pod(fixture: &Fixture, spec: &ContainerSpec) -> (Vec<String>, ExitRecord) {
    fixture.runtime().start(spec.clone()).await.unwrap();
    let record = fixture.exit(&spec.id()).await;
    let log = fixture.log(spec);
    (log.into_iter().filter_map(|line| line.splitn(3, ' ').nth(2).map(str::to_owned)).collect(), record)
}

async fn end(fixture: &Fixture, first: &ContainerSpec) {
    fixture.runtime().stop_pod(&first.pod.uid, Duration::ZERO).await.unwrap();
    fixture.runtime().remove_pod(&first.pod.uid).await.unwrap();
}

/// The first process of a pod, as the node sees it.
fn reaper(instance: &PodInstance) -> PathBuf {
    let namespace = instance.namespaces.iter().find(|one| one.kind == "pid").expect("its containers share processes");
    namespace.path.ancestors().nth(2).unwrap().to_owned()
}

fn reopen(fixture: &mut Fixture) {
    fixture.runtime = None;
    let image = image_of(fixture);
    fixture.runtime = Some(Box::new(
        ContainerRuntime::open(fixture::config(fixture.folder.path()), Arc::new(OneImage(image))).unwrap(),
    ));
}

#[tokio::test]
async fn containers_see_each_others_processes_and_the_first_one_is_ours() {
    let Some(fixture) = fixture() else { return };
    let (first, _) = start_first(&fixture, "echo up; sleep 1234567; echo ended").await;
    let second = beside(
        &first,
        "second",
        "test $$ -gt 2 && echo among others; cat /proc/1/comm; grep -la 123456[7] /proc/[0-9]*/cmdline | grep -c .",
    );
    let (log, record) = run_in_pod(&fixture, &second).await;
    assert_eq!(
        log,
        ["among others", "selvedge-reaper", "2"],
        "the first container's shell and its `sleep`: {record:?}"
    );
    // It is not the first process of its namespace: a signal without a handler ends it.
    let third = beside(&first, "third", "echo up; kill -TERM $$; sleep 100");
    let (_, record) = run_in_pod(&fixture, &third).await;
    assert_eq!((record.exit_code, record.signal), (143, Some(15)), "the others are not touched");
    // It may end another's, whose end is seen.
    let fourth =
        beside(&first, "fourth", "kill -9 $(grep -la 123456[7] /proc/[0-9]*/cmdline | cut -d/ -f3) 2>/dev/null");
    let status = fixture.runtime().status(&first.id()).await.unwrap();
    assert!(matches!(status.state, ContainerState::Running { .. }), "{status:?}");
    let words = ["cat", "/proc/1/comm"].map(str::to_owned).to_vec();
    let output = fixture.runtime().exec(&first.id(), words, Duration::from_secs(30)).await.unwrap();
    assert_eq!(output.stdout, b"selvedge-reaper\n", "a command is among the same");
    run_in_pod(&fixture, &fourth).await;
    let record = fixture.exit(&first.id()).await;
    assert_eq!(record.signal, Some(9), "{record:?}");
    end(&fixture, &first).await;
}

#[tokio::test]
async fn what_a_container_leaves_behind_is_reaped_and_ends_with_it() {
    let Some(fixture) = fixture() else { return };
    let script = "(sleep 100 & echo $! > /tmp/pid); pid=$(cat /tmp/pid); grep PPid /proc/$pid/status; kill -9 $pid; \
                  while test -d /proc/$pid; do :; done; echo reaped; (sleep 7654321 &); echo up";
    let (first, _) = start_first(&fixture, script).await;
    let record = fixture.exit(&first.id()).await;
    assert_eq!(fixture.log(&first), ["stdout F PPid:\t1", "stdout F reaped", "stdout F up"], "{record:?}");
    let second = beside(&first, "second", "cat /proc/[0-9]*/cmdline | grep -ac 765432[1]");
    let (log, _) = run_in_pod(&fixture, &second).await;
    assert_eq!(log, ["0"], "what the first container has started ended with it");
    end(&fixture, &first).await;
}

#[tokio::test]
async fn nothing_of_the_node_is_behind_the_first_process() {
    let Some(fixture) = fixture() else { return };
    let (first, _) = start_first(&fixture, "echo up; sleep 100").await;
    let script = "ls -A /proc/1/root /proc/1/cwd /proc/1/fd; grep -E '^(Uid|Gid|Cap(Eff|Bnd)|NoNewPrivs|Seccomp):' /proc/1/status; \
                  kill -9 1; kill -TERM 1; touch /proc/1/root/x; test -d /proc/1 && echo there";
    let mut second = beside(&first, "second", script);
    second.security = Security { privileged: true, ..Security::default() };
    let (log, _) = run_in_pod(&fixture, &second).await;
    let none = "0000000000000000";
    let expected = [
        "/proc/1/cwd:".to_owned(),
        String::new(),
        "/proc/1/fd:".to_owned(),
        String::new(),
        "/proc/1/root:".to_owned(),
        "Uid:\t65535\t65535\t65535\t65535".to_owned(),
        "Gid:\t65535\t65535\t65535\t65535".to_owned(),
        format!("CapEff:\t{none}"),
        format!("CapBnd:\t{none}"),
        "NoNewPrivs:\t1".to_owned(),
        "Seccomp:\t2".to_owned(),
        "touch: /proc/1/root/x: Read-only file system".to_owned(),
        "there".to_owned(),
    ];
    assert_eq!(log, expected);
    let second = beside(&first, "third", "ls /proc/1/root/; readlink /proc/1/exe; ls -A /proc/1/fd");
    let (log, _) = run_in_pod(&fixture, &second).await;
    assert_eq!(log, ["ls: /proc/1/root/: Permission denied"], "who may not trace everything sees nothing of it");
    end(&fixture, &first).await;
}

#[tokio::test]
async fn shared_processes_are_found_by_the_next_agent_and_end_with_the_pod() {
    let Some(mut fixture) = fixture() else { return };
    let (first, before) = start_first(&fixture, "echo up; sleep 1234567; echo ended").await;
    reopen(&mut fixture);
    assert_eq!(fixture.runtime().ensure_pod(shared(&first)).await.unwrap(), before);
    let second = beside(&first, "second", "grep -la 123456[7] /proc/[0-9]*/cmdline | grep -c .");
    let (log, _) = run_in_pod(&fixture, &second).await;
    assert_eq!(log, ["2"], "the shell and its `sleep` of the first container");
    let reaper = reaper(&before);
    assert_eq!(fs::read_to_string(reaper.join("comm")).unwrap(), "selvedge-reaper\n");
    end(&fixture, &first).await;
    eventually("the end of the first process", async || {
        let stat = fs::read_to_string(reaper.join("stat")).unwrap_or_default();
        if stat.contains("(selvedge-reaper) Z") || !stat.contains("selvedge-reaper") { Ok(()) } else { Err(stat) }
    })
    .await;
    assert!(!fixture.folder.path().join("in-memory/pods").join(&first.pod.uid).exists());
}

#[tokio::test]
async fn when_the_first_process_is_killed_all_end_and_the_next_start_has_another() {
    let Some(fixture) = fixture() else { return };
    let (first, instance) = start_first(&fixture, "echo up; sleep 100").await;
    let pid: i32 = reaper(&instance).file_name().unwrap().to_str().unwrap().parse().unwrap();
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let record = fixture.exit(&first.id()).await;
    assert_eq!(record.signal, Some(9), "{record:?}");
    let again = ContainerSpec { attempt: 1, args: vec!["cat /proc/1/comm".to_owned()], ..first.clone() };
    let (log, record) = run_in_pod(&fixture, &again).await;
    assert_eq!(log, ["selvedge-reaper"], "{record:?}");
    let after = fixture.runtime().ensure_pod(shared(&first)).await.unwrap();
    assert_eq!(after.id, instance.id, "what init containers have set up is still there");
    end(&fixture, &first).await;
}

#[tokio::test]
async fn a_container_that_is_added_sees_the_processes_of_its_target() {
    let Some(fixture) = fixture() else { return };
    let first = spec(&fixture, "echo up; sleep 1234567");
    fixture.start(&first).await;
    fixture.until_logged(&first, "up").await;
    let looking = "test $$ -gt 1 && echo among others; grep -a -o '123456[7]' /proc/1/cmdline";
    let debugger = ContainerSpec { target_container: Some("main".to_owned()), ..beside(&first, "debugger", looking) };
    let (log, record) = run_in_pod(&fixture, &debugger).await;
    assert_eq!(log, ["among others", "1234567"], "{record:?}");
    // It ends with its target, whose first process takes all along.
    let staying =
        ContainerSpec { target_container: Some("main".to_owned()), ..beside(&first, "staying", "echo up; sleep 100") };
    fixture.runtime().start(staying.clone()).await.unwrap();
    fixture.until_logged(&staying, "up").await;
    fixture.runtime().stop(&first.id(), Duration::ZERO).await.unwrap();
    let record = fixture.exit(&staying.id()).await;
    assert_eq!(record.signal, Some(9), "{record:?}");
    let late = ContainerSpec { attempt: 1, ..debugger };
    let error: RuntimeError = fixture.runtime().start(late).await.unwrap_err();
    assert!(message(&error).contains("unable to find target container main"), "{}", message(&error));
    end(&fixture, &first).await;
}
