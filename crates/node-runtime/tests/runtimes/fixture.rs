//! A runtime over a folder of its own.

use std::{
    env, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use node_runtime::{
    ContainerId, ContainerSpec, ContainerState, ContainerStatus, ExitRecord, PodNetwork, PodRef, PodRuntime, PodSpec,
    ProcessConfig, ProcessRuntime, RuntimeError,
};

/// A machine that is busy with other tests is slow, not broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Fixture {
    pub folder: tempfile::TempDir,
    /// `None` while no kubelet runs.
    pub runtime: Option<Box<dyn PodRuntime>>,
}

/// The program that stands in for `selvedge`.
pub fn helper() -> PathBuf {
    let test = env::current_exe().unwrap();
    let helper = test.ancestors().nth(2).unwrap().join("examples/runtime-helper");
    assert!(helper.exists(), "{} is missing: build the examples of this crate", helper.display());
    helper
}

pub fn config(folder: &Path) -> ProcessConfig {
    let mut config = ProcessConfig::new(folder.join("state"), vec!["/bin".into(), "/usr/bin".into()]);
    config.program = helper();
    config.launch_dir = Some(folder.join("in-memory"));
    fs::create_dir_all(folder.join("in-memory")).unwrap();
    config.cgroup_parent = "selvedge-test".to_owned();
    config
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut ProcessConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        change(&mut config);
        Self { runtime: Some(Box::new(ProcessRuntime::open(config).unwrap())), folder }
    }

    pub fn runtime(&self) -> &dyn PodRuntime {
        self.runtime.as_deref().unwrap()
    }

    /// A container that runs `script`; no two have the same pod.
    pub fn shell(&self, script: &str) -> ContainerSpec {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let uid = format!("{}-{number}", std::process::id());
        ContainerSpec {
            pod: pod(&uid),
            container: "main".to_owned(),
            image: "file:///bin/sh".to_owned(),
            args: vec!["-c".to_owned(), script.to_owned()],
            log_dir: self.folder.path().join("logs").join(&uid),
            ..ContainerSpec::default()
        }
    }

    pub async fn start(&self, spec: &ContainerSpec) -> ContainerStatus {
        let pod = PodSpec { pod: spec.pod.clone(), hostname: spec.pod.name.clone(), ..PodSpec::default() };
        self.runtime().ensure_pod(pod).await.unwrap();
        self.runtime().start(spec.clone()).await.unwrap()
    }

    /// Starts it and waits for its end.
    pub async fn run(&self, spec: &ContainerSpec) -> ExitRecord {
        self.start(spec).await;
        self.exit(&spec.id()).await
    }

    pub async fn exit(&self, id: &ContainerId) -> ExitRecord {
        let what = format!("the end of {id}");
        eventually(&what, async || match self.runtime().status(id).await.unwrap().state {
            ContainerState::Exited(record) => Ok(record),
            state => Err(format!("{state:?}")),
        })
        .await
    }

    /// The log without its times.
    pub fn log(&self, spec: &ContainerSpec) -> Vec<String> {
        let text = fs::read_to_string(spec.log_path()).unwrap_or_default();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    pub async fn until_logged(&self, spec: &ContainerSpec, line: &str) {
        let what = format!("the log line {line:?}");
        eventually(&what, async || {
            let log = self.log(spec);
            if log.iter().any(|logged| logged.contains(line)) { Ok(()) } else { Err(format!("{log:?}")) }
        })
        .await
    }

    /// As a kubelet that is started again.
    pub fn reopen(&mut self) {
        self.runtime = None;
        self.runtime = Some(Box::new(ProcessRuntime::open(config(self.folder.path())).unwrap()));
    }
}

impl Drop for Fixture {
    /// Leaves nothing running, whatever the test made of it.
    fn drop(&mut self) {
        for pod in fs::read_dir(self.folder.path().join("in-memory/pods")).into_iter().flatten().flatten() {
            for pinned in fs::read_dir(pod.path()).into_iter().flatten().flatten() {
                if let Ok(text) = fs::read_to_string(pinned.path())
                    && let Some(pid) = pid_in(&text, "process")
                {
                    let _ = std::process::Command::new("/bin/kill").args(["-9", &pid.to_string()]).status();
                }
                // Most are no mounts.
                let _ = rustix::mount::unmount(pinned.path(), rustix::mount::UnmountFlags::DETACH);
            }
        }
        let folders = fs::read_dir(self.folder.path().join("state")).into_iter().flatten().flatten();
        for entry in folders.map(|entry| entry.path()).flat_map(fs::read_dir).flatten().flatten() {
            if let Ok(text) = fs::read_to_string(entry.path().join("state.json"))
                && !entry.path().join("exit.json").exists()
                && let Some(pid) = pid_in(&text, "child")
            {
                let _ = std::process::Command::new("/bin/kill").args(["-9", &pid.to_string()]).status();
            }
        }
    }
}

fn pod(uid: &str) -> PodRef {
    PodRef { uid: uid.to_owned(), namespace: "default".to_owned(), name: format!("pod-{uid}") }
}

/// `<who>.pid` of a `state.json`.
pub fn pid_in(state: &str, who: &str) -> Option<i32> {
    let state: serde_json::Value = serde_json::from_str(state).ok()?;
    i32::try_from(state[who]["pid"].as_i64()?).ok()
}

/// Waits for a state with a deadline that prints the last one seen.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < deadline, "waited for {what}; last seen: {seen}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn message(error: &RuntimeError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// A limit was rejected: because there is nothing here to hold it, or by a fault, which fails the test.
pub fn skip_without_control_groups(error: &str) {
    assert!(error.contains("failed to set the container's limits"), "{error}");
    testkit::skip(error);
}

/// Pods get a network of their own, with nothing in it.
#[derive(Debug)]
pub struct NoLinks;

impl PodNetwork for NoLinks {
    fn set_up(&self, _: &PodSpec, _: &Path) -> Result<Vec<IpAddr>, String> {
        Ok(Vec::new())
    }

    fn remove(&self, _: &str) {}
}

/// What a shell does for programs that are not to see the hierarchy of version 2 beside version 1, in mounts of its own: what they make in
/// its place ends with these.
pub const HIDE_UNIFIED: &str = "umount /sys/fs/cgroup/unified 2>/dev/null; mount -t tmpfs none /sys/fs/cgroup/unified";
