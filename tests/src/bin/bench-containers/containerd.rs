//! containerd with CNI plugins, in directories of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use testkit::image::{Compression, Entry, Image};
use testkit::process;
use testkit::program::{Outcome, signal};
use testkit::wait::eventually;

use crate::place::{Mounted, remove_groups};
use crate::plugins::{self, PLUGINS};
use crate::{Bench, has, write};

const IMAGE: &str = "example.com/box:1";
const PAUSE: &str = "example.com/pause:1";
/// Where it keeps what CRI has; …
const OF_CRI: &str = "k8s.io";
/// … and where the service for CRI does not hold on to images that are removed.
const APART: &str = "bench";
const GROUP: &str = "selvedge-bench-cri";
const PATIENCE: Duration = Duration::from_secs(30);
/// What keeps a pod's namespaces there.
const PAUSE_TEXT: &str = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n";

/// containerd, until it is dropped.
pub struct Containerd {
    child: Child,
    dir: PathBuf,
    /// Directories that it has fixed names for, in memory.
    _own: [Mounted; 2],
}

/// What the client of CRI has measured, in milliseconds.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pods {
    pub sandbox: Vec<f64>,
    pub create: Vec<f64>,
    pub start: Vec<f64>,
    pub exec: Vec<f64>,
    pub stop: Vec<f64>,
}

impl Pods {
    /// From nothing to a container that runs.
    pub fn whole(&self) -> Vec<f64> {
        let steps = self.sandbox.iter().zip(&self.create).zip(&self.start);
        steps.map(|((sandbox, create), start)| sandbox + create + start).collect()
    }
}

impl Containerd {
    /// One with the image of the benchmark, below `dir`; nothing, and a line in the report, where it is not installed.
    pub fn start(bench: &mut Bench, dir: &Path) -> Result<Option<Self>> {
        let mut missing: Vec<String> = ["containerd", "ctr", "runc", "iptables"]
            .iter()
            .filter(|name| !has(name))
            .map(|name| (*name).to_owned())
            .collect();
        if !Path::new(PLUGINS).join("bridge").exists() {
            missing.push("CNI plugins".to_owned());
        }
        if std::env::var_os("SELVEDGE_CRI").is_none() {
            missing.push("a client of CRI (built by `cargo xtask bench containers` where there is Go)".to_owned());
        }
        if !missing.is_empty() {
            bench.report.note(format!("containerd is no peer here; missing: {}", missing.join(", ")));
            return Ok(None);
        }
        let dir = dir.join("containerd");
        write(&dir.join("config.toml"), config(&dir))?;
        write(&dir.join("cni/10-bench.conflist"), plugins::list(&dir).to_string())?;
        let own = [Mounted::tmpfs(Path::new("/run/containerd"))?, Mounted::tmpfs(Path::new("/var/lib/cni"))?];
        let log = File::create(dir.join("log"))?;
        let mut command = Command::new("containerd");
        command.arg("--config").arg(dir.join("config.toml")).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let containerd = Self { child: command.spawn()?, dir, _own: own };
        eventually("containerd", PATIENCE, || {
            containerd.ctr(OF_CRI, &["version"]).map_err(|error| format!("{error:#}"))
        })?;
        containerd.import(IMAGE, &bench.image)?;
        containerd.import(PAUSE, &pause(&containerd.dir)?)?;
        // The service for CRI learns of images by and by; the first pod takes what is done once.
        eventually("a pod of containerd", PATIENCE, || {
            containerd.cri("pods", 2).map(drop).map_err(|error| format!("{error:#}\n{}", containerd.log()))
        })?;
        Ok(Some(containerd))
    }

    fn log(&self) -> String {
        testkit::program::tail(&std::fs::read_to_string(self.dir.join("log")).unwrap_or_default())
    }

    fn socket(&self) -> String {
        self.dir.join("c.sock").to_string_lossy().into_owned()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Pulls an image from a registry without TLS, and unpacks it.
    pub fn pull(&self, name: &str) -> Result<()> {
        self.ctr(APART, &["images", "pull", "--plain-http", name]).map(drop)
    }

    /// Removes a pulled image with its layers, before it answers.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.ctr(APART, &["images", "rm", "--sync", name])?;
        let left = self.ctr(APART, &["snapshots", "ls"])?;
        ensure!(left.lines().count() <= 1, "layers are left of {name}: {left}");
        Ok(())
    }

    fn ctr(&self, namespace: &str, words: &[&str]) -> Result<String> {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "300", "ctr", "--address", &self.socket(), "--namespace", namespace]).args(words);
        Outcome::of(command.stdin(Stdio::null()))?.ok()
    }

    fn import(&self, name: &str, image: &Image) -> Result<()> {
        let archive = self.dir.join("image.tar");
        std::fs::write(&archive, image.docker_archive(name))?;
        self.ctr(OF_CRI, &["images", "import", &archive.to_string_lossy()]).map(drop)
    }

    /// The client of CRI: `pods COUNT`, `hold COUNT`, `drop`.
    pub fn cri(&self, command: &str, count: usize) -> Result<Pods> {
        let client = std::env::var_os("SELVEDGE_CRI").context("there is a client of CRI")?;
        let mut run = Command::new(client);
        run.args([&self.socket(), IMAGE, command, &count.to_string()]);
        run.env("CRI_LOGS", self.dir.join("logs")).env("CRI_CGROUP", format!("/{GROUP}"));
        let said = Outcome::of(&mut run)?.ok()?;
        serde_json::from_str(&said).with_context(|| format!("the client of CRI said {said}"))
    }

    /// Its shims, and what waits in each pod.
    pub fn keepers(&self) -> Vec<u32> {
        let socket = self.socket();
        let is_shim = |words: &[String]| words[0].contains("containerd-shim") && words.contains(&socket);
        let shims: Vec<u32> = process::find(is_shim).into_iter().map(|(pid, _)| pid).collect();
        let pauses = process::find(|words| words[0] == "/pause").into_iter().map(|(pid, _)| pid);
        let pauses = pauses.filter(|pid| process::ancestors(*pid).iter().any(|above| shims.contains(above)));
        shims.iter().copied().chain(pauses).collect()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Err(error) = self.cri("drop", 0) {
            eprintln!("{error:#}\n{}", self.log());
        }
        let shims = self.keepers();
        signal(self.pid(), libc::SIGTERM);
        let ended = eventually("the end of containerd", PATIENCE, || match self.child.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        if ended.is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        shims.iter().for_each(|pid| signal(*pid, libc::SIGKILL));
        remove_groups(GROUP);
    }
}

/// As a kubelet's containerd is set up, and everything of it below one directory.
fn config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
  address = "{dir}/c.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{PLUGINS}"
  conf_dir = "{dir}/cni"
"#
    )
}

/// An image with the smallest program that waits.
fn pause(dir: &Path) -> Result<Image> {
    let (text, program) = (dir.join("pause.c"), dir.join("pause"));
    std::fs::write(&text, PAUSE_TEXT)?;
    let status = Command::new("cc").args(["-Os", "-static", "-s", "-o"]).arg(&program).arg(&text).status();
    ensure!(status.context("a C compiler is needed")?.success(), "the program that waits cannot be compiled");
    let entry = Entry::file("pause", std::fs::read(&program)?).mode(0o755);
    Ok(Image::new().layer(&[entry], Compression::Gzip).config(serde_json::json!({"Entrypoint": ["/pause"]})))
}
