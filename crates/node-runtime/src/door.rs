//! The words and the trait that the kubelet and every runtime share.

use std::{future::Future, io, path::PathBuf, pin::Pin, time::Duration};

use jiff::Timestamp;
use tokio::sync::broadcast;

use crate::{
    ContainerId, ContainerResources, ContainerSpec, ContainerStats, ExitRecord, Limits, PodInstance, PodRef, PodSpec,
    Requests,
};

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Its id is taken, its program does not run yet.
    Created,
    /// Its program runs.
    Running {
        /// Process id on the node: the program's, or that of the init process of its pid namespace.
        pid: u32,
        /// When it was started.
        started_at: Timestamp,
    },
    /// It has ended. Its folder stays until [`PodRuntime::remove`].
    Exited(ExitRecord),
}

/// A container as a runtime knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStatus {
    /// Its identity.
    pub id: ContainerId,
    /// Its pod.
    pub pod: PodRef,
    /// Where it is in its life.
    pub state: ContainerState,
    /// The image as asked for.
    pub image: String,
    /// The image as it was found (`imageID`): for WebAssembly with its digest.
    pub image_id: String,
    /// What it may use.
    pub limits: Limits,
    /// What it is promised.
    pub requests: Requests,
    /// Its log.
    pub log_path: PathBuf,
    /// What the node could not give it, one sentence each (`"no pid namespace: not permitted"`); for an Event.
    pub notices: Vec<String>,
}

/// Something happened to a container; the status is that of the moment it was sent.
#[derive(Clone, Debug)]
pub enum ContainerEvent {
    /// Its program runs.
    Started(ContainerStatus),
    /// It has ended; `status.state` is [`ContainerState::Exited`].
    Exited(ContainerStatus),
}

/// Whether an image is on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePresence {
    /// This runtime has no images to fetch.
    NotNeeded,
    /// It is here.
    Present,
    /// It is not.
    Absent,
}

/// Result of [`PodRuntime::exec`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit code; 128 + signal when a signal ended it.
    pub exit_code: i32,
    /// What it wrote to stdout, at most [`ExecOutput::BYTES_MAX`]; what follows is dropped.
    pub stdout: Vec<u8>,
    /// The same of stderr.
    pub stderr: Vec<u8>,
}

impl ExecOutput {
    /// What a probe's answer may hold, as in Kubernetes' own probes (10 KiB).
    pub const BYTES_MAX: usize = 10 * 1024;

    /// Both, stdout first: what a probe shows of its command.
    pub fn combined(&self) -> Vec<u8> {
        [self.stdout.as_slice(), &self.stderr].concat()
    }
}

/// Why a runtime could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The image is not `file:` with an absolute path, is missing, or is not executable. Retrying helps when it is put in place.
    #[error("failed to use image {image}: {reason}")]
    Image {
        /// As asked for.
        image: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The image could not be fetched. Retrying may help.
    #[error("failed to pull image {image}: {message}")]
    Pull {
        /// As asked for.
        image: String,
        /// In one word, as in `state.waiting.reason`.
        reason: &'static str,
        /// What went wrong.
        message: String,
        /// Whether no registry answered: what is here will do.
        out_of_reach: bool,
    },
    /// It is no name of an image. Retrying does not help.
    #[error("failed to parse image name {image:?}: {reason}")]
    ImageName {
        /// As asked for.
        image: String,
        /// What is wrong.
        reason: String,
    },
    /// The node's configuration does not allow the image's path. Retrying does not help.
    #[error(
        "image {image} is not under a path that this node allows ({allowed}); add one to the node's `imagePrefixes`"
    )]
    ImageNotAllowed {
        /// As asked for.
        image: String,
        /// The prefixes.
        allowed: String,
    },
    /// The spec asks for something that this runtime cannot do on this node. Retrying does not help.
    #[error("failed to accept container {id}: {reason}")]
    Refused {
        /// The container.
        id: ContainerId,
        /// What, and what to do.
        reason: String,
    },
    /// The identity is spent: this very attempt was started before. [`PodRuntime::list`] tells what became of it.
    #[error("container {0} was started before")]
    AlreadyStarted(ContainerId),
    /// `stop` came while the container was being started and nothing of it ran yet. The attempt was not made.
    #[error("the start of container {0} was cancelled")]
    Cancelled(ContainerId),
    /// The attempt was made and failed before its program ran; its exit record says the same.
    #[error("failed to start container {id}: {message}")]
    Start {
        /// The container.
        id: ContainerId,
        /// What failed.
        message: String,
    },
    /// No such container.
    #[error("container {0} does not exist")]
    NotFound(ContainerId),
    /// No such pod, or it is not set up.
    #[error("pod {0} does not exist")]
    PodNotFound(String),
    /// The pod does not get what its containers share: namespaces, addresses. Without it they would be the node's own. Retrying helps
    /// when there is an address again, say.
    #[error("failed to set up the namespaces and the network of pod {uid}")]
    Sandbox {
        /// The pod.
        uid: String,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// The act needs a running container.
    #[error("container {0} does not run")]
    NotRunning(ContainerId),
    /// The act needs a container that has ended.
    #[error("container {0} still runs; stop it first")]
    StillRunning(ContainerId),
    /// The command did not end in time and was killed.
    #[error("the command did not end within {} ms in container {id}", timeout.as_millis())]
    ExecTimeout {
        /// The container.
        id: ContainerId,
        /// How long it was given.
        timeout: Duration,
    },
    /// The command could not be run in the container.
    #[error("failed to run the command in container {id}: {message}")]
    Exec {
        /// The container.
        id: ContainerId,
        /// What failed.
        message: String,
    },
    /// The node's disk or kernel refused.
    #[error("failed to {act}")]
    Io {
        /// What was being done, as "read /x".
        act: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What the methods of [`PodRuntime`] return.
pub type RuntimeFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, RuntimeError>> + Send + 'a>>;

/// Something that runs containers of one `RuntimeClass`.
///
/// All calls may be repeated; dropping a future leaves the container in a state that [`list`](PodRuntime::list) tells.
pub trait PodRuntime: Send + Sync {
    /// Handler of the `RuntimeClass`: `selvedge-process`, `selvedge-wasm`, `crun`.
    fn handler(&self) -> &str;

    /// Sets a pod up, or finds it as it is: what its containers will share. Called before the first container is started and
    /// again whenever the kubelet has been away.
    ///
    /// As long as the pod is set up the id is the same. After a reboot, [`remove_pod`](PodRuntime::remove_pod), or when
    /// somebody has taken away what was set up, it is another one, and init containers have to run again.
    fn ensure_pod(&self, spec: PodSpec) -> RuntimeFuture<'_, PodInstance>;

    /// Stops all that runs in a pod: its containers as [`stop`](PodRuntime::stop) does, all at once, then whatever else is in
    /// its control group. Answers when nothing runs any more; a pod that does not exist is no error.
    fn stop_pod(&self, uid: &str, grace: Duration) -> RuntimeFuture<'_, ()>;

    /// Forgets a pod: containers that have ended, its instance, its control group and what may still be in that. A pod that
    /// does not exist is no error; one with a container that runs is.
    fn remove_pod(&self, uid: &str) -> RuntimeFuture<'_, ()>;

    /// uids of the pods that have something of their own beside containers (namespaces, a network): what an agent that was killed may
    /// have left of pods that nobody knows any more.
    fn list_pods(&self) -> RuntimeFuture<'_, Vec<String>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// What all of a pod uses together.
    fn stats_pod(&self, uid: &str) -> RuntimeFuture<'_, ContainerStats>;

    /// Says whether `spec` could be started here, without starting it: image, command, limits, mounts. It looks at files of the
    /// node, which may lie on a disk that does not answer: call it where waiting harms nobody.
    fn check(&self, spec: &ContainerSpec) -> Result<(), RuntimeError>;

    /// Whether an image is on the node. Runtimes of the node's own files have nothing to fetch.
    fn has_image(&self, _image: &str) -> RuntimeFuture<'_, ImagePresence> {
        Box::pin(async { Ok(ImagePresence::NotNeeded) })
    }

    /// Fetches an image from its registry, or what has changed of it there; answers how many bytes it takes here. `credentials` are
    /// `.dockerconfigjson` of Secrets, as they are.
    fn pull_image(&self, image: &str, _credentials: Vec<Vec<u8>>) -> RuntimeFuture<'_, u64> {
        let error = RuntimeError::Image { image: image.to_owned(), reason: "this runtime fetches none".to_owned() };
        Box::pin(async { Err(error) })
    }

    /// Starts a container; answers when its program runs. An `Err` other than `AlreadyStarted` means that nothing runs.
    /// After [`RuntimeError::Start`] the attempt is spent, listed as exited with [`ExitReason::StartError`](crate::ExitReason::StartError).
    fn start(&self, spec: ContainerSpec) -> RuntimeFuture<'_, ContainerStatus>;

    /// Sends SIGTERM, and SIGKILL to everything in the container after `grace`; answers when nothing of it runs any more.
    /// A container that has ended answers at once. Calling again with a shorter grace while another call waits is allowed.
    ///
    /// A start that is under way is cancelled when its program does not run yet: within a second it returns
    /// [`RuntimeError::Cancelled`], and this returns a status with [`ExitReason::StartError`](crate::ExitReason::StartError) of an attempt that
    /// [`list`](PodRuntime::list) does not have.
    fn stop(&self, id: &ContainerId, grace: Duration) -> RuntimeFuture<'_, ContainerStatus>;

    /// Sends a signal to the container's program.
    fn signal(&self, id: &ContainerId, signal: i32) -> RuntimeFuture<'_, ()>;

    /// Changes what a container that runs gets, without a restart. A limit of memory that is already exceeded is an error.
    fn resize(&self, id: &ContainerId, _resources: ContainerResources) -> RuntimeFuture<'_, ContainerStatus> {
        let reason = "this runtime does not resize a container that runs".to_owned();
        let error = RuntimeError::Refused { id: id.clone(), reason };
        Box::pin(async { Err(error) })
    }

    /// One container.
    fn status(&self, id: &ContainerId) -> RuntimeFuture<'_, ContainerStatus>;

    /// Every container whose folder exists, those that an earlier kubelet started among them, sorted by id.
    fn list(&self) -> RuntimeFuture<'_, Vec<ContainerStatus>>;

    /// Runs a command in the container's namespaces, cgroup, environment and working directory, and waits for its end.
    fn exec(&self, id: &ContainerId, argv: Vec<String>, timeout: Duration) -> RuntimeFuture<'_, ExecOutput>;

    /// What the container uses.
    fn stats(&self, id: &ContainerId) -> RuntimeFuture<'_, ContainerStats>;

    /// Where what a container has written into its image is, where it has one.
    fn writable_dir(&self, _id: &ContainerId) -> Option<PathBuf> {
        None
    }

    /// Deletes what a container that has ended has written into its image; all else that is known of it stays. Answers whether there was
    /// anything.
    fn discard_writes(&self, _id: &ContainerId) -> RuntimeFuture<'_, bool> {
        Box::pin(async { Ok(false) })
    }

    /// Forgets a container that has ended (its log stays). One that does not exist is no error. Its id must not be used again.
    fn remove(&self, id: &ContainerId) -> RuntimeFuture<'_, ()>;

    /// Starts and ends from now on. A receiver that is told `Lagged` calls [`list`](PodRuntime::list).
    fn events(&self) -> broadcast::Receiver<ContainerEvent>;
}
