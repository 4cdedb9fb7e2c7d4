//! The project's one entry point: `cargo xtask up | test | check | bench | fuzz | dist`.
//!
//! Continuous integration uses the same entry point as people do (`.ci/run`), so what passes there passes here.

mod bench;
mod check;
mod coverage;
mod deny;
mod example;
mod fuzz;
mod glossary;
mod install;
mod peers;
mod run;
mod test;
mod tidy;
mod up;
mod vm;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask up [-- ARGS]       build Selvedge and run it with examples/first-light (installs nothing)
cargo xtask test [FILTER]      install what tests need, then run all of them
      --all                    long checks at their full size
      --no-install             install nothing; tests whose tools are missing say so and are skipped (in CI they fail)
      --unit | --black-box     only one half
      --vm                     only what runs in a virtual machine
      differential             only what a kube-apiserver was recorded to answer; with --all every case, and the report
      --real-cluster           what nodes need of a hub's API, before Kubernetes' own control plane (needs Go; minutes at first)
      --bless                  write snapshots anew where they differ, to be read in the difference
      --release                the black-box half on the binary that is shipped, such as `test --release attack`
cargo xtask install            only install what tests need
      kube-apiserver           build Kubernetes' API server and etcd, to measure against (also kube-controller-manager,
                               kube-scheduler); minutes at first, kept afterwards
cargo xtask check              format, tidy, glossary, licences, lints, docs, each role alone
cargo xtask tidy               the part of check that takes seconds: tidy, glossary, licences
cargo xtask bench NAME         measure; NAME is containers, first-light, hub, machinery, node, store-engines or workloads
cargo xtask fuzz [TARGET]      coverage-guided fuzzing of what comes from wires and disks; --seconds N a target
cargo xtask dist               the shipped binary, with its size
cargo xtask example            make the programs of examples/first-light
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  cause: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    let Some((command, rest)) = args.split_first() else {
        bail!("a command is needed\n\n{HELP}");
    };
    match command.as_str() {
        "up" => up::up(rest),
        "test" => test::test(rest),
        "install" if rest.is_empty() => install::install().map(|_| ()),
        "install" => peers::install(rest),
        "check" => check::check(rest),
        "tidy" => tidy::tidy().and_then(|()| deny::deny()),
        "bench" => bench::bench(rest),
        "dist" => bench::dist(rest),
        "fuzz" => fuzz::fuzz(rest),
        "example" => example::build().map(|_| ()),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => bail!("`{other}` is no command\n\n{HELP}"),
    }
}
