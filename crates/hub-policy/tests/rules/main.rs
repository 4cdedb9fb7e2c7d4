//! The policy of a hub, through its API: what a node may, what a token may, and what neither may however it tries.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod harness;
mod identity;
mod nodes;
mod quota;
mod table;
mod tokens;
mod waiting;
