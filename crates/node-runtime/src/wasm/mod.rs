//! `selvedge-wasm`: a WebAssembly module or component as a container.
//!
//! The process of such a container is this program as `wasm-worker`, under the shim of every other container. The
//! kubelet itself never loads the engine: a child (`wasm-compile`) compiles, writes the artefact into the cache and
//! exits; the worker maps the artefact and runs it. Volumes are folders opened before rights are given up and
//! handed to the module as preopened folders, so they need no namespaces.

mod cache;
mod engine;
mod worker;

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, sync::broadcast};

pub use cache::wasm_compile_main;
pub use worker::wasm_worker_main;

use crate::{
    ContainerEvent, ContainerId, ContainerSpec, ContainerStats, ContainerStatus, ExecOutput, Mount, PodRuntime,
    ProcessConfig, RuntimeError, RuntimeFuture, WasmConfig,
    image::{self, ImageKind},
    shim::ExecRequest,
    state::{Launch, STATE_VERSION},
    supervisor::{Supervisor, check_mounts, check_names},
};

/// Runs WebAssembly: WASI 0.2 command components and WASI 0.1 modules.
pub struct WasmRuntime {
    supervisor: Supervisor,
    wasm: WasmConfig,
}

/// What `wasm-compile` answers: where the compiled module is, and which one it is.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
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
        Ok(Self { supervisor: Supervisor::open(config, Self::HANDLER)?, wasm })
    }

    fn check_spec(&self, spec: &ContainerSpec) -> Result<PathBuf, RuntimeError> {
        check_names(spec)?;
        check_mounts(spec)?;
        let module = image::resolve(&spec.image, &self.supervisor.config().allowed_prefixes, ImageKind::Module)?;
        detect(&module).map_err(|reason| RuntimeError::Image { image: spec.image.clone(), reason })?;
        crate::process::argv(spec, &module)?;
        if let Some(mount) = folders(spec).find(|mount| mount.host_path.is_file()) {
            let reason = format!("{} is a file; WebAssembly is given folders only", mount.container_path.display());
            return Err(RuntimeError::Refused { id: spec.id(), reason });
        }
        Ok(module)
    }

    async fn plan(&self, spec: ContainerSpec) -> Result<Launch, RuntimeError> {
        let module = self.check_spec(&spec)?;
        let artefact = self.compile(&spec.image, &module).await?;
        let config = self.supervisor.config();
        let guest_argv = crate::process::argv(&spec, &module)?;
        Ok(Launch {
            version: STATE_VERSION,
            program: config.program.clone(),
            argv: worker::arguments(&spec, guest_argv),
            bind_mounts: false,
            open: worker::open_files(&artefact.path, &spec),
            cgroup_parent: config.cgroup_parent.clone(),
            isolation: config.isolation,
            image_id: format!("file://{}@sha256:{}", module.display(), artefact.sha256),
            log_bytes_max: config.log_bytes_max,
            log_files_max: config.log_files_max,
            spec,
        })
    }

    async fn compile(&self, image: &str, module: &Path) -> Result<Artefact, RuntimeError> {
        let failed = |reason: String| RuntimeError::Image { image: image.to_owned(), reason };
        let output = Command::new(&self.supervisor.config().program)
            .arg("wasm-compile")
            .args([module, &self.wasm.cache_dir])
            .arg(self.wasm.cache_bytes_max.to_string())
            .env_clear()
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| failed(format!("failed to run the compiler: {error}")))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().chars().take(2000).collect()));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| failed(format!("failed to hear from the compiler: {error}")))
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
            argv: worker::arguments(&launch.spec, argv),
            timeout,
            open: worker::open_files(&artefact.path, &launch.spec),
        })
    }
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
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
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

    fn check(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        self.check_spec(spec).map(drop)
    }

    fn start(&self, spec: ContainerSpec) -> RuntimeFuture<'_, ContainerStatus> {
        Box::pin(async move { self.supervisor.start(self.plan(spec).await?).await })
    }

    fn stop(&self, id: &ContainerId, grace: Duration) -> RuntimeFuture<'_, ContainerStatus> {
        let id = id.clone();
        Box::pin(async move { self.supervisor.stop(&id, grace).await })
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
