//! What the controller reads of an autoscaler, and of the pods that it scales.

use api_kube::Quantity;
use serde::Deserialize;
use serde_json::Value;

use hub_runtime::views::{ConditionView, ObjectMeta, Text};

use hub_runtime::views::nullable;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SpecView {
    pub scale_target_ref: ReferenceView,
    pub min_replicas: Option<i64>,
    pub max_replicas: i64,
    #[serde(deserialize_with = "nullable")]
    pub metrics: Vec<MetricView>,
    pub behavior: Option<BehaviorView>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ReferenceView {
    pub api_version: String,
    pub kind: String,
    pub name: String,
}

/// One of `spec.metrics`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct MetricView {
    pub r#type: String,
    pub resource: Option<ResourceView>,
    pub container_resource: Option<ResourceView>,
    pub pods: Option<NamedView>,
    pub object: Option<NamedView>,
    pub external: Option<NamedView>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ResourceView {
    pub name: String,
    pub container: String,
    pub target: TargetView,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct NamedView {
    pub metric: MetricNameView,
    pub target: TargetView,
    pub described_object: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct MetricNameView {
    pub name: String,
    /// A `metav1.LabelSelector`.
    pub selector: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct TargetView {
    pub value: Option<Quantity>,
    pub average_value: Option<Quantity>,
    pub average_utilization: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct BehaviorView {
    pub scale_up: Option<RulesView>,
    pub scale_down: Option<RulesView>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RulesView {
    pub stabilization_window_seconds: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    pub select_policy: String,
    #[serde(deserialize_with = "nullable")]
    pub policies: Vec<PolicyView>,
    pub tolerance: Option<Quantity>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PolicyView {
    pub r#type: String,
    pub value: i64,
    pub period_seconds: i64,
}

/// A pod of the workload.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodView<'a> {
    #[serde(borrow)]
    pub metadata: ObjectMeta<'a>,
    #[serde(borrow)]
    pub spec: PodSpecView<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub status: PodStatusView<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpecView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub containers: Vec<ContainerView<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub init_containers: Vec<ContainerView<'a>>,
    /// Of the pod as a whole.
    #[serde(borrow, deserialize_with = "nullable")]
    pub resources: ResourcesView<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ContainerView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub restart_policy: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub resources: ResourcesView<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ResourcesView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub requests: hub_runtime::views::Labels<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodStatusView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub phase: Text<'a>,
    #[serde(borrow)]
    pub start_time: Option<Text<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub conditions: Vec<ConditionView<'a>>,
}

impl ResourcesView<'_> {
    /// What is requested of a resource, in thousandths.
    pub fn request(&self, resource: &str) -> Option<i64> {
        self.requests.get(resource)?.parse::<Quantity>().ok().map(|quantity| quantity.milli_value())
    }
}
