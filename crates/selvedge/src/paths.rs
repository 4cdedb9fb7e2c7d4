//! Where each role keeps its state, and the lock that keeps two processes from one directory.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base_fs::DirLock;

/// A data directory.
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The directory that was asked for, or the default: `/var/lib/selvedge` as root, else `$XDG_DATA_HOME/selvedge`.
    pub fn new(asked: Option<PathBuf>) -> Result<Self> {
        let dir = match asked {
            Some(dir) => dir,
            None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib/selvedge"),
            None => default_of_user().context("no --data-dir, and neither XDG_DATA_HOME nor HOME is set")?,
        };
        // Pods and `ports.json` name files in it, so it must not depend on where the program was started.
        Ok(Self(std::path::absolute(&dir).with_context(|| format!("failed to resolve {}", dir.display()))?))
    }

    /// The directory itself.
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
        self.tighten().with_context(|| format!("failed to make {} private", self.0.display()))?;
        let path = run.join(format!("{role}.lock"));
        let lock = DirLock::try_acquire_at(&path).with_context(|| format!("failed to lock {}", path.display()))?;
        lock.with_context(|| {
            format!("another selvedge {role} runs on {}: stop it, or choose another --data-dir", self.0.display())
        })
    }
}

impl DataDir {
    /// Takes everyone else's rights away, also from what a former version left readable. Below `node` and `edge` only the
    /// directories themselves: what is in them has the modes that pods ask for, and nobody gets past the directory.
    fn tighten(&self) -> io::Result<()> {
        set_mode(&self.0, 0o700)?;
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => set_mode(&entry.path(), 0o700)?,
                kind if kind.is_file() => set_mode(&entry.path(), 0o600)?,
                _ => {}
            }
        }
        tighten_all(&self.run(), DEPTH_MAX)?;
        tighten_all(&self.hub(), DEPTH_MAX)
    }
}

/// The hub's directories are three deep.
const DEPTH_MAX: usize = 8;

fn tighten_all(dir: &Path, depth_left: usize) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() && depth_left > 0 => {
                set_mode(&entry.path(), 0o700)?;
                tighten_all(&entry.path(), depth_left - 1)?;
            }
            kind if kind.is_file() => set_mode(&entry.path(), 0o600)?,
            _ => {}
        }
    }
    Ok(())
}

/// Sets a mode, where it is another one; a file that was deleted meanwhile needs none.
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    let changed = fs::symlink_metadata(path).and_then(|found| match found.permissions().mode() & 0o777 {
        held if held == mode => Ok(()),
        _ => fs::set_permissions(path, fs::Permissions::from_mode(mode)),
    });
    match changed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        changed => changed,
    }
}

fn default_of_user() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share"))).map(|dir| dir.join("selvedge"))
}
