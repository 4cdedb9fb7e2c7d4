//! Measures the scheduler in one process, without a socket: `cargo run --release -p hub-scheduler --example scheduler-figures`.
//!
//! It prints pods bound per second over the embedded API, and what single decisions take, both with 1,000 nodes and 10,000
//! pods: plain ones, those of a Service, which are spread by default, and those with rules about other pods.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use hub_runtime::kinds::Kind;
use hub_runtime::writer::Writer;
use hub_runtime::{Manager, StatusRegistry, StoreReader};
use hub_scheduler::cluster::{Cluster, PlacedState};
use hub_scheduler::decide::{Decider, Nominations, Verdict};
use hub_scheduler::terms::Labels;
use hub_scheduler::{node, pod};
use machinery_server::{Identity, Server, ServerConfig};
use machinery_store::{Store, StoreOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const NODES: usize = 1000;
const PODS: usize = 10_000;
const PODS_PER_APP: usize = 50;
/// Pods that are created at a time, before anything is measured.
const CREATED_AT_ONCE: usize = 64;

type Error = Box<dyn std::error::Error>;

fn node_object(number: usize) -> Value {
    let zone = format!("zone-{}", number % 3);
    let labels = json!({"kubernetes.io/hostname": format!("gw-{number}"), "topology.kubernetes.io/zone": zone});
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("gw-{number}"), "labels": labels},
        "status": {"allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"}},
    })
}

fn pod_object(number: usize, more: &Value) -> Value {
    let app = format!("app-{}", number / PODS_PER_APP);
    let requests = json!({"cpu": "100m", "memory": "128Mi"});
    let mut object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("{app}-{number}"), "namespace": "default", "uid": format!("{number}"), "labels": {"app": app}},
        "spec": {"containers": [{"name": "main", "image": "nginx:1", "resources": {"requests": requests}}]},
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        let text = value.to_string().replace("APP", &app);
        object["spec"][field] = serde_json::from_str(&text).unwrap_or_default();
    }
    object
}

/// CPU time and resident memory of this process.
fn usage() -> Result<(Duration, u64), Error> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    // Fields 14 and 15 in ticks of 10 ms, field 24 in pages of 4 KiB; the list begins with field 3.
    Ok((Duration::from_millis((number(11) + number(12)) * 10), number(21) * 4096))
}

fn decisions(what: &str, more: &Value, services: bool) -> Result<(), Error> {
    let mut cluster = Cluster::default();
    for number in 0..NODES {
        cluster.set_node(&format!("gw-{number}"), node::parse(&serde_json::to_vec(&node_object(number))?)?);
    }
    for app in 0..PODS / PODS_PER_APP {
        if services {
            let app = format!("app-{app}");
            cluster.set_service("default", &app, Some(Labels::new([("app", &*app)])));
        }
    }
    let (mut decider, nominations) = (Decider::new(fastrand::Rng::with_seed(1)), Nominations::default());
    let mut took = Vec::with_capacity(PODS);
    let (_, before) = usage()?;
    for number in 0..PODS {
        let (pod, _) = pod::parse(&serde_json::to_vec(&pod_object(number, more))?)?;
        let pod = cluster.share(pod);
        let began = Instant::now();
        let verdict = decider.decide(&mut cluster, &nominations, &pod, None);
        took.push(began.elapsed());
        if let Verdict::Place(id) = verdict {
            let node = cluster.node(id).name.clone();
            cluster.place(pod, &node, PlacedState::default());
        }
    }
    let (_, after) = usage()?;
    let placed = cluster.all_placed().count();
    let sum: Duration = took.iter().sum();
    took.sort_unstable();
    println!(
        "decisions, {what}: {placed} of {PODS} placed, {:.0} µs on average, p99 {:.0} µs, at most {:.0} µs; {:.0} bytes a pod",
        sum.as_secs_f64() * 1e6 / PODS as f64,
        took[PODS * 99 / 100].as_secs_f64() * 1e6,
        took[PODS - 1].as_secs_f64() * 1e6,
        after.saturating_sub(before) as f64 / PODS as f64,
    );
    Ok(())
}

async fn bound() -> Result<(), Error> {
    let dir = tempfile::tempdir()?;
    let indexed_fields = machinery_server::INDEXED_FIELDS.to_vec();
    let store = Store::open(dir.path(), StoreOptions { indexed_fields, ..StoreOptions::default() })?;
    let server = Server::new(ServerConfig::new(store.clone()))?;
    let client = kube::Client::new(server.in_process(Identity::controllers()), "default");
    let admin = Writer::new(client.clone());
    for (kind, name) in [(Kind::Namespace, "default"), (Kind::ServiceAccount, "default")] {
        let mut object = json!({"apiVersion": "v1", "kind": kind.name(), "metadata": {"name": name}});
        if kind.is_namespaced() {
            object["metadata"]["namespace"] = json!("default");
        }
        admin.create(kind, object).await?;
    }
    for number in 0..NODES {
        admin.create(Kind::Node, node_object(number)).await?;
    }
    let mut created = futures::stream::iter(0..PODS)
        .map(|number| {
            let (admin, mut object) = (admin.clone(), pod_object(number, &json!({})));
            object["metadata"]["uid"] = Value::Null;
            async move { admin.create(Kind::Pod, object).await }
        })
        .buffer_unordered(CREATED_AT_ONCE);
    while let Some(done) = created.next().await {
        done?;
    }
    let placed = || -> Result<usize, Error> {
        let pods = store.range("/pods", None, None, None, None)?;
        let is_placed = |bytes: &[u8]| bytes.windows(12).any(|part| part == b"\"nodeName\":\"");
        Ok(pods.items.iter().filter(|pod| is_placed(&pod.bytes)).count())
    };
    let shutdown = CancellationToken::new();
    let reader = StoreReader::new(store.clone());
    let manager = Manager::new(client, reader, StatusRegistry::default(), shutdown.clone());
    let ((cpu, rss), began) = (usage()?, Instant::now());
    hub_scheduler::start(&manager, &base_observe::Metrics::new());
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let status = manager.status().snapshot();
        if status.iter().all(|one| one.synced && one.queue_length + one.running == 0) {
            break;
        }
    }
    let took = began.elapsed().as_secs_f64();
    let (cpu_after, rss_after) = usage()?;
    println!(
        "bound: {} pods on {NODES} nodes, {:.0} pods/s, {:.0} µs of CPU a pod, {:.0} KB a pod; {} Events",
        placed()?,
        PODS as f64 / took,
        (cpu_after - cpu).as_secs_f64() * 1e6 / PODS as f64,
        rss_after.saturating_sub(rss) as f64 / PODS as f64 / 1024.0,
        store.range("/events", None, None, None, None)?.items.len(),
    );
    shutdown.cancel();
    manager.wait().await;
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Error> {
    decisions("plain pods", &json!({}), false)?;
    decisions("pods of Services", &json!({}), true)?;
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "APP"}}});
    let anti = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
    decisions("pods that keep apart", &json!({"affinity": anti}), false)?;
    let spread = json!([{
        "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "APP"}},
    }]);
    decisions("pods that spread over zones", &json!({"topologySpreadConstraints": spread}), false)?;
    bound().await
}
