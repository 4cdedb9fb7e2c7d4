//! Clusters as data, for the tests beside the modules.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::cluster::{Cluster, PlacedState};
use crate::decide::{Decider, Nominations, Verdict};
use crate::pod::{Pod, parse};

/// A pod of the namespace `default` unless it says otherwise; its uid is its name.
pub(crate) fn pod(name: &str, mut object: Value) -> Pod {
    let own = object.as_object_mut().expect("a test's pod is an object");
    let metadata = own.entry("metadata").or_insert_with(|| json!({}));
    metadata["name"] = name.into();
    metadata["uid"] = name.into();
    if metadata["namespace"].is_null() {
        metadata["namespace"] = "default".into();
    }
    parse(&serde_json::to_vec(&object).expect("it is JSON")).expect("a test's pod reads as one").0
}

/// A pod of one container with these requests.
pub(crate) fn requests(name: &str, list: Value) -> Pod {
    pod(name, json!({"spec": {"containers": [{"name": "main", "resources": {"requests": list}}]}}))
}

/// A pod with these labels and this spec.
pub(crate) fn labeled(name: &str, labels: Value, spec: Value) -> Pod {
    pod(name, json!({"metadata": {"labels": labels}, "spec": spec}))
}

pub(crate) fn add_node(cluster: &mut Cluster, name: &str, given: Value) {
    let mut allocatable = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
    for (resource, amount) in given["allocatable"].as_object().into_iter().flatten() {
        allocatable[resource] = amount.clone();
    }
    let object = json!({
        "metadata": {"name": name, "labels": given["labels"], "annotations": given["annotations"]},
        "spec": {"taints": given["taints"], "unschedulable": given["unschedulable"]},
        "status": {"allocatable": allocatable, "images": given["images"]},
    });
    let offer = crate::node::parse(&serde_json::to_vec(&object).expect("it is JSON")).expect("a test's node reads");
    cluster.set_node(name, offer);
}

pub(crate) fn cluster(nodes: &[(&str, Value)]) -> Cluster {
    let mut cluster = Cluster::default();
    nodes.iter().for_each(|(name, given)| add_node(&mut cluster, name, given.clone()));
    cluster
}

pub(crate) fn place(cluster: &mut Cluster, pod: Pod, node: &str) {
    cluster.place(pod, node, PlacedState::default());
}

/// The name of the node that a pod gets, or the whole message.
pub(crate) fn decide(cluster: &mut Cluster, pod: &Pod) -> Result<String, String> {
    let mut decider = Decider::new(fastrand::Rng::with_seed(1));
    match decider.decide(cluster, &Nominations::default(), pod, None) {
        Verdict::Place(id) => Ok(cluster.node(id).name.to_string()),
        Verdict::NoNodes => Err(crate::message::NO_NODES.to_owned()),
        Verdict::Reject(diagnosis) => Err(crate::message::unschedulable(&pod.demand, &diagnosis, "")),
    }
}

pub(crate) fn shared(pod: Pod) -> Arc<Pod> {
    Arc::new(pod)
}
