//! A Deployment and its ReplicaSets, as far as the controller reads them.

use std::collections::BTreeMap;

use hub_runtime::views::{IntOrPercent, Text, nullable};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Which revision of its Deployment a set is, and which one a Deployment has.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Revisions that a set was before somebody went back to it.
pub(super) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when the set was scaled last: another number there is a scaling, no rollout.
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// That and the surge.
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Which template a set and its pods are of.
pub(super) const HASH: &str = "pod-template-hash";
/// What of a Deployment's annotations is not its sets'.
const OWN_ANNOTATIONS: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
    api_edge::ANNOTATION_CANARY_RESULT,
    api_edge::ANNOTATION_CANARY_FAILURE,
    api_edge::ANNOTATION_CANARY_NODES,
    api_edge::ANNOTATION_YIELD_NODES,
    api_edge::ANNOTATION_KEEP_ON_SKIPPED_NODES,
];

/// `metadata` of either.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub resource_version: String,
    #[serde(deserialize_with = "nullable")]
    pub generation: i64,
    pub creation_timestamp: Option<Timestamp>,
    pub deletion_timestamp: Option<Timestamp>,
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
}

impl Meta {
    pub fn number(&self, annotation: &str) -> Option<i64> {
        self.annotations.get(annotation)?.parse().ok()
    }

    /// The annotations that a Deployment hands on to its sets.
    pub fn handed_on(&self) -> impl Iterator<Item = (&String, &String)> {
        self.annotations.iter().filter(|(key, _)| !OWN_ANNOTATIONS.contains(&key.as_str()))
    }
}

/// A Deployment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Deployment {
    pub metadata: Meta,
    pub spec: Spec,
    #[serde(deserialize_with = "nullable")]
    pub status: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub replicas: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    pub min_ready_seconds: i64,
    pub revision_history_limit: Option<i64>,
    pub progress_deadline_seconds: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    pub paused: bool,
    pub selector: Value,
    pub template: Value,
    #[serde(deserialize_with = "nullable")]
    pub strategy: StrategySpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct StrategySpec {
    #[serde(deserialize_with = "nullable")]
    pub r#type: String,
    #[serde(deserialize_with = "nullable")]
    pub rolling_update: RollingUpdateSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RollingUpdateSpec {
    #[serde(deserialize_with = "owned")]
    pub max_unavailable: Option<IntOrPercent<'static>>,
    #[serde(deserialize_with = "owned")]
    pub max_surge: Option<IntOrPercent<'static>>,
}

fn owned<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IntOrPercent<'static>>, D::Error> {
    let read = Option::<IntOrPercent<'de>>::deserialize(deserializer)?;
    Ok(read.map(|value| match value {
        IntOrPercent::Int(number) => IntOrPercent::Int(number),
        IntOrPercent::Percent(text) => IntOrPercent::Percent(Text(text.0.into_owned().into())),
    }))
}

/// How many more, and how many fewer available pods than desired there may be meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub surge: i64,
    pub unavailable: i64,
}

/// What happens to old pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    /// All are deleted before a new one is created.
    Recreate,
    /// They are replaced within these limits.
    Rolling(Limits),
}

impl Strategy {
    pub fn limits(self) -> Limits {
        match self {
            Self::Recreate => Limits::default(),
            Self::Rolling(limits) => limits,
        }
    }
}

impl Spec {
    pub fn replicas(&self) -> i64 {
        self.replicas.unwrap_or(1).max(0)
    }

    pub fn strategy(&self) -> Strategy {
        if self.strategy.r#type == "Recreate" {
            return Strategy::Recreate;
        }
        let total = usize::try_from(self.replicas()).unwrap_or_default();
        let RollingUpdateSpec { max_surge, max_unavailable } = &self.strategy.rolling_update;
        let bounded = |number: usize| i64::try_from(number).unwrap_or(i64::MAX).min(i64::from(i32::MAX));
        let surge = max_surge.as_ref().and_then(|value| value.of(total)).unwrap_or_default();
        let unavailable = max_unavailable.as_ref().and_then(|value| value.rounded_down(total)).unwrap_or_default();
        let limits = Limits { surge: bounded(surge), unavailable: bounded(unavailable).min(self.replicas()) };
        // With neither, nothing would ever roll; a share of few pods rounds down to none.
        let is_stuck = limits.surge == 0 && limits.unavailable == 0;
        Strategy::Rolling(if is_stuck { Limits { unavailable: 1, ..limits } } else { limits })
    }

    /// How long a rollout may make no progress; `None` when nobody looks.
    pub fn progress_deadline(&self) -> Option<i64> {
        self.progress_deadline_seconds.filter(|seconds| *seconds < i64::from(i32::MAX))
    }
}

/// One of the Deployment's ReplicaSets.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Set {
    pub metadata: Meta,
    pub spec: SetSpec,
    #[serde(deserialize_with = "nullable")]
    pub status: SetStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SetSpec {
    #[serde(deserialize_with = "nullable")]
    pub replicas: i64,
    #[serde(deserialize_with = "nullable")]
    pub min_ready_seconds: i64,
    pub template: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SetStatus {
    #[serde(deserialize_with = "nullable")]
    pub replicas: i64,
    #[serde(deserialize_with = "nullable")]
    pub ready_replicas: i64,
    #[serde(deserialize_with = "nullable")]
    pub available_replicas: i64,
    #[serde(deserialize_with = "nullable")]
    pub terminating_replicas: i64,
    #[serde(deserialize_with = "nullable")]
    pub observed_generation: i64,
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Value>,
}

impl Set {
    /// Its template as its Deployment would have it.
    pub fn template(&self) -> Value {
        let mut template = self.spec.template.clone();
        if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
            labels.remove(HASH);
        }
        template
    }

    pub fn revision(&self) -> i64 {
        self.metadata.number(REVISION).unwrap_or_default()
    }

    /// Oldest first, as upstream sorts them.
    pub fn age(&self) -> (Timestamp, &str) {
        (self.metadata.creation_timestamp.unwrap_or_default(), &self.metadata.name)
    }
}
