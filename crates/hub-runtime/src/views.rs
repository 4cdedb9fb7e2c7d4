//! What controllers read of an object: borrowed views over its encoded bytes.
//!
//! A view names the fields that a decision needs; `serde` skips the rest without keeping it, and text points into the
//! stored bytes unless it holds an escape ([`Text`]). A view lives as long as the [`ObjectRef`](crate::ObjectRef) that it
//! was read from, so nothing of the cluster is held twice.

use std::fmt;

pub use api_kube::Text;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// Labels, or any map of text to text. Objects have few, so they are searched one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels<'a>(pub Vec<(Text<'a>, Text<'a>)>);

impl<'a> Labels<'a> {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(held, _)| **held == *key).map(|(_, value)| &**value)
    }

    /// Pairs in the object's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Labels<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LabelsVisitor;
        impl<'de> Visitor<'de> for LabelsVisitor {
            type Value = Labels<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of text to text")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Labels(pairs))
            }
        }
        deserializer.deserialize_map(LabelsVisitor)
    }
}

/// A field that is `null` means what an absent one means; for `#[serde(deserialize_with)]`.
///
/// # Errors
/// When it is neither `null` nor a `T`.
pub fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// `metadata`, as far as controllers read it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct ObjectMeta<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub namespace: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub uid: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub resource_version: Text<'a>,
    #[serde(deserialize_with = "nullable")]
    pub generation: i64,
    #[serde(borrow)]
    pub creation_timestamp: Option<Text<'a>>,
    #[serde(borrow)]
    pub deletion_timestamp: Option<Text<'a>>,
    pub deletion_grace_period_seconds: Option<i64>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub labels: Labels<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub owner_references: Vec<OwnerReference<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub finalizers: Vec<Text<'a>>,
}

impl ObjectMeta<'_> {
    /// Whether the object waits for its deletion.
    pub fn is_terminating(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// The owner that controls the object.
    pub fn controller(&self) -> Option<&OwnerReference<'_>> {
        self.owner_references.iter().find(|owner| owner.controller)
    }

    /// When it was created; the epoch where nothing sensible is written.
    pub fn created(&self) -> Timestamp {
        self.creation_timestamp.as_deref().and_then(time).unwrap_or_default()
    }

    /// Whether a finalizer holds it.
    pub fn has_finalizer(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|one| **one == *finalizer)
    }
}

/// One of `metadata.ownerReferences`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct OwnerReference<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub api_version: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub kind: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub uid: Text<'a>,
    #[serde(deserialize_with = "nullable")]
    pub controller: bool,
    #[serde(deserialize_with = "nullable")]
    pub block_owner_deletion: bool,
}

/// Any object, where only its metadata matters.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct AnyView<'a> {
    #[serde(borrow)]
    pub metadata: ObjectMeta<'a>,
}

/// One of `status.conditions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct ConditionView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub r#type: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub status: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub reason: Text<'a>,
    #[serde(borrow)]
    pub last_transition_time: Option<Text<'a>>,
    #[serde(borrow)]
    pub last_update_time: Option<Text<'a>>,
    #[serde(borrow)]
    pub last_heartbeat_time: Option<Text<'a>>,
}

/// A condition by its type.
pub fn condition<'v, 'a>(conditions: &'v [ConditionView<'a>], r#type: &str) -> Option<&'v ConditionView<'a>> {
    conditions.iter().find(|condition| *condition.r#type == *r#type)
}

/// A Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct PodView<'a> {
    #[serde(borrow)]
    pub metadata: ObjectMeta<'a>,
    #[serde(borrow)]
    pub spec: PodSpecView<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub status: PodStatusView<'a>,
}

/// `spec` of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct PodSpecView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub node_name: Text<'a>,
}

/// A Pod, where its claims matter. Most pods are never read so.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct PodClaimsView<'a> {
    #[serde(borrow)]
    pub metadata: ObjectMeta<'a>,
    #[serde(borrow)]
    pub spec: PodVolumesView<'a>,
}

/// `spec` of a pod, where its claims matter.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct PodVolumesView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub node_name: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub volumes: Vec<PodVolumeView<'a>>,
}

/// One of a pod's volumes, as far as it is a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct PodVolumeView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub persistent_volume_claim: Option<ClaimSourceView<'a>>,
    pub ephemeral: Option<IgnoredAny>,
}

/// The claim of a volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct ClaimSourceView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub claim_name: Text<'a>,
}

/// `status` of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct PodStatusView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub phase: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub conditions: Vec<ConditionView<'a>>,
}

impl PodView<'_> {
    /// Whether the pod has ended by itself.
    pub fn has_ended(&self) -> bool {
        matches!(&*self.status.phase, "Failed" | "Succeeded")
    }
}

impl PodClaimsView<'_> {
    /// Names of its claims, and of each whether it is the pod's own: created for an ephemeral volume and deleted with the pod.
    pub fn claims(&self) -> impl Iterator<Item = (String, bool)> {
        self.spec.volumes.iter().filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some((claim.claim_name.to_string(), false)),
            (None, Some(_)) => Some((format!("{}-{}", &*self.metadata.name, &*volume.name), true)),
            (None, None) => None,
        })
    }
}

/// A Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct NodeView<'a> {
    #[serde(borrow)]
    pub metadata: ObjectMeta<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub spec: NodeSpecView<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub status: NodeStatusView<'a>,
}

impl NodeView<'_> {
    /// Whether nobody has heard of the node for so long that what it last said is not known to hold.
    pub fn is_unreachable(&self) -> bool {
        condition(&self.status.conditions, "Ready").is_some_and(|ready| ready.status == "Unknown")
    }
}

/// `spec` of a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct NodeSpecView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub taints: Vec<Taint<'a>>,
    #[serde(deserialize_with = "nullable")]
    pub unschedulable: bool,
}

/// `status` of a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct NodeStatusView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub conditions: Vec<ConditionView<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub addresses: Vec<NodeAddress<'a>>,
    #[serde(rename = "nodeInfo", borrow, deserialize_with = "nullable")]
    pub node_info: NodeInfoView<'a>,
}

/// Which box a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct NodeInfoView<'a> {
    #[serde(rename = "machineID", borrow, deserialize_with = "nullable")]
    pub machine_id: Text<'a>,
    #[serde(rename = "bootID", borrow, deserialize_with = "nullable")]
    pub boot_id: Text<'a>,
}

/// One of a node's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct NodeAddress<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub r#type: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub address: Text<'a>,
}

/// One of a node's taints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct Taint<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub key: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub value: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub effect: Text<'a>,
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct ClaimView<'a> {
    #[serde(borrow)]
    pub metadata: ObjectMeta<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub spec: StorageSpecView<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub status: ClaimStatusView<'a>,
}

/// `spec` of a claim or a volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct StorageSpecView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub volume_attributes_class_name: Text<'a>,
}

/// `status` of a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct ClaimStatusView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub current_volume_attributes_class_name: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub modify_volume_status: ModifyVolumeStatusView<'a>,
}

/// `status.modifyVolumeStatus` of a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct ModifyVolumeStatusView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub target_volume_attributes_class_name: Text<'a>,
}

/// A PersistentVolume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct VolumeView<'a> {
    #[serde(borrow)]
    pub metadata: ObjectMeta<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub spec: StorageSpecView<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub status: VolumeStatusView<'a>,
}

/// `status` of a volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct VolumeStatusView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub phase: Text<'a>,
}

/// A Lease.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct LeaseView<'a> {
    #[serde(borrow)]
    pub metadata: ObjectMeta<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub spec: LeaseSpecView<'a>,
}

/// `spec` of a lease.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct LeaseSpecView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub holder_identity: Text<'a>,
    #[serde(borrow)]
    pub renew_time: Option<Text<'a>>,
}

/// A DaemonSet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct DaemonSetView<'a> {
    #[serde(borrow)]
    pub metadata: ObjectMeta<'a>,
    #[serde(borrow)]
    pub spec: DaemonSetSpecView<'a>,
    #[serde(deserialize_with = "nullable")]
    pub status: DaemonSetStatusView,
}

/// `spec` of a DaemonSet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct DaemonSetSpecView<'a> {
    #[serde(borrow)]
    pub selector: Option<LabelSelector<'a>>,
    #[serde(borrow)]
    pub template: Option<&'a RawValue>,
    #[serde(deserialize_with = "nullable")]
    pub min_ready_seconds: i64,
    pub revision_history_limit: Option<i64>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub update_strategy: UpdateStrategyView<'a>,
}

/// `spec.updateStrategy` of a DaemonSet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct UpdateStrategyView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub r#type: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub rolling_update: RollingUpdateView<'a>,
}

/// `spec.updateStrategy.rollingUpdate` of a DaemonSet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct RollingUpdateView<'a> {
    #[serde(borrow)]
    pub max_unavailable: Option<IntOrPercent<'a>>,
    #[serde(borrow)]
    pub max_surge: Option<IntOrPercent<'a>>,
}

/// `status` of a DaemonSet, as the controller compares it with what it would write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct DaemonSetStatusView {
    pub observed_generation: Option<i64>,
    pub collision_count: Option<i64>,
    pub desired_number_scheduled: Option<i64>,
    pub current_number_scheduled: Option<i64>,
    pub number_misscheduled: Option<i64>,
    pub number_ready: Option<i64>,
    pub number_available: Option<i64>,
    pub number_unavailable: Option<i64>,
    pub updated_number_scheduled: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Value>,
}

/// A number, or a share such as `25%`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum IntOrPercent<'a> {
    /// A number.
    Int(i64),
    /// Text that should read as a percentage.
    #[serde(borrow)]
    Percent(Text<'a>),
}

impl IntOrPercent<'_> {
    /// The number that it means of `total`, shares rounded up; `None` for text that is no percentage.
    pub fn of(&self, total: usize) -> Option<usize> {
        self.share(|percent| percent.saturating_mul(total).div_ceil(100))
    }

    /// Like [`of`](Self::of), with shares rounded down.
    pub fn rounded_down(&self, total: usize) -> Option<usize> {
        self.share(|percent| percent.saturating_mul(total) / 100)
    }

    fn share(&self, of_percent: impl FnOnce(usize) -> usize) -> Option<usize> {
        match self {
            Self::Int(number) => Some(usize::try_from(*number).unwrap_or(0)),
            Self::Percent(text) => Some(of_percent(text.strip_suffix('%')?.parse().ok()?)),
        }
    }
}

/// `metav1.LabelSelector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct LabelSelector<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub match_labels: Labels<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub match_expressions: Vec<Requirement<'a>>,
}

/// One demand on a label or a field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct Requirement<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub key: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub operator: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub values: Vec<Text<'a>>,
}

/// A CertificateSigningRequest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct CsrView<'a> {
    #[serde(borrow)]
    pub metadata: ObjectMeta<'a>,
    #[serde(borrow)]
    pub spec: CsrSpecView<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub status: CsrStatusView<'a>,
}

/// `spec` of a CertificateSigningRequest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct CsrSpecView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub request: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub signer_name: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub username: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub groups: Vec<Text<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub usages: Vec<Text<'a>>,
    pub expiration_seconds: Option<i64>,
}

/// `status` of a CertificateSigningRequest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct CsrStatusView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub certificate: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub conditions: Vec<ConditionView<'a>>,
}

/// A time as Kubernetes writes it.
pub fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

#[cfg(test)]
mod tests;
