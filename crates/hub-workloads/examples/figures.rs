//! Measures a hub's controllers and that of DaemonSets over the embedded API in one process, without a socket:
//! `cargo run --profile ci -p hub-workloads --example figures`.
//!
//! It prints pods per second of a DaemonSet over 1,000 nodes, the CPU time that one label of one node costs at 2,000 nodes
//! and 20 rules, and what a pod costs in memory with everything in the hub counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hub_controllers::{Authorities, ControllersConfig, NamePolicy};
use hub_runtime::kinds::Kind;
use hub_runtime::writer::Writer;
use hub_runtime::{Manager, StatusRegistry, StoreReader};
use machinery_server::{Identity, Server, ServerConfig};
use machinery_store::{Store, StoreOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// As large as a fleet that one person still knows.
const POD_NODES: usize = 1000;
const LABEL_NODES: usize = 2000;
const RULES: usize = 20;
/// Enough that the kernel's ticks of 10 ms do not matter.
const LABEL_CHANGES: usize = 200;

type Error = Box<dyn std::error::Error>;

struct Hub {
    admin: Writer,
    controllers: Manager,
    shutdown: CancellationToken,
    store: Store,
    _dir: tempfile::TempDir,
}

impl Hub {
    async fn start() -> Result<Self, Error> {
        let dir = tempfile::tempdir()?;
        let indexed_fields = machinery_server::INDEXED_FIELDS.to_vec();
        let store = Store::open(dir.path(), StoreOptions { indexed_fields, ..StoreOptions::default() })?;
        let shutdown = CancellationToken::new();
        let server = Server::new(ServerConfig::new(store.clone()))?;
        let client = kube::Client::new(server.in_process(Identity::controllers()), "default");
        let ca = Arc::new(base_pki::Ca::create("figures")?);
        let config = ControllersConfig {
            authorities: Authorities { client: ca.clone(), serving: ca },
            names: NamePolicy::default(),
        };
        let reader = StoreReader::new(store.clone());
        let controllers = Manager::new(client.clone(), reader, StatusRegistry::default(), shutdown.clone());
        hub_controllers::start(&controllers, config).await?;
        hub_workloads::start_daemons(&controllers);
        Ok(Self { admin: Writer::new(client), controllers, shutdown, store, _dir: dir })
    }

    async fn create(&self, kind: Kind, mut object: Value) -> Result<(), Error> {
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.name());
        self.admin.create(kind, object).await?.ok_or("it exists already")?;
        Ok(())
    }

    /// Waits until no controller has anything to do.
    async fn settle(&self) {
        let mut last = None;
        loop {
            let status = self.controllers.status().snapshot();
            let is_idle = status.iter().all(|one| one.queue_length + one.running == 0);
            let state = (self.store.current(), status.iter().map(|one| one.processed).sum::<u64>());
            if is_idle && last == Some(state) {
                return;
            }
            last = Some(state);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.controllers.wait().await;
    }
}

/// CPU time and resident memory of this process.
fn usage() -> Result<(Duration, u64), Error> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    // Fields 14 and 15 in ticks of 10 ms, field 24 in pages of 4 KiB; the list begins with field 3.
    Ok((Duration::from_millis((number(11) + number(12)) * 10), number(21) * 4096))
}

async fn daemon_set() -> Result<(), Error> {
    let hub = Hub::start().await?;
    for node in 0..POD_NODES {
        hub.create(Kind::Node, json!({"metadata": {"name": format!("gw-{node}"), "labels": {"role": "gateway"}}}))
            .await?;
    }
    hub.settle().await;
    let template = json!({
        "metadata": {"labels": {"app": "agent"}},
        "spec": {"nodeSelector": {"role": "gateway"}, "runtimeClassName": "selvedge-process", "containers": [{"name": "main", "image": "file:///bin/sleep"}]},
    });
    let set = |name: &str| {
        json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "agent", "set": name}}, "template": template},
        })
    };
    for (round, name) in ["one", "two", "three"].into_iter().enumerate() {
        let mut object = set(name);
        object["spec"]["template"]["metadata"]["labels"]["set"] = json!(name);
        let ((cpu, rss), began) = (usage()?, Instant::now());
        hub.create(Kind::DaemonSet, object).await?;
        let expected = (round + 1) * POD_NODES;
        while hub.store.range("/pods", None, None, None, None)?.items.len() < expected {
            if let Some(failing) = hub.controllers.status().snapshot().into_iter().find(|one| one.failing > 0) {
                return Err(format!("{} fails: {:?}", failing.name, failing.last_error).into());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let took = began.elapsed().as_secs_f64();
        hub.settle().await;
        let (cpu_after, rss_after) = usage()?;
        println!(
            "DaemonSet {name} over {POD_NODES} nodes: {:.0} pods/s, {:.2} s of CPU in all, {} KB a pod",
            POD_NODES as f64 / took,
            (cpu_after - cpu).as_secs_f64(),
            rss_after.saturating_sub(rss) as f64 / POD_NODES as f64 / 1024.0,
        );
    }
    hub.stop().await;
    Ok(())
}

async fn labels() -> Result<(), Error> {
    let hub = Hub::start().await?;
    for node in 0..LABEL_NODES {
        let labels = json!({"site": format!("site-{}", node % RULES), "note": "0"});
        hub.create(Kind::Node, json!({"metadata": {"name": format!("gw-{node}"), "labels": labels}})).await?;
    }
    for rule in 0..RULES {
        let spec = json!({
            "nodeSelector": {"site": format!("site-{rule}")}, "sql": "SELECT CPU FROM host", "actions": [{"log": {}}],
        });
        hub.create(Kind::Rule, json!({"metadata": {"name": format!("r{rule}"), "namespace": "default"}, "spec": spec}))
            .await?;
    }
    hub.settle().await;
    for (what, label) in [("that no selector names", "note"), ("that moves it to another rule", "site")] {
        // What the request itself costs is measured on an object that no controller looks at.
        let bare = cpu_of(&hub, Kind::Lease, "note").await?;
        let all = cpu_of(&hub, Kind::Node, label).await?;
        println!(
            "label {what}, {LABEL_NODES} nodes and {RULES} rules: {:.2} ms of CPU, {:.2} ms without the request",
            all.as_secs_f64() * 1e3,
            all.saturating_sub(bare).as_secs_f64() * 1e3,
        );
    }
    hub.stop().await;
    Ok(())
}

async fn cpu_of(hub: &Hub, kind: Kind, label: &str) -> Result<Duration, Error> {
    let namespace = if kind == Kind::Lease { "default" } else { "" };
    if kind == Kind::Lease {
        // It may be there from the measurement before.
        let lease = json!({
            "apiVersion": kind.api_version(), "kind": kind.name(), "metadata": {"name": "gw-7", "namespace": namespace},
        });
        hub.admin.create(kind, lease).await?;
        hub.settle().await;
    }
    let (before, _) = usage()?;
    for change in 0..LABEL_CHANGES {
        let patch = json!({"metadata": {"labels": {label: format!("site-{}", change % RULES)}}});
        hub.admin.merge(kind, (namespace, "gw-7"), &patch).await?;
        // Longer than a key's debounce and rest, so that each change is a run of its own.
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let (after, _) = usage()?;
    Ok((after - before) / u32::try_from(LABEL_CHANGES)?)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Error> {
    daemon_set().await?;
    labels().await
}
