//! A fleet of hollow nodes: joins, rolls a DaemonSet, loses its hub and comes back, and never gets an event twice.
//!
//! Small in `cargo xtask test`; `--all` takes 2,000 nodes of ten pods and kills the hub a hundred times. The figures go to
//! `bench/reports/fleet.json` and `.md` when the run is a full one; what a test asserts is never a matter of the machine's
//! speed, but for deadlines that no machine should need.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testkit::hollow;
use testkit::kubectl::Kubectl;
use testkit::process;
use testkit::program::Selvedge;
use testkit::wire::{Access, figure};

use crate::common::{is_full, root, start_on_its_port};

/// A fleet's size, and how much it is made to suffer.
struct Size {
    nodes: usize,
    sets: usize,
    kills: usize,
}

impl Size {
    fn of_this_run() -> Self {
        if is_full() { Self { nodes: 2000, sets: 10, kills: 100 } } else { Self { nodes: 50, sets: 4, kills: 3 } }
    }

    fn pods(&self) -> u64 {
        (self.nodes * self.sets) as u64
    }

    /// Beyond it something hangs. Joining costs the most: two handshakes, a key and two signatures a node.
    fn patience(&self) -> Duration {
        Duration::from_secs(60) + Duration::from_millis(200) * u32::try_from(self.nodes).unwrap_or(u32::MAX)
    }
}

/// A figure of the report.
struct Figures(Vec<Value>);

impl Figures {
    fn add(&mut self, figure: &str, unit: &str, value: f64, limit: Option<f64>) {
        println!("{figure}: {value:.2} {unit}");
        self.0.push(
            json!({"figure": figure, "unit": unit, "value": value, "n": 1, "spread": [value, value], "limit": limit}),
        );
    }

    fn write(&self, size: &Size) -> Result<()> {
        let out = root().join("bench/reports");
        let profile = std::env::var("SELVEDGE_PROFILE").unwrap_or_else(|_| "ci".to_owned());
        let machine = format!("{} nodes x {} pods, {} kills, {profile} profile", size.nodes, size.sets, size.kills);
        let report = json!({"version": 1, "name": "fleet", "machine": machine, "figures": self.0});
        std::fs::write(out.join("fleet.json"), serde_json::to_string_pretty(&report)? + "\n")?;
        let mut text = format!("# fleet\n\n{machine}\n\n| figure | value | unit | limit |\n|---|---|---|---|\n");
        for one in &self.0 {
            let limit = one["limit"].as_f64().map_or_else(|| "–".to_owned(), |limit| limit.to_string());
            let value = one["value"].as_f64().unwrap_or_default();
            text += &format!(
                "| {} | {value:.2} | {} | {limit} |\n",
                one["figure"].as_str().unwrap_or_default(),
                one["unit"].as_str().unwrap_or_default()
            );
        }
        std::fs::write(out.join("fleet.md"), text).context("failed to write the report")
    }
}

fn daemon_set(number: usize, version: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{ name: fleet-{number} }}\nspec:\n  selector: {{ matchLabels: {{ app: fleet-{number} }} }}\n  \
         updateStrategy: {{ rollingUpdate: {{ maxUnavailable: \"20%\" }} }}\n  template:\n    \
         metadata: {{ labels: {{ app: fleet-{number}, version: {version} }} }}\n    spec:\n      runtimeClassName: selvedge-process\n      \
         containers: [{{ name: c, image: 'file:///bin/sleep', args: ['3600'] }}]\n"
    )
}

/// How long kubectl takes for what people look at: the sets, and what runs on one node. Sorted.
fn kubectl_times(kubectl: &Kubectl, count: usize) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for number in 0..count {
        let start = Instant::now();
        if number % 2 == 0 {
            kubectl.ok(&["get", "ds"])?;
        } else {
            kubectl.ok(&["get", "pods", "-A", "--field-selector", "spec.nodeName=hollow-7", "-o", "wide"])?;
        }
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// The set has been rolled out: every pod is of this version.
fn wait_version(kubectl: &Kubectl, app: &str, version: &str, nodes: usize, patience: Duration) -> Result<()> {
    testkit::wait::eventually(&format!("{app} at {version} on {nodes} nodes"), patience, || {
        let set = kubectl.json(&["ds", app]).map_err(|error| error.to_string())?;
        let status = &set["status"];
        let is_seen = status["observedGeneration"] == set["metadata"]["generation"];
        if is_seen && status["updatedNumberScheduled"] == nodes && status["numberAvailable"] == nodes {
            return Ok(());
        }
        Err(format!("{version}: {status}"))
    })
}

fn start_hollow(dir: &Path, address: &str, size: &Size, more: &[&str]) -> Result<hollow::Fleet> {
    let hub_dir = dir.join("hub");
    let tokens = dir.join("tokens");
    std::fs::write(&tokens, hollow::tokens(&hub_dir, size.nodes)?)?;
    let kubeconfig = hub_dir.join("kubeconfig");
    let kubeconfig = kubeconfig.to_string_lossy();
    let mut all = vec!["--kubeconfig", &*kubeconfig];
    all.extend(more);
    hollow::Fleet::start(Path::new(env!("CARGO_BIN_EXE_hollow")), address, &tokens, size.nodes, &all)
}

fn no_faults(fleet: &mut hollow::Fleet, when: &str) -> Result<()> {
    let faults = fleet.faults()?;
    ensure!(faults.is_empty(), "{when}: {faults:#?}; {}", fleet.ask("report")?);
    Ok(())
}

#[test]
fn a_fleet_joins_rolls_and_outlives_kills_of_its_hub() -> Result<()> {
    let size = Size::of_this_run();
    let dir = tempfile::tempdir()?;
    let hub_dir = dir.path().join("hub");
    let Some(kubectl) = Kubectl::newest(&hub_dir.join("kubeconfig")) else { return Ok(()) };
    let mut figures = Figures(Vec::new());
    let mut hub = Selvedge::start(&hub_dir, &["hub"])?;
    let address = hub.address("hub-api")?;

    let begin = Instant::now();
    let mut fleet = start_hollow(dir.path(), &address, &size, &["--writers", "4"])?;
    let joined = fleet.wait_following(size.patience())?;
    figures.add("the fleet joins", "s", begin.elapsed().as_secs_f64(), None);
    ensure!(joined["disconnects"] == 0, "joining broke connections: {joined}");

    let begin = Instant::now();
    for number in 0..size.sets {
        kubectl.apply(&daemon_set(number, "one"))?.ok()?;
    }
    fleet.wait_running(size.pods(), size.patience())?;
    figures.add(
        "pods created and reported running",
        "pods/s",
        size.pods() as f64 / begin.elapsed().as_secs_f64(),
        None,
    );
    figures.add(
        "RSS of the hub with the fleet",
        "MiB",
        process::memory(hub.pid()).context("the hub runs")?.rss_kib as f64 / 1024.0,
        None,
    );
    no_faults(&mut fleet, "after the pods came up")?;

    let begin = Instant::now();
    kubectl.apply(&daemon_set(0, "two"))?.ok()?;
    let times = kubectl_times(&kubectl, if is_full() { 100 } else { 10 })?;
    wait_version(&kubectl, "fleet-0", "two", size.nodes, size.patience())?;
    figures.add("a DaemonSet is rolled over the fleet", "s", begin.elapsed().as_secs_f64(), None);
    figures.add(
        "kubectl get during the roll, p99",
        "ms",
        times[(times.len() * 99 / 100).min(times.len() - 1)],
        Some(1000.0),
    );
    no_faults(&mut fleet, "after the roll")?;

    // All connections are lost together, and all come back.
    let begin = Instant::now();
    hub.kill();
    start_on_its_port(&mut hub, dir.path(), &address)?;
    figures.add("the hub is up again after a kill", "s", begin.elapsed().as_secs_f64(), None);
    fleet.wait_following(size.patience())?;
    figures.add("all nodes follow again after a kill", "s", begin.elapsed().as_secs_f64(), Some(30.0));
    no_faults(&mut fleet, "after the first kill")?;

    // Under load: writers write, a set rolls, and the hub dies again and again.
    for kill in 0..size.kills {
        let version = format!("kill-{kill}");
        kubectl.apply(&daemon_set(kill % size.sets, &version))?.ok()?;
        let before = fleet.ask("report")?["writes"].as_u64().unwrap_or(0);
        fleet.wait("writes between two kills", size.patience(), |report| {
            report["writes"].as_u64() > Some(before + 50)
        })?;
        hub.kill();
        start_on_its_port(&mut hub, dir.path(), &address)?;
    }
    fleet.wait_following(size.patience())?;
    for set in 0..size.sets {
        let app = format!("fleet-{set}");
        kubectl.apply(&daemon_set(set, "last"))?.ok()?;
        wait_version(&kubectl, &app, "last", size.nodes, size.patience())?;
    }
    fleet.wait_running(size.pods(), size.patience())?;
    no_faults(&mut fleet, "after all kills")?;
    let verdict = fleet.ask("verify-writers")?;
    ensure!(verdict["lost"] == 0 && verdict["revisionsTwice"] == 0, "{verdict}");
    ensure!(verdict["acknowledged"].as_u64() > Some(50 * size.kills as u64), "{verdict}");
    let report = fleet.ask("report")?;
    // The window of a hub outlives its kill: nobody needs a new list but after the first one. At full size a slow machine may
    // need longer for two thousand handshakes than the window has space for; who gets 410 loses nothing, and is counted.
    ensure!(is_full() || report["expired"] == 0, "watches could not resume: {report}");
    ensure!(report["resumes"].as_u64() > Some(20 * report["expired"].as_u64().unwrap_or(0)), "few resume: {report}");
    for (figure, unit, field) in [
        ("events that the fleet got", "events", "events"),
        ("watches resumed", "watches", "resumes"),
        ("watches that had to list anew", "watches", "expired"),
        ("writes acknowledged under kills", "writes", "writes"),
        ("CPU of the hollow nodes", "s", "cpuSeconds"),
    ] {
        figures.add(figure, unit, report[field].as_f64().unwrap_or_default(), None);
    }
    if is_full() {
        figures.write(&size)?;
    }
    println!("{report}");
    Ok(())
}

/// What the hub remembers of a node beside its objects: the key that it is bound to, its Lease's deadline, its quota.
const KIB_PER_NODE: u64 = 4;

/// What an allocator keeps of a peak, and buffers of the disk's.
const SLACK_KIB: u64 = 32 * 1024;

/// Memory that is the hub's own and no file's.
fn own_kib(hub: &Selvedge) -> u64 {
    process::memory(hub.pid()).map_or(0, |memory| memory.anonymous_kib)
}

/// Memory that the store accounts for: objects, what finds them, and the watch cache window.
fn stored_kib(kubeconfig: &Path) -> Result<u64> {
    let admin = Access::kubeconfig(kubeconfig)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let page = runtime.block_on(async { admin.connect().await?.get("/metrics").await?.ok() })?;
    let page = page.text();
    let mut bytes = 0.0;
    for name in ["object_bytes", "index_bytes", "window_bytes"] {
        bytes += figure(&page, &format!("selvedge_store_{name}"))?;
    }
    Ok((bytes / 1024.0) as u64)
}

#[test]
fn connections_that_idle_cost_little_and_are_given_back() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let hub_dir = dir.path().join("hub");
    let mut hub = Selvedge::start(&hub_dir, &["hub"])?;
    let address = hub.address("hub-api")?;
    let idle = own_kib(&hub);
    // The full size is what the machine's limit of 20,000 descriptors a process allows.
    let size = Size { nodes: if is_full() { 15_000 } else { 300 }, sets: 0, kills: 0 };
    let quiet = ["--assignments", "false", "--lease-seconds", "0"];
    let mut fleet = start_hollow(dir.path(), &address, &size, &quiet)?;
    let report = fleet.wait_following(size.patience())?;
    ensure!(report["disconnects"] == 0, "{report}");
    let held = own_kib(&hub);
    drop(fleet);
    // What a connection held is free again. What the nodes have written stays, with what keeps account of each of them.
    testkit::wait::eventually("memory given back", Duration::from_secs(60), || {
        let stored = stored_kib(&hub_dir.join("kubeconfig")).map_err(|error| error.to_string())?;
        let limit = idle + stored + stored / 4 + KIB_PER_NODE * size.nodes as u64 + SLACK_KIB;
        let now = own_kib(&hub);
        if now <= limit { Ok(()) } else { Err(format!("{now} KiB after {held} KiB, limit {limit} KiB")) }
    })
}
