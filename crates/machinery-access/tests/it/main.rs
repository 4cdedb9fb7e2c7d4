//! A whole API in a temporary directory, guarded by this crate and called as its users call it.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod controllers;
mod harness;
mod nodes;
mod pods;
mod roles;
mod tokens;
