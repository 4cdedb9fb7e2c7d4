//! How much a node may store: a node that was broken into must not fill the hub's memory and disk with what is its own.
//!
//! Each object that a node writes has a bound of its own, far above what a kubelet writes and far below what the API takes;
//! events have an allowance of bytes as well, because each is kept for an hour, and mirror pods a number. What a node writes
//! besides is one object of each kind, its Node and its Lease, and the status of what the hub assigns to it; requests for certificates are counted in
//! [`NodeRestriction`](crate::NodeRestriction).

use std::collections::HashMap;
use std::io;

use api_edge::{pod_status_bytes_max, resources::ASSIGNMENT_STATUS_BYTES_MAX};
use base_retry::{Allowance, AllowanceLaw};
use machinery_kinds::FieldError;
use machinery_server::{Admission, AdmissionError, AdmissionRequest, GROUP_BOOTSTRAPPERS, Operation};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

/// A message of an event has 1,024 bytes at most.
const EVENT_BYTES_MAX: usize = 16 * 1024;
const LEASE_BYTES_MAX: usize = 4 * 1024;
/// A manifest on a node's own disk has a few KiB; with its status that is 7 MiB for as many pods as a node may have.
const POD_BYTES_MAX: usize = 32 * 1024;
/// A kubelet reports fifty images at most, which is most of what it says of itself.
const NODE_BYTES_MAX: usize = 512 * 1024;
/// The request in it has 16 KiB at most, as base64.
const CSR_BYTES_MAX: usize = 32 * 1024;

/// As many as Kubernetes runs on a node.
const MIRROR_PODS_MAX: usize = 110;

/// KiB of events that a node may write: some 7 MiB in the hour that they are kept, which is thousands of a kubelet's. A new
/// event costs each KiB that it begins, a change one and each KiB that it adds.
const EVENTS_KIB: AllowanceLaw = AllowanceLaw { per_second: 2, burst: 400 };

/// Nodes that are counted at a time. Those whose burst is whole again need not be.
const COUNTED_MAX: usize = 65_536;

/// Bounds what a node stores.
#[derive(Debug, Default)]
pub struct NodeQuota {
    events: Mutex<HashMap<String, Allowance>>,
}

impl Admission for NodeQuota {
    fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), AdmissionError> {
        let is_write = matches!(request.operation, Operation::Create | Operation::Update);
        let node = request.identity.node_name();
        if !is_write || (node.is_none() && !request.identity.is_in(GROUP_BOOTSTRAPPERS)) {
            return Ok(());
        }
        let (checked, bytes_max) = match request.target() {
            ("", "events", _) | ("events.k8s.io", "events", _) => (object, EVENT_BYTES_MAX),
            ("coordination.k8s.io", "leases", _) => (object, LEASE_BYTES_MAX),
            ("", "pods", None) => (object, POD_BYTES_MAX),
            ("", "pods", Some("status")) => (&object["status"], pod_status_bytes_max(containers(object))),
            ("", "nodes", _) => (object, NODE_BYTES_MAX),
            (api_edge::GROUP, "nodeassignments", Some("status")) => (&object["status"], ASSIGNMENT_STATUS_BYTES_MAX),
            ("certificates.k8s.io", "certificatesigningrequests", _) => (object, CSR_BYTES_MAX),
            _ => return Ok(()),
        };
        let bytes = bytes_of(checked);
        if bytes > bytes_max {
            return Err(AdmissionError::Invalid(vec![FieldError::too_long("[]", bytes_max)]));
        }
        let Some(node) = node else { return Ok(()) };
        match request.target() {
            (_, "events", _) if !request.dry_run => {
                let grown = bytes.saturating_sub(request.old.map_or(0, bytes_of));
                self.charge_event(node, 1 + grown as u64 / 1024, Instant::now())
            }
            ("", "pods", None) if request.operation == Operation::Create => check_mirror_pods(request, node),
            _ => Ok(()),
        }
    }
}

/// How many containers a pod has that is not its node's own.
fn containers(pod: &Value) -> usize {
    if crate::pods::is_mirror(pod) {
        return 0;
    }
    let kinds = ["containers", "initContainers", "ephemeralContainers"];
    kinds.iter().filter_map(|kind| Some(pod["spec"][kind].as_array()?.len())).sum()
}

impl NodeQuota {
    fn charge_event(&self, node: &str, kib: u64, now: Instant) -> Result<(), AdmissionError> {
        let mut events = self.events.lock();
        if events.len() >= COUNTED_MAX && !events.contains_key(node) {
            events.retain(|_, left| !left.is_full(EVENTS_KIB, now));
            if events.len() >= COUNTED_MAX {
                events.clear();
            }
        }
        let left = events.entry(node.to_owned()).or_insert_with(|| Allowance::full(EVENTS_KIB, now));
        if left.left(EVENTS_KIB, now) < 1000 {
            let rate = EVENTS_KIB.per_second;
            return Err(AdmissionError::TooMany(format!(
                "node {node:?} writes more than {rate} KiB of events a second; try again later"
            )));
        }
        left.charge(EVENTS_KIB, kib, now);
        Ok(())
    }
}

fn check_mirror_pods(request: &AdmissionRequest<'_>, node: &str) -> Result<(), AdmissionError> {
    let pods = request.store.snapshot("/pods");
    // A node with few pods has few mirror pods, and nothing is looked at.
    if pods.iter_where(("spec.nodeName", node), None, None).take(MIRROR_PODS_MAX).count() < MIRROR_PODS_MAX {
        return Ok(());
    }
    // Whatever else mentions the annotation counts as well, which harms nobody who is below the bound.
    let mirrors = pods.iter_where(("spec.nodeName", node), None, None).filter(|pod| {
        let bytes: &[u8] = pod.bytes.as_ref();
        bytes.windows(MIRROR.len()).any(|window| window == MIRROR)
    });
    if mirrors.count() < MIRROR_PODS_MAX {
        return Ok(());
    }
    Err(AdmissionError::TooMany(format!(
        "node {node:?} has {MIRROR_PODS_MAX} mirror pods, which is as many as it may have"
    )))
}

const MIRROR: &[u8] = b"\"kubernetes.io/config.mirror\"";

/// The length of an object as JSON, without making the text.
fn bytes_of(object: &Value) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, object) {
        Ok(()) => count.0,
        // Nothing in it fails; if something did, the object is not taken.
        Err(_) => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_status_has_space_for_the_containers_that_the_hub_knows() {
        let pod = |count: usize| {
            let named: Vec<Value> =
                (0..count).map(|number| serde_json::json!({"name": format!("c{number}")})).collect();
            serde_json::json!({"metadata": {}, "spec": {"containers": named, "initContainers": [{"name": "i"}]}})
        };
        assert_eq!((containers(&pod(1)), containers(&pod(90))), (2, 91));
        let mut mirror = pod(90);
        mirror["metadata"]["annotations"] = serde_json::json!({"kubernetes.io/config.mirror": "x"});
        assert_eq!(containers(&mirror), 0);
    }

    #[test]
    fn events_have_a_burst_and_a_rate() {
        let (quota, start) = (NodeQuota::default(), Instant::now());
        let taken =
            |node: &str, kib: u64, at: Instant| (0..1000).filter(|_| quota.charge_event(node, kib, at).is_ok()).count();
        assert_eq!(taken("gw-1", 1, start), 400);
        assert_eq!(taken("gw-2", 16, start), 25, "another node has its own, and bytes count");
        assert_eq!(taken("gw-1", 1, start + Duration::from_secs(3)), 6);
        assert_eq!(taken("gw-1", 1, start + Duration::from_secs(3600)), 400);
    }
}
