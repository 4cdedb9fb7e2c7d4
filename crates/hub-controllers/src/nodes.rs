//! Nodes whose lease has expired are tainted and their conditions become unknown: their pods are theirs and continue without
//! us. What follows from it for the pods is in `unreachable`.
//!
//! Conditions of a node, whoever wrote them, and that it is cordoned, are taints too, as upstream's node lifecycle controller
//! has it: a scheduler looks at taints alone. They keep pods out and drive none away. A new node has the taint of one that is
//! not ready until it reports that it is; nobody else takes it away. All taints that follow from one look at a node are one write.
//!
//! A watch on the leases notes one moment per node; nothing is listed. Each node has one deadline in the queue: when it
//! comes, and a heartbeat came meanwhile, the deadline moves on.
//!
//! A hub that itself did not run, stopped or overloaded, has heard nobody then, and every node gets the time anew. A tick shows
//! it, and not how late a worker comes to a node: that may be because thousands were cut off with it, which is no reason to
//! say so later of the last of them.
//!
//! A lease whose Node does not exist is deleted once nobody has renewed it for long. Most go with their Node, which owns them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use jiff::Timestamp;
use kube::api::PropagationPolicy;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};

use hub_runtime::Context;
use hub_runtime::ReconcileError;
use hub_runtime::events::seconds;
use hub_runtime::kinds::Kind;
use hub_runtime::views::{LeaseView, NodeView, condition};
use hub_runtime::writer::{Target, WriteError};
use hub_runtime::{Event, Next, ObjectRef, Queue, Reconciler};

/// Four heartbeats: one lost is normal on a radio link, four are not.
const HEARTBEAT_GRACE: Duration = Duration::from_secs(40);
/// Deadlines come a little later than the grace ends, so that the clock has surely passed it.
const DEADLINE_MARGIN: Duration = Duration::from_millis(50);
/// How often it is noted that the hub runs, …
const TICK_PERIOD: Duration = Duration::from_secs(1);
/// … and for how long it may not be before the hub did not run.
const STANDSTILL: Duration = Duration::from_secs(10);
/// A lease that nobody has renewed for so long, and whose Node does not exist, is nobody's. A node that is about to register
/// renews it, and one that comes later creates it anew.
const ORPHANED_LEASE_GRACE: Duration = Duration::from_secs(10 * 60);
/// After a write that met another.
const CONFLICT_RETRY: Duration = Duration::from_millis(500);

/// Leases expire together when a network is cut, thousands at once: those of this time are one line of the log, …
const WAVE: Duration = Duration::from_secs(5);
/// … with so many names.
const WAVE_NAMES_MAX: usize = 5;

/// The only namespace in which nodes have leases.
pub(crate) const LEASE_NAMESPACE: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that are taints when they are true.
const BY_CONDITION: &[(&str, &str)] = &[
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// The effect of all of these. Others' taints of the same keys that drive pods away are others'.
const EFFECT: &str = "NoSchedule";
const REASON: &str = "NodeStatusUnknown";

/// The controller.
pub(crate) struct Nodes {
    context: Context,
    heartbeats: Arc<Mutex<Heartbeats>>,
    waves: Mutex<Waves>,
}

/// What the log is to say next.
#[derive(Default)]
struct Waves {
    expired: Wave,
    returned: Wave,
}

/// Nodes to which the same happened at about the same time.
#[derive(Default)]
struct Wave {
    since: Option<Instant>,
    count: usize,
    /// The first few. The very first one is looked at again when the wave is over.
    names: Vec<Box<str>>,
}

impl Wave {
    fn add(&mut self, node: &str, now: Instant) {
        self.since.get_or_insert(now);
        self.count += 1;
        if self.names.len() < WAVE_NAMES_MAX {
            self.names.push(node.into());
        }
    }

    /// How many nodes, and the names of some, once the wave is over.
    fn take(&mut self, now: Instant) -> Option<(usize, String)> {
        if now.duration_since(self.since?) < WAVE {
            return None;
        }
        let Self { count, names, .. } = std::mem::take(self);
        let more = if count > names.len() { ", …" } else { "" };
        Some((count, format!("{}{more}", names.join(", "))))
    }

    /// When a node is to be looked at again for the sake of the wave.
    fn next(&self, node: &str, now: Instant) -> Next {
        match (self.since, self.names.first()) {
            (Some(since), Some(first)) if **first == *node => {
                Next::After(WAVE.saturating_sub(now.duration_since(since)))
            }
            _ => Next::OnChange,
        }
    }
}

impl Waves {
    /// Logs what is over.
    fn log(&mut self, now: Instant) {
        if let Some((count, nodes)) = self.expired.take(now) {
            warn!(count, %nodes, "The leases of nodes have expired; their pods are left alone.");
        }
        if let Some((count, nodes)) = self.returned.take(now) {
            info!(count, %nodes, "Nodes renew their leases again.");
        }
    }
}

/// What is known of the nodes' heartbeats.
///
/// A node's clock may be wrong by years, so its own times are never compared with ours: what counts is when *we* saw a
/// lease change.
#[derive(Default)]
struct Heartbeats {
    nodes: HashMap<Box<str>, Heartbeat>,
    /// Nodes whose next heartbeat is news.
    expired: HashSet<Box<str>>,
    /// When the hub was last known to run, …
    ran_at: Option<Instant>,
    /// … and since when it does without a standstill, if there was one.
    runs_since: Option<Instant>,
    /// Workers that write.
    writes: usize,
}

/// What is known of one node's heartbeat.
#[derive(Clone, Copy, Debug)]
struct Heartbeat {
    /// Of the lease, when it was last seen to change.
    revision: u64,
    since: Instant,
    /// Whether it changed while we were watching. A hub that has just started knows no more than what is written.
    is_heard: bool,
    /// What the node had said last: whether it is reachable, and when that was by its own clock.
    said: (bool, Option<Timestamp>),
}

impl Heartbeat {
    /// Of a node or a lease that is seen for the first time.
    fn unseen(now: Instant) -> Self {
        Self { revision: 0, since: now, is_heard: false, said: (false, None) }
    }
}

impl Heartbeats {
    /// The lease of a node is as it was at this revision; whether the node should be looked at.
    fn renew(&mut self, node: &str, revision: u64, is_change: bool, now: Instant) -> bool {
        match self.nodes.get_mut(node) {
            Some(heartbeat) if heartbeat.revision == revision => return false,
            Some(heartbeat) => {
                // A lease that is there when we first look says nothing about when it was renewed.
                let is_heard = is_change || heartbeat.revision != 0;
                *heartbeat = Heartbeat { revision, since: now, is_heard, ..*heartbeat };
            }
            None => {
                let heartbeat = Heartbeat { revision, is_heard: is_change, ..Heartbeat::unseen(now) };
                self.nodes.insert(node.into(), heartbeat);
            }
        }
        self.expired.contains(node)
    }

    /// A node is as it is now. What it reports is a sign of life as its lease is, and may come first. Whoever judges it looks as
    /// well: its change may not have been observed yet.
    fn look(&mut self, node: &NodeView<'_>, now: Instant) {
        let said = (!node.is_unreachable(), heartbeat(node).and_then(|text| text.parse().ok()));
        let known = self.nodes.entry((&*node.metadata.name).into()).or_insert(Heartbeat::unseen(now));
        if said.0 && said != known.said {
            (known.since, known.is_heard) = (now, true);
        }
        known.said = said;
    }

    /// A node registers: what its lease was before says nothing of it.
    fn register(&mut self, node: &str, now: Instant) {
        if let Some(heartbeat) = self.nodes.get_mut(node) {
            heartbeat.since = now;
        }
    }

    /// For how long a lease is known not to have been renewed.
    fn silent_for(&mut self, node: &str, now: Instant) -> Duration {
        let heartbeat = self.nodes.entry(node.into()).or_insert(Heartbeat::unseen(now));
        now.duration_since(heartbeat.since)
    }

    /// The hub runs now.
    fn note_running(&mut self, now: Instant) {
        if self.ran_at.is_some_and(|ran_at| now.duration_since(ran_at) > STANDSTILL) {
            self.runs_since = Some(now);
        }
        self.ran_at = Some(now);
    }

    /// Time passes. A hub whose writes do not end may have kept leases waiting as well: it runs again when one has ended.
    fn tick(&mut self, now: Instant) {
        if self.writes == 0 {
            self.note_running(now);
        }
    }

    /// Whether a node's lease has expired, and when that may change by itself. One that is noted as such stays so until it
    /// is heard; one that was never seen before gets the time that every node has.
    fn judge(&mut self, node: &str, is_noted: bool, now: Instant) -> (bool, Next) {
        let heartbeat = self.nodes.entry(node.into()).or_insert(Heartbeat::unseen(now));
        // One that has expired was not heard before the hub stood still, either.
        if let Some(runs_since) = self.runs_since.filter(|_| !self.expired.contains(node)) {
            heartbeat.since = heartbeat.since.max(runs_since);
        }
        let silent_for = now.duration_since(heartbeat.since);
        let has_expired = silent_for > HEARTBEAT_GRACE;
        let should_taint = has_expired || (is_noted && !heartbeat.is_heard);
        let left = HEARTBEAT_GRACE.saturating_sub(silent_for) + DEADLINE_MARGIN;
        if should_taint {
            self.expired.insert(node.into());
        } else {
            self.expired.remove(node);
        }
        let next = match has_expired {
            true => Next::OnChange,
            false => Next::After(left),
        };
        (should_taint, next)
    }

    fn forget(&mut self, node: &str) {
        self.nodes.remove(node);
        self.expired.remove(node);
    }
}

/// Notes that the hub runs, for as long as it does. Never ends, and so names no key.
async fn tick(heartbeats: Arc<Mutex<Heartbeats>>) -> Box<str> {
    let mut ticks = tokio::time::interval(TICK_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = ticks.tick().await;
        heartbeats.lock().tick(now);
    }
}

/// A worker that writes, until it is dropped.
struct Writing<'a>(&'a Mutex<Heartbeats>);

impl<'a> Writing<'a> {
    fn begin(heartbeats: &'a Mutex<Heartbeats>) -> Self {
        heartbeats.lock().writes += 1;
        Self(heartbeats)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut heartbeats = self.0.lock();
        heartbeats.writes -= 1;
        heartbeats.note_running(Instant::now());
    }
}

impl Nodes {
    pub fn new(context: Context) -> Self {
        Self { context, heartbeats: Arc::default(), waves: Mutex::default() }
    }

    /// Brings a node's taints to what is due; whether that is done.
    async fn set_taints(&self, object: &ObjectRef, due: &[&str]) -> Result<bool, ReconcileError> {
        let node = object.value()?;
        let metadata = &node["metadata"];
        // As it was read: a person may have tainted it meanwhile.
        let patch = json!({
            "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
            "spec": {"taints": tainted(&node, due, self.context.clock.now())},
        });
        Ok(self.context.writer.merge(Kind::Node, ("", object.name()), &patch).await?)
    }

    /// The lease of a node has expired, which was judged when it had `reported` last; whether its status says so now.
    async fn note_expired(&self, target: Target<'_>, reported: Option<&str>) -> Result<bool, WriteError> {
        let Context { writer, recorder, .. } = &self.context;
        let (name, wall) = (target.name, self.context.clock.now());
        let Some(current) = writer.get_now(Kind::Node, ("", name)).await? else { return Ok(false) };
        let ready = current["status"]["conditions"].as_array().into_iter().flatten().find(|one| one["type"] == "Ready");
        // One that has reported meanwhile is alive, and would say so again in minutes only.
        if ready.and_then(|ready| ready["lastHeartbeatTime"].as_str()) != reported {
            return Ok(false);
        }
        let unknown = with_unknown_conditions(current, wall);
        if !writer.replace_subresource(Kind::Node, name, "status", &unknown).await? {
            return Ok(false);
        }
        debug!(node = name, "The lease of a node has expired; its pods are left alone.");
        self.waves.lock().expired.add(name, Instant::now());
        let message = format!("Node {name} has not renewed its lease for {} s", HEARTBEAT_GRACE.as_secs());
        recorder.warning(Kind::Node, target, "NodeNotReady", message);
        Ok(true)
    }

    /// It renews it again. What its conditions are is its own to say.
    fn note_return(&self, target: Target<'_>) {
        let name = target.name;
        debug!(node = name, "A node renews its lease again.");
        self.waves.lock().returned.add(name, Instant::now());
        self.context.recorder.normal(Kind::Node, target, "NodeReady", format!("Node {name} renews its lease again"));
    }

    /// A lease without its Node.
    async fn reconcile_lease(&self, name: &str) -> Result<Next, ReconcileError> {
        let Context { reader, writer, .. } = &self.context;
        let lease = reader.get(Kind::Lease, LEASE_NAMESPACE, name);
        let Some(lease) = lease else {
            self.heartbeats.lock().forget(name);
            return Ok(Next::OnChange);
        };
        let view: LeaseView<'_> = lease.view()?;
        if view.spec.holder_identity != *name {
            // Nobody's heartbeat.
            self.heartbeats.lock().forget(name);
            return Ok(Next::OnChange);
        }
        let silent_for = self.heartbeats.lock().silent_for(name, Instant::now());
        if silent_for < ORPHANED_LEASE_GRACE {
            return Ok(Next::After(ORPHANED_LEASE_GRACE.saturating_sub(silent_for)));
        }
        // The API itself is asked: a reader may be behind a node that has just joined.
        if writer.get_now(Kind::Node, ("", name)).await?.is_some() {
            return Ok(Next::After(HEARTBEAT_GRACE));
        }
        let target = Target { namespace: LEASE_NAMESPACE, name, uid: &view.metadata.uid };
        let propagation = PropagationPolicy::Background;
        // As it was read: one that is renewed now is not deleted.
        let is_deleted =
            writer.delete_unchanged(Kind::Lease, target, &view.metadata.resource_version, propagation).await?;
        if is_deleted {
            info!(lease = name, "Deleted the lease of a node that does not exist.");
        }
        Ok(if is_deleted { Next::OnChange } else { Next::After(CONFLICT_RETRY) })
    }

    async fn reconcile_node(&self, name: &str) -> Result<Next, ReconcileError> {
        let Some(object) = self.context.reader.get(Kind::Node, "", name) else {
            return self.reconcile_lease(name).await;
        };
        let node: NodeView<'_> = object.view()?;
        let is_noted = is_noted_as_expired(&node);
        let (had_expired, (has_expired, next)) = {
            let (mut heartbeats, now) = (self.heartbeats.lock(), Instant::now());
            // A hub that stood still may come here before its next tick.
            heartbeats.tick(now);
            heartbeats.look(&node, now);
            (heartbeats.expired.contains(name), heartbeats.judge(name, is_noted, now))
        };
        let due = due_taints(&node, has_expired);
        let is_tainted_right = due == own_taints(&node);
        let target = Target { namespace: "", name, uid: &node.metadata.uid };
        if had_expired && !has_expired {
            self.note_return(target);
        }
        let is_known = is_noted || !has_expired;
        if is_tainted_right && is_known {
            return Ok(next);
        }
        let _writing = Writing::begin(&self.heartbeats);
        let is_done = (is_tainted_right || self.set_taints(&object, &due).await?)
            && (is_known || self.note_expired(target, heartbeat(&node)).await?);
        Ok(if is_done { next } else { Next::After(CONFLICT_RETRY) })
    }
}

impl Reconciler for Nodes {
    type Key = Box<str>;

    fn name(&self) -> &'static str {
        "nodes"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Node, Kind::Lease]
    }

    fn observe(&self, event: &Event, queue: &Queue<Box<str>>) {
        let now = Instant::now();
        match event {
            Event::Listed(Kind::Lease, leases) => {
                let mut heartbeats = self.heartbeats.lock();
                for lease in leases.iter().filter(|lease| lease.namespace() == LEASE_NAMESPACE) {
                    let is_news = heartbeats.renew(lease.name(), lease.revision(), false, now);
                    if is_news || self.context.reader.get(Kind::Node, "", lease.name()).is_none() {
                        queue.add(lease.name().into());
                    }
                }
            }
            Event::Listed(_, nodes) => nodes.iter().for_each(|node| queue.add(node.name().into())),
            Event::Changed(change) => match (change.kind, &change.previous, &change.current) {
                (Kind::Lease, previous, Some(lease)) if lease.namespace() == LEASE_NAMESPACE => {
                    let is_renewed = renew_time(lease) != previous.as_ref().and_then(renew_time);
                    let is_news = is_renewed && self.heartbeats.lock().renew(lease.name(), lease.revision(), true, now);
                    // A new one may come before its Node does, and stay without.
                    if is_news || previous.is_none() {
                        queue.add(lease.name().into());
                    }
                }
                (Kind::Node, None, Some(node)) => {
                    self.heartbeats.lock().register(node.name(), now);
                    queue.add(node.name().into());
                }
                (Kind::Node, Some(node), None) => {
                    // What was known of it is not known of the next one of its name.
                    self.heartbeats.lock().forget(node.name());
                    queue.add(node.name().into());
                }
                (Kind::Node, Some(before), Some(after)) => {
                    let name = after.name();
                    let is_same = match (before.view_or_log::<NodeView<'_>>(), after.view_or_log::<NodeView<'_>>()) {
                        (Some(before), Some(after)) => {
                            // Otherwise what it says would be made unknown once more, and it says it again in minutes only.
                            self.heartbeats.lock().look(&after, now);
                            before.spec.taints == after.spec.taints
                                && before.is_unreachable() == after.is_unreachable()
                                && due_taints(&before, false) == due_taints(&after, false)
                        }
                        _ => false,
                    };
                    // A node's status is posted every few minutes; that alone is nothing to look at.
                    if !is_same {
                        queue.add(name.into());
                    }
                }
                _ => {}
            },
        }
    }

    fn nudges(&self) -> BoxStream<'static, Box<str>> {
        futures::stream::once(tick(self.heartbeats.clone())).boxed()
    }

    async fn reconcile(&self, name: &Box<str>) -> Result<Next, ReconcileError> {
        self.waves.lock().log(Instant::now());
        let next = self.reconcile_node(name).await?;
        let (waves, now) = (self.waves.lock(), Instant::now());
        Ok(next.or(waves.expired.next(name, now)).or(waves.returned.next(name, now)))
    }
}

/// When a node has reported last.
fn heartbeat<'v>(node: &'v NodeView<'_>) -> Option<&'v str> {
    condition(&node.status.conditions, "Ready")?.last_heartbeat_time.as_deref()
}

fn renew_time(lease: &ObjectRef) -> Option<String> {
    lease.view_or_log::<LeaseView<'_>>()?.spec.renew_time.map(|time| time.to_string())
}

fn is_own(key: &str, effect: &str, taint: &str) -> bool {
    key == taint && effect == EFFECT
}

/// The taints that follow from what is known of nodes, each once and always in this order.
fn known_taints() -> impl Iterator<Item = &'static str> {
    let by_condition = BY_CONDITION.iter().map(|(_, taint)| *taint);
    [NOT_READY, UNREACHABLE].into_iter().chain(by_condition).chain([UNSCHEDULABLE])
}

/// Those that a node has.
fn own_taints(node: &NodeView<'_>) -> Vec<&'static str> {
    let has = |taint: &&str| node.spec.taints.iter().any(|held| is_own(&held.key, &held.effect, taint));
    known_taints().filter(has).collect()
}

/// Whether its status and its taint say that its lease has expired. Who writes `Unknown` otherwise has reasons of its own.
fn is_noted_as_expired(node: &NodeView<'_>) -> bool {
    let is_tainted = node.spec.taints.iter().any(|taint| is_own(&taint.key, &taint.effect, UNREACHABLE));
    let ready = condition(&node.status.conditions, "Ready");
    is_tainted && ready.is_some_and(|ready| ready.status == "Unknown" && ready.reason == *REASON)
}

/// Those that it should have.
fn due_taints(node: &NodeView<'_>, has_expired: bool) -> Vec<&'static str> {
    let status = |r#type: &str| condition(&node.status.conditions, r#type).map(|condition| &*condition.status);
    let is_out_of_reach = has_expired || status("Ready") == Some("Unknown");
    let is_not_ready = match status("Ready") {
        Some("True" | "Unknown") => false,
        Some("False") => true,
        // A node that has not reported yet is what it was when it registered.
        _ => node.spec.taints.iter().any(|taint| is_own(&taint.key, &taint.effect, NOT_READY)),
    };
    let is_due = |taint: &&str| match *taint {
        NOT_READY => is_not_ready && !has_expired,
        UNREACHABLE => is_out_of_reach,
        UNSCHEDULABLE => node.spec.unschedulable,
        taint => BY_CONDITION.iter().any(|(r#type, one)| *one == taint && status(r#type) == Some("True")),
    };
    known_taints().filter(is_due).collect()
}

/// The taints of a node once it has those that are due, and of the others that it may have from here, none.
fn tainted(node: &Value, due: &[&str], now: Timestamp) -> Vec<Value> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let is = |held: &Value, taint: &str| is_own(&text(&held["key"]), &text(&held["effect"]), taint);
    let taints = node["spec"]["taints"].as_array();
    let stays = |held: &&Value| known_taints().all(|taint| !is(held, taint) || due.contains(&taint));
    let mut taints: Vec<Value> = taints.into_iter().flatten().filter(stays).cloned().collect();
    for taint in due {
        if !taints.iter().any(|held| is(held, taint)) {
            taints.push(json!({"key": taint, "effect": EFFECT, "timeAdded": seconds(now)}));
        }
    }
    taints
}

/// The node with its conditions unknown, as nobody reports them any more.
fn with_unknown_conditions(mut node: Value, now: Timestamp) -> Value {
    let mut conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    if !conditions.iter().any(|condition| condition["type"] == "Ready") {
        conditions.push(json!({"type": "Ready"}));
    }
    for condition in &mut conditions {
        if condition["status"] != "Unknown" {
            condition["lastTransitionTime"] = json!(seconds(now));
        }
        condition["status"] = json!("Unknown");
        condition["reason"] = json!(REASON);
        condition["message"] = json!("Kubelet stopped posting node status.");
    }
    node["status"]["conditions"] = conditions.into();
    node
}

#[cfg(test)]
mod tests;
