//! How a command runs: settings, log, threads.

use std::future::Future;
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base_observe::LogOptions;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::RoleArgs;
use crate::exit::{self, Exit};
use crate::memory;

/// How long a thread that waited for a disk lives on without work. Each holds some 200 kB of free memory, and after a burst there are
/// dozens; in ten seconds, which is usual, each of them has something small to do again, and none ends.
const IDLE_THREAD_LIVES: Duration = Duration::from_secs(2);

/// Roles wait for the network and the disk, not for the processor: more threads only cost memory.
const WORKER_THREADS: usize = 2;

/// Reads a role's settings.
#[cfg_attr(not(any(feature = "hub", feature = "node", feature = "edge")), expect(dead_code))]
pub fn settings<T: Default + Serialize + DeserializeOwned>(args: &RoleArgs, env_prefix: &str) -> Result<T> {
    Ok(base_config::load(args.config.as_deref(), env_prefix)?)
}

/// Whether a role is to run, and was not only to be checked. What a check rejects, a start rejects as well, before it acts.
pub fn is_to_run(args: &RoleArgs, mistakes: Vec<String>) -> Result<bool> {
    if let Some(error) = exit::mistakes(mistakes) {
        return Err(error);
    }
    if args.check_config {
        println!("the settings are right");
    }
    Ok(!args.check_config)
}

/// Runs a role to its end.
pub fn role(log: &str, work: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    // What a role writes are keys, Secrets and readings: nobody else's, whatever the user's shell says. Pods get the usual
    // one back from their shim.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let options = LogOptions { filter: log.to_owned(), ansi: std::io::stderr().is_terminal(), ..LogOptions::default() };
    base_observe::init_logging(&options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .on_thread_park(memory::give_back)
        .thread_keep_alive(IDLE_THREAD_LIVES)
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    runtime.spawn(memory::keep_small());
    runtime.spawn(base_observe::visit_threads());
    let outcome = runtime.block_on(work);
    // What is still running was to end and did not: the process ends without it.
    runtime.shutdown_background();
    outcome
}

/// Runs a tool to its end.
pub fn tool(work: impl Future<Output = Result<()>>) -> Result<Exit> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start the runtime")?;
    runtime.block_on(work).map(|()| Exit::Done)
}
