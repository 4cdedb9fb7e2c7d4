//! Black-box tests: they start the built program and use it as a person would, with other people's clients.
//!
//! One binary, so that the program's surroundings are linked once. Run with `cargo xtask test --black-box [FILTER]`.

mod bad_input;
mod common;
mod data_path;
mod join;
mod kubectl;
mod pods;
mod up;
