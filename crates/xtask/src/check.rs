//! `cargo xtask check`: what a reviewer should not have to look for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::run::{PROFILE, cargo, has, output, root, run, say};

/// Licences that a dependency may have; permissive ones only.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "BSL-1.0",
];

/// What each role is built with alone: a feature that another role brings along would be missed in the field.
const FEATURE_SETS: &[&str] = &["hub", "node", "edge", "node,wasm", "full"];

/// Where `cargo deny` keeps its database of advisories; it is looked at only where it is there already.
const ADVISORY_DATABASES: &str = "advisory-dbs";

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
    say("Licences");
    licences()?;
    deny()?;
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

/// `cargo deny` by deny.toml, where it is installed: bans, sources, licences once more. To build it would cost a fresh machine
/// more than everything else that `check` needs, so the licences are also looked at by [`licences`], which needs nothing.
fn deny() -> Result<()> {
    if !has("cargo-deny") {
        println!("bans, sources, advisories: not checked (`cargo install cargo-deny --locked` brings the tool)");
        return Ok(());
    }
    run(&mut cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"]))?;
    let database = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .map(|home| home.join(ADVISORY_DATABASES));
    if database.is_some_and(|database| database.is_dir()) {
        return run(&mut cargo(&["deny", "--offline", "check", "advisories"]));
    }
    println!("advisories: not checked (no database on this machine; `cargo deny fetch db` brings it)");
    Ok(())
}

fn licences() -> Result<()> {
    let metadata = output(&mut cargo(&["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut refused = BTreeSet::new();
    for package in packages {
        let licence = package["license"].as_str().unwrap_or("none");
        if !is_allowed(licence) {
            refused.insert(format!("{} {}: {licence}", package["name"], package["version"]));
        }
    }
    if !refused.is_empty() {
        bail!(
            "licences that are not on the list of crates/xtask/src/check.rs:\n  {}",
            refused.into_iter().collect::<Vec<_>>().join("\n  ")
        );
    }
    println!("{} packages, all permissive", packages.len());
    Ok(())
}

/// An expression is fine when one side of each OR is, and all of its ANDs are.
fn is_allowed(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], " ");
    plain.split(" AND ").all(|part| {
        part.split(" OR ").flat_map(|part| part.split('/')).any(|licence| LICENCES.contains(&licence.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::{is_allowed, parts};

    #[test]
    fn an_expression_needs_one_permissive_side_of_each_or() {
        for allowed in ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
            assert!(is_allowed(allowed), "{allowed}");
        }
        for rejected in ["GPL-3.0", "MPL-2.0", "MIT AND GPL-3.0", "none", ""] {
            assert!(!is_allowed(rejected), "{rejected}");
        }
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(parts("1.100.0-nightly") > parts("1.95"));
        assert!(parts("1.9.0") < parts("1.95"));
        assert_eq!(parts("stable"), None);
    }
}
