//! `cargo xtask check`: what a reviewer should not have to look for.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::run::{PROFILE, cargo, output, run, say};

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

/// Runs every check; the first that fails ends it.
pub fn check(args: &[String]) -> Result<()> {
    if let Some(arg) = args.first() {
        bail!("`{arg}` is no argument of `cargo xtask check`");
    }
    say("Format");
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    run(&mut cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))?;
    say("Tidy");
    crate::tidy::tidy()?;
    say("Licences");
    licences()?;
    say("Lints");
    run(&mut cargo(&["clippy", "--profile", PROFILE, "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    say("Docs");
    run(cargo(&["doc", "--profile", PROFILE, "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    say("The node-only build");
    let node_only =
        ["clippy", "--profile", PROFILE, "--package", "selvedge", "--no-default-features", "--features", "node"];
    run(cargo(&node_only).args(["--", "-D", "warnings"]))
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
