//! Events for `kubectl describe`: best effort, rate-limited, never in the way of work.
//!
//! The same event about the same thing is one object whose count grows. A node that crash-loops a pod offline keeps a
//! bounded number of them and tells the newest when the hub is back.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::hub::{Hub, Patch};
use crate::pods::model::Pod;
use crate::pods::status::seconds;

/// Events waiting for the hub; the oldest go first.
const QUEUE_MAX: usize = 128;
/// Distinct events that are remembered to count repetitions.
const REMEMBERED_MAX: usize = 256;
/// One event per this on average: a link for a fleet is not a debugger.
const PACE: Duration = Duration::from_millis(500);

/// What an event is about and what it says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Note {
    /// `involvedObject`.
    pub about: Value,
    pub namespace: String,
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

/// Where events are dropped off. Full: the event is lost, which is what best effort means.
#[derive(Clone, Debug)]
pub(crate) struct Events(mpsc::Sender<Note>);

/// A recorder, and what it recorded, for [`run`].
pub(crate) fn events() -> (Events, mpsc::Receiver<Note>) {
    let (tx, rx) = mpsc::channel(QUEUE_MAX);
    (Events(tx), rx)
}

impl Events {
    pub(crate) fn pod(&self, pod: &Pod, container: Option<&str>, reason: &'static str, message: impl Into<String>) {
        self.about_pod(pod, container, false, reason, message.into());
    }

    pub(crate) fn pod_warning(
        &self,
        pod: &Pod,
        container: Option<&str>,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.about_pod(pod, container, true, reason, message.into());
    }

    pub(crate) fn node(&self, node: &str, reason: &'static str, message: impl Into<String>) {
        let about = json!({"kind": "Node", "apiVersion": "v1", "name": node, "uid": node});
        let note = Note { about, namespace: "default".to_owned(), warning: false, reason, message: message.into() };
        let _ = self.0.try_send(note);
    }

    fn about_pod(&self, pod: &Pod, container: Option<&str>, warning: bool, reason: &'static str, message: String) {
        let mut about = json!({
            "kind": "Pod", "apiVersion": "v1", "name": pod.metadata.name, "namespace": pod.metadata.namespace,
            "uid": pod.metadata.uid,
        });
        if let Some(container) = container {
            let list = if pod.spec.init_containers.iter().any(|c| c.name == container) {
                "initContainers"
            } else {
                "containers"
            };
            about["fieldPath"] = format!("spec.{list}{{{container}}}").into();
        }
        let note = Note { about, namespace: pod.metadata.namespace.clone(), warning, reason, message };
        let _ = self.0.try_send(note);
    }
}

/// What is remembered of an event that the hub has.
#[derive(Clone, Debug)]
struct Told {
    name: String,
    count: u64,
}

/// Sends events until `shutdown`.
pub(crate) async fn run(mut hub: Hub, node: String, mut notes: mpsc::Receiver<Note>, shutdown: CancellationToken) {
    let mut queue: VecDeque<(Note, Timestamp)> = VecDeque::new();
    let mut told: BTreeMap<String, Told> = BTreeMap::new();
    loop {
        if queue.is_empty() {
            tokio::select! {
                () = shutdown.cancelled() => return,
                note = notes.recv() => match note {
                    Some(note) => queue.push_back((note, Timestamp::now())),
                    None => return,
                },
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = hub.connected() => {}
            note = notes.recv() => {
                if let Some(note) = note {
                    queue.push_back((note, Timestamp::now()));
                    if queue.len() > QUEUE_MAX {
                        queue.pop_front();
                    }
                }
                continue;
            }
        }
        let Some((note, at)) = queue.pop_front() else { continue };
        if let Err(error) = tell(&hub, &node, &note, at, &mut told).await {
            debug!(%error, reason = note.reason, "An event did not reach the hub.");
            if error.is_outage() {
                queue.push_front((note, at));
            }
        }
        if told.len() > REMEMBERED_MAX {
            told.clear();
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PACE) => {}
        }
    }
}

async fn tell(
    hub: &Hub,
    node: &str,
    note: &Note,
    at: Timestamp,
    told: &mut BTreeMap<String, Told>,
) -> Result<(), crate::hub::HubError> {
    let key = format!("{}\n{}\n{}", note.about, note.reason, note.message);
    let path = format!("/api/v1/namespaces/{}/events", note.namespace);
    if let Some(known) = told.get_mut(&key) {
        let patch = json!({"count": known.count + 1, "lastTimestamp": seconds(at)});
        match hub.patch(&format!("{path}/{}", known.name), Patch::Merge, &patch).await {
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
    let name = format!("{}.{}", note.about["name"].as_str().unwrap_or(node), &id[..16]);
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": note.namespace},
        "involvedObject": note.about,
        "type": if note.warning { "Warning" } else { "Normal" },
        "reason": note.reason, "message": note.message, "count": 1,
        "firstTimestamp": seconds(at), "lastTimestamp": seconds(at),
        "source": {"component": "kubelet", "host": node},
        "reportingComponent": "kubelet", "reportingInstance": node,
    });
    hub.create(&path, &event).await?;
    told.insert(key, Told { name, count: 1 });
    Ok(())
}
