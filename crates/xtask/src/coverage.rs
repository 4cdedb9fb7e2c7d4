//! Which lines of each crate the tests reach: part of `cargo xtask test --all`, where the tools for it are.
//!
//! `cargo llvm-cov` builds everything anew with counters, so it is no part of what runs on each change; and its tools are no part
//! of a plain Rust installation, so a machine without them says that nothing was measured and why.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::run::{PROFILE, cargo, has, host, output, root, say, target_dir};

/// Measures the unit tests and writes `bench/reports/coverage.*`; without the tools, says so.
pub fn coverage() -> Result<()> {
    if let Some(missing) = missing()? {
        println!("coverage not measured: {missing}");
        return Ok(());
    }
    say("Coverage");
    let report = target_dir().join("coverage.json");
    let measure =
        ["llvm-cov", "--profile", PROFILE, "--workspace", "--exclude", "selvedge-tests", "--json", "--summary-only"];
    crate::run::run(cargo(&measure).arg("--output-path").arg(&report))?;
    let text = fs::read_to_string(&report).with_context(|| format!("failed to read {}", report.display()))?;
    let crates = by_crate(&serde_json::from_str(&text).context("cargo llvm-cov wrote no JSON")?);
    let mut page = "# Coverage\n\nLines that the unit tests reach (`cargo xtask test --all`); the black-box suites are not counted.\n\n\
                    | crate | lines | reached | % |\n|---|---|---|---|\n"
        .to_owned();
    for (name, (lines, reached)) in &crates {
        let row = format!("| {name} | {lines} | {reached} | {} |\n", percent(*lines, *reached));
        print!("{row}");
        page.push_str(&row);
    }
    let dir = root().join("bench/reports");
    let rows: Vec<Value> = crates
        .iter()
        .map(|(name, (lines, reached))| json!({"crate": name, "lines": lines, "reached": reached}))
        .collect();
    fs::write(dir.join("coverage.md"), page).context("failed to write coverage.md")?;
    fs::write(dir.join("coverage.json"), format!("{:#}\n", json!({"version": 1, "crates": rows})))
        .context("failed to write coverage.json")
}

/// What is missing here, with the command that brings it.
fn missing() -> Result<Option<String>> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let tool = format!("{}/lib/rustlib/{}/bin/llvm-profdata", sysroot.trim(), host()?);
    let mut missing = Vec::new();
    if !has("cargo-llvm-cov") {
        missing.push("cargo-llvm-cov (`cargo install cargo-llvm-cov --locked`)");
    }
    if !std::path::Path::new(&tool).is_file() {
        missing.push("llvm-tools (`rustup component add llvm-tools`)");
    }
    Ok((!missing.is_empty()).then(|| format!("this machine lacks {}", missing.join(" and "))))
}

/// Lines and reached lines of each crate, from the report's files.
fn by_crate(report: &Value) -> BTreeMap<String, (u64, u64)> {
    let mut crates: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for file in report["data"][0]["files"].as_array().into_iter().flatten() {
        let path = file["filename"].as_str().unwrap_or_default();
        let Some((name, _)) = path.rsplit_once("/crates/").and_then(|(_, rest)| rest.split_once('/')) else { continue };
        let lines = &file["summary"]["lines"];
        let entry = crates.entry(name.to_owned()).or_default();
        entry.0 += lines["count"].as_u64().unwrap_or_default();
        entry.1 += lines["covered"].as_u64().unwrap_or_default();
    }
    crates
}

fn percent(lines: u64, reached: u64) -> String {
    if lines == 0 { "-".to_owned() } else { format!("{:.1}", reached as f64 * 100.0 / lines as f64) }
}

#[test]
fn files_are_summed_by_crate() {
    let file = |path: &str, count: u64, covered: u64| json!({"filename": path, "summary": {"lines": {"count": count, "covered": covered}}});
    let report = json!({"data": [{"files": [
        file("/home/me/crates/selvedge/crates/base-fs/src/lib.rs", 10, 5),
        file("/home/me/crates/selvedge/crates/base-fs/src/atomic.rs", 10, 10),
        file("/home/me/selvedge/tests/src/lib.rs", 1, 1),
    ]}]});
    let crates = by_crate(&report);
    assert_eq!(crates.into_iter().collect::<Vec<_>>(), [("base-fs".to_owned(), (20, 15))]);
    assert_eq!((percent(20, 15), percent(0, 0)), ("75.0".to_owned(), "-".to_owned()));
}
