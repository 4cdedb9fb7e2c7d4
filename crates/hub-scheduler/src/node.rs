//! What a node offers.

use api_edge::volumes::ANNOTATION_DIRECTORY;
use api_kube::Text;
use hub_runtime::views::{ObjectMeta, Taint as TaintView};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::pod::Amounts;
use crate::pod::parse::amounts;
use crate::pod::views::{ListView, nullable};
use crate::terms::{Effect, Labels, Taint};
use crate::volumes::AnnotatedView;

/// Names of images that are read of one node: a kubelet reports 50 images.
const IMAGE_NAMES_MAX: usize = 400;

/// What a node offers to pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.unschedulable`.
    pub is_unschedulable: bool,
    /// `spec.taints`.
    pub taints: Vec<Taint>,
    /// `status.allocatable`.
    pub allocatable: Amounts,
    /// `status.allocatable.pods`.
    pub pods: i64,
    /// Names and sizes of the images that it has.
    pub images: Vec<(Box<str>, i64)>,
    /// Whether volumes may be directories of it.
    pub offers_directories: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeView<'a> {
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "nullable")]
    spec: SpecView<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    status: StatusView<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SpecView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    taints: Vec<TaintView<'a>>,
    #[serde(deserialize_with = "nullable")]
    unschedulable: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StatusView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    allocatable: ListView<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    capacity: ListView<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    images: Vec<ImageView<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ImageView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    names: Vec<Text<'a>>,
    #[serde(deserialize_with = "nullable")]
    size_bytes: i64,
}

/// Reads what a node offers.
///
/// # Errors
/// When a field has another type.
pub fn parse(json: &[u8]) -> Result<Offer, serde_json::Error> {
    let view: NodeView<'_> = serde_json::from_slice(json)?;
    // A kubelet that reports no allocatable amounts offers all that it has, as the API server's defaults have it.
    let offered = if view.status.allocatable.0.is_empty() { view.status.capacity } else { view.status.allocatable };
    let taint = |taint: &TaintView<'_>| {
        let effect = Effect::parse(&taint.effect)?;
        Some(Taint { key: (&*taint.key).into(), value: (&*taint.value).into(), effect })
    };
    let names = view.status.images.iter().flat_map(|image| image.names.iter().map(|name| (name, image.size_bytes)));
    // Twice: the shared view leaves annotations out, which most controllers need of no object.
    let metadata = view.metadata.map_or("{}", RawValue::get);
    let annotated: AnnotatedView<'_> = serde_json::from_str(metadata)?;
    let metadata: ObjectMeta<'_> = serde_json::from_str(metadata)?;
    Ok(Offer {
        labels: Labels::new(metadata.labels.iter()),
        offers_directories: annotated.annotations.get(ANNOTATION_DIRECTORY).is_some(),
        is_unschedulable: view.spec.unschedulable,
        taints: view.spec.taints.iter().filter_map(taint).collect(),
        allocatable: amounts(&offered),
        pods: offered.get("pods").map_or(0, |pods| pods.value().max(0)),
        images: names.take(IMAGE_NAMES_MAX).map(|(name, size)| ((&**name).into(), size.max(0))).collect(),
    })
}
