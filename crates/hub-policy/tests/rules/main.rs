//! The policy of a hub, through its API: what a node may, what a token may, and what neither may however it tries.

mod harness;
mod identity;
mod nodes;
mod tokens;
