//! What the shim of a container does, and the files through which it and the node's agent know of each other.
//!
//! The program of this crate is small and static, and the node's agent carries it inside itself: `node-runtime` builds it
//! and starts it for each container (docs/adr/0009-static-shim.md). The library holds what both sides read and write.

#![allow(missing_docs, reason = "only node-runtime and the program use this crate; most of its names say it all")]

pub mod beneath;
pub mod cgroup;
pub mod exec;
mod lock;
mod logfile;
pub mod own_users;
pub mod reaper;
mod rights;
pub mod shim;
pub mod state;
pub mod sys;
mod types;
mod users;

pub use lock::FileLock;
pub use types::{
    ContainerId, ContainerResources, ContainerSpec, ContainerStats, ExitReason, ExitRecord, IDS_OF_POD, ImageRoot,
    ImageVolume, Isolation, Limits, Mount, NamespaceRef, OwnUsers, PodRef, PodResources, Propagation, Requests,
    SHM_OF_NODE, Seccomp, SeccompProfile, Security, UPPER,
};
