//! `cargo xtask up`: from a checkout to a running hub, node and edge.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::run::{PROFILE, cargo, has, root, run, say, target_dir};

/// Builds the program and the example, then becomes `selvedge up`. Arguments after `--` go to it.
pub fn up(args: &[String]) -> Result<()> {
    // Whoever asks what it does has not asked for a build.
    let own = args.iter().take_while(|arg| *arg != "--");
    if own.into_iter().any(|arg| matches!(arg.as_str(), "--help" | "-h")) {
        println!(
            "cargo xtask up [-- ARGS]\n\nBuilds the program and examples/first-light, then becomes `selvedge up --example examples/first-light`\n\
             with its state in .selvedge. ARGS go to it, such as `-- --node-name edge-1 --ports ephemeral`;\n\
             `cargo xtask up -- --help` shows them after the build."
        );
        return Ok(());
    }
    if !["cc", "gcc", "clang"].iter().any(|compiler| has(compiler)) {
        bail!("a C compiler is needed (the TLS library has C in it): apt-get install -y gcc libc6-dev");
    }
    say("Building Selvedge (the first build takes some minutes)");
    run(&mut cargo(&["build", "--profile", PROFILE, "--package", "selvedge"]))?;
    crate::example::build()?;
    let program = target_dir().join(PROFILE).join("selvedge");
    let mut command = Command::new(&program);
    command.args(["up", "--example"]).arg(root().join("examples/first-light"));
    let rest: Vec<&String> = args.iter().filter(|arg| *arg != "--").collect();
    if !rest.iter().any(|arg| arg.starts_with("--data-dir")) {
        command.arg("--data-dir").arg(root().join(".selvedge"));
    }
    command.args(rest);
    // The shell's Ctrl-C must reach the program itself, so this process becomes it.
    Err(command.exec()).with_context(|| format!("failed to start {}", program.display()))
}
