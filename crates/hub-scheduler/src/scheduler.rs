//! The one task that owns what the scheduler knows, and what it has others do.
//!
//! It takes all changes that are there, then decides for a few milliseconds, and so on: a decision never waits. What a decision
//! needs of the API (bindings, conditions, ends of victims) runs beside it, as many at a time as the API takes gladly, and
//! reports back. A pod counts on its node from the decision on; should its binding fail, it is taken off again and tried later.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base_observe::Metrics;
use futures::StreamExt as _;
use futures::future::FutureExt as _;
use futures::stream::SelectAll;
use hub_runtime::kinds::Kind;
use hub_runtime::{Context, Event, Manager, QueueLengths, Recorded, Subscription};
use parking_lot::Mutex;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::cluster::{NodeId, PlacedState};
use crate::decide::{Decider, Diagnosis, Verdict};
use crate::filters::{Check, FilterSet};
use crate::message::{self, NO_NODES, SCHEDULER_ERROR, UNSCHEDULABLE};
use crate::metrics::{Outcome, SchedulerMetrics};
use crate::observe::{GATED_REASON, Model};
use crate::pod::Pod;
use crate::preempt::{Preemption, displaced, preempt};
use crate::queue::QueueId;
use crate::volumes::{ClaimPlan, parse_claim, parse_volume};
use crate::writes::{self, CarryOutError};

const NAME: &str = "scheduler";

/// Everything that the scheduler reads: what the manager's reader must show.
pub const READ: &[Kind] = &[
    Kind::Pod,
    Kind::Node,
    Kind::Namespace,
    Kind::PersistentVolumeClaim,
    Kind::PersistentVolume,
    Kind::StorageClass,
    Kind::PodDisruptionBudget,
    Kind::Service,
    Kind::ReplicationController,
    Kind::ReplicaSet,
    Kind::StatefulSet,
];

/// Requests that are under way: enough for the store to commit many at once.
const REQUESTS_MAX: usize = 250;
/// Pods that wait for their claims to be bound; more are tried later.
const CLAIM_WAITERS_MAX: usize = 1024;
/// Changes are looked at at least this often while decisions are due.
const DECIDE_FOR: Duration = Duration::from_millis(2);
/// Changes that are taken in before decisions are made again.
const EVENTS_AT_ONCE: usize = 512;
/// What is under way at shutdown may end in this time.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

const GATED_MESSAGE: &str = "Scheduling is blocked due to non-empty scheduling gates";

/// Starts the scheduler; it ends with the manager. What it counts is shown among these metrics.
pub fn start(manager: &Manager, metrics: &Metrics) {
    if !manager.selects(NAME) {
        return;
    }
    let recorded = Arc::new(Recorded::new(NAME));
    let lengths = Arc::new(Mutex::new(QueueLengths::default()));
    manager.status().register(recorded.clone(), {
        let lengths = lengths.clone();
        move || *lengths.lock()
    });
    let context = manager.context().clone();
    let context = Context { recorder: context.recorder.of("default-scheduler"), ..context };
    let (metrics, shutdown) = (SchedulerMetrics::new(metrics), manager.shutdown().clone());
    base_observe::spawn_vital(manager.tasks(), NAME, manager.failed(), async move {
        // One that has panicked knows what is wrong no more; another reads everything anew.
        let make = || {
            let events = futures::stream::select_all(READ.iter().map(|kind| context.reader.subscribe(*kind)));
            let scheduler = Scheduler {
                context: context.clone(),
                model: Model::default(),
                decider: Decider::new(fastrand::Rng::new()),
                under_way: JoinSet::new(),
                tasks: HashMap::new(),
                claim_waiters: 0,
                verdicts: VecDeque::new(),
                last_rejection: None,
                unlisted: READ.to_vec(),
                recorded: recorded.clone(),
                lengths: lengths.clone(),
                metrics: metrics.clone(),
            };
            scheduler.run(events, shutdown.clone())
        };
        hub_runtime::run_again(NAME, &recorded, &shutdown, make).await;
    });
}

/// What is under way.
#[derive(Debug)]
enum Task {
    Bind { id: QueueId, pod: Arc<Pod>, node: Box<str>, plan: ClaimPlan, attempt: Attempt },
    Verdict { id: QueueId },
    Victims { id: QueueId },
}

/// One attempt to schedule a pod.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    began: Instant,
    /// When the pod could be decided on for the first time.
    entered: Instant,
    /// The first is 1.
    number: u32,
}

type Done = Result<(), CarryOutError>;

struct Scheduler {
    context: Context,
    model: Model,
    decider: Decider,
    under_way: JoinSet<Done>,
    tasks: HashMap<Id, Task>,
    claim_waiters: usize,
    /// What is still to be written on pods.
    verdicts: VecDeque<(QueueId, Arc<Pod>, writes::Verdict)>,
    /// The last diagnosis, and what was said of it: pods that are rejected alike say the same.
    last_rejection: Option<(Arc<Diagnosis>, Box<str>)>,
    /// Kinds whose first list has not come.
    unlisted: Vec<Kind>,
    recorded: Arc<Recorded>,
    lengths: Arc<Mutex<QueueLengths>>,
    metrics: SchedulerMetrics,
}

impl Scheduler {
    async fn run(mut self, mut events: SelectAll<Subscription>, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let mut taken = 0;
            while taken < EVENTS_AT_ONCE
                && let Some(Some(event)) = events.next().now_or_never()
            {
                self.observe(&event);
                taken += 1;
            }
            while let Some(done) = self.under_way.try_join_next_with_id() {
                self.finish(done);
            }
            self.work();
            if taken == EVENTS_AT_ONCE || self.may_decide() && self.model.queue.has_active() {
                tokio::task::yield_now().await;
                continue;
            }
            let due = self.model.queue.next_due().filter(|_| self.may_decide());
            tokio::select! {
                () = shutdown.cancelled() => {}
                event = events.next() => match event {
                    Some(event) => self.observe(&event),
                    // The reader has ended: so does the hub.
                    None => break,
                },
                Some(done) = self.under_way.join_next_with_id() => self.finish(done),
                () = sleep_until(due) => {}
            }
        }
        let drained = tokio::time::timeout(DRAIN_WITHIN, async { while self.under_way.join_next().await.is_some() {} });
        if drained.await.is_err() {
            debug!(unfinished = self.under_way.len(), "Some writes of the scheduler were left at shutdown.");
        }
    }

    fn observe(&mut self, event: &Event) {
        self.model.observe(event, Instant::now());
        if let Event::Listed(kind, _) = event
            && !self.unlisted.is_empty()
        {
            self.unlisted.retain(|one| one != kind);
            if self.unlisted.is_empty() {
                self.recorded.synced();
            }
        }
    }

    /// Whether everything that decisions read is there, and the API takes more.
    fn may_decide(&self) -> bool {
        self.unlisted.is_empty() && self.requests() < REQUESTS_MAX
    }

    fn requests(&self) -> usize {
        self.under_way.len() - self.claim_waiters
    }

    fn work(&mut self) {
        let began = Instant::now();
        self.model.queue.advance(began);
        for id in std::mem::take(&mut self.model.gated) {
            self.say_gated(id);
        }
        let mut now = began;
        while self.may_decide() && now.duration_since(began) < DECIDE_FOR {
            let Some(id) = self.model.queue.pop() else { break };
            self.decide(id, now);
            let after = Instant::now();
            self.recorded.succeeded(after.duration_since(now));
            now = after;
        }
        while self.requests() < REQUESTS_MAX
            && let Some((id, pod, verdict)) = self.verdicts.pop_front()
        {
            let write = writes::write_verdict(self.context.clone(), pod, verdict);
            self.spawn(Task::Verdict { id }, write);
        }
        let counts = self.model.queue.counts();
        self.metrics.waiting(counts);
        *self.lengths.lock() = QueueLengths {
            ready: counts.active,
            later: counts.back_off + counts.waiting + counts.gated,
            running: self.under_way.len(),
            failing: 0,
        };
    }

    fn spawn(&mut self, task: Task, future: impl Future<Output = Done> + Send + 'static) {
        let handle = base_observe::spawn_in_set(&mut self.under_way, NAME, future);
        if matches!(&task, Task::Bind { plan, .. } if !plan.is_empty()) {
            self.claim_waiters += 1;
        }
        self.tasks.insert(handle.id(), task);
    }

    fn decide(&mut self, id: QueueId, now: Instant) {
        let Some(waiting) = self.model.queue.get(id) else { return };
        let (pod, nominated) = (waiting.pod.clone(), waiting.nominated.clone());
        let attempt =
            Attempt { began: now, entered: waiting.entered.unwrap_or(now), number: waiting.failures.saturating_add(1) };
        let Model { cluster, nominations, .. } = &mut self.model;
        let verdict = self.decider.decide(cluster, nominations, &pod, nominated.as_deref());
        self.metrics.decided(now.elapsed());
        match verdict {
            Verdict::Place(node) => return self.place(id, pod, node, attempt),
            Verdict::NoNodes => {
                // Anything may help.
                self.model.queue.reject(id, FilterSet::default(), now);
                self.say(id, UNSCHEDULABLE, NO_NODES, Some(None));
            }
            Verdict::Reject(diagnosis) => self.reject(id, &pod, nominated.as_deref(), &diagnosis, now),
        }
        self.metrics.attempted(Outcome::Unschedulable, now.elapsed());
    }

    fn place(&mut self, id: QueueId, pod: Arc<Pod>, node: NodeId, attempt: Attempt) {
        let now = attempt.began;
        let Model { cluster, nominations, queue, .. } = &mut self.model;
        let plan = match pod.claims.is_empty() {
            true => ClaimPlan::default(),
            false => {
                let check = Check::new(cluster, &pod);
                check.ok().and_then(|check| check.plan_claims(cluster, &pod, node).ok()).unwrap_or_default()
            }
        };
        if !plan.is_empty() && self.claim_waiters >= CLAIM_WAITERS_MAX {
            queue.retry(id, now);
            return;
        }
        let name = cluster.node(node).name.clone();
        nominations.set(&pod, None);
        let state = PlacedState { is_assumed: true, ..PlacedState::new_pod() };
        let demand = pod.demand.placed_on(&cluster.node(node).labels);
        let placed = cluster.place(Pod { demand, ..(*pod).clone() }, &name, state);
        if let Some(placed) = cluster.placed(placed) {
            queue.wake(cluster, crate::hints::Change::PodPlaced(placed), now);
        }
        // Nobody else may count on these claims and volumes from now on.
        for claim in &plan.provision {
            let of_namespace = cluster.volumes.claims.get_mut(pod.namespace());
            if let Some(claim) = of_namespace.and_then(|claims| claims.get_mut(claim)) {
                claim.selected_node = Some(name.clone());
            }
        }
        for (claim, volume) in &plan.bind {
            let uid = cluster.volumes.claim(pod.namespace(), claim).map(|claim| claim.uid.clone()).unwrap_or_default();
            if let Some(volume) = cluster.volumes.volumes.get_mut(volume) {
                volume.claim = Some((pod.namespace().into(), claim.clone(), uid));
            }
        }
        let bind = writes::bind(self.context.clone(), pod.clone(), name.clone(), plan.clone());
        self.spawn(Task::Bind { id, pod, node: name, plan, attempt }, bind);
    }

    fn reject(
        &mut self,
        id: QueueId,
        pod: &Arc<Pod>,
        nominated: Option<&str>,
        diagnosis: &Arc<Diagnosis>,
        now: Instant,
    ) {
        self.metrics.preempting();
        if let Some((last, message)) = &self.last_rejection
            && Arc::ptr_eq(last, diagnosis)
        {
            let message = message.clone();
            self.model.queue.reject(id, diagnosis.filters, now);
            self.say(id, UNSCHEDULABLE, &message, Some(None));
            return;
        }
        let Model { cluster, nominations, .. } = &mut self.model;
        let random = self.decider.random();
        let found = preempt(cluster, nominations, pod, nominated, diagnosis, |nodes| random.usize(..nodes));
        let (why, promise) = match &found {
            Preemption::Keep(why) => (*why, None),
            Preemption::Clear(why) => (why.as_str(), Some(None)),
            Preemption::Victims(victims) => ("", Some(Some(cluster.node(victims.node).name.clone()))),
        };
        let message: Box<str> = message::unschedulable(&pod.demand, diagnosis, why).into();
        if let Preemption::Victims(victims) = &found {
            let node = cluster.node(victims.node).name.clone();
            let leaving = victims.pods.iter().filter_map(|id| cluster.placed(*id));
            let leaving: Vec<Pod> =
                leaving.filter(|one| !one.state.is_terminating).map(|one| one.pod.clone()).collect();
            self.make_way(id, pod, node, leaving, now);
        } else if matches!(found, Preemption::Clear(_)) {
            // Only what was said of a pod that is like every other of its template is said again.
            self.last_rejection = Some((diagnosis.clone(), message.clone()));
        }
        self.model.queue.reject(id, diagnosis.filters, now);
        self.say(id, UNSCHEDULABLE, &message, promise);
    }

    fn make_way(&mut self, id: QueueId, pod: &Arc<Pod>, node: Box<str>, victims: Vec<Pod>, now: Instant) {
        let lower: Vec<Arc<Pod>> = {
            let uids = displaced(&self.model.nominations, pod, &node);
            self.model.nominations.on(&node).iter().filter(|one| uids.contains(&*one.uid)).cloned().collect()
        };
        for other in lower {
            self.model.nominations.set(&other, None);
            let Some(other_id) = self.model.queue.find(other.namespace(), &other.name) else { continue };
            if let Some(waiting) = self.model.queue.get_mut(other_id) {
                waiting.nominated = None;
            }
            let verdict = writes::Verdict { condition: None, was_unscheduled: true, nominated: Some("".into()) };
            self.verdicts.push_back((other_id, other, verdict));
            self.model.queue.activate(other_id, now);
        }
        if !victims.is_empty() {
            self.metrics.preempted(victims.len());
            let end = writes::end_victims(self.context.clone(), pod.clone(), node, victims);
            self.spawn(Task::Victims { id }, end);
        }
    }

    /// Says on a pod why it waits, where it does not say so yet. `promise` is the node that it is promised from now on, if
    /// that changes.
    fn say(&mut self, id: QueueId, reason: &str, message: &str, promise: Option<Option<Box<str>>>) {
        let Some(waiting) = self.model.queue.get_mut(id) else { return };
        let pod = waiting.pod.clone();
        let condition: (Box<str>, Box<str>) = (reason.into(), message.into());
        let is_new = waiting.condition.as_ref() != Some(&condition);
        let was_unscheduled = waiting.condition.is_some();
        let nominated = promise.filter(|promise| *promise != waiting.nominated);
        if is_new {
            waiting.condition = Some(condition.clone());
        }
        if let Some(nominated) = &nominated {
            waiting.nominated.clone_from(nominated);
            self.model.nominations.set(&pod, nominated.as_deref());
        }
        if !is_new && nominated.is_none() {
            return;
        }
        if is_new && reason != GATED_REASON {
            let message = message::for_event(message).into_owned();
            self.context.recorder.warning(Kind::Pod, writes::target(&pod), "FailedScheduling", message);
        }
        let verdict = writes::Verdict {
            condition: is_new.then_some(condition),
            was_unscheduled,
            nominated: nominated.map(Option::unwrap_or_default),
        };
        self.verdicts.push_back((id, pod, verdict));
    }

    fn say_gated(&mut self, id: QueueId) {
        self.say(id, GATED_REASON, GATED_MESSAGE, None);
    }

    fn finish(&mut self, done: Result<(Id, Done), JoinError>) {
        let now = Instant::now();
        let (task, done) = match done {
            Ok((id, done)) => (self.tasks.remove(&id), done),
            Err(panic) => {
                let task = self.tasks.remove(&panic.id());
                self.recorded.panicked(&format!("{task:?}"), &panic.to_string());
                (task, Err(CarryOutError::Panicked))
            }
        };
        match task {
            Some(Task::Bind { id, pod, node, plan, attempt }) => {
                if !plan.is_empty() {
                    self.claim_waiters -= 1;
                }
                let is_bound = self.finish_binding(id, &pod, &node, &plan, done, now);
                let outcome = if is_bound { Outcome::Scheduled } else { Outcome::Error };
                self.metrics.attempted(outcome, now.duration_since(attempt.began));
                if is_bound {
                    self.metrics.bound(now.duration_since(attempt.entered), attempt.number);
                }
            }
            Some(Task::Verdict { id }) => {
                if let Err(error) = done {
                    self.failed("write the condition of a pod", &error);
                    // It is written with the next attempt.
                    if let Some(waiting) = self.model.queue.get_mut(id) {
                        waiting.condition = None;
                    }
                }
            }
            Some(Task::Victims { id }) => {
                if let Err(error) = done {
                    self.failed("preempt pods", &error);
                    self.model.queue.activate(id, now);
                }
            }
            None => {}
        }
    }

    fn failed(&self, act: &str, error: &CarryOutError) {
        let error = base_observe::Chain(error).to_string();
        warn!(%error, "Failed to {act}; trying again.");
        self.recorded.failed(Duration::ZERO, act, error);
    }

    /// What follows from the response to a binding; whether the pod is bound.
    fn finish_binding(
        &mut self,
        id: QueueId,
        pod: &Arc<Pod>,
        node: &str,
        plan: &ClaimPlan,
        done: Done,
        now: Instant,
    ) -> bool {
        let model = &mut self.model;
        let is_waiting = model.queue.get(id).is_some_and(|waiting| waiting.pod.uid == pod.uid);
        let placed = model.cluster.find_placed(pod.namespace(), &pod.name).filter(|placed| placed.pod.uid == pod.uid);
        // The API may have bound it although the response says otherwise, or never came.
        let is_shown = placed.is_some_and(|placed| !placed.state.is_assumed);
        if done.is_ok() || is_shown {
            if is_waiting {
                model.queue.remove(pod.namespace(), &pod.name);
            }
            let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name);
            self.context.recorder.normal(Kind::Pod, writes::target(pod), "Scheduled", message);
            return true;
        }
        if placed.is_some() {
            model.free(pod.namespace(), &pod.name, now);
        }
        self.read_claims_again(pod, plan);
        if is_waiting {
            self.model.queue.retry(id, now);
        }
        match done {
            // Its own change says the rest.
            Ok(()) | Err(CarryOutError::Superseded) => {}
            Err(error) => {
                self.failed("bind a pod", &error);
                let message = base_observe::Chain(&error).to_string();
                self.say(id, SCHEDULER_ERROR, &message, Some(None));
            }
        }
        false
    }

    /// Takes back what was assumed of claims and volumes.
    fn read_claims_again(&mut self, pod: &Pod, plan: &ClaimPlan) {
        let reader = &self.context.reader;
        for claim in plan.provision.iter().chain(plan.bind.iter().map(|(claim, _)| claim)) {
            let object = reader.get(Kind::PersistentVolumeClaim, pod.namespace(), claim);
            let read = object.and_then(|object| parse_claim(object.bytes()).ok());
            if let (Some(read), Some(claims)) = (read, self.model.cluster.volumes.claims.get_mut(pod.namespace())) {
                claims.insert(claim.clone(), read);
            }
        }
        for (_, volume) in &plan.bind {
            let object = reader.get(Kind::PersistentVolume, "", volume);
            if let Some(read) = object.and_then(|object| parse_volume(object.bytes()).ok()) {
                self.model.cluster.volumes.volumes.insert(volume.clone(), read);
            }
        }
        self.model.cluster.touch();
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
