//! Events: what a person sees under `kubectl describe`.
//!
//! Best effort by nature: they go through a bounded queue of their own, so a slow disk never holds a controller up.

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::kinds::Kind;
use crate::writer::Writer;

/// More than a rollout over a hundred nodes brings at once.
const QUEUE_LEN: usize = 512;

/// Writes Events; clones share one queue.
#[derive(Clone)]
pub(crate) struct Recorder {
    events_tx: mpsc::Sender<Value>,
}

impl Recorder {
    /// Makes the recorder and the task that writes; the caller spawns the task.
    pub(crate) fn new(writer: Writer, shutdown: CancellationToken) -> (Self, impl Future<Output = ()>) {
        let (events_tx, mut events_rx) = mpsc::channel::<Value>(QUEUE_LEN);
        let task = async move {
            loop {
                let event = tokio::select! {
                    () = shutdown.cancelled() => return,
                    event = events_rx.recv() => event,
                };
                let Some(event) = event else { return };
                if let Err(error) = writer.create_event(event).await {
                    debug!(%error, "An Event was not written.");
                }
            }
        };
        (Self { events_tx }, task)
    }

    /// Something that should happen has happened.
    pub(crate) fn normal(&self, kind: Kind, object: &Value, reason: &str, message: String) {
        self.record(kind, object, "Normal", reason, message);
    }

    /// Something that a person should look at.
    pub(crate) fn warning(&self, kind: Kind, object: &Value, reason: &str, message: String) {
        self.record(kind, object, "Warning", reason, message);
    }

    fn record(&self, kind: Kind, object: &Value, r#type: &str, reason: &str, message: String) {
        let metadata = &object["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or("default");
        let now = Timestamp::now();
        let resource = kind.resource();
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": format!("{}.{:x}", metadata["name"].as_str().unwrap_or_default(), now.as_nanosecond()),
                "namespace": namespace,
            },
            "involvedObject": {
                "apiVersion": resource.api_version, "kind": kind.name(), "name": metadata["name"],
                "namespace": metadata["namespace"], "uid": metadata["uid"],
            },
            "reason": reason,
            "message": message,
            "type": r#type,
            "count": 1,
            "firstTimestamp": seconds(now),
            "lastTimestamp": seconds(now),
            "source": {"component": "selvedge-hub"},
            "reportingComponent": "selvedge-hub",
            "reportingInstance": "",
        });
        if self.events_tx.try_send(event).is_err() {
            debug!(reason, "The queue of Events is full; one is left out.");
        }
    }
}

/// RFC 3339 to the second, as `metav1.Time` is written.
pub(crate) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
