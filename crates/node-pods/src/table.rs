//! What others on the node look up of its pods: names, labels, addresses, readiness.
//!
//! Every worker keeps the record of its pod here, from before its first container runs until nothing of it will run again. Whoever
//! answers names or leads Services to pods subscribes to changes, and takes all records at once: there are as many as the node has pods.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_edge::services::Protocol;
use tokio::sync::watch;

/// A pod of this node, as its worker last reported it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRecord {
    /// uid of the Pod object.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels, which change while it runs.
    pub labels: BTreeMap<String, String>,
    /// `spec.hostname`.
    pub hostname: Option<String>,
    /// `spec.subdomain`.
    pub subdomain: Option<String>,
    /// `status.podIPs`: none before its first container was made.
    pub addresses: Vec<IpAddr>,
    /// Whether the addresses are the node's: the pod has none of its own.
    pub is_host_network: bool,
    /// Whether its condition `Ready` is true.
    pub is_ready: bool,
    /// Whether its containers are to stop for good.
    pub is_ending: bool,
    /// What its containers and sidecars say they listen on, in their order.
    pub ports: Vec<PodPort>,
}

/// `ports` of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// What a Service may call it.
    pub name: Option<String>,
    /// Its number.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// The records of all pods of the node; cheap to clone, every clone is the same table.
#[derive(Clone, Debug, Default)]
pub struct PodTable {
    records: Arc<Mutex<BTreeMap<String, Arc<PodRecord>>>>,
    changes: Arc<watch::Sender<u64>>,
}

impl PodTable {
    /// Puts a pod's record in, in place of the one before.
    pub fn set(&self, record: PodRecord) {
        let mut records = self.lock();
        if records.get(&record.uid).is_some_and(|known| **known == record) {
            return;
        }
        records.insert(record.uid.clone(), Arc::new(record));
        self.note_change(&records);
    }

    /// Removes the record of a pod that is over; nothing where there is none.
    pub fn remove(&self, uid: &str) {
        let mut records = self.lock();
        if records.remove(uid).is_some() {
            self.note_change(&records);
        }
    }

    /// Removes all that are not to stay.
    pub(crate) fn retain(&self, mut stays: impl FnMut(&str) -> bool) {
        let mut records = self.lock();
        let before = records.len();
        records.retain(|uid, _| stays(uid));
        if records.len() != before {
            self.note_change(&records);
        }
    }

    /// All records, by uid.
    pub fn snapshot(&self) -> Vec<Arc<PodRecord>> {
        self.lock().values().cloned().collect()
    }

    /// A number that is another one after every change. A change that was seen here is in the next snapshot.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<PodRecord>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only with the table locked, so that the numbers are in the order of the changes.
    fn note_change(&self, _locked: &MutexGuard<'_, BTreeMap<String, Arc<PodRecord>>>) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(uid: &str, is_ready: bool) -> PodRecord {
        PodRecord { uid: uid.to_owned(), is_ready, ..PodRecord::default() }
    }

    #[test]
    fn subscribers_hear_of_changes_and_of_nothing_else() {
        let table = PodTable::default();
        let mut changes = table.clone().subscribe();
        let is_seen = |changes: &mut watch::Receiver<u64>| {
            let is_news = changes.has_changed().unwrap();
            changes.mark_unchanged();
            is_news
        };
        table.set(record("a", false));
        assert!(is_seen(&mut changes), "a new pod");
        table.set(record("a", false));
        assert!(!is_seen(&mut changes), "the same once more");
        table.set(record("a", true));
        assert!(is_seen(&mut changes), "it is ready now");
        table.remove("b");
        assert!(!is_seen(&mut changes), "a pod that was never there");
        table.retain(|uid| uid == "a");
        assert!(!is_seen(&mut changes), "nothing to remove");
        table.remove("a");
        assert!(is_seen(&mut changes), "it is over");
    }

    #[test]
    fn a_snapshot_is_of_one_moment_and_in_order() {
        let table = PodTable::default();
        for uid in ["c", "a", "b"] {
            table.set(record(uid, false));
        }
        let before = table.snapshot();
        table.retain(|uid| uid != "b");
        table.set(record("a", true));
        let list = |records: &[Arc<PodRecord>]| -> Vec<(String, bool)> {
            records.iter().map(|record| (record.uid.clone(), record.is_ready)).collect()
        };
        assert_eq!(list(&before), [("a".into(), false), ("b".into(), false), ("c".into(), false)]);
        assert_eq!(list(&table.snapshot()), [("a".into(), true), ("c".into(), false)]);
    }
}
