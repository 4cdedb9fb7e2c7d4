//! The same containers made by other runtimes: what a pod relies on does not depend on who makes its containers, and nothing is left
//! of one that has ended.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use node_runtime::{
    ContainerRuntime, ContainerSpec, ContainerState, ExitReason, ExitRecord, Image, Limits, Mount, OciRuntime,
    RuntimeError, Security,
};

use crate::{
    container::{self, OneImage},
    fixture::{self, Fixture, HIDE_UNIFIED, eventually, message, pid_in},
    rights,
};

/// Those that are here; where none may be missing, that one is fails.
fn runtimes() -> Vec<OciRuntime> {
    let installed = OciRuntime::installed();
    let find = |name: &&str| {
        let found = installed.iter().find(|runtime| runtime.handler == **name).cloned();
        if found.is_none() {
            testkit::skip(&format!("no {name}; install it, or run the tests by cargo xtask test"));
        }
        found
    };
    ["crun", "runc"].iter().filter_map(find).collect()
}

/// crun before 1.9 does nothing where a version 2 hierarchy beside version 1 has controllers, so it is not shown that.
fn usable(folder: &Path, runtime: &OciRuntime) -> OciRuntime {
    let mut runtime = runtime.clone();
    if runtime.handler == "crun" && Path::new("/sys/fs/cgroup/unified").exists() {
        let script = folder.join("crun");
        let text = format!(
            "#!/bin/sh\nexec unshare -m sh -c '{HIDE_UNIFIED}; exec {} \"$@\"' sh \"$@\"\n",
            runtime.path.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        runtime.path = script;
    }
    runtime
}

struct Bench {
    fixture: Fixture,
    image: Image,
    runtime: OciRuntime,
}

impl Bench {
    fn new(runtime: &OciRuntime) -> Option<Self> {
        let (folder, image) = container::folder_with_image()?;
        let runtime = usable(folder.path(), runtime);
        let mut bench = Self { fixture: Fixture { runtime: None, folder }, image, runtime };
        bench.open();
        Some(bench)
    }

    /// As an agent that is started.
    fn open(&mut self) {
        self.fixture.runtime = None;
        let config = fixture::config(self.fixture.folder.path());
        let images = Arc::new(OneImage(self.image.clone()));
        let opened = ContainerRuntime::open_oci(config, images, self.runtime.clone()).unwrap();
        self.fixture.runtime = Some(Box::new(opened));
    }

    fn spec(&self, script: &str) -> ContainerSpec {
        container::spec(&self.fixture, script)
    }

    async fn run(&self, spec: &ContainerSpec) -> (Vec<String>, ExitRecord) {
        let record = self.fixture.run(spec).await;
        let log = self.fixture.log(spec);
        (log.into_iter().filter_map(|line| line.splitn(3, ' ').nth(2).map(str::to_owned)).collect(), record)
    }

    fn state_of(&self, spec: &ContainerSpec) -> PathBuf {
        self.fixture.folder.path().join("state").join(&self.runtime.handler).join(spec.id().to_string())
    }

    /// Takes the pod away and looks for what is left of it anywhere.
    async fn leaves_nothing(&self, spec: &ContainerSpec) {
        self.fixture.runtime().remove_pod(&spec.pod.uid).await.unwrap();
        let left: Vec<PathBuf> = below(&self.fixture.folder.path().join("in-memory"));
        let left: Vec<_> = left.iter().filter(|path| path.to_string_lossy().contains(&spec.pod.uid)).collect();
        assert!(left.is_empty(), "{}: {left:?}", self.runtime.handler);
        assert!(!self.state_of(spec).exists());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&spec.pod.uid), "{}: {mounts}", self.runtime.handler);
        for line in fs::read_to_string("/proc/mounts").unwrap().lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            if let [_, target, "cgroup" | "cgroup2", ..] = fields[..] {
                let group = Path::new(target).join("selvedge-test").join(&spec.pod.uid);
                assert!(!group.exists(), "{}: {}", self.runtime.handler, group.display());
            }
        }
    }
}

/// All that is below a directory.
fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { [below(&path), vec![path]].concat() } else { vec![path] }).collect()
}

/// Each runtime that is here, on a node of its own.
async fn under_each(check: impl AsyncFn(Bench)) {
    for runtime in runtimes() {
        let Some(bench) = Bench::new(&runtime) else { return };
        check(bench).await;
    }
}

#[tokio::test]
async fn another_runtime_runs_the_same_container() {
    under_each(async |bench| {
        let volumes = bench.fixture.folder.path().join("volumes");
        fs::create_dir_all(volumes.join("data/sub")).unwrap();
        fs::write(volumes.join("file"), "of the node").unwrap();
        let mount = |host: &str, sub: Option<&str>, path: &str, read_only: bool| Mount {
            host_path: volumes.join(host),
            sub_path: sub.map(PathBuf::from),
            container_path: path.into(),
            read_only,
            ..Mount::default()
        };
        let mut spec = bench.spec(
            "echo $$ $FROM_IMAGE $HOME; id; pwd; cat /old/file /etc/config; echo; echo x > /data/new; \
             echo x > /etc/config; mount -t tmpfs x /tmp; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; exit 3",
        );
        spec.mounts = vec![mount("data", Some("sub"), "/data", false), mount("file", None, "/etc/config", true)];
        spec.run_as_user = Some(1000);
        spec.supplemental_groups = vec![77];
        spec.working_dir = Some("/work/dir".into());
        spec.security = Security { allow_privilege_escalation: Some(false), ..Security::default() };
        fs::set_permissions(volumes.join("data/sub"), fs::Permissions::from_mode(0o777)).unwrap();
        let (log, record) = bench.run(&spec).await;
        let expected = [
            "1 yes /home/app",
            "uid=1000(app) gid=1001(app) groups=77,1001(app),2000(extra)",
            "/work/dir",
            "highof the node",
            "sh: can't create /etc/config: Read-only file system",
            "mount: permission denied (are you root?)",
            "CapEff:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ];
        assert_eq!(log, expected, "{}: {record:?}", bench.runtime.handler);
        assert_eq!((record.exit_code, record.reason), (3, ExitReason::Error));
        assert_eq!(fs::read_to_string(volumes.join("data/sub/new")).unwrap(), "x\n");
        bench.leaves_nothing(&spec).await;
        assert_eq!(fs::read_to_string(volumes.join("data/sub/new")).unwrap(), "x\n", "a volume is nobody's to delete");
    })
    .await;
}

#[tokio::test]
async fn a_profile_of_the_node_counts_under_another_runtime_too() {
    under_each(async |bench| {
        rights::put_profile(bench.fixture.folder.path(), "some.json", rights::DENIES_SOME.as_bytes());
        let script = "mkdir /made; chmod 700 /tmp && echo changed; grep Seccomp: /proc/self/status";
        let spec = rights::with_profile(bench.spec(script), "some.json");
        let (log, record) = bench.run(&spec).await;
        let expected = ["mkdir: can't create directory '/made': No space left on device", "changed", "Seccomp:\t2"];
        assert_eq!(log, expected, "{}: {record:?}", bench.runtime.handler);
        let spec = ContainerSpec { attempt: 1, ..rights::with_profile(spec, "missing.json") };
        let error = message(&bench.fixture.runtime().start(spec).await.unwrap_err());
        assert!(error.contains("missing.json\": No such file"), "{}: {error}", bench.runtime.handler);
    })
    .await;
}

#[tokio::test]
async fn a_command_is_run_by_the_runtime_of_its_container() {
    under_each(async |bench| {
        let spec = bench.spec("echo up; exec sleep 1000");
        bench.fixture.start(&spec).await;
        bench.fixture.until_logged(&spec, "up").await;
        let runtime = bench.fixture.runtime();
        let exec = async |script: &str, timeout| {
            runtime.exec(&spec.id(), ["sh", "-c", script].map(str::to_owned).to_vec(), timeout).await
        };
        let output = exec("echo $FROM_IMAGE; echo err >&2; cat; exit 7", fixture::PATIENCE).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            (output.exit_code, &*text, &*output.stderr),
            (7, "yes\n", &b"err\n"[..]),
            "{}",
            bench.runtime.handler
        );
        let error = exec("echo $$ > /late; exec sleep 1000", Duration::from_millis(500)).await.unwrap_err();
        assert!(matches!(error, RuntimeError::ExecTimeout { .. }), "{error}");
        // It has ended with its time, not only its runtime.
        let output = exec("test -e /proc/$(cat /late) && echo still there", fixture::PATIENCE).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{}", bench.runtime.handler);
        let missing = runtime.exec(&spec.id(), vec!["/not/there".to_owned()], fixture::PATIENCE).await.unwrap_err();
        assert!(message(&missing).contains("/not/there"), "{}: {}", bench.runtime.handler, message(&missing));
        runtime.stop(&spec.id(), Duration::ZERO).await.unwrap();
        bench.leaves_nothing(&spec).await;
    })
    .await;
}

#[tokio::test]
async fn memory_that_runs_out_is_seen_under_each_runtime() {
    under_each(async |bench| {
        let mut spec = bench.spec("tail /dev/zero");
        spec.limits = Limits { memory_bytes: Some(48 << 20), ..Limits::default() };
        let (log, record) = bench.run(&spec).await;
        assert_eq!(
            (record.exit_code, record.reason),
            (137, ExitReason::OomKilled),
            "{}: {log:?}",
            bench.runtime.handler
        );
        bench.leaves_nothing(&spec).await;
    })
    .await;
}

#[tokio::test]
async fn a_container_of_another_runtime_outlives_the_agent() {
    under_each(async |mut bench| {
        let spec = bench.spec("trap 'echo asked; exit 5' TERM; echo up; while :; do sleep 0.1; done");
        bench.fixture.start(&spec).await;
        bench.fixture.until_logged(&spec, "up").await;
        bench.open();
        let runtime = bench.fixture.runtime();
        let status = runtime.status(&spec.id()).await.unwrap();
        assert!(matches!(status.state, ContainerState::Running { .. }), "{:?}", status.state);
        let output = runtime.exec(&spec.id(), vec!["id".to_owned(), "-u".to_owned()], fixture::PATIENCE).await.unwrap();
        assert_eq!(output.stdout, b"0\n", "{}: {output:?}", bench.runtime.handler);
        let status = runtime.stop(&spec.id(), fixture::PATIENCE).await.unwrap();
        let ContainerState::Exited(record) = status.state else { panic!("{:?}", status.state) };
        assert_eq!((record.exit_code, record.reason), (5, ExitReason::Error), "{}", bench.runtime.handler);
        bench.fixture.until_logged(&spec, "asked").await;
        bench.leaves_nothing(&spec).await;
    })
    .await;
}

#[tokio::test]
async fn a_container_of_another_runtime_is_killed_when_nobody_would_see_its_end() {
    under_each(async |bench| {
        let spec = bench.spec("echo up; exec sleep 1000");
        bench.fixture.start(&spec).await;
        bench.fixture.until_logged(&spec, "up").await;
        let state = fs::read_to_string(bench.state_of(&spec).join("state.json")).unwrap();
        let (shim, program) = (pid_in(&state, "shim").unwrap(), pid_in(&state, "child").unwrap());
        rustix::process::kill_process(rustix::process::Pid::from_raw(shim).unwrap(), rustix::process::Signal::KILL)
            .unwrap();
        let record = bench.fixture.exit(&spec.id()).await;
        assert_eq!(record.reason, ExitReason::ContainerStatusUnknown);
        eventually("the end of the program", async || match fs::read_to_string(format!("/proc/{program}/stat")) {
            Ok(stat) if !stat.contains(") Z ") => Err(stat),
            _ => Ok(()),
        })
        .await;
        bench.leaves_nothing(&spec).await;
    })
    .await;
}

#[tokio::test]
async fn terminal_and_input_are_handed_on_by_each_runtime() {
    under_each(async |bench| {
        let mut spec = bench.spec("tty; test -t 0 && test -t 1 && echo all; stty size");
        (spec.tty, spec.stdin) = (true, true);
        let (log, record) = bench.run(&spec).await;
        let log: Vec<&str> = log.iter().map(|line| line.trim_end()).collect();
        assert_eq!(log, ["/dev/pts/0", "all", "24 80"], "{}: {record:?}", bench.runtime.handler);
        bench.leaves_nothing(&spec).await;
        let spec = bench.spec("cat; echo nothing to read");
        assert_eq!(bench.run(&spec).await.0, ["nothing to read"], "{}", bench.runtime.handler);
        bench.leaves_nothing(&spec).await;
    })
    .await;
}

#[tokio::test]
async fn a_runtime_that_fails_is_quoted() {
    under_each(async |mut bench| {
        let mut spec = bench.spec("");
        (spec.command, spec.args) = (vec!["/no/such/program".to_owned()], Vec::new());
        let error = container::start(&bench.fixture, spec.clone()).await.unwrap_err();
        let text = message(&error);
        assert!(text.contains("/no/such/program") && text.contains("o such file"), "{text}");
        assert!(text.contains(&bench.runtime.path.display().to_string()), "{text}");
        bench.leaves_nothing(&spec).await;

        let spec = bench.spec("true");
        let path = std::mem::replace(&mut bench.runtime.path, "/no/such/runtime".into());
        bench.open();
        let text = message(&container::start(&bench.fixture, spec.clone()).await.unwrap_err());
        assert!(text.contains("failed to run /no/such/runtime: No such file or directory"), "{text}");
        bench.leaves_nothing(&spec).await;

        bench.runtime.path = path;
        let user = bench.spec("true");
        bench.image.config.user = "nobody-knows".to_owned();
        bench.open();
        let text = message(&container::start(&bench.fixture, user.clone()).await.unwrap_err());
        assert!(text.contains("no user `nobody-knows`"), "{text}");
        bench.leaves_nothing(&user).await;
    })
    .await;
}
