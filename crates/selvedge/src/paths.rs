//! Where each role keeps its state, and the lock that keeps two processes from one folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base_fs::DirLock;

/// A data folder.
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The folder that was asked for, or the default: `/var/lib/selvedge` as root, else `$XDG_DATA_HOME/selvedge`.
    pub fn new(asked: Option<PathBuf>) -> Result<Self> {
        let dir = match asked {
            Some(dir) => dir,
            None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib/selvedge"),
            None => default_of_user().context("no --data-dir, and neither XDG_DATA_HOME nor HOME is set")?,
        };
        // Pods and `ports.json` name files in it, so it must not depend on where the program was started.
        Ok(Self(std::path::absolute(&dir).with_context(|| format!("failed to resolve {}", dir.display()))?))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// State of the hub.
    pub fn hub(&self) -> PathBuf {
        self.0.join("hub")
    }

    /// State of the node.
    pub fn node(&self) -> PathBuf {
        self.0.join("node")
    }

    /// State of the edge plane.
    pub fn edge(&self) -> PathBuf {
        self.0.join("edge")
    }

    /// Sockets and locks.
    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// The administrator's kubeconfig, written by the hub.
    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }

    /// Rendered manifests of `--example`.
    pub fn example(&self) -> PathBuf {
        self.0.join("example")
    }

    /// Creates the directory and locks it for `role`, until the lock is dropped or the process ends.
    pub fn lock(&self, role: &str) -> Result<DirLock> {
        let run = self.run();
        fs::create_dir_all(&run)
            .with_context(|| format!("failed to create {}; choose another directory with --data-dir", run.display()))?;
        let path = run.join(format!("{role}.lock"));
        let lock = DirLock::try_acquire_at(&path).with_context(|| format!("failed to lock {}", path.display()))?;
        lock.with_context(|| {
            format!("another selvedge {role} runs on {}: stop it, or choose another --data-dir", self.0.display())
        })
    }
}

fn default_of_user() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share"))).map(|dir| dir.join("selvedge"))
}
