//! Pods that nobody places: there is no scheduler yet, and the pod itself says so.
//!
//! Somebody else's scheduler may: it has a while to bind a pod before anything is written to it, which would be a write for
//! each pod and a conflict for whoever has just read it.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use hub_runtime::Context;
use hub_runtime::ReconcileError;
use hub_runtime::events::seconds;
use hub_runtime::kinds::Kind;
use hub_runtime::views::{PodView, condition};
use hub_runtime::writer::Target;
use hub_runtime::{Event, Next, ObjectRef, Queue, Reconciler};

/// After a write that met another.
const CONFLICT_RETRY: Duration = Duration::from_millis(200);
/// A scheduler that is there places a pod in far less.
const PLACED_WITHIN: Duration = Duration::from_secs(5);

const REASON: &str = "NoScheduler";
const MESSAGE: &str = "this hub places no pods by itself; set spec.nodeName, or use a DaemonSet";
/// What more keeps a pod of another class from running anywhere.
const NO_RUNTIME: &str = "; and no node has a runtime of its class: leave spec.runtimeClassName out for images, or set it to selvedge-process or selvedge-wasm";

/// The controller.
pub(crate) struct Pods {
    context: Context,
    /// Pods that wait for a scheduler: their uids, and since when. An entry is dropped when its pod is looked at and waits no
    /// more, which each is when its time is over.
    waiting: Mutex<HashMap<Key, (Box<str>, Instant)>>,
}

/// Namespace and name.
type Key = (Box<str>, Box<str>);

impl Pods {
    pub fn new(context: Context) -> Self {
        Self { context, waiting: Mutex::default() }
    }

    /// For how long a pod that is not placed may still be.
    fn time_left(&self, key: &Key, uid: &str, now: Instant) -> Duration {
        let mut waiting = self.waiting.lock();
        let (held, since) = waiting.entry(key.clone()).or_insert_with(|| (uid.into(), now));
        if **held != *uid {
            // Another one of its name.
            (*held, *since) = (uid.into(), now);
        }
        PLACED_WITHIN.saturating_sub(now.duration_since(*since))
    }
}

impl Reconciler for Pods {
    type Key = Key;

    fn name(&self) -> &'static str {
        "pods"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Pod]
    }

    fn observe(&self, event: &Event, queue: &Queue<Self::Key>) {
        let key = |object: &ObjectRef| (object.namespace().into(), object.name().into());
        let current = match event {
            Event::Listed(_, pods) => &pods[..],
            Event::Changed(change) => change.current.as_slice(),
        };
        current.iter().filter(|pod| concerns(pod)).for_each(|pod| queue.add(key(pod)));
    }

    async fn reconcile(&self, key: &Self::Key) -> Result<Next, ReconcileError> {
        let Context { reader, writer, recorder } = &self.context;
        let object = reader.get(Kind::Pod, &key.0, &key.1).filter(concerns);
        let Some(object) = object else {
            self.waiting.lock().remove(key);
            return Ok(Next::OnChange);
        };
        let pod: PodView<'_> = object.view()?;
        let left = self.time_left(key, &pod.metadata.uid, Instant::now());
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        let value = object.value()?;
        let message = message(&value);
        let patch = unscheduled(&value, &message, Timestamp::now());
        if !writer.patch_status(Kind::Pod, (&key.0, &key.1), &patch).await? {
            return Ok(Next::After(CONFLICT_RETRY));
        }
        let target = Target { namespace: &key.0, name: &key.1, uid: &pod.metadata.uid };
        recorder.warning(Kind::Pod, target, "FailedScheduling", message);
        self.waiting.lock().remove(key);
        Ok(Next::OnChange)
    }
}

/// A patch of the pod as it was read: it may be placed in this moment.
fn unscheduled(pod: &Value, message: &str, now: Timestamp) -> Value {
    let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.push(json!({
        "type": "PodScheduled", "status": "False", "reason": REASON, "message": message, "lastTransitionTime": seconds(now),
    }));
    let metadata = &pod["metadata"];
    json!({
        "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
        "status": {"phase": "Pending", "conditions": conditions},
    })
}

/// Why a pod is not placed, and what its author can do.
fn message(pod: &Value) -> String {
    let class = pod["spec"]["runtimeClassName"].as_str().unwrap_or_default();
    let is_ours = ["", api_edge::RUNTIME_CLASS_PROCESS, api_edge::RUNTIME_CLASS_WASM].contains(&class);
    format!("{MESSAGE}{}", if is_ours { "" } else { NO_RUNTIME })
}

fn concerns(object: &ObjectRef) -> bool {
    object.view_or_log::<PodView<'_>>().is_some_and(|pod| is_unplaced(&pod))
}

/// Whether a pod waits for a node and does not say yet that none will come.
fn is_unplaced(pod: &PodView<'_>) -> bool {
    pod.spec.node_name.is_empty()
        && !pod.metadata.is_terminating()
        && condition(&pod.status.conditions, "PodScheduled").is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestApi;

    fn pod(name: &str) -> Value {
        let container = json!({"name": "main", "image": "file:///bin/true"});
        let spec = json!({"runtimeClassName": "selvedge-process", "containers": [container]});
        json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})
    }

    #[test]
    fn a_pod_that_no_node_could_run_says_that_too() {
        assert_eq!(message(&pod("of-ours")), MESSAGE);
        let of_class = |class: &str| json!({"spec": {"runtimeClassName": class, "containers": [{"name": "main", "image": "nginx"}]}});
        assert_eq!(message(&of_class("")), MESSAGE);
        assert!(message(&of_class("runsc")).ends_with("or set it to selvedge-process or selvedge-wasm"));
    }

    /// As if it had waited for so long.
    fn pass(pods: &Pods, time: Duration) {
        for (_, since) in pods.waiting.lock().values_mut() {
            *since = since.checked_sub(time).unwrap();
        }
    }

    #[tokio::test]
    async fn a_scheduler_has_its_time_before_a_pod_says_that_there_is_none() {
        let api = TestApi::start().await;
        let pods = Pods::new(api.context.clone());
        let key = |name: &str| ("default".into(), name.into());
        for name in ["placed", "nobodys"] {
            api.make(Kind::Pod, pod(name)).await;
            let Next::After(left) = pods.reconcile(&key(name)).await.unwrap() else {
                panic!("{name} is looked at again")
            };
            assert!(left > PLACED_WITHIN / 2, "{left:?}");
        }
        let before = api.find(Kind::Pod, "default", "nobodys").await.unwrap();
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "placed"},
            "target": {"apiVersion": "v1", "kind": "Node", "name": "gw-1"},
        });
        let request = http::Request::post("/api/v1/namespaces/default/pods/placed/binding")
            .header("content-type", "application/json")
            .body(binding.to_string().into_bytes())
            .unwrap();
        api.context.writer.client().request::<Value>(request).await.unwrap();
        pass(&pods, PLACED_WITHIN);
        assert_eq!(pods.reconcile(&key("placed")).await.unwrap(), Next::OnChange);
        let placed = api.find(Kind::Pod, "default", "placed").await.unwrap();
        assert_eq!(placed["status"]["conditions"][0]["status"], "True", "{placed}");
        assert_eq!(api.find(Kind::Pod, "default", "nobodys").await.unwrap(), before, "nothing was written");
        assert_eq!(pods.reconcile(&key("nobodys")).await.unwrap(), Next::OnChange);
        let nobodys = api.find(Kind::Pod, "default", "nobodys").await.unwrap();
        assert_eq!(nobodys["status"]["conditions"][0]["reason"], REASON, "{nobodys}");
        assert!(pods.waiting.lock().is_empty(), "nothing is kept of pods that were looked at");
    }

    #[tokio::test]
    async fn a_pod_of_the_same_name_has_its_own_time() {
        let api = TestApi::start().await;
        let (pods, key) = (Pods::new(api.context.clone()), ("default".into(), "alone".into()));
        let first = api.make(Kind::Pod, pod("alone")).await;
        pods.reconcile(&key).await.unwrap();
        pass(&pods, PLACED_WITHIN);
        api.context.writer.delete(Kind::Pod, &first, Some(0)).await.unwrap();
        api.make(Kind::Pod, pod("alone")).await;
        assert!(matches!(pods.reconcile(&key).await.unwrap(), Next::After(_)));
    }
}
