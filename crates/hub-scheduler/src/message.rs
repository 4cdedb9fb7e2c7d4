//! Why a pod is not placed, in the words of Kubernetes 1.36: people and programs look for them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::decide::Diagnosis;
use crate::filters::{Reason, Rejection};
use crate::pod::Demand;

/// `reason` of the condition and of the Event of a pod that no node suits.
pub const UNSCHEDULABLE: &str = "Unschedulable";
/// `reason` of the condition of a pod that could not be bound.
pub const SCHEDULER_ERROR: &str = "SchedulerError";
/// There is no node at all.
pub const NO_NODES: &str = "no nodes available to schedule pods";
/// What upstream's plugin for device claims says of every pod before preemption is tried; from 1.37 on it keeps silent.
const NO_CLAIMS: &str = "no new claims to deallocate";
/// A node that the pod does not name.
const NOT_NAMED: &str = "node(s) didn't satisfy plugin(s) [NodeAffinity]";
/// A node where nobody could make space.
pub const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
/// A node where nobody less important is.
pub const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
/// A pod that takes nobody's place.
pub const NEVER_PREEMPTS: &str = "not eligible due to preemptionPolicy=Never.";
/// A pod that took somebody's place already.
pub const WAITS_FOR_VICTIMS: &str = "not eligible due to a terminating pod on the nominated node.";

/// Longest message of an Event.
const EVENT_BYTES_MAX: usize = 1024;

/// Reasons, and how many nodes each holds for.
#[derive(Debug, Default)]
pub struct Reasons(BTreeMap<Cow<'static, str>, usize>);

impl Reasons {
    /// A reason holds for so many nodes more.
    pub fn add(&mut self, reason: impl Into<Cow<'static, str>>, nodes: usize) {
        if nodes > 0 {
            *self.0.entry(reason.into()).or_default() += nodes;
        }
    }

    /// A node was rejected.
    pub fn reject(&mut self, demand: &Demand, rejection: &Rejection) {
        rejection.reasons().for_each(|number| self.add(text(demand, number), 1));
    }

    /// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s).`
    pub fn sentence(&self, nodes: usize) -> String {
        let mut parts: Vec<String> = self.0.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        // By the text, numbers and all.
        parts.sort();
        let mut sentence = format!("0/{nodes} nodes are available:");
        if !parts.is_empty() {
            sentence.push_str(&format!(" {}.", parts.join(", ")));
        }
        sentence
    }
}

/// The words of a reason by its number.
fn text(demand: &Demand, number: usize) -> Cow<'static, str> {
    const TEXTS: [(Reason, &str); Reason::Scalar as usize] = [
        (Reason::Unschedulable, "node(s) were unschedulable"),
        (Reason::Taint, "node(s) had untolerated taint(s)"),
        (Reason::NodeAffinity, "node(s) didn't match Pod's node affinity/selector"),
        (Reason::Ports, "node(s) didn't have free ports for the requested pod ports"),
        (Reason::Pods, "Too many pods"),
        (Reason::Cpu, "Insufficient cpu"),
        (Reason::Memory, "Insufficient memory"),
        (Reason::Storage, "Insufficient ephemeral-storage"),
        (
            Reason::ExclusiveClaim,
            "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
        ),
        (Reason::VolumeUnreachable, "node(s) didn't match PersistentVolume's node affinity"),
        (Reason::NoVolume, "node(s) didn't find available persistent volumes to bind"),
        (Reason::VolumeMissing, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"),
        (Reason::NoSpace, "node(s) did not have enough free storage"),
        (Reason::SpreadLabel, "node(s) didn't match pod topology spread constraints (missing required label)"),
        (Reason::Spread, "node(s) didn't match pod topology spread constraints"),
        (Reason::Affinity, "node(s) didn't match pod affinity rules"),
        (Reason::AntiAffinity, "node(s) didn't match pod anti-affinity rules"),
        (Reason::ExistingAntiAffinity, "node(s) didn't satisfy existing pods anti-affinity rules"),
    ];
    match TEXTS.iter().find(|(reason, _)| *reason as usize == number) {
        Some((_, text)) => Cow::Borrowed(text),
        None => {
            let scalar = demand.requests.scalars.get(number.saturating_sub(Reason::Scalar as usize));
            Cow::Owned(format!("Insufficient {}", scalar.map_or("resources", |(name, _)| name)))
        }
    }
}

/// The whole message of a pod that was not placed. `preemption` says why nobody's place can be taken; it is empty where
/// somebody's is.
pub fn unschedulable(demand: &Demand, diagnosis: &Diagnosis, preemption: &str) -> String {
    let mut reasons = Reasons::default();
    let mut message = match &diagnosis.pre {
        Some(pre) => format!("{} {}.", reasons.sentence(diagnosis.nodes), pre.message),
        None => {
            diagnosis.rejected.iter().for_each(|(_, rejection)| reasons.reject(demand, rejection));
            if diagnosis.names_nodes {
                reasons.add(NOT_NAMED, diagnosis.nodes.saturating_sub(diagnosis.rejected.len()));
            }
            reasons.sentence(diagnosis.nodes)
        }
    };
    if !preemption.is_empty() {
        message.push_str(&format!(" {NO_CLAIMS}, preemption: {preemption}"));
    }
    message
}

/// A message as long as an Event may have it.
pub fn for_event(message: &str) -> Cow<'_, str> {
    const SUFFIX: &str = " ...";
    if message.len() <= EVENT_BYTES_MAX {
        return Cow::Borrowed(message);
    }
    let end = message.floor_char_boundary(EVENT_BYTES_MAX - SUFFIX.len());
    Cow::Owned(format!("{}{SUFFIX}", &message[..end]))
}

#[cfg(test)]
mod tests;
