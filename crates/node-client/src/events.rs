//! Events for `kubectl describe`: best effort, rate-limited, never in the way of work.
//!
//! The same event about the same thing is one object whose count grows. A node that crash-loops a pod offline keeps a bounded number
//! of them and sends the newest when the hub is back.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{ApiClient, ApiError, Patch, seconds};

/// Events waiting for the hub; the oldest are dropped first.
const QUEUE_MAX: usize = 128;
/// Distinct events that are remembered to count repetitions.
const REMEMBERED_MAX: usize = 256;
/// One event per this on average: a link for a fleet is not a debugger.
const PACE: Duration = Duration::from_millis(500);

/// What an event is about and what it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// `involvedObject`.
    pub about: Value,
    /// Where the event is kept.
    pub namespace: String,
    /// Whether a person should look.
    pub warning: bool,
    /// One word in CamelCase.
    pub reason: Cow<'static, str>,
    /// A sentence.
    pub message: String,
}

/// Where events are dropped off. Full: the event is lost, which is what best effort means.
#[derive(Clone, Debug)]
pub struct EventRecorder(mpsc::Sender<Recorded>);

/// What was recorded, for [`send_events`].
pub type EventSink = mpsc::Receiver<Recorded>;

/// A recorder and its sink.
pub fn event_recorder() -> (EventRecorder, EventSink) {
    let (tx, rx) = mpsc::channel(QUEUE_MAX);
    (EventRecorder(tx), rx)
}

impl EventRecorder {
    /// Records an event.
    pub fn emit(&self, event: Recorded) {
        let _ = self.0.try_send(event);
    }

    /// Records an event about the Node.
    pub fn node(&self, node: &str, warning: bool, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) {
        let about = json!({"kind": "Node", "apiVersion": "v1", "name": node, "uid": node});
        self.emit(Recorded {
            about,
            namespace: "default".to_owned(),
            warning,
            reason: reason.into(),
            message: message.into(),
        });
    }
}

/// What is remembered of an event that the hub has.
#[derive(Clone, Debug)]
struct Published {
    name: String,
    count: u64,
}

/// Sends events until `shutdown`.
pub async fn send_events(mut client: ApiClient, node: String, sink: &mut EventSink, shutdown: CancellationToken) {
    let mut queue: VecDeque<(Recorded, Timestamp)> = VecDeque::new();
    let mut published: BTreeMap<String, Published> = BTreeMap::new();
    loop {
        if queue.is_empty() {
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = sink.recv() => match event {
                    Some(event) => queue.push_back((event, Timestamp::now())),
                    None => return,
                },
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = client.connected() => {}
            event = sink.recv() => {
                if let Some(event) = event {
                    queue.push_back((event, Timestamp::now()));
                    if queue.len() > QUEUE_MAX {
                        queue.pop_front();
                    }
                }
                continue;
            }
        }
        let Some((event, at)) = queue.pop_front() else { continue };
        if let Err(error) = send(&client, &node, &event, at, &mut published).await {
            debug!(%error, reason = %event.reason, "An event did not reach the hub.");
            if error.is_outage() {
                queue.push_front((event, at));
            }
        }
        if published.len() > REMEMBERED_MAX {
            published.clear();
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PACE) => {}
        }
    }
}

async fn send(
    client: &ApiClient,
    node: &str,
    event: &Recorded,
    at: Timestamp,
    published: &mut BTreeMap<String, Published>,
) -> Result<(), ApiError> {
    let key = format!("{}\n{}\n{}", event.about, event.reason, event.message);
    let path = format!("/api/v1/namespaces/{}/events", event.namespace);
    if let Some(known) = published.get_mut(&key) {
        let patch = json!({"count": known.count + 1, "lastTimestamp": seconds(at)});
        match client.patch(&format!("{path}/{}", known.name), Patch::Merge, &patch).await {
            Ok(_) => {
                known.count += 1;
                return Ok(());
            }
            // Events expire at the hub; then it is a new one.
            Err(error) if error.code() == Some(404) => {}
            Err(error) => return Err(error),
        }
    }
    let id = uuid::Uuid::new_v4().simple().to_string();
    let name = format!("{}.{}", event.about["name"].as_str().unwrap_or(node), &id[..16]);
    let object = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": event.namespace},
        "involvedObject": event.about,
        "type": if event.warning { "Warning" } else { "Normal" },
        "reason": event.reason, "message": event.message, "count": 1,
        "firstTimestamp": seconds(at), "lastTimestamp": seconds(at),
        "source": {"component": "kubelet", "host": node},
        "reportingComponent": "kubelet", "reportingInstance": node,
    });
    client.create(&path, &object).await?;
    published.insert(key, Published { name, count: 1 });
    Ok(())
}
