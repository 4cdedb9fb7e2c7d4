//! Pods that wait for a node.
//!
//! ```text
//!        add                pop              placed
//!  ───────────▶ active ───────────▶ decided ───────────▶ bound
//!                 ▲  ▲                 │ no node suits
//!    back-off over│  │a change helps   ▼
//!              back-off ◀────────── waiting ──▶ after five minutes, whatever happens
//! ```
//!
//! Active pods come by priority, then in the order of their arrival. A pod that failed waits for a change that could help it
//! ([`crate::hints`]); the change wakes it once its back-off is over, which doubles with each failure. What waits is kept by
//! its demand, so that a change is held against each template once, not against each pod.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use base_retry::{BackoffLaw, Jitter};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::filters::{Filter, FilterSet};
use crate::hints::{Change, helps};
use crate::pod::{Demand, Pod};

/// Between attempts for one pod.
const BACKOFF: BackoffLaw = BackoffLaw::new(Duration::from_secs(1), Duration::from_secs(10)).with_jitter(Jitter::None);
/// A pod that nothing has woken for so long is tried all the same: some help may not have been noticed.
const FLUSH_AFTER: Duration = Duration::from_secs(5 * 60);

/// A waiting pod by its number.
pub type QueueId = u64;

/// A pod that waits for a node.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The pod.
    pub pod: Arc<Pod>,
    /// `reason` and `message` of its condition as last written.
    pub condition: Option<(Box<str>, Box<str>)>,
    /// The node that it was promised.
    pub nominated: Option<Box<str>>,
    /// Attempts that failed, one after the other.
    pub failures: u32,
    /// When it could be decided on for the first time; `None` while gates have kept it from that.
    pub entered: Option<Instant>,
    place: Place,
    not_before: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active(Rank),
    BackOff(Instant),
    Waiting(Instant, FilterSet),
    /// It has scheduling gates.
    Gated,
    /// A decision about it is being carried out.
    Decided,
}

/// The more urgent, the smaller.
type Rank = (i64, u64);

/// How many pods are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// To be decided on.
    pub active: usize,
    /// In back-off.
    pub back_off: usize,
    /// Waiting for a change.
    pub waiting: usize,
    /// With scheduling gates.
    pub gated: usize,
}

#[derive(Debug)]
struct Group {
    demand: Arc<Demand>,
    filters: FilterSet,
    ids: BTreeSet<QueueId>,
}

/// Pods that wait for a node.
#[derive(Debug, Default)]
pub struct Queue {
    pods: HashMap<QueueId, Waiting>,
    ids: HashMap<Box<str>, HashMap<Box<str>, QueueId>>,
    active: BTreeMap<Rank, QueueId>,
    back_off: BTreeSet<(Instant, QueueId)>,
    /// By the address of their demand, which the groups keep alive, and by who rejected them.
    waiting: HashMap<(usize, FilterSet), Group>,
    since: BTreeSet<(Instant, QueueId)>,
    gated: usize,
    numbers: u64,
}

impl Queue {
    /// A pod is to be placed, or has changed. One that is known keeps its failures; one of its name that is another is not.
    pub fn add(
        &mut self,
        pod: Arc<Pod>,
        condition: Option<(Box<str>, Box<str>)>,
        nominated: Option<Box<str>>,
        is_gated: bool,
        now: Instant,
    ) -> QueueId {
        let known = self.find(pod.namespace(), &pod.name).and_then(|id| Some((id, self.pods.get(&id)?.clone())));
        if let Some((id, known)) = known {
            if known.pod.uid == pod.uid {
                let is_changed = *known.pod != *pod || is_gated != (known.place == Place::Gated);
                if known.place == Place::Decided || !is_changed {
                    if let Some(waiting) = self.pods.get_mut(&id) {
                        (waiting.condition, waiting.nominated) = (condition, nominated);
                    }
                    return id;
                }
                self.take_out(id);
                let entered = known.entered.or((!is_gated).then_some(now));
                let waiting = Waiting { pod, condition, nominated, entered, ..known };
                self.pods.insert(id, waiting);
                let place = if is_gated { Place::Gated } else { self.new_rank(id) };
                self.put(id, place);
                return id;
            }
            self.remove(pod.namespace(), &pod.name);
        }
        self.numbers += 1;
        let id = self.numbers;
        self.ids.entry(pod.namespace().into()).or_default().insert(pod.name.clone(), id);
        let entered = (!is_gated).then_some(now);
        let waiting =
            Waiting { pod, condition, nominated, failures: 0, entered, place: Place::Decided, not_before: now };
        self.pods.insert(id, waiting);
        let place = if is_gated { Place::Gated } else { self.new_rank(id) };
        self.put(id, place);
        id
    }

    fn new_rank(&mut self, id: QueueId) -> Place {
        self.numbers += 1;
        let priority = self.pods.get(&id).map_or(0, |waiting| waiting.pod.priority());
        Place::Active((-i64::from(priority), self.numbers))
    }

    /// The number of a pod.
    pub fn find(&self, namespace: &str, name: &str) -> Option<QueueId> {
        self.ids.get(namespace)?.get(name).copied()
    }

    /// A pod by its number.
    pub fn get(&self, id: QueueId) -> Option<&Waiting> {
        self.pods.get(&id)
    }

    /// A pod by its number, to note what was written.
    pub fn get_mut(&mut self, id: QueueId) -> Option<&mut Waiting> {
        self.pods.get_mut(&id)
    }

    /// A pod is deleted, or placed.
    pub fn remove(&mut self, namespace: &str, name: &str) -> Option<Waiting> {
        let of_namespace = self.ids.get_mut(namespace)?;
        let id = of_namespace.remove(name)?;
        if of_namespace.is_empty() {
            self.ids.remove(namespace);
        }
        self.take_out(id);
        self.pods.remove(&id)
    }

    /// The next pod to decide on. It is out of the way until the decision is reported.
    pub fn pop(&mut self) -> Option<QueueId> {
        let (_, id) = self.active.pop_first()?;
        if let Some(waiting) = self.pods.get_mut(&id) {
            waiting.place = Place::Decided;
        }
        Some(id)
    }

    /// All pods that wait.
    pub fn all(&self) -> impl Iterator<Item = &Waiting> {
        self.pods.values()
    }

    /// Whether there is a pod to decide on.
    pub fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// No node suits the pod: it waits for a change that concerns one of these filters.
    pub fn reject(&mut self, id: QueueId, filters: FilterSet, now: Instant) {
        self.fail(id, now);
        self.put(id, Place::Waiting(now, filters));
    }

    /// Something else failed: it is tried again after its back-off.
    pub fn retry(&mut self, id: QueueId, now: Instant) {
        let until = self.fail(id, now);
        self.put(id, Place::BackOff(until));
    }

    fn fail(&mut self, id: QueueId, now: Instant) -> Instant {
        self.take_out(id);
        let Some(waiting) = self.pods.get_mut(&id) else { return now };
        waiting.failures = waiting.failures.saturating_add(1);
        waiting.not_before = now + BACKOFF.delay(waiting.failures, 0.0);
        waiting.not_before
    }

    /// Wakes the pods that a change could help; says how many.
    pub fn wake(&mut self, cluster: &Cluster, change: Change<'_>, now: Instant) -> usize {
        let mut woken = Vec::new();
        for group in self.waiting.values() {
            let helps = |waiting: &Waiting| helps(cluster, change, &group.demand, &waiting.pod.claims, group.filters);
            let depends_on_claims =
                group.filters.contains(Filter::VolumeBinding) || group.filters.contains(Filter::VolumeRestrictions);
            let mut pods = group.ids.iter().filter_map(|id| Some((*id, self.pods.get(id)?)));
            if depends_on_claims {
                woken.extend(pods.filter(|(_, waiting)| helps(waiting)).map(|(id, _)| id));
            } else if pods.next().is_some_and(|(_, waiting)| helps(waiting)) {
                woken.extend(&group.ids);
            }
        }
        // In the order of their arrival, whatever the order of the groups.
        woken.sort_unstable();
        for id in &woken {
            self.activate(*id, now);
        }
        woken.len()
    }

    /// A pod is to be decided on, once its back-off is over.
    pub fn activate(&mut self, id: QueueId, now: Instant) {
        let Some(not_before) = self.pods.get(&id).map(|waiting| waiting.not_before) else { return };
        self.take_out(id);
        let place = if not_before <= now { self.new_rank(id) } else { Place::BackOff(not_before) };
        self.put(id, place);
    }

    /// Moves what is due at this time.
    pub fn advance(&mut self, now: Instant) {
        while let Some((at, id)) = self.back_off.first().copied().filter(|(at, _)| *at <= now) {
            self.back_off.remove(&(at, id));
            let rank = self.new_rank(id);
            self.put(id, rank);
        }
        while let Some((at, id)) = self.since.first().copied().filter(|(at, _)| *at + FLUSH_AFTER <= now) {
            self.since.remove(&(at, id));
            self.activate(id, now);
        }
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<Instant> {
        let back_off = self.back_off.first().map(|(at, _)| *at);
        let flush = self.since.first().map(|(at, _)| *at + FLUSH_AFTER);
        back_off.into_iter().chain(flush).min()
    }

    /// How many pods are where.
    pub fn counts(&self) -> QueueCounts {
        QueueCounts {
            active: self.active.len(),
            back_off: self.back_off.len(),
            waiting: self.since.len(),
            gated: self.gated,
        }
    }

    fn put(&mut self, id: QueueId, place: Place) {
        let Some(waiting) = self.pods.get_mut(&id) else { return };
        waiting.place = place;
        match place {
            Place::Active(rank) => drop(self.active.insert(rank, id)),
            Place::BackOff(at) => drop(self.back_off.insert((at, id))),
            Place::Waiting(since, filters) => {
                let demand = waiting.pod.demand.clone();
                let key = (Arc::as_ptr(&demand).addr(), filters);
                let group = self.waiting.entry(key).or_insert_with(|| Group { demand, filters, ids: BTreeSet::new() });
                group.ids.insert(id);
                self.since.insert((since, id));
            }
            Place::Gated => self.gated += 1,
            Place::Decided => {}
        }
    }

    fn take_out(&mut self, id: QueueId) {
        let Some(waiting) = self.pods.get_mut(&id) else { return };
        match std::mem::replace(&mut waiting.place, Place::Decided) {
            Place::Active(rank) => drop(self.active.remove(&rank)),
            Place::BackOff(at) => drop(self.back_off.remove(&(at, id))),
            Place::Waiting(since, filters) => {
                let key = (Arc::as_ptr(&waiting.pod.demand).addr(), filters);
                if let Some(group) = self.waiting.get_mut(&key) {
                    group.ids.remove(&id);
                    if group.ids.is_empty() {
                        self.waiting.remove(&key);
                    }
                }
                self.since.remove(&(since, id));
            }
            Place::Gated => self.gated -= 1,
            Place::Decided => {}
        }
    }
}

#[cfg(test)]
mod tests;
