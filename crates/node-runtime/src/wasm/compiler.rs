//! Compiling beside the agent: at most once per module, within limits, and only as long as somebody waits for it.
//!
//! ```text
//! start of a container ──▶ digest of the module ──▶ sound artefact? ──yes──▶ the shim
//!                          (remembered by inode)         │ no
//!                                                        ▼
//!                          one job per digest, shared: `wasm-compile` in `<parent>/.compile/<digest>`
//! ```
//!
//! What a module is, is decided by its digest, which is computed here by streaming, so that a start whose artefact is there
//! runs no child at all. What has been hashed once is known by its inode, size and times and not read again; the same holds
//! for artefacts, whose own check sums are verified once in the life of the agent. Both are files that only the node's
//! administrator or the node itself can change, and a change shows in `ctime`, which nobody can set.
//!
//! A compiler lives as long as somebody waits: each start that needs it holds the job, and the last one to let it drop kills
//! the child. A killed agent is noticed by the child itself, whose stdin is a pipe from here: at its end it exits. (A
//! parent-death signal would be bound to the thread that forked, and threads of a pool come and go.) The lock of a digest is
//! held by the child, so the kernel releases it with the child, whoever killed it.

use std::{
    collections::HashMap,
    fs::{self, File},
    hash::{BuildHasher, Hash, RandomState},
    io::{self, Read},
    os::unix::{fs::MetadataExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{Arc, Mutex, MutexGuard, OnceLock, Weak},
    time::{Duration, Instant},
};

use node_shim::cgroup::{CgroupPaths, Hierarchy};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    sync::{Semaphore, watch},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::{Artefact, cache};
use crate::{Limits, ProcessConfig, WasmConfig};

/// Compilers at a time. Each may take a quarter of the machine's memory: half of it is left to what runs.
const JOBS_MAX: usize = 2;

/// One CPU each, so that they do not take all there are for minutes.
const CPU_MILLIS: u64 = 1000;

/// It has a handful of threads.
const PIDS_MAX: u64 = 64;

/// Where more files than this are known, all are forgotten and read again when they are needed.
const KNOWN_FILES_MAX: usize = 1024;

/// A module that could not be compiled within the limits is tried again after this many times what the try took: it costs
/// a tenth of a CPU at most, however often its pod is restarted.
const RETRY_FACTOR: u32 = 10;

/// Much longer than any compiler runs.
const GROUP_AGE_MAX: Duration = Duration::from_secs(3600);

/// What a compiler may say; the rest of a message is of no use to anybody.
const MESSAGE_CHARS_MAX: usize = 2000;

/// A killed child that does not end hangs in the kernel, on a disk that does not answer; nobody waits for it any longer.
const KILL_WAIT_MAX: Duration = Duration::from_secs(10);

/// Makes artefacts of modules.
pub(super) struct Compiler {
    inner: Arc<Inner>,
}

struct Inner {
    program: PathBuf,
    cgroup_parent: PathBuf,
    config: WasmConfig,
    /// SHA-256 of modules, by the file as it was when it was read.
    digests: Mutex<HashMap<FileState, String>>,
    /// Artefacts whose check sums have been verified.
    sound: Mutex<HashMap<PathBuf, FileState>>,
    /// What the compiler's engine puts into an artefact's name; known from the first child on, as only children load it.
    compatibility: OnceLock<String>,
    jobs: Mutex<HashMap<String, Weak<Job>>>,
    failures: Mutex<HashMap<String, Failure>>,
    permits: Semaphore,
}

/// A compiler that runs or is about to, for everyone who waits for it.
struct Job {
    result: watch::Receiver<Option<Result<Artefact, String>>>,
    /// Cancels when the last holder of the job drops it.
    _cancel: DropGuard,
}

/// A module that went beyond its limits.
struct Failure {
    reason: String,
    retry_at: Instant,
}

/// What tells that a file is the one that was read, without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileState {
    path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    /// Of the inode: set by the kernel at each write, rename and change of times.
    changed: (i64, i64),
}

impl FileState {
    fn of(path: &Path, meta: &fs::Metadata) -> Self {
        Self {
            path: path.to_owned(),
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl Compiler {
    pub fn new(process: &ProcessConfig, config: WasmConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                program: process.program.clone(),
                cgroup_parent: Path::new(&process.cgroup_parent).join(".compile"),
                config,
                digests: Mutex::default(),
                sound: Mutex::default(),
                compatibility: OnceLock::new(),
                jobs: Mutex::default(),
                failures: Mutex::default(),
                permits: Semaphore::new(JOBS_MAX),
            }),
        }
    }

    /// The artefact of a module, compiled when it is missing or damaged. A caller that stops waiting cancels the compilation
    /// when nobody else waits for it.
    pub async fn artefact(&self, module: &Path) -> Result<Artefact, String> {
        let (inner, path) = (Arc::clone(&self.inner), module.to_owned());
        let (sha256, found) = super::blocking(move || {
            let sha256 = inner.digest(&path)?;
            let found = inner.find(&sha256);
            Ok::<_, String>((sha256, found))
        })
        .await?;
        if let Some(path) = found {
            return Ok(Artefact { path, sha256 });
        }
        let job = self.join(module, &sha256)?;
        let mut result = job.result.clone();
        let result = result.wait_for(Option::is_some).await.map_err(|_| "the compiling task died".to_owned())?.clone();
        result.expect("the state that was waited for")
    }

    /// The job of this digest: one that is under way, or a new one.
    fn join(&self, module: &Path, sha256: &str) -> Result<Arc<Job>, String> {
        self.inner.check_failure(sha256)?;
        let mut jobs = lock(&self.inner.jobs);
        jobs.retain(|_, job| job.strong_count() > 0);
        if let Some(job) = jobs.get(sha256).and_then(Weak::upgrade)
            && job.result.borrow().is_none()
        {
            return Ok(job);
        }
        let cancel = CancellationToken::new();
        let (result_tx, result) = watch::channel(None);
        let job = Arc::new(Job { result, _cancel: cancel.clone().drop_guard() });
        jobs.insert(sha256.to_owned(), Arc::downgrade(&job));
        let (inner, module, sha256) = (Arc::clone(&self.inner), module.to_owned(), sha256.to_owned());
        // Nobody awaits its handle: its end is the sender's, which everyone who waits sees.
        drop(base_observe::spawn_detached("wasm-compiler", async move {
            let result = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                result = inner.compile(&module, &sha256) => result,
            };
            result_tx.send_replace(Some(result));
        }));
        Ok(job)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

impl Inner {
    /// SHA-256 of a module, from memory when the file is the one that was hashed.
    fn digest(&self, module: &Path) -> Result<String, String> {
        let failed = |error: io::Error| format!("failed to read it: {error}");
        let file = File::open(module).map_err(failed)?;
        let before = FileState::of(module, &file.metadata().map_err(failed)?);
        if let Some(sha256) = lock(&self.digests).get(&before) {
            return Ok(sha256.clone());
        }
        if before.bytes > cache::MODULE_BYTES_MAX {
            let (bytes, allowed) = (before.bytes, cache::MODULE_BYTES_MAX);
            return Err(failed(io::Error::other(format!("it has {bytes} bytes; {allowed} are allowed"))));
        }
        let sha256 = cache::sha256_of(&mut (&file).take(cache::MODULE_BYTES_MAX)).map_err(failed)?;
        if FileState::of(module, &file.metadata().map_err(failed)?) != before {
            return Err("it was being written while it was read; put it in place by renaming".to_owned());
        }
        remember(&self.digests, before, sha256.clone());
        Ok(sha256)
    }

    /// An artefact that is there and sound.
    fn find(&self, sha256: &str) -> Option<PathBuf> {
        let path = cache::artefact_path(&self.config.cache_dir, sha256, self.compatibility.get()?);
        let file = File::open(&path).ok()?;
        let state = FileState::of(&path, &file.metadata().ok()?);
        let known = lock(&self.sound).get(&path) == Some(&state);
        if !known && !cache::is_sound(&file, &path) {
            return None;
        }
        // The time of last use decides what is dropped when the cache is full. A second start in the same minute need not
        // write it again.
        let state = if cache::touch(&file) { FileState::of(&path, &file.metadata().ok()?) } else { state };
        remember(&self.sound, path.clone(), state);
        Some(path)
    }

    fn check_failure(&self, sha256: &str) -> Result<(), String> {
        let mut failures = lock(&self.failures);
        let now = Instant::now();
        failures.retain(|_, failure| failure.retry_at > now);
        match failures.get(sha256) {
            Some(failure) => {
                let wait = failure.retry_at.saturating_duration_since(now).as_secs();
                Err(format!("{}; not tried again for {wait} s", failure.reason))
            }
            None => Ok(()),
        }
    }

    async fn compile(self: &Arc<Self>, module: &Path, sha256: &str) -> Result<Artefact, String> {
        let _permit = self.permits.acquire().await.map_err(|_| "no compiler is started any more".to_owned())?;
        let begun = Instant::now();
        let limits = Limits {
            memory_bytes: Some(self.config.compile_memory_bytes_max),
            cpu_millis: Some(CPU_MILLIS),
            pids: Some(PIDS_MAX),
        };
        let parent = self.cgroup_parent.clone();
        // A name of its own each time: one that is being emptied must not be the one that is being filled, and another agent
        // may have the same parent.
        let group = parent.join(format!("{}-{:016x}", &sha256[..16], RandomState::new().hash_one(begun)));
        let groups = super::blocking(move || {
            let hierarchy = Hierarchy::of_this_process();
            // Of agents that were killed while they compiled.
            hierarchy.remove_empty_below(&parent, GROUP_AGE_MAX);
            hierarchy.create_group(&group, &limits)
        })
        .await;
        let groups = groups.unwrap_or_else(|error| {
            // Without root the child limits itself, by what the kernel counts per process.
            info!(%error, "The compiler of WebAssembly has no control group.");
            CgroupPaths::default()
        });
        // Ends the child and what it has started, and removes its group, also when this future is dropped.
        let group = CompileGroup(groups.clone());
        let child = self.spawn(module, sha256, groups.is_empty())?;
        let ended = run(child, &groups, self.config.compile_time_max).await;
        let oom_killed = groups.oom_killed();
        drop(group);
        let output = match ended {
            Ended::Output(output) => output,
            Ended::Failed(error) => return Err(format!("failed to run the compiler: {error}")),
            Ended::OutOfTime => {
                let seconds = self.config.compile_time_max.as_secs();
                return Err(self.over_limit(
                    sha256,
                    begun,
                    format!("compiling it takes longer than {seconds} s of one CPU, which is what this node gives it"),
                ));
            }
        };
        if output.status.success() {
            return self.take_answer(&output, sha256).await;
        }
        let message: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(MESSAGE_CHARS_MAX).collect();
        let no_memory = oom_killed || (groups.is_empty() && output.status.signal() == Some(libc::SIGABRT));
        if no_memory {
            let mebibytes = self.config.compile_memory_bytes_max >> 20;
            return Err(self.over_limit(
                sha256,
                begun,
                format!("compiling it takes more than {mebibytes} MiB of memory, which is what this node gives it"),
            ));
        }
        match output.status.signal() {
            Some(signal) => Err(format!("its compiler was ended by signal {signal} {message}").trim().to_owned()),
            None => Err(message),
        }
    }

    async fn take_answer(self: &Arc<Self>, output: &Output, sha256: &str) -> Result<Artefact, String> {
        let artefact: Artefact = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("failed to read what the compiler says: {error}"))?;
        if artefact.sha256 != sha256 {
            return Err("it was changed while it was compiled".to_owned());
        }
        if let Some(compatibility) = cache::compatibility_of(&artefact.path) {
            let _ = self.compatibility.set(compatibility);
        }
        // The child has verified or written it just now: what is remembered is the file as it is.
        let (inner, path) = (Arc::clone(self), artefact.path.clone());
        super::blocking(move || {
            if let Ok(meta) = fs::metadata(&path) {
                let state = FileState::of(&path, &meta);
                remember(&inner.sound, path, state);
            }
        })
        .await;
        Ok(artefact)
    }

    fn spawn(&self, module: &Path, sha256: &str, limits_itself: bool) -> Result<Child, String> {
        let mut command = Command::new(&self.program);
        command.arg("wasm-compile").arg(module).arg(sha256).arg(&self.config.cache_dir);
        command.arg(self.config.cache_bytes_max.to_string());
        if limits_itself {
            command.arg(self.config.compile_memory_bytes_max.to_string());
        }
        command.env_clear().current_dir("/").process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().map_err(|error| format!("failed to run the compiler: {error}"))
    }

    fn over_limit(&self, sha256: &str, begun: Instant, reason: String) -> String {
        let retry_at = Instant::now() + begun.elapsed().min(self.config.compile_time_max) * RETRY_FACTOR;
        warn!(%sha256, %reason, "Failed to compile a WebAssembly module within its limits.");
        remember(&self.failures, sha256.to_owned(), Failure { reason: reason.clone(), retry_at });
        reason
    }
}

fn remember<K: Hash + Eq, V>(known: &Mutex<HashMap<K, V>>, key: K, value: V) {
    let mut known = lock(known);
    if known.len() >= KNOWN_FILES_MAX {
        known.clear();
    }
    known.insert(key, value);
}

enum Ended {
    Output(Output),
    Failed(io::Error),
    OutOfTime,
}

/// Puts the child into its group, gives it the word to begin, and waits for its end.
async fn run(mut child: Child, groups: &CgroupPaths, time_max: Duration) -> Ended {
    let Some(mut stdin) = child.stdin.take() else { return Ended::Failed(io::Error::other("it has no stdin")) };
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
    let joined = {
        let groups = groups.clone();
        super::blocking(move || groups.join(pid)).await
    };
    let begin = async {
        joined?;
        stdin.write_all(b"g").await
    };
    if let Err(error) = begin.await {
        return Ended::Failed(error);
    }
    let waited = tokio::time::timeout(time_max, child.wait_with_output()).await;
    // Held until here: its end is what ends a child whose agent was killed.
    drop(stdin);
    match waited {
        Ok(Ok(output)) => Ended::Output(output),
        Ok(Err(error)) => Ended::Failed(error),
        Err(_) => Ended::OutOfTime,
    }
}

/// The control group of one child; kills what is in it and removes it when dropped.
struct CompileGroup(CgroupPaths);

impl Drop for CompileGroup {
    fn drop(&mut self) {
        let groups = self.0.clone();
        // When the agent itself ends, its pipe ends the child, and the next agent removes the group.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        // Dropping must not wait: a killed process needs a moment until its group is empty.
        drop(runtime.spawn_blocking(move || {
            let deadline = Instant::now() + KILL_WAIT_MAX;
            while !groups.kill_all() && Instant::now() < deadline {}
            groups.remove();
        }));
    }
}

#[cfg(test)]
mod tests;
