//! The pods of a DaemonSet: what they are called and what they are made of.

use std::borrow::Cow;

use api_edge::variants::{self, Variant};
use api_edge::{ANNOTATION_VARIANT, ANNOTATION_VARIANTS};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use hub_runtime::selector::Placement;
use hub_runtime::views::{Labels, nullable};

use crate::hash::short_hash;
use crate::owner::Owner;
use crate::template::TemplateMeta;

/// Label of a pod that says which revision of the template it was made from, and of a revision under which hash it is kept.
pub(super) const REVISION_LABEL: &str = "controller-revision-hash";
/// Names of pods are made from nodes' names, not drawn: with five letters two of a thousand nodes would often share one,
/// with ten no two of a hundred thousand do.
const POD_SUFFIX_LEN: usize = 10;

/// The parts of a pod template that decisions need: which nodes it fits on depends on more than its labels.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TemplateView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    metadata: TemplateMeta<'a>,
    #[serde(borrow)]
    pub spec: Placement<'a>,
}

impl<'a> TemplateView<'a> {
    /// Reads a template.
    pub fn read(template: Option<&'a RawValue>) -> serde_json::Result<Self> {
        template.map_or_else(|| Ok(Self::default()), |template| serde_json::from_str(template.get()))
    }

    /// The labels of its pods.
    pub fn labels(&self) -> &Labels<'a> {
        &self.metadata.labels
    }
}

/// A name for the pod of a DaemonSet's revision on a node. A collision gives every pod another one.
pub(super) fn pod_name(set: &str, hash: &str, node: &str, collisions: i64) -> String {
    let set: String = set.chars().take(240).collect();
    let suffix = match collisions {
        0 => short_hash(format!("{hash}/{node}").as_bytes(), POD_SUFFIX_LEN),
        _ => short_hash(format!("{hash}/{node}/{collisions}").as_bytes(), POD_SUFFIX_LEN),
    };
    format!("{set}-{suffix}")
}

/// The pods of one revision of a set; only name and node differ among them.
pub(super) struct PodFactory {
    namespace: String,
    set: String,
    hash: String,
    collisions: i64,
    labels: Value,
    annotations: Value,
    finalizers: Value,
    owner: Value,
    spec: Map<String, Value>,
    /// What they are on nodes of other kinds. The hub applies them as well; another cluster's API server does not.
    variants: Vec<Variant>,
}

impl PodFactory {
    pub fn new(set: Owner<'_>, template: &Value, hash: &str, collisions: i64) -> Self {
        let mut labels = match &template["metadata"]["labels"] {
            Value::Object(labels) => labels.clone(),
            _ => Map::new(),
        };
        labels.insert(REVISION_LABEL.to_owned(), hash.into());
        let mut spec = template["spec"].as_object().cloned().unwrap_or_default();
        let mut tolerations = spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
        // A daemon stays where it is whatever becomes of the node, as upstream's controller has it.
        let own = [
            ("node.kubernetes.io/not-ready", "NoExecute"),
            ("node.kubernetes.io/unreachable", "NoExecute"),
            ("node.kubernetes.io/disk-pressure", "NoSchedule"),
            ("node.kubernetes.io/memory-pressure", "NoSchedule"),
            ("node.kubernetes.io/pid-pressure", "NoSchedule"),
            ("node.kubernetes.io/unschedulable", "NoSchedule"),
        ];
        // What brings a node its network runs before there is one.
        let is_on_host = spec.get("hostNetwork").is_some_and(|on_host| *on_host == true);
        let network = is_on_host.then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
        let own = own.into_iter().chain(network);
        tolerations.extend(own.map(|(key, effect)| json!({"key": key, "operator": "Exists", "effect": effect})));
        spec.insert("tolerations".to_owned(), tolerations.into());
        spec.remove("nodeName");
        Self {
            namespace: set.meta.namespace.to_string(),
            set: set.meta.name.to_string(),
            hash: hash.to_owned(),
            collisions,
            labels: labels.into(),
            annotations: template["metadata"]["annotations"].clone(),
            finalizers: template["metadata"]["finalizers"].clone(),
            owner: set.reference(),
            spec,
            // A list with mistakes is rejected where a person writes it; one that is there anyway is not applied.
            variants: variants::parse(
                template["metadata"]["annotations"][ANNOTATION_VARIANTS].as_str().unwrap_or("[]"),
            )
            .unwrap_or_default(),
        }
    }

    /// Whether labels of nodes make a difference.
    pub fn has_variants(&self) -> bool {
        !self.variants.is_empty()
    }

    /// What the pod of a node is called.
    pub fn name_on(&self, node: &str) -> String {
        pod_name(&self.set, &self.hash, node, self.collisions)
    }

    /// Name and JSON of the pod on a node with these labels.
    pub fn pod_on(&self, node: &str, labels: &Labels<'_>) -> (String, Vec<u8>) {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Pod<'a> {
            api_version: &'static str,
            kind: &'static str,
            metadata: Metadata<'a>,
            spec: Spec<'a>,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata<'a> {
            name: &'a str,
            namespace: &'a str,
            labels: &'a Value,
            #[serde(skip_serializing_if = "Value::is_null")]
            annotations: &'a Value,
            #[serde(skip_serializing_if = "Value::is_null")]
            finalizers: &'a Value,
            owner_references: [&'a Value; 1],
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Spec<'a> {
            node_name: &'a str,
            #[serde(flatten)]
            template: &'a Map<String, Value>,
        }
        let name = self.name_on(node);
        let variant = variants::find(&self.variants, |key| labels.get(key).map(str::to_owned));
        let (mut spec, mut annotations) = (Cow::Borrowed(&self.spec), Cow::Borrowed(&self.annotations));
        if let Some((index, variant)) = variant {
            variant.apply(spec.to_mut());
            annotations.to_mut()[ANNOTATION_VARIANT] = variant.label(index).into();
        }
        let pod = Pod {
            api_version: "v1",
            kind: "Pod",
            metadata: Metadata {
                name: &name,
                namespace: &self.namespace,
                labels: &self.labels,
                annotations: &annotations,
                finalizers: &self.finalizers,
                owner_references: [&self.owner],
            },
            spec: Spec { node_name: node, template: &spec },
        };
        let bytes = serde_json::to_vec(&pod).expect("JSON values and text always serialise");
        (name, bytes)
    }
}
