//! Where each role keeps its state, and the lock that keeps two processes from one directory.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use base_fs::DirLock;

/// What only Selvedge makes in a data directory: where one of these is, the rest is ours as well.
const EVIDENCE: [&str; 7] = [
    "run/hub.lock",
    "run/node.lock",
    "run/edge.lock",
    "hub/pki",
    "hub/store",
    "node/pki/identity.json",
    "edge/journal",
];

/// What may be in a directory that becomes ours: settings, what the edge plane is to do, images, profiles, and what a file system brings along.
fn may_be_there_before(name: &str) -> bool {
    matches!(name, "edge" | "images" | "seccomp" | "lost+found") || name.ends_with(".yaml") || name.ends_with(".yml")
}

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

    /// A hub that is being restored, or a restore that was cut off.
    pub fn restoring(&self) -> PathBuf {
        self.0.join("hub.restoring")
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

    /// Whether a role has worked in it.
    pub fn is_in_use(&self) -> bool {
        EVIDENCE.iter().any(|name| self.0.join(name).exists())
    }

    /// What is somebody else's in a directory in which no role has worked yet: nothing may be made private there, and nothing be
    /// removed.
    fn foreign(&self) -> Option<PathBuf> {
        if self.is_in_use() {
            return None;
        }
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut foreign = entries.filter(|entry| !may_be_there_before(&entry.file_name().to_string_lossy()));
        foreign.next().map(|entry| entry.path())
    }

    /// What keeps a hub from being restored here; settings and what a file system brings along do not.
    pub fn in_the_way(&self) -> io::Result<Option<PathBuf>> {
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_ours = entry.path() == self.run() || entry.path() == self.restoring();
            if !is_ours && !may_be_there_before(&name.to_string_lossy()) {
                return Ok(Some(entry.path()));
            }
        }
        Ok(None)
    }

    /// Creates the directory and locks it for `role`, until the lock is dropped or the process ends.
    pub fn lock(&self, role: &str) -> Result<DirLock> {
        let path = self.run().join(format!("{role}.lock"));
        self.try_lock(role)?.with_context(|| {
            format!(
                "another selvedge {role} runs on {}{}: stop it, or choose another directory",
                self.0.display(),
                holder(&path)
            )
        })
    }

    /// As [`Self::lock`], but `None` when another process holds it.
    pub fn try_lock(&self, role: &str) -> Result<Option<DirLock>> {
        if let Some(foreign) = self.foreign() {
            bail!(
                "{} is not Selvedge's: it holds {}; choose an empty or a new directory with --data-dir",
                self.0.display(),
                foreign.display()
            );
        }
        let run = self.run();
        fs::create_dir_all(&run)
            .with_context(|| format!("failed to create {}; choose another directory with --data-dir", run.display()))?;
        self.tighten().with_context(|| format!("failed to make {} private", self.0.display()))?;
        let path = run.join(format!("{role}.lock"));
        let lock = DirLock::try_acquire_at(&path).with_context(|| format!("failed to lock {}", path.display()))?;
        if let Some(lock) = &lock {
            note_holder(lock.file());
        }
        Ok(lock)
    }
}

/// Writes this process's id into the lock's file, for people.
fn note_holder(mut file: &fs::File) {
    let id = format!("{}\n", std::process::id());
    // On a full disk it is a lock without a name.
    let _ = file.set_len(0).and_then(|()| file.write_all(id.as_bytes()));
}

/// Which process holds a lock, as far as it has said so.
fn holder(path: &Path) -> String {
    let bytes = base_fs::read_bounded(path, HOLDER_BYTES_MAX).unwrap_or_default();
    match String::from_utf8_lossy(&bytes).trim().parse::<u32>() {
        Ok(id) => format!(" as process {id}"),
        Err(_) => String::new(),
    }
}

/// A process id and the end of its line.
const HOLDER_BYTES_MAX: usize = 32;

impl DataDir {
    /// Takes everyone else's rights away, also from what a former version left readable. Below `node` and `edge` only the
    /// directories themselves: what is in them has the modes that pods ask for, and nobody gets past the directory. What is beside
    /// them is the user's.
    fn tighten(&self) -> io::Result<()> {
        // It may be a link to a disk.
        set_mode(&fs::canonicalize(&self.0)?, 0o700)?;
        for dir in [self.hub(), self.node(), self.edge(), self.run(), self.example()] {
            set_mode(&dir, 0o700)?;
        }
        for file in [self.kubeconfig(), base_http::Ports::path(&self.0)] {
            match set_mode(&file, 0o600) {
                // Nobody else gets past the directory. `ports.json` is found as its writer made it.
                Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
                changed => changed?,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "node")]
    #[test]
    fn a_nodes_key_is_evidence_of_us() {
        let path = node_kubelet::Identity::path(Path::new(""));
        assert!(EVIDENCE.iter().any(|name| path == Path::new(name)), "{}", path.display());
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    }

    #[test]
    fn a_directory_of_somebody_else_is_left_as_it_is() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let package = dir.path().join("node/package.json");
        fs::create_dir(dir.path().join("node")).expect("space");
        fs::write(&package, "{}").expect("space");
        fs::set_permissions(&package, fs::Permissions::from_mode(0o644)).expect("it is ours");
        let data_dir = DataDir::new(Some(dir.path().to_owned())).expect("a path");
        let Err(error) = data_dir.lock("hub") else { panic!("it is somebody else's") };
        let error = error.to_string();
        assert!(error.contains("/node;") && error.contains("--data-dir"), "{error}");
        assert!(!data_dir.run().exists() && mode(&package) == 0o644);
    }

    #[test]
    fn whoever_comes_second_learns_who_is_there() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data_dir = DataDir::new(Some(dir.path().to_owned())).expect("a path");
        let first = data_dir.lock("edge").expect("nobody is there");
        let error = data_dir.lock("edge").expect_err("it is taken").to_string();
        let words = [format!("as process {}:", std::process::id()), "another selvedge edge".to_owned()];
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        drop(first);
        drop(data_dir.lock("edge").expect("nobody is there any more"));
    }

    #[test]
    fn settings_may_be_there_before() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let settings = dir.path().join("hub.yaml");
        fs::write(&settings, "{}").expect("space");
        fs::set_permissions(&settings, fs::Permissions::from_mode(0o644)).expect("it is ours");
        let data_dir = DataDir::new(Some(dir.path().to_owned())).expect("a path");
        drop(data_dir.lock("hub").expect("it becomes ours"));
        assert_eq!((mode(dir.path()), mode(&data_dir.run()), mode(&settings)), (0o700, 0o700, 0o644));
        fs::write(dir.path().join("notes.txt"), "").expect("space");
        drop(data_dir.lock("node").expect("it stays ours"));
    }
}
