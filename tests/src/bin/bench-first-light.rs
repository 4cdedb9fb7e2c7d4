//! `cargo xtask bench first-light`: what the whole costs, measured on the shipped binary.
//!
//! Prints each figure with its unit, its spread over the runs and its limit where there is one, and writes
//! `first-light.json` and `first-light.md` into the directory given. Medians of several runs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use selvedge_tests::figures::Report;
use testkit::kubectl::Kubectl;
use testkit::process::{self, Memory};
use testkit::program::{Selvedge, binary, run, signal};
use testkit::wait::eventually;

/// Starts are measured this often: the median of five is not moved by one slow disk flush.
const RUNS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);
const WORKLOADS: [&str; 5] =
    ["10-profile.yaml", "20-device.yaml", "30-rule.yaml", "40-export.yaml", "50-workloads.yaml"];

fn main() -> Result<()> {
    let out = PathBuf::from(std::env::args().nth(1).context("usage: bench-first-light DIR")?);
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a checkout")?.join("examples/first-light");
    let mut report = Report::new("first-light", "Each start is on a new directory.");
    starts(&example, &mut report)?;
    parts(&example, &mut report)?;
    let bytes = std::fs::metadata(binary())?.len() as f64;
    report.add("size of the binary", "MiB", vec![bytes / 1024.0 / 1024.0], Some("≤ 40"), None);
    report.write(&out)
}

/// From `up` to a Ready node and to the first reading at the hub, each on a new directory.
fn starts(example: &Path, report: &mut Report) -> Result<()> {
    let (mut ready, mut reading) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let dir = tempfile::tempdir()?;
        let data_dir = dir.path().join("data");
        let kubectl = Kubectl::newest(&data_dir.join("kubeconfig")).context("kubectl is needed")?;
        let start = Instant::now();
        let mut up =
            Selvedge::start(&data_dir, &["up", "--node-name", "box", "--example", &example.to_string_lossy()])?;
        // The program logs both moments: asking by kubectl would measure kubectl, which takes 100 ms a call.
        let at =
            |what: &str| {
                eventually(what, PATIENCE, || {
                    if up.log().contains(what) { Ok(start.elapsed()) } else { Err("not yet said") }
                })
            };
        ready.push(at("node box is Ready")?.as_secs_f64() * 1000.0);
        reading.push(at("first reading stored")?.as_secs_f64() * 1000.0);
        up.interrupt(Duration::from_secs(10))?;
        drop(kubectl);
    }
    report.add("from `up` on a new directory to node Ready", "ms", ready, None, None);
    report.add("from `up` on a new directory to the first reading at the hub", "ms", reading, None, None);
    Ok(())
}

/// Hub, node and edge as processes of their own: memory after work, and the way back without a hub.
fn parts(example: &Path, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let hub_dir = dir.path().join("hub");
    let kubectl = Kubectl::newest(&hub_dir.join("kubeconfig")).context("kubectl is needed")?;
    let mut hub = Selvedge::start(&hub_dir, &["hub"])?;
    let address = hub.address("hub-api")?;
    let token = eventually("token", PATIENCE, || {
        run(["token", "create", "--data-dir", &hub_dir.to_string_lossy()]).and_then(|outcome| outcome.ok())
    })?;
    let config = dir.path().join("node.yaml");
    std::fs::write(&config, format!("imagePrefixes: [/bin, /usr/bin, {}]\n", example.display()))?;
    let url = format!("https://{address}");
    let config = config.to_string_lossy().into_owned();
    let node_dir = dir.path().join("node");
    let mut node = Selvedge::start(
        &node_dir,
        &["node", "--hub", &url, "--token", token.trim(), "--node-name", "box", "--config", &config],
    )?;
    eventually("a node", PATIENCE, || kubectl.ok(&["wait", "--for=condition=Ready", "node/box", "--timeout=1s"]))?;
    kubectl.ok(&["label", "node", "box", "selvedge.dev/role=gateway"])?;
    for file in WORKLOADS {
        let text = std::fs::read_to_string(example.join(file))?;
        let text = text.replace("${NODE_NAME}", "box").replace("${EXAMPLE_DIR}", &example.to_string_lossy());
        kubectl.apply(&text)?.ok()?;
    }
    wait_ready(&node_dir)?;
    // Work: half a minute of readings, and some hundred requests.
    for round in 0..100 {
        let name = format!("load-{round}");
        kubectl.ok(&["create", "configmap", &name, "--from-literal=a=1"])?;
    }
    eventually("thirty readings", PATIENCE, || {
        let path = "/telemetry/v1/readings?node=box&device=host&resource=CpuUsage&limit=1000";
        let answer = kubectl.raw(path).map_err(|error| error.to_string())?;
        let count = answer["readings"].as_array().map_or(0, Vec::len);
        if count >= 30 { Ok(()) } else { Err(format!("{count} readings")) }
    })?;
    let word = |word: &'static str, dir: &Path| {
        let dir = dir.to_string_lossy().into_owned();
        move |words: &[String]| {
            words.get(1).is_some_and(|first| first == word) && words.iter().any(|one| one.contains(&dir))
        }
    };
    let edge = process::find(word("edge", &node_dir));
    let mut add = |rss: &'static str, pss: &'static str, memory: Option<Memory>| -> Result<()> {
        let memory = memory.context("the process is there")?;
        report.add(rss, "MiB", vec![memory.rss_kib as f64 / 1024.0], None, None);
        report.add(pss, "MiB", vec![memory.pss_kib as f64 / 1024.0], None, None);
        Ok(())
    };
    add("RSS of hub after the run", "PSS of hub after the run", process::memory(hub.pid()))?;
    add("RSS of node after the run", "PSS of node after the run", process::memory(node.pid()))?;
    let edge_pid = edge.first().context("the edge plane has a process of its own")?.0;
    add("RSS of edge after the run", "PSS of edge after the run", process::memory(edge_pid))?;
    let shims = process::find(word("shim", &node_dir));
    let shim = shims.first().context("a container of this node has a shim")?.0;
    add("RSS of one shim", "PSS of one shim", process::memory(shim))?;
    // Its command line does not say whose it is, its shim's does.
    let workers = process::find(|words| words.get(1).is_some_and(|first| first == "wasm-worker"));
    let is_ours = |pid: &u32| process::ancestors(*pid).iter().any(|up| shims.iter().any(|(shim, _)| shim == up));
    let worker = workers.into_iter().map(|(pid, _)| pid).find(is_ours).context("the wasm pod has a worker")?;
    add("RSS of the wasm worker", "PSS of the wasm worker", process::memory(worker))?;

    let mut back = Vec::new();
    hub.kill();
    for _ in 0..RUNS {
        node.kill();
        let mine = node_dir.to_string_lossy().into_owned();
        eventually("no process of the node", PATIENCE, || {
            let left = process::find(|words| words.iter().any(|one| one.contains(&mine)));
            left.iter().for_each(|(pid, _)| signal(*pid, 9));
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })?;
        let start = Instant::now();
        node.start_again("ephemeral")?;
        wait_ready(&node_dir)?;
        back.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    report.add("node and pods killed, no hub: pods, rules and devices back", "ms", back, Some("≤ 3000"), None);
    Ok(())
}

/// Waits until both pods, the device and the rule are ready, asking the node itself.
fn wait_ready(node_dir: &Path) -> Result<()> {
    eventually("pods, device and rule", PATIENCE, || {
        let printed = run(["status", "-o", "json", "--data-dir", &node_dir.to_string_lossy()])
            .and_then(|outcome| outcome.ok())
            .map_err(|error| error.to_string())?;
        let status: serde_json::Value = serde_json::from_str(&printed).map_err(|error| error.to_string())?;
        let pods = status["node"]["pods"].as_array().map_or(0, |pods| {
            let is_ours = |pod: &&serde_json::Value| {
                pod["ready"] == true && pod["pod"].as_str().is_some_and(|name| name.starts_with("default/"))
            };
            pods.iter().filter(is_ours).count()
        });
        let is_ready = |kind: &str| {
            let entries = status["edge"]["entries"].as_array();
            entries.into_iter().flatten().any(|entry| entry["kind"] == kind && entry["ready"] == true)
        };
        if pods >= 2 && is_ready("Device") && is_ready("Rule") { Ok(()) } else { Err(printed) }
    })
}
