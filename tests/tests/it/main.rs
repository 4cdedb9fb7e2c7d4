//! Black-box tests: they start the built program and use it as a person would, with other people's clients.
//!
//! One binary, so that all is linked once. Run with `cargo xtask test --black-box [FILTER]`.

mod attack;
mod bad_input;
mod common;
mod data_path;
mod docs;
mod fleet;
mod join;
mod kubectl;
mod newcomer;
mod observe;
mod pods;
mod recorded;
mod snapshots;
mod terminal;
mod up;
