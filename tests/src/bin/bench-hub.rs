//! `cargo xtask bench hub`: what the hub costs and bears, measured on the shipped binary over the wire.
//!
//! Usage: `bench-hub DIRECTORY [--only NAME,…]`. Writes `hub.json` and `hub.md` there. Every row has its limit and what the
//! hub needed before its fortification (`before`, commit 8ed292a; published, so never a ratio). The memory that each attack
//! leaves comes from the attack suite, by the file that `SELVEDGE_ATTACK_REPORT` names.
//!
//! Load and hub share the machine's cores, so rates are a lower bound; CPU figures are the hub's own process time.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::Method;
use selvedge_tests::figures::Report;
use selvedge_tests::hub::Hub;
use serde_json::{Value, json};
use testkit::hollow;
use testkit::process;
use testkit::program::{Selvedge, binary, run};
use testkit::wire::{self, Access};

const PREAMBLE: &str = "Load and hub share the cores; hollow nodes take what the hub leaves (niceness 19). \"before\" is commit 8ed292a on a machine of the same kind.";
/// Medians of this many where a run is cheap.
const RUNS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(600);
const PODS: usize = 50_000;
const NODES: usize = 1000;
const PODS_PATH: &str = "/api/v1/namespaces/default/pods";
const MAPS_PATH: &str = "/api/v1/namespaces/default/configmaps";

/// [`Hub::own_mib`] without the watch cache window: nodes that come back report their status, and those changes are kept
/// up to a bound of their own, whoever made them.
fn own_without_window_mib(hub: &Hub) -> Result<f64> {
    Ok(hub.own_mib() - hub.metric("selvedge_store_window_bytes")? / 1024.0 / 1024.0)
}

fn create_nodes(hub: &Hub, prefix: &str, count: usize) -> Result<()> {
    let node = |number: usize| {
        json!({
            "apiVersion": "v1", "kind": "Node", "spec": {},
            "metadata": {"name": format!("{prefix}-{number}"), "labels": {"selvedge.dev/role": "gateway"}},
        })
    };
    hub.create_many("/api/v1/nodes", 16, count, node).map(|_| ())
}

/// A pod of 1.57 KB as it is stored, on one of the thousand nodes.
fn pod(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("pod-{number:05}"), "labels": {"app": format!("app-{}", number % 50), "tier": "edge"},
            "annotations": {"example.com/padding": "x".repeat(723)},
        },
        "spec": {
            "nodeName": format!("node-{}", number % NODES), "runtimeClassName": "selvedge-process",
            "containers": [{
                "name": "main", "image": "file:///bin/sleep", "args": ["3600"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            }],
        },
    })
}

/// Measures some rows.
type Group = fn(&mut Report) -> Result<()>;

fn main() -> Result<()> {
    hollow::lift_descriptor_limit();
    let mut args = std::env::args().skip(1);
    let out = PathBuf::from(args.next().context("usage: bench-hub DIRECTORY [--only NAME,…]")?);
    let only: Option<Vec<String>> = match (args.next().as_deref(), args.next()) {
        (Some("--only"), Some(names)) => Some(names.split(',').map(str::to_owned).collect()),
        (None, _) => None,
        other => anyhow::bail!("usage: bench-hub DIRECTORY [--only NAME,…], not {other:?}"),
    };
    let mut report = Report::new("hub", PREAMBLE);
    let groups: [(&str, Group); 7] = [
        ("start", start),
        ("writes", writes),
        ("pods", pods),
        ("connections", connections),
        ("daemonset", daemon_set),
        ("label", label),
        ("attacks", attacks),
    ];
    for (name, measure) in groups {
        if only.as_ref().is_none_or(|only| only.iter().any(|one| one == name)) {
            println!("── {name}");
            measure(&mut report).with_context(|| format!("failed to measure {name}"))?;
        }
    }
    sizes(&mut report)?;
    report.write(&out)
}

/// From the start of the process to the first answer of `/readyz`, and memory with nothing to do.
fn start(report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let config = dir.path().join("hub.yaml");
    std::fs::write(&config, format!("listen: {port}\n"))?;
    let config = config.to_string_lossy().into_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut first, mut again, mut rss, mut own) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 0..RUNS {
        let hub_dir = dir.path().join(format!("hub-{number}"));
        let mut hub: Option<Selvedge> = None;
        for times in [&mut first, &mut again] {
            let begin = Instant::now();
            match &mut hub {
                None => hub = Some(Selvedge::start_on(&hub_dir, &["hub", "--config", &config], "default")?),
                Some(hub) => hub.start_again("default")?,
            }
            runtime.block_on(async {
                loop {
                    let ready = async {
                        // The CA is there once the hub has made it.
                        let (_, ca, _) = wire::read_kubeconfig(&hub_dir.join("kubeconfig"))?;
                        Access::anonymous(&port.to_string(), &ca)?.connect().await?.get("/readyz").await?.ok()
                    };
                    if ready.await.is_ok() {
                        return Ok(());
                    }
                    ensure!(begin.elapsed() < PATIENCE, "the hub is not ready");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })?;
            times.push(begin.elapsed().as_secs_f64() * 1000.0);
            let hub = hub.as_mut().context("it was started")?;
            if times.len() == number + 1 {
                std::thread::sleep(Duration::from_secs(3));
                let memory = process::memory(hub.pid()).context("the hub runs")?;
                rss.push(memory.rss_kib as f64 / 1024.0);
                own.push(memory.anonymous_kib as f64 / 1024.0);
            }
            hub.interrupt(Duration::from_secs(20))?;
        }
    }
    report.add("start to ready, new data directory", "ms", first, Some("≤ 120"), Some("168"));
    report.add("start to ready, again", "ms", again, None, None);
    report.add("RSS idle, empty", "MiB", rss, Some("≤ 14"), Some("14.5"));
    report.add("of that its own, without the program's file", "MiB", own, None, None);
    Ok(())
}

/// Durable creates and gets with 64 clients.
fn writes(report: &mut Report) -> Result<()> {
    let hub = Hub::start()?;
    let (mut creates, mut gets) = (Vec::new(), Vec::new());
    for round in 0..3 {
        let map = |number: usize| {
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m-{round}-{number}")},
                "data": {"a": "x".repeat(4000)},
            })
        };
        creates.push(hub.create_many(MAPS_PATH, 64, 20_000, map)?);
        let begin = Instant::now();
        let count = 40_000;
        hub.runtime.block_on(async {
            let workers = (0..64).map(|worker| {
                let hub = &hub;
                async move {
                    let connection = hub.admin.connect().await?;
                    for number in (worker..count).step_by(64) {
                        connection.get(&format!("{MAPS_PATH}/m-{round}-{}", number % 20_000)).await?.ok()?;
                    }
                    anyhow::Ok(())
                }
            });
            futures::future::try_join_all(workers).await
        })?;
        gets.push(count as f64 / begin.elapsed().as_secs_f64());
    }
    report.add("durable creates of 4 KB, 64 clients", "1/s", creates, Some("≥ 6169"), Some("6169"));
    report.add("gets of 4 KB, 64 clients", "1/s", gets, Some("≥ 15400"), Some("15400"));
    Ok(())
}

/// Memory of a pod, a kubelet's list, tables, and the pulse of a hub that is asked for too much.
fn pods(report: &mut Report) -> Result<()> {
    let hub = Hub::start()?;
    // One of the nodes has an identity; the others are objects, so that their pods are nobody's orphans.
    let kubelet = hub.node("node-7")?;
    let others = |number: usize| {
        let name = format!("node-{}", if number >= 7 { number + 1 } else { number });
        json!({"apiVersion": "v1", "kind": "Node", "spec": {}, "metadata": {"name": name}})
    };
    hub.create_many("/api/v1/nodes", 16, NODES - 1, others)?;
    hub.settle();
    let before = hub.own_mib();
    let rate = hub.create_many(PODS_PATH, 32, PODS, pod)?;
    hub.settle();
    std::thread::sleep(Duration::from_secs(15));
    let after = hub.own_mib();
    report.add("creates of pods on the way to 50,000", "1/s", vec![rate], None, Some("2,440–2,900"));
    let each = (after - before) * 1024.0 / PODS as f64;
    report.add("memory per pod of 1.57 KB, 50,000 pods", "KiB", vec![each], Some("≤ 3.5"), Some("20.7"));

    let one = hub
        .runtime
        .block_on(async { hub.admin.connect().await?.get(&format!("{PODS_PATH}/pod-00007")).await?.ok() })?;
    report.add("JSON of that pod", "bytes", vec![one.body.len() as f64], None, None);
    let times = hub.runtime.block_on(async {
        let connection = kubelet.connect().await?;
        let mut times = Vec::new();
        for _ in 0..200 {
            let begin = Instant::now();
            let list = connection.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-7&limit=100").await?.ok()?;
            times.push(begin.elapsed().as_secs_f64() * 1000.0);
            let count = list.json()["items"].as_array().map_or(0, Vec::len);
            ensure!(count == PODS / NODES, "{count} pods on the node");
        }
        anyhow::Ok(times)
    })?;
    report.add("a kubelet's list of its 50 pods among 50,000", "ms", times, Some("≤ 1"), Some("56"));
    let begin = Instant::now();
    let list = hub.runtime.block_on(async { hub.admin.connect().await?.get("/api/v1/pods").await?.ok() })?;
    report.add("list of 50,000 pods as JSON", "s", vec![begin.elapsed().as_secs_f64()], None, Some("0.17"));
    report.add("size of that list", "MB", vec![list.body.len() as f64 / 1e6], None, Some("78"));
    drop(list);

    let conditions: Vec<Value> = (0..60_000).map(|number| json!({"type": format!("a{number}")})).collect();
    let hostile = json!({"status": {"conditions": conditions}}).to_string();
    let (mut worst, mut peaks, mut tables) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        let (pulse, peak, took) = hub.runtime.block_on(async {
            let (first, second, third) =
                (hub.admin.connect().await?, hub.admin.connect().await?, kubelet.connect().await?);
            let pulse = hub.admin.connect().await?;
            let begin = Instant::now();
            let headers = [("accept", wire::TABLE)];
            let load = async {
                let patch = [("content-type", wire::STRATEGIC), ("accept", wire::JSON)];
                let (one, two, _) = tokio::try_join!(
                    first.send(Method::GET, "/api/v1/pods", &headers, Bytes::new()),
                    second.send(Method::GET, "/api/v1/pods", &headers, Bytes::new()),
                    third.send(Method::PATCH, "/api/v1/nodes/node-7/status", &patch, hostile.clone().into()),
                )?;
                one.ok()?;
                two.ok()?;
                anyhow::Ok(begin.elapsed().as_secs_f64())
            };
            let beat = async {
                let (mut slowest, mut peak) = (0.0_f64, 0.0_f64);
                let stop = tokio::time::Instant::now() + Duration::from_secs(10);
                while tokio::time::Instant::now() < stop {
                    let begin = Instant::now();
                    pulse.get("/livez").await?.ok()?;
                    slowest = slowest.max(begin.elapsed().as_secs_f64() * 1000.0);
                    peak = peak.max(hub.rss_mib());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                anyhow::Ok((slowest, peak))
            };
            let (took, (slowest, peak)) = tokio::try_join!(load, beat)?;
            anyhow::Ok((slowest, peak, took))
        })?;
        worst.push(pulse);
        peaks.push(peak);
        tables.push(took);
    }
    report.add(
        "slowest /livez while two tables of 50,000 pods and a hostile patch run",
        "ms",
        worst,
        Some("≤ 50"),
        Some("4,800; > 120,000"),
    );
    report.add("two tables of 50,000 pods and the patch", "s", tables, None, Some("5.0"));
    report.add("RSS at most meanwhile", "MiB", peaks, None, Some("3,690"));
    hub.settle();
    report.add("RSS afterwards, with the 50,000 pods", "MiB", vec![hub.rss_mib()], None, Some("3,353"));
    Ok(())
}

/// What an idle connection with three watches holds, and what is left of it: each round against the end of the one before, for
/// the first one also pays for what a thousand nodes' joining has left.
/// The hub's threads look twice in this time for memory that they may give back.
const GIVE_BACK: Duration = Duration::from_secs(21);

fn connections(report: &mut Report) -> Result<()> {
    let hub = Hub::start()?;
    let more = ["--lease-seconds", "0", "--extra-watches", "1"];
    let mut fleet = hub.hollow(NODES, &more)?;
    let (mut open, mut closed) = (Vec::new(), Vec::new());
    let mut before = None;
    for _ in 0..=RUNS {
        fleet.ask("resume")?;
        fleet.wait_following(PATIENCE)?;
        hub.settle();
        // At rest: what a thousand handshakes took is given back every ten seconds.
        std::thread::sleep(GIVE_BACK);
        let with_all = own_without_window_mib(&hub)?;
        fleet.ask("pause")?;
        hub.settle();
        std::thread::sleep(GIVE_BACK);
        let without = own_without_window_mib(&hub)?;
        if let Some(before) = before {
            open.push((with_all - before) * 1024.0 / NODES as f64);
            closed.push((without - before) * 1024.0 / NODES as f64);
        }
        before = Some(without);
    }
    report.add("idle connection with three watches", "KiB", open, Some("≤ 24"), Some("53"));
    report.add("left of it after close", "KiB", closed, Some("0"), Some("all of it"));
    Ok(())
}

fn daemon_set_of(name: &str, selector: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "nodeSelector": selector, "runtimeClassName": "selvedge-process",
                    "containers": [{"name": "c", "image": "file:///bin/sleep", "args": ["3600"]}],
                },
            },
        },
    })
}

/// A DaemonSet over a thousand hollow nodes, and a small one that comes a moment later.
fn daemon_set(report: &mut Report) -> Result<()> {
    let hub = Hub::start()?;
    let mut fleet = hub.hollow(NODES, &[])?;
    let (mut rates, mut waits, mut running) = (Vec::new(), Vec::new(), Vec::new());
    let sets = "/apis/apps/v1/namespaces/default/daemonsets";
    for round in 0..3 {
        let (large, small) = (format!("large-{round}"), format!("small-{round}"));
        let begin = Instant::now();
        let (rate, wait) = hub.runtime.block_on(async {
            let connection = hub.admin.connect().await?;
            let mut pods = connection.watch("/api/v1/pods?watch=1&allowWatchBookmarks=false").await?;
            let (large_set, small_set) = (
                daemon_set_of(&large, &json!({"kubernetes.io/os": "linux"})),
                daemon_set_of(&small, &json!({"kubernetes.io/hostname": "hollow-7"})),
            );
            let begin = Instant::now();
            // Events are read as they come: what waits in the bench's own buffers would be counted as the hub's time.
            let apply = async {
                connection.post(sets, &large_set).await?.ok()?;
                tokio::time::sleep(Duration::from_millis(200)).await;
                let applied = begin.elapsed();
                connection.post(sets, &small_set).await?.ok()?;
                anyhow::Ok(applied)
            };
            let read = async {
                let (mut count, mut last, mut small_at) = (0, Duration::ZERO, None);
                while count < NODES || small_at.is_none() {
                    let line = tokio::time::timeout(PATIENCE, pods.next()).await??.context("the watch ended")?;
                    if !line.starts_with(br#"{"type":"ADDED""#) {
                        continue;
                    }
                    let event: Value = serde_json::from_slice(&line)?;
                    let app = event["object"]["metadata"]["labels"]["app"].as_str().unwrap_or_default();
                    if app == large {
                        count += 1;
                        last = begin.elapsed();
                    } else if app == small {
                        small_at = Some(begin.elapsed());
                    }
                }
                anyhow::Ok((last, small_at.unwrap_or_default()))
            };
            let (applied, (last, small_at)) = tokio::try_join!(apply, read)?;
            let wait = small_at.saturating_sub(applied).as_secs_f64();
            anyhow::Ok((NODES as f64 / last.as_secs_f64(), wait))
        })?;
        rates.push(rate);
        waits.push(wait);
        fleet.wait_running((NODES + 1) as u64, PATIENCE)?;
        running.push(NODES as f64 / begin.elapsed().as_secs_f64());
        for name in [&large, &small] {
            hub.runtime.block_on(async { hub.admin.connect().await?.delete(&format!("{sets}/{name}")).await?.ok() })?;
        }
        fleet.wait_running(0, PATIENCE)?;
        hub.settle();
    }
    report.add("DaemonSet over 1,000 nodes: pods created", "1/s", rates, Some("≥ 3000"), Some("156–200"));
    report.add("a one-node set applied 0.2 s later waits", "s", waits, Some("unaffected"), Some("6.1"));
    report.add("DaemonSet over 1,000 nodes: pods reported running", "1/s", running, None, None);
    report.add(
        "CPU of the thousand hollow nodes, all rounds",
        "s",
        vec![process::cpu_seconds(fleet.pid())],
        None,
        None,
    );
    Ok(())
}

/// CPU of one label of one node, at 2,000 nodes and 20 rules.
fn label(report: &mut Report) -> Result<()> {
    let hub = Hub::start()?;
    create_nodes(&hub, "node", 2000)?;
    for number in 0..20 {
        let edge = "/apis/edge.selvedge.dev/v1alpha1/namespaces/default";
        let rule = json!({
            "apiVersion": "edge.selvedge.dev/v1alpha1", "kind": "Rule", "metadata": {"name": format!("rule-{number}")},
            "spec": {
                "nodeSelector": {"selvedge.dev/role": "gateway"},
                "sql": "SELECT * FROM readings", "actions": [{"nop": {}}],
            },
        });
        let answer =
            hub.runtime.block_on(async { hub.admin.connect().await?.post(&format!("{edge}/rules"), &rule).await })?;
        answer.ok().context("failed to create a rule")?;
    }
    hub.settle();
    let mut runs = Vec::new();
    for round in 0..RUNS {
        // What the hub uses with nothing to do is no part of it.
        let before = hub.cpu();
        std::thread::sleep(Duration::from_secs(5));
        let idle = (hub.cpu() - before) / 5.0;
        let begin = Instant::now();
        let before = hub.cpu();
        const CHANGES: usize = 20;
        hub.runtime.block_on(async {
            let connection = hub.admin.connect().await?;
            for change in 0..CHANGES {
                let patch = json!({"metadata": {"labels": {"bench": format!("{round}-{change}")}}});
                connection.patch("/api/v1/nodes/node-7", wire::MERGE, &patch).await?.ok()?;
                // Each change is a piece of work of its own, not one of a batch.
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            anyhow::Ok(())
        })?;
        hub.settle();
        let used = hub.cpu() - before - idle * begin.elapsed().as_secs_f64();
        runs.push((used * 1000.0 / CHANGES as f64).max(0.0));
    }
    report.add("CPU of one label of one node, 2,000 nodes x 20 rules", "ms", runs, Some("≤ 2"), Some("700"));
    Ok(())
}

/// What each attack leaves, as the attack suite has seen it.
fn attacks(report: &mut Report) -> Result<()> {
    let Some(path) = std::env::var_os("SELVEDGE_ATTACK_REPORT") else {
        println!("not measured: SELVEDGE_ATTACK_REPORT names no file of the attack suite");
        return Ok(());
    };
    let text = std::fs::read_to_string(&path).context("failed to read the attack suite's report")?;
    let mut rest = std::collections::BTreeMap::<String, Vec<f64>>::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line)?;
        let name = line["attack"].as_str().unwrap_or_default().replace('_', " ");
        rest.entry(name).or_default().push(line["restMib"].as_f64().unwrap_or_default());
    }
    for (name, runs) in rest {
        report.add(format!("RSS at rest after: {name}"), "MiB", runs, Some("≤ 150"), None);
    }
    Ok(())
}

fn sizes(report: &mut Report) -> Result<()> {
    let mib = |path: &Path| std::fs::metadata(path).map(|data| data.len() as f64 / 1024.0 / 1024.0);
    report.add("size of the binary, full", "MiB", vec![mib(&binary())?], None, None);
    if let Some(node) = std::env::var_os("SELVEDGE_BIN_NODE_ALONE") {
        report.add("size of the binary, node alone", "MiB", vec![mib(Path::new(&node))?], None, None);
    }
    // A program that does not start is no figure.
    run(["--version"])?.ok()?;
    Ok(())
}
