//! What the controller reads of a StatefulSet and its pods.

use serde::Deserialize;

use hub_runtime::views::{ConditionView, LabelSelector, Labels, ObjectMeta, PodVolumeView, Text};

use hub_runtime::views::nullable;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SetView<'a> {
    #[serde(borrow)]
    pub metadata: ObjectMeta<'a>,
    #[serde(borrow)]
    pub spec: SetSpecView<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub status: SetStatusView<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SetSpecView<'a> {
    pub replicas: Option<i64>,
    #[serde(borrow)]
    pub selector: Option<LabelSelector<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub service_name: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub pod_management_policy: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub update_strategy: StrategyView<'a>,
    #[serde(deserialize_with = "nullable")]
    pub min_ready_seconds: i64,
    pub revision_history_limit: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    pub ordinals: OrdinalsView,
    #[serde(borrow, deserialize_with = "nullable")]
    pub persistent_volume_claim_retention_policy: RetentionView<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct StrategyView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub r#type: Text<'a>,
    pub rolling_update: Option<RollingUpdateView>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RollingUpdateView {
    #[serde(deserialize_with = "nullable")]
    pub partition: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OrdinalsView {
    #[serde(deserialize_with = "nullable")]
    pub start: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RetentionView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub when_deleted: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub when_scaled: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SetStatusView<'a> {
    pub observed_generation: Option<i64>,
    pub collision_count: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    pub replicas: i64,
    #[serde(deserialize_with = "nullable")]
    pub ready_replicas: i64,
    #[serde(deserialize_with = "nullable")]
    pub available_replicas: i64,
    #[serde(deserialize_with = "nullable")]
    pub current_replicas: i64,
    #[serde(deserialize_with = "nullable")]
    pub updated_replicas: i64,
    #[serde(borrow, deserialize_with = "nullable")]
    pub current_revision: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub update_revision: Text<'a>,
}

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
#[serde(default)]
pub(super) struct PodSpecView<'a> {
    #[serde(rename = "nodeName", borrow, deserialize_with = "nullable")]
    pub node_name: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub volumes: Vec<PodVolumeView<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodStatusView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub phase: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub conditions: Vec<ConditionView<'a>>,
}

/// As much of a set as finding it for a pod or a claim needs.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SelectorView<'a> {
    #[serde(borrow)]
    spec: SelectorSpecView<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SelectorSpecView<'a> {
    #[serde(borrow)]
    selector: Option<LabelSelector<'a>>,
}

impl SelectorView<'_> {
    pub fn matches(&self, labels: &Labels<'_>) -> bool {
        self.spec.selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }
}
