//! The life of one hollow node: join, connect, register, follow, report, lose the hub, come back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::follow::{Entry, Fault, List, Seen, Sequence};
use super::{Plan, Shared, Tally};
use crate::wire::{self, Access, Answer, Connection, Identity, MERGE, STRATEGIC, WatchError};

const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/// For how long a renewed Lease holds.
const LEASE_DURATION: Duration = Duration::from_secs(40);
/// How long a watch is asked to last, as the kubelet asks.
const WATCH_SECONDS: u64 = 1800;
/// Pods in a page of a list, as the kubelet asks.
const PAGE: u32 = 100;
/// First and longest pause between two dials, as the kubelet's.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long a watch may lag behind a list before the difference counts.
const LAG_MAX: Duration = Duration::from_secs(20);
/// How long a request for a certificate may stay pending: two thousand nodes may have asked before.
const APPROVAL_WAIT_MAX: Duration = Duration::from_secs(300);

/// One node.
pub(crate) struct Node {
    pub name: String,
    token: base_pki::JoinToken,
    shared: Arc<Shared>,
    pods: Mutex<Sequence>,
    assignment: Mutex<Sequence>,
    /// By pod: the revision at which the hub acknowledged a status of ours.
    acknowledged: Mutex<HashMap<String, u64>>,
    connection: Mutex<Option<Arc<Connection>>>,
    is_registered: AtomicBool,
    watches_open: AtomicU32,
    work: Notify,
    severed: Notify,
}

/// Why a session cannot continue, or one of its requests failed.
#[derive(Debug)]
enum Trouble {
    /// The connection ended.
    Closed(anyhow::Error),
    /// The hub said no.
    Status(u16, String),
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self::Closed(error)
    }
}

impl From<WatchError> for Trouble {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Status(code, text) => Self::Status(code, text),
            WatchError::Broken(error) => Self::Closed(error),
        }
    }
}

fn good(answer: Answer) -> Result<Value, Trouble> {
    if (200..300).contains(&answer.status) {
        return Ok(answer.json());
    }
    Err(Trouble::Status(answer.status, answer.text()))
}

/// What a check of one node found.
#[derive(Default)]
pub(crate) struct Findings {
    pub differences: Vec<String>,
    pub lost: Vec<String>,
}

/// The pause before the next try: doubles, half of it at random.
fn pause(failures: u32) -> Duration {
    let longest = BACKOFF.0.saturating_mul(1 << failures.min(10)).min(BACKOFF.1);
    longest.mul_f64(0.5 + 0.5 * fastrand::f64())
}

/// Waits until the fleet is paused, or is not.
async fn until(paused: &mut tokio::sync::watch::Receiver<bool>, expected: bool) {
    if paused.wait_for(|paused| *paused == expected).await.is_err() {
        // The sender lives as long as the process.
        std::future::pending::<()>().await;
    }
}

/// Lives until the process ends.
pub(crate) async fn live(node: Arc<Node>) {
    let mut failures = 0;
    let access = loop {
        let permit = node.shared.joining.acquire().await;
        match node.join().await {
            Ok(access) => break access,
            Err(error) => node.shared.tally.error(format!("{}: join: {error:#}", node.name)),
        }
        drop(permit);
        failures += 1;
        tokio::time::sleep(pause(failures)).await;
    };
    Tally::add(&node.shared.tally.joined);
    failures = 0;
    let mut paused = node.shared.paused.subscribe();
    loop {
        until(&mut paused, false).await;
        match access.connect().await {
            Err(error) => {
                Tally::add(&node.shared.tally.dial_failures);
                node.shared.tally.error(format!("{}: {error:#}", node.name));
            }
            Ok(connection) => {
                Tally::add(&node.shared.tally.connections);
                let connection = Arc::new(connection);
                *node.connection.lock() = Some(connection.clone());
                let ended = tokio::select! {
                    () = until(&mut paused, true) => {
                        failures = 0;
                        Err(Trouble::Status(0, "paused".to_owned()))
                    }
                    () = node.severed.notified() => Err(Trouble::Status(0, "severed".to_owned())),
                    ended = node.session(&connection, &mut failures) => ended,
                };
                *node.connection.lock() = None;
                node.watches_open.store(0, Ordering::Relaxed);
                Tally::add(&node.shared.tally.disconnects);
                if let Err(Trouble::Closed(error)) = ended {
                    node.shared.tally.error(format!("{}: {error:#}", node.name));
                }
            }
        }
        tokio::time::sleep(pause(failures)).await;
        failures += 1;
    }
}

impl Node {
    pub(crate) fn new(name: String, token: base_pki::JoinToken, shared: Arc<Shared>) -> Self {
        Self {
            name,
            token,
            shared,
            pods: Mutex::default(),
            assignment: Mutex::default(),
            acknowledged: Mutex::default(),
            connection: Mutex::default(),
            is_registered: AtomicBool::new(false),
            watches_open: AtomicU32::new(0),
            work: Notify::new(),
            severed: Notify::new(),
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connection.lock().is_some()
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.is_registered.load(Ordering::Relaxed)
    }

    pub(crate) fn is_following(&self) -> bool {
        let plan = &self.shared.plan;
        let all = 1 + u32::from(plan.assignments) + u32::try_from(plan.extra_watches).unwrap_or(u32::MAX);
        self.watches_open.load(Ordering::Relaxed) >= all
    }

    /// Pods that are known, and those of them that run.
    pub(crate) fn pods(&self) -> (u64, u64) {
        let pods = self.pods.lock();
        (pods.objects.len() as u64, pods.objects.values().filter(|pod| pod.is_running).count() as u64)
    }

    /// Drops the connection as a cut cable would; the node dials again.
    pub(crate) fn sever(&self) {
        self.severed.notify_one();
    }

    async fn join(&self) -> Result<Access> {
        let hub = &self.shared.plan.hub;
        let ca = wire::fetch_ca(hub, self.token.ca_sha256.as_deref().unwrap_or_default())
            .await
            .context("failed to fetch the CA")?;
        let identity = request_certificate(hub, &ca, &self.token, &self.name).await?;
        Access::certificate(hub, &ca, &identity)
    }

    async fn session(&self, connection: &Connection, failures: &mut u32) -> Result<(), Trouble> {
        let uid = loop {
            match self.register(connection).await {
                Ok(uid) => break uid,
                Err(trouble) => self.recover(trouble, failures).await?,
            }
        };
        self.is_registered.store(true, Ordering::Relaxed);
        *failures = 0;
        let pods = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.name);
        let label = format!("{}%3D{}", api_edge::LABEL_NODE.replace('/', "%2F"), self.name);
        let assignment = format!("/apis/{}/nodeassignments?labelSelector={label}", api_edge::API_VERSION);
        let extras = (0..self.shared.plan.extra_watches).map(|_| self.idle_watch(connection, &pods));
        tokio::select! {
            ended = self.follow(connection, &pods, &self.pods, true) => ended,
            ended = self.follow(connection, &assignment, &self.assignment, false), if self.shared.plan.assignments => ended,
            ended = self.renew_lease(connection, &uid), if !self.shared.plan.lease_period.is_zero() => ended,
            ended = self.report_pods(connection) => ended,
            ended = futures::future::try_join_all(extras), if self.shared.plan.extra_watches > 0 => ended.map(|_| ()),
        }
    }

    /// After a rejection: waits and lets the caller try again. A closed connection ends the session.
    async fn recover(&self, trouble: Trouble, failures: &mut u32) -> Result<(), Trouble> {
        match trouble {
            Trouble::Closed(error) => Err(Trouble::Closed(error)),
            Trouble::Status(code, text) => {
                Tally::add(&self.shared.tally.rejected);
                self.shared.tally.error(format!("{}: {code}: {text}", self.name));
                *failures += 1;
                tokio::time::sleep(pause(*failures)).await;
                Ok(())
            }
        }
    }

    async fn register(&self, connection: &Connection) -> Result<String, Trouble> {
        let path = format!("/api/v1/nodes/{}", self.name);
        let node = match good(connection.get(&path).await?) {
            Err(Trouble::Status(404, _)) => {
                let node = json!({
                    "apiVersion": "v1", "kind": "Node",
                    "metadata": {
                        "name": self.name,
                        "labels": {
                            "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": self.name,
                            "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64",
                        },
                        "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
                    },
                    "spec": {},
                });
                good(connection.post("/api/v1/nodes", &node).await?)?
            }
            other => other?,
        };
        self.report_node(connection).await?;
        Ok(node["metadata"]["uid"].as_str().unwrap_or_default().to_owned())
    }

    async fn report_node(&self, connection: &Connection) -> Result<(), Trouble> {
        let status = json!({"status": node_status(&self.name)});
        let path = format!("/api/v1/nodes/{}/status", self.name);
        good(connection.patch(&path, STRATEGIC, &status).await?).map(|_| ())
    }

    async fn renew_lease(&self, connection: &Connection, node_uid: &str) -> Result<(), Trouble> {
        let path = format!("{LEASES}/{}", self.name);
        let mut failures = 0;
        let mut renewed_at = Instant::now();
        loop {
            let now = format!("{:.6}", jiff::Timestamp::now());
            let renewed = match good(connection.patch(&path, MERGE, &json!({"spec": {"renewTime": now}})).await?) {
                Err(Trouble::Status(404, _)) => {
                    let lease = json!({
                        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                        "metadata": {
                            "name": self.name, "namespace": "kube-node-lease",
                            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": self.name, "uid": node_uid}],
                        },
                        "spec": {"holderIdentity": self.name, "leaseDurationSeconds": LEASE_DURATION.as_secs(), "renewTime": now},
                    });
                    good(connection.post(LEASES, &lease).await?)
                }
                other => other,
            };
            match renewed {
                Err(trouble) => self.recover(trouble, &mut failures).await?,
                Ok(lease) => {
                    failures = 0;
                    Tally::add(&self.shared.tally.leases);
                    self.note(&lease["metadata"]);
                    // The hub may have called it unreachable meanwhile, as it does where the machine is too busy for all of its nodes.
                    if renewed_at.elapsed() >= LEASE_DURATION {
                        self.report_node(connection).await?;
                    }
                    renewed_at = Instant::now();
                    // A thousand nodes that came up together should not beat together.
                    tokio::time::sleep(self.shared.plan.lease_period.mul_f64(0.96 + 0.04 * fastrand::f64())).await;
                }
            }
        }
    }

    /// Writes the revision of an answer into the ledger.
    fn note(&self, metadata: &Value) -> Option<u64> {
        let revision = metadata["resourceVersion"].as_str()?.parse().ok()?;
        self.shared.ledger.note(revision, metadata["uid"].as_str()?);
        Some(revision)
    }

    async fn follow(
        &self,
        connection: &Connection,
        path: &str,
        sequence: &Mutex<Sequence>,
        are_pods: bool,
    ) -> Result<(), Trouble> {
        let mut failures = 0;
        loop {
            match self.follow_once(connection, path, sequence, are_pods).await {
                Ok(()) => failures = 0,
                Err(Trouble::Status(410, _)) => {
                    Tally::add(&self.shared.tally.expired);
                    sequence.lock().revision = 0;
                }
                Err(trouble) => self.recover(trouble, &mut failures).await?,
            }
        }
    }

    async fn follow_once(
        &self,
        connection: &Connection,
        path: &str,
        sequence: &Mutex<Sequence>,
        are_pods: bool,
    ) -> Result<(), Trouble> {
        let tally = &self.shared.tally;
        if sequence.lock().revision == 0 {
            let (revision, objects) = list(connection, path).await?;
            Tally::add(&tally.lists);
            if are_pods {
                // What was deleted while the window moved on has no event: of what a new list does not hold nothing can be said
                // any more. `expired` counts how often.
                self.acknowledged.lock().retain(|uid, _| objects.contains_key(uid));
            }
            sequence.lock().replace(revision, objects);
            self.work.notify_one();
        } else {
            Tally::add(&tally.resumes);
        }
        let since = sequence.lock().revision;
        let query =
            format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={since}");
        let mut lines = connection.watch(&format!("{path}&{query}")).await?;
        let _open = Open::new(&self.watches_open);
        while let Some(line) = lines.next().await.map_err(|error| Trouble::Closed(error.into()))? {
            let (seen, fault) = sequence
                .lock()
                .take(&line)
                .with_context(|| format!("not an event: {}", String::from_utf8_lossy(&line)))?;
            match fault {
                None => {}
                Some(Fault::Duplicate) => Tally::add(&tally.duplicates),
                Some(Fault::OutOfOrder) => Tally::add(&tally.out_of_order),
                Some(Fault::AddedTwice) => Tally::add(&tally.added_twice),
                Some(Fault::UnknownDelete) => Tally::add(&tally.unknown_deletes),
            }
            if let Some(fault) = fault {
                tally.error(format!(
                    "{}: {fault:?}: {}",
                    self.name,
                    String::from_utf8_lossy(&line[..line.len().min(300)])
                ));
            }
            match seen {
                Seen::Bookmark => Tally::add(&tally.bookmarks),
                Seen::Expired => return Err(Trouble::Status(410, String::new())),
                Seen::Error(code) => return Err(Trouble::Status(code, String::from_utf8_lossy(&line).into_owned())),
                Seen::Changed { uid, revision } => {
                    Tally::add(&tally.events);
                    self.shared.ledger.note(revision, &uid);
                    if are_pods {
                        self.work.notify_one();
                    }
                }
                Seen::Deleted { uid, revision } => {
                    Tally::add(&tally.events);
                    self.shared.ledger.note(revision, &uid);
                    if are_pods {
                        self.acknowledged.lock().remove(&uid);
                    }
                }
            }
        }
        Ok(())
    }

    /// A watch that is only held open.
    async fn idle_watch(&self, connection: &Connection, path: &str) -> Result<(), Trouble> {
        let mut failures = 0;
        loop {
            let watched = async {
                let mut lines = connection.watch(&format!("{path}&watch=true&timeoutSeconds={WATCH_SECONDS}")).await?;
                let _open = Open::new(&self.watches_open);
                while lines.next().await.map_err(|error| Trouble::Closed(error.into()))?.is_some() {}
                Ok(())
            };
            if let Err(trouble) = watched.await {
                self.recover(trouble, &mut failures).await?;
            }
        }
    }

    /// Reports what does not run yet as running, and deletes what is terminating.
    async fn report_pods(&self, connection: &Connection) -> Result<(), Trouble> {
        // What was reported on this connection and has not come back as an event yet.
        let mut reported = HashSet::new();
        let mut failures = 0;
        loop {
            let next = {
                let pods = self.pods.lock();
                let is_due = |(uid, pod): &(&String, &Entry)| {
                    (pod.is_terminating || !(pod.is_running || pod.is_ended))
                        && !reported.contains(&((*uid).clone(), pod.is_terminating))
                };
                let found = pods.objects.iter().find(is_due);
                found.map(|(uid, pod)| (uid.clone(), pod.clone()))
            };
            let Some((uid, pod)) = next else {
                self.work.notified().await;
                continue;
            };
            let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
            let outcome = if pod.is_terminating {
                let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
                good(connection.write(Method::DELETE, &path, wire::JSON, &options).await?)
            } else {
                let patch = json!({"metadata": {"uid": uid}, "status": pod_status(&pod, &self.shared.plan)});
                good(connection.patch(&format!("{path}/status"), STRATEGIC, &patch).await?)
            };
            match outcome {
                Ok(object) => {
                    failures = 0;
                    Tally::add(&self.shared.tally.statuses);
                    if !pod.is_terminating
                        && let Some(revision) = self.note(&object["metadata"])
                        && self.pods.lock().objects.contains_key(&uid)
                    {
                        self.acknowledged.lock().insert(uid.clone(), revision);
                    }
                    reported.insert((uid, pod.is_terminating));
                }
                // Deleted meanwhile, or another pod by now: the watch will report it.
                Err(Trouble::Status(404 | 409, _)) => {
                    reported.insert((uid, pod.is_terminating));
                }
                Err(trouble) => self.recover(trouble, &mut failures).await?,
            }
            if reported.len() > 1000 {
                let pods = self.pods.lock();
                reported.retain(|(uid, _)| pods.objects.contains_key(uid));
            }
        }
    }

    /// Compares what the watch has built up with a fresh list, and the list with what was acknowledged.
    pub(crate) async fn check(&self) -> Result<Findings> {
        let connection = self.connection.lock().clone().context("it is not connected")?;
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.name);
        let begin = tokio::time::Instant::now();
        loop {
            let acknowledged = self.acknowledged.lock().clone();
            let (_, listed) = match list(&connection, &path).await {
                Ok(listed) => listed,
                Err(trouble) => bail!("{trouble:?}"),
            };
            let mut findings = Findings::default();
            {
                let pods = self.pods.lock();
                for (uid, entry) in &listed {
                    match pods.objects.get(uid) {
                        None => findings.differences.push(format!("no event of {} came", entry.name)),
                        Some(known) if known.revision != entry.revision => findings
                            .differences
                            .push(format!("{} is known at {}, is at {}", entry.name, known.revision, entry.revision)),
                        Some(_) => {}
                    }
                }
                for (uid, entry) in &pods.objects {
                    if !listed.contains_key(uid) {
                        findings.differences.push(format!("{} is deleted and no event of that came", entry.name));
                    }
                }
            }
            for (uid, revision) in &acknowledged {
                let is_there = listed.get(uid).is_some_and(|entry| entry.revision >= *revision);
                // Between the list and now its deletion may have come.
                if !is_there && self.acknowledged.lock().contains_key(uid) {
                    let found = listed.get(uid).map(|entry| format!("{} is at {}", entry.name, entry.revision));
                    let found = found.unwrap_or_else(|| "it is not listed".to_owned());
                    findings.lost.push(format!("a status of {uid} was acknowledged at {revision}; {found}"));
                }
            }
            if (findings.differences.is_empty() && findings.lost.is_empty()) || begin.elapsed() > LAG_MAX {
                return Ok(findings);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Counts an open watch while it lives.
struct Open<'a>(&'a AtomicU32);

impl<'a> Open<'a> {
    fn new(counter: &'a AtomicU32) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn list(connection: &Connection, path: &str) -> Result<(u64, HashMap<String, Entry>), Trouble> {
    let mut objects = HashMap::new();
    let mut page = String::new();
    loop {
        let answer = connection.get(&format!("{path}&limit={PAGE}{page}")).await?;
        if answer.status != 200 {
            return Err(Trouble::Status(answer.status, answer.text()));
        }
        let list: List<'_> = serde_json::from_slice(&answer.body).context("the list cannot be read")?;
        objects.extend(list.items.iter().map(|item| (item.metadata.uid.to_string(), item.entry())));
        if list.metadata.next.is_empty() {
            return Ok((list.metadata.revision(), objects));
        }
        page = format!("&continue={}", list.metadata.next.replace('+', "%2B").replace('=', "%3D").replace('/', "%2F"));
    }
}

/// A certificate for the node `name`, requested with a join token as a kubelet does.
pub async fn request_certificate(hub: &str, ca: &str, token: &base_pki::JoinToken, name: &str) -> Result<Identity> {
    let connection = Access::bearer(hub, ca, &token.bearer())?.connect().await?;
    let key = base_pki::KeyPair::generate()?;
    let csr = base_pki::make_csr(&key, &format!("system:node:{name}"), &["system:nodes".to_owned()], &[])?;
    let request = format!("csr-{name}-{:016x}", fastrand::u64(..));
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": request, "labels": {api_edge::LABEL_NODE: name}},
        "spec": {
            "request": BASE64.encode(&csr),
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"],
        },
    });
    connection.post(CSRS, &object).await?.ok().context("failed to request a certificate")?;
    let begin = tokio::time::Instant::now();
    let mut wait = Duration::from_millis(25);
    while begin.elapsed() < APPROVAL_WAIT_MAX {
        let csr = connection.get(&format!("{CSRS}/{request}")).await?.ok()?.json();
        for condition in csr["status"]["conditions"].as_array().into_iter().flatten() {
            if condition["type"] != "Approved" {
                bail!("the hub did not sign: {condition}");
            }
        }
        if let Some(encoded) = csr["status"]["certificate"].as_str() {
            let cert_pem = String::from_utf8(BASE64.decode(encoded)?)?;
            return Ok(Identity { cert_pem, key_pem: key.to_pem() });
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(1));
    }
    bail!("nobody signed {request} within {APPROVAL_WAIT_MAX:?}")
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn node_status(name: &str) -> Value {
    let now = now();
    let resources = json!({"cpu": "4", "memory": "1048576Ki", "ephemeral-storage": "16777216Ki", "pods": "110"});
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
               "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    json!({
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": name}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "machineID": format!("{name}-machine"), "systemUUID": name, "bootID": name, "kernelVersion": "6.1.0",
            "osImage": "Hollow", "containerRuntimeVersion": "hollow://1", "kubeletVersion": api_edge::KUBERNETES_VERSION,
            "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64",
        },
        "capacity": resources,
        "allocatable": resources,
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "the node has sufficient memory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "the node has sufficient disk space"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "the node has sufficient PIDs"),
            condition("Ready", "True", "KubeletReady", "the node runs pods"),
        ],
    })
}

fn pod_status(pod: &Entry, plan: &Plan) -> Value {
    let now = now();
    let has_ended = plan.pods_end && !pod.is_restarted;
    let condition = |kind: &str, holds: bool| {
        let mut condition = json!({"type": kind, "status": "True", "lastTransitionTime": now});
        if !holds {
            condition["status"] = "False".into();
            condition["reason"] = "PodCompleted".into();
        }
        condition
    };
    let state = if has_ended {
        json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}})
    } else {
        json!({"running": {"startedAt": now}})
    };
    let container = |(name, image): &(String, String)| {
        json!({
            "name": name, "image": image, "imageID": image, "containerID": format!("hollow://{}-{name}", pod.name),
            "ready": !has_ended, "started": !has_ended, "restartCount": 0, "state": state, "lastState": {},
        })
    };
    let address = &plan.pod_address;
    let mut status = json!({
        "phase": if has_ended { "Succeeded" } else { "Running" }, "startTime": now,
        "hostIP": "127.0.0.1", "hostIPs": [{"ip": "127.0.0.1"}], "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [
            condition("PodReadyToStartContainers", !has_ended), condition("Initialized", true),
            condition("Ready", !has_ended), condition("ContainersReady", !has_ended), condition("PodScheduled", true),
        ],
        "containerStatuses": pod.containers.iter().map(container).collect::<Vec<_>>(),
    });
    if let Some(generation) = pod.generation {
        status["observedGeneration"] = generation.into();
    }
    status
}
