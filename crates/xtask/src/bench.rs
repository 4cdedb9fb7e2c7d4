//! `cargo xtask bench NAME`: the shipped binary and what it costs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::install::{debian, install};
use crate::run::{PROFILE, cargo, root, run, say, target_dir};

/// Measures; the report goes to `bench/reports/NAME.json` and `.md`.
pub fn bench(args: &[String]) -> Result<()> {
    let name = args.first().map(String::as_str).unwrap_or_default();
    match name {
        "first-light" => {
            let tools = install()?;
            build_release()?;
            crate::example::build()?;
            // The driver's own speed is not measured: it shares the build of the tests.
            let driver =
                ["run", "--profile", PROFILE, "--quiet", "--package", "selvedge-tests", "--bin", "bench-first-light"];
            let mut command = cargo(&driver);
            command.arg("--");
            tools.export(&mut command);
            command.env("SELVEDGE_BIN", target_dir().join("release/selvedge"));
            command.arg(root().join("bench/reports"));
            run(command.args(&args[1..]))
        }
        "containers" => containers(&args[1..]),
        "hub" => hub(&args[1..]),
        "machinery" => machinery(&args[1..]),
        "node" => node(&args[1..]),
        "workloads" => workloads(&args[1..]),
        "store-engines" => run(Command::new("cargo")
            .args(["run", "--release", "--quiet", "--"])
            .args(&args[1..])
            .current_dir(root().join("bench/store-engines"))),
        other => bail!(
            "`{other}` is no benchmark; there are containers, first-light, hub, machinery, node, store-engines and workloads"
        ),
    }
}

/// The hub alone, and what each attack leaves of it. `--no-attacks` leaves the attack suite out, which takes minutes at its
/// full size; `--only NAME,…` measures some groups.
fn hub(args: &[String]) -> Result<()> {
    let (mut with_attacks, mut rest) = (true, Vec::new());
    for arg in args {
        match arg.as_str() {
            "--no-attacks" => with_attacks = false,
            other => rest.push(other),
        }
    }
    let tools = install()?;
    build_release()?;
    let node_alone = build_node_alone()?;
    let program = target_dir().join("release/selvedge");
    let report = target_dir().join("attack-report.jsonl");
    if with_attacks {
        say("The attack suite at full size, on the shipped binary");
        let _ = fs::remove_file(&report);
        let mut command =
            cargo(&["test", "--profile", PROFILE, "--package", "selvedge-tests", "--test", "black-box", "attack"]);
        tools.export(&mut command);
        command.env("SELVEDGE_BIN", &program).env("SELVEDGE_TEST_SIZE", "full").env("SELVEDGE_ATTACK_REPORT", &report);
        // One at a time: what one attack leaves must not be another's.
        if let Err(error) = run(command.args(["--", "--test-threads", "1"])) {
            println!("not every attack was withstood: {error:#}");
        }
    }
    // The load is built as the tests are; it is not measured.
    run(&mut cargo(&["build", "--profile", PROFILE, "--package", "selvedge-tests", "--bins"]))?;
    let mut command = Command::new(target_dir().join(PROFILE).join("bench-hub"));
    tools.export(&mut command);
    command.env("SELVEDGE_BIN", &program).env("SELVEDGE_BIN_NODE_ALONE", node_alone);
    if report.exists() {
        command.env("SELVEDGE_ATTACK_REPORT", &report);
    }
    run(command.arg(root().join("bench/reports")).args(rest).current_dir(root()))
}

/// The Kubernetes API, beside a kube-apiserver where one is built.
fn machinery(args: &[String]) -> Result<()> {
    let tools = install()?;
    build_release()?;
    // The load is built as the tests are; it is not measured.
    run(&mut cargo(&["build", "--profile", PROFILE, "--package", "selvedge-tests", "--bins"]))?;
    let mut command = Command::new(target_dir().join(PROFILE).join("bench-machinery"));
    tools.export(&mut command);
    command.env("SELVEDGE_BIN", target_dir().join("release/selvedge"));
    run(command.arg(root().join("bench/reports")).args(args).current_dir(root()))
}

/// The node: how fast pods start and come back, what they and the agent cost. `--only NAME,…` measures some groups.
fn node(args: &[String]) -> Result<()> {
    let tools = install()?;
    build_release()?;
    crate::example::build()?;
    let node_alone = build_node_alone()?;
    // What measures is built as the tests are; it is not measured.
    run(&mut cargo(&["build", "--profile", PROFILE, "--package", "selvedge-tests", "--bins"]))?;
    let mut command = Command::new(target_dir().join(PROFILE).join("bench-node"));
    tools.export(&mut command);
    command.env("SELVEDGE_BIN", target_dir().join("release/selvedge")).env("SELVEDGE_BIN_NODE_ALONE", node_alone);
    run(command.arg(root().join("bench/reports")).args(args).current_dir(root()))
}

/// Workloads and the scheduler, on hollow nodes. `--only NAME,…` measures some groups, `--small` is a smoke run.
fn workloads(args: &[String]) -> Result<()> {
    let tools = install()?;
    build_release()?;
    // The load and the hollow nodes are built as the tests are; they are not measured.
    run(&mut cargo(&["build", "--profile", PROFILE, "--package", "selvedge-tests", "--bins"]))?;
    let mut command = Command::new(target_dir().join(PROFILE).join("bench-workloads"));
    tools.export(&mut command);
    command.env("SELVEDGE_BIN", target_dir().join("release/selvedge"));
    run(command.arg(root().join("bench/reports")).args(args).current_dir(root()))
}

/// Containers of images and their network, each figure beside the program that others use for it. `--only NAME,…` measures some groups,
/// `--quick` little of each.
fn containers(args: &[String]) -> Result<()> {
    let tools = install()?;
    debian(&[("containerd", "containerd"), ("iptables", "iptables"), ("zstd", "zstd"), ("cc", "gcc")])?;
    // They are called by their paths.
    debian(&[("/usr/lib/cni/portmap", "containernetworking-plugins")])?;
    build_release()?;
    // What runs inside them is measured, so they are built as it is shipped.
    let examples =
        [("node-kubelet", "container-figures"), ("node-network", "network-figures"), ("node-dns", "dns-load")];
    let mut build = cargo(&["build", "--release"]);
    for (package, example) in examples {
        build.args(["--package", package, "--example", example]);
    }
    run(&mut build)?;
    run(&mut cargo(&["build", "--profile", PROFILE, "--package", "selvedge-tests", "--bins"]))?;
    let mut command = Command::new(target_dir().join(PROFILE).join("bench-containers"));
    tools.export(&mut command);
    match crate::peers::CRI.build() {
        Ok(client) => {
            command.env("SELVEDGE_CRI", client);
        }
        Err(error) => println!("no client of CRI, so containerd is no peer: {error:#}"),
    }
    command.env("SELVEDGE_BIN", target_dir().join("release/selvedge"));
    command.env("SELVEDGE_EXAMPLES", target_dir().join("release/examples"));
    run(command.arg(root().join("bench/reports")).args(args).current_dir(root()))
}

/// The node without the other roles: its size is a figure, and a gateway is where it counts.
fn build_node_alone() -> Result<PathBuf> {
    let dir = target_dir().join("node-alone");
    say("Building the node alone (release profile), for its size");
    run(cargo(&["build", "--release", "--package", "selvedge", "--no-default-features", "--features", "node"])
        .env("CARGO_TARGET_DIR", &dir))?;
    Ok(dir.join("release/selvedge"))
}

/// What is measured: the shipped profile, for this machine as it is.
pub fn build_release() -> Result<()> {
    say("Building the shipped binary (release profile)");
    run(&mut cargo(&["build", "--release", "--package", "selvedge"]))
}
