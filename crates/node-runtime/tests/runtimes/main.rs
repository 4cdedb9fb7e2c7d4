//! Real containers through the public door, with the helper program as shim.

// A test that unwraps fails with the place and the error, which is what it should do.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "wasm")]
mod compile;
mod container;
mod critest;
mod differential;
mod escapes;
mod fixture;
mod image_volumes;
mod oci;
mod own_users;
mod pods;
mod process;
mod propagation;
mod resize;
mod resources;
mod rights;
mod shared_processes;
mod survival;
#[cfg(feature = "wasm")]
mod wasm;
