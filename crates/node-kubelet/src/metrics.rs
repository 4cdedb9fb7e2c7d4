//! What an operator sees of the node on its page of metrics, under upstream's names where upstream has the metric.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_edge::status::NodeReport;
use base_observe::{Metrics, Sample, SampleKind};

use node_client::StatusRegistry;
use node_pods::Store;

/// Kubernetes' pod phases: each is shown, so that a graph has no holes.
const PHASES: [&str; 5] = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];

/// Shows what the node's parts report when they are read.
pub(crate) fn register(metrics: &Metrics, registry: &StatusRegistry, store: &Arc<Store>) {
    let of_report = |name: &str, help: &str, read: fn(&NodeReport) -> Vec<Sample>| {
        let registry = registry.clone();
        metrics.collect(name, help, SampleKind::Gauge, move || read(&registry.report()));
    };
    of_report("selvedge_node_pods", "Pods that the node holds, by phase", by_phase);
    of_report("kubelet_running_pods", "Pods that run, as upstream calls them", |report| {
        one(report.pods.iter().filter(|pod| pod.phase == "Running").count())
    });
    of_report("kubelet_node_name", "The node's name", |report| {
        vec![Sample::whole(1).with("node", report.node.clone())]
    });
    of_report("selvedge_node_pods_ready", "Pods whose containers are all ready", |report| {
        one(report.pods.iter().filter(|pod| pod.ready).count())
    });
    of_report("selvedge_node_pod_restarts", "Restarts of the containers of the pods that the node holds", |report| {
        vec![Sample::whole(report.pods.iter().map(|pod| u64::from(pod.restarts)).sum())]
    });
    of_report("selvedge_node_connected", "1 while there is a connection to the hub", |report| {
        one(usize::from(report.connected))
    });
    let connections = registry.clone();
    metrics.collect("selvedge_node_connections", "Connections made to the hub", SampleKind::Counter, move || {
        vec![Sample::whole(connections.connections())]
    });
    // Weak: the store must be closed when the kubelet has stopped, whoever still holds its figures.
    let store = Arc::downgrade(store);
    metrics.collect("selvedge_node_store_entries", "Entries of the offline store", SampleKind::Gauge, move || {
        store.upgrade().map(|store| one(store.entries())).unwrap_or_default()
    });
}

fn one(count: usize) -> Vec<Sample> {
    vec![Sample::whole(count as u64)]
}

fn by_phase(report: &NodeReport) -> Vec<Sample> {
    let mut phases: BTreeMap<&str, u64> = PHASES.iter().map(|phase| (*phase, 0)).collect();
    for pod in &report.pods {
        let phase = PHASES.iter().find(|phase| **phase == pod.phase).copied().unwrap_or("Unknown");
        *phases.entry(phase).or_default() += 1;
    }
    phases.into_iter().map(|(phase, count)| Sample::whole(count).with("phase", phase)).collect()
}

#[cfg(test)]
mod tests {
    use api_edge::status::PodReport;

    use super::*;

    #[test]
    fn pods_are_counted_by_phase_and_phases_without_pods_are_shown() {
        let pod = |phase: &str| PodReport { phase: phase.to_owned(), ..PodReport::default() };
        let report = NodeReport { pods: ["Running", "Running", "Odd", ""].map(pod).into(), ..NodeReport::default() };
        let counts: Vec<(String, f64)> =
            by_phase(&report).into_iter().map(|sample| (sample.labels[0].1.clone(), sample.value)).collect();
        let expected = [("Failed", 0.0), ("Pending", 0.0), ("Running", 2.0), ("Succeeded", 0.0), ("Unknown", 2.0)];
        assert_eq!(counts, expected.map(|(phase, count)| (phase.to_owned(), count)));
    }
}
