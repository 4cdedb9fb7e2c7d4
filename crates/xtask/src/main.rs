//! The project's one entry point: `cargo xtask up | test | check | bench | fuzz | dist`.
//!
//! Continuous integration uses the same entry point as people do (`.ci/run`), so what passes there passes here.

mod bench;
mod check;
mod coverage;
mod deny;
mod dist;
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
cargo xtask dist               what is shipped, into target/dist: static programs with their sizes, a .deb, the hub's image and Helm chart
      --arch amd64|arm64       for another machine than this one; several times for several (in one image)
      --check                  have lintian, systemd, skopeo and Helm look at it, and run the program
      --full-only              without the program of the node alone
      --program FILE           pack a program that is there, and build none
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
        "dist" => dist::dist(rest),
        "fuzz" => fuzz::fuzz(rest),
        "example" => example::build().map(|_| ()),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => bail!("`{other}` is no command\n\n{HELP}"),
    }
}
