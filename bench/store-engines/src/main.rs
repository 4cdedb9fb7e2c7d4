//! Compares embedded engines for the object store: fjall, redb and SQLite.
//!
//! Each round runs in a process of its own: 50,000 objects of 4 KB are stored, then 16 writers replace objects in group
//! commits while a reader lists all of them over and over; then the process is killed in the middle of writing, and
//! another one opens what is left. On a forgetful disk (see `testkit`) the power is cut some dozen times more, and the
//! disk filled. Medians of three rounds go to `bench/reports/store-engines.{json,md}`.
//!
//! `cargo xtask bench store-engines`; it takes less than three minutes.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::engines::Engine;

#[cfg(feature = "cuts")]
mod cuts;
mod engines;
mod report;

const OBJECTS: u64 = 50_000;
const OBJECT_BYTES: usize = 4096;
const WRITERS: u64 = 16;
const MIXED: Duration = Duration::from_secs(4);
const ROUNDS: usize = 3;
/// Batches that are answered before the process is killed.
const BATCHES_BEFORE_KILL: usize = 100;

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["write", engine, dir] => write(engine, Path::new(dir)),
        ["reopen", engine, dir] => reopen(engine, Path::new(dir)),
        [] => compare(),
        _ => bail!("usage: store-engines (no arguments)"),
    }
}

/// Runs all rounds and writes the report.
fn compare() -> Result<()> {
    let started = Instant::now();
    let load_before = load();
    let mut measured: Map<String, Value> = Map::new();
    // Rounds are interleaved, so that what else the machine does is shared fairly.
    for round in 0..ROUNDS {
        for name in engines::NAMES {
            eprintln!("round {} of {ROUNDS}: {name}", round + 1);
            let figures = one_round(name).with_context(|| format!("round {round} of {name}"))?;
            let rounds = measured.entry(name.to_string()).or_insert_with(|| json!([]));
            rounds.as_array_mut().expect("made as an array").push(figures);
        }
    }
    let mut extra = Map::new();
    #[cfg(feature = "cuts")]
    for name in engines::NAMES {
        eprintln!("power cuts: {name}");
        extra.insert(name.to_string(), cuts::run(name)?);
    }
    let machine = json!({
        "load_before": load_before, "load_after": load(), "cpus": thread::available_parallelism()?.get(),
        "seconds": started.elapsed().as_secs(),
    });
    report::write(&measured, &extra, &machine)
}

/// One engine, one new folder: fill, write, kill, open again.
fn one_round(name: &str) -> Result<Value> {
    let dir = tempfile::tempdir()?;
    let mut child =
        Command::new(env::current_exe()?).args(["write", name]).arg(dir.path()).stdout(Stdio::piped()).spawn()?;
    let mut figures = Value::Null;
    let mut last_answered = 0;
    let mut batches = 0;
    for line in BufReader::new(child.stdout.take().context("stdout is piped")?).lines() {
        let line = line?;
        if let Some(text) = line.strip_prefix("figures ") {
            figures = serde_json::from_str(text)?;
        } else if let Some(revision) = line.strip_prefix("answered ") {
            last_answered = revision.parse()?;
            batches += 1;
            if batches == BATCHES_BEFORE_KILL {
                child.kill()?;
            }
        }
    }
    child.wait()?;
    let output = Command::new(env::current_exe()?).args(["reopen", name]).arg(dir.path()).output()?;
    let text = String::from_utf8(output.stdout)?;
    let found: Value = serde_json::from_str(&text)
        .with_context(|| format!("reopen said {text:?} and {}", String::from_utf8_lossy(&output.stderr)))?;
    if found["last"].as_u64() < Some(last_answered) || found["objects"].as_u64() != Some(OBJECTS) {
        bail!("{name} lost answered writes: last answered {last_answered}, found {found}");
    }
    figures["open_ms"] = found["open_ms"].clone();
    figures["load_ms"] = found["load_ms"].clone();
    figures["disk_bytes_per_byte"] = json!(folder_bytes(dir.path())? as f64 / (OBJECTS as f64 * OBJECT_BYTES as f64));
    Ok(figures)
}

/// The process that writes until it is killed.
fn write(name: &str, dir: &Path) -> Result<()> {
    let engine: Arc<dyn Engine> = engines::open(name, dir)?.into();
    let filling = Instant::now();
    for first in (0..OBJECTS).step_by(1000) {
        let rows: Vec<_> = (first..first + 1000).map(|object| (object + 1, row(object, object + 1))).collect();
        engine.commit(&rows, &[])?;
    }
    let fill_seconds = filling.elapsed().as_secs_f64();

    let written_before = bytes_written()?;
    let stop = Arc::new(AtomicBool::new(false));
    let lists = Arc::new(AtomicU64::new(0));
    let lister = thread::spawn({
        let (engine, stop, lists) = (engine.clone(), stop.clone(), lists.clone());
        move || -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                let mut seen = 0;
                engine.visit(&mut |_, _| seen += 1)?;
                anyhow::ensure!(seen == OBJECTS, "a list is not a snapshot: {seen} objects");
                lists.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
    });
    let mut work = GroupCommit { engine, revisions: (1..=OBJECTS).collect(), last: OBJECTS };
    let (mut latencies, batches) = work.run(MIXED, |_| Ok(()))?;
    stop.store(true, Ordering::Relaxed);
    lister.join().expect("the lister does not panic")?;
    latencies.sort_unstable();
    let writes = latencies.len();
    let at = |share: f64| latencies[((writes - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let figures = json!({
        "fill_seconds": fill_seconds,
        "writes_per_second": writes as f64 / MIXED.as_secs_f64(),
        "commit_ms_p50": at(0.5),
        "commit_ms_p99": at(0.99),
        "writes_per_batch": writes as f64 / batches as f64,
        "lists_per_second": lists.load(Ordering::Relaxed) as f64 / MIXED.as_secs_f64(),
        "bytes_written_per_byte": (bytes_written()? - written_before) as f64 / (writes * OBJECT_BYTES) as f64,
        "rss_mib": rss_kib()? as f64 / 1024.0,
    });
    println!("figures {figures}");
    work.run(Duration::from_secs(60), |revision| {
        println!("answered {revision}");
        Ok(std::io::stdout().flush()?)
    })?;
    Ok(())
}

/// Sixteen writers that each replace one object at a time, and the one that commits for all of them.
struct GroupCommit {
    engine: Arc<dyn Engine>,
    /// The revision at which each object is.
    revisions: Vec<u64>,
    last: u64,
}

impl GroupCommit {
    /// Answers how long each write took, and the number of batches.
    fn run(&mut self, time: Duration, mut answered: impl FnMut(u64) -> Result<()>) -> Result<(Vec<Duration>, usize)> {
        let (requests_tx, requests_rx) = mpsc::channel::<(u64, mpsc::Sender<()>)>();
        let until = Instant::now() + time;
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let requests_tx = requests_tx.clone();
                thread::spawn(move || {
                    let mut latencies = Vec::new();
                    let mut random = writer;
                    while Instant::now() < until {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        // Each writer has objects of its own, so a batch never replaces one twice.
                        let object = ((random >> 33) % (OBJECTS / WRITERS)) * WRITERS + writer;
                        let (done_tx, done_rx) = mpsc::channel();
                        let asked = Instant::now();
                        if requests_tx.send((object, done_tx)).is_err() || done_rx.recv().is_err() {
                            break;
                        }
                        latencies.push(asked.elapsed());
                    }
                    latencies
                })
            })
            .collect();
        drop(requests_tx);
        let mut batches = 0;
        while let Ok(first) = requests_rx.recv() {
            let batch: Vec<_> = std::iter::once(first).chain(requests_rx.try_iter()).collect();
            let mut puts = Vec::new();
            let mut removes = Vec::new();
            for (object, _) in &batch {
                self.last += 1;
                puts.push((self.last, row(*object, self.last)));
                removes.push(std::mem::replace(&mut self.revisions[*object as usize], self.last));
            }
            self.engine.commit(&puts, &removes)?;
            answered(self.last)?;
            batches += 1;
            // A writer that has gone does not need its answer.
            batch.into_iter().for_each(|(_, done)| {
                let _ = done.send(());
            });
        }
        let latencies = writers.into_iter().flat_map(|writer| writer.join().expect("writers do not panic")).collect();
        Ok((latencies, batches))
    }
}

/// The process that opens what a killed one left.
fn reopen(name: &str, dir: &Path) -> Result<()> {
    let started = Instant::now();
    let engine = engines::open(name, dir)?;
    let open_ms = started.elapsed().as_secs_f64() * 1e3;
    let started = Instant::now();
    let mut objects = HashSet::new();
    let mut last = 0;
    let mut damaged = 0;
    engine.visit(&mut |revision, bytes| {
        let object = u64::from_le_bytes(bytes[..8].try_into().expect("a row is longer"));
        objects.insert(object);
        last = last.max(revision);
        damaged += u64::from(bytes != row(object, revision));
    })?;
    anyhow::ensure!(damaged == 0, "{damaged} rows are damaged");
    let load_ms = started.elapsed().as_secs_f64() * 1e3;
    println!("{}", json!({"open_ms": open_ms, "load_ms": load_ms, "objects": objects.len(), "last": last}));
    Ok(())
}

/// A row that shows which object and revision it is, and does not compress to nothing.
fn row(object: u64, revision: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(OBJECT_BYTES);
    bytes.extend_from_slice(&object.to_le_bytes());
    let mut mixed = revision | 1;
    while bytes.len() < OBJECT_BYTES {
        mixed = mixed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(&mixed.to_le_bytes());
    }
    bytes
}

fn folder_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut folders = vec![PathBuf::from(dir)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                bytes += std::os::unix::fs::MetadataExt::blocks(&entry.metadata()?) * 512;
            }
        }
    }
    Ok(bytes)
}

/// Bytes handed to the kernel by write calls; what reaches the platter can only be as much or less.
fn bytes_written() -> Result<u64> {
    field(&fs::read_to_string("/proc/self/io")?, "wchar:")
}

fn rss_kib() -> Result<u64> {
    field(&fs::read_to_string("/proc/self/status")?, "VmRSS:")
}

fn field(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn load() -> String {
    fs::read_to_string("/proc/loadavg").map_or_else(|_| "unknown".into(), |text| text.trim().into())
}
