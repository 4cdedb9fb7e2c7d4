//! `selvedge-wasm`: a WebAssembly module or component as a container.
//!
//! The process of such a container is this program as `wasm-worker`, under the shim of every other container. The
//! kubelet itself never loads the engine: a child (`wasm-compile`) compiles, writes the artefact into the cache and
//! exits; the worker maps the artefact and runs it. Volumes are directories opened before rights are given up and
//! handed to the module as preopened directories, so they need no namespaces.
//!
//! A start begins with the compiler, which may take minutes, and only then is the attempt made. Until then `stop` cancels it
//! and nothing of it remains.

mod cache;
mod compiler;
mod engine;
mod starts;
mod worker;

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use node_shim::{
    exec::ExecRequest,
    state::{Launch, STATE_VERSION},
};
use tokio::sync::broadcast;

pub use cache::wasm_compile_main;
pub use worker::wasm_worker_main;

use self::{compiler::Compiler, starts::Starts};
use crate::{
    ContainerEvent, ContainerId, ContainerSpec, ContainerStats, ContainerStatus, ExecOutput, Mount, PodInstance,
    PodRuntime, PodSpec, ProcessConfig, RuntimeError, RuntimeFuture, Security, WasmConfig,
    image::{self, ImageKind},
    sandbox::Shared,
    supervisor::{Supervisor, blocking, check_mounts, check_names, check_security},
};

/// Runs WebAssembly: WASI 0.2 command components and WASI 0.1 modules.
pub struct WasmRuntime {
    supervisor: Supervisor,
    compiler: Compiler,
    /// Starts that wait for their module.
    starts: Starts,
}

/// What `wasm-compile` prints: where the compiled module is, and which one it is.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Artefact {
    path: PathBuf,
    /// SHA-256 of the module itself, in hex.
    sha256: String,
}

impl WasmRuntime {
    /// Handler of the `RuntimeClass`.
    pub const HANDLER: &str = "selvedge-wasm";

    /// Opens state folder and cache, and adopts what runs. Must be called inside a tokio runtime.
    ///
    /// Fails when a folder cannot be made or another process has it open.
    pub fn open(config: ProcessConfig, wasm: WasmConfig) -> Result<Self, RuntimeError> {
        cache::make_private(&wasm.cache_dir)?;
        let compiler = Compiler::new(&config, wasm);
        Ok(Self {
            supervisor: Supervisor::open(config, Self::HANDLER, Shared::Network)?,
            compiler,
            starts: Starts::default(),
        })
    }

    fn check_spec(&self, spec: &ContainerSpec) -> Result<PathBuf, RuntimeError> {
        check_spec(spec, &self.supervisor.config().allowed_prefixes)
    }

    async fn plan(&self, mut spec: ContainerSpec) -> Result<Launch, RuntimeError> {
        let prefixes = self.supervisor.config().allowed_prefixes.clone();
        // The module may lie on a share that does not answer.
        let module = {
            let spec = spec.clone();
            blocking(move || check_spec(&spec, &prefixes)).await?
        };
        let artefact = self.compile(&spec.image, &module).await?;
        let config = self.supervisor.config();
        let guest_argv = crate::process::argv(&spec, &module)?;
        let argv = worker::arguments(&spec, guest_argv);
        // The worker becomes the user by itself, after it has used root's rights to give up everything else.
        (spec.run_as_user, spec.run_as_group) = (None, None);
        spec.security = Security { privileged: true, ..Security::default() };
        spec.supplemental_groups = Vec::new();
        spec.pod_resources.pids_max.get_or_insert(config.pod_pids_max);
        Ok(Launch {
            version: STATE_VERSION,
            program: config.program.clone(),
            argv,
            bind_mounts: false,
            files: worker::open_files(&artefact.path, &spec),
            hidden: Vec::new(),
            cgroup_parent: config.cgroup_parent.clone(),
            isolation: config.isolation,
            image_id: format!("file://{}@sha256:{}", module.display(), artefact.sha256),
            image: None,
            oci: None,
            namespaces: Vec::new(),
            processes_of: None,
            users: None,
            stop_signal: None,
            private: None,
            boot_id: String::new(),
            log_bytes_max: config.log_bytes_max,
            log_files_max: config.log_files_max,
            spec,
        })
    }

    async fn compile(&self, image: &str, module: &Path) -> Result<Artefact, RuntimeError> {
        let failed = |reason: String| RuntimeError::Image { image: image.to_owned(), reason };
        self.compiler.artefact(module).await.map_err(failed)
    }

    /// Starts a container unless [`stop`](Self::cancel_or_stop) comes first.
    async fn start_unless_cancelled(&self, spec: ContainerSpec) -> Result<ContainerStatus, RuntimeError> {
        let start = self.starts.begin(&spec)?;
        let sandbox = self.supervisor.sandbox(&spec.pod.uid).await?.unwrap_or_default();
        let mut launch = tokio::select! {
            biased;
            () = start.cancelled() => return Err(RuntimeError::Cancelled(spec.id())),
            launch = self.plan(spec.clone()) => launch?,
        };
        launch.namespaces = sandbox.namespaces;
        // A stop from here on waits for the program and ends it.
        self.supervisor.start(launch).await
    }

    async fn cancel_or_stop(&self, id: &ContainerId, grace: Duration) -> Result<ContainerStatus, RuntimeError> {
        let cancelled = self.starts.cancel(id).await;
        match (self.supervisor.stop(id, grace).await, cancelled) {
            (Err(RuntimeError::NotFound(_)), Some(status)) => Ok(status),
            (stopped, _) => stopped,
        }
    }

    /// A command is another module, or the image once more with other arguments.
    async fn exec_request(
        &self,
        id: &ContainerId,
        argv: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecRequest, RuntimeError> {
        let refused = |message: String| RuntimeError::Exec { id: id.clone(), message };
        let launch = self.supervisor.launch(id)?;
        let word = argv.first().ok_or_else(|| refused("the command is empty".to_owned()))?;
        if !word.ends_with(".wasm") || !word.starts_with('/') {
            return Err(refused(format!(
                "a WebAssembly container runs modules only: {word} is not the path of a .wasm file"
            )));
        }
        let image = format!("file://{word}");
        let module = image::resolve(&image, &self.supervisor.config().allowed_prefixes, ImageKind::Module)?;
        let artefact = self.compile(&image, &module).await?;
        Ok(ExecRequest {
            program: self.supervisor.config().program.clone(),
            argv: worker::arguments_of_command(&launch.argv, argv),
            timeout,
            files: worker::open_files(&artefact.path, &launch.spec),
            process: None,
        })
    }
}

/// The module, when the container could be started here.
fn check_spec(spec: &ContainerSpec, prefixes: &[PathBuf]) -> Result<PathBuf, RuntimeError> {
    check_names(spec)?;
    check_mounts(spec)?;
    if spec.run_as_user == Some(0) {
        check_security(spec)?;
    }
    let module = image::resolve(&spec.image, prefixes, ImageKind::Module)?;
    detect(&module).map_err(|reason| RuntimeError::Image { image: spec.image.clone(), reason })?;
    crate::process::argv(spec, &module)?;
    Ok(module)
}

/// The volumes a module gets. The file of the termination message is none of them: there is no path to mount it at.
fn folders(spec: &ContainerSpec) -> impl Iterator<Item = &Mount> {
    spec.mounts.iter().filter(|mount| spec.termination_message.as_ref() != Some(&mount.host_path))
}

/// Which of the two formats a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Module,
    Component,
}

fn detect(path: &Path) -> Result<Format, String> {
    let mut preamble = [0; 8];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut preamble));
    match read {
        Ok(()) => format_of(&preamble),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err("it is too short for WebAssembly".to_owned()),
        Err(error) => Err(format!("failed to read it: {error}")),
    }
}

/// Core specification 5.5.16, component model binary format: version, then layer.
fn format_of(preamble: &[u8]) -> Result<Format, String> {
    match preamble {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Ok(Format::Module),
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => Ok(Format::Component),
        [0, b'a', b's', b'm', ..] => Err("it is WebAssembly of a version that this node does not know".to_owned()),
        _ => Err("it is not WebAssembly".to_owned()),
    }
}

fn sha256_hex(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    hex(digest.as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let bytes = fs::metadata(path)?.len();
    if bytes > bytes_max {
        return Err(io::Error::other(format!("it has {bytes} bytes; {bytes_max} are allowed")));
    }
    fs::read(path)
}

impl PodRuntime for WasmRuntime {
    fn handler(&self) -> &'static str {
        Self::HANDLER
    }

    fn ensure_pod(&self, spec: PodSpec) -> RuntimeFuture<'_, PodInstance> {
        Box::pin(self.supervisor.ensure_pod(spec))
    }

    fn stop_pod(&self, uid: &str, grace: Duration) -> RuntimeFuture<'_, ()> {
        let uid = uid.to_owned();
        Box::pin(async move {
            self.starts.cancel_pod(&uid).await;
            self.supervisor.stop_pod(&uid, grace).await
        })
    }

    fn remove_pod(&self, uid: &str) -> RuntimeFuture<'_, ()> {
        let uid = uid.to_owned();
        Box::pin(async move { self.supervisor.remove_pod(&uid).await })
    }

    fn list_pods(&self) -> RuntimeFuture<'_, Vec<String>> {
        Box::pin(self.supervisor.list_pods())
    }

    fn stats_pod(&self, uid: &str) -> RuntimeFuture<'_, ContainerStats> {
        let uid = uid.to_owned();
        Box::pin(async move { self.supervisor.stats_pod(&uid).await })
    }

    fn check(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        self.check_spec(spec).map(drop)
    }

    fn start(&self, spec: ContainerSpec) -> RuntimeFuture<'_, ContainerStatus> {
        Box::pin(self.start_unless_cancelled(spec))
    }

    fn stop(&self, id: &ContainerId, grace: Duration) -> RuntimeFuture<'_, ContainerStatus> {
        let id = id.clone();
        Box::pin(async move { self.cancel_or_stop(&id, grace).await })
    }

    fn signal(&self, id: &ContainerId, signal: i32) -> RuntimeFuture<'_, ()> {
        let id = id.clone();
        Box::pin(async move { self.supervisor.signal(&id, signal) })
    }

    fn status(&self, id: &ContainerId) -> RuntimeFuture<'_, ContainerStatus> {
        let id = id.clone();
        Box::pin(async move { self.supervisor.status(&id) })
    }

    fn list(&self) -> RuntimeFuture<'_, Vec<ContainerStatus>> {
        Box::pin(async move { Ok(self.supervisor.list()) })
    }

    fn exec(&self, id: &ContainerId, argv: Vec<String>, timeout: Duration) -> RuntimeFuture<'_, ExecOutput> {
        let id = id.clone();
        Box::pin(async move {
            self.supervisor.status(&id)?;
            let request = self.exec_request(&id, argv, timeout).await?;
            self.supervisor.exec(&id, request).await
        })
    }

    fn stats(&self, id: &ContainerId) -> RuntimeFuture<'_, ContainerStats> {
        let id = id.clone();
        Box::pin(async move { self.supervisor.stats(&id).await })
    }

    fn remove(&self, id: &ContainerId) -> RuntimeFuture<'_, ()> {
        let id = id.clone();
        Box::pin(async move { self.supervisor.remove(&id).await })
    }

    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.supervisor.events()
    }
}

#[cfg(test)]
mod tests;
