//! `cargo xtask bench NAME` and `cargo xtask dist`: the shipped binary and what it costs.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::install::install;
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
        "store-engines" => run(Command::new("cargo")
            .args(["run", "--release", "--quiet", "--"])
            .args(&args[1..])
            .current_dir(root().join("bench/store-engines"))),
        other => bail!("`{other}` is no benchmark; there are first-light and store-engines"),
    }
}

/// Builds what is shipped and says how large it is.
pub fn dist(args: &[String]) -> Result<()> {
    if let Some(arg) = args.first() {
        bail!("`{arg}` is no argument of `cargo xtask dist`");
    }
    build_release()?;
    let program = target_dir().join("release/selvedge");
    let bytes = fs::metadata(&program).with_context(|| format!("failed to look at {}", program.display()))?.len();
    println!("{}: {:.1} MiB", program.display(), bytes as f64 / (1024.0 * 1024.0));
    Ok(())
}

fn build_release() -> Result<()> {
    say("Building the shipped binary (release profile)");
    run(&mut cargo(&["build", "--release", "--package", "selvedge"]))
}
