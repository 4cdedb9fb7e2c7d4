//! A whole API in a temporary directory, guarded by this crate and called as its users call it.

mod controllers;
mod harness;
mod nodes;
mod pods;
mod roles;
mod tokens;
