//! `selvedge-process`: a program of the node as a container.
//!
//! The image is the program. `command` may be empty or begin with the program itself (its path or its file name);
//! anything else is refused, since it would run a program that nobody allowed. `args` follow. Commands of exec
//! probes are looked up in the container's `PATH` and must be under an allowed prefix as well.

use std::{path::Path, time::Duration};

use node_shim::{
    exec::{ExecRequest, search_path},
    state::{Launch, STATE_VERSION},
};
use tokio::sync::broadcast;

use crate::{
    ContainerEvent, ContainerId, ContainerSpec, ContainerStats, ContainerStatus, ExecOutput, PodInstance, PodRuntime,
    PodSpec, ProcessConfig, RuntimeError, RuntimeFuture,
    image::{self, ImageKind},
    sandbox::Shared,
    seccomp,
    signal::signal,
    supervisor::{Supervisor, blocking, check_mounts, check_names, check_security},
};

/// Runs programs of the node.
pub struct ProcessRuntime {
    supervisor: Supervisor,
}

impl ProcessRuntime {
    /// Handler of the `RuntimeClass`.
    pub const HANDLER: &str = "selvedge-process";

    /// Opens the state folder and adopts what runs. Must be called inside a tokio runtime.
    ///
    /// Fails when the folder cannot be made or another process has it open.
    pub fn open(config: ProcessConfig) -> Result<Self, RuntimeError> {
        Ok(Self { supervisor: Supervisor::open(config, Self::HANDLER, Shared::Network)? })
    }

    /// What is to be started. It looks at files of the node.
    fn plan(config: &ProcessConfig, mut spec: ContainerSpec) -> Result<Launch, RuntimeError> {
        check_names(&spec)?;
        check_mounts(&spec)?;
        check_security(&spec)?;
        seccomp::read(&config.seccomp_dir, &mut spec, false)?;
        let program = image::resolve(&spec.image, &config.allowed_prefixes, ImageKind::Executable)?;
        let argv = argv(&spec, &program)?;
        let stop_signal = spec.stop_signal.as_deref().map(signal).transpose();
        let stop_signal = stop_signal.map_err(|reason| RuntimeError::Refused { id: spec.id(), reason })?;
        spec.pod_resources.pids_max.get_or_insert(config.pod_pids_max);
        Ok(Launch {
            version: STATE_VERSION,
            image_id: format!("file://{}", program.display()),
            image: None,
            oci: None,
            namespaces: Vec::new(),
            processes_of: None,
            users: None,
            stop_signal,
            private: None,
            boot_id: String::new(),
            program,
            argv,
            bind_mounts: true,
            files: Vec::new(),
            hidden: config.hidden.clone(),
            cgroup_parent: config.cgroup_parent.clone(),
            isolation: config.isolation,
            log_bytes_max: config.log_bytes_max,
            log_files_max: config.log_files_max,
            spec,
        })
    }

    fn exec_request(
        &self,
        id: &ContainerId,
        argv: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecRequest, RuntimeError> {
        let refused = |reason: String| RuntimeError::Exec { id: id.clone(), message: reason };
        let launch = self.supervisor.launch(id)?;
        let word = argv.first().ok_or_else(|| refused("the command is empty".to_owned()))?;
        let path = search_path(&launch.spec.env);
        let program = image::resolve_command(word, path, &self.supervisor.config().allowed_prefixes)?;
        Ok(ExecRequest { program, argv, timeout, files: Vec::new(), process: None })
    }
}

/// The program's words: its path, the rest of `command`, `args`.
pub(crate) fn argv(spec: &ContainerSpec, program: &Path) -> Result<Vec<String>, RuntimeError> {
    let path = program.display().to_string();
    if let Some(word) = spec.command.first() {
        let is_program = Path::new(word) == program || program.file_name().is_some_and(|name| name == word.as_str());
        if !is_program {
            let image = match word.starts_with('/') {
                true => format!("file://{word}"),
                false => "file:// and the program's path".to_owned(),
            };
            let reason = format!(
                "`command` begins with {word:?}, but the image is the program: name {image} as the image, or leave `command` out and use `args`"
            );
            return Err(RuntimeError::Refused { id: spec.id(), reason });
        }
    }
    let rest = spec.command.iter().skip(1).chain(&spec.args).cloned();
    Ok(std::iter::once(path).chain(rest).collect())
}

impl PodRuntime for ProcessRuntime {
    fn handler(&self) -> &'static str {
        Self::HANDLER
    }

    fn ensure_pod(&self, spec: PodSpec) -> RuntimeFuture<'_, PodInstance> {
        Box::pin(self.supervisor.ensure_pod(spec))
    }

    fn stop_pod(&self, uid: &str, grace: Duration) -> RuntimeFuture<'_, ()> {
        let uid = uid.to_owned();
        Box::pin(async move { self.supervisor.stop_pod(&uid, grace).await })
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
        Self::plan(self.supervisor.config(), spec.clone()).map(drop)
    }

    fn start(&self, spec: ContainerSpec) -> RuntimeFuture<'_, ContainerStatus> {
        Box::pin(async move {
            let config = self.supervisor.config().clone();
            // The program may lie on a disk that does not answer.
            let sandbox = self.supervisor.sandbox(&spec.pod.uid).await?.unwrap_or_default();
            let mut launch = blocking(move || Self::plan(&config, spec)).await?;
            launch.namespaces = sandbox.namespaces;
            self.supervisor.start(launch).await
        })
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
            let request = self.exec_request(&id, argv, timeout)?;
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
