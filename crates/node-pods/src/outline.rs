//! What others on the node need to know of a pod to count what it uses, and to choose one that has to end.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use api_kube::QosClass;
use jiff::Timestamp;
use node_runtime::PodRuntime;

use crate::admission;
use crate::model::Pod;

/// From this priority on a pod is critical to the cluster, as upstream has it.
const CRITICAL_PRIORITY: i64 = 2_000_000_000;

/// A pod of this node.
#[derive(Clone)]
pub struct PodOutline {
    /// uid of the Pod object.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When the kubelet took it up.
    pub start_time: Option<Timestamp>,
    /// `spec.priority`.
    pub priority: i32,
    /// Whether it is never evicted: a static pod, or one of a critical priority.
    pub is_critical: bool,
    /// Its class of quality of service.
    pub qos: QosClass,
    /// Its containers, init containers and those that were added later among them.
    pub containers: Vec<ContainerOutline>,
    /// Its volumes on disk that end with it.
    pub disk_volumes: Vec<String>,
    /// Whether nothing of it will run again.
    pub is_over: bool,
    /// Whether it has failed as a whole, and ends.
    pub is_failed: bool,
    /// Where its volumes and logs are.
    pub dir: PathBuf,
    /// Who runs it.
    pub runtime: Option<Arc<dyn PodRuntime>>,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerOutline {
    /// Its name.
    pub name: String,
    /// Bytes of memory that it is promised.
    pub memory_request_bytes: u64,
    /// Bytes of disk that it is promised.
    pub storage_request_bytes: u64,
}

impl fmt::Debug for PodOutline {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PodOutline").field("uid", &self.uid).finish_non_exhaustive()
    }
}

impl PodOutline {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Where the files of a volume of its own are.
    pub fn volume_dir(&self, volume: &str) -> PathBuf {
        self.dir.join(".volumes").join(volume)
    }

    /// Where the logs of a container are.
    pub fn log_dir(&self, container: &str) -> PathBuf {
        self.dir.join(container)
    }
}

impl Pod {
    /// Whether it is to run before all others, whatever the node is short of.
    pub(crate) fn is_critical(&self) -> bool {
        self.is_static() || self.is_mirror() || i64::from(self.spec.priority) >= CRITICAL_PRIORITY
    }

    /// What others need to know of it; the rest is the manager's.
    pub(crate) fn describe(&self, dir: PathBuf) -> PodOutline {
        let metadata = &self.metadata;
        let containers = self.every_container().map(|container| {
            let storage = ["requests", "limits"].iter().find_map(|list| {
                let amounts =
                    if *list == "requests" { &container.resources.requests } else { &container.resources.limits };
                amounts.get("ephemeral-storage").and_then(crate::model::Quantity::units)
            });
            ContainerOutline {
                name: container.name.clone(),
                memory_request_bytes: admission::promised(container).memory_bytes.unwrap_or(0),
                storage_request_bytes: storage.unwrap_or(0),
            }
        });
        let on_disk = |volume: &&crate::model::Volume| {
            volume.empty_dir.as_ref().is_some_and(|empty_dir| empty_dir.medium != "Memory")
        };
        PodOutline {
            uid: metadata.uid.clone(),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            start_time: self.status.start_time.as_deref().and_then(|time| time.parse().ok()),
            priority: self.spec.priority,
            is_critical: self.is_critical(),
            qos: self.qos_class(),
            containers: containers.collect(),
            disk_volumes: self.spec.volumes.iter().filter(on_disk).map(|volume| volume.name.clone()).collect(),
            is_over: false,
            is_failed: false,
            dir,
            runtime: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec})).unwrap()
    }

    #[test]
    fn a_pod_is_critical_by_its_priority_or_because_the_node_has_it_from_nobody() {
        for (priority, expected) in [(-1, false), (0, false), (1_999_999_999, false), (2_000_000_000, true)] {
            assert_eq!(pod(json!({"priority": priority})).is_critical(), expected, "{priority}");
        }
        let mut of_the_node = pod(json!({}));
        of_the_node.metadata.annotations.insert("kubernetes.io/config.source".to_owned(), "file".to_owned());
        assert!(of_the_node.is_critical());
    }

    #[test]
    fn an_outline_says_what_is_promised_and_what_is_on_disk() {
        let outline = pod(json!({
            "priority": 7,
            "containers": [
                {"name": "a", "resources": {"requests": {"memory": "1Mi"}, "limits": {"ephemeral-storage": "2k"}}},
                {"name": "b"},
            ],
            "volumes": [
                {"name": "disk", "emptyDir": {}},
                {"name": "memory", "emptyDir": {"medium": "Memory"}},
                {"name": "other", "hostPath": {"path": "/x"}},
            ],
        }))
        .describe("/pods/u".into());
        assert_eq!((outline.priority, outline.is_critical, outline.qos), (7, false, QosClass::Burstable));
        assert_eq!(outline.disk_volumes, ["disk"]);
        let promised: Vec<(u64, u64)> =
            outline.containers.iter().map(|one| (one.memory_request_bytes, one.storage_request_bytes)).collect();
        assert_eq!(promised, [(1 << 20, 2000), (0, 0)]);
    }
}
