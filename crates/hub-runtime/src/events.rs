//! Events: what a person sees under `kubectl describe`.
//!
//! Best effort by nature: they wait in a queue of their own, bounded by its bytes, so a slow disk never holds a controller up. An
//! object gets a burst of them and then few: a DaemonSet over a thousand nodes is not worth a thousand Events, and each
//! is a write like any other.
//!
//! ```text
//!            by the object's uid   ┌─▶ lane 1 ──one write at a time──▶ API
//! record ──▶ bytes left? ──────────┼─▶ …
//!              └ no: dropped       └─▶ lane 8
//! ```
//!
//! All Events of one object take one lane, so they are written in their order and what was written of it lately is known there. Few
//! lanes leave the API to those who have work to do: what waits is written once they are done.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base_observe::{Metrics, Sample, SampleKind};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::clock::WallClock;
use crate::kinds::{Kind, Resource};
use crate::writer::{Target, WriteError, Writer};

/// Writes in flight.
const LANES: usize = 8;
/// What may wait: the Events of 10,000 pods that get their nodes within seconds, of some 400 bytes each.
const WAITING_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// What one takes beside its texts.
const ENTRY_BYTES: usize = 192;
/// Events of one object at once, as upstream's correlator has it.
const BURST: u32 = 25;
/// Then one in this time.
const REFILL: Duration = Duration::from_secs(300);
/// Objects whose bursts are counted.
const BURSTS_MAX: usize = 4096;
/// Events that one lane remembers, up to twice.
const RECENT_MAX: usize = 64;

/// Writes Events; clones share one queue.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
    component: &'static str,
    clock: WallClock,
}

struct Shared {
    lanes: Vec<UnboundedSender<Waiting>>,
    /// Bytes that are left.
    budget: Arc<Semaphore>,
    bursts: Mutex<Bursts>,
    dropped: AtomicU64,
    /// Chooses lanes.
    hashes: RandomState,
}

/// Who records what no component of upstream's does.
const COMPONENT: &str = "selvedge-hub";

/// An Event that is to be written.
struct Waiting {
    resource: Resource,
    namespace: Box<str>,
    name: Box<str>,
    uid: Box<str>,
    r#type: &'static str,
    reason: Box<str>,
    message: Box<str>,
    component: &'static str,
    at: Timestamp,
    /// Its bytes of the budget, until it is written.
    _bytes: OwnedSemaphorePermit,
}

impl Waiting {
    /// Events are in namespaces, those of objects that are in none, too.
    fn event_namespace(&self) -> &str {
        if self.namespace.is_empty() { "default" } else { &self.namespace }
    }

    /// A name that no other Event has.
    fn event_name(&self) -> String {
        format!("{}.{:x}", self.name, self.at.as_nanosecond())
    }

    fn encode(&self, name: &str) -> Vec<u8> {
        let mut involved = json!({
            "apiVersion": self.resource.resource().api_version, "kind": self.resource.name(), "name": self.name, "uid": self.uid,
        });
        if !self.namespace.is_empty() {
            involved["namespace"] = (*self.namespace).into();
        }
        let at = seconds(self.at);
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": self.event_namespace()},
            "involvedObject": involved,
            "reason": self.reason,
            "message": self.message,
            "type": self.r#type,
            "count": 1,
            "firstTimestamp": at,
            "lastTimestamp": at,
            "source": {"component": self.component},
            "reportingComponent": self.component,
            "reportingInstance": "",
        });
        event.to_string().into_bytes()
    }
}

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
    pub fn new(writer: Writer, clock: WallClock, shutdown: CancellationToken) -> (Self, impl Future<Output = ()>) {
        let (recorder, lanes) = Self::with_lanes(WAITING_BYTES_MAX, clock);
        let lanes = lanes.into_iter().map(move |lane| write_lane(lane, writer.clone(), shutdown.clone()));
        let task = futures::future::join_all(lanes);
        (recorder, async move { drop(task.await) })
    }

    fn with_lanes(bytes_max: u32, clock: WallClock) -> (Self, Vec<UnboundedReceiver<Waiting>>) {
        // Their lengths have no bound of their own: that of the bytes holds for all together.
        let (lanes, receivers) = (0..LANES).map(|_| unbounded_channel()).unzip();
        let shared = Shared {
            lanes,
            budget: Arc::new(Semaphore::new(bytes_max as usize)),
            bursts: Mutex::default(),
            dropped: AtomicU64::new(0),
            hashes: RandomState::new(),
        };
        (Self { shared: Arc::new(shared), component: COMPONENT, clock }, receivers)
    }

    /// The same recorder for one component, by the name that it has upstream.
    pub fn of(&self, component: &'static str) -> Self {
        Self { component, ..self.clone() }
    }

    /// Shows on a page of metrics what waits, and what was dropped.
    pub fn register_metrics(&self, metrics: &Metrics) {
        let shared = self.shared.clone();
        metrics.collect(
            "selvedge_events_waiting_bytes",
            "Bytes of Events to be written",
            SampleKind::Gauge,
            move || {
                let left = shared.budget.available_permits();
                vec![Sample::whole((WAITING_BYTES_MAX as usize).saturating_sub(left) as u64)]
            },
        );
        let shared = self.shared.clone();
        metrics.collect(
            "selvedge_events_dropped",
            "Events left out as too many waited",
            SampleKind::Counter,
            move || vec![Sample::whole(shared.dropped.load(Ordering::Relaxed))],
        );
    }

    /// Something that should happen has happened.
    pub fn normal(&self, kind: impl Into<Resource>, object: Target<'_>, reason: &str, message: String) {
        self.record(kind.into(), object, "Normal", reason, message);
    }

    /// Something that a person should look at.
    pub fn warning(&self, kind: impl Into<Resource>, object: Target<'_>, reason: &str, message: String) {
        self.record(kind.into(), object, "Warning", reason, message);
    }

    fn record(&self, resource: Resource, object: Target<'_>, r#type: &'static str, reason: &str, message: String) {
        let shared = &self.shared;
        if !shared.bursts.lock().take(object.uid, Instant::now()) {
            return;
        }
        let texts = [object.namespace, object.name, object.uid, reason, &*message];
        let bytes = ENTRY_BYTES + texts.iter().map(|text| text.len()).sum::<usize>();
        // What does not count in 32 bits is more than the budget.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Ok(bytes) = shared.budget.clone().try_acquire_many_owned(bytes) else {
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            debug!(reason, "Too many Events wait; one is left out.");
            return;
        };
        let event = Waiting {
            resource,
            namespace: object.namespace.into(),
            name: object.name.into(),
            uid: object.uid.into(),
            r#type,
            reason: reason.into(),
            message: message.into(),
            component: self.component,
            at: self.clock.now(),
            _bytes: bytes,
        };
        let lane = usize::try_from(shared.hashes.hash_one(object.uid) % LANES as u64).unwrap_or(0);
        if shared.lanes[lane].send(event).is_err() {
            debug!(reason, "Nobody writes Events any more; one is left out.");
        }
    }
}

/// Writes the Events of some objects, one after the other.
async fn write_lane(mut lane: UnboundedReceiver<Waiting>, writer: Writer, shutdown: CancellationToken) {
    let mut recent = Recent::default();
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            event = lane.recv() => event,
        };
        let Some(event) = event else { return };
        if let Err(error) = recent.write(&event, &writer).await {
            debug!(error = %base_observe::Chain(&error), "An Event was not written.");
        }
    }
}

/// Events written lately: one that says the same again is counted and not written anew.
#[derive(Default)]
struct Recent {
    hashes: RandomState,
    latest: HashMap<u64, Written>,
    /// What the latest were before they were too many.
    earlier: HashMap<u64, Written>,
}

/// An Event that is there.
struct Written {
    namespace: Box<str>,
    name: Box<str>,
    count: u64,
}

impl Recent {
    /// Of which object an Event is, why, and what it says. Two of the same hash do not come by chance, and nobody knows its key.
    fn content(&self, event: &Waiting) -> u64 {
        self.hashes.hash_one((&event.uid, &event.reason, &event.message))
    }

    fn take(&mut self, content: u64) -> Option<Written> {
        self.latest.remove(&content).or_else(|| self.earlier.remove(&content))
    }

    fn put(&mut self, content: u64, written: Written) {
        if self.latest.len() >= RECENT_MAX {
            self.earlier = std::mem::take(&mut self.latest);
        }
        self.latest.insert(content, written);
    }

    async fn write(&mut self, event: &Waiting, writer: &Writer) -> Result<(), WriteError> {
        let content = self.content(event);
        // One that is not there any more, as Events are not kept for long, begins anew.
        if let Some(mut written) = self.take(content) {
            written.count += 1;
            let again = json!({"count": written.count, "lastTimestamp": seconds(event.at)});
            if writer.merge(Kind::Event, (&written.namespace, &written.name), &again).await? {
                self.put(content, written);
                return Ok(());
            }
        }
        let (namespace, name) = (event.event_namespace(), event.event_name());
        writer.create_encoded(Kind::Event, namespace, &name, event.encode(&name)).await?;
        self.put(content, Written { namespace: namespace.into(), name: name.into(), count: 1 });
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

    fn record(recorder: &Recorder, uid: &str, message: String) {
        let object = Target { namespace: "default", name: uid, uid };
        recorder.normal(Kind::Pod, object, "Tested", message);
    }

    fn take(lane: &mut UnboundedReceiver<Waiting>) -> Vec<(String, String)> {
        std::iter::from_fn(|| lane.try_recv().ok()).map(|event| (event.uid.into(), event.message.into())).collect()
    }

    #[test]
    fn an_object_gets_a_burst_of_events_and_then_few() {
        let (mut bursts, now) = (Bursts::default(), Instant::now());
        assert_eq!((0..100).filter(|_| bursts.take("a", now)).count(), 25);
        assert!(bursts.take("b", now));
        assert!(!bursts.take("a", now + REFILL - Duration::from_secs(1)));
        assert!(bursts.take("a", now + REFILL));
        assert!(!bursts.take("a", now + REFILL));
    }

    #[test]
    fn events_of_one_object_stay_in_order_and_those_of_many_share_the_lanes() {
        let (recorder, mut lanes) = Recorder::with_lanes(WAITING_BYTES_MAX, WallClock::System);
        for number in 0..20 {
            (0..100).for_each(|object| record(&recorder, &format!("uid-{object}"), number.to_string()));
        }
        let mut seen = HashMap::new();
        for (lane, events) in lanes.iter_mut().map(take).enumerate() {
            assert!(events.len() < 1000, "{} of 2000 are in one lane", events.len());
            for (uid, message) in events {
                let (its_lane, next) = seen.entry(uid).or_insert((lane, 0));
                assert_eq!((lane, message), (*its_lane, next.to_string()));
                *next += 1;
            }
        }
        assert!(seen.len() == 100 && seen.values().all(|(_, count)| *count == 20), "{seen:?}");
    }

    #[test]
    fn what_waits_is_bounded_by_its_bytes() {
        let (recorder, mut lanes) = Recorder::with_lanes(64 * 1024, WallClock::System);
        for number in 0..200 {
            record(&recorder, &format!("uid-{number}"), "x".repeat(1000 - ENTRY_BYTES));
        }
        record(&recorder, "large", "x".repeat(1 << 20));
        let waiting: usize = lanes.iter_mut().map(|lane| take(lane).len()).sum();
        assert!((60..=65).contains(&waiting), "{waiting} wait");
        assert_eq!(recorder.shared.dropped.load(Ordering::Relaxed), 201 - waiting as u64);
        // What is written makes space.
        record(&recorder, "one more", "x".repeat(1000));
        assert_eq!(lanes.iter_mut().map(|lane| take(lane).len()).sum::<usize>(), 1);
    }
}
