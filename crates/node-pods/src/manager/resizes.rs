//! Pods whose resources are to change: the node gives what it has.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use node_runtime::{ContainerStatus, PodRuntime};

use super::{Manager, PodEntry};
use crate::admission::{self, Resources};
use crate::model::Pod;
use crate::resize::{self, DEFERRED, INFEASIBLE, ResizePending};
use crate::status::runs_ephemeral;

/// Whether a runtime changes what containers get while they run.
pub(super) fn are_made_by(runtime: Option<&Arc<dyn PodRuntime>>) -> bool {
    runtime.is_some_and(|runtime| runs_ephemeral(runtime.handler()))
}

/// A pod that ran before, with what its containers have been given, whatever is desired now: that is looked at as soon as all pods are
/// known.
pub(super) fn as_given(pod: Pod, containers: &[ContainerStatus]) -> Pod {
    let given = resize::with_resources_in_force(pod.clone(), containers);
    match resize::is_same(&given, &pod) {
        true => pod,
        false => {
            let pending = ResizePending { reason: DEFERRED, message: String::new() };
            Pod { resize_pending: Some(pending), ..given }
        }
    }
}

impl Manager {
    /// A changed pod with what the node gives it: the resources that are desired, or else those it has with the reason why. The
    /// former are counted from then on.
    pub(super) fn sized(&self, uid: &str, known: &Pod, mut desired: Pod) -> (Pod, Option<Resources>) {
        desired.resize_pending = None;
        if resize::is_same(known, &desired) {
            return (desired, None);
        }
        let (requested, node) = (admission::requests(&desired), self.allocatable());
        let pending = if let Some((name, amount, all)) = admission::missing(&requested, &Resources::default(), &node) {
            let message = format!("Node didn't have enough capacity: {name}, requested: {amount}, capacity: {all}");
            Some(ResizePending { reason: INFEASIBLE, message })
        } else if let Some((name, ..)) = admission::missing(&requested, &self.used_beside(uid), &node) {
            Some(ResizePending { reason: DEFERRED, message: format!("Node didn't have enough resource: {name}") })
        } else {
            None
        };
        match pending {
            None => (desired, Some(requested)),
            Some(pending) => {
                let mut given = resize::with_resources_of(desired, known);
                given.resize_pending = Some(pending);
                (given, None)
            }
        }
    }

    /// What other pods take.
    fn used_beside(&self, uid: &str) -> Resources {
        let mut used = Resources::default();
        let others = self.pods.iter().filter(|(other, entry)| *other != uid && !entry.is_over.load(Ordering::Relaxed));
        others.for_each(|(_, entry)| used.add(&entry.requests));
        used
    }

    /// Looks again at what the node had not got: it may have by now.
    pub(super) fn retry_resizes(&mut self) {
        let waits = |(uid, entry): (&String, &PodEntry)| entry.pod.resize_pending.is_some().then(|| uid.clone());
        let waiting: Vec<String> = self.pods.iter().filter_map(waits).collect();
        for uid in waiting {
            let Some(entry) = self.pods.get(&uid) else { continue };
            // It was readable before.
            let Ok(mut desired) = Pod::from_json(&entry.json) else { continue };
            desired.metadata = entry.pod.metadata.clone();
            let known = entry.pod.clone();
            let (pod, requests) = self.sized(&uid, &known, desired);
            if let (true, Some(entry)) = (pod != known, self.pods.get_mut(&uid)) {
                entry.requests = requests.unwrap_or_else(|| entry.requests.clone());
                entry.pod = pod.clone();
                entry.inbox.update(pod);
            }
        }
    }
}
