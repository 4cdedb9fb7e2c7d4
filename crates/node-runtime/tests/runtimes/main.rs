//! Real containers through the public door, with the helper program as shim.

mod fixture;
mod process;
mod survival;
#[cfg(feature = "wasm")]
mod wasm;
