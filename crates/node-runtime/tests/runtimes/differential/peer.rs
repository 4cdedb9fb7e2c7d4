//! Runs a case under Debian's runc and crun, as containerd's shim does: detached, with its pipes.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
};

use rustix::mount::{MountFlags, UnmountFlags};

use super::{
    Facts,
    case::Case,
    facts_in,
    oci::{self, Sandbox},
};
use crate::fixture::{HIDE_UNIFIED, PATIENCE};

/// Another runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    Runc,
    Crun,
}

/// An overlay mount for the time of a case.
struct Root(PathBuf);

impl Root {
    fn mount(bundle: &Path, layers: &[PathBuf]) -> Self {
        for name in ["rootfs", "upper", "work"] {
            fs::create_dir_all(bundle.join(name)).unwrap();
        }
        let lower: Vec<_> = layers.iter().rev().map(|layer| layer.to_str().unwrap()).collect();
        let (upper, work) = (bundle.join("upper"), bundle.join("work"));
        let options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
        let options = std::ffi::CString::new(options).unwrap();
        let root = bundle.join("rootfs");
        rustix::mount::mount("overlay", &root, "overlay", MountFlags::empty(), options.as_c_str()).unwrap();
        Self(root)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }

    /// Whether it is on this machine.
    pub fn is_here(self) -> bool {
        Command::new(self.name()).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    }

    /// A call of it that ends. crun before 1.9 does nothing where a version 2 hierarchy beside version 1 has controllers, so it is not
    /// shown that.
    fn command(self, state: &Path) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "60"]);
        if self == Self::Crun && Path::new("/sys/fs/cgroup/unified").exists() {
            let script = format!("{HIDE_UNIFIED}; exec \"$@\"");
            // What is mounted in volumes is still seen.
            command.args(["unshare", "-m", "--propagation", "slave", "sh", "-c", &script, "sh"]);
        }
        command.arg(self.name()).arg("--root").arg(state).stdin(Stdio::null());
        command
    }

    /// What the program of a case sees, and a command that is run beside it.
    pub fn run(
        self,
        dir: &Path,
        case: &Case,
        image: (&[PathBuf], &[String]),
        sandbox: &Sandbox,
    ) -> Result<Run, String> {
        let id = format!("{}-{}", case.spec.pod.uid, self.name());
        let (bundle, state) = (dir.join(&id), dir.join(format!("state-{}", self.name())));
        let root = Root::mount(&bundle, image.0);
        let mut case = case.clone();
        if case.with_command {
            case.spec.args = vec!["stay".to_owned()];
        }
        let config = oci::config(&case, image.1, &root.0, sandbox);
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        let ended = Ended { peer: self, state: &state, id: &id };
        let ((stdout_rx, stdout_tx), (stderr_rx, stderr_tx)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        let mut run = self.command(&state);
        run.args(["run", "--detach", "--bundle"]).arg(&bundle).arg(&id).stdin(null(dir));
        let mut started = run.stdout(stdout_tx).stderr(stderr_tx).spawn().map_err(|error| error.to_string())?;
        // The command has the writing ends as well.
        drop(run);
        let complaint = all(stderr_rx);
        let line = first_line(stdout_rx);
        let status = started.wait().map_err(|error| error.to_string())?;
        let Some(program) = line.as_ref().ok().and_then(|line| facts_in(line)) else {
            drop(ended);
            let complaint = complaint.recv_timeout(PATIENCE).unwrap_or_default();
            return Err(format!("{}: {status}, {line:?}: {complaint}", self.name()));
        };
        let command = if case.with_command {
            let file = format!("/dev/shm/{id}");
            case.spec.args = vec![file.clone()];
            let process = bundle.join("process.json");
            fs::write(&process, oci::config(&case, image.1, &root.0, sandbox)["process"].to_string()).unwrap();
            let mut exec = self.command(&state);
            let output = exec.args(["exec", "--process"]).arg(&process).arg(&id).stdin(null(dir)).output().unwrap();
            let text = written(sandbox, &id);
            Some(facts_in(&text).ok_or_else(|| format!("{} exec: {output:?} {text}", self.name()))?)
        } else {
            None
        };
        drop(ended);
        Ok(Run { program, command })
    }
}

/// What was seen under one runtime.
pub struct Run {
    pub program: Facts,
    pub command: Option<Facts>,
}

/// Takes the container away, however its case went.
struct Ended<'a> {
    peer: Peer,
    state: &'a Path,
    id: &'a str,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut delete = self.peer.command(self.state);
        let _ = delete.args(["delete", "--force", self.id]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// A device like `/dev/null`, but not the node's: crun gives what it has as input to the container's user.
fn null(dir: &Path) -> fs::File {
    let path = dir.join("null");
    if !path.exists() {
        let (mode, number) = (rustix::fs::Mode::from_raw_mode(0o666), rustix::fs::makedev(1, 3));
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::CharacterDevice, mode, number).unwrap();
    }
    fs::File::open(path).unwrap()
}

/// What a command has left in the shared memory of its pod.
pub fn written(sandbox: &Sandbox, name: &str) -> String {
    let path = Path::new(&sandbox.shm).join(name);
    let text = fs::read_to_string(&path).unwrap_or_default();
    let _ = fs::remove_file(path);
    text
}

/// All that comes out of a pipe, when it is closed.
fn all(mut reader: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (text_tx, text_rx) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = reader.read_to_string(&mut text);
        let _ = text_tx.send(text);
    });
    text_rx
}

/// A pipe that nobody writes to and nobody closes must not hold the suite up.
fn first_line(reader: impl Read + Send + 'static) -> Result<String, String> {
    let (line_tx, line_rx) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = BufReader::new(reader).read_line(&mut line);
        let _ = line_tx.send(line);
    });
    line_rx.recv_timeout(PATIENCE).map_err(|_| "it said nothing".to_owned())
}

/// Removes what other runtimes leave of a pod in hierarchies that ours does not use.
pub fn remove_groups(group: &Path) {
    for line in fs::read_to_string("/proc/mounts").unwrap_or_default().lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        if let [_, target, "cgroup" | "cgroup2", ..] = fields[..] {
            let _ = fs::remove_dir(Path::new(target).join(group));
        }
    }
}

/// Those that are here; where none may be missing, that one is fails.
pub fn peers() -> Vec<Peer> {
    let all = [Peer::Runc, Peer::Crun];
    let missing: BTreeMap<_, _> = all.iter().filter(|peer| !peer.is_here()).map(|peer| (peer.name(), ())).collect();
    for name in missing.keys() {
        testkit::skip(&format!("no {name}; install it, or run the tests by cargo xtask test"));
    }
    all.into_iter().filter(|peer| !missing.contains_key(peer.name())).collect()
}
