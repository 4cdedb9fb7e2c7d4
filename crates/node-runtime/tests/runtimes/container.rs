//! Containers of an image: what the program inside sees, and what it cannot do.
//!
//! The image is Debian's static busybox with a few files around it. Every test reads what the program has printed: a container
//! that did not start proves nothing.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use node_runtime::{
    ContainerRuntime, ContainerSpec, ContainerState, ContainerStatus, ExitReason, ExitRecord, Image, ImageConfig,
    Images, Limits, Mount, PodSpec, RuntimeError, RuntimeFuture, Seccomp, Security,
};

use crate::fixture::{self, Fixture, message};

const IMAGE: &str = "registry.example/busybox:1";

/// A store with one image.
pub struct OneImage(pub Image);

impl Images for OneImage {
    fn find(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        Ok((image == IMAGE).then(|| self.0.clone()))
    }

    fn pull(&self, _: &str, _: Vec<Vec<u8>>) -> RuntimeFuture<'_, u64> {
        Box::pin(async { Ok(0) })
    }
}

/// Debian's static busybox: what an image can be made of without a registry.
fn busybox() -> Option<PathBuf> {
    let named = std::env::var_os("SELVEDGE_BUSYBOX").map(PathBuf::from);
    let found = named.into_iter().chain(["/bin/busybox".into()]).find(|path| path.is_file());
    if found.is_none() {
        testkit::skip("no static busybox; install busybox-static, or run the tests by cargo xtask test");
    }
    found
}

/// Two layers: programs below, files that tests look at above.
fn image(store: &Path) -> Option<Image> {
    let program = busybox()?;
    let (low, high) = (store.join("low"), store.join("high"));
    for dir in ["bin", "etc", "tmp", "old"] {
        fs::create_dir_all(low.join(dir)).unwrap();
    }
    fs::copy(program, low.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "ls", "id", "env", "sleep", "mknod", "head", "mount", "hostname", "touch", "stat", "kill", "ps",
        "dd", "wget", "chmod", "ln", "mkdir", "unshare", "readlink", "test", "tail", "grep", "tty", "stty", "sort",
        "cut", "tr", "wc",
    ] {
        symlink("busybox", low.join("bin").join(name)).unwrap();
    }
    fs::write(low.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n").unwrap();
    fs::write(low.join("etc/group"), "root:x:0:\napp:x:1001:\nextra:x:2000:app\n").unwrap();
    fs::write(low.join("old/file"), "low").unwrap();
    fs::set_permissions(low.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::create_dir_all(high.join("old")).unwrap();
    fs::write(high.join("old/file"), "high").unwrap();
    // Links as hostile images have them: the container's own places are behind them.
    symlink("/../../../../etc", high.join("outside")).unwrap();
    symlink("/nowhere/at/all", high.join("dangling")).unwrap();
    let config = ImageConfig {
        env: vec!["FROM_IMAGE=yes".to_owned(), "PATH=/bin".to_owned()],
        entrypoint: vec!["sh".to_owned(), "-c".to_owned()],
        cmd: vec!["echo by default".to_owned()],
        ..ImageConfig::default()
    };
    let layers = vec!["low".to_owned(), "high".to_owned()];
    Some(Image { id: "sha256:1".to_owned(), store: store.to_owned(), layers, config })
}

/// A directory with the image in it, or nothing where this machine cannot have it.
pub fn folder_with_image() -> Option<(tempfile::TempDir, Image)> {
    if !rustix::process::geteuid().is_root() {
        testkit::skip("containers of images need root");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = image(&folder.path().join("layers"))?;
    Some((folder, image))
}

/// A runtime with the image, or nothing where this machine cannot have it.
pub fn fixture_with(change: impl FnOnce(&mut Image)) -> Option<Fixture> {
    let (folder, mut image) = folder_with_image()?;
    change(&mut image);
    let runtime = ContainerRuntime::open(fixture::config(folder.path()), Arc::new(OneImage(image))).unwrap();
    Some(Fixture { runtime: Some(Box::new(runtime)), folder })
}

pub fn fixture() -> Option<Fixture> {
    fixture_with(|_| {})
}

pub fn spec(fixture: &Fixture, script: &str) -> ContainerSpec {
    ContainerSpec { image: IMAGE.to_owned(), args: vec![format!("exec 2>&1; {script}")], ..fixture.shell("") }
}

pub async fn start(fixture: &Fixture, spec: ContainerSpec) -> Result<ContainerStatus, RuntimeError> {
    fixture.runtime().ensure_pod(pod_of(&spec)).await.unwrap();
    fixture.runtime().start(spec).await
}

/// Runs a script with a changed spec; answers what it printed, both outputs, and its end.
pub async fn run(
    fixture: &Fixture,
    script: &str,
    change: impl FnOnce(&mut ContainerSpec),
) -> (Vec<String>, ExitRecord) {
    let mut spec = spec(fixture, script);
    change(&mut spec);
    let record = fixture.run(&spec).await;
    let log = fixture.log(&spec);
    (log.into_iter().filter_map(|line| line.splitn(3, ' ').nth(2).map(str::to_owned)).collect(), record)
}

async fn check(script: &str, change: impl FnOnce(&mut ContainerSpec), expected: &[&str]) {
    let Some(fixture) = fixture() else { return };
    let (log, record) = run(&fixture, script, change).await;
    assert_eq!(log, expected, "{script}: {record:?}");
}

#[tokio::test]
async fn a_program_of_an_image_sees_its_image_and_itself_alone() {
    check(
        "echo $$ $HOME $FROM_IMAGE; cat /old/file; echo; ls /",
        |_| {},
        &["1 /root yes", "high", "bin", "dangling", "dev", "etc", "old", "outside", "proc", "sys", "tmp"],
    )
    .await;
    check(
        "set -- /proc/[0-9]*; echo $#; ls /dev | sort",
        |_| {},
        &[
            "1", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
            "urandom", "zero",
        ],
    )
    .await;
}

#[tokio::test]
async fn the_user_is_looked_up_in_the_image() {
    check(
        "id; echo $HOME",
        |spec| spec.run_as_user = Some(1000),
        &["uid=1000(app) gid=1001(app) groups=1001(app),2000(extra)", "/home/app"],
    )
    .await;
    let Some(fixture) = fixture_with(|image| image.config.user = "app:extra".to_owned()) else { return };
    let (log, _) = run(&fixture, "id -u; id -g; touch /x", |_| {}).await;
    assert_eq!(log, ["1000", "2000", "touch: /x: Permission denied"]);
    let Some(fixture) = fixture_with(|image| image.config.user = "nobody-knows".to_owned()) else { return };
    let error = start(&fixture, spec(&fixture, "true")).await.unwrap_err();
    assert!(message(&error).contains("no user `nobody-knows`"), "{}", message(&error));
}

#[tokio::test]
async fn who_is_not_root_opens_its_outputs_by_their_names() {
    // As images do that link their logs to them.
    let script = "echo out > /dev/stdout; echo err > /dev/stderr; echo self >> /proc/self/fd/1";
    check(script, |spec| spec.run_as_user = Some(1000), &["out", "err", "self"]).await;
    let Some(fixture) = fixture() else { return };
    let spec = ContainerSpec { run_as_user: Some(4711), ..spec(&fixture, "echo up; sleep 100") };
    start(&fixture, spec.clone()).await.unwrap();
    fixture.until_logged(&spec, "up").await;
    let argv = ["sh", "-c", "echo out > /dev/stdout; echo err > /dev/stderr"].map(str::to_owned).to_vec();
    let output = fixture.runtime().exec(&spec.id(), argv, Duration::from_secs(20)).await.unwrap();
    assert_eq!((&*output.stdout, &*output.stderr), (&b"out\n"[..], &b"err\n"[..]), "{output:?}");
    fixture.runtime().stop(&spec.id(), Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn rights_are_those_that_engines_give() {
    let script = "grep -E '^(Cap(Eff|Bnd|Inh|Amb)|NoNewPrivs|Seccomp):' /proc/self/status";
    let of = |caps: &str, bounding: &str, no_new: u8, seccomp: u8| {
        [
            format!("CapInh:\t{:016}", 0),
            format!("CapEff:\t{caps}"),
            format!("CapBnd:\t{bounding}"),
            format!("CapAmb:\t{:016}", 0),
            format!("NoNewPrivs:\t{no_new}"),
            format!("Seccomp:\t{seccomp}"),
        ]
    };
    let (default, none) = ("00000000a80425fb", "0000000000000000");
    let cases: [(Option<u32>, Security, [String; 6]); 4] = [
        (None, Security::default(), of(default, default, 0, 2)),
        (Some(1000), Security::default(), of(none, default, 0, 2)),
        (
            None,
            Security {
                capabilities_drop: vec!["ALL".to_owned()],
                capabilities_add: vec!["NET_ADMIN".to_owned()],
                allow_privilege_escalation: Some(false),
                ..Security::default()
            },
            of("0000000000001000", "0000000000001000", 1, 2),
        ),
        (None, Security { seccomp: Seccomp::Unconfined, ..Security::default() }, of(default, default, 0, 0)),
    ];
    let Some(fixture) = fixture() else { return };
    for (user, security, expected) in cases {
        let (log, _) = run(&fixture, script, |spec| {
            spec.run_as_user = user;
            spec.security = security;
        })
        .await;
        assert_eq!(log, expected);
    }
}

#[tokio::test]
async fn what_would_reach_the_node_is_refused_by_the_kernel() {
    let Some(fixture) = fixture() else { return };
    let script = "mknod /tmp/mem c 1 1 && head -c1 /tmp/mem; mknod /tmp/null c 1 3 && echo made; \
                  mount -t tmpfs x /tmp; unshare -U true; echo x > /proc/sys/kernel/hostname; \
                  echo x > /sys/kernel/mm/transparent_hugepage/enabled; head -c1 /proc/kcore 2>/dev/null; ls /sys/firmware; \
                  touch /sys/fs/cgroup/x; echo end";
    let (log, record) = run(&fixture, script, |_| {}).await;
    assert_eq!(record.exit_code, 0, "{log:?}");
    let expected = [
        "head: /tmp/mem: Operation not permitted",
        "made",
        "mount: permission denied (are you root?)",
        "unshare: unshare(0x10000000): Operation not permitted",
        "sh: can't create /proc/sys/kernel/hostname: Read-only file system",
        "sh: can't create /sys/kernel/mm/transparent_hugepage/enabled: Read-only file system",
        "touch: /sys/fs/cgroup/x: Read-only file system",
        "end",
    ];
    assert_eq!(log, expected);
}

#[tokio::test]
async fn what_a_container_writes_is_its_own_and_goes_with_it() {
    let Some(fixture) = fixture() else { return };
    let spec = spec(&fixture, "echo new > /old/file; mkdir /made; cat /old/file; sleep 100");
    fixture.start(&spec).await;
    fixture.until_logged(&spec, "new").await;
    assert_eq!(fs::read_to_string(fixture.folder.path().join("layers/high/old/file")).unwrap(), "high");
    let output = fixture
        .runtime()
        .exec(&spec.id(), vec!["ls".to_owned(), "-d".to_owned(), "/made".to_owned()], Duration::from_secs(30))
        .await
        .unwrap();
    assert_eq!((output.exit_code, output.stdout.as_slice()), (0, &b"/made\n"[..]), "{output:?}");
    // The first process of its namespace ignores what it has no handler for, as in every container.
    let status = fixture.runtime().stop(&spec.id(), Duration::from_millis(100)).await.unwrap();
    let ContainerState::Exited(record) = status.state else { panic!("{status:?}") };
    assert_eq!((record.exit_code, record.signal), (137, Some(9)));
    fixture.runtime().remove(&spec.id()).await.unwrap();
    fixture.runtime().remove_pod(&spec.pod.uid).await.unwrap();
    let left: Vec<_> = fs::read_dir(fixture.folder.path().join("state/selvedge-container"))
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert!(left.iter().all(|name| name.to_string_lossy().starts_with('.')), "{left:?}");
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(fixture.folder.path().to_str().unwrap()), "{mounts}");
}

#[tokio::test]
async fn volumes_are_mounted_inside_the_image_wherever_its_links_lead() {
    let Some(fixture) = fixture() else { return };
    let volume = fixture.folder.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("file"), "of the node").unwrap();
    let mount = |path: &str, read_only: bool| Mount {
        host_path: volume.clone(),
        container_path: path.into(),
        read_only,
        ..Mount::default()
    };
    let (log, _) = run(
        &fixture,
        "cat /data/deep/file; echo; cat /etc/volume/file; echo; touch /ro/x; touch /data/deep/y",
        |spec| {
            spec.mounts = vec![mount("/data/deep", false), mount("/outside/volume", false), mount("/ro", true)];
        },
    )
    .await;
    assert_eq!(log, ["of the node", "of the node", "touch: /ro/x: Read-only file system"]);
    assert!(volume.join("y").exists() && !Path::new("/etc/volume").exists());
    // As /var/run of an image that has no /run, and as its /etc/resolv.conf of systemd.
    let file = Mount { host_path: volume.join("file"), container_path: "/to-dangling".into(), ..Mount::default() };
    let high = fixture.folder.path().join("layers/high");
    symlink("old/../dangling/y/z", high.join("to-dangling")).unwrap();
    let (log, _) = run(&fixture, "cat /nowhere/at/all/x/file; echo; cat /nowhere/at/all/y/z", |spec| {
        spec.mounts = vec![mount("/dangling/x", false), file.clone()];
    })
    .await;
    assert_eq!(log, ["of the node", "of the node"]);
    assert!(!Path::new("/nowhere").exists());
    symlink("circle", high.join("circle")).unwrap();
    let mut circle = spec(&fixture, "true");
    circle.mounts = vec![mount("/circle/x", false)];
    let error = message(&start(&fixture, circle).await.unwrap_err());
    assert!(error.contains("failed to mount at /circle/x"), "{error}");
}

#[tokio::test]
async fn a_read_only_root_takes_nothing_but_its_volumes_do() {
    check(
        "touch /x; touch /dev/shm/x && echo shared",
        |spec| spec.security.read_only_root = true,
        &["touch: /x: Read-only file system", "shared"],
    )
    .await;
}

#[tokio::test]
async fn ends_are_recorded_as_they_were() {
    let Some(fixture) = fixture() else { return };
    let (_, record) = run(&fixture, "exit 42", |_| {}).await;
    assert_eq!((record.exit_code, record.reason), (42, ExitReason::Error));
    let limits = Limits { memory_bytes: Some(16 << 20), ..Limits::default() };
    let (_, record) =
        run(&fixture, "dd if=/dev/zero of=/dev/shm/x bs=1M count=60; echo not reached $?; tail /dev/zero", |spec| {
            spec.limits = limits
        })
        .await;
    assert_eq!((record.exit_code, record.reason), (137, ExitReason::OomKilled));
    for (command, expected) in [
        ("/no/such", "failed to run /no/such: No such file"),
        ("nothing", "no such program in $PATH"),
        ("/etc/passwd", "Permission denied"),
    ] {
        let mut wrong = spec(&fixture, "");
        (wrong.command, wrong.args) = (vec![command.to_owned()], Vec::new());
        let error = message(&start(&fixture, wrong).await.unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
    let mut unknown = spec(&fixture, "");
    unknown.image = "registry.example/none".to_owned();
    let error = message(&start(&fixture, unknown).await.unwrap_err());
    assert!(error.contains("not on the node"), "{error}");
}

#[tokio::test]
async fn a_container_dies_with_its_shim_and_is_taken_over_by_the_next_agent() {
    let Some(mut fixture) = fixture() else { return };
    let (kept, orphan) = (spec(&fixture, "echo up; sleep 100"), spec(&fixture, "echo up; sleep 100"));
    for spec in [&kept, &orphan] {
        fixture.start(spec).await;
        fixture.until_logged(spec, "up").await;
    }
    let state = fixture.folder.path().join("state/selvedge-container").join(orphan.id().to_string()).join("state.json");
    let shim = fixture::pid_in(&fs::read_to_string(state).unwrap(), "shim").unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(shim).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    let record = fixture.exit(&orphan.id()).await;
    assert_eq!(record.reason, ExitReason::ContainerStatusUnknown);
    fixture.runtime = None;
    let image = image_of(&fixture);
    fixture.runtime = Some(Box::new(
        ContainerRuntime::open(fixture::config(fixture.folder.path()), Arc::new(OneImage(image))).unwrap(),
    ));
    let status = fixture.runtime().status(&kept.id()).await.unwrap();
    assert!(matches!(status.state, ContainerState::Running { .. }), "{status:?}");
    assert_eq!(status.image_id, "sha256:1");
    fixture.runtime().stop(&kept.id(), Duration::ZERO).await.unwrap();
}

/// The image of a fixture again, as the next agent finds it.
pub fn image_of(fixture: &Fixture) -> Image {
    let config = ImageConfig { entrypoint: vec!["sh".to_owned(), "-c".to_owned()], ..ImageConfig::default() };
    let layers = vec!["low".to_owned(), "high".to_owned()];
    Image { id: "sha256:1".to_owned(), store: fixture.folder.path().join("layers"), layers, config }
}

#[tokio::test]
async fn a_terminal_is_the_programs_own_and_its_output_is_logged() {
    let Some(fixture) = fixture() else { return };
    let (log, _) =
        run(&fixture, "tty; stty size; test -t 0 && test -t 1 && echo terminal", |spec| spec.tty = true).await;
    assert_eq!(log.iter().map(|line| line.trim_end()).collect::<Vec<_>>(), ["/dev/pts/0", "24 80", "terminal"]);
    let (log, _) = run(&fixture, "tty; read line || echo ended", |_| {}).await;
    assert_eq!(log, ["not a tty", "ended"]);
    let spec = ContainerSpec { stdin: true, ..spec(&fixture, "echo up; read line; echo ended") };
    fixture.start(&spec).await;
    fixture.until_logged(&spec, "up").await;
    let status = fixture.runtime().stop(&spec.id(), Duration::from_millis(200)).await.unwrap();
    let ContainerState::Exited(record) = status.state else { panic!("{status:?}") };
    assert_eq!((record.exit_code, fixture.log(&spec).len()), (137, 1), "its input did not end");
}

#[tokio::test]
async fn with_the_nodes_processes_it_is_one_of_them() {
    let Some(fixture) = fixture() else { return };
    let (log, record) = run(&fixture, "test $$ -gt 1 && test -d /proc/1 && echo outside; kill -9 $$", |spec| {
        spec.host_pid = true;
    })
    .await;
    assert_eq!((log, record.signal), (vec!["outside".to_owned()], Some(9)));
}

#[tokio::test]
async fn containers_of_a_pod_share_its_name_and_memory_and_a_restarted_agent_finds_them() {
    let Some(mut fixture) = fixture() else { return };
    let first = spec(&fixture, "hostname; echo from the first > /dev/shm/x; echo up; sleep 100");
    fixture.start(&first).await;
    fixture.until_logged(&first, "up").await;
    let before = fixture.runtime().ensure_pod(pod_of(&first)).await.unwrap();
    assert_eq!(before.namespaces.iter().map(|one| &*one.kind).collect::<Vec<_>>(), ["ipc", "uts"]);
    fixture.runtime = None;
    let image = image_of(&fixture);
    fixture.runtime = Some(Box::new(
        ContainerRuntime::open(fixture::config(fixture.folder.path()), Arc::new(OneImage(image))).unwrap(),
    ));
    let second = ContainerSpec { container: "second".to_owned(), log_dir: first.log_dir.join("2"), ..first.clone() };
    let second = ContainerSpec { args: vec!["hostname; cat /dev/shm/x".to_owned()], ..second };
    assert_eq!(fixture.runtime().ensure_pod(pod_of(&first)).await.unwrap(), before);
    fixture.run(&second).await;
    let name = format!("stdout F {}", first.pod.name);
    assert_eq!(fixture.log(&second), [name.as_str(), "stdout F from the first"]);
    assert_eq!(fixture.log(&first)[0], name);
    fixture.runtime().stop_pod(&first.pod.uid, Duration::ZERO).await.unwrap();
    fixture.runtime().remove_pod(&first.pod.uid).await.unwrap();
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(&first.pod.uid), "{mounts}");
    let after = fixture.runtime().ensure_pod(pod_of(&first)).await.unwrap();
    assert_ne!(after.id, before.id);
    fixture.runtime().remove_pod(&first.pod.uid).await.unwrap();
}

pub fn pod_of(spec: &ContainerSpec) -> PodSpec {
    PodSpec { pod: spec.pod.clone(), hostname: spec.pod.name.clone(), ..PodSpec::default() }
}
