//! What is read of jobs and of their pods: borrowed from the stored bytes.

use hub_runtime::views::{LabelSelector, Labels, ObjectMeta, Text};
use serde::Deserialize;
use serde_json::value::RawValue;

use hub_runtime::views::nullable;

/// A Job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct JobView<'a> {
    #[serde(borrow)]
    pub metadata: ObjectMeta<'a>,
    #[serde(borrow)]
    pub spec: JobSpecView<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub status: JobStatusView<'a>,
}

/// `spec` of a Job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct JobSpecView<'a> {
    pub parallelism: Option<i64>,
    pub completions: Option<i64>,
    pub active_deadline_seconds: Option<i64>,
    pub backoff_limit: Option<i64>,
    pub backoff_limit_per_index: Option<i64>,
    pub max_failed_indexes: Option<i64>,
    #[serde(borrow)]
    pub completion_mode: Option<Text<'a>>,
    #[serde(deserialize_with = "nullable")]
    pub suspend: bool,
    #[serde(borrow)]
    pub pod_replacement_policy: Option<Text<'a>>,
    #[serde(borrow)]
    pub pod_failure_policy: Option<PodFailurePolicyView<'a>>,
    #[serde(borrow)]
    pub success_policy: Option<SuccessPolicyView<'a>>,
    #[serde(borrow)]
    pub selector: Option<LabelSelector<'a>>,
    #[serde(borrow)]
    pub template: Option<&'a RawValue>,
    pub ttl_seconds_after_finished: Option<i64>,
    #[serde(borrow)]
    pub managed_by: Option<Text<'a>>,
}

/// `spec.podFailurePolicy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PodFailurePolicyView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub rules: Vec<FailureRuleView<'a>>,
}

/// One of `spec.podFailurePolicy.rules`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct FailureRuleView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub action: Text<'a>,
    #[serde(borrow)]
    pub on_exit_codes: Option<ExitCodesView<'a>>,
    #[serde(borrow)]
    pub on_pod_conditions: Option<Vec<ConditionPatternView<'a>>>,
}

/// `onExitCodes` of a rule.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ExitCodesView<'a> {
    #[serde(borrow)]
    pub container_name: Option<Text<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub operator: Text<'a>,
    #[serde(deserialize_with = "nullable")]
    pub values: Vec<i64>,
}

/// One of `onPodConditions` of a rule.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConditionPatternView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub r#type: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub status: Text<'a>,
}

/// `spec.successPolicy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SuccessPolicyView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub rules: Vec<SuccessRuleView<'a>>,
}

/// One of `spec.successPolicy.rules`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SuccessRuleView<'a> {
    #[serde(borrow)]
    pub succeeded_indexes: Option<Text<'a>>,
    pub succeeded_count: Option<i64>,
}

/// `status` of a Job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct JobStatusView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub conditions: Vec<JobConditionView<'a>>,
    #[serde(borrow)]
    pub start_time: Option<Text<'a>>,
    #[serde(borrow)]
    pub completion_time: Option<Text<'a>>,
    #[serde(deserialize_with = "nullable")]
    pub active: i64,
    pub ready: Option<i64>,
    pub terminating: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    pub succeeded: i64,
    #[serde(deserialize_with = "nullable")]
    pub failed: i64,
    #[serde(borrow, deserialize_with = "nullable")]
    pub completed_indexes: Text<'a>,
    #[serde(borrow)]
    pub failed_indexes: Option<Text<'a>>,
    #[serde(borrow)]
    pub uncounted_terminated_pods: Option<UncountedView<'a>>,
}

/// `status.uncountedTerminatedPods`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct UncountedView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub succeeded: Vec<Text<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub failed: Vec<Text<'a>>,
}

/// One of `status.conditions` of a Job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct JobConditionView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub r#type: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub status: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub reason: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub message: Text<'a>,
    #[serde(borrow)]
    pub last_probe_time: Option<Text<'a>>,
    #[serde(borrow)]
    pub last_transition_time: Option<Text<'a>>,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    /// `Complete`.
    #[default]
    Complete,
    /// `Failed`.
    Failed,
}

impl Ending {
    /// The condition that says so.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "Complete",
            Self::Failed => "Failed",
        }
    }
}

impl JobView<'_> {
    /// How the job ended, and by which condition; `None` while it has not.
    pub fn ending(&self) -> Option<(Ending, &JobConditionView<'_>)> {
        self.status.conditions.iter().filter(|condition| *condition.status == *"True").find_map(|condition| {
            let ending =
                [Ending::Complete, Ending::Failed].into_iter().find(|one| one.as_str() == &*condition.r#type)?;
            Some((ending, condition))
        })
    }

    /// What its template says; nothing for one that cannot be read.
    pub fn template(&self) -> TemplateView<'_> {
        self.spec.template.and_then(|template| serde_json::from_str(template.get()).ok()).unwrap_or_default()
    }

    /// Whether its selector means pods of its template, and not all pods.
    pub fn selects_own(&self) -> bool {
        let selector = self.spec.selector.as_ref().filter(|selector| !selector.is_empty());
        selector.is_some_and(|selector| selector.matches(&self.template().metadata.labels))
    }

    /// Whether somebody else's controller brings the job about.
    pub fn is_managed_by_another(&self) -> bool {
        self.spec.managed_by.as_deref().is_some_and(|manager| *manager != *"kubernetes.io/job-controller")
    }
}

/// What a pod template says that matters to its job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TemplateView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub metadata: TemplateMeta<'a>,
    #[serde(borrow)]
    pub spec: TemplateSpecView<'a>,
}

/// `metadata` of a pod template.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TemplateMeta<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub labels: Labels<'a>,
}

/// `spec` of a pod template.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TemplateSpecView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub restart_policy: Text<'a>,
}

/// A pod, as its job looks at it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct JobPodView<'a> {
    #[serde(borrow)]
    pub metadata: PodMeta<'a>,
    #[serde(borrow)]
    pub spec: PodSpecView<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub status: PodStatusView<'a>,
}

/// `metadata` of a pod, annotations included.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodMeta<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub namespace: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub uid: Text<'a>,
    #[serde(borrow)]
    pub creation_timestamp: Option<Text<'a>>,
    #[serde(borrow)]
    pub deletion_timestamp: Option<Text<'a>>,
    pub deletion_grace_period_seconds: Option<i64>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub annotations: Labels<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub finalizers: Vec<Text<'a>>,
}

impl PodMeta<'_> {
    /// Whether its end is still to be counted by its job.
    pub fn is_tracked(&self) -> bool {
        self.finalizers.iter().any(|one| **one == *super::TRACKING_FINALIZER)
    }
}

/// `spec` of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpecView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub node_name: Text<'a>,
}

/// `status` of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatusView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub phase: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub conditions: Vec<PodConditionView<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub container_statuses: Vec<ContainerStatusView<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub init_container_statuses: Vec<ContainerStatusView<'a>>,
}

/// One of a pod's conditions.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodConditionView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub r#type: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub status: Text<'a>,
    #[serde(borrow)]
    pub last_transition_time: Option<Text<'a>>,
}

/// What became of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerStatusView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
    #[serde(deserialize_with = "nullable")]
    pub restart_count: i64,
    #[serde(borrow, deserialize_with = "nullable")]
    pub state: ContainerStateView<'a>,
}

/// `state` of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerStateView<'a> {
    #[serde(borrow)]
    pub terminated: Option<TerminatedView<'a>>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TerminatedView<'a> {
    #[serde(deserialize_with = "nullable")]
    pub exit_code: i64,
    #[serde(borrow)]
    pub finished_at: Option<Text<'a>>,
}
