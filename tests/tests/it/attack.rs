//! An enemy at the hub: a stolen node, a leaked join token, a client without identity; slow, huge, deep and many.
//!
//! Each test is one reproduction and asserts what should happen instead. Three things hold after each of them: the
//! hub runs, it answers `/livez`, and at rest it is as small as before. The suite runs on the profile that is shipped with
//! `cargo xtask test --release attack`, and at the size at which the fault was found with `--all`.
//!
//! - `stops`: one weak client ends the hub, freezes it, or locks everybody out.
//! - `theft`: what a stolen node or a leaked token can do to others.
//! - `memory`: work and memory without bound.
//! - `answers`: wrong answers that can be driven from outside.

mod answers;
mod memory;
mod stops;
mod theft;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use testkit::hollow;
use testkit::process;
use testkit::program::{Selvedge, tail};
use testkit::wire::{self, Access, Connection, Identity};
use tokio::runtime::Runtime;

use crate::common::is_full;

/// What a hub may use at rest after any attack, as the project's table of figures has it.
const REST_MIB_MAX: u64 = 150;
/// `/livez` while an attack runs. The bench holds it to 50 ms; a test machine under load is only asked for life.
const LIVEZ_MAX: Duration = Duration::from_secs(5);
/// Memory is given back within this.
const REST_WAIT: Duration = Duration::from_secs(40);

/// `small` in `cargo xtask test`, `full` with `--all`.
fn sized<T>(small: T, full: T) -> T {
    if is_full() { full } else { small }
}

/// A hub under attack.
struct Target {
    runtime: Runtime,
    hub: Selvedge,
    address: String,
    ca: String,
    admin: Access,
    dir: tempfile::TempDir,
}

impl Target {
    fn start() -> Result<Self> {
        // Attackers hold thousands of connections, and the hub inherits the limit.
        hollow::lift_descriptor_limit();
        let dir = tempfile::tempdir()?;
        let hub_dir = dir.path().join("hub");
        let mut hub = Selvedge::start(&hub_dir, &["hub"])?;
        let address = hub.address("hub-api")?;
        let kubeconfig = hub_dir.join("kubeconfig");
        let (_, ca, _) = wire::read_kubeconfig(&kubeconfig)?;
        let admin = Access::kubeconfig(&kubeconfig)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Self { runtime, hub, address, ca, admin, dir })
    }

    /// Runs the attack while somebody asks for `/livez`, each time on a connection of its own; the hub must answer.
    fn under_attack<T>(&mut self, attack: impl Future<Output = Result<T>>) -> Result<T> {
        let is_over = Arc::new(AtomicBool::new(false));
        let worst = Arc::new(AtomicU64::new(0));
        let admin = self.admin.clone();
        let (over, slowest) = (is_over.clone(), worst.clone());
        let pulse = self.runtime.spawn(async move {
            let mut failure = None;
            while !over.load(Ordering::Relaxed) {
                let begin = Instant::now();
                let look =
                    tokio::time::timeout(LIVEZ_MAX * 4, async { admin.connect().await?.get("/livez").await?.ok() });
                match look.await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => failure = Some(format!("{error:#}")),
                    Err(_) => failure = Some("no answer".to_owned()),
                }
                slowest.fetch_max(begin.elapsed().as_millis() as u64, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            failure
        });
        let outcome = self.runtime.block_on(attack);
        is_over.store(true, Ordering::Relaxed);
        let failure = self.runtime.block_on(pulse)?;
        let worst = Duration::from_millis(worst.load(Ordering::Relaxed));
        println!("/livez took {worst:?} at worst");
        ensure!(self.hub.is_running(), "the hub ended:\n{}", tail(&self.hub.log()));
        let outcome = outcome?;
        ensure!(failure.is_none(), "/livez: {failure:?}");
        ensure!(worst < LIVEZ_MAX, "/livez took {worst:?}");
        Ok(outcome)
    }

    fn rss_mib(&self) -> u64 {
        process::memory(self.hub.pid()).map_or(0, |memory| memory.rss_kib / 1024)
    }

    /// The hub runs, answers, and is small again.
    fn rests(&mut self) -> Result<()> {
        self.rests_below(REST_MIB_MAX)
    }

    fn rests_below(&mut self, limit: u64) -> Result<()> {
        ensure!(self.hub.is_running(), "the hub ended:\n{}", tail(&self.hub.log()));
        self.runtime.block_on(async { self.admin.connect().await?.get("/livez").await?.ok() })?;
        let peak = self.rss_mib();
        let at_rest = testkit::wait::eventually("memory at rest", REST_WAIT, || {
            let now = self.rss_mib();
            if now <= limit {
                Ok(())
            } else {
                Err(format!("{now} MiB, {peak} MiB right after the attack, at most {limit}"))
            }
        });
        self.report(peak)?;
        at_rest
    }

    /// A line for `cargo xtask bench hub`, when that is who runs this.
    fn report(&self, peak: u64) -> Result<()> {
        let Some(path) = std::env::var_os("SELVEDGE_ATTACK_REPORT") else { return Ok(()) };
        let thread = std::thread::current();
        let attack = thread.name().and_then(|name| name.rsplit("::").next()).unwrap_or_default().to_owned();
        let line = json!({"attack": attack, "rightAfterMib": peak, "restMib": self.rss_mib()});
        let mut file = std::fs::File::options().create(true).append(true).open(path)?;
        std::io::Write::write_all(&mut file, format!("{line}\n").as_bytes()).context("failed to report")
    }

    /// A join token, as its bearer.
    fn token(&self) -> Result<base_pki::JoinToken> {
        let token = hollow::tokens(&self.dir.path().join("hub"), 1)?;
        token.lines().next().context("a token")?.parse().context("the token cannot be read")
    }

    /// What a leaked join token may do.
    fn bootstrapper(&self) -> Result<Access> {
        Access::bearer(&self.address, &self.ca, &self.token()?.bearer())
    }

    /// The identity of a node that has joined as `name`.
    fn identity(&self, name: &str) -> Result<Identity> {
        let token = hollow::token_for(&self.dir.path().join("hub"), name)?;
        self.runtime.block_on(hollow::request_certificate(&self.address, &self.ca, &token, name))
    }

    /// A node that has joined and registered itself.
    fn node(&self, name: &str) -> Result<Access> {
        let access = Access::certificate(&self.address, &self.ca, &self.identity(name)?)?;
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {}});
        self.runtime.block_on(async { access.connect().await?.post("/api/v1/nodes", &node).await?.ok() })?;
        Ok(access)
    }

    fn as_admin(&self, method: Method, path: &str, body: &Value) -> Result<wire::Answer> {
        self.runtime.block_on(async {
            let connection = self.admin.connect().await?;
            if body.is_null() {
                connection.send(method, path, &[("accept", wire::JSON)], Bytes::new()).await
            } else {
                connection.write(method, path, wire::JSON, body).await
            }
        })
    }

    fn create(&self, path: &str, body: &Value) -> Result<Value> {
        Ok(self.as_admin(Method::POST, path, body)?.ok()?.json())
    }

    fn get(&self, path: &str) -> Result<Value> {
        Ok(self.as_admin(Method::GET, path, &Value::Null)?.ok()?.json())
    }

    fn status_of(&self, path: &str) -> Result<u16> {
        Ok(self.as_admin(Method::GET, path, &Value::Null)?.status)
    }
}

/// A plain pod of a node.
fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": node, "runtimeClassName": "selvedge-process",
            "containers": [{"name": "c", "image": "file:///bin/sleep", "args": ["3600"]}],
        },
    })
}

/// A mirror pod, the only kind that a node may create: its name ends in the node's, and its controller is the Node as the hub has it.
async fn mirror_pod(connection: &Connection, name: &str, node: &str) -> Result<Value> {
    let own = connection.get(&format!("/api/v1/nodes/{node}")).await?.ok()?.json();
    let mut pod = pod(name, node);
    pod["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "Node", "name": node, "uid": own["metadata"]["uid"], "controller": true,
    }]);
    pod["metadata"]["annotations"] = json!({
        "kubernetes.io/config.mirror": "x", "kubernetes.io/config.source": "file", "kubernetes.io/config.hash": "x",
    });
    Ok(pod)
}

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn open(access: &Access, count: usize) -> Result<Vec<Connection>> {
    let mut connections = Vec::new();
    for _ in 0..count {
        connections.push(access.connect().await?);
    }
    Ok(connections)
}
