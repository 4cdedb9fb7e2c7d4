//! The state directory of a container: what is on disk, and who may say what became of it.
//!
//! ```text
//! <root>/<pod uid>_<container>_<attempt>/
//!   launch.json   what runs, without what may be secret; complete as soon as the directory has its name
//!   lock          held by the shim as long as it lives
//!   state.json    pids and control groups, written before the program runs
//!   exit.json     how it ended; written once, by the holder of the lock
//! ```
//!
//! The environment and the command line may hold Secrets, which do not belong on a flash that can be carried away: they are in a
//! file in memory, `<launch dir>/<pod uid>_<container>_<attempt>.json`, whose name `launch.json` has. After a reboot that file is
//! not there, and nobody needs it: nothing of the container runs, and the record on disk suffices to count the attempt and close it.
//!
//! A disk that takes no file, after an error of its file system above all, must not hide that a container ended. The record of its end
//! is then beside the environment in memory, `<launch dir>/<pod uid>_<container>_<attempt>.exit`, for as long as the boot lasts.
//!
//! `version` in a file is that of the oldest reader that suffices, so that a program that was rolled back still finds what its
//! successor has started. A file with a higher one is left alone. Version 1 has its environment in `launch.json`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::OnceLock,
};

use jiff::Timestamp;
use rustix::fs::RenameFlags;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    ContainerId, ContainerResources, ContainerSpec, ExitReason, ExitRecord, FileLock, ImageRoot, Isolation, Mount,
    NamespaceRef, OwnUsers, beneath, cgroup::CgroupPaths,
};

/// Version of `launch.json`, `state.json` and `exit.json`. What came later, the file in memory, a reader of version 1 can do
/// without.
///
/// 1: a file `lock` in the directory is locked, and `root` in it is mounted on. 2: the directory itself is locked.
pub const STATE_VERSION: u32 = 2;

/// A spec has at most some 1.5 MiB of environment in it; more than this was not written by us.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Space for an exit record, taken when the container starts: a disk that is full at its end does not lose it.
const EXIT_RESERVE_BYTES: usize = 16 * 1024;

/// What the shim is to do; `launch.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Launch {
    pub version: u32,
    pub spec: ContainerSpec,
    /// The file that is executed.
    pub program: PathBuf,
    /// Its arguments, the zeroth among them.
    pub argv: Vec<String>,
    /// Whether mounts appear at their container paths; WebAssembly gets them as open directories instead.
    pub bind_mounts: bool,
    /// Opened before rights are given up, and handed on from descriptor 3: a file by its path, or the directory of a volume.
    #[serde(default)]
    pub files: Vec<OpenFile>,
    /// Directories of the node that no container sees, unless it is privileged or has a volume there.
    #[serde(default)]
    pub hidden: Vec<PathBuf>,
    pub cgroup_parent: String,
    pub isolation: Isolation,
    pub image_id: String,
    /// The image that its files come from. Without one it has the node's files, and `program` is a path on the node; with one,
    /// `program` is the first word of its command line, which is looked up in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRoot>,
    /// The program that makes the container; without one, the shim does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<OciRuntime>,
    /// Namespaces of the pod that it enters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<NamespaceRef>,
    /// The pod's own users, where it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<OwnUsers>,
    /// Whose pid namespace it enters, in place of one of its own: the first process of the pod's, or another container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes_of: Option<Process>,
    /// What asks the program to end; SIGTERM where nobody says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<i32>,
    /// Of the record on disk: where the whole is, in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private: Option<PathBuf>,
    /// When it was created; `""` in records of the first version.
    #[serde(default)]
    pub boot_id: String,
    pub log_bytes_max: u64,
    pub log_files_max: u32,
}

impl Launch {
    /// What of it may be on disk, where a program that was stolen with its flash finds no Secret.
    fn record(&self) -> Self {
        if self.private.is_none() {
            return self.clone();
        }
        let mut record = self.clone();
        record.spec.env.clear();
        record.spec.command.clear();
        record.spec.args.clear();
        record.argv.clear();
        if let Some(profile) = &mut record.spec.security.seccomp_profile {
            // Long, and nobody's need once the boot is over.
            (profile.filter, profile.oci) = Default::default();
        }
        record
    }

    /// Whether it was created in this boot, as far as that is known.
    pub fn is_of_this_boot(&self) -> bool {
        self.boot_id.is_empty() || boot_id().is_ok_and(|boot_id| boot_id == self.boot_id)
    }
}

/// A program with the command line of runc, which makes and runs a container of an image (OCI).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OciRuntime {
    /// Its file.
    pub path: PathBuf,
    /// Words before its subcommand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// A directory in memory, of this container alone: see `shim::oci`.
    pub bundle: PathBuf,
}

/// What is handed on as an open descriptor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OpenFile {
    /// A file that only the node writes to.
    File(PathBuf),
    /// The directory that a mount shows.
    Directory(Mount),
}

impl OpenFile {
    pub fn open(&self) -> Result<OwnedFd, String> {
        match self {
            Self::File(path) => File::open(path)
                .map(OwnedFd::from)
                .map_err(|error| format!("failed to open {}: {error}", path.display())),
            Self::Directory(mount) => {
                let explain = |error: io::Error| {
                    let (volume, path) = (mount.host_path.display(), mount.container_path.display());
                    format!("failed to open volume {volume} for {path} as a directory: {error}")
                };
                beneath::reopen_directory(mount.open()?.as_fd()).map_err(explain)
            }
        }
    }
}

/// What runs; `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    pub version: u32,
    pub shim: Process,
    /// The program, or the init process of its pid namespace.
    pub child: Process,
    /// What asks it to end, where that is not SIGTERM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<i32>,
    pub started_at: Timestamp,
    pub cgroups: CgroupPaths,
    pub notices: Vec<String>,
}

/// A process, as distinct from a later one with the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`, ticks since boot.
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

/// A state directory.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    pub fn new(root: &Path, id: &ContainerId) -> Self {
        Self { path: root.join(id.to_string()) }
    }

    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Spends the identity: makes the directory with `launch.json` in it, in one step that succeeds once. `false` when it was
    /// spent before.
    ///
    /// What may be secret is left out; [`write_private`](Self::write_private) puts it where `launch` says.
    pub fn create(&self, root: &Path, launch: &Launch) -> io::Result<bool> {
        let launch = &launch.record();
        let draft = root.join(format!(".new-{}", launch.spec.id()));
        // Left by a kubelet that was killed in this very function; nobody else ever looks into it.
        if draft.exists() {
            fs::remove_dir_all(&draft).map_err(|error| explain("remove", &draft, error))?;
        }
        fs::DirBuilder::new().mode(0o700).create(&draft).map_err(|error| explain("create", &draft, error))?;
        let fill = || -> io::Result<()> {
            // The directory is not flushed by itself: one that a power cut has emptied is a spent identity all the same.
            write_json(&draft.join("launch.json"), launch, Durable::Yes)
        };
        fill().map_err(|error| explain("write", &draft, error))?;
        let renamed =
            rustix::fs::renameat_with(rustix::fs::CWD, &draft, rustix::fs::CWD, &self.path, RenameFlags::NOREPLACE);
        match renamed {
            Ok(()) => sync_dir(root).map(|()| true).map_err(|error| explain("write", root, error)),
            Err(rustix::io::Errno::EXIST | rustix::io::Errno::NOTEMPTY) => {
                let _ = fs::remove_dir_all(&draft);
                Ok(false)
            }
            Err(error) => Err(explain("create", &self.path, error.into())),
        }
    }

    /// What is on disk: enough to say whose the container is and to close it.
    pub fn record(&self) -> io::Result<Launch> {
        let launch: Launch = read_json(&self.path.join("launch.json"))?;
        refuse_newer(launch.version).map(|()| launch)
    }

    /// All of it, the environment included.
    pub fn launch(&self) -> io::Result<Launch> {
        let record = self.record()?;
        match &record.private {
            Some(private) => read_json(private),
            None => Ok(record),
        }
    }

    /// Changes what is on disk of what the container gets. How it was started stays as it is.
    pub fn write_resources(&self, resources: &ContainerResources) -> io::Result<()> {
        let mut record = self.record()?;
        (record.spec.limits, record.spec.requests) = (resources.limits, resources.requests);
        record.spec.pod_resources = resources.pod;
        let path = self.path.join("launch.json");
        write_json(&path, &record, Durable::Yes).map_err(|error| explain("write", &path, error))
    }

    /// Puts the whole of `launch` into memory. Only whoever has spent the identity calls this.
    pub fn write_private(&self, launch: &Launch) -> io::Result<()> {
        let Some(path) = &launch.private else { return Ok(()) };
        write_json(path, launch, Durable::No).map_err(|error| explain("write", path, error))
    }

    pub fn running(&self) -> io::Result<Option<Running>> {
        let running: Option<Running> = optional(read_json(&self.path.join("state.json")))?;
        running.map(|running| refuse_newer(running.version).map(|()| running)).transpose()
    }

    /// How it ended: on disk, or in memory when the disk has not taken it.
    pub fn exit(&self) -> io::Result<Option<ExitRecord>> {
        let exit: Option<ExitRecord> = match optional(read_json(&self.path.join("exit.json")))? {
            Some(exit) => Some(exit),
            None => self.exit_in_memory().map_or(Ok(None), |path| optional(read_json(&path)))?,
        };
        exit.map(|exit| refuse_newer(exit.version).map(|()| exit)).transpose()
    }

    pub fn write_running(&self, running: &Running) -> io::Result<()> {
        // It is of no use after a power cut: the boot is another one then.
        write_json(&self.path.join("state.json"), running, Durable::No)
    }

    /// Takes the disk space that [`write_exit`](Self::write_exit) will need.
    pub fn reserve_exit(&self) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).open(self.path.join("exit.reserve"))?;
        // The space is taken when the write succeeds; that the bytes survive a power cut is of no use.
        file.write_all(&[b' '; EXIT_RESERVE_BYTES])
    }

    /// Says how the container ended. Only the holder of the lock calls this.
    pub fn write_exit(&self, record: &ExitRecord) -> io::Result<()> {
        let Err(error) = self.write_exit_on_disk(record) else { return Ok(()) };
        match self.exit_in_memory() {
            Some(path) => write_json(&path, record, Durable::No).map_err(|_| error),
            None => Err(error),
        }
    }

    /// Where the record of its end is when the disk does not take it. After a reboot it is not there, and nobody needs it.
    fn exit_in_memory(&self) -> Option<PathBuf> {
        self.record().ok()?.private.map(|private| exit_beside(&private))
    }

    fn write_exit_on_disk(&self, record: &ExitRecord) -> io::Result<()> {
        let reserve = self.path.join("exit.reserve");
        let bytes = serde_json::to_vec(record)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&reserve)?;
        file.write_all(&bytes)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_all()?;
        fs::rename(&reserve, self.path.join("exit.json"))?;
        sync_dir(&self.path)
    }

    /// `None` while the shim lives.
    pub fn try_lock(&self) -> io::Result<Option<FileLock>> {
        FileLock::try_acquire(self.lock_file()?)
    }

    /// The shim's own way, which waits.
    pub fn lock(&self) -> io::Result<FileLock> {
        FileLock::acquire(self.lock_file()?)
    }

    /// The directory itself; shims of version 1 hold a file in it.
    fn lock_file(&self) -> io::Result<File> {
        match File::open(self.path.join("lock")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::open(&self.path),
            opened => opened,
        }
    }

    /// An empty directory, the same for all containers: each mounts on it in its own view only.
    pub fn staging(&self) -> io::Result<PathBuf> {
        let staging = self.path.with_file_name(".staging");
        match fs::DirBuilder::new().mode(0o755).create(&staging) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(staging),
        }
    }
}

impl Running {
    /// What asks the program to end.
    pub fn stop_signal(&self) -> i32 {
        self.stop_signal.unwrap_or(libc::SIGTERM)
    }
}

impl Process {
    /// The process `pid` as it is now.
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, start_ticks: start_ticks(pid)?, boot_id: boot_id()? })
    }

    /// Whether this very process still exists (as a zombie, too).
    pub fn exists(&self) -> bool {
        boot_id().is_ok_and(|boot_id| boot_id == self.boot_id)
            && start_ticks(self.pid).is_ok_and(|ticks| ticks == self.start_ticks)
    }

    /// Whether it exists and has not ended.
    pub fn runs(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let state = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().next());
        state.is_some_and(|state| !matches!(state, "Z" | "X" | "x")) && self.exists()
    }
}

impl ExitRecord {
    /// The record of a container that nobody saw end.
    pub fn unknown(message: &str, started_at: Option<Timestamp>) -> Self {
        Self {
            version: STATE_VERSION,
            exit_code: 137,
            signal: None,
            reason: ExitReason::ContainerStatusUnknown,
            message: message.to_owned(),
            started_at,
            finished_at: Timestamp::now(),
        }
    }

    /// The record of a container whose program never ran.
    pub fn start_error(message: &str) -> Self {
        Self {
            version: STATE_VERSION,
            exit_code: 128,
            signal: None,
            reason: ExitReason::StartError,
            message: message.chars().take(1024).collect(),
            started_at: None,
            finished_at: Timestamp::now(),
        }
    }
}

/// The file in memory for a container's end, beside that for its environment.
pub fn exit_beside(private: &Path) -> PathBuf {
    private.with_extension("exit")
}

/// Whether a disk takes no file, whatever is to be written: it is full, or became read-only after an error.
pub fn takes_no_file(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), ReadOnlyFilesystem | StorageFull | QuotaExceeded)
}

fn explain(act: &str, path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("failed to {act} {}: {error}", path.display()))
}

/// Changes with every boot.
pub fn boot_id() -> io::Result<String> {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    if let Some(boot_id) = BOOT_ID.get() {
        return Ok(boot_id.clone());
    }
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    Ok(BOOT_ID.get_or_init(|| boot_id).clone())
}

fn start_ticks(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_ticks(&stat).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc/<pid>/stat"))
}

/// The name in parentheses may itself hold parentheses and spaces, so fields are counted from the last one.
fn parse_start_ticks(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn refuse_newer(version: u32) -> io::Result<()> {
    if version <= STATE_VERSION {
        return Ok(());
    }
    let text = format!("it has version {version}, written by a newer program; this one reads up to {STATE_VERSION}");
    Err(io::Error::new(io::ErrorKind::Unsupported, text))
}

fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    serde_json::from_slice(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Whether a file has to survive a power cut.
#[derive(PartialEq)]
enum Durable {
    Yes,
    No,
}

/// Written aside, then renamed: a reader sees all of it or the one before.
fn write_json<T: Serialize>(path: &Path, value: &T, durable: Durable) -> io::Result<()> {
    let draft = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    if durable == Durable::Yes {
        file.sync_all()?;
    }
    fs::rename(&draft, path)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests;
