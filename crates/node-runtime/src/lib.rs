//! Runs the containers of a pod: plain processes and WebAssembly, behind one trait.
//!
//! A container is a process with a small shim as its parent. The shim owns the pipes, writes the log, waits, and
//! puts an exit record on disk; the kubelet may be killed at any moment and finds everything again. A WebAssembly
//! container is the same thing with this very program as its process (`wasm-worker`), so cgroup, logs, signals and
//! adoption are written once.
//!
//! ```text
//! kubelet ── PodRuntime ──▶ state folder ◀── shim ── [ init ] ── the container's process
//!    ▲                       spec.json        │ pipes ──▶ log_dir/<attempt>.log
//!    └────── events ──────── exit.json ◀──────┘
//! ```
//!
//! An identity (pod uid, container, attempt) is spent by creating its state folder, which succeeds once; a lock file
//! in it decides between a shim that starts late and a runtime that has given the attempt up. So nothing ever
//! starts twice, whoever dies between which two steps.

#![warn(missing_docs)]

mod archives;
mod config;
mod container;
mod door;
mod image;
mod images;
mod launch_dir;
pub mod oci;
mod pod;
mod process;
mod program;
mod qos;
mod sandbox;
mod seccomp;
mod signal;
mod supervisor;
#[cfg(feature = "wasm")]
mod wasm;
mod witness;

pub use archives::import_archives;
pub use config::{ProcessConfig, WasmConfig};
pub use container::{ContainerRuntime, Image, ImageConfig, Images};
pub use door::{
    ContainerEvent, ContainerState, ContainerStatus, ExecOutput, ImagePresence, PodRuntime, RuntimeError, RuntimeFuture,
};
pub use images::{
    CollectError, GcLimits, ImageInfo, ImageUsers, NoImages, NodeImages, OpenImagesError, RemoveImageError,
};
pub use launch_dir::{in_memory_dirs, make_in_memory_dir, name_of, remove_in_memory};
pub use node_images::{Collected, ExportError, ImportError, RegistriesConfig, RemoveError};
pub use node_shim::{
    ContainerId, ContainerResources, ContainerSpec, ContainerStats, ExitReason, ExitRecord, ImageRoot, ImageVolume,
    Isolation, Limits, Mount, NamespaceRef, PodRef, PodResources, Propagation, Requests, Seccomp, SeccompProfile,
    Security,
};
pub use oci::OciRuntime;
pub use pod::{
    DeviceRef, HostNamespaces, HostPort, POD_INSTANCE_VERSION, PodInstance, PodNetwork, PodSpec, PortProtocol,
    SAFE_SYSCTLS,
};
pub use process::ProcessRuntime;
pub use program::SHIM;
pub use qos::{oom_score_adj, spare_this_process};
#[cfg(feature = "wasm")]
pub use wasm::{WasmRuntime, wasm_compile_main, wasm_worker_main};
