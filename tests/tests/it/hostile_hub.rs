//! A node whose hub is slow, away, ill, restored or lying: what runs, runs on, and what was asked for comes once it can.
//!
//! Between node and hub is `testkit::proxy`; what it does is each test's own. Pods are plain `sleep` programs that bear a number
//! of their own in their arguments, so that a test sees by process ids what the kubelet has done to them, whoever says what.
//! `SELVEDGE_API=kube-apiserver` puts Kubernetes' own control plane in the hub's place, for all that needs its API alone.
//!
//! ```text
//! lies      answers that are no list, no object, no line           slow     answers that are late, fail, or come over a thin line
//! restored  another hub, another store, an expired certificate     status   what the hub shows of a pod, whoever else writes it
//! disk      full, read-only, emptied                               uplink   lost and found again with another address
//! kills     at random moments, under all of these                  damage   every file of the node, in every way
//! ```

mod damage;
mod disk;
mod kills;
mod lies;
mod restored;
mod slow;
mod status;
mod uplink;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use testkit::process;
use testkit::program::{Selvedge, run, signal};
use testkit::proxy::{Client, Proxy};
use testkit::wait::eventually;
use testkit::wire::{Access, MERGE, STRATEGIC};
use tokio::runtime::Runtime;

use crate::common::{PATIENCE, condition, token};
use crate::stock_cluster::{Cluster, TOKEN};

const NODE: &str = "edge-1";
const PODS: &str = "/api/v1/namespaces/default/pods";
/// The node's list of its pods, and its watch.
const LIST_OF_PODS: &str = r"^/api/v1/pods\?";
const WATCH_OF_PODS: &str = r"^/api/v1/pods\?.*watch=";

/// The hub's API for a test that is a plain function.
pub struct Api {
    runtime: Runtime,
    access: Access,
}

impl Api {
    fn of(hub: &Selvedge) -> Result<Self> {
        Self::with(&hub.data_dir().join("kubeconfig"))
    }

    /// As a kubeconfig says.
    pub fn with(kubeconfig: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, access: Access::kubeconfig(kubeconfig)? })
    }

    fn block_on<T>(&self, act: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, act).await.context("no answer of the hub")? })
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        self.block_on(async { Ok(self.access.connect().await?.get(path).await?.ok()?.json()) })
    }

    pub fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.block_on(async { Ok(self.access.connect().await?.post(path, object).await?.ok()?.json()) })
    }

    fn patch(&self, path: &str, patch: &Value) -> Result<Value> {
        let act = async { self.access.connect().await?.patch(path, MERGE, patch).await?.ok() };
        Ok(self.block_on(act)?.json())
    }

    /// For lists that are merged by name, as containers are.
    fn patch_strategic(&self, path: &str, patch: &Value) -> Result<Value> {
        let act = async { self.access.connect().await?.patch(path, STRATEGIC, patch).await?.ok() };
        Ok(self.block_on(act)?.json())
    }

    pub fn delete(&self, path: &str) -> Result<()> {
        self.block_on(async { self.access.connect().await?.delete(path).await?.ok() }).map(|_| ())
    }
}

/// The API that the node has: a hub's, or that of Kubernetes' own control plane (`cargo xtask test --real-cluster`).
enum ControlPlane {
    Hub(Box<Selvedge>),
    KubeApiserver(Box<Cluster>),
}

impl ControlPlane {
    fn start(dir: &Path) -> Result<Self> {
        match is_stock() {
            true => Ok(Self::KubeApiserver(Box::new(Cluster::start()?.context("its programs are not built")?))),
            false => Ok(Self::Hub(Box::new(Selvedge::start(&dir.join("hub"), &["hub"])?))),
        }
    }

    fn address(&mut self) -> Result<String> {
        match self {
            Self::Hub(hub) => hub.address("hub-api"),
            Self::KubeApiserver(cluster) => Ok(cluster.server.address().to_owned()),
        }
    }

    fn kubeconfig(&self) -> PathBuf {
        match self {
            Self::Hub(hub) => hub.data_dir().join("kubeconfig"),
            Self::KubeApiserver(cluster) => cluster.server.kubeconfig(),
        }
    }

    fn ca(&self) -> Result<base_pki::Ca> {
        match self {
            Self::Hub(hub) => hub_ca(hub),
            Self::KubeApiserver(cluster) => cluster.server.ca(),
        }
    }

    /// The arguments with which a node joins.
    fn join(&self) -> Result<Vec<String>> {
        let args = match self {
            Self::Hub(hub) => vec!["--token".to_owned(), token(hub.data_dir())?],
            Self::KubeApiserver(cluster) => ["--token", TOKEN, "--ca", &cluster.ca_file()].map(str::to_owned).to_vec(),
        };
        Ok(args)
    }
}

/// Whether the tests run before a kube-apiserver.
fn is_stock() -> bool {
    std::env::var("SELVEDGE_API").is_ok_and(|api| api == "kube-apiserver")
}

/// Whether a test cannot run, as it needs more of a hub than its API; says so.
fn needs_a_hub(why: &str) -> bool {
    if is_stock() {
        println!("not run before a kube-apiserver: {why}");
    }
    is_stock()
}

/// Hub, proxy, node.
struct Site {
    api: Api,
    node: Selvedge,
    plane: ControlPlane,
    proxy: Proxy,
    hub_address: String,
    /// Distinguishes the programs of this test from those of all others.
    salt: u32,
    // Last, so that the directory outlives the programs that write into it.
    dir: tempfile::TempDir,
}

impl Site {
    /// With a proxy that sees requests. The node has joined through it, and is Ready.
    fn start() -> Result<Self> {
        Self::start_with(None, terminating)
    }

    /// The same with the node's data on this disk; its log is beside.
    fn start_on(disk: &Path) -> Result<Self> {
        Self::start_with(Some(disk), terminating)
    }

    /// With a proxy that sees bytes only.
    fn start_tunnelled() -> Result<Self> {
        Self::start_with(None, |hub_address, _, _| Proxy::tunnel(hub_address))
    }

    fn start_with(
        disk: Option<&Path>,
        proxy: impl FnOnce(&str, &ControlPlane, PathBuf) -> Result<Proxy>,
    ) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut plane = ControlPlane::start(dir.path())?;
        let hub_address = plane.address()?;
        let proxy = proxy(&hub_address, &plane, dir.path().join("node"))?;
        let join = plane.join()?;
        let config = dir.path().join("node.yaml");
        std::fs::write(&config, "imagePrefixes: [/bin, /usr/bin]\n")?;
        let (config, url) = (config.to_string_lossy().into_owned(), proxy.url());
        let node_dir = dir.path().join("node");
        if let Some(disk) = disk {
            std::fs::create_dir(disk.join("node"))?;
            std::os::unix::fs::symlink(disk.join("node"), &node_dir)?;
        }
        let mut args = vec!["node", "--hub", &url, "--node-name", NODE, "--config", &config];
        args.extend(join.iter().map(String::as_str));
        let node = Selvedge::start(&node_dir, &args)?;
        let api = Api::with(&plane.kubeconfig())?;
        let site = Self { api, node, plane, proxy, hub_address, salt: fastrand::u32(..), dir };
        site.wait_ready()?;
        Ok(site)
    }

    fn wait_ready(&self) -> Result<()> {
        eventually("a Ready node", PATIENCE, || match self.ready() {
            Ok(ready) if ready == "True" => Ok(()),
            other => Err(format!("{other:?}")),
        })
    }

    /// Status of the Node's condition `Ready`.
    fn ready(&self) -> Result<String> {
        let node = self.api.get(&format!("/api/v1/nodes/{NODE}"))?;
        let ready = condition(&node, "Ready").context("a node has the condition")?;
        Ok(ready["status"].as_str().unwrap_or_default().to_owned())
    }

    /// What is in the arguments of a pod's program, and of no other.
    fn mark(&self, number: usize) -> String {
        format!("0.{:010}{number:04}", self.salt)
    }

    /// Pod `p{number}`: one program that sleeps.
    fn pod(&self, number: usize) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{number}")},
            "spec": {
                "nodeName": NODE, "runtimeClassName": "selvedge-process", "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
                "containers": [{
                    "name": "main", "image": "file:///bin/sleep", "args": ["1000000", self.mark(number)],
                }],
            },
        })
    }

    fn create_pods(&self, numbers: std::ops::Range<usize>) -> Result<()> {
        for number in numbers {
            self.api.create(PODS, &self.pod(number))?;
        }
        Ok(())
    }

    /// The process of a pod's program.
    fn pid(&self, number: usize) -> Option<u32> {
        self.pids().get(number).copied().flatten()
    }

    /// The processes of all pods' programs, by number; a hole where there is none.
    fn pids(&self) -> Vec<Option<u32>> {
        let prefix = format!("0.{:010}", self.salt);
        let mut pids = Vec::new();
        for (pid, words) in process::find(|words| words.get(2).is_some_and(|word| word.starts_with(&prefix))) {
            let Ok(number) = words[2][prefix.len()..].parse::<usize>() else { continue };
            // A shim that has not executed its program yet has other words.
            if words[0].ends_with("sleep") {
                pids.resize(pids.len().max(number + 1), None);
                pids[number] = Some(pid);
            }
        }
        pids
    }

    /// Waits until the programs of all these pods run; their process ids.
    fn wait_programs(&self, numbers: std::ops::Range<usize>, deadline: Duration) -> Result<Vec<u32>> {
        eventually(&format!("programs of the pods {numbers:?}"), deadline, || {
            let pids = self.pids();
            let found: Vec<u32> = numbers.clone().filter_map(|number| pids.get(number).copied().flatten()).collect();
            if found.len() == numbers.len() { Ok(found) } else { Err(format!("{} run: {pids:?}", found.len())) }
        })
    }

    fn wait_no_program(&self, number: usize, deadline: Duration) -> Result<()> {
        eventually(&format!("no program of pod {number}"), deadline, || match self.pid(number) {
            None => Ok(()),
            Some(pid) => Err(format!("process {pid}")),
        })
    }

    /// Waits until the hub shows these pods as running and ready.
    fn wait_shown(&self, numbers: std::ops::Range<usize>, deadline: Duration) -> Result<()> {
        eventually(&format!("pods {numbers:?} ready at the hub"), deadline, || {
            let list = self.api.get(PODS).map_err(|error| error.to_string())?;
            let pods = list["items"].as_array().cloned().unwrap_or_default();
            let is_ready = |pod: &&Value| condition(pod, "Ready").is_some_and(|one| one["status"] == "True");
            let ready: Vec<&Value> = pods.iter().filter(is_ready).map(|pod| &pod["metadata"]["name"]).collect();
            let is_shown = |number: usize| ready.iter().any(|name| **name == format!("p{number}"));
            if numbers.clone().all(is_shown) { Ok(()) } else { Err(format!("{ready:?} of {}", pods.len())) }
        })
    }

    /// Kills every program of every pod.
    fn kill_programs(&self) {
        for pid in self.pids().into_iter().flatten() {
            signal(pid, libc::SIGKILL);
        }
    }

    /// What `selvedge status` of the node says.
    fn status(&self) -> Result<Value, String> {
        let data_dir = self.node.data_dir().to_string_lossy().into_owned();
        let printed = run(["status", "-o", "json", "--data-dir", &data_dir]).and_then(|outcome| outcome.ok());
        let printed = printed.map_err(|error| error.to_string())?;
        let status: Value = serde_json::from_str(&printed).map_err(|error| error.to_string())?;
        if status["node"].is_object() { Ok(status["node"].clone()) } else { Err(printed) }
    }

    /// The hub, for a test that [`needs_a_hub`].
    fn hub(&mut self) -> Result<&mut Selvedge> {
        match &mut self.plane {
            ControlPlane::Hub(hub) => Ok(hub),
            ControlPlane::KubeApiserver(_) => bail!("this control plane is no hub"),
        }
    }

    /// Starts the hub again where it was.
    fn hub_again(&mut self) -> Result<()> {
        let (dir, address) = (self.dir.path().to_owned(), self.hub_address.clone());
        crate::common::start_on_its_port(self.hub()?, &dir, &address)
    }

    /// Waits until the node watches its pods, honestly, by a request that came after this moment.
    fn wait_watching(&self, since: Instant) -> Result<()> {
        let watch = regex_lite::Regex::new(WATCH_OF_PODS)?;
        eventually("an open watch of pods", PATIENCE, || {
            let mut requests = self.proxy.requests();
            requests.retain(|one| one.start >= since);
            let is_open = requests.iter().any(|one| {
                watch.is_match(&one.path) && one.rule.is_none() && one.status == Some(200) && one.end.is_none()
            });
            if is_open { Ok(()) } else { Err(format!("{requests:?}")) }
        })
    }

    /// Sum of the restarts that the hub shows of a pod.
    fn restarts(&self, number: usize) -> Result<i64> {
        let pod = self.api.get(&format!("{PODS}/p{number}"))?;
        Ok(pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap_or(0))
    }
}

/// A proxy that sees requests.
fn terminating(hub_address: &str, plane: &ControlPlane, node_dir: PathBuf) -> Result<Proxy> {
    Proxy::start(hub_address, &plane.ca()?, Client::NodeDir(node_dir))
}

fn hub_ca(hub: &Selvedge) -> Result<base_pki::Ca> {
    let read = |name: &str| std::fs::read_to_string(hub.data_dir().join("hub/pki").join(name)).context(name.to_owned());
    Ok(base_pki::Ca::load(&read("ca.crt")?, &read("ca.key")?)?)
}
