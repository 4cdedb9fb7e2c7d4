//! Black-box tests: they start the built program and use it as a person would, with other people's clients.
//!
//! One binary, so that all is linked once. Run with `cargo xtask test --black-box [FILTER]`.

mod attack;
mod backup;
mod bad_input;
mod chart;
mod clients;
mod commands;
mod common;
mod containers;
mod data_path;
mod differential;
mod docs;
mod fleet;
mod helm;
mod hostile_hub;
mod hostile_pods;
mod join;
mod kills;
mod kubectl;
mod network;
mod newcomer;
mod observe;
mod pods;
mod rollouts;
mod runtimes;
mod snapshots;
mod stock_cluster;
mod terminal;
mod tokens;
mod up;
mod upgrade;
mod vm;
mod volumes;
mod workloads;
