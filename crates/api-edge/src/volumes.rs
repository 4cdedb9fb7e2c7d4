//! Volumes that are directories of a node: what a hub that makes them and the node that has them agree on.
//!
//! The hub's provisioner makes a PersistentVolume of the kind `local`; the node makes its directory when a pod first uses it. A
//! volume that is released and deleted keeps the finalizer [`FINALIZER`] until its node has removed the directory: the node
//! takes the finalizer away, and may change nothing else of a volume. It finds its volumes by the label
//! [`LABEL_NODE`](crate::LABEL_NODE).

use serde_json::Value;

/// `provisioner` of StorageClasses whose volumes are directories of nodes.
pub const PROVISIONER: &str = "selvedge.dev/local";
/// Annotation of a Node: where it keeps such directories. A node without it offers none.
pub const ANNOTATION_DIRECTORY: &str = "selvedge.dev/volumes-directory";
/// Where that is below a node's data directory.
pub const DIRECTORY: &str = "node/volumes";
/// Finalizer of a PersistentVolume whose directory is still on its node.
pub const FINALIZER: &str = "selvedge.dev/local-volume";
/// Annotation of a PersistentVolume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The label of nodes that a volume's node affinity names.
pub const LABEL_HOSTNAME: &str = "kubernetes.io/hostname";
/// Longest name of a volume: that of a file.
const NAME_BYTES_MAX: usize = 253;

/// The node whose directory a PersistentVolume is; `None` for every other volume. Its node affinity says so, which nobody can
/// change, and not a label.
pub fn node_of(volume: &Value) -> Option<&str> {
    if volume["metadata"]["annotations"][PROVISIONED_BY] != PROVISIONER || !volume["spec"]["local"].is_object() {
        return None;
    }
    let [term] = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"].as_array()?.as_slice() else {
        return None;
    };
    if term["matchFields"].as_array().is_some_and(|fields| !fields.is_empty()) {
        return None;
    }
    let [requirement] = term["matchExpressions"].as_array()?.as_slice() else { return None };
    let [node] = requirement["values"].as_array()?.as_slice() else { return None };
    let is_named = requirement["key"] == LABEL_HOSTNAME && requirement["operator"] == "In";
    node.as_str().filter(|node| is_named && !node.is_empty())
}

/// Whether a volume's name can be that of a directory: one part of a path, and none that leads anywhere.
pub fn is_directory_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(is_allowed)
}

/// Whether a volume's node is to remove its directory: the claim is deleted, nobody may have the data, and the volume itself
/// is being deleted. Anything else, a volume that cannot be read among it, says nothing about the directory.
pub fn is_removal_requested(volume: &Value, node: &str) -> bool {
    let finalizers = volume["metadata"]["finalizers"].as_array();
    node_of(volume) == Some(node)
        && volume["metadata"]["deletionTimestamp"].is_string()
        && volume["status"]["phase"] == "Released"
        && volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        && finalizers.into_iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn volume() -> Value {
        let term = json!({"matchExpressions": [{"key": LABEL_HOSTNAME, "operator": "In", "values": ["gw-1"]}]});
        json!({
            "metadata": {
                "name": "pvc-1", "annotations": {PROVISIONED_BY: PROVISIONER},
                "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x.io/y", FINALIZER],
            },
            "spec": {
                "local": {"path": "/var/lib/selvedge/node/volumes/pvc-1"}, "persistentVolumeReclaimPolicy": "Delete",
                "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
            },
            "status": {"phase": "Released"},
        })
    }

    #[test]
    fn only_a_released_and_deleted_volume_of_the_node_is_removed() {
        assert!(is_removal_requested(&volume(), "gw-1"));
        assert!(!is_removal_requested(&volume(), "gw-2"));
        for (field, value) in [
            ("/metadata/deletionTimestamp", Value::Null),
            ("/metadata/finalizers", json!(["x.io/y"])),
            ("/metadata/annotations", json!({PROVISIONED_BY: "x.io/other"})),
            ("/status/phase", json!("Bound")),
            ("/status/phase", json!("Failed")),
            ("/status", Value::Null),
            ("/spec/persistentVolumeReclaimPolicy", json!("Retain")),
            ("/spec/local", Value::Null),
            ("/spec/nodeAffinity", Value::Null),
        ] {
            let mut other = volume();
            *other.pointer_mut(field).unwrap() = value;
            assert!(!is_removal_requested(&other, "gw-1"), "{field}");
        }
        assert!(!is_removal_requested(&Value::Null, ""));
    }

    #[test]
    fn a_volume_is_of_the_one_node_that_its_affinity_names() {
        assert_eq!(node_of(&volume()), Some("gw-1"));
        for values in [json!(["gw-1", "gw-2"]), json!([]), json!([1]), json!([""])] {
            let mut other = volume();
            other["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"] = values;
            assert_eq!(node_of(&other), None);
        }
        let mut other = volume();
        other["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchFields"] = json!([{"key": "a"}]);
        assert_eq!(node_of(&other), None);
    }

    #[test]
    fn names_that_lead_somewhere_are_none() {
        for name in ["pvc-0c5e", "a", "data.db-0"] {
            assert!(is_directory_name(name), "{name}");
        }
        for name in ["", ".", "..", ".hidden", "a/b", "/", "A", "a\0", "ä", &"a".repeat(254)] {
            assert!(!is_directory_name(name), "{name:?}");
        }
    }
}
