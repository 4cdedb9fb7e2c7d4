//! `cargo xtask bench machinery`: what the Kubernetes API costs, on the shipped binary over the wire, beside a real kube-apiserver.
//!
//! Usage: `bench-machinery DIRECTORY [--only NAME,…]`. Writes `machinery.json` and `machinery.md` there. Every row has its limit;
//! where `cargo xtask install kube-apiserver` has built one, it and its etcd go through the same load in the same run, and `ratio` says
//! how many times better the hub is. Load and server share the machine's cores, so rates are a lower bound for both.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::Method;
use k8s_openapi::api::core::v1::Namespace;
use selvedge_tests::figures::machine;
use serde::Serialize;
use serde_json::{Value, json};
use testkit::apiserver::KubeApiserver;
use testkit::hollow;
use testkit::process;
use testkit::program::Selvedge;
use testkit::wire::{self, Access, Connection};
use tokio::runtime::Runtime;

/// Beyond it something hangs.
const PATIENCE: Duration = Duration::from_secs(600);
/// Clients at once where a rate is measured.
const CLIENTS: usize = 64;
/// Objects of the load after which memory is looked at.
const LOAD: usize = 8_400;
const PODS_ON_DISK: usize = 50_000;
const PODS_LISTED: usize = 5_000;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const APPLY: &str = "application/apply-patch+yaml";

/// One line of the report.
#[derive(Serialize)]
struct Figure {
    figure: String,
    value: f64,
    unit: &'static str,
    n: usize,
    spread: [f64; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'static str>,
    /// The peer's, in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<f64>,
    /// How many times better than the peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

/// What is better.
#[derive(Clone, Copy, PartialEq)]
enum Better {
    Less,
    More,
}

#[derive(Default)]
struct Report {
    figures: Vec<Figure>,
}

fn median(runs: &mut [f64]) -> f64 {
    runs.sort_by(f64::total_cmp);
    runs[runs.len() / 2]
}

impl Report {
    fn add(
        &mut self,
        figure: &str,
        unit: &'static str,
        better: Better,
        mut ours: Vec<f64>,
        mut peer: Vec<f64>,
        limit: &'static str,
    ) {
        let value = median(&mut ours);
        let spread = [ours[0], ours[ours.len() - 1]];
        let peer = (!peer.is_empty()).then(|| median(&mut peer));
        let ratio = peer.map(|peer| if better == Better::Less { peer / value } else { value / peer });
        let beside = peer
            .map_or(String::new(), |peer| format!(", kube-apiserver {peer:.2}, {:.1} x", ratio.unwrap_or_default()));
        println!("{figure}: {value:.3} {unit} ({:.3}–{:.3}, n = {}){beside}", spread[0], spread[1], ours.len());
        let limit = (!limit.is_empty()).then_some(limit);
        self.figures.push(Figure { figure: figure.to_owned(), value, unit, n: ours.len(), spread, limit, peer, ratio });
    }

    fn write(&self, out: &Path) -> Result<()> {
        std::fs::create_dir_all(out)?;
        let machine = machine();
        let report = json!({"version": 1, "name": "machinery", "machine": machine, "figures": self.figures});
        std::fs::write(out.join("machinery.json"), serde_json::to_string_pretty(&report)? + "\n")?;
        let mut text = format!(
            "# machinery\n\n{machine}\n\nLoad and server share the cores. Beside it: kube-apiserver 1.36.3 with etcd 3.6.8 in the same run, where it is built; its memory is both processes'.\n\n\
             | figure | median | unit | n | spread | limit | kube-apiserver | ratio |\n|---|---|---|---|---|---|---|---|\n"
        );
        for one in &self.figures {
            let number = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.2}"));
            let _ = writeln!(
                text,
                "| {} | {:.2} | {} | {} | {:.2}–{:.2} | {} | {} | {} |",
                one.figure,
                one.value,
                one.unit,
                one.n,
                one.spread[0],
                one.spread[1],
                one.limit.unwrap_or("–"),
                number(one.peer),
                number(one.ratio)
            );
        }
        std::fs::write(out.join("machinery.md"), text).context("failed to write the report")
    }
}

/// A running server of either kind.
struct Server {
    runtime: Runtime,
    admin: Access,
    program: Program,
    // Last, so that the directory outlives the program that writes into it.
    _dir: tempfile::TempDir,
}

enum Program {
    Hub(Box<Selvedge>),
    Peer(KubeApiserver),
}

impl Server {
    fn hub() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let hub_dir = dir.path().join("hub");
        let mut program = Selvedge::start(&hub_dir, &["hub"])?;
        program.address("hub-api")?;
        Self::of(Program::Hub(Box::new(program)), &hub_dir.join("kubeconfig"), dir)
    }

    /// `None` where no kube-apiserver is built.
    fn peer() -> Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        let Some(peer) = KubeApiserver::start(dir.path())? else { return Ok(None) };
        let kubeconfig = peer.kubeconfig();
        let server = Self::of(Program::Peer(peer), &kubeconfig, dir)?;
        // Nothing of a controller manager is there to create it.
        let account = json!({"metadata": {"name": "default"}});
        server.runtime.block_on(async {
            server.admin.connect().await?.post("/api/v1/namespaces/default/serviceaccounts", &account).await
        })?;
        Ok(Some(server))
    }

    fn of(program: Program, kubeconfig: &Path, dir: tempfile::TempDir) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Self { runtime, admin: Access::kubeconfig(kubeconfig)?, program, _dir: dir })
    }

    fn pids(&self) -> Vec<u32> {
        match &self.program {
            Program::Hub(hub) => vec![hub.pid()],
            Program::Peer(peer) => peer.pids().to_vec(),
        }
    }

    fn rss_mib(&self) -> f64 {
        let rss = |pid: u32| process::memory(pid).map_or(0, |memory| memory.rss_kib);
        self.pids().into_iter().map(rss).sum::<u64>() as f64 / 1024.0
    }

    /// Memory of its own, without pages of files.
    fn own_bytes(&self) -> f64 {
        let own = |pid: u32| process::memory(pid).map_or(0, |memory| memory.anonymous_kib);
        self.pids().into_iter().map(own).sum::<u64>() as f64 * 1024.0
    }

    fn cpu(&self) -> f64 {
        self.pids().into_iter().map(process::cpu_seconds).sum()
    }

    /// Waits until it has nothing more to do, or half a minute has passed.
    fn settle(&self) {
        let begin = Instant::now();
        let (mut quiet, mut last) = (0, self.cpu());
        while quiet < 4 && begin.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(500));
            let now = self.cpu();
            quiet = if now - last < 0.03 { quiet + 1 } else { 0 };
            last = now;
        }
    }

    /// Sends `count` requests with `clients` connections; returns requests a second.
    fn rate(
        &self,
        clients: usize,
        count: usize,
        request: impl Fn(usize) -> (Method, String, &'static str, Value) + Copy,
    ) -> Result<f64> {
        let connections: Vec<Connection> = self.runtime.block_on(async {
            let all = (0..clients).map(|_| self.admin.connect());
            futures::future::try_join_all(all).await
        })?;
        let begin = Instant::now();
        self.runtime.block_on(async {
            let workers = connections.iter().enumerate().map(|(worker, connection)| async move {
                for number in (worker..count).step_by(clients) {
                    let (method, path, content_type, body) = request(number);
                    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
                    let headers = [("accept", wire::JSON), ("content-type", content_type)];
                    let headers = if body.is_empty() { &headers[..1] } else { &headers[..] };
                    connection.send(method, &path, headers, body).await?.ok()?;
                }
                anyhow::Ok(())
            });
            futures::future::try_join_all(workers).await
        })?;
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    }

    /// Milliseconds of `count` requests, one after the other on one connection.
    fn times(&self, count: usize, request: impl Fn(usize) -> (Method, String, Value)) -> Result<Vec<f64>> {
        self.runtime.block_on(async {
            let connection = self.admin.connect().await?;
            let mut times = Vec::new();
            for number in 0..count {
                let (method, path, body) = request(number);
                let begin = Instant::now();
                let answer = if body.is_null() {
                    connection.get(&path).await?
                } else {
                    connection.write(method, &path, wire::JSON, &body).await?
                };
                answer.ok()?;
                times.push(begin.elapsed().as_secs_f64() * 1000.0);
            }
            Ok(times)
        })
    }
}

/// Of 4 KB.
fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "x".repeat(4000)}})
}

/// A pod of 3.6 KB as people write them: two containers with probes, resources and settings.
fn pod(number: usize, node: &str) -> Value {
    let container = |name: &str| {
        json!({
            "name": name, "image": format!("registry.example/{name}:1.2.3"), "args": ["--listen", ":8080", "--level", "info"],
            "ports": [{"name": name, "containerPort": 8080}],
            "env": (0..8).map(|index| json!({"name": format!("SETTING_{index}"), "value": format!("value-{index}")})).collect::<Vec<_>>(),
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": name}, "periodSeconds": 5},
            "livenessProbe": {"httpGet": {"path": "/live", "port": name}, "periodSeconds": 10},
            "volumeMounts": [{"name": "settings", "mountPath": "/etc/settings"}],
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("pod-{number:05}"), "labels": {"app": format!("app-{}", number % 50), "tier": "edge"},
            "annotations": {"example.com/note": "n".repeat(220)},
        },
        "spec": {
            "nodeName": node, "containers": [container("main"), container("side")],
            "volumes": [{"name": "settings", "configMap": {"name": "settings"}}],
        },
    })
}

fn post(path: &str, body: Value) -> (Method, String, &'static str, Value) {
    (Method::POST, path.to_owned(), wire::JSON, body)
}

/// Measures some rows on ours and, where there is one, on the peer.
type Group = fn(&mut Report) -> Result<()>;

fn main() -> Result<()> {
    hollow::lift_descriptor_limit();
    let mut args = std::env::args().skip(1);
    let out = PathBuf::from(args.next().context("usage: bench-machinery DIRECTORY [--only NAME,…]")?);
    let only: Option<Vec<String>> = match (args.next().as_deref(), args.next()) {
        (Some("--only"), Some(names)) => Some(names.split(',').map(str::to_owned).collect()),
        (None, _) => None,
        other => bail!("usage: bench-machinery DIRECTORY [--only NAME,…], not {other:?}"),
    };
    if std::env::var_os("SELVEDGE_KUBE_APISERVER").is_none() {
        println!("no kube-apiserver beside it: `cargo xtask install kube-apiserver` builds one");
    }
    let mut report = Report::default();
    let groups: [(&str, Group); 8] = [
        ("library", library),
        ("start", start),
        ("disk", start_with_pods),
        ("writes", writes),
        ("apply", apply),
        ("reads", reads),
        ("watch", watch),
        ("pods", pods),
    ];
    for (name, measure) in groups {
        if only.as_ref().is_none_or(|only| only.iter().any(|one| one == name)) {
            println!("── {name}");
            measure(&mut report).with_context(|| format!("failed to measure {name}"))?;
        }
    }
    report.write(&out)
}

/// Starts a hub on a fixed port and waits for `/readyz`; milliseconds.
fn start_hub(hub: &mut Option<Selvedge>, dir: &Path, config: &str, address: &str) -> Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let begin = Instant::now();
    match hub {
        None => *hub = Some(Selvedge::start_on(dir, &["hub", "--config", config], "default")?),
        Some(hub) => hub.start_again("default")?,
    }
    runtime.block_on(async {
        loop {
            let ready = async {
                // The CA is there once the hub has created it.
                let (_, ca, _) = wire::read_kubeconfig(&dir.join("kubeconfig"))?;
                Access::anonymous(address, &ca)?.connect().await?.get("/readyz").await?.ok()
            };
            if ready.await.is_ok() {
                return Ok(begin.elapsed().as_secs_f64() * 1000.0);
            }
            ensure!(begin.elapsed() < PATIENCE, "the hub is not ready");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

/// From the start of the process to the first answer of `/readyz`, and memory with nothing to do.
fn start(report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (config, address) = fixed_port(dir.path())?;
    let (mut times, mut rss) = (Vec::new(), Vec::new());
    for number in 0..5 {
        let mut hub = None;
        times.push(start_hub(&mut hub, &dir.path().join(format!("hub-{number}")), &config, &address)?);
        let mut hub = hub.context("it was started")?;
        std::thread::sleep(Duration::from_secs(3));
        rss.push(process::memory(hub.pid()).context("the hub runs")?.rss_kib as f64 / 1024.0);
        hub.interrupt(Duration::from_secs(20))?;
    }
    let (mut peer_times, mut peer_rss) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let begin = Instant::now();
        let Some(peer) = Server::peer()? else { break };
        peer_times.push(begin.elapsed().as_secs_f64() * 1000.0);
        std::thread::sleep(Duration::from_secs(3));
        peer_rss.push(peer.rss_mib());
    }
    report.add("start to ready, empty", "ms", Better::Less, times, peer_times, "≤ 250");
    report.add("RSS at rest", "MiB", Better::Less, rss, peer_rss, "≤ 25");
    Ok(())
}

/// An API server in this process, until its first answer.
fn library(report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut times = Vec::new();
    for _ in 0..20 {
        let begin = Instant::now();
        runtime.block_on(async {
            let api = machinery::Api::in_memory().await?;
            let namespaces: kube::Api<Namespace> = kube::Api::all(kube::Client::new(api.admin(), "default"));
            namespaces.get("default").await?;
            times.push(begin.elapsed().as_secs_f64() * 1000.0);
            anyhow::Ok(())
        })?;
    }
    report.add(
        "start of the library in memory, to its first answer (ci profile)",
        "ms",
        Better::Less,
        times,
        Vec::new(),
        "≤ 5",
    );
    Ok(())
}

fn fixed_port(dir: &Path) -> Result<(String, String)> {
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let config = dir.join("hub.yaml");
    std::fs::write(&config, format!("listen: {address}\n"))?;
    Ok((config.to_string_lossy().into_owned(), address))
}

fn start_with_pods(report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (config, address) = fixed_port(dir.path())?;
    let hub_dir = dir.path().join("hub");
    let mut hub = None;
    start_hub(&mut hub, &hub_dir, &config, &address)?;
    let server = Server::of(
        Program::Hub(Box::new(hub.take().context("it was started")?)),
        &hub_dir.join("kubeconfig"),
        tempfile::tempdir()?,
    )?;
    nodes(&server, 1000)?;
    server.rate(CLIENTS, PODS_ON_DISK, |number| post(PODS, pod(number, &format!("node-{}", number % 1000))))?;
    server.settle();
    let Program::Hub(hub) = server.program else { bail!("it is a hub") };
    let mut hub = Some(*hub);
    let mut times = Vec::new();
    for _ in 0..3 {
        hub.as_mut().context("it runs")?.interrupt(Duration::from_secs(60))?;
        times.push(start_hub(&mut hub, &hub_dir, &config, &address)?);
    }
    report.add("start to ready, 50,000 pods of 3.6 KB on disk", "ms", Better::Less, times, Vec::new(), "≤ 1200");
    Ok(())
}

/// Pods that name a node which is not there are somebody's orphans.
fn nodes(server: &Server, count: usize) -> Result<()> {
    let node = |number: usize| {
        post(
            "/api/v1/nodes",
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{number}")}, "spec": {}}),
        )
    };
    server.rate(16, count, node).map(|_| ())
}

/// Several values of each of several figures.
type Figures = Vec<Vec<f64>>;

/// Measures the same on both.
fn both(measure: impl Fn(&Server) -> Result<Figures>) -> Result<(Figures, Figures)> {
    let ours = {
        let hub = Server::hub()?;
        measure(&hub).context("on the hub")?
    };
    let peer = match Server::peer()? {
        Some(peer) => measure(&peer).context("on the kube-apiserver")?,
        None => vec![Vec::new(); ours.len()],
    };
    Ok((ours, peer))
}

fn writes(report: &mut Report) -> Result<()> {
    let (mut ours, mut peer) = both(|server| {
        let alone = server.times(300, |number| (Method::POST, MAPS.to_owned(), map(&format!("alone-{number}"))))?;
        let mut rates = Vec::new();
        let each = (LOAD - 300) / 3;
        for round in 0..3 {
            rates.push(server.rate(CLIENTS, each, |number| post(MAPS, map(&format!("m-{round}-{number}"))))?);
        }
        server.settle();
        Ok(vec![alone, rates, vec![server.rss_mib()]])
    })?;
    let mut row = |figure: &str, unit, better, limit| {
        report.add(figure, unit, better, ours.remove(0), peer.remove(0), limit);
    };
    row("create of 4 KB, 1 client, p50", "ms", Better::Less, "≤ 0.8");
    row("creates of 4 KB, 64 clients", "1/s", Better::More, "≥ 6000");
    row("RSS after 8,400 objects of load", "MiB", Better::Less, "≤ 80");
    Ok(())
}

fn deployment(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{
                    "name": "main", "image": image, "ports": [{"name": "http", "containerPort": 8080}],
                    "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                    "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
                }]},
            },
        },
    })
}

fn apply(report: &mut Report) -> Result<()> {
    let (mut ours, mut peer) = both(|server| {
        let request = |version: usize, number: usize| {
            let name = format!("web-{}", number % (CLIENTS * 4));
            let image = format!("registry.example/main:{version}-{number}");
            (Method::PATCH, format!("{DEPLOYMENTS}/{name}?fieldManager=bench"), APPLY, deployment(&name, &image))
        };
        // Each client has deployments of its own, created before.
        server.rate(CLIENTS, CLIENTS * 4, |number| request(0, number))?;
        let count = if matches!(server.program, Program::Hub(_)) { 8_000 } else { 2_000 };
        let rates = (1..4).map(|version| server.rate(CLIENTS, count, |number| request(version, number)));
        Ok(vec![rates.collect::<Result<_>>()?])
    })?;
    report.add(
        "server-side applies of a changed Deployment, 64 clients",
        "1/s",
        Better::More,
        ours.remove(0),
        peer.remove(0),
        "≥ 3000, ≥ 4 x",
    );
    Ok(())
}

fn reads(report: &mut Report) -> Result<()> {
    let (mut ours, mut peer) = both(|server| {
        server.rate(CLIENTS, 1000, |number| post(MAPS, map(&format!("m-{number}"))))?;
        let count = if matches!(server.program, Program::Hub(_)) { 30_000 } else { 6_000 };
        let get = |number: usize| (Method::GET, format!("{MAPS}/m-{}", number % 1000), wire::JSON, Value::Null);
        let gets = (0..3).map(|_| server.rate(CLIENTS, count, get)).collect::<Result<Vec<_>>>()?;
        nodes(server, 100)?;
        server.rate(CLIENTS, PODS_LISTED, |number| post(PODS, pod(number, &format!("node-{}", number % 100))))?;
        server.settle();
        let lists = server.times(15, |_| (Method::GET, PODS.to_owned(), Value::Null))?;
        Ok(vec![gets, lists])
    })?;
    let mut row = |figure: &str, unit, better, limit| {
        report.add(figure, unit, better, ours.remove(0), peer.remove(0), limit);
    };
    row("gets of 4 KB, 64 clients", "1/s", Better::More, "≥ 15000");
    row("list of 5,000 pods of 3.6 KB, p50", "ms", Better::Less, "≤ 20");
    Ok(())
}

/// Milliseconds from the start of a write to its event at each of `count` watchers of one collection.
async fn fan_out(server: &Server, count: usize, changes: usize) -> Result<Vec<f64>> {
    let connection = server.admin.connect().await?;
    connection.post(MAPS, &json!({"metadata": {"name": "watched"}, "data": {"at": "-"}})).await?.ok()?;
    let list = connection.get(&format!("{MAPS}?limit=1")).await?.ok()?.json();
    let revision = list["metadata"]["resourceVersion"].as_str().context("a revision")?.to_owned();
    let epoch = Instant::now();
    let path = format!("{MAPS}?watch=1&resourceVersion={revision}&fieldSelector=metadata.name%3Dwatched");
    let watchers = (0..count).map(|_| {
        let (admin, path) = (server.admin.clone(), path.clone());
        tokio::spawn(async move {
            let connection = admin.connect().await?;
            let mut lines = connection.watch(&path).await?;
            let mut times = Vec::new();
            while times.len() < changes {
                let line = tokio::time::timeout(PATIENCE, lines.next()).await??.context("the watch has ended")?;
                let now = epoch.elapsed().as_secs_f64() * 1000.0;
                let event: Value = serde_json::from_slice(&line)?;
                if let Some(at) = event["object"]["data"]["at"].as_str().and_then(|at| at.parse::<f64>().ok()) {
                    times.push(now - at);
                }
            }
            anyhow::Ok(times)
        })
    });
    let watchers: Vec<_> = watchers.collect();
    // All are connected before the first change.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..changes {
        let at = format!("{:.4}", epoch.elapsed().as_secs_f64() * 1000.0);
        connection.patch(&format!("{MAPS}/watched"), wire::MERGE, &json!({"data": {"at": at}})).await?.ok()?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut times = Vec::new();
    for watcher in watchers {
        times.extend(watcher.await??);
    }
    connection.delete(&format!("{MAPS}/watched")).await?.ok()?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Microseconds of CPU that one write of a pod costs, while `count` watchers of one node each look at other nodes' pods.
fn cost_beside(server: &Server, count: usize, round: usize) -> Result<f64> {
    const WRITES: usize = 2_000;
    let watchers = server.runtime.block_on(async {
        let mut watchers = Vec::new();
        for number in 0..count {
            let connection = server.admin.connect().await?;
            let path = format!("/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dother-{number}");
            let lines = connection.watch(&path).await?;
            watchers.push((connection, lines));
        }
        anyhow::Ok(watchers)
    })?;
    server.settle();
    let before = server.cpu();
    server.rate(8, WRITES, |number| post(PODS, pod(round * WRITES + number, "node-0")))?;
    let used = server.cpu() - before;
    drop(watchers);
    server.settle();
    Ok(used * 1e6 / WRITES as f64)
}

fn watch(report: &mut Report) -> Result<()> {
    let (mut ours, mut peer) = both(|server| {
        let mut worst = Vec::new();
        for _ in 0..3 {
            let times = server.runtime.block_on(fan_out(server, 100, 100))?;
            worst.push(times[times.len() * 99 / 100]);
        }
        nodes(server, 1)?;
        // Each round twice, in turns: what is stored grows meanwhile.
        let (mut none, mut many) = (Vec::new(), Vec::new());
        for round in 0..2 {
            none.push(cost_beside(server, 0, round * 2)?);
            many.push(cost_beside(server, 1000, round * 2 + 1)?);
        }
        Ok(vec![worst, none, many])
    })?;
    let mut row = |figure: &str, unit, limit| {
        report.add(figure, unit, Better::Less, ours.remove(0), peer.remove(0), limit);
    };
    row("watch fan-out 100 x 100, p99", "ms", "≤ 4");
    row("CPU of a pod's creation, no watcher", "us", "");
    row("CPU of a pod's creation, beside 1,000 watchers of one node each", "us", "as without");
    Ok(())
}

/// Memory of a pod with all caches counted, and what of it managedFields take.
fn pods(report: &mut Report) -> Result<()> {
    const COUNT: usize = 20_000;
    let server = Server::hub()?;
    nodes(&server, 1000)?;
    server.settle();
    let before = server.own_bytes();
    server.rate(CLIENTS, COUNT, |number| post(PODS, pod(number, &format!("node-{}", number % 1000))))?;
    server.settle();
    // What the allocator keeps of the load is given back every ten seconds.
    std::thread::sleep(Duration::from_secs(21));
    let all = (server.own_bytes() - before) / COUNT as f64;
    let one = server
        .runtime
        .block_on(async { server.admin.connect().await?.get(&format!("{PODS}/pod-00007")).await?.ok() })?;
    let mut object = one.json();
    let fields = object["metadata"].as_object_mut().and_then(|metadata| metadata.remove("managedFields"));
    let fields = fields.map_or(0, |fields| fields.to_string().len());
    let page = server.runtime.block_on(async { server.admin.connect().await?.get("/metrics").await?.ok() })?.text();
    let kept = wire::figure(&page, "selvedge_store_managed_fields_bytes").ok().map(|bytes| bytes / COUNT as f64);
    report.add(
        "JSON of the pod, without managedFields",
        "bytes",
        Better::Less,
        vec![object.to_string().len() as f64],
        Vec::new(),
        "",
    );
    report.add("JSON of its managedFields", "bytes", Better::Less, vec![fields as f64], Vec::new(), "");
    if let Some(kept) = kept {
        report.add("managedFields of a pod, as kept", "bytes", Better::Less, vec![kept], Vec::new(), "≤ 1024");
        report.add(
            "memory per pod of 3.6 KB, managedFields apart",
            "bytes",
            Better::Less,
            vec![all - kept],
            Vec::new(),
            "≤ 5632",
        );
    } else {
        report.add(
            "memory per pod of 3.6 KB, with its managedFields",
            "bytes",
            Better::Less,
            vec![all],
            Vec::new(),
            "≤ 5632 + 1024",
        );
    }
    Ok(())
}
