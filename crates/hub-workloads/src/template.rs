//! The pods of workloads whose pods are alike: what they are made of.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use hub_runtime::views::{Labels, nullable};

use crate::owner::Owner;

/// The parts of a pod template that decisions need.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TemplateView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    metadata: TemplateMeta<'a>,
}

/// A template's metadata.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TemplateMeta<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub labels: Labels<'a>,
}

impl<'a> TemplateView<'a> {
    /// Reads a template.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(template: Option<&'a RawValue>) -> serde_json::Result<Self> {
        template.map_or_else(|| Ok(Self::default()), |template| serde_json::from_str(template.get()))
    }

    /// The labels of its pods.
    pub fn labels(&self) -> &Labels<'a> {
        &self.metadata.labels
    }
}

/// The parts of a template that become parts of a pod, as they are written.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Parts<'a> {
    #[serde(borrow)]
    metadata: MetadataParts<'a>,
    #[serde(borrow)]
    spec: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MetadataParts<'a> {
    #[serde(borrow)]
    labels: Option<&'a RawValue>,
    #[serde(borrow)]
    annotations: Option<&'a RawValue>,
    #[serde(borrow)]
    finalizers: Option<&'a RawValue>,
}

/// JSON of a pod of the template that the API gives a name that begins with the owner's. All of an owner's pods are the same
/// bytes.
///
/// # Errors
/// When the template does not read as one.
pub(crate) fn alike(owner: Owner<'_>, template: Option<&RawValue>) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Pod<'a> {
        api_version: &'static str,
        kind: &'static str,
        metadata: Metadata<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        spec: Option<&'a RawValue>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata<'a> {
        generate_name: String,
        namespace: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        labels: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        annotations: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        finalizers: Option<&'a RawValue>,
        owner_references: [serde_json::Value; 1],
    }
    let parts: Parts<'_> =
        template.map_or_else(|| Ok(Parts::default()), |template| serde_json::from_str(template.get()))?;
    let MetadataParts { labels, annotations, finalizers } = parts.metadata;
    let metadata = Metadata {
        generate_name: format!("{}-", owner.meta.name),
        namespace: &owner.meta.namespace,
        labels,
        annotations,
        finalizers,
        owner_references: [owner.reference()],
    };
    serde_json::to_vec(&Pod { api_version: "v1", kind: "Pod", metadata, spec: parts.spec })
}
