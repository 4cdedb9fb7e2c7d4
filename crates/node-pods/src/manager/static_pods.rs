//! Static pods: those that the node runs by a manifest of its own, without a hub.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::Value;

use super::{Manager, STATIC_UID_PREFIX};
use crate::model::{ANNOTATION_CONFIG_HASH, ANNOTATION_CONFIG_SOURCE};

impl Manager {
    pub(super) fn static_manifests(&self) -> std::sync::MutexGuard<'_, Option<Vec<Value>>> {
        self.shared.static_manifests.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn set_static_pods(&mut self, manifests: Vec<Value>) {
        let node_name = self.shared.context.config.node_name.clone();
        let desired: BTreeMap<String, Value> =
            manifests.into_iter().map(|manifest| static_pod(manifest, &node_name)).collect();
        for (uid, entry) in &self.pods {
            if entry.is_static && !desired.contains_key(uid) {
                entry.inbox.end();
            }
        }
        self.static_pods = Some(desired);
        self.start_static_pods();
        self.sweep_orphans(|uid| uid.starts_with(STATIC_UID_PREFIX));
        self.publish_desired();
    }

    /// Admits the static pods that nobody looks after yet. One of the same name that still ends comes first: two of one name hold
    /// the same directories and devices.
    pub(super) fn start_static_pods(&mut self) {
        let names: BTreeSet<String> =
            self.pods.values().filter(|entry| entry.is_static).map(|entry| entry.pod.full_name()).collect();
        let name_of = |manifest: &Value| {
            let text = |field: &str| manifest["metadata"][field].as_str().unwrap_or_default().to_owned();
            format!("{}/{}", text("namespace"), text("name"))
        };
        let missing: Vec<(String, Value)> = self
            .static_pods
            .iter()
            .flatten()
            .filter(|(uid, manifest)| !self.pods.contains_key(*uid) && !names.contains(&name_of(manifest)))
            .map(|(uid, manifest)| (uid.clone(), manifest.clone()))
            .collect();
        for (uid, manifest) in missing {
            self.upsert(uid.clone(), Bytes::from(manifest.to_string()), true);
            self.shared.publisher.static_pod(&uid, manifest);
        }
    }
}

/// Gives a manifest what the hub would: a uid that changes with its content, a namespace, the node, and defaults.
pub(super) fn static_pod(manifest: Value, node_name: &str) -> (String, Value) {
    let digest = ring::digest::digest(&ring::digest::SHA256, manifest.to_string().as_bytes());
    let hex: String = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let uid = format!("{STATIC_UID_PREFIX}{hex}");
    let object = |value: Option<Value>| match value {
        Some(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let mut fields = object(Some(manifest));
    let mut metadata = object(fields.remove("metadata"));
    let text = |metadata: &serde_json::Map<String, Value>, field: &str| {
        metadata.get(field).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let (name, suffix) = (text(&metadata, "name").unwrap_or_else(|| "static".to_owned()), format!("-{node_name}"));
    let name = if name.ends_with(&suffix) { name } else { format!("{name}{suffix}") };
    let namespace = text(&metadata, "namespace").unwrap_or_else(|| "default".to_owned());
    let mut annotations = object(metadata.remove("annotations"));
    annotations.insert(ANNOTATION_CONFIG_SOURCE.to_owned(), "file".into());
    annotations.insert(ANNOTATION_CONFIG_HASH.to_owned(), uid.clone().into());
    metadata.insert("name".to_owned(), name.into());
    metadata.insert("namespace".to_owned(), namespace.into());
    metadata.insert("uid".to_owned(), uid.clone().into());
    metadata.insert("annotations".to_owned(), annotations.into());
    let mut spec = object(fields.remove("spec"));
    spec.insert("nodeName".to_owned(), node_name.into());
    fields.insert("apiVersion".to_owned(), "v1".into());
    fields.insert("kind".to_owned(), "Pod".into());
    fields.insert("metadata".to_owned(), metadata.into());
    fields.insert("spec".to_owned(), spec.into());
    (uid, Value::Object(fields))
}
