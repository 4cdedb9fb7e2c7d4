//! Pods on hold: the hub does not know them, and is not the one that started them. They run on until a person decides, and whoever
//! would take their place waits: two programs that drive one machine are worse than an old one.

use bytes::Bytes;
use node_client::{Notice, PODS_ON_HOLD};
use tracing::warn;

use super::{Manager, NAMES_SHOWN_MAX};
use crate::model::Pod;

const HOW_TO_DECIDE: &str = "`selvedge node accept-hub` on the node stops it";

impl Manager {
    /// Puts a pod on hold or takes it off.
    pub(super) fn set_hold(&mut self, uid: &str, on_hold: bool) {
        let Some(entry) = self.pods.get_mut(uid).filter(|entry| entry.on_hold != on_hold) else { return };
        entry.on_hold = on_hold;
        entry.inbox.hold(on_hold);
        if on_hold {
            let text = format!(
                "The hub that has this pod no more is not the one that started it; it is kept until a person decides: {HOW_TO_DECIDE}"
            );
            self.shared.events.pod_warning(&entry.pod, None, "OnHold", text);
            warn!(pod = %entry.pod.full_name(), "A pod is not known to a hub that was restored, or is another; it runs on.");
        }
    }

    /// Shows which pods are on hold, on the Node and in the node's status.
    pub(super) fn report_holds(&self) {
        let mut names: Vec<String> =
            self.pods.values().filter(|entry| entry.on_hold).map(|entry| entry.pod.full_name()).collect();
        let (count, waiting) = (names.len(), self.held_back.len());
        names.truncate(NAMES_SHOWN_MAX);
        let successors = if waiting > 0 { format!("; {waiting} pods that succeed them wait") } else { String::new() };
        let notice = (count > 0).then(|| Notice {
            reason: "HubChanged",
            message: format!(
                "the hub was restored or is another one, and does not know {count} pods that run here: {}; they run on until it does{successors}; \
                 `selvedge node accept-hub` on the node stops them",
                names.join(", ")
            ),
        });
        if let Some(notice) = &notice {
            self.shared.context.registry.error(notice.message.clone());
        }
        self.shared.context.registry.set_condition(PODS_ON_HOLD, notice);
    }

    /// A person decided that what the hub says now counts: stops what is on hold, and answers which pods that were.
    pub(super) fn release_holds(&mut self) -> Vec<String> {
        let held: Vec<String> =
            self.pods.iter().filter(|(_, entry)| entry.on_hold).map(|(uid, _)| uid.clone()).collect();
        let names = held.iter().filter_map(|uid| Some(self.pods.get(uid)?.pod.full_name())).collect();
        for uid in &held {
            self.deleted(uid);
            if let Some(entry) = self.pods.get_mut(uid) {
                entry.on_hold = false;
                entry.is_ending = true;
            }
        }
        self.report_holds();
        names
    }

    /// Whether a pod must wait for one on hold; it is kept until then. What runs or is to end does not wait.
    pub(super) fn hold_back(&mut self, uid: &str, pod: &Pod, json: &Bytes) -> bool {
        let is_new = !self.pods.contains_key(uid) && !self.orphans.contains_key(uid);
        let held = self.pods.values().find(|entry| (entry.on_hold || entry.is_ending) && succeeds(pod, &entry.pod));
        let must_wait = is_new && pod.metadata.deletion_timestamp.is_none();
        let Some(held) = held.filter(|_| must_wait) else {
            self.held_back.remove(uid);
            return false;
        };
        if self.held_back.insert(uid.to_owned(), json.clone()).is_none() {
            let text = format!(
                "Pod {} (uid {}), whose place this one takes, was started by another hub and runs on; {HOW_TO_DECIDE}",
                held.pod.full_name(),
                held.pod.metadata.uid
            );
            warn!(pod = %pod.full_name(), "{text}");
            self.shared.events.pod_warning(pod, None, "WaitsForPodOnHold", text);
            self.report_holds();
        }
        true
    }

    /// Starts what waited for a pod that has ended.
    pub(super) fn start_held_back(&mut self) {
        for (uid, json) in std::mem::take(&mut self.held_back) {
            self.upsert(uid, json, false);
        }
    }
}

/// Whether two pods are of one name, or of one DaemonSet, which has one pod on a node.
fn succeeds(next: &Pod, held: &Pod) -> bool {
    let (next, held) = (&next.metadata, &held.metadata);
    let of_one_set = next.daemon_set().is_some() && next.daemon_set() == held.daemon_set();
    next.uid != held.uid && next.namespace == held.namespace && (next.name == held.name || of_one_set)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_successor_has_the_name_or_the_daemon_set() {
        let pod = |uid: &str, name: &str, set: Option<&str>| {
            let owners: Vec<_> = set
                .map(|name| json!({"kind": "DaemonSet", "name": name, "uid": "d", "controller": true}))
                .into_iter()
                .collect();
            let metadata = json!({"uid": uid, "name": name, "namespace": "n", "ownerReferences": owners});
            Pod::from_json(json!({"metadata": metadata, "spec": {"containers": []}}).to_string().as_bytes()).unwrap()
        };
        let held = pod("1", "a", Some("set"));
        for (next, expected) in [
            (pod("2", "a", None), true),
            (pod("2", "b", Some("set")), true),
            (pod("2", "b", Some("other")), false),
            (pod("2", "b", None), false),
            (pod("1", "a", Some("set")), false),
        ] {
            assert_eq!(succeeds(&next, &held), expected, "{:?}", next.metadata.name);
        }
        assert!(!succeeds(&pod("2", "b", None), &pod("1", "a", None)));
    }
}
