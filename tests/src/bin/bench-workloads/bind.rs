//! Pods bound by scheduler and store alone: there are Node objects, and nobody reports for them.
//!
//! All pods wait for one other pod, by a rule of affinity in a region that all nodes share. That pod is created with its node, one
//! write, and from then on every one of them can be placed: what is measured is decisions and bindings, and no creation of pods. The
//! rule makes a decision dearer than that of a plain pod.
//!
//! The Deployments after it have plain pods, which their ReplicaSets create meanwhile.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use selvedge_tests::hub::{Hub, PATIENCE};
use serde_json::{Value, json};
use testkit::wait::eventually;
use testkit::wire::{Access, MERGE};
use tokio::task::JoinHandle;

use crate::Bench;
use crate::load::{self, PODS};
use crate::scrape::Scheduler;

const NODES: &str = "/api/v1/nodes";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/// Connections that create what is there before the clock starts.
const CLIENTS: usize = 32;
/// Leases expire after 40 s; meanwhile many pods are created.
const RENEW_PERIOD: Duration = Duration::from_secs(15);
/// How often the scheduler's counters are looked at: a page of metrics is work for the hub, too.
const SCRAPE_PERIOD: Duration = Duration::from_millis(25);
/// Pods that a node takes.
const PODS_PER_NODE: usize = 110;

fn node(number: usize) -> Value {
    let resources = json!({"cpu": "4", "memory": "1048576Ki", "ephemeral-storage": "16777216Ki", "pods": PODS_PER_NODE.to_string()});
    let name = format!("node-{number}");
    json!({
        "apiVersion": "v1", "kind": "Node", "spec": {},
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "topology.kubernetes.io/region": "bench"},
        },
        "status": {
            "capacity": resources, "allocatable": resources,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "nobody is asked"}],
        },
    })
}

fn now() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

fn lease(number: usize) -> Value {
    let name = format!("node-{number}");
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now()},
    })
}

/// A pod that can be placed once there is one with the label `opens`.
fn pod(number: usize) -> Value {
    let mut spec = load::pod_spec();
    spec["affinity"] = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
        "topologyKey": "topology.kubernetes.io/region", "labelSelector": {"matchLabels": {"opens": "all"}},
    }]}});
    let metadata = json!({"name": format!("pod-{number:05}"), "labels": {"app": "waits"}});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

fn opener() -> Value {
    let mut spec = load::pod_spec();
    spec["nodeName"] = "node-0".into();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "opener", "labels": {"opens": "all"}}, "spec": spec})
}

/// Writes every lease anew, by one connection.
async fn renew(access: &Access, nodes: usize) -> Result<()> {
    let connection = access.connect().await?;
    for number in 0..nodes {
        let patch = json!({"spec": {"renewTime": now()}});
        connection.patch(&format!("{LEASES}/node-{number}"), MERGE, &patch).await?.ok()?;
    }
    Ok(())
}

async fn renew_for_ever(access: Access, nodes: usize) -> Result<()> {
    loop {
        tokio::time::sleep(RENEW_PERIOD).await;
        renew(&access, nodes).await?;
    }
}

/// Leases that are renewed until the clock starts.
struct Leases {
    renewing: JoinHandle<Result<()>>,
}

impl Leases {
    fn start(hub: &Hub, nodes: usize) -> Self {
        Self { renewing: hub.runtime.spawn(renew_for_ever(hub.admin.clone(), nodes)) }
    }

    /// Once more, and then nobody writes any.
    fn stop(self, hub: &Hub, nodes: usize) -> Result<()> {
        ensure!(!self.renewing.is_finished(), "leases were not renewed: {:?}", hub.runtime.block_on(self.renewing));
        self.renewing.abort();
        hub.runtime.block_on(renew(&hub.admin, nodes))?;
        hub.settle();
        Ok(())
    }
}

/// A hub with Node objects that are ready.
fn hub_with_nodes(nodes: usize) -> Result<(Hub, Leases)> {
    let hub = Hub::start()?;
    hub.create_many(LEASES, CLIENTS, nodes, lease)?;
    hub.create_many(NODES, CLIENTS, nodes, node)?;
    let leases = Leases::start(&hub, nodes);
    eventually("nodes without taints", PATIENCE, || {
        let mut tainted = 0;
        let look = load::for_each(&hub, NODES, |node| {
            tainted += usize::from(node["spec"]["taints"].as_array().is_some_and(|taints| !taints.is_empty()));
            Ok(())
        });
        look.map_err(|error| format!("{error:#}"))?;
        if tainted == 0 { Ok(()) } else { Err(format!("{tainted} are tainted")) }
    })?;
    Ok((hub, leases))
}

/// What binding so many pods took.
struct Bound {
    per_second: f64,
    decision_ms_p50: f64,
    decision_ms_p99: f64,
    cpu_us: f64,
    events_dropped: f64,
}

/// Has `begin` make pods that can be placed, and waits until so many are bound.
fn measure(hub: &Hub, pods: usize, begin: impl FnOnce(&Hub) -> Result<()>) -> Result<Bound> {
    let connection = hub.runtime.block_on(hub.admin.connect())?;
    let look = || hub.runtime.block_on(Scheduler::read(&connection));
    let (before, cpu, started) = (look()?, hub.cpu(), Instant::now());
    begin(hub)?;
    let (after, took) = loop {
        let (now, at) = (look()?, started.elapsed());
        if now.bound - before.bound >= pods as f64 {
            break (now, at);
        }
        ensure!(at < PATIENCE, "{} of {pods} pods are bound", now.bound - before.bound);
        std::thread::sleep(SCRAPE_PERIOD);
    };
    let cpu = hub.cpu() - cpu;
    let decision = |part| after.decision_ms(&before, part).context("pods were bound without a decision");
    // What waits of Events then is written or dropped.
    hub.settle();
    Ok(Bound {
        per_second: pods as f64 / took.as_secs_f64(),
        decision_ms_p50: decision(0.5)?,
        decision_ms_p99: decision(0.99)?,
        cpu_us: cpu * 1e6 / pods as f64,
        events_dropped: look()?.events_dropped - before.events_dropped,
    })
}

/// Every pod has a node, and no node has more than it takes.
fn check(hub: &Hub, pods: usize) -> Result<()> {
    let (mut on, mut placed) = (HashMap::<String, usize>::new(), 0);
    load::for_each(hub, PODS, |pod| {
        if let Some(node) = pod["spec"]["nodeName"].as_str() {
            placed += 1;
            *on.entry(node.to_owned()).or_default() += 1;
        }
        Ok(())
    })?;
    ensure!(placed == pods, "{placed} of {pods} pods have a node");
    ensure!(on.values().all(|count| *count <= PODS_PER_NODE), "a node has more pods than it takes: {on:?}");
    Ok(())
}

fn add(bench: &mut Bench, what: &str, limit: Option<&str>, runs: &[Bound]) {
    let of = |figure: fn(&Bound) -> f64| runs.iter().map(figure).collect::<Vec<f64>>();
    let report = &mut bench.report;
    report.add(format!("pods bound, {what}"), "1/s", of(|run| run.per_second), limit, None);
    report.add(format!("a decision, {what}, p50"), "ms", of(|run| run.decision_ms_p50), None, None);
    report.add(format!("a decision, {what}, p99"), "ms", of(|run| run.decision_ms_p99), Some("≤ 5"), None);
    report.add(format!("CPU of the hub for one of them, {what}"), "µs", of(|run| run.cpu_us), None, None);
    report.add(format!("Events dropped, {what}"), "Events", of(|run| run.events_dropped), None, None);
}

pub fn bind(bench: &mut Bench) -> Result<()> {
    let size = bench.size;
    let (mut released, mut created) = (Vec::new(), Vec::new());
    for _ in 0..size.runs {
        let (hub, leases) = hub_with_nodes(size.nodes)?;
        hub.create_many(PODS, CLIENTS, size.pods, pod)?;
        hub.settle();
        leases.stop(&hub, size.nodes)?;
        released.push(measure(&hub, size.pods, |hub| hub.create(PODS, &opener()))?);
        check(&hub, size.pods + 1)?;

        let (hub, leases) = hub_with_nodes(size.nodes)?;
        leases.stop(&hub, size.nodes)?;
        created.push(measure(&hub, size.pods, |hub| load::create(hub, size.deployments, size.pods))?);
        check(&hub, size.pods)?;
    }
    let (pods, nodes, deployments) = (size.pods, size.nodes, size.deployments);
    add(bench, &format!("{pods} waiting pods released by one write, {nodes} nodes, alone"), Some("≥ 3000"), &released);
    add(bench, &format!("{pods} pods as {deployments} Deployments create them, {nodes} nodes, alone"), None, &created);
    Ok(())
}
