//! The words that the kubelet, the runtimes and the shim share.

use std::{
    collections::BTreeMap,
    fmt,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::beneath::{self, Links};

/// Which pod a container belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// `metadata.uid`; for a static pod whatever the kubelet made up for it.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// What makes a container one of its kind: no two containers ever have the same id, not even one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerId {
    /// `metadata.uid` of the pod.
    pub pod_uid: String,
    /// `name` in the pod's spec.
    pub container: String,
    /// 0 for the first start; each restart counts one up.
    pub attempt: u32,
}

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}_{}_{}", self.pod_uid, self.container, self.attempt)
    }
}

/// A directory or file of the node that the container sees at a path of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// The volume's name, for messages; where it has none, they name its path.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub volume: String,
    /// Absolute path on the node; it must exist. Of an image it is empty.
    pub host_path: PathBuf,
    /// `subPath`: what of the volume is shown. Only the shim looks at it, and what is missing it creates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<PathBuf>,
    /// Whether only the node writes to the volume (ConfigMap, Secret, fields): then it is read-only to the container, and its
    /// links are the node's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub configuration: bool,
    /// Absolute path in the container. Where nothing is there on the node, the path exists in the container only.
    pub container_path: PathBuf,
    /// Whether writing is rejected.
    #[serde(default)]
    pub read_only: bool,
    /// The image that it shows, read-only, in place of a path on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageVolume>,
    /// Which of later mounts in it are seen.
    #[serde(default, skip_serializing_if = "Propagation::is_none")]
    pub propagation: Propagation,
    /// Whether the container starts without it where the node cannot mount it: nobody has asked for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// An image as a volume. Everything in it is somebody else's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageVolume {
    /// As the pod names it.
    pub reference: String,
    /// `sha256:…` of its configuration. This and the others the runtime sets.
    pub id: String,
    /// The directory that its layers are in.
    pub store: PathBuf,
    /// Names of the layers, the lowest first.
    pub layers: Vec<String>,
}

/// `mountPropagation`: what becomes of mounts that are made in a volume while the container runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// The container sees the volume as it was, and the node nothing of what the container mounts.
    #[default]
    None,
    /// The container sees what is mounted on the node.
    HostToContainer,
    /// And the node, with all other containers, what is mounted in the container.
    Bidirectional,
}

impl Propagation {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl Mount {
    /// Whether the container cannot write to it.
    pub fn is_read_only(&self) -> bool {
        self.read_only || self.configuration || self.image.is_some()
    }

    /// Opens what the container is shown, to be mounted or opened again. The error names volume, path, and what is in the way.
    pub fn open(&self) -> Result<OwnedFd, String> {
        let name = if self.volume.is_empty() { self.host_path.display().to_string() } else { self.volume.clone() };
        let root = beneath::open_path(&self.host_path)
            .map_err(|error| format!("failed to open volume {name} at {}: {error}", self.host_path.display()))?;
        let Some(sub_path) = &self.sub_path else { return Ok(root) };
        let opened = if self.configuration {
            beneath::open(root.as_fd(), sub_path, Links::Followed)
        } else {
            beneath::open_or_create(root.as_fd(), sub_path)
        };
        opened.map_err(|why| format!("failed to open sub path `{}` of volume {name}: {why}", sub_path.display()))
    }
}

/// What a container may use; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Bytes of memory; beyond them the kernel kills the container (`OOMKilled`).
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl Limits {
    /// Whether anything is limited.
    pub fn any(&self) -> bool {
        self.cpu_millis.is_some() || self.memory_bytes.is_some() || self.pids.is_some()
    }
}

/// What a container is promised where several want more than there is; `None` is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// Thousandths of a core: its weight beside the pod's other containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Bytes of memory. The kernel holds none back; they decide who is killed first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// What all containers of a pod get together; `None` is nothing promised, and no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodResources {
    /// Thousandths of a core: the pod's weight beside other pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_request_millis: Option<u64>,
    /// Thousandths of a core; only where every container has a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit_millis: Option<u64>,
    /// Bytes of memory; only where every container has a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// Processes and threads; the node's own default where it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u64>,
}

/// What a container gets, and its pod with it: all that may change while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerResources {
    /// What it may use.
    pub limits: Limits,
    /// What it is promised.
    pub requests: Requests,
    /// What its pod gets.
    pub pod: PodResources,
}

/// All that a runtime needs to start a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSpec {
    /// The pod.
    pub pod: PodRef,
    /// `name` of the container in the pod's spec.
    pub container: String,
    /// 0 for the first start; each restart counts one up.
    pub attempt: u32,
    /// `file:///bin/x` or `file:///opt/x.wasm`.
    pub image: String,
    /// `command` of the container. The image is the program: empty, or its first word names the image's own path.
    #[serde(default)]
    pub command: Vec<String>,
    /// `args` of the container, references to variables already expanded.
    #[serde(default)]
    pub args: Vec<String>,
    /// The whole environment: nothing of the kubelet's own is handed on. `PATH` and `HOSTNAME` get defaults.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// `workingDir`; default `/`.
    #[serde(default)]
    pub working_dir: Option<PathBuf>,
    /// Volumes, in the order in which they are mounted.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Limits; asked for and impossible on this node, the start is refused.
    #[serde(default)]
    pub limits: Limits,
    /// What the container is promised.
    #[serde(default)]
    pub requests: Requests,
    /// What its pod gets; the same for all containers of the pod.
    #[serde(default)]
    pub pod_resources: PodResources,
    /// How soon the kernel kills it when the machine is out of memory, -1000 to 1000; default 0.
    #[serde(default)]
    pub oom_score_adj: Option<i32>,
    /// Where `<attempt>.log` goes (CRI log format); it is created when missing.
    pub log_dir: PathBuf,
    /// `runAsUser`; default: the kubelet's own.
    #[serde(default)]
    pub run_as_user: Option<u32>,
    /// `runAsGroup`; default: `run_as_user`'s number when that is set, else the kubelet's own.
    #[serde(default)]
    pub run_as_group: Option<u32>,
    /// `fsGroup` and `supplementalGroups`; the kubelet's own supplementary groups are never kept.
    #[serde(default)]
    pub supplemental_groups: Vec<u32>,
    /// What it may do; by default nothing but to run.
    #[serde(default = "Security::of_first_version")]
    pub security: Security,
    /// `spec.hostname`; default: the pod's name.
    #[serde(default)]
    pub hostname: Option<String>,
    /// `hostPID`: it sees the node's processes, and ends with its control group alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host_pid: bool,
    /// `targetContainerName`: the container of the pod whose processes it is among.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_container: Option<String>,
    /// `tty`: it has a terminal, to which both of its outputs go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tty: bool,
    /// `stdin`: its input is open, and nobody writes to it. Otherwise it is empty.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin: bool,
    /// `lifecycle.stopSignal`: what asks it to end, as `SIGQUIT`; default: the image's, or `SIGTERM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// A file on the node whose first 4,096 bytes become the exit record's message (`terminationMessagePath`, which the
    /// kubelet also lists among the mounts).
    #[serde(default)]
    pub termination_message: Option<PathBuf>,
    /// Whether the end of the log takes its place when the container failed and left none (`FallbackToLogsOnError`).
    #[serde(default)]
    pub termination_message_from_log: bool,
}

impl ContainerSpec {
    /// The container's identity.
    pub fn id(&self) -> ContainerId {
        ContainerId { pod_uid: self.pod.uid.clone(), container: self.container.clone(), attempt: self.attempt }
    }

    /// Where the log is written.
    pub fn log_path(&self) -> PathBuf {
        self.log_dir.join(format!("{}.log", self.attempt))
    }
}

/// What a program may do beyond reading and writing what its user may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Security {
    /// Everything that the node's agent may, and all of the node's devices and files.
    pub privileged: bool,
    /// Capabilities to have, as in pods: `NET_ADMIN`, `ALL`.
    pub capabilities_add: Vec<String>,
    /// Capabilities not to have, although they are among those to have.
    pub capabilities_drop: Vec<String>,
    /// Whether what it executes may have more rights (`setuid`); by default not.
    pub allow_privilege_escalation: Option<bool>,
    /// Whether it may write to its volumes only.
    pub read_only_root: bool,
    /// Which system calls it may use.
    pub seccomp: Seccomp,
    /// The node's own profile that takes the place of the one above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp_profile: Option<SeccompProfile>,
    /// The profile of AppArmor that the kernel holds its programs to; it must be loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_armor: Option<String>,
    /// `procMount: Unmasked`.
    pub unmasked_proc: bool,
    /// Whether the start is rejected when it would run as root.
    pub run_as_non_root: bool,
}

impl Security {
    /// Of a container that was started before there was any.
    fn of_first_version() -> Self {
        Self { privileged: true, ..Self::default() }
    }
}

/// A filter for system calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// The profile that container runtimes have in common.
    #[default]
    RuntimeDefault,
    /// None.
    Unconfined,
}

/// A filter for system calls that a file of the node describes (`Localhost`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SeccompProfile {
    /// The file, below the node's directory of profiles.
    pub path: PathBuf,
    /// What is loaded, one number an instruction. This and the other form of it the runtime sets: one of both.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filter: Vec<u64>,
    /// `linux.seccomp` of an OCI configuration, for another runtime to load.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub oci: String,
}

/// Why a container ended, in the words of `kubectl describe pod`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// Another exit code, or a signal.
    Error,
    /// The kernel killed it at its memory limit.
    #[serde(rename = "OOMKilled")]
    OomKilled,
    /// It never ran: its message says why.
    StartError,
    /// Nobody saw it end: its shim was killed, or the machine went down.
    ContainerStatusUnknown,
}

impl ExitReason {
    /// As written in `state.terminated.reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::ContainerStatusUnknown => "ContainerStatusUnknown",
        }
    }
}

/// How a container ended; `exit.json` of its state directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitRecord {
    /// Version of this record; 1. A newer one is refused.
    pub version: u32,
    /// The program's exit code; 128 + signal when a signal ended it; 137 when nobody knows; 128 when it never ran.
    pub exit_code: i32,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// One word.
    pub reason: ExitReason,
    /// A sentence, or what the program wrote into its termination message file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When the program was started; `None` when it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended, or was found to have ended.
    pub finished_at: Timestamp,
}

/// Directory of what a container has written into its image, below its state directory.
pub const UPPER: &str = "upper";

/// What a container uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerStats {
    /// Nanoseconds of CPU time since its start.
    pub cpu_nanos: u64,
    /// Bytes of memory, page cache included.
    pub memory_bytes: u64,
    /// Those that the kernel cannot take back at once: without the page cache that has not been used of late.
    pub working_set_bytes: u64,
    /// Bytes of memory that no file is behind.
    pub rss_bytes: u64,
    /// Page faults since its start.
    pub page_faults: u64,
    /// Those of them that had to read from a disk.
    pub major_page_faults: u64,
    /// Processes.
    pub pids: u64,
}

/// A namespace that is held open for a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceRef {
    /// As in `/proc/PID/ns`: `net`, `ipc`, `uts`.
    pub kind: String,
    /// What to open to enter it.
    pub path: PathBuf,
}

/// How many users, and groups, a pod with users of its own has.
pub const IDS_OF_POD: u32 = 65_536;

/// The users and groups of a pod that has its own (`hostUsers: false`): its root is nobody to the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnUsers {
    /// What to open to enter the user namespace.
    pub namespace: PathBuf,
    /// The node's number of the pod's root, user and group. The further ones follow it, [`IDS_OF_POD`] in all.
    pub first: u32,
}

/// What a container has of an image. Everything in an image is somebody else's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageRoot {
    /// The directory that the layers are in. Short names in it let many fit into the options of one mount.
    pub store: PathBuf,
    /// Names of the layers, the lowest first.
    pub layers: Vec<String>,
    /// `USER` of the image, where the pod names no user: `name`, `name:group`, or numbers.
    #[serde(default)]
    pub user: String,
    /// What the containers of the pod share as `/dev/shm`; without it, each has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm: Option<PathBuf>,
}

/// Shared memory of the node, which a pod with `hostIPC` sees.
pub const SHM_OF_NODE: &str = "/dev/shm";

impl ImageRoot {
    /// Whether it sees the node's shared memory, and what is there for others.
    pub fn has_shm_of_node(&self) -> bool {
        self.shm.as_deref() == Some(SHM_OF_NODE.as_ref())
    }
}

/// How far containers are kept apart from the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// Mount, pid, ipc and uts namespaces where the kernel permits them; where not, a notice says so.
    #[default]
    Auto,
    /// None, even where the kernel would permit it. Volumes at container paths are then refused for processes.
    None,
}
