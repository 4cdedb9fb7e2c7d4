//! Cases of critest (kubernetes-sigs/cri-tools, `pkg/validate`) that no other test here is about: `docs/reference/critest.md` has
//! them all.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::Arc,
    time::Duration,
};

use node_runtime::{
    ContainerRuntime, ContainerSpec, ContainerState, HostNamespaces, Mount, PodSpec, RuntimeError, Seccomp, Security,
};

use crate::{
    container::{OneImage, fixture, folder_with_image, pod_of, run, spec},
    fixture::{self, Fixture, NoLinks, PATIENCE},
};

/// A runtime whose pods have networks, as those of a node do.
fn with_network() -> Option<Fixture> {
    let (folder, image) = folder_with_image()?;
    let mut config = fixture::config(folder.path());
    config.network = Some(Arc::new(NoLinks));
    let runtime = ContainerRuntime::open(config, Arc::new(OneImage(image))).unwrap();
    Some(Fixture { runtime: Some(Box::new(runtime)), folder })
}

/// Lines that a container has printed on its standard output.
fn printed(fixture: &Fixture, spec: &ContainerSpec) -> Vec<String> {
    fixture.log(spec).iter().filter_map(|line| line.strip_prefix("stdout F ").map(str::to_owned)).collect()
}

/// What a container prints in a pod that shares this much with the node; nothing is left of it.
async fn in_pod(fixture: &Fixture, pod: PodSpec, spec: &ContainerSpec) -> Vec<String> {
    fixture.runtime().ensure_pod(pod).await.unwrap();
    fixture.runtime().start(spec.clone()).await.unwrap();
    fixture.exit(&spec.id()).await;
    fixture.runtime().remove_pod(&spec.pod.uid).await.unwrap();
    printed(fixture, spec)
}

#[tokio::test]
async fn namespaces_are_the_nodes_where_the_pod_says_so_and_its_own_otherwise() {
    let Some(fixture) = with_network() else { return };
    let of_node = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_string_lossy().into_owned();
    let node = ["net", "ipc", "uts", "pid"].map(of_node);
    let script = "for kind in net ipc uts pid; do readlink /proc/self/ns/$kind; done";
    for (network, ipc, pid) in
        [(false, false, false), (true, false, false), (false, true, false), (false, false, true), (true, true, true)]
    {
        let mut spec = spec(&fixture, script);
        spec.host_pid = pid;
        let pod = PodSpec { host: HostNamespaces { network, ipc }, ..pod_of(&spec) };
        let seen = in_pod(&fixture, pod, &spec).await;
        let is_the_nodes: Vec<bool> = seen.iter().zip(&node).map(|(seen, node)| seen == node).collect();
        // A pod in the node's network has the node's name.
        assert_eq!(is_the_nodes, [network, ipc, network, pid], "{seen:?}, the node has {node:?}");
    }
}

#[tokio::test]
async fn containers_of_a_pod_have_one_network_logs_of_their_own_and_take_commands() {
    let Some(fixture) = with_network() else { return };
    let first = spec(&fixture, "readlink /proc/self/ns/net; echo first > /who; echo first; sleep 1000");
    let args = vec!["readlink /proc/self/ns/net; echo second > /who; echo second; sleep 1000".to_owned()];
    let second =
        ContainerSpec { container: "second".to_owned(), log_dir: first.log_dir.join("second"), ..first.clone() };
    let second = ContainerSpec { args, ..second };
    for (spec, who) in [(&first, "first"), (&second, "second")] {
        fixture.start(spec).await;
        fixture.until_logged(spec, who).await;
        let words = ["cat", "/who"].map(str::to_owned).to_vec();
        let output = fixture.runtime().exec(&spec.id(), words, PATIENCE).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{who}\n"));
    }
    let (one, other) = (printed(&fixture, &first), printed(&fixture, &second));
    assert_eq!((one.len(), other.len(), &one[0]), (2, 2, &other[0]), "{one:?} {other:?}");
    fixture.runtime().stop_pod(&first.pod.uid, Duration::ZERO).await.unwrap();
    fixture.runtime().remove_pod(&first.pod.uid).await.unwrap();
}

#[tokio::test]
async fn groups_are_those_of_the_image_and_those_that_the_pod_adds() {
    let Some(fixture) = fixture() else { return };
    for (user, group, added, expected) in [
        (None, None, vec![1234, 5678], "0 0 0 1234 5678"),
        (Some(1000), None, vec![1234], "1000 1001 1001 1234 2000"),
        (Some(1000), Some(7), vec![1234], "1000 7 7 1234 2000"),
        (Some(4711), Some(7), vec![], "4711 7 7"),
    ] {
        let script = "echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | sort -n)";
        let (log, _) = run(&fixture, script, |spec| {
            (spec.run_as_user, spec.run_as_group, spec.supplemental_groups) = (user, group, added.clone());
        })
        .await;
        assert_eq!(log, [expected]);
    }
}

#[tokio::test]
async fn a_privileged_container_may_what_the_others_may_not() {
    let Some(fixture) = fixture() else { return };
    let script = "mount -t tmpfs x /tmp && echo mounted; (: >> /proc/sys/kernel/hostname) 2>/dev/null && echo writable; \
                  grep -c ' /proc/kcore\\| /proc/keys\\| /proc/sys ' /proc/self/mountinfo; grep -E '^Seccomp:' /proc/self/status; \
                  test $(ls /dev | wc -l) -gt 20 && echo devices";
    let privileged = |seccomp| Security { privileged: true, seccomp, ..Security::default() };
    let (log, _) = run(&fixture, script, |spec| spec.security = privileged(Seccomp::RuntimeDefault)).await;
    let devices = fs::read_dir("/dev").unwrap().count() > 20;
    let all = ["mounted", "writable", "0", "Seccomp:\t0", "devices"];
    assert_eq!(log, &all[..all.len() - usize::from(!devices)]);
    let (log, _) = run(&fixture, script, |_| {}).await;
    assert_eq!(log[0], "mount: permission denied (are you root?)");
    assert!(log[1].parse::<u32>().unwrap() > 0 && log[2] == "Seccomp:\t2" && log.len() == 3, "{log:?}");
}

#[tokio::test]
async fn paths_are_masked_and_read_only_unless_the_container_says_otherwise() {
    let Some(fixture) = fixture() else { return };
    // What is masked is a device without content or an empty directory, whatever the node has there.
    let script = "for path in /proc/kcore /proc/keys /proc/timer_list; do test -e $path && test -c $path && echo masked; done | sort -u; \
                  for path in /proc/sys/kernel/hostname /proc/sysrq-trigger; do (: >> $path) 2>&1 | grep -o 'Read-only'; done | sort -u";
    let (log, _) = run(&fixture, script, |_| {}).await;
    assert_eq!(log, ["masked", "Read-only"]);
    let (log, _) = run(&fixture, script, |spec| spec.security.unmasked_proc = true).await;
    assert!(!log.contains(&"masked".to_owned()), "{log:?}");
}

#[tokio::test]
async fn the_host_name_is_set_by_those_who_may() {
    let Some(fixture) = fixture() else { return };
    let script = "hostname another 2>/dev/null; hostname";
    let may = |add: &[&str], seccomp| Security {
        capabilities_add: add.iter().map(|&name| name.to_owned()).collect(),
        seccomp,
        ..Security::default()
    };
    for (security, is_set) in [
        (may(&["SYS_ADMIN"], Seccomp::Unconfined), true),
        (may(&["SYS_ADMIN"], Seccomp::RuntimeDefault), true),
        (may(&["ALL"], Seccomp::RuntimeDefault), true),
        (may(&[], Seccomp::RuntimeDefault), false),
        (may(&[], Seccomp::Unconfined), false),
    ] {
        let (log, _) = run(&fixture, script, |spec| spec.security = security.clone()).await;
        assert_eq!(log[0] == "another", is_set, "{security:?}: {log:?}");
    }
    let here = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_ne!(here, "another", "it is the pod's name alone");
}

/// A program that is root's by its mode bit.
#[tokio::test]
async fn a_program_gains_rights_by_its_mode_only_where_that_is_allowed() {
    let Some(fixture) = fixture() else { return };
    let bin = fixture.folder.path().join("layers/low/bin");
    fs::copy(bin.join("busybox"), bin.join("su")).unwrap();
    fs::set_permissions(bin.join("su"), fs::Permissions::from_mode(0o4755)).unwrap();
    // Nobody is asked for a password.
    fs::write(bin.join("../etc/passwd"), "root::0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n").unwrap();
    for (allowed, expected) in [(None, "0"), (Some(true), "0"), (Some(false), "su: must be suid to work properly")] {
        let (log, _) = run(&fixture, "/bin/su -c 'id -u' root", |spec| {
            spec.run_as_user = Some(1000);
            spec.security.allow_privilege_escalation = allowed;
        })
        .await;
        assert_eq!(log, [expected], "{allowed:?}");
    }
}

#[tokio::test]
async fn a_volume_that_is_a_link_on_the_node_shows_what_it_leads_to() {
    let Some(fixture) = fixture() else { return };
    let (real, link) = (fixture.folder.path().join("real"), fixture.folder.path().join("link"));
    fs::create_dir(&real).unwrap();
    fs::write(real.join("file"), "of the node").unwrap();
    symlink(&real, &link).unwrap();
    let (log, record) = run(&fixture, "cat /data/file; echo; echo x > /data/new", |spec| {
        spec.mounts = vec![Mount { host_path: link, container_path: "/data".into(), ..Mount::default() }];
    })
    .await;
    assert_eq!(log, ["of the node"], "{record:?}");
    assert_eq!(fs::read_to_string(real.join("new")).unwrap(), "x\n");
}

#[tokio::test]
async fn what_is_not_there_or_has_ended_is_stopped_and_removed_already() {
    let Some(fixture) = fixture() else { return };
    let runtime = fixture.runtime();
    let nobody = spec(&fixture, "true").id();
    assert!(matches!(runtime.stop(&nobody, Duration::ZERO).await, Err(RuntimeError::NotFound(_))));
    runtime.remove(&nobody).await.unwrap();
    let spec = spec(&fixture, "echo up; sleep 1000");
    fixture.start(&spec).await;
    fixture.until_logged(&spec, "up").await;
    assert!(matches!(runtime.remove(&spec.id()).await, Err(RuntimeError::StillRunning(_))));
    for _ in 0..2 {
        let status = runtime.stop(&spec.id(), Duration::ZERO).await.unwrap();
        assert!(matches!(status.state, ContainerState::Exited(_)), "{status:?}");
    }
    for _ in 0..2 {
        runtime.remove(&spec.id()).await.unwrap();
    }
    assert!(matches!(runtime.status(&spec.id()).await, Err(RuntimeError::NotFound(_))));
    for _ in 0..2 {
        runtime.stop_pod(&spec.pod.uid, Duration::ZERO).await.unwrap();
    }
    for _ in 0..2 {
        runtime.remove_pod(&spec.pod.uid).await.unwrap();
    }
}

#[tokio::test]
async fn a_command_that_takes_too_long_ends_and_its_container_runs_on() {
    let Some(fixture) = fixture() else { return };
    let spec = spec(&fixture, "echo up; sleep 1000");
    fixture.start(&spec).await;
    fixture.until_logged(&spec, "up").await;
    let words = |script: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
    let late = words("echo $$ > /late; exec sleep 1000");
    let error = fixture.runtime().exec(&spec.id(), late, Duration::from_millis(500)).await.unwrap_err();
    assert!(matches!(error, RuntimeError::ExecTimeout { .. }), "{error}");
    let look = words("test -e /proc/$(cat /late) && echo still there; cat; exit 7");
    let output = fixture.runtime().exec(&spec.id(), look, PATIENCE).await.unwrap();
    assert_eq!((output.exit_code, &*output.stdout), (7, &b""[..]), "{output:?}");
    let status = fixture.runtime().status(&spec.id()).await.unwrap();
    assert!(matches!(status.state, ContainerState::Running { .. }), "{status:?}");
    fixture.runtime().stop(&spec.id(), Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn statistics_are_those_of_each_container_and_a_log_is_rotated_without_losing_a_line() {
    let Some((folder, image)) = folder_with_image() else { return };
    let mut config = fixture::config(folder.path());
    (config.log_bytes_max, config.log_files_max) = (4096, 20);
    let runtime = ContainerRuntime::open(config, Arc::new(OneImage(image))).unwrap();
    let fixture = Fixture { runtime: Some(Box::new(runtime)), folder };
    let script = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; done; echo all; sleep 1000";
    let specs =
        [spec(&fixture, script), spec(&fixture, "echo all; sleep 1000"), spec(&fixture, "echo all; sleep 1000")];
    for spec in &specs {
        let status = fixture.start(spec).await;
        if status.notices.iter().any(|notice| notice.contains("control group")) {
            return testkit::skip(&status.notices.join("; "));
        }
        fixture.until_logged(spec, "all").await;
    }
    for spec in &specs {
        fixture::eventually("memory in use", async || match fixture.runtime().stats(&spec.id()).await.unwrap() {
            stats if stats.memory_bytes > 0 && stats.pids > 0 => Ok(()),
            stats => Err(format!("{stats:?}")),
        })
        .await;
    }
    let mut files: Vec<_> = fs::read_dir(&specs[0].log_dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    // `0.log` is written to, `0.log.1` was before that, and so on.
    let age = |path: &Path| path.extension().and_then(|number| number.to_str()?.parse::<u32>().ok()).unwrap_or(0);
    files.sort_by_key(|path| std::cmp::Reverse(age(path)));
    assert!(files.len() > 2, "{files:?}");
    let text: String = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let lines: Vec<String> = text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap().to_owned()).collect();
    let expected: Vec<String> = (1..=300).map(|number| format!("line {number}")).chain(["all".to_owned()]).collect();
    assert_eq!(lines, expected);
    for spec in &specs {
        fixture.runtime().stop(&spec.id(), Duration::ZERO).await.unwrap();
    }
}
