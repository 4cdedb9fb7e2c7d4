//! Who is served next: bounded work in flight, shared fairly between identities.
//!
//! A request first *enters* with its identity, which bounds how many of one identity's requests are on their way at all
//! (bodies that trickle in among them). Once its body is there it is *admitted*: at once while there is a place, else in turn,
//! one request of each waiting identity after the other. So a thousand requests of one gateway delay its own next request
//! and nobody else's.
//!
//! ```text
//! enter(identity) ──body──▶ admit ─▶ [in flight: shared | leases | system:masters] ─▶ work
//!                              └────▶ queue of the identity ──round robin──▶ ┘
//! ```
//!
//! Leases and administrators have places of their own, which nobody else can take: a node under a storm stays Ready, and a
//! person can always look. In-process callers do not pass here; what they have in flight is bounded by themselves.
//!
//! The lock is taken by the threads of the sockets too, so nothing under it walks over all who wait: each lane has its own
//! turns, and whoever passes a place on stops when there is none left. Those who are passed over because they have as much as
//! one identity may are few, as each of them holds a good part of the places.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use crate::work::{self, Workers};

/// How much may be on its way. The defaults are for a small box.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowLimits {
    /// Requests worked on at a time that anybody may have. Writes spend their time waiting for the disk, and share its
    /// flushes: fewer would slow a storm of writes, more would only hold more bodies.
    pub(crate) shared_max: usize,
    /// Further places for administrators.
    pub(crate) masters_max: usize,
    /// Further places for leases, which keep nodes Ready.
    pub(crate) leases_max: usize,
    /// Places that one identity may have of the shared ones, so that nobody fills them alone.
    pub(crate) in_flight_per_identity_max: usize,
    /// The same of those for leases: one that is renewed, and one that is sent again.
    pub(crate) leases_per_identity_max: usize,
    /// Of those in shared places, how many of an identity may keep a thread busy.
    pub(crate) working_per_identity_max: usize,
    /// Requests that one identity may have on their way, those whose body is still coming included.
    pub(crate) entered_per_identity_max: usize,
    /// Watches and log streams that one identity may have open.
    pub(crate) streams_per_identity_max: usize,
    /// Responses of one identity, from the beginning of the request until the last byte has been handed on, whatever the
    /// answer is. A client that reads has no more than it has requests and watches; one that does not read costs memory for each.
    pub(crate) responses_per_identity_max: usize,
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self {
            shared_max: 192,
            masters_max: 64,
            leases_max: 64,
            in_flight_per_identity_max: 64,
            leases_per_identity_max: 2,
            working_per_identity_max: work::threads_per_identity(),
            entered_per_identity_max: 512,
            streams_per_identity_max: 256,
            responses_per_identity_max: 1024,
        }
    }
}

/// Which places a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Everybody's.
    Shared,
    /// Administrators: shared places, or their own.
    Masters,
    /// A lease of a node: shared places, or those of leases.
    Lease,
}

impl Lane {
    const ALL: [Self; 3] = [Self::Shared, Self::Masters, Self::Lease];
}

/// Too much of this identity is on its way already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// Hands out places. Clones share everything.
#[derive(Clone)]
pub(crate) struct Flow(Arc<Mutex<State>>);

struct State {
    limits: FlowLimits,
    /// Places taken, by lane.
    shared: usize,
    masters: usize,
    leases: usize,
    identities: HashMap<Arc<str>, Account>,
    /// Identities with requests that wait in a lane, in the order of their turns.
    turns: [VecDeque<Arc<str>>; Lane::ALL.len()],
    /// Whose turn is next for a shared place.
    next_lane: usize,
}

/// What one identity has on its way. It is forgotten when that is nothing.
#[derive(Default)]
struct Account {
    entered: usize,
    in_flight: usize,
    /// Of those in flight, the ones in places for leases.
    leases: usize,
    streams: usize,
    responses: usize,
    /// Turns to keep a thread busy: for leases, and for all else.
    lease_turns: Option<Arc<Semaphore>>,
    turns: Option<Arc<Semaphore>>,
    /// What waits, by lane.
    waiting: [VecDeque<oneshot::Sender<Place>>; Lane::ALL.len()],
}

/// Which of the counters a place is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Shared,
    Masters,
    Leases,
}

/// A request on its way; what it holds is given back when it is dropped.
pub(crate) struct Entry {
    flow: Flow,
    identity: Arc<str>,
    lane: Lane,
    kind: Kind,
    workers: Workers,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request,
    Stream,
    Response,
}

/// A place among those worked on; given back when it is dropped.
pub(crate) struct Place {
    flow: Flow,
    identity: Arc<str>,
    taken: Taken,
}

/// What is on its way, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlowUsage {
    pub(crate) entered: usize,
    pub(crate) in_flight: usize,
    pub(crate) waiting: usize,
    pub(crate) streams: usize,
}

impl Flow {
    pub(crate) fn new(limits: FlowLimits) -> Self {
        Self(Arc::new(Mutex::new(State {
            limits,
            shared: 0,
            masters: 0,
            leases: 0,
            identities: HashMap::new(),
            turns: Default::default(),
            next_lane: 0,
        })))
    }

    /// Counts a request of an identity.
    pub(crate) fn enter(&self, identity: &str, lane: Lane) -> Result<Entry, TooMany> {
        self.open(identity, lane, Kind::Request)
    }

    /// Counts a watch or a log stream of an identity.
    pub(crate) fn open_stream(&self, identity: &str, lane: Lane) -> Result<Entry, TooMany> {
        self.open(identity, lane, Kind::Stream)
    }

    /// Counts what an identity has requested and not taken yet.
    pub(crate) fn open_response(&self, identity: &str, lane: Lane) -> Result<Entry, TooMany> {
        self.open(identity, lane, Kind::Response)
    }

    fn open(&self, identity: &str, lane: Lane, kind: Kind) -> Result<Entry, TooMany> {
        let mut state = self.0.lock();
        let limits = state.limits;
        let identity: Arc<str> = match state.identities.get_key_value(identity) {
            Some((known, _)) => known.clone(),
            None => identity.into(),
        };
        let account = state.identities.entry(identity.clone()).or_default();
        let (count, max) = match kind {
            Kind::Request => (&mut account.entered, limits.entered_per_identity_max),
            Kind::Stream => (&mut account.streams, limits.streams_per_identity_max),
            Kind::Response => (&mut account.responses, limits.responses_per_identity_max),
        };
        // Administrators are trusted with the server as a whole; a bound of theirs would only lock them out.
        if *count >= max && lane != Lane::Masters {
            return Err(TooMany);
        }
        *count += 1;
        // The account lives as long as anything of its identity does, so there is one set of turns.
        let turns =
            |slot: &mut Option<Arc<Semaphore>>, max| slot.get_or_insert_with(|| Arc::new(Semaphore::new(max))).clone();
        let workers = match (kind, lane) {
            (Kind::Request, Lane::Shared) => {
                Workers::shared(turns(&mut account.turns, limits.working_per_identity_max))
            }
            (Kind::Request, Lane::Lease) => Workers::leases(turns(&mut account.lease_turns, 1)),
            // Streams and responses are moved on by the sockets' threads.
            (Kind::Request, Lane::Masters) | (Kind::Stream | Kind::Response, _) => Workers::TRUSTED,
        };
        Ok(Entry { flow: self.clone(), identity, lane, kind, workers })
    }

    /// What is on its way.
    pub(crate) fn usage(&self) -> FlowUsage {
        let state = self.0.lock();
        let mut usage = FlowUsage { in_flight: state.shared + state.masters + state.leases, ..FlowUsage::default() };
        for account in state.identities.values() {
            usage.entered += account.entered;
            usage.waiting += account.waiting.iter().map(VecDeque::len).sum::<usize>();
            usage.streams += account.streams;
        }
        usage
    }
}

impl Entry {
    /// Who does the work of this request, and in which turns.
    pub(crate) fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Waits for this request's turn.
    pub(crate) async fn admit(&self) -> Place {
        let admitted = {
            let mut state = self.flow.0.lock();
            // A later request of an identity does not overtake its earlier ones, but for leases and administrators.
            let lane = self.lane as usize;
            if (self.lane != Lane::Shared || state.account(&self.identity).waiting[lane].is_empty())
                && let Some(taken) = state.take(&self.identity, self.lane)
            {
                return Place { flow: self.flow.clone(), identity: self.identity.clone(), taken };
            }
            let (sender, admitted) = oneshot::channel();
            let account = state.account(&self.identity);
            let entered = account.entered;
            let waiting = &mut account.waiting[lane];
            let has_turn = !waiting.is_empty();
            // More than there are requests: some belong to clients that have left, behind one that waits.
            if waiting.len() > entered {
                waiting.retain(|sender| !sender.is_closed());
            }
            waiting.push_back(sender);
            if !has_turn {
                state.turns[lane].push_back(self.identity.clone());
            }
            admitted
        };
        admitted.await.expect("a waiting request is dropped by its own future only, which is then not polled")
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = self.flow.0.lock();
        let account = state.account(&self.identity);
        match self.kind {
            Kind::Request => account.entered -= 1,
            Kind::Stream => account.streams -= 1,
            Kind::Response => account.responses -= 1,
        }
        state.forget_if_idle(&self.identity);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut passed = Vec::new();
        let mut state = self.flow.0.lock();
        match self.taken {
            Taken::Shared => state.shared -= 1,
            Taken::Masters => state.masters -= 1,
            Taken::Leases => state.leases -= 1,
        }
        let account = state.account(&self.identity);
        account.in_flight -= 1;
        account.leases -= usize::from(self.taken == Taken::Leases);
        state.forget_if_idle(&self.identity);
        state.pass_on(&self.flow, &mut passed);
        drop(state);
        for (waiting, place) in passed {
            // A request whose client left gives its place back right here, outside the lock.
            drop(waiting.send(place));
        }
    }
}

impl State {
    fn account(&mut self, identity: &Arc<str>) -> &mut Account {
        self.identities.entry(identity.clone()).or_default()
    }

    /// Takes a place for a request of this lane, if there is one.
    fn take(&mut self, identity: &Arc<str>, lane: Lane) -> Option<Taken> {
        let limits = self.limits;
        let account = self.account(identity);
        let may_share = lane == Lane::Masters || account.in_flight < limits.in_flight_per_identity_max;
        let may_lease = account.leases < limits.leases_per_identity_max;
        let taken = match lane {
            _ if may_share && self.shared < limits.shared_max => {
                self.shared += 1;
                Taken::Shared
            }
            Lane::Masters if self.masters < limits.masters_max => {
                self.masters += 1;
                Taken::Masters
            }
            Lane::Lease if may_lease && self.leases < limits.leases_max => {
                self.leases += 1;
                Taken::Leases
            }
            _ => return None,
        };
        let account = self.account(identity);
        account.in_flight += 1;
        account.leases += usize::from(taken == Taken::Leases);
        Some(taken)
    }

    /// Gives places to those who wait until nobody fits: those of leases and administrators to them, and the shared ones to
    /// the lanes in turn, as otherwise a crowd in one of them would keep them from the others.
    fn pass_on(&mut self, flow: &Flow, passed: &mut Vec<(oneshot::Sender<Place>, Place)>) {
        while self.masters < self.limits.masters_max && self.pass_one(Lane::Masters, flow, passed) {}
        while self.leases < self.limits.leases_max && self.pass_one(Lane::Lease, flow, passed) {}
        let mut refused = 0;
        while refused < Lane::ALL.len() && self.shared < self.limits.shared_max {
            let lane = Lane::ALL[self.next_lane];
            self.next_lane = (self.next_lane + 1) % Lane::ALL.len();
            refused = if self.pass_one(lane, flow, passed) { 0 } else { refused + 1 };
        }
    }

    /// Gives a place to the first identity of a lane that may have one; says whether there was one.
    fn pass_one(&mut self, lane: Lane, flow: &Flow, passed: &mut Vec<(oneshot::Sender<Place>, Place)>) -> bool {
        for _ in 0..self.turns[lane as usize].len() {
            let Some(identity) = self.turns[lane as usize].pop_front() else { return false };
            let waiting = &mut self.account(&identity).waiting[lane as usize];
            // Those whose client has left make way for those behind them.
            while waiting.front().is_some_and(oneshot::Sender::is_closed) {
                waiting.pop_front();
            }
            if waiting.is_empty() {
                self.forget_if_idle(&identity);
                continue;
            }
            let Some(taken) = self.take(&identity, lane) else {
                self.turns[lane as usize].push_back(identity);
                continue;
            };
            let waiting = &mut self.account(&identity).waiting[lane as usize];
            let admitted = waiting.pop_front().expect("it was looked at above");
            if !waiting.is_empty() {
                self.turns[lane as usize].push_back(identity.clone());
            }
            passed.push((admitted, Place { flow: flow.clone(), identity, taken }));
            return true;
        }
        false
    }

    fn forget_if_idle(&mut self, identity: &Arc<str>) {
        let is_idle = self.identities.get(identity).is_some_and(|account| {
            account.entered == 0
                && account.in_flight == 0
                && account.streams == 0
                && account.responses == 0
                && account.waiting.iter().all(VecDeque::is_empty)
        });
        if is_idle {
            self.identities.remove(identity);
        }
    }
}

#[cfg(test)]
mod tests;
