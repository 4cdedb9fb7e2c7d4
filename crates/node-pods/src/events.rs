//! Events about pods.

use std::borrow::Cow;

use node_client::{EventRecorder, Recorded};
use serde_json::json;

use crate::model::Pod;

/// Records events about pods.
#[derive(Clone, Debug)]
pub(crate) struct PodEvents(pub EventRecorder);

impl PodEvents {
    pub(crate) fn pod(&self, pod: &Pod, container: Option<&str>, reason: &'static str, message: impl Into<String>) {
        self.about_pod(pod, container, false, reason.into(), message.into());
    }

    pub(crate) fn pod_warning(
        &self,
        pod: &Pod,
        container: Option<&str>,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        self.about_pod(pod, container, true, reason.into(), message.into());
    }

    fn about_pod(&self, pod: &Pod, container: Option<&str>, warning: bool, reason: Cow<'static, str>, message: String) {
        let metadata = &pod.metadata;
        let mut about = json!({
            "kind": "Pod", "apiVersion": "v1", "name": metadata.name, "namespace": metadata.namespace,
            "uid": metadata.uid,
        });
        if let (Some(container), Some(about)) = (container, about.as_object_mut()) {
            let is_init = pod.spec.init_containers.iter().any(|c| c.name == container);
            let list = match is_init {
                true => "initContainers",
                false if pod.is_ephemeral(container) => "ephemeralContainers",
                false => "containers",
            };
            about.insert("fieldPath".to_owned(), format!("spec.{list}{{{container}}}").into());
        }
        let namespace = metadata.namespace.clone();
        self.0.emit(Recorded { about, namespace, warning, reason, message });
    }
}
