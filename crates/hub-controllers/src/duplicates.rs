//! Two boxes that speak as one node are named: the condition `DuplicateNode` of their Node, and an Event.
//!
//! A node's name is bound to one key, so a second box gets there only with a copy of the first one's data directory: a memory
//! card that was cloned after it had joined. Both then run every pod, and each overwrites what the other reports. Nothing is
//! stopped for it, as nobody here knows which of them is the right one.
//!
//! What shows it is the node's boot id: a reboot brings one that was never there before, so one that *comes back* is another
//! box's. The machine id does not show it, as a clone has the same.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::warn;

use hub_runtime::Context;
use hub_runtime::ReconcileError;
use hub_runtime::events::seconds;
use hub_runtime::kinds::Kind;
use hub_runtime::views::{ConditionView, NodeInfoView, NodeView, condition};
use hub_runtime::writer::Target;
use hub_runtime::{Event, Next, ObjectRef, Queue, Reconciler};

/// A node reports at least every five minutes, so two of them take turns within this time.
const WINDOW: Duration = Duration::from_secs(10 * 60);
/// Boxes of one name that are remembered. Two suffice to see that one comes back.
const BOXES_MAX: usize = 4;
/// After a write that met another.
const CONFLICT_RETRY: Duration = Duration::from_millis(500);

/// Of nodes; whoever reports a node's own conditions leaves it alone.
const CONDITION: &str = "DuplicateNode";
const REASON_TAKE_TURNS: &str = "BoxesTakeTurns";
const REASON_ONE_BOX: &str = "OneBoxReports";

/// The controller.
pub(crate) struct Duplicates {
    context: Context,
    nodes: Mutex<HashMap<Box<str>, Reporters>>,
}

/// Which box reports as a node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reporter {
    machine_id: String,
    boot_id: String,
}

impl Reporter {
    /// None of a node that says nothing of itself.
    fn of(info: &NodeInfoView<'_>) -> Option<Self> {
        let (machine_id, boot_id) = (info.machine_id.to_string(), info.boot_id.to_string());
        (!boot_id.is_empty()).then_some(Self { machine_id, boot_id })
    }
}

/// The boxes that have reported as one node lately.
#[derive(Debug, Default)]
struct Reporters {
    /// With when each was heard last; the one that reports now is the last one.
    boxes: Vec<(Reporter, Instant)>,
    /// When a box came back last, and which was before it.
    returned: Option<(Instant, Reporter)>,
    /// Since when reports are noted: a hub that has just started has not heard both of two boxes.
    since: Option<Instant>,
}

impl Reporters {
    /// A node was reported by a box; whether that says something new.
    fn note(&mut self, reporter: Reporter, now: Instant) -> bool {
        self.since.get_or_insert(now);
        let known = self.boxes.iter().position(|(one, _)| *one == reporter);
        if known.is_some_and(|known| known + 1 == self.boxes.len()) {
            self.boxes.last_mut().expect("one was found").1 = now;
            return false;
        }
        let before = self.boxes.last().map(|(before, _)| before.clone());
        let is_return = known.is_some_and(|known| now.duration_since(self.boxes.remove(known).1) <= WINDOW);
        self.boxes.push((reporter, now));
        if self.boxes.len() > BOXES_MAX {
            self.boxes.remove(0);
        }
        if let (true, Some(before)) = (is_return, before) {
            self.returned = Some((now, before));
        }
        is_return
    }

    /// For how long it is too early to say that there is one box only.
    fn undecided(&self, now: Instant) -> Option<Duration> {
        WINDOW.checked_sub(now.duration_since(self.since?)).filter(|left| !left.is_zero())
    }

    /// The two boxes that take turns, and for how long that is known.
    fn turns(&self, now: Instant) -> Option<(&Reporter, &Reporter, Duration)> {
        let (at, before) = self.returned.as_ref()?;
        let left = WINDOW.checked_sub(now.duration_since(*at))?;
        Some((&self.boxes.last()?.0, before, left))
    }
}

impl Duplicates {
    pub fn new(context: Context) -> Self {
        Self { context, nodes: Mutex::default() }
    }

    fn observe_node(&self, node: &ObjectRef, queue: &Queue<Box<str>>) {
        let Some(view) = node.view_or_log::<NodeView<'_>>() else { return };
        let Some(reporter) = Reporter::of(&view.status.node_info) else { return };
        let is_news = self.nodes.lock().entry(node.name().into()).or_default().note(reporter, Instant::now());
        if is_news || is_marked(&view) {
            queue.add(node.name().into());
        }
    }
}

fn is_marked(node: &NodeView<'_>) -> bool {
    condition(&node.status.conditions, CONDITION).is_some_and(|condition| condition.status != "False")
}

impl Reconciler for Duplicates {
    type Key = Box<str>;

    fn name(&self) -> &'static str {
        "duplicates"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Node]
    }

    fn observe(&self, event: &Event, queue: &Queue<Box<str>>) {
        match event {
            Event::Listed(_, nodes) => {
                self.nodes.lock().retain(|name, _| nodes.iter().any(|node| node.name() == &**name));
                nodes.iter().for_each(|node| self.observe_node(node, queue));
            }
            Event::Changed(change) => match &change.current {
                Some(node) => {
                    if change.previous.is_none() {
                        // What was known of another node of this name is not known of this one.
                        self.nodes.lock().remove(node.name());
                    }
                    self.observe_node(node, queue);
                }
                None => {
                    self.nodes.lock().remove(change.newest().name());
                }
            },
        }
    }

    async fn reconcile(&self, name: &Box<str>) -> Result<Next, ReconcileError> {
        let Context { reader, writer, recorder, .. } = &self.context;
        let Some(object) = reader.get(Kind::Node, "", name) else { return Ok(Next::OnChange) };
        let node: NodeView<'_> = object.view()?;
        let (turns, undecided) = {
            let (nodes, now) = (self.nodes.lock(), Instant::now());
            let reporters = nodes.get(name);
            let turns = reporters.and_then(|reporters| reporters.turns(now));
            let turns = turns.map(|(one, other, left)| (one.clone(), other.clone(), left));
            (turns, reporters.and_then(|reporters| reporters.undecided(now)))
        };
        let next = turns.as_ref().map_or(Next::OnChange, |(_, _, left)| Next::After(*left));
        let due = match &turns {
            Some((one, other, _)) => ("True", REASON_TAKE_TURNS, message(name, one, other)),
            None => ("False", REASON_ONE_BOX, "One box reports as this node.".to_owned()),
        };
        let current = condition(&node.status.conditions, CONDITION);
        if let (None, Some(left), true) = (&turns, undecided, is_marked(&node)) {
            return Ok(Next::After(left));
        }
        if is_right(current, due.0, turns.is_some()) {
            return Ok(next);
        }
        let now = self.context.clock.now();
        let written = writer.replace_status_of(Kind::Node, name, |node| with_condition(node, &due, now)).await?;
        if !written {
            return Ok(Next::After(CONFLICT_RETRY));
        }
        if turns.is_some() {
            warn!(node = &**name, "Two boxes take turns in reporting as one node.");
            let target = Target { namespace: "", name, uid: &node.metadata.uid };
            recorder.warning(Kind::Node, target, CONDITION, due.2);
        }
        Ok(next)
    }
}

/// Whether the condition says what it should. A node that never had a second box has none.
fn is_right(current: Option<&ConditionView<'_>>, due: &str, is_due: bool) -> bool {
    match current {
        Some(current) => current.status == *due,
        None => !is_due,
    }
}

fn message(name: &str, one: &Reporter, other: &Reporter) -> String {
    let is_clone = one.machine_id == other.machine_id;
    let shown = |reporter: &Reporter| format!("machine {}, boot {}", reporter.machine_id, reporter.boot_id);
    let how = if is_clone { "one is a copy of the other's disk" } else { "they share one identity" };
    format!(
        "two boxes report as node {name}: {} and {}; {how}, and both run its pods: stop one of them, run `selvedge reset` on it, and join it by another name",
        shown(one),
        shown(other)
    )
}

fn with_condition(mut node: Value, (status, reason, message): &(&str, &str, String), now: Timestamp) -> Value {
    let mut conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.retain(|condition| condition["type"] != CONDITION);
    conditions.push(json!({
        "type": CONDITION, "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": seconds(now), "lastTransitionTime": seconds(now),
    }));
    node["status"]["conditions"] = conditions.into();
    node
}

#[cfg(test)]
mod tests;
