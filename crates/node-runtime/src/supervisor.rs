//! The kubelet's side of the shims, shared by both runtimes: starts them, adopts them, waits for their end.
//!
//! What is true stands in the state folders; this keeps a copy of it in memory, one `watch` per container. Waiting
//! costs nothing: one pidfd per running shim.

mod pods;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::{Duration, Instant},
};

use node_shim::{
    cgroup::Hierarchy,
    exec::{ExecRequest, TIMED_OUT},
    state::{Launch, Process, Running, StateDir, exit_beside, takes_no_file},
    sys,
};
use rustix::process::{Pid, PidfdFlags};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, unix::AsyncFd},
    sync::{Semaphore, broadcast, watch},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, error, info, warn};

use crate::{
    ContainerEvent, ContainerId, ContainerResources, ContainerSpec, ContainerState, ContainerStats, ContainerStatus,
    ExecOutput, ExitRecord, Mount, ProcessConfig, RuntimeError, launch_dir, oci,
    program::ShimProgram,
    sandbox::{Sandboxes, Shared},
    witness,
};

/// A kubelet that falls further behind than this lists instead.
const EVENTS_QUEUE: usize = 256;

/// A killed process that is still there after this hangs in the kernel (a dead network disk).
const KILL_WAIT_MAX: Duration = Duration::from_secs(30);

/// How often a shim that is still starting is looked at; it says nothing while it does.
const STARTING_LOOK_PERIOD: Duration = Duration::from_millis(50);

/// A start takes milliseconds, and seconds on a busy flash. A shim that runs and says nothing for longer has lost its file,
/// or hangs on a share that does not respond.
const STARTING_MAX: Duration = Duration::from_secs(10);

/// What the helper of an exec may take beside its command.
const EXEC_OVERHEAD_MAX: Duration = Duration::from_secs(5);

/// Containers that are looked at together when the agent starts.
const ADOPTERS: usize = 4;

/// Containers that are started together: more only take the processor and the kernel's locks from each other, and all are late then.
const STARTS_AT_ONCE: usize = 8;

/// A start that takes longer waits for something, and is waited for by nobody.
const START_SLOW: Duration = Duration::from_millis(250);

/// Folders that are being made or taken away; no container has a name like this.
const DRAFTS: [&str; 2] = [".new-", ".gone-"];

/// Directory for state in memory, in the launch directory.
const VOLATILE: &str = "state";

/// What the log of a container may take whose log is in memory: half of it, and a file before it.
const VOLATILE_LOG_BYTES_MAX: u64 = 128 * 1024;

pub(crate) use pods::INSTANCE_MARKER;

pub(crate) struct Supervisor {
    inner: Arc<Inner>,
    /// Ends the watching tasks when the runtime is dropped. The containers go on.
    _watching: DropGuard,
}

struct Inner {
    config: ProcessConfig,
    root: PathBuf,
    /// The same for containers that were started while the disk took no file: in memory, beside their environments.
    volatile_root: PathBuf,
    /// Where what may be secret of a launch is, in memory where there is such a place.
    launch_dir: PathBuf,
    shim: Arc<ShimProgram>,
    containers: Mutex<BTreeMap<ContainerId, Container>>,
    events_tx: broadcast::Sender<ContainerEvent>,
    cancel: CancellationToken,
    turns: Semaphore,
    sandboxes: Sandboxes,
    /// Two runtimes over the same folder would each take the other's starting shims for dead ones.
    _lock: base_fs::DirLock,
}

struct Container {
    status: watch::Sender<ContainerStatus>,
    running: Option<Running>,
    /// Ids of the images that its volumes show.
    volume_images: Vec<String>,
}

impl Container {
    /// One of which no more is known than what is to be started.
    fn new(launch: &Launch) -> Self {
        let images = launch.spec.mounts.iter().filter_map(|mount| Some(mount.image.as_ref()?.id.clone()));
        Self { status: watch::Sender::new(created(launch)), running: None, volume_images: images.collect() }
    }
}

/// What a state folder tells.
enum Found {
    Starting,
    Running(Box<Running>),
    Exited(ExitRecord),
}

impl Supervisor {
    /// Takes over what the state folders under `<state_dir>/<handler>` tell.
    pub fn open(mut config: ProcessConfig, handler: &str, shared: Shared) -> Result<Self, RuntimeError> {
        if config.program == Path::new(ProcessConfig::THIS_PROGRAM) {
            // It is the shim that executes it, to whom that name means itself.
            config.program = format!("/proc/{}/exe", std::process::id()).into();
        }
        let root = config.state_dir.join(handler);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root)
            .map_err(|source| io_error("create", &root, source))?;
        let root = fs::canonicalize(&root).map_err(|source| io_error("find", &root, source))?;
        let lock_path = root.join(".lock");
        let lock = open_lock(&lock_path).map_err(|source| io_error("create", &lock_path, source))?;
        let in_use = || io::Error::new(io::ErrorKind::ResourceBusy, "another node runs on the same data folder");
        let lock = base_fs::DirLock::try_acquire_file(lock)
            .and_then(|lock| lock.ok_or_else(in_use))
            .map_err(|source| io_error("lock", &lock_path, source))?;
        if let Err(error) = Hierarchy::of_this_process().create_parent(&config.cgroup_parent) {
            debug!(%error, "No group of all pods: their processes weigh as much as everybody's.");
        }
        let cancel = CancellationToken::new();
        let launch_dir = config.launch_dir.clone().unwrap_or_else(|| launch_dir::choose(&root));
        let shim = ShimProgram::open(&root).map_err(|source| io_error("write the shim's program to", &root, source))?;
        let shim = Arc::new(shim);
        let sandboxes = Sandboxes::new(launch_dir.join("pods"), shared, config.network.clone(), Arc::clone(&shim));
        let inner = Arc::new(Inner {
            config,
            shim,
            volatile_root: launch_dir.join(VOLATILE),
            launch_dir,
            root,
            containers: Mutex::default(),
            events_tx: broadcast::channel(EVENTS_QUEUE).0,
            cancel: cancel.clone(),
            turns: Semaphore::new(STARTS_AT_ONCE),
            sandboxes,
            _lock: lock,
        });
        inner.prepare_launch_dir();
        inner.adopt_all(&inner.root)?;
        if inner.volatile_root.exists() {
            inner.adopt_all(&inner.volatile_root)?;
        }
        witness::kill_orphans(&inner.root);
        witness::kill_orphans(&inner.volatile_root);
        Ok(Self { inner, _watching: cancel.drop_guard() })
    }

    pub fn config(&self) -> &ProcessConfig {
        &self.inner.config
    }

    pub fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.inner.events_tx.subscribe()
    }

    /// Spends the identity and starts a shim. Goes on to its end even when the caller stops waiting.
    pub async fn start(&self, launch: Launch) -> Result<ContainerStatus, RuntimeError> {
        let inner = Arc::clone(&self.inner);
        let id = launch.spec.id();
        let task = tokio::spawn(async move { inner.start(launch).await });
        task.await.unwrap_or_else(|error| {
            Err(RuntimeError::Start { id, message: format!("the starting task died: {error}") })
        })
    }

    pub async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<ContainerStatus, RuntimeError> {
        let mut status = self.inner.watch(id)?;
        let is_up = |status: &ContainerStatus| status.state != ContainerState::Created;
        let not_found = |_| RuntimeError::NotFound(id.clone());
        status.wait_for(is_up).await.map_err(not_found)?;
        if let Some(running) = self.inner.running(id) {
            kill_verified(&running.child, running.stop_signal());
            if tokio::time::timeout(grace, status.wait_for(has_ended)).await.is_err() {
                kill_verified(&running.child, libc::SIGKILL);
                blocking(move || running.cgroups.kill_all()).await;
            }
        }
        let ended = tokio::time::timeout(KILL_WAIT_MAX, status.wait_for(has_ended)).await;
        match ended {
            Ok(result) => result.map(|status| status.clone()).map_err(not_found),
            Err(_) => {
                let text = "its processes hang in the kernel, on a disk or device that does not answer";
                Err(RuntimeError::Io { act: format!("kill container {id}"), source: io::Error::other(text) })
            }
        }
    }

    pub fn signal(&self, id: &ContainerId, signal: i32) -> Result<(), RuntimeError> {
        self.inner.watch(id)?;
        let running = self.inner.running(id).ok_or_else(|| RuntimeError::NotRunning(id.clone()))?;
        kill_verified(&running.child, signal);
        Ok(())
    }

    /// Changes what a container that runs gets: in its groups first, then on disk. Whoever dies in between finds the old values on
    /// disk, and does it again.
    pub async fn resize(
        &self,
        id: &ContainerId,
        resources: ContainerResources,
    ) -> Result<ContainerStatus, RuntimeError> {
        self.inner.watch(id)?;
        let running = self.inner.running(id).ok_or_else(|| RuntimeError::NotRunning(id.clone()))?;
        let dir = self.inner.dir(id);
        let pod = Hierarchy::of_this_process().pod_groups(&self.config().cgroup_parent, &id.pod_uid);
        let resized = blocking(move || {
            running.cgroups.resize(&pod, &resources)?;
            dir.write_resources(&resources)
        });
        resized.await.map_err(|source| RuntimeError::Io { act: format!("resize container {id}"), source })?;
        if let Some(container) = self.inner.containers().get(id) {
            container
                .status
                .send_modify(|status| (status.limits, status.requests) = (resources.limits, resources.requests));
        }
        self.status(id)
    }

    pub fn status(&self, id: &ContainerId) -> Result<ContainerStatus, RuntimeError> {
        Ok(self.inner.watch(id)?.borrow().clone())
    }

    pub fn list(&self) -> Vec<ContainerStatus> {
        self.inner.containers().values().map(|container| container.status.borrow().clone()).collect()
    }

    /// Each container with the ids of its images: its own, and those that its volumes show.
    pub fn images(&self) -> Vec<(ContainerStatus, Vec<String>)> {
        let containers = self.inner.containers();
        let images = |container: &Container| {
            let status = container.status.borrow().clone();
            let ids = std::iter::once(&status.image_id).chain(&container.volume_images).cloned().collect();
            (status, ids)
        };
        containers.values().map(images).collect()
    }

    /// What a container was started with.
    pub fn launch(&self, id: &ContainerId) -> Result<Launch, RuntimeError> {
        let dir = self.inner.dir(id);
        dir.launch().map_err(|source| io_error("read launch.json in", dir.path(), source))
    }

    /// Where the state of a container is.
    pub fn state_path(&self, id: &ContainerId) -> PathBuf {
        self.inner.dir(id).path().to_owned()
    }

    pub async fn stats(&self, id: &ContainerId) -> Result<ContainerStats, RuntimeError> {
        self.inner.watch(id)?;
        let running = self.inner.running(id).ok_or_else(|| RuntimeError::NotRunning(id.clone()))?;
        Ok(blocking(move || running.cgroups.stats()).await)
    }

    pub async fn exec(&self, id: &ContainerId, request: ExecRequest) -> Result<ExecOutput, RuntimeError> {
        self.inner.watch(id)?;
        if self.inner.running(id).is_none() {
            return Err(RuntimeError::NotRunning(id.clone()));
        }
        let failed = |message: String| RuntimeError::Exec { id: id.clone(), message };
        let limit = request.timeout + EXEC_OVERHEAD_MAX;
        let run = self.inner.run_exec(id, &request);
        let (output, complaint) = match tokio::time::timeout(limit, run).await {
            Ok(result) => result.map_err(|source| RuntimeError::Io { act: "run the shim".to_owned(), source })?,
            Err(_) => return Err(RuntimeError::ExecTimeout { id: id.clone(), timeout: request.timeout }),
        };
        if complaint == TIMED_OUT {
            return Err(RuntimeError::ExecTimeout { id: id.clone(), timeout: request.timeout });
        }
        if !complaint.is_empty() {
            return Err(failed(complaint));
        }
        Ok(output)
    }

    /// Nothing enters a root whose container has ended; how it ended and its log are in other places.
    pub async fn discard_writes(&self, id: &ContainerId) -> Result<bool, RuntimeError> {
        if !has_ended(&self.status(id)?) {
            return Err(RuntimeError::StillRunning(id.clone()));
        }
        let written = self.state_path(id).join(node_shim::UPPER);
        blocking(move || match base_fs::remove_tree(&written) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_error("remove", &written, error)),
            Ok(()) => Ok(true),
        })
        .await
    }

    /// What a container's runtime is given to run a command in it.
    pub async fn process_of_command(&self, id: &ContainerId, argv: Vec<String>) -> Result<String, RuntimeError> {
        let bundle = self.inner.bundle(id);
        blocking(move || {
            oci::process_of_command(&bundle, &argv).map_err(|source| io_error("read config.json in", &bundle, source))
        })
        .await
    }

    pub async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        match self.status(id) {
            Err(RuntimeError::NotFound(_)) => {
                self.inner.kill_unknown(id).await;
                return Ok(());
            }
            Ok(status) if has_ended(&status) => {}
            _ => return Err(RuntimeError::StillRunning(id.clone())),
        }
        let dir = self.inner.dir(id);
        let gone = dir.path().with_file_name(format!(".gone-{id}"));
        let (private, logs, bundle) = (self.inner.private(id), self.inner.volatile_logs(id), self.inner.bundle(id));
        // First out of sight in one step: half a directory would be taken for a container that nobody saw end.
        blocking(move || {
            let _ = fs::remove_file(&private);
            let _ = fs::remove_dir_all(logs);
            oci::remove(&bundle);
            match fs::rename(dir.path(), &gone) {
                // It is listed again by the next agent, and removed once the disk takes that. How it ended is known till then.
                Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", dir.path(), error));
                }
                _ => {}
            }
            let _ = fs::remove_file(exit_beside(&private));
            match base_fs::remove_tree(&gone) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &gone, error)),
                _ => Ok(()),
            }
        })
        .await?;
        self.inner.containers().remove(id);
        self.inner.kill_unknown(id).await;
        Ok(())
    }
}

/// On a disk that became read-only the lock that is there will do.
fn open_lock(path: &Path) -> io::Result<File> {
    match File::create(path) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(path),
        opened => opened,
    }
}

fn has_ended(status: &ContainerStatus) -> bool {
    matches!(status.state, ContainerState::Exited(_))
}

/// Signals a process only while it is the one we mean.
fn kill_verified(process: &Process, signal: i32) {
    if process.exists() {
        sys::kill(process.pid, signal);
    }
}

/// Runs something that waits for the disk or the kernel beside the async tasks.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("the closure does not panic and is never cancelled")
}

impl Inner {
    fn containers(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Container>> {
        self.containers.lock().expect("no holder of this lock panics")
    }

    /// Where a container's state is, or will be.
    fn dir(&self, id: &ContainerId) -> StateDir {
        let volatile = StateDir::new(&self.volatile_root, id);
        if volatile.path().exists() { volatile } else { StateDir::new(&self.root, id) }
    }

    /// Where the log of a container is whose state is in memory.
    fn volatile_logs(&self, id: &ContainerId) -> PathBuf {
        self.volatile_root.join(format!(".log-{id}"))
    }

    /// Kills what runs of a container that is not listed, or of its whole pod when nothing of that is: whatever became of the
    /// files, nothing of a pod outlives it.
    async fn kill_unknown(&self, id: &ContainerId) {
        let is_last = self.containers().keys().all(|other| other.pod_uid != id.pod_uid);
        let (config, id) = (self.config.clone(), id.clone());
        blocking(move || {
            if is_last {
                witness::kill_pod(&config, &id.pod_uid);
            } else {
                let groups = Hierarchy::of_this_process().groups(&config.cgroup_parent, &id);
                groups.kill_all();
                groups.remove();
            }
        })
        .await;
    }

    fn watch(&self, id: &ContainerId) -> Result<watch::Receiver<ContainerStatus>, RuntimeError> {
        let containers = self.containers();
        let container = containers.get(id).ok_or_else(|| RuntimeError::NotFound(id.clone()))?;
        Ok(container.status.subscribe())
    }

    fn running(&self, id: &ContainerId) -> Option<Running> {
        self.containers().get(id).and_then(|container| container.running.clone())
    }

    fn adopt_all(self: &Arc<Self>, root: &Path) -> Result<(), RuntimeError> {
        let failed = |source| io_error("read", root, source);
        let mut left = Vec::new();
        for entry in fs::read_dir(root).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if DRAFTS.iter().any(|draft| name.starts_with(draft)) {
                let _ = base_fs::remove_tree(&entry.path());
            } else if !name.starts_with('.') && entry.path().is_dir() {
                left.push((name, entry.path()));
            }
        }
        // To close the attempts that have ended is to wait for the disk, which serves several at once.
        let (left, runtime) = (Mutex::new(left), tokio::runtime::Handle::current());
        std::thread::scope(|scope| {
            for _ in 0..ADOPTERS {
                scope.spawn(|| {
                    let _runtime = runtime.enter();
                    let next = || left.lock().expect("no holder of this lock panics").pop();
                    while let Some((name, path)) = next() {
                        // One directory that cannot be read must not keep the others from being looked after.
                        if let Err(error) = self.adopt(&StateDir::at(path)) {
                            self.retire(&name, &error);
                        }
                    }
                });
            }
        });
        Ok(())
    }

    fn adopt(self: &Arc<Self>, dir: &StateDir) -> io::Result<()> {
        let launch = dir.record().map_err(|error| named("launch.json", error))?;
        let id = launch.spec.id();
        if dir.path() != self.dir(&id).path() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "launch.json belongs to another container"));
        }
        let found = find_out(dir)?;
        if let Found::Running(running) = &found {
            check_running(running, &launch)?;
        }
        info!(%id, running = matches!(found, Found::Running(_)), "Adopted a container.");
        self.containers().insert(id.clone(), Container::new(&launch));
        self.note(&id, &found);
        if !matches!(found, Found::Exited(_)) {
            self.spawn_watcher(id);
        }
        Ok(())
    }

    /// Closes the attempt of a container whose state directory is damaged.
    fn retire(&self, name: &str, error: &io::Error) {
        if error.kind() == io::ErrorKind::Unsupported {
            warn!(directory = name, %error, "Left a container of a newer program alone.");
            return;
        }
        let Some(id) = witness::id_of(name) else {
            warn!(directory = name, %error, "Left a directory alone that is no container's.");
            return;
        };
        error!(%id, %error, "A container's state is damaged: killed what may run of it, and counted the attempt.");
        let dir = self.dir(&id);
        let root = dir.path().parent().unwrap_or(&self.root);
        let (launch, record) = witness::retire(root, &self.config, &id, error);
        let mut containers = self.containers();
        let container = containers.entry(id.clone()).or_insert_with(|| Container::new(&launch));
        container.running = None;
        drop(containers);
        self.note(&id, &Found::Exited(record));
    }

    /// What a killed agent left there of containers that are not here any more.
    fn prepare_launch_dir(&self) {
        let is_known = |id: &str| self.root.join(id).exists() || self.volatile_root.join(id).exists();
        oci::remove_unknown(&self.launch_dir, is_known);
        for entry in fs::read_dir(&self.launch_dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let id = name.strip_suffix(".json").or_else(|| name.strip_suffix(".exit"));
            if !id.is_some_and(is_known) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Takes what was found into the copy in memory, and tells the listeners.
    fn note(&self, id: &ContainerId, found: &Found) {
        let mut containers = self.containers();
        let Some(container) = containers.get_mut(id) else { return };
        let (state, running) = match found {
            Found::Starting => return,
            Found::Running(running) => {
                let pid = running.child.pid.unsigned_abs();
                (ContainerState::Running { pid, started_at: running.started_at }, Some((**running).clone()))
            }
            Found::Exited(record) => (ContainerState::Exited(record.clone()), None),
        };
        let changed = container.status.send_if_modified(|status| {
            let changed = status.state != state;
            status.state = state;
            if let Some(running) = &running {
                status.notices = running.notices.clone();
            }
            changed
        });
        container.running = running;
        if changed {
            let status = container.status.borrow().clone();
            let event =
                if has_ended(&status) { ContainerEvent::Exited(status) } else { ContainerEvent::Started(status) };
            // Nobody listening is fine: they will list.
            let _ = self.events_tx.send(event);
        }
    }

    async fn start(self: Arc<Self>, mut launch: Launch) -> Result<ContainerStatus, RuntimeError> {
        let id = launch.spec.id();
        launch.private = Some(self.private(&id));
        if let Some(oci) = &mut launch.oci {
            oci.bundle = self.bundle(&id);
        }
        // The environments of all containers of this machine's nodes; of those of images, what is in shared memory.
        launch.hidden.extend(launch_dir::in_memory_dirs());
        launch.hidden.push(self.launch_dir.clone());
        launch.boot_id = node_shim::state::boot_id().unwrap_or_default();
        let dir = self.dir(&id);
        {
            let mut containers = self.containers();
            if containers.contains_key(&id) {
                return Err(RuntimeError::AlreadyStarted(id));
            }
            containers.insert(id.clone(), Container::new(&launch));
        }
        let made = {
            let (dir, inner) = (dir.clone(), Arc::clone(&self));
            blocking(move || inner.create(dir, launch)).await
        };
        let dir = match made {
            Ok(Some(dir)) => dir,
            failed => {
                self.containers().remove(&id);
                return Err(failed.map_or_else(
                    |source| io_error("create", dir.path(), source),
                    |_| RuntimeError::AlreadyStarted(id),
                ));
            }
        };
        let complaint = self.run_shim(&dir).await;
        let found = blocking({
            let dir = dir.clone();
            move || find_out(&dir)
        })
        .await;
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                // The program may run: the watcher finds out, and the attempt is spent in any case.
                warn!(%id, %error, "Failed to read how a start went; looking again.");
                Self::spawn_watcher(&self, id.clone());
                return self.watch(&id).map(|status| status.borrow().clone());
            }
        };
        self.note(&id, &found);
        if !matches!(found, Found::Exited(_)) {
            Self::spawn_watcher(&self, id.clone());
        }
        match (&found, complaint) {
            (Found::Exited(record), complaint) if record.started_at.is_none() => {
                let message = complaint.err().map_or_else(|| record.message.clone(), |error| error.to_string());
                Err(RuntimeError::Start { id, message })
            }
            // It ran, however short, or runs though its shim's word was lost.
            _ => self.watch(&id).map(|status| status.borrow().clone()),
        }
    }

    /// Spends the identity, and makes everything ready for the shim, on disk or else in memory; `None` when it was spent before.
    fn create(&self, dir: StateDir, launch: Launch) -> io::Result<Option<StateDir>> {
        let id = launch.spec.id();
        if launch.spec.attempt == 0 {
            // None has run, as far as is known. What is in its groups all the same is of a state that was lost.
            let groups = Hierarchy::of_this_process().groups(&launch.cgroup_parent, &id);
            groups.kill_all();
        }
        let (dir, launch) = match dir.create(&self.root, &launch) {
            Ok(true) => (dir, launch),
            Ok(false) => return Ok(None),
            Err(error) if takes_no_file(&error) => {
                warn!(%id, %error, "The disk takes no file: the container is started with its state and log in memory.");
                let launch = self.in_memory(launch)?;
                let dir = StateDir::new(&self.volatile_root, &id);
                if !dir.create(&self.volatile_root, &launch)? {
                    return Ok(None);
                }
                self.note_log(&id, launch.spec.log_path());
                (dir, launch)
            }
            Err(error) => return Err(error),
        };
        let bundle = launch.oci.as_ref().map_or(Ok(()), |oci| {
            oci::write(&launch, oci).map_err(|error| io::Error::new(error.kind(), format!("config.json: {error}")))
        });
        if let Err(error) = bundle.and_then(|()| dir.write_private(&launch)) {
            // The shim would not find it; the attempt is spent, so its end is said here.
            dir.write_exit(&ExitRecord::start_error(&error.to_string()))?;
        }
        Ok(Some(dir))
    }

    /// The same launch for a container of which nothing can be kept on disk.
    fn in_memory(&self, mut launch: Launch) -> io::Result<Launch> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.volatile_root)?;
        launch.spec.log_dir = self.volatile_logs(&launch.spec.id());
        launch.log_bytes_max = launch.log_bytes_max.min(VOLATILE_LOG_BYTES_MAX / 2);
        launch.log_files_max = launch.log_files_max.min(2);
        Ok(launch)
    }

    /// Says where the log of a container is after all.
    fn note_log(&self, id: &ContainerId, path: PathBuf) {
        if let Some(container) = self.containers().get(id) {
            container.status.send_modify(|status| status.log_path = path);
        }
    }

    /// Where another runtime finds what it is to run.
    fn bundle(&self, id: &ContainerId) -> PathBuf {
        oci::bundle(&self.launch_dir, &id.to_string())
    }

    fn private(&self, id: &ContainerId) -> PathBuf {
        self.launch_dir.join(format!("{id}.json"))
    }

    async fn run_shim(&self, dir: &StateDir) -> io::Result<()> {
        // It is closed by nobody.
        let turn = self.turns.acquire().await.ok();
        let started = self
            .shim
            .command(&[OsStr::new("shim"), dir.path().as_os_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output();
        tokio::pin!(started);
        let output = match tokio::time::timeout(START_SLOW, &mut started).await {
            Ok(output) => output?,
            Err(_) => {
                drop(turn);
                started.await?
            }
        };
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }

    fn spawn_watcher(self: &Arc<Self>, id: ContainerId) {
        let (inner, cancel) = (Arc::downgrade(self), self.cancel.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = watch_until_exit(inner, id) => {}
            }
        });
    }

    /// Runs the helper that runs a command; returns what the command has written and how it ended, or what the helper says of
    /// a command that did not run.
    async fn run_exec(&self, id: &ContainerId, request: &ExecRequest) -> io::Result<(ExecOutput, String)> {
        let dir = self.dir(id);
        // The request goes one way and the helper's own words the other; the outputs are the command's alone.
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut control = tokio::net::UnixStream::from_std(ours)?;
        let mut helper = self
            .shim
            .command(&[OsStr::new("shim"), OsStr::new("--exec"), dir.path().as_os_str()])
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(mut stdout), Some(mut stderr)) = (helper.stdout.take(), helper.stderr.take()) else {
            return Err(io::Error::other("the helper has no pipes"));
        };
        let asked = async {
            control.write_all(&serde_json::to_vec(request)?).await?;
            control.shutdown().await?;
            read_bounded(&mut control, 4096).await
        };
        let (stdout, stderr, complaint, status) = tokio::join!(
            read_bounded(&mut stdout, ExecOutput::BYTES_MAX),
            read_bounded(&mut stderr, ExecOutput::BYTES_MAX),
            asked,
            helper.wait()
        );
        let complaint = String::from_utf8_lossy(&complaint?).trim().to_owned();
        let exit_code = status?.code().unwrap_or(128 + libc::SIGKILL);
        Ok((ExecOutput { exit_code, stdout: stdout?, stderr: stderr? }, complaint))
    }
}

/// Reads to the end, keeps the first `bytes_max`.
async fn read_bounded(from: &mut (impl AsyncReadExt + Unpin), bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(kept),
            bytes => kept.extend_from_slice(&buffer[..bytes.min(bytes_max - kept.len())]),
        }
    }
}

fn created(launch: &Launch) -> ContainerStatus {
    let spec: &ContainerSpec = &launch.spec;
    ContainerStatus {
        id: spec.id(),
        pod: spec.pod.clone(),
        state: ContainerState::Created,
        image: spec.image.clone(),
        image_id: launch.image_id.clone(),
        limits: spec.limits,
        requests: spec.requests,
        log_path: spec.log_path(),
        notices: Vec::new(),
    }
}

/// Reads a state folder, and closes the book on a container whose shim is gone.
fn find_out(dir: &StateDir) -> io::Result<Found> {
    let exit = || dir.exit().map_err(|error| named("exit.json", error));
    let running = || dir.running().map_err(|error| named("state.json", error));
    if let Some(record) = exit()? {
        return Ok(Found::Exited(record));
    }
    let Some(lock) = dir.try_lock().map_err(|error| named("lock", error))? else {
        return Ok(running()?.map_or(Found::Starting, |running| Found::Running(Box::new(running))));
    };
    // The shim may have ended between the two looks.
    if let Some(record) = exit()? {
        return Ok(Found::Exited(record));
    }
    let launch = dir.record().map_err(|error| named("launch.json", error))?;
    let record = match running() {
        // After a power cut the file may be empty: it is not synced, since nothing of it runs any more.
        _ if !launch.is_of_this_boot() => {
            ExitRecord::unknown("nobody saw the container end: the machine went down", None)
        }
        Err(error) => return Err(error),
        Ok(Some(running)) => {
            check_running(&running, &launch)?;
            kill_verified(&running.child, libc::SIGKILL);
            running.cgroups.kill_all();
            running.cgroups.remove();
            ExitRecord::unknown(
                "nobody saw the container end: its shim was killed, or the machine went down",
                Some(running.started_at),
            )
        }
        Ok(None) => {
            let groups = Hierarchy::of_this_process().groups(&launch.cgroup_parent, &launch.spec.id());
            groups.kill_all();
            groups.remove();
            ExitRecord::start_error("the node's agent or the shim was killed before the program ran")
        }
    };
    dir.write_exit(&record)?;
    drop(lock);
    Ok(Found::Exited(record))
}

/// A file by its name in an error: which one is damaged is what people need to know.
fn named(file: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{file}: {error}"))
}

/// Numbers and paths of a file are acted on with root's rights: killed and removed. So they must be this container's.
fn check_running(running: &Running, launch: &Launch) -> io::Result<()> {
    if running.cgroups.are_of(&launch.cgroup_parent, &launch.spec.id()) && running.child.pid > 1 {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "state.json: it has the process or groups of another container"))
}

async fn watch_until_exit(inner: Weak<Inner>, id: ContainerId) {
    let begun = Instant::now();
    let mut failing = None;
    let mut pidfd: Option<AsyncFd<OwnedFd>> = None;
    loop {
        match &pidfd {
            // An error of the descriptor is found out about below.
            Some(pidfd) => drop(pidfd.readable().await),
            None => tokio::time::sleep(STARTING_LOOK_PERIOD).await,
        }
        // Not held while looking: a runtime that is dropped is gone at once.
        let Some(dir) = inner.upgrade().map(|inner| inner.dir(&id)) else { return };
        let path = dir.path().to_owned();
        match blocking(move || find_out(&dir)).await {
            Ok(found) => {
                failing = None;
                let Some(inner) = inner.upgrade() else { return };
                inner.note(&id, &found);
                pidfd = match &found {
                    Found::Exited(_) => return,
                    Found::Starting if begun.elapsed() > STARTING_MAX => {
                        let text = "state.json: the shim runs, and has not written it";
                        let error = io::Error::new(io::ErrorKind::TimedOut, text);
                        return blocking(move || inner.retire(&id.to_string(), &error)).await;
                    }
                    Found::Starting => None,
                    Found::Running(running) => open_pidfd(&running.shim),
                };
            }
            Err(error) if failing.get_or_insert_with(Instant::now).elapsed() > STARTING_MAX => {
                let Some(inner) = inner.upgrade() else { return };
                return blocking(move || inner.retire(&id.to_string(), &error)).await;
            }
            Err(error) => {
                warn!(%id, %error, "Failed to read {}; trying again.", path.display());
                pidfd = None;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// `None` when the process has ended, or is another one by now.
fn open_pidfd(process: &Process) -> Option<AsyncFd<OwnedFd>> {
    let fd = rustix::process::pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
    if !process.exists() {
        return None;
    }
    // SAFETY: an OwnedFd stays the same open descriptor until it is dropped, which AsyncFd does after deregistering.
    unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE).ok() }
}

/// Names become folder names and control groups; what Kubernetes allows is fine, a `/` or `..` is not.
pub(crate) fn check_names(spec: &ContainerSpec) -> Result<(), RuntimeError> {
    let plain = |name: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.bytes().all(allowed)
    };
    if plain(&spec.pod.uid) && plain(&spec.container) {
        return Ok(());
    }
    let reason = "pod uid and container name must be 1 to 128 of a-z, A-Z, 0-9, `-` and `.`".to_owned();
    Err(RuntimeError::Refused { id: spec.id(), reason })
}

/// Capabilities must be ones that exist, and a container that must not be root must have another user.
pub(crate) fn check_security(spec: &ContainerSpec) -> Result<(), RuntimeError> {
    let rejected = |reason: String| Err(RuntimeError::Refused { id: spec.id(), reason });
    check_capabilities(spec)?;
    let user = spec.run_as_user.unwrap_or_else(|| rustix::process::geteuid().as_raw());
    if spec.security.run_as_non_root && user == 0 {
        let text = "container has runAsNonRoot and would run as root; set `runAsUser` to a number other than 0";
        return rejected(text.to_owned());
    }
    Ok(())
}

/// Capabilities must be known, and those that are named must be there to be given.
pub(crate) fn check_capabilities(spec: &ContainerSpec) -> Result<(), RuntimeError> {
    let rejected = |reason: String| Err(RuntimeError::Refused { id: spec.id(), reason });
    if let Some(name) = spec.security.unknown_capability() {
        return rejected(format!("{name} is no capability"));
    }
    match spec.security.capability_beyond(oci::own_capabilities()) {
        Some(name) => rejected(format!(
            "unable to apply caps: the node itself does not have {name}; leave it out of `capabilities.add`, or give it to the node"
        )),
        None => Ok(()),
    }
}

/// A profile of AppArmor must have a kernel that knows what it is; in upstream's words.
pub(crate) fn check_app_armor(spec: &ContainerSpec) -> Result<(), RuntimeError> {
    const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
    let Some(profile) = &spec.security.app_armor else { return Ok(()) };
    let rejected = |reason: &str| Err(RuntimeError::Refused { id: spec.id(), reason: reason.to_owned() });
    if profile.is_empty() || profile.contains(char::is_control) {
        return rejected("Cannot enforce AppArmor: the profile has no name");
    }
    match std::fs::read_to_string(ENABLED).is_ok_and(|enabled| enabled.trim() == "Y") {
        true => Ok(()),
        false => rejected("Cannot enforce AppArmor: AppArmor is not enabled on the host"),
    }
}

/// Paths of mounts must be absolute and without `..`.
pub(crate) fn check_mounts(spec: &ContainerSpec) -> Result<(), RuntimeError> {
    let plain = |path: &Path| {
        path.is_absolute()
            && path != Path::new("/")
            && path.components().all(|part| part != std::path::Component::ParentDir)
    };
    let has_source = |mount: &Mount| match mount.image {
        Some(_) => mount.host_path.as_os_str().is_empty(),
        None => mount.host_path.is_absolute(),
    };
    match spec.mounts.iter().find(|mount| !plain(&mount.container_path) || !has_source(mount)) {
        None => Ok(()),
        Some(mount) => {
            let reason =
                format!("mount path {} must be absolute, without `..`, and not /", mount.container_path.display());
            Err(RuntimeError::Refused { id: spec.id(), reason })
        }
    }
}

/// An error of the node's disk.
pub(crate) fn io_error(act: &str, path: &Path, source: io::Error) -> RuntimeError {
    RuntimeError::Io { act: format!("{act} {}", path.display()), source }
}
