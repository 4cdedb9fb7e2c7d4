//! `cargo xtask fuzz`: coverage-guided fuzzing of what comes from wires and disks, on the stable compiler.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::run::{cargo, has, host, root, run, say, target_dir};

/// Each target, and its inputs in a small run: some seconds' worth.
const TARGETS: &[(&str, u64)] = &[
    ("apply", 200_000),
    ("backup", 20_000),
    ("batch", 100_000),
    ("device", 150_000),
    ("dns", 400_000),
    ("hub", 3_000),
    ("image", 200_000),
    ("journal", 3_000),
    ("netlink", 400_000),
    ("layer", 10_000),
    ("patch", 400_000),
    ("protobuf", 100_000),
    ("rule", 20_000),
    ("selector", 400_000),
    ("sql", 60_000),
    ("yaml", 200_000),
];

/// Seconds for each target in a run at full size.
const SECONDS_FULL: u64 = 60;

/// One input that takes longer has hung.
const INPUT_SECONDS_MAX: u64 = 20;

/// The counters and comparisons that libFuzzer steers by; what cargo-fuzz passes, but for the sanitizer, which wants
/// another compiler and has little to find in safe code.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// How long each target runs.
#[derive(Clone, Copy)]
pub enum Size {
    /// The same inputs every time, but for what threads do in between.
    Small,
    /// So many seconds, beginning with what earlier runs found worth keeping.
    Seconds(u64),
}

/// The command: `[TARGET…] [--seconds N]`.
pub fn fuzz(args: &[String]) -> Result<()> {
    let mut seconds = SECONDS_FULL;
    let mut named = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--seconds" {
            let value = args.next().context("--seconds needs a number")?;
            seconds = value.parse().with_context(|| format!("--seconds {value}: a whole number is needed"))?;
        } else if TARGETS.iter().any(|(name, _)| name == arg) {
            named.push(arg.as_str());
        } else {
            let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            bail!("`{arg}` is no target; there are {}", names.join(", "));
        }
    }
    targets(&named, Size::Seconds(seconds))
}

/// Every target at full or small size, as part of the tests.
pub fn all(is_full: bool) -> Result<()> {
    targets(&[], if is_full { Size::Seconds(SECONDS_FULL) } else { Size::Small })
}

/// Whether what is needed to build is there.
pub fn has_compiler() -> bool {
    has("c++")
}

fn targets(named: &[&str], size: Size) -> Result<()> {
    if !has_compiler() {
        bail!("libFuzzer is C++: apt-get install -y g++");
    }
    let host = host()?;
    let build = target_dir().join("fuzz");
    say("Building the fuzz targets");
    run(cargo(&["build", "--release", "--locked", "--target", &host])
        .current_dir(root().join("fuzz"))
        .env("CARGO_TARGET_DIR", &build)
        .env("RUSTFLAGS", FLAGS))?;
    say("Fuzzing");
    let chosen: Vec<_> = TARGETS.iter().filter(|(name, _)| named.is_empty() || named.contains(name)).collect();
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<Outcome>> {
        let mut results = Vec::new();
        while let Some((name, inputs)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            results.push(one(name, *inputs, &build.join(&host).join("release").join(name), size)?);
        }
        Ok(results)
    };
    let (mut results, others) = std::thread::scope(|scope| -> Result<(Vec<Outcome>, Vec<Outcome>)> {
        let others = scope.spawn(work);
        let results = work();
        Ok((results?, others.join().expect("the other half does not panic")?))
    })?;
    results.extend(others);
    results.sort_by_key(|outcome| outcome.name);
    match size {
        Size::Seconds(seconds) if named.is_empty() => report(&results, seconds),
        _ => Ok(()),
    }
}

/// What a run of one target came to.
struct Outcome {
    name: &'static str,
    inputs: u64,
    kept: u64,
    peak_rss_mib: u64,
}

fn one(name: &'static str, inputs: u64, program: &Path, size: Size) -> Result<Outcome> {
    let artifacts = root().join("fuzz/artifacts").join(name);
    fs::create_dir_all(&artifacts)?;
    let mut command = Command::new(program);
    match size {
        Size::Small => {
            // The first directory is written to: not the seeds.
            let scratch = target_dir().join("fuzz-scratch").join(name);
            if scratch.exists() {
                fs::remove_dir_all(&scratch)?;
            }
            fs::create_dir_all(&scratch)?;
            command.arg(scratch).arg(format!("-runs={inputs}"))
        }
        Size::Seconds(seconds) => {
            let corpus = target_dir().join("fuzz-corpus").join(name);
            fs::create_dir_all(&corpus)?;
            command.arg(corpus).arg(format!("-max_total_time={seconds}"))
        }
    };
    command.arg(root().join("fuzz/seeds").join(name));
    let words = root().join("fuzz/seeds").join(format!("{name}.dict"));
    if words.exists() {
        command.arg(format!("-dict={}", words.display()));
    }
    command
        .args(["-seed=1", "-print_final_stats=1", "-rss_limit_mb=2048"])
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()));
    // Nothing here is about disks, and a disk is what would be measured.
    if Path::new("/dev/shm").is_dir() {
        command.env("TMPDIR", "/dev/shm");
    }
    let done = command.output().with_context(|| format!("failed to start {}", program.display()))?;
    let said = String::from_utf8_lossy(&done.stderr);
    if !done.status.success() {
        let panic = said.find("panicked at").unwrap_or(said.len().saturating_sub(2000));
        let panic: String = said.get(panic..).unwrap_or(&said).chars().take(2000).collect();
        bail!("the target {name} failed; its input is in {}:\n{panic}", artifacts.display());
    }
    let stat = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
        line.and_then(|rest| rest.trim_start_matches(':').trim().parse().ok())
            .with_context(|| format!("libFuzzer did not say its {name}"))
    };
    let outcome = Outcome {
        name,
        inputs: stat("number_of_executed_units")?,
        kept: stat("new_units_added")?,
        peak_rss_mib: stat("peak_rss_mb")?,
    };
    if outcome.kept == 0 && matches!(size, Size::Small) {
        bail!("the target {name} found nothing new in {inputs} inputs: it is built without coverage counters");
    }
    println!(
        "{name}: {} inputs, {} worth keeping, none that failed; {} MiB at most",
        outcome.inputs, outcome.kept, outcome.peak_rss_mib
    );
    Ok(outcome)
}

fn report(outcomes: &[Outcome], seconds: u64) -> Result<()> {
    let dir = root().join("bench/reports");
    let mut text = format!(
        "# Fuzzing\n\n`cargo xtask fuzz`: {seconds} s a target, two at once on two cores. An input that \
         panics, takes {INPUT_SECONDS_MAX} s or 2 GiB fails the run.\n\n\
         | target | inputs | worth keeping | failed | peak RSS, MiB |\n|---|---|---|---|---|\n"
    );
    for outcome in outcomes {
        let Outcome { name, inputs, kept, peak_rss_mib } = outcome;
        text.push_str(&format!("| {name} | {inputs} | {kept} | 0 | {peak_rss_mib} |\n"));
    }
    fs::write(dir.join("fuzz.md"), text)?;
    let rows: Vec<_> = outcomes
        .iter()
        .map(|one| {
            json!({"target": one.name, "inputs": one.inputs, "kept": one.kept, "failed": 0,
                "peakRssMib": one.peak_rss_mib})
        })
        .collect();
    fs::write(
        dir.join("fuzz.json"),
        format!("{:#}\n", json!({"version": 1, "secondsEach": seconds, "targets": rows})),
    )?;
    Ok(())
}
