//! The program: command line, configuration, wiring and shutdown. What Selvedge does is in the other crates.
//!
//! **Where is it?** What can be typed: `cli`; what can be set: `config`; how each role is put together: `hub`, `node`, `edge`,
//! and `up` for all three; the tools `status`, `token`, `kubeconfig`, `image`, `backup`, `reset`; where state is: `paths`; how a role ends: `stop`, `exit`;
//! what a service manager hears of it: `notify`.
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

#[cfg(feature = "hub")]
mod backup;
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
#[cfg(feature = "node")]
mod image;
mod kube_access;
mod kubeconfig;
mod launch;
#[cfg(feature = "node")]
mod log_links;
mod memory;
#[cfg(feature = "node")]
mod node;
mod notify;
mod paths;
mod reset;
mod roles;
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

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use crate::cli::{Cli, Command, TokenCommand};
use crate::exit::Exit;
use crate::launch::{role, settings, tool};

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
        #[cfg(feature = "wasm")]
        Command::WasmWorker(raw) => node_runtime::wasm_worker_main(raw.args),
        #[cfg(feature = "wasm")]
        Command::WasmCompile(raw) => node_runtime::wasm_compile_main(raw.args),
        command => match run(command) {
            Ok(exit) => exit.into(),
            Err(error) => {
                exit::print(&error);
                exit::code(&error).into()
            }
        },
    }
}

fn run(command: Command) -> Result<Exit> {
    match command {
        #[cfg(all(feature = "hub", feature = "node", feature = "edge"))]
        Command::Up(args) => {
            let config = config::UpConfig::load(args.role.config.as_deref())?;
            let given = config::node_arguments(&[], None, args.node_name.as_deref());
            let example = args.example.as_deref().and_then(example::mistake);
            let mistakes = config.mistakes().into_iter().chain(given).chain(example);
            if !launch::is_to_run(&args.role, mistakes.collect())? {
                return Ok(Exit::Done);
            }
            role(&config.hub.log.clone(), up::run(args, config))
        }
        #[cfg(feature = "hub")]
        Command::Hub(cli::HubArgs { command: Some(command), .. }) => match command {
            cli::HubCommand::Backup(args) => tool(backup::backup(args)),
            cli::HubCommand::Restore(args) => tool(backup::restore(args)),
        },
        #[cfg(feature = "hub")]
        Command::Hub(cli::HubArgs { command: None, role: args }) => {
            let config = settings::<config::HubConfig>(&args, config::HubConfig::ENV)?;
            if !launch::is_to_run(&args, config.mistakes())? {
                return Ok(Exit::Done);
            }
            role(&config.log.clone(), roles::hub(args, config))
        }
        #[cfg(feature = "node")]
        Command::Node(cli::NodeArgs { command: Some(cli::NodeCommand::AcceptHub(args)), .. }) => {
            tool(node::accept_hub(args))
        }
        #[cfg(feature = "node")]
        Command::Node(cli::NodeArgs { command: Some(cli::NodeCommand::HoldUpdates(args)), .. }) => {
            tool(async move { node::hold_updates(args) })
        }
        #[cfg(feature = "node")]
        Command::Node(cli::NodeArgs { command: Some(cli::NodeCommand::ReleaseUpdates(args)), .. }) => {
            tool(async move { node::release_updates(args) })
        }
        #[cfg(feature = "node")]
        Command::Node(args) => {
            let config = settings::<config::NodeConfig>(&args.role, config::NodeConfig::ENV)?;
            let given = config::node_arguments(&args.hub, args.token.as_deref(), args.node_name.as_deref());
            if !launch::is_to_run(&args.role, config.mistakes().into_iter().chain(given).collect())? {
                return Ok(Exit::Done);
            }
            role(&config.log.clone(), roles::node(args, config))
        }
        #[cfg(feature = "edge")]
        Command::Edge(args) => {
            let config = settings::<config::EdgeConfig>(&args.role, config::EdgeConfig::ENV)?;
            let mut mistakes = config.mistakes();
            if args.role.check_config {
                mistakes.extend(edge::file_mistakes(&args, &config)?);
            }
            if !launch::is_to_run(&args.role, mistakes)? {
                return Ok(Exit::Done);
            }
            role(&config.log.clone(), roles::edge(args, config))
        }
        Command::Token(TokenCommand::Create(args)) => tool(token::create(args)),
        Command::Kubeconfig(args) => kubeconfig::print(args).map(|()| Exit::Done),
        #[cfg(feature = "node")]
        Command::Image(command) => tool(image::image(command)),
        Command::Status(args) => tool(status::status(args)),
        Command::Reset(args) => tool(reset::reset(args)),
        Command::Version => {
            println!("selvedge {} (Kubernetes {})", env!("CARGO_PKG_VERSION"), api_edge::KUBERNETES_VERSION);
            Ok(Exit::Done)
        }
        #[cfg(feature = "wasm")]
        Command::WasmWorker(_) | Command::WasmCompile(_) => unreachable!("answered before"),
    }
}
