//! The program: command line, configuration, wiring and shutdown. What Selvedge does is in the other crates.
//!
//! **Where is it?** What can be typed: `cli`; what can be set: `config`; how each role is put together: `hub`, `node`, `edge`,
//! and `up` for all three; the tools `status`, `token`, `reset`; where state is: `paths`; how a role ends: `stop`, `exit`.
//!
//! **May I touch it?** Nothing is decided here: what a role does belongs to the crate that owns it, and a role's wiring stays
//! below 150 lines. The order in `start` counts: a lock first, then everything that may fail, then the listener, so that a
//! bad setting ends the process before it has acted.
//!
//! **How do I try it?** `cargo xtask up`; `cargo xtask test --black-box FILTER` drives the built program with kubectl.
//!
//! **What breaks?** Options, settings, exit codes and the lines on stdout are a contract with scripts:
//! `docs/reference/cli.md` and `docs/reference/config` have them.

// A build of one role alone leaves pieces unused that the roles share.
#![cfg_attr(not(all(feature = "hub", feature = "node", feature = "edge")), allow(dead_code, unused_imports))]

mod cli;
mod config;
#[cfg(feature = "edge")]
mod edge;
#[cfg(all(feature = "node", feature = "edge"))]
mod edge_pod;
#[cfg(feature = "hub")]
mod example;
mod exit;
#[cfg(feature = "hub")]
mod hub;
mod kube_access;
mod memory;
#[cfg(feature = "node")]
mod node;
mod paths;
mod reset;
mod socket;
mod status;
#[cfg(feature = "hub")]
mod statusz;
mod stop;
#[cfg(feature = "hub")]
mod telemetry;
mod token;
#[cfg(all(feature = "hub", feature = "node", feature = "edge"))]
mod up;

use std::future::Future;
use std::io::IsTerminal as _;
use std::process::ExitCode;
#[cfg(any(feature = "hub", feature = "node", feature = "edge"))]
use std::time::Duration;

use anyhow::{Context as _, Result};
use base_observe::LogOptions;
use clap::Parser as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
#[cfg(any(feature = "hub", feature = "node", feature = "edge"))]
use tokio_util::sync::CancellationToken;

use crate::cli::{Cli, Command, RoleArgs, TokenCommand};
use crate::exit::Exit;
#[cfg(any(feature = "hub", feature = "node", feature = "edge"))]
use crate::{cli::PortChoice, paths::DataDir};

/// Roles wait for the network and the disk, not for the processor: more threads only cost memory.
const WORKER_THREADS: usize = 2;

/// What `--check-config` says when there is nothing to say.
const SETTINGS_ARE_RIGHT: &str = "the settings are right";

fn main() -> ExitCode {
    // SIGPIPE is ignored by the runtime library; `selvedge status | head` then ends with an error, which is fine.
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    match cli.command {
        #[cfg(feature = "node")]
        Command::Shim(raw) => node_runtime::shim_main(raw.args),
        #[cfg(feature = "wasm")]
        Command::WasmWorker(raw) => node_runtime::wasm_worker_main(raw.args),
        #[cfg(feature = "wasm")]
        Command::WasmCompile(raw) => node_runtime::wasm_compile_main(raw.args),
        command => match run(command) {
            Ok(exit) => exit.into(),
            Err(error) => {
                exit::print(&error);
                let is_setting = error.downcast_ref::<base_config::ConfigErrors>().is_some();
                if is_setting { Exit::Usage.into() } else { Exit::Failed.into() }
            }
        },
    }
}

fn run(command: Command) -> Result<Exit> {
    match command {
        #[cfg(all(feature = "hub", feature = "node", feature = "edge"))]
        Command::Up(args) => {
            let config = config::UpConfig::load(args.role.config.as_deref())?;
            if args.role.check_config {
                println!("{SETTINGS_ARE_RIGHT}");
                return Ok(Exit::Done);
            }
            role(&config.hub.log.clone(), up::run(args, config))
        }
        #[cfg(feature = "hub")]
        Command::Hub(args) => {
            let Some(config) = settings::<config::HubConfig>(&args, config::HubConfig::ENV)? else {
                return Ok(Exit::Done);
            };
            role(&config.log.clone(), run_hub(args, config))
        }
        #[cfg(feature = "node")]
        Command::Node(args) => {
            let Some(config) = settings::<config::NodeConfig>(&args.role, config::NodeConfig::ENV)? else {
                return Ok(Exit::Done);
            };
            role(&config.log.clone(), run_node(args, config))
        }
        #[cfg(feature = "edge")]
        Command::Edge(args) => {
            let Some(config) = settings::<config::EdgeConfig>(&args.role, config::EdgeConfig::ENV)? else {
                return Ok(Exit::Done);
            };
            role(&config.log.clone(), run_edge(args, config))
        }
        Command::Token(TokenCommand::Create(args)) => tool(token::create(args)),
        Command::Status(args) => tool(status::status(args)),
        Command::Reset(args) => tool(reset::reset(args)),
        Command::Version => {
            println!("selvedge {} (Kubernetes {})", env!("CARGO_PKG_VERSION"), api_edge::KUBERNETES_VERSION);
            Ok(Exit::Done)
        }
        #[cfg(feature = "node")]
        Command::Shim(_) => unreachable!("answered before"),
        #[cfg(feature = "wasm")]
        Command::WasmWorker(_) | Command::WasmCompile(_) => unreachable!("answered before"),
    }
}

/// Reads a role's settings; `None` when they were only to be checked, and are right.
#[cfg_attr(not(any(feature = "hub", feature = "node", feature = "edge")), expect(dead_code))]
fn settings<T: Default + Serialize + DeserializeOwned>(args: &RoleArgs, env_prefix: &str) -> Result<Option<T>> {
    let config = base_config::load(args.config.as_deref(), env_prefix)?;
    if args.check_config {
        println!("{SETTINGS_ARE_RIGHT}");
        return Ok(None);
    }
    Ok(Some(config))
}

/// Runs a role to its end.
fn role(log: &str, work: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    // What a role writes are keys, Secrets and readings: nobody else's, whatever the user's shell says. Pods get the usual
    // one back from their shim.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let options = LogOptions { filter: log.to_owned(), ansi: std::io::stderr().is_terminal(), ..LogOptions::default() };
    base_observe::init_logging(&options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    runtime.spawn(memory::keep_small());
    let outcome = runtime.block_on(work);
    // What is still running was told to end and did not: the process ends without it.
    runtime.shutdown_background();
    outcome
}

/// Runs a tool to its end.
fn tool(work: impl Future<Output = Result<()>>) -> Result<Exit> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start the runtime")?;
    runtime.block_on(work).map(|()| Exit::Done)
}

#[cfg(feature = "hub")]
async fn run_hub(args: RoleArgs, mut config: config::HubConfig) -> Result<Exit> {
    let data_dir = DataDir::new(args.data_dir)?;
    if args.ports == PortChoice::Ephemeral {
        config.listen.set_port(0);
    }
    let shutdown = CancellationToken::new();
    stop::on_signal(shutdown.clone())?;
    let hub = hub::start(&data_dir, &config, shutdown.clone()).await?;
    println!("selvedge: hub   {} (Kubernetes {})", hub.url, api_edge::KUBERNETES_VERSION);
    println!("selvedge: try   export KUBECONFIG={}; kubectl get nodes", data_dir.kubeconfig().display());
    println!(
        "selvedge: join  selvedge node --hub {} --token $(selvedge token create --data-dir {})",
        hub.url,
        data_dir.path().display()
    );
    shutdown.cancelled().await;
    Ok(stop::drain(Duration::from_secs(config.shutdown_grace_seconds), hub.wait()).await)
}

#[cfg(feature = "node")]
async fn run_node(args: cli::NodeArgs, mut config: config::NodeConfig) -> Result<Exit> {
    let data_dir = DataDir::new(args.role.data_dir)?;
    if args.role.ports == PortChoice::Ephemeral {
        config.kubelet_listen.set_port(0);
    }
    let token = args.token.as_deref().map(str::parse).transpose()?;
    let shutdown = CancellationToken::new();
    stop::on_signal(shutdown.clone())?;
    let start = node::NodeStart { hubs: args.hub, token, node_name: args.node_name, ..node::NodeStart::default() };
    let node = node::start(&data_dir, &config, start, shutdown.clone()).await?;
    println!("selvedge: node  {}, state in {}", node.name, data_dir.path().display());
    let until_stopped = async {
        #[cfg(feature = "edge")]
        return edge_pod::keep(&node, &data_dir, &config, shutdown.clone()).await;
        #[cfg(not(feature = "edge"))]
        {
            shutdown.cancelled().await;
            anyhow::Ok(())
        }
    };
    tokio::select! {
        stopped = until_stopped => stopped?,
        reason = node.join_refused() => {
            shutdown.cancel();
            node.kubelet.stopped().await;
            anyhow::bail!("failed to join: {reason}");
        }
    }
    // Pods go on: the next start finds them running.
    Ok(stop::drain(Duration::from_secs(config.shutdown_grace_seconds), node.kubelet.stopped()).await)
}

#[cfg(feature = "edge")]
async fn run_edge(args: cli::EdgeArgs, config: config::EdgeConfig) -> Result<Exit> {
    let data_dir = DataDir::new(args.role.data_dir)?;
    let shutdown = CancellationToken::new();
    stop::on_signal(shutdown.clone())?;
    let restored = base_retry::Wake::new();
    let (node_name, hub) = match &args.node_dir {
        #[cfg(feature = "node")]
        Some(dir) => {
            edge::follow_link_of_node(dir, restored.clone(), shutdown.clone());
            (edge::node_name(dir)?, Some(edge::hub_of_node(dir)))
        }
        #[cfg(not(feature = "node"))]
        Some(_) => anyhow::bail!("--node-dir needs a program that was built with the feature `node`"),
        None => (String::new(), None),
    };
    let start = edge::EdgeStart {
        node_name,
        hub,
        restored,
        config_dir: config.config_dir.clone(),
        journal_bytes_max: config.journal_bytes_max,
    };
    let edge = edge::start(&data_dir, start, shutdown.clone()).await?;
    println!("selvedge: edge  state in {}", data_dir.path().display());
    shutdown.cancelled().await;
    Ok(stop::drain(Duration::from_secs(config.shutdown_grace_seconds), edge.handle.stopped()).await)
}
