//! `cargo xtask check`: what a reviewer should not have to look for.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::run::{PROFILE, cargo, output, root, run, say};

/// What each role is built with alone: a feature that another role brings along would be missed in the field.
const FEATURE_SETS: &[&str] = &["hub", "node", "edge", "node,wasm", "full"];

/// Runs every check; the first that fails ends it.
pub fn check(args: &[String]) -> Result<()> {
    if let Some(arg) = args.first() {
        bail!("`{arg}` is no argument of `cargo xtask check`");
    }
    say("Rust");
    rust_version()?;
    say("Format");
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    run(&mut cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))?;
    say("Tidy and glossary");
    crate::tidy::tidy()?;
    say("Licences, bans, sources");
    crate::deny::deny()?;
    say("Lints");
    run(&mut cargo(&["clippy", "--profile", PROFILE, "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    say("Docs");
    run(cargo(&["doc", "--profile", PROFILE, "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    for features in FEATURE_SETS {
        say(&format!("The build with {features} alone"));
        let only = ["clippy", "--profile", PROFILE, "--package", "selvedge", "--no-default-features", "--features"];
        run(cargo(&only).arg(features).args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}

/// Cargo says so too, for each package and in its own way; this is one sentence with the next step.
fn rust_version() -> Result<()> {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).context("failed to read Cargo.toml")?;
    let needed = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "));
    let needed = needed.context("Cargo.toml has no rust-version")?.trim_matches('"');
    let rustc = output(Command::new("rustc").arg("--version").current_dir(root()))?;
    let found = rustc.split_whitespace().nth(1).with_context(|| format!("`{}` is no version of Rust", rustc.trim()))?;
    let is_older = parts(found).zip(parts(needed)).is_none_or(|(found, needed)| found < needed);
    if is_older {
        bail!("this workspace needs Rust {needed} and `rustc` is {found}: run `rustup update stable`");
    }
    println!("{found}, at least {needed} is needed");
    Ok(())
}

/// Major and minor number.
fn parts(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(parts("1.100.0-nightly") > parts("1.95"));
        assert!(parts("1.9.0") < parts("1.95"));
        assert_eq!(parts("stable"), None);
    }
}
