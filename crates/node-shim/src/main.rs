//! The shim as a program: `node-shim shim [--exec] <state directory>`.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    // The first argument is for people who read a list of processes.
    node_shim::shim::main(env::args_os().skip(2))
}
