//! Pods that nobody places: there is no scheduler yet, and the pod itself says so.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::Context;
use crate::events::seconds;
use crate::kinds::Kind;
use crate::runtime::controller::ReconcileError;
use crate::runtime::{Event, Next, ObjectRef, Queue, Reconciler};
use crate::views::{PodView, condition};
use crate::writer::Target;

/// After a write that met another.
const CONFLICT_RETRY: Duration = Duration::from_millis(200);

const REASON: &str = "NoScheduler";
const MESSAGE: &str = "this hub places no pods by itself; set spec.nodeName, or use a DaemonSet";

/// The controller.
pub(crate) struct Pods {
    context: Context,
}

impl Pods {
    pub fn new(context: Context) -> Self {
        Self { context }
    }
}

impl Reconciler for Pods {
    type Key = (Box<str>, Box<str>);

    fn name(&self) -> &'static str {
        "pods"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Pod]
    }

    fn observe(&self, event: &Event, queue: &Queue<Self::Key>) {
        let concerns = |object: &&ObjectRef| object.view_or_log().is_some_and(|pod| is_unplaced(&pod));
        let key = |object: &ObjectRef| (object.namespace().into(), object.name().into());
        match event {
            Event::Listed(_, pods) => pods.iter().filter(concerns).for_each(|pod| queue.add(key(pod))),
            Event::Changed(change) => change.current.iter().filter(concerns).for_each(|pod| queue.add(key(pod))),
        }
    }

    async fn reconcile(&self, key: &Self::Key) -> Result<Next, ReconcileError> {
        let Some(object) = self.context.reader.get(Kind::Pod, &key.0, &key.1) else { return Ok(Next::OnChange) };
        let pod: PodView<'_> = object.view()?;
        if is_unplaced(&pod) {
            let condition = json!({
                "type": "PodScheduled", "status": "False", "reason": REASON, "message": MESSAGE,
                "lastTransitionTime": seconds(Timestamp::now()),
            });
            let status = json!({"phase": "Pending", "conditions": [condition]});
            let target = Target { namespace: &key.0, name: &key.1, uid: &pod.metadata.uid };
            if self.context.writer.merge_status_of(Kind::Pod, target, &status).await? {
                self.context.recorder.warning(Kind::Pod, target, "FailedScheduling", MESSAGE.to_owned());
            } else {
                return Ok(Next::After(CONFLICT_RETRY));
            }
        }
        Ok(Next::OnChange)
    }
}

/// Whether a pod waits for a node and does not say yet that none will come.
fn is_unplaced(pod: &PodView<'_>) -> bool {
    pod.spec.node_name.is_empty()
        && !pod.metadata.is_terminating()
        && condition(&pod.status.conditions, "PodScheduled").is_none()
}
