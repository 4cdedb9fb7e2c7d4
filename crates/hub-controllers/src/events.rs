//! Events: what a person sees under `kubectl describe`.
//!
//! Best effort by nature: they go through a bounded queue of their own, so a slow disk never holds a controller up.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::kinds::Kind;
use crate::writer::{WriteError, Writer};

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
            let mut recent = Recent::default();
            loop {
                let event = tokio::select! {
                    () = shutdown.cancelled() => return,
                    event = events_rx.recv() => event,
                };
                let Some(event) = event else { return };
                if let Err(error) = recent.write(event, &writer).await {
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

/// What an Event says: of which object (uid), why, and in which words.
type Saying = (String, String, String);

/// Events written lately: one that says the same again is counted and not written anew.
#[derive(Default)]
struct Recent {
    /// Namespace, name, and how often it was said.
    written: BTreeMap<Saying, (String, String, u64)>,
}

impl Recent {
    async fn write(&mut self, event: Value, writer: &Writer) -> Result<(), WriteError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let saying = (text(&event["involvedObject"]["uid"]), text(&event["reason"]), text(&event["message"]));
        if let Some((namespace, name, count)) = self.written.get_mut(&saying) {
            *count += 1;
            let again = json!({"count": *count, "lastTimestamp": event["lastTimestamp"]});
            if writer.merge(Kind::Event, (namespace, name), &again).await? {
                return Ok(());
            }
            // Events are not kept for long; this one begins anew.
            self.written.remove(&saying);
        }
        if self.written.len() >= QUEUE_LEN {
            self.written.clear();
        }
        let place = (text(&event["metadata"]["namespace"]), text(&event["metadata"]["name"]), 1);
        writer.create(Kind::Event, event).await?;
        self.written.insert(saying, place);
        Ok(())
    }
}

/// RFC 3339 to the second, as `metav1.Time` is written.
pub(crate) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
