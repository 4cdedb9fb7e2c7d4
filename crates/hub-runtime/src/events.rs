//! Events: what a person sees under `kubectl describe`.
//!
//! Best effort by nature: they go through a bounded queue of their own, so a slow disk never holds a controller up. An
//! object gets a burst of them and then few: a DaemonSet over a thousand nodes is not worth a thousand Events, and each
//! is a write like any other.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::kinds::{Kind, Resource};
use crate::writer::{Target, WriteError, Writer};

/// More than a rollout over a hundred nodes brings at once.
const QUEUE_LEN: usize = 512;
/// Events of one object at once, as upstream's correlator has it.
const BURST: u32 = 25;
/// Then one in this time.
const REFILL: Duration = Duration::from_secs(300);
/// Objects whose bursts are counted.
const BURSTS_MAX: usize = 4096;

/// Writes Events; clones share one queue.
#[derive(Clone)]
pub struct Recorder {
    events_tx: mpsc::Sender<Value>,
    bursts: Arc<Mutex<Bursts>>,
    component: &'static str,
}

/// Who records what no component of upstream's does.
const COMPONENT: &str = "selvedge-hub";

/// How many Events each object, by its uid, may still have, and since when.
#[derive(Default)]
struct Bursts(HashMap<String, (u32, Instant)>);

impl Bursts {
    fn take(&mut self, uid: &str, now: Instant) -> bool {
        if self.0.len() >= BURSTS_MAX && !self.0.contains_key(uid) {
            self.0.retain(|_, (_, since)| now.duration_since(*since) < REFILL);
            if self.0.len() >= BURSTS_MAX {
                self.0.clear();
            }
        }
        let (left, since) = self.0.entry(uid.to_owned()).or_insert((BURST, now));
        let refilled = u32::try_from(now.duration_since(*since).as_secs() / REFILL.as_secs()).unwrap_or(BURST);
        if refilled > 0 {
            *left = left.saturating_add(refilled).min(BURST);
            *since = now;
        }
        let may = *left > 0;
        *left = left.saturating_sub(1);
        may
    }
}

impl Recorder {
    /// Makes the recorder and the task that writes; the caller spawns the task.
    pub fn new(writer: Writer, shutdown: CancellationToken) -> (Self, impl Future<Output = ()>) {
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
                    debug!(error = %base_observe::Chain(&error), "An Event was not written.");
                }
            }
        };
        (Self { events_tx, bursts: Arc::default(), component: COMPONENT }, task)
    }

    /// The same recorder for one component, by the name that it has upstream.
    pub fn of(&self, component: &'static str) -> Self {
        Self { component, ..self.clone() }
    }

    /// Something that should happen has happened.
    pub fn normal(&self, kind: impl Into<Resource>, object: Target<'_>, reason: &str, message: String) {
        self.record(&kind.into(), object, "Normal", reason, message);
    }

    /// Something that a person should look at.
    pub fn warning(&self, kind: impl Into<Resource>, object: Target<'_>, reason: &str, message: String) {
        self.record(&kind.into(), object, "Warning", reason, message);
    }

    fn record(&self, kind: &Resource, object: Target<'_>, r#type: &str, reason: &str, message: String) {
        if !self.bursts.lock().take(object.uid, Instant::now()) {
            return;
        }
        let namespace = if object.namespace.is_empty() { "default" } else { object.namespace };
        let now = Timestamp::now();
        let mut involved = json!({"apiVersion": kind.resource().api_version, "kind": kind.name(), "name": object.name, "uid": object.uid});
        if !object.namespace.is_empty() {
            involved["namespace"] = object.namespace.into();
        }
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": format!("{}.{:x}", object.name, now.as_nanosecond()), "namespace": namespace},
            "involvedObject": involved,
            "reason": reason,
            "message": message,
            "type": r#type,
            "count": 1,
            "firstTimestamp": seconds(now),
            "lastTimestamp": seconds(now),
            "source": {"component": self.component},
            "reportingComponent": self.component,
            "reportingInstance": "",
        });
        if self.events_tx.try_send(event).is_err() {
            debug!(reason, "The queue of Events is full; one is left out.");
        }
    }
}

/// What an Event says: of which object (uid), why, and in which words.
type Content = (String, String, String);

/// Events written lately: one that says the same again is counted and not written anew.
#[derive(Default)]
struct Recent {
    /// Namespace, name, and how often it was said.
    written: BTreeMap<Content, (String, String, u64)>,
}

impl Recent {
    async fn write(&mut self, event: Value, writer: &Writer) -> Result<(), WriteError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let content = (text(&event["involvedObject"]["uid"]), text(&event["reason"]), text(&event["message"]));
        if let Some((namespace, name, count)) = self.written.get_mut(&content) {
            *count += 1;
            let again = json!({"count": *count, "lastTimestamp": event["lastTimestamp"]});
            if writer.merge(Kind::Event, (namespace, name), &again).await? {
                return Ok(());
            }
            // Events are not kept for long; this one begins anew.
            self.written.remove(&content);
        }
        if self.written.len() >= QUEUE_LEN {
            self.written.clear();
        }
        let written = (text(&event["metadata"]["namespace"]), text(&event["metadata"]["name"]), 1);
        writer.create(Kind::Event, event).await?;
        self.written.insert(content, written);
        Ok(())
    }
}

/// RFC 3339 to the second, as `metav1.Time` is written.
pub fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_gets_a_burst_of_events_and_then_few() {
        let (mut bursts, now) = (Bursts::default(), Instant::now());
        assert_eq!((0..100).filter(|_| bursts.take("a", now)).count(), 25);
        assert!(bursts.take("b", now));
        assert!(!bursts.take("a", now + REFILL - Duration::from_secs(1)));
        assert!(bursts.take("a", now + REFILL));
        assert!(!bursts.take("a", now + REFILL));
    }
}
