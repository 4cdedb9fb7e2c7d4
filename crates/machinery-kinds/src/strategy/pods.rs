//! What is special about pods.

use std::collections::BTreeSet;

use api_kube::QosClass;
use serde_json::{Value, json};

use super::{Creation, IndexField, index::INDEX_REFS, items, text};

/// A pod that says nothing else gets this long to end, as in Kubernetes.
const GRACE_SECONDS: i64 = 30;

/// The annotation of a mirror pod, which shows a static pod of its node.
const MIRROR_ANNOTATION: &str = "/metadata/annotations/kubernetes.io~1config.mirror";

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

pub(super) fn prepare_create(pod: &mut Value, _creation: &Creation<'_>) {
    let class = QosClass::of_pod_spec(pod.get("spec").unwrap_or(&Value::Null));
    pod["status"] = json!({"phase": "Pending", "qosClass": class});
}

/// A kubelet holds a pod that was bound to its node and has not ended; it alone knows when the pod has.
pub(super) fn grace_seconds(pod: &Value) -> Option<i64> {
    let is_held_by_node =
        !text(pod, "/spec/nodeName").is_empty() && !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
    let asked = pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    is_held_by_node.then(|| asked.unwrap_or(GRACE_SECONDS))
}

pub(super) const REFS: IndexField = IndexField {
    name: INDEX_REFS,
    values: |pod, add| {
        // A mirror pod was written by its node. It must not give the node what it names.
        if pod.pointer(MIRROR_ANNOTATION).is_none() {
            references(pod).iter().for_each(|reference| add(reference));
        }
    },
};

/// Every object of its namespace that a pod refers to, each once.
fn references(pod: &Value) -> BTreeSet<String> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let mut found = BTreeSet::new();
    collect(spec, text(pod, "/metadata/name"), &mut |resource, name| {
        if !name.is_empty() {
            found.insert(format!("{resource}/{name}"));
        }
    });
    found
}

/// How many objects the spec of a pod refers to.
pub(crate) fn count_references(spec: &Value) -> usize {
    let mut found = BTreeSet::new();
    collect(spec, "", &mut |resource, name| {
        if !name.is_empty() {
            found.insert((resource, name.to_owned()));
        }
    });
    found.len()
}

fn collect(spec: &Value, pod_name: &str, add: &mut dyn FnMut(&'static str, &str)) {
    add("serviceaccounts", text(spec, "/serviceAccountName"));
    for secret in items(spec, "imagePullSecrets") {
        add("secrets", text(secret, "/name"));
    }
    for container in CONTAINER_LISTS.iter().flat_map(|list| items(spec, list)) {
        for variable in items(container, "env") {
            add("secrets", text(variable, "/valueFrom/secretKeyRef/name"));
            add("configmaps", text(variable, "/valueFrom/configMapKeyRef/name"));
        }
        for source in items(container, "envFrom") {
            add("secrets", text(source, "/secretRef/name"));
            add("configmaps", text(source, "/configMapRef/name"));
        }
    }
    for volume in items(spec, "volumes") {
        add("secrets", text(volume, "/secret/secretName"));
        add("configmaps", text(volume, "/configMap/name"));
        add("persistentvolumeclaims", text(volume, "/persistentVolumeClaim/claimName"));
        // The claim of an ephemeral volume is created for this pod and has a name that follows from both.
        if volume.get("ephemeral").is_some() && !pod_name.is_empty() {
            add("persistentvolumeclaims", &format!("{pod_name}-{}", text(volume, "/name")));
        }
        // The secrets by which drivers log in at their servers.
        for pointer in [
            "/azureFile/secretName",
            "/cephfs/secretRef/name",
            "/cinder/secretRef/name",
            "/csi/nodePublishSecretRef/name",
            "/flexVolume/secretRef/name",
            "/iscsi/secretRef/name",
            "/rbd/secretRef/name",
            "/scaleIO/secretRef/name",
            "/storageos/secretRef/name",
        ] {
            add("secrets", text(volume, pointer));
        }
        for source in volume.get("projected").map_or(&[][..], |projected| items(projected, "sources")) {
            add("secrets", text(source, "/secret/name"));
            add("configmaps", text(source, "/configMap/name"));
        }
    }
}

/// What is stored as written and will not do what its author thinks.
pub(super) fn warnings(spec: &Value, path: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    for list in CONTAINER_LISTS {
        for (number, container) in items(spec, list).iter().enumerate() {
            let mut names = BTreeSet::new();
            for (position, variable) in items(container, "env").iter().enumerate() {
                let name = text(variable, "/name");
                if !name.is_empty() && !names.insert(name) {
                    warnings.push(format!(
                        "{path}.{list}[{number}].env[{position}]: hides previous definition of \"{name}\", which may be \
                         dropped when using apply"
                    ));
                }
            }
        }
    }
    warnings
}
