//! Pods whose users are their own (`hostUsers: false`): root inside, nobody on the node.

use std::{
    fs,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use node_runtime::{
    ContainerRuntime, ContainerSpec, ExitRecord, Mount, OciRuntime, PodRuntime as _, PodSpec, Propagation,
    RuntimeError, Security,
};

use crate::{
    container::{OneImage, fixture_with, image_of, pod_of, spec},
    fixture::{self, Fixture, NoLinks, message, pid_in},
};

/// Users of a pod of its own.
const IDS: u32 = 65_536;

fn pod(of: &ContainerSpec) -> PodSpec {
    PodSpec { own_users: true, ..pod_of(of) }
}

fn reopen(fixture: &mut Fixture) {
    fixture.runtime = None;
    let image = image_of(fixture);
    let mut config = fixture::config(fixture.folder.path());
    config.network = Some(Arc::new(NoLinks));
    fixture.runtime = Some(Box::new(ContainerRuntime::open(config, Arc::new(OneImage(image))).unwrap()));
}

/// A runtime whose pods have networks of their own, or nothing where this machine cannot have such pods.
fn open() -> Option<Fixture> {
    if fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|max| max.trim() == "0") {
        testkit::skip("the kernel makes no user namespaces");
        return None;
    }
    let mut fixture = fixture_with(|_| {})?;
    reopen(&mut fixture);
    Some(fixture)
}

fn lines(log: Vec<String>) -> Vec<String> {
    log.into_iter().filter_map(|line| line.splitn(3, ' ').nth(2).map(str::to_owned)).collect()
}

async fn try_run(fixture: &Fixture, spec: &ContainerSpec) -> Result<(Vec<String>, ExitRecord), RuntimeError> {
    fixture.runtime().ensure_pod(pod(spec)).await?;
    fixture.runtime().start(spec.clone()).await?;
    let record = fixture.exit(&spec.id()).await;
    Ok((lines(fixture.log(spec)), record))
}

async fn check(fixture: &Fixture, script: &str, change: impl FnOnce(&mut ContainerSpec), expected: &[&str]) {
    let mut spec = spec(fixture, script);
    change(&mut spec);
    let (log, record) = try_run(fixture, &spec).await.map_err(|error| message(&error)).unwrap();
    assert_eq!(log, expected, "{script}: {record:?}");
    fixture.runtime().remove_pod(&spec.pod.uid).await.unwrap();
}

/// What the kernel says of the root of a pod, from inside.
fn first_of(map: &str) -> u32 {
    let fields: Vec<u32> = map.split_whitespace().map(|field| field.parse().unwrap()).collect();
    let [0, first, IDS] = fields[..] else { panic!("{map}") };
    first
}

async fn until(fixture: &Fixture, spec: &ContainerSpec, line: &str) -> Vec<String> {
    fixture.until_logged(spec, line).await;
    lines(fixture.log(spec))
}

fn state_of(fixture: &Fixture, spec: &ContainerSpec) -> PathBuf {
    fixture.folder.path().join("state/selvedge-container").join(spec.id().to_string())
}

#[tokio::test]
async fn root_of_a_pod_is_nobody_on_the_node() {
    let Some(fixture) = open() else { return };
    let script = "id -u; cat /proc/self/uid_map; cat /proc/self/gid_map; stat -c %u:%g /bin/busybox / /old /made/here /dev; touch /x; \
                  stat -c %u /x; hostname; echo up; sleep 100";
    let mut spec = spec(&fixture, script);
    spec.working_dir = Some("/made/here".into());
    fixture.runtime().ensure_pod(pod(&spec)).await.unwrap();
    fixture.runtime().start(spec.clone()).await.unwrap();
    let log = until(&fixture, &spec, "up").await;
    let first = first_of(&log[1]);
    assert!(first >= IDS && first.is_multiple_of(IDS), "{log:?}");
    assert_eq!(log[0], "0");
    assert_eq!(log[2], log[1]);
    assert_eq!(log[3..9], ["0:0", "0:0", "0:0", "0:0", "0:0", "0"], "{log:?}");
    assert_eq!(log[9], spec.pod.name);
    let state = fs::read_to_string(state_of(&fixture, &spec).join("state.json")).unwrap();
    let child = pid_in(&state, "child").unwrap();
    let process = fs::metadata(format!("/proc/{child}")).unwrap();
    assert_eq!((process.uid(), process.gid()), (first, first), "on the node");
    let written = fs::metadata(state_of(&fixture, &spec).join("upper/x")).unwrap();
    assert_eq!(written.uid(), first);
    let image = fs::metadata(fixture.folder.path().join("layers/low/bin/busybox")).unwrap();
    assert_eq!(image.uid(), 0, "other containers share the image");
    let mut owner: libc::uid_t = 0;
    let namespace = fs::File::open(format!("/proc/{child}/ns/user")).unwrap();
    // SAFETY: the number is written and outlives the call, and the descriptor is open.
    let asked = unsafe { libc::ioctl(namespace.as_raw_fd(), 0xb704, &raw mut owner) };
    assert_eq!((asked, owner), (0, first), "what the kernel counts of the pod counts against its own number");
    for kind in ["user", "net", "ipc", "uts", "mnt", "pid"] {
        let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/{kind}")).unwrap();
        assert_ne!(of(&child.to_string()), of("self"), "{kind}");
    }
    fixture.runtime().stop_pod(&spec.pod.uid, Duration::ZERO).await.unwrap();
    fixture.runtime().remove_pod(&spec.pod.uid).await.unwrap();
    assert_eq!(fixture.runtime().list_pods().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn its_rights_are_over_its_own_namespaces_alone() {
    let Some(fixture) = open() else { return };
    let add = |names: &[&str]| Security {
        capabilities_add: names.iter().map(|name| (*name).to_owned()).collect(),
        seccomp: node_runtime::Seccomp::Unconfined,
        ..Security::default()
    };
    // What it mounts is its own; what covers something it cannot take off, nor make writable.
    let script = "mkdir -p /m; mount -t tmpfs none /m && echo mounted; umount /proc/keys || echo held; \
                  mount -o remount,rw /sys 2>/dev/null || echo read-only; hostname mine && hostname; \
                  echo 1 > /proc/sys/vm/drop_caches; mknod /m/disk b 254 0 2>/dev/null || echo no device";
    check(
        &fixture,
        script,
        |spec| spec.security = add(&["SYS_ADMIN"]),
        &[
            "mounted",
            "umount: can't unmount /proc/keys: Invalid argument",
            "held",
            "read-only",
            "mine",
            "sh: can't create /proc/sys/vm/drop_caches: Read-only file system",
            "no device",
        ],
    )
    .await;
    // procMount: Unmasked is possible here because the kernel is the one that says no.
    let unmasked = |spec: &mut ContainerSpec| spec.security.unmasked_proc = true;
    let script = "echo 1 > /proc/sys/vm/drop_caches; test -w /proc/sys/net/ipv4/ip_forward && echo own network";
    check(&fixture, script, unmasked, &["sh: can't create /proc/sys/vm/drop_caches: Permission denied", "own network"])
        .await;
    // Privileged as it is, the node's devices and what is only root's are not its own.
    let privileged = |spec: &mut ContainerSpec| spec.security.privileged = true;
    let device = image_of(&fixture).store.join("high/disk");
    let made = std::process::Command::new("mknod").args(["-m", "666"]).arg(&device).args(["b", "7", "0"]).status();
    assert!(made.unwrap().success());
    let script = "for one in /disk /dev/*; do test -b $one && (: < $one) 2>/dev/null && echo open $one; done; \
                  (: > /dev/kmsg) 2>/dev/null || echo no log of the kernel; \
                  (: > /proc/sys/kernel/core_pattern) 2>/dev/null || echo no parameter; \
                  : < /dev/zero && mount -t tmpfs none /tmp && echo its own";
    check(&fixture, script, privileged, &["no log of the kernel", "no parameter", "its own"]).await;
}

#[tokio::test]
async fn volumes_keep_on_the_disk_what_the_pod_says() {
    let Some(fixture) = open() else { return };
    let volume = fixture.folder.path().join("volume");
    fs::create_dir_all(volume.join("dir")).unwrap();
    fs::write(volume.join("file"), "of the node").unwrap();
    std::os::unix::fs::chown(volume.join("dir"), Some(1000), Some(2000)).unwrap();
    let mount = |path: &str, sub_path: Option<&str>| Mount {
        volume: "v".to_owned(),
        host_path: volume.clone(),
        container_path: path.into(),
        sub_path: sub_path.map(Into::into),
        ..Mount::default()
    };
    let script =
        "stat -c %u:%g /v/dir /v/file /v/inner /deep; touch /v/by-root /deep/x; cat /sys/../v/file; echo; ls /v/inner";
    // One below the other: the place for it is made in the outer one.
    let mounts = vec![mount("/v", None), mount("/v/inner", Some("dir")), mount("/deep", Some("made"))];
    check(&fixture, script, |spec| spec.mounts = mounts, &["1000:2000", "0:0", "1000:2000", "0:0", "of the node"])
        .await;
    for (path, owner) in [("by-root", 0), ("made/x", 0), ("inner", 0), ("dir", 1000)] {
        assert_eq!(fs::metadata(volume.join(path)).unwrap().uid(), owner, "{path}");
    }
    let as_app = |spec: &mut ContainerSpec| {
        (spec.run_as_user, spec.supplemental_groups) = (Some(1000), vec![2000]);
        spec.mounts = vec![mount("/v", None)];
        spec.mounts[0].read_only = true;
    };
    check(
        &fixture,
        "id -u; touch /v/dir/x; id -G",
        as_app,
        &["1000", "touch: /v/dir/x: Read-only file system", "1001 2000"],
    )
    .await;
    let mut shared = spec(&fixture, "true");
    shared.security.privileged = true;
    shared.mounts = vec![Mount { propagation: Propagation::Bidirectional, ..mount("/v", None) }];
    let error = try_run(&fixture, &shared).await.unwrap_err();
    assert!(message(&error).contains("not possible with hostUsers: false"), "{}", message(&error));
    let mut unmapped = spec(&fixture, "true");
    unmapped.run_as_user = Some(70_000);
    let error = try_run(&fixture, &unmapped).await.unwrap_err();
    assert!(message(&error).contains("70000 is none of the pod's"), "{}", message(&error));
    let mut proc = spec(&fixture, "stat -c %u /node/proc/1; echo end");
    proc.mounts = vec![Mount { host_path: "/".into(), container_path: "/node".into(), ..Mount::default() }];
    let (log, _) = try_run(&fixture, &proc).await.map_err(|error| message(&error)).unwrap();
    assert_eq!(log, ["65534", "end"], "what is mounted in a volume may take no map, and is seen as it is");
}

#[tokio::test]
async fn commands_terminals_and_shared_memory_are_the_pods() {
    let Some(fixture) = open() else { return };
    let script = "echo shared > /dev/shm/x; stat -c %u /dev/shm /dev/shm/x; echo again > /dev/stdout; tty; stat -c %u $(tty); echo up; sleep 100";
    let mut first = spec(&fixture, script);
    first.tty = true;
    fixture.runtime().ensure_pod(PodSpec { shares_processes: true, ..pod(&first) }).await.unwrap();
    fixture.runtime().start(first.clone()).await.unwrap();
    let log: Vec<String> = until(&fixture, &first, "up").await.iter().map(|line| line.trim().to_owned()).collect();
    assert_eq!(log, ["0", "0", "again", "/dev/pts/0", "0", "up"]);
    let exec = async |words: &str| {
        let argv = ["sh", "-c", words].map(str::to_owned).to_vec();
        let output = fixture.runtime().exec(&first.id(), argv, Duration::from_secs(20)).await.unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let seen = exec(
        "id -u; cat /dev/shm/x; echo out > /dev/stdout; echo err > /dev/stderr; touch /by-exec; stat -c %u /by-exec",
    )
    .await;
    assert_eq!(seen, "0\nshared\nout\n0\nerr\n");
    let script = "cat /dev/shm/x; ps | grep -c 'sleep 100'; kill -0 1 || echo not its own";
    let mut second =
        ContainerSpec { container: "second".to_owned(), log_dir: first.log_dir.join("2"), ..first.clone() };
    (second.args, second.tty) = (vec![format!("exec 2>&1; {script}")], false);
    fixture.runtime().start(second.clone()).await.unwrap();
    fixture.exit(&second.id()).await;
    let log = lines(fixture.log(&second));
    assert_eq!(log[0], "shared");
    assert_ne!(log[1], "0", "{log:?}");
    assert_eq!(log[2..], ["sh: can't kill pid 1: Operation not permitted", "not its own"]);
    fixture.runtime().stop_pod(&first.pod.uid, Duration::ZERO).await.unwrap();
    fixture.runtime().remove_pod(&first.pod.uid).await.unwrap();
}

#[tokio::test]
async fn each_pod_has_other_users_and_keeps_them_when_the_agent_starts_again() {
    let Some(mut fixture) = open() else { return };
    let script = "cat /proc/self/uid_map; cat /proc/sys/kernel/shm_rmid_forced; echo up; sleep 100";
    let (one, other) = (spec(&fixture, script), spec(&fixture, script));
    let with_sysctl = |of: &ContainerSpec| PodSpec {
        sysctls: vec![
            ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
            ("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned()),
        ],
        ..pod(of)
    };
    let mut firsts = Vec::new();
    for spec in [&one, &other] {
        fixture.runtime().ensure_pod(with_sysctl(spec)).await.unwrap();
        fixture.runtime().start(spec.clone()).await.unwrap();
        let log = until(&fixture, spec, "up").await;
        assert_eq!(log[1], "1");
        firsts.push(first_of(&log[0]));
    }
    assert_eq!(firsts, [IDS, 2 * IDS]);
    let before = fixture.runtime().ensure_pod(with_sysctl(&other)).await.unwrap();
    reopen(&mut fixture);
    assert_eq!(fixture.runtime().ensure_pod(with_sysctl(&other)).await.unwrap(), before);
    let again = ContainerSpec { attempt: 1, ..other.clone() };
    fixture.runtime().stop(&other.id(), Duration::ZERO).await.unwrap();
    fixture.runtime().start(again.clone()).await.unwrap();
    assert_eq!(first_of(&until(&fixture, &again, "up").await[0]), firsts[1]);
    for spec in [&one, &other] {
        fixture.runtime().stop_pod(&spec.pod.uid, Duration::ZERO).await.unwrap();
        fixture.runtime().remove_pod(&spec.pod.uid).await.unwrap();
    }
}

#[tokio::test]
async fn another_runtime_is_not_asked_for_users_of_a_pods_own() {
    let Some(fixture) = open() else { return };
    let oci = OciRuntime { handler: "crun".to_owned(), path: "/nowhere/crun".into(), args: Vec::new() };
    let image = Arc::new(OneImage(image_of(&fixture)));
    let mut config = fixture::config(fixture.folder.path());
    config.state_dir = fixture.folder.path().join("state-of-crun");
    let runtime = ContainerRuntime::open_oci(config, image, oci).unwrap();
    let error = message(&runtime.ensure_pod(pod(&spec(&fixture, "true"))).await.unwrap_err());
    assert!(error.contains("hostUsers: false needs the node's own runtime"), "{error}");
}
