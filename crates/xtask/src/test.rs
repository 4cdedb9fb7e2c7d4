//! `cargo xtask test`: everything that can fail, in the order of its price.

use anyhow::{Result, bail};

use crate::install::{Tools, install};
use crate::run::{PROFILE, cargo, run, say, target_dir};

/// Runs unit tests, then the black-box suites against the built program.
pub fn test(args: &[String]) -> Result<()> {
    let (mut all, mut may_install, mut unit, mut black_box, mut filter) = (false, true, true, true, None);
    for arg in args {
        match arg.as_str() {
            "--all" => all = true,
            "--no-install" => may_install = false,
            "--unit" => black_box = false,
            "--black-box" => unit = false,
            "--" => {}
            flag if flag.starts_with('-') => bail!("`{flag}` is no flag of `cargo xtask test`; see `cargo xtask help`"),
            name => filter = Some(name.to_owned()),
        }
    }
    let tools = if may_install { install()? } else { Tools::found() };
    crate::example::build()?;
    let finish = |command: &mut std::process::Command| {
        tools.export(command);
        command.env("SELVEDGE_BIN", target_dir().join(PROFILE).join("selvedge"));
        command.env("SELVEDGE_TEST_SIZE", if all { "full" } else { "small" });
        if let Some(filter) = &filter {
            command.arg(filter);
        }
        // Each black-box test runs a hub, a node and their pods: more than two at once measure the machine, not us.
        command.args(["--", "--test-threads", "2"]);
        run(command)
    };
    if unit {
        say("Unit tests");
        finish(&mut cargo(&["test", "--profile", PROFILE, "--workspace", "--exclude", "selvedge-tests"]))?;
    }
    if black_box {
        say("Building the program");
        run(&mut cargo(&["build", "--profile", PROFILE, "--package", "selvedge"]))?;
        say("Black-box tests");
        finish(&mut cargo(&["test", "--profile", PROFILE, "--package", "selvedge-tests"]))?;
    }
    Ok(())
}
