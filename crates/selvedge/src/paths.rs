//! Where each role keeps its state, and the lock that keeps two processes from one folder.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tracing::warn;

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

    /// Makes the folder and takes it for `role` until the answer is dropped.
    pub fn claim(&self, role: &str) -> Result<Claim> {
        let run = self.run();
        fs::create_dir_all(&run)
            .with_context(|| format!("failed to make {}; choose another folder with --data-dir", run.display()))?;
        let path = run.join(format!("{role}.lock"));
        let file = File::create(&path).with_context(|| format!("failed to open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Claim { file }),
            Err(TryLockError::WouldBlock) => {
                bail!("another selvedge {role} runs on {}: stop it, or choose another --data-dir", self.0.display())
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("failed to lock {}", path.display())),
        }
    }
}

/// A role's hold on a data folder; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct Claim {
    file: File,
}

impl Drop for Claim {
    /// Closing the file would not do: a child that is being started holds a copy of it until its `exec`.
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            warn!(%error, "Failed to let go of the data folder.");
        }
    }
}

fn default_of_user() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share"))).map(|dir| dir.join("selvedge"))
}
