//! Pods that no kubelet answers for, as upstream's pod garbage collector: those of nodes that do not exist, those that
//! were deleted before anyone placed them, and the oldest of very many that have ended.
//!
//! A node that is only out of reach exists: its pods are left alone. One that does not exist may join in a moment, or again: each
//! pod has its time from when it was first seen without its node, whether somebody deletes it meanwhile or not.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::info;

use hub_runtime::Context;
use hub_runtime::ReconcileError;
use hub_runtime::batch::slow_start;
use hub_runtime::events::seconds;
use hub_runtime::kinds::Kind;
use hub_runtime::views::PodView;
use hub_runtime::writer::{Target, WriteError, Writer};
use hub_runtime::{Event, Field, Next, ObjectRef, Queue, Reconciler};

/// A node that joins, or is deleted and joins again, has its pods if it does so within this time.
const QUARANTINE: Duration = Duration::from_secs(40);
/// After a write that met another.
const CONFLICT_RETRY: Duration = Duration::from_millis(200);
/// So many pods that have ended are kept for people to look at.
const ENDED_PODS_MAX: usize = 12_500;

/// What is looked at alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    /// Namespace and name.
    Pod(Box<str>, Box<str>),
    /// All pods that have ended.
    Ended,
}

/// The controller.
pub(crate) struct PodGc {
    context: Context,
    ended_max: usize,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    /// Since when pods are known to be on nodes that do not exist.
    orphaned: HashMap<Name, Instant>,
    /// Pods that have ended and are not on their way out, and when they were created.
    ended: HashMap<Name, Timestamp>,
}

/// Namespace and name.
type Name = (Box<str>, Box<str>);

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A kubelet, or nobody yet, is in charge.
    Keep,
    /// It was deleted before it had a node.
    DeleteUnplaced,
    /// Its node does not exist and will not confirm its end.
    DeleteOrphaned,
    /// Its node does not exist; it may come back.
    Quarantine,
}

/// Decides about one pod.
pub(crate) fn judge(pod: &PodView<'_>, node_exists: bool, absent_for: Duration) -> Verdict {
    let is_terminating = pod.metadata.is_terminating();
    match (pod.spec.node_name.is_empty(), node_exists) {
        (true, _) if is_terminating => Verdict::DeleteUnplaced,
        (true, _) | (false, true) => Verdict::Keep,
        (false, false) if absent_for >= QUARANTINE => Verdict::DeleteOrphaned,
        (false, false) => Verdict::Quarantine,
    }
}

impl PodGc {
    pub fn new(context: Context) -> Self {
        Self { context, ended_max: ENDED_PODS_MAX, memory: Mutex::default() }
    }

    fn observe_pod(&self, object: &ObjectRef, queue: &Queue<Key>) {
        let Some(pod) = object.view_or_log::<PodView<'_>>() else { return };
        let name = name_of(object);
        {
            let mut memory = self.memory.lock();
            if pod.has_ended() && !pod.metadata.is_terminating() {
                memory.ended.insert(name, pod.metadata.created());
                if memory.ended.len() > self.ended_max {
                    queue.add(Key::Ended);
                }
            } else {
                memory.ended.remove(&name);
            }
        }
        let exists = self.context.reader.get(Kind::Node, "", &pod.spec.node_name).is_some();
        if judge(&pod, exists, Duration::ZERO) != Verdict::Keep {
            queue.add(Key::Pod(object.namespace().into(), object.name().into()));
        }
    }

    async fn reconcile_pod(&self, namespace: &str, name: &str) -> Result<Next, ReconcileError> {
        let Context { reader, writer, clock, .. } = &self.context;
        let key: Name = (namespace.into(), name.into());
        let Some(object) = reader.get(Kind::Pod, namespace, name) else {
            self.memory.lock().orphaned.remove(&key);
            return Ok(Next::OnChange);
        };
        let pod: PodView<'_> = object.view()?;
        let node = &*pod.spec.node_name;
        let exists = !node.is_empty() && reader.get(Kind::Node, "", node).is_some();
        let absent_for = match (exists, node.is_empty()) {
            (false, false) => {
                let now = Instant::now();
                now.duration_since(*self.memory.lock().orphaned.entry(key.clone()).or_insert(now))
            }
            _ => {
                self.memory.lock().orphaned.remove(&key);
                Duration::ZERO
            }
        };
        match judge(&pod, exists, absent_for) {
            Verdict::Keep => {}
            Verdict::Quarantine => return Ok(Next::After(QUARANTINE.saturating_sub(absent_for))),
            Verdict::DeleteUnplaced => {
                // What counts it by its end, and holds it with a finalizer until then, would wait for ever.
                if !pod.has_ended() && !fail(&object, None, writer).await? {
                    return Ok(Next::After(CONFLICT_RETRY));
                }
                self.delete(&object, &pod).await?;
            }
            Verdict::DeleteOrphaned => {
                // The API itself is asked before the pod goes: a reader may be behind a node that has just joined.
                if writer.get_now(Kind::Node, ("", node)).await?.is_some() {
                    self.memory.lock().orphaned.remove(&key);
                    return Ok(Next::After(QUARANTINE));
                }
                let disrupted = json!({
                    "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                    "message": "PodGC: node no longer exists", "lastTransitionTime": seconds(clock.now()),
                });
                if !pod.has_ended() && !fail(&object, Some(disrupted), writer).await? {
                    return Ok(Next::After(CONFLICT_RETRY));
                }
                self.delete(&object, &pod).await?;
                info!(pod = %format_args!("{namespace}/{name}"), node, "Deleted a pod of a node that does not exist.");
            }
        }
        Ok(Next::OnChange)
    }

    async fn delete(&self, object: &ObjectRef, pod: &PodView<'_>) -> Result<(), WriteError> {
        let target = Target { namespace: object.namespace(), name: object.name(), uid: &pod.metadata.uid };
        self.context.writer.delete_target(Kind::Pod, target, Some(0), None).await.map(|_| ())
    }

    /// Deletes the oldest of too many pods that have ended.
    async fn reconcile_ended(&self) -> Result<Next, ReconcileError> {
        let mut ended: Vec<(Timestamp, Box<str>, Box<str>)> = {
            let memory = self.memory.lock();
            memory.ended.iter().map(|((namespace, name), time)| (*time, namespace.clone(), name.clone())).collect()
        };
        ended.sort();
        ended.truncate(ended.len().saturating_sub(self.ended_max));
        let deleted = slow_start(ended, |(_, namespace, name)| {
            let object = self.context.reader.get(Kind::Pod, &namespace, &name);
            let writer: Writer = self.context.writer.clone();
            async move {
                let Some(object) = object else { return Ok(()) };
                let Some(pod) = object.view_or_log::<PodView<'_>>().filter(PodView::has_ended) else { return Ok(()) };
                let target = Target { namespace: &namespace, name: &name, uid: &pod.metadata.uid };
                writer.delete_target(Kind::Pod, target, Some(0), None).await.map(|_| ())
            }
        })
        .await;
        match deleted.error {
            Some(error) => Err(WriteError::into(error)),
            None => Ok(Next::OnChange),
        }
    }
}

fn name_of(pod: &ObjectRef) -> Name {
    (pod.namespace().into(), pod.name().into())
}

/// The pod has failed before it goes, and says why where there is something to say, for those who watch it; whether it is still
/// this one.
async fn fail(object: &ObjectRef, disrupted: Option<Value>, writer: &Writer) -> Result<bool, WriteError> {
    let Ok(pod) = object.value() else { return Ok(true) };
    let mut status = json!({"phase": "Failed"});
    if let Some(disrupted) = disrupted {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let others = conditions.into_iter().filter(|condition| condition["type"] != disrupted["type"]);
        status["conditions"] = others.chain([disrupted.clone()]).collect();
    }
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let target = Target { namespace: object.namespace(), name: object.name(), uid };
    writer.merge_status_of(Kind::Pod, target, &status).await
}

impl Reconciler for PodGc {
    type Key = Key;

    fn name(&self) -> &'static str {
        "podgc"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Pod, Kind::Node]
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        match event {
            Event::Listed(Kind::Pod, pods) => {
                self.memory.lock().ended.clear();
                pods.iter().for_each(|pod| self.observe_pod(pod, queue));
            }
            Event::Listed(_, _) => {
                self.context.reader.list(Kind::Pod, None).for_each(|pod| self.observe_pod(&pod, queue));
            }
            Event::Changed(change) => match (change.kind, &change.previous, &change.current) {
                (Kind::Pod, _, Some(pod)) => self.observe_pod(pod, queue),
                (Kind::Pod, Some(pod), None) => {
                    let (key, mut memory) = (name_of(pod), self.memory.lock());
                    memory.ended.remove(&key);
                    memory.orphaned.remove(&key);
                }
                (Kind::Node, previous, current) if previous.is_none() || current.is_none() => {
                    // It was there until now, or is from now on: what was noted before says nothing.
                    for pod in self.context.reader.by_field(Kind::Pod, Field::NodeName, change.newest().name()) {
                        self.memory.lock().orphaned.remove(&name_of(&pod));
                        self.observe_pod(&pod, queue);
                    }
                }
                _ => {}
            },
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        match key {
            Key::Pod(namespace, name) => self.reconcile_pod(namespace, name).await,
            Key::Ended => self.reconcile_ended().await,
        }
    }
}

#[cfg(test)]
mod tests;
