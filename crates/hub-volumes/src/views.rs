//! What is read of claims, volumes, classes and nodes, borrowed from their JSON.

use std::collections::BTreeMap;

use api_kube::selector::LabelSelectorSpec;
use api_kube::{LabelSelector, Quantity, Text};
use hub_runtime::selector::NodeSelector;
use hub_runtime::views::{Labels, ObjectMeta, nullable};
use hub_runtime::writer::Target;
use serde::Deserialize;
use serde::de::IgnoredAny;

use hub_runtime::volumes::{AccessModes, Asked, BETA_CLASS, BIND_COMPLETED, DEFAULT_CLASS, Offer, Terms, is_bindable};

/// Declares views: fields that borrow, and after the bar those that own what they read.
macro_rules! views {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? $(| $($own:ident: $own_type:ty),+ $(,)?)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub(crate) struct $name<'a> {
            $(#[serde(borrow, deserialize_with = "nullable")] pub $field: $type,)*
            $($(#[serde(deserialize_with = "nullable")] pub $own: $own_type,)+)?
        }
    )+};
}

views! {
    /// What the shared view of metadata leaves out.
    Annotated { annotations: Labels<'a> }
    ClaimSpec {
        storage_class_name: Option<Text<'a>>,
        volume_name: Text<'a>,
        volume_mode: Text<'a>,
        access_modes: Vec<Text<'a>>,
        volume_attributes_class_name: Text<'a>,
        | resources: Resources,
        selector: Option<LabelSelectorSpec>,
        data_source: Option<IgnoredAny>,
        data_source_ref: Option<IgnoredAny>,
    }
    ClaimStatus { phase: Text<'a>, access_modes: Vec<Text<'a>>, | capacity: Option<Amounts> }
    VolumeSpec {
        claim_ref: Option<ClaimRef<'a>>,
        access_modes: Vec<Text<'a>>,
        storage_class_name: Text<'a>,
        volume_mode: Text<'a>,
        persistent_volume_reclaim_policy: Text<'a>,
        volume_attributes_class_name: Text<'a>,
        node_affinity: VolumeAffinity<'a>,
        | capacity: Amounts,
    }
    ClaimRef { namespace: Text<'a>, name: Text<'a>, uid: Text<'a> }
    VolumeAffinity { required: Option<NodeSelector<'a>> }
    VolumeStatus { phase: Text<'a> }
    PodPlace { node_name: Text<'a> }
    PodStatus { phase: Text<'a> }
    /// A pod, as far as it decides where a claim's volume is.
    PodView { metadata: ObjectMeta<'a>, spec: PodPlace<'a>, status: PodStatus<'a> }
}

/// `status` of a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeStatus {
    #[serde(deserialize_with = "nullable")]
    pub allocatable: Amounts,
}

/// Amounts by the resource's name.
pub(crate) type Amounts = BTreeMap<String, Quantity>;

/// `spec.resources` of a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Resources {
    #[serde(deserialize_with = "nullable")]
    pub requests: Amounts,
}

/// Declares an object: its metadata twice, once as controllers share it and once for its annotations.
macro_rules! objects {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? $(| $($own:ident: $own_type:ty),+)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default)]
        pub(crate) struct $name<'a> {
            pub metadata: ObjectMeta<'a>,
            pub annotations: Labels<'a>,
            $(pub $field: $type,)*
            $($(pub $own: $own_type,)+)?
        }

        impl<'de: 'a, 'a> Deserialize<'de> for $name<'a> {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(Default, Deserialize)]
                #[serde(rename_all = "camelCase", default)]
                struct Raw<'a> {
                    #[serde(borrow)]
                    metadata: Option<&'a serde_json::value::RawValue>,
                    $(#[serde(borrow, deserialize_with = "nullable")] $field: $type,)*
                    $($(#[serde(deserialize_with = "nullable")] $own: $own_type,)+)?
                }
                let raw = Raw::deserialize(deserializer)?;
                let metadata = raw.metadata.map_or("{}", |metadata| metadata.get());
                let read = |error| serde::de::Error::custom(error);
                Ok(Self {
                    annotations: serde_json::from_str::<Annotated<'_>>(metadata).map_err(read)?.annotations,
                    metadata: serde_json::from_str(metadata).map_err(read)?,
                    $($field: raw.$field,)*
                    $($($own: raw.$own,)+)?
                })
            }
        }
    )+};
}

objects! {
    /// A PersistentVolumeClaim.
    Claim { spec: ClaimSpec<'a>, status: ClaimStatus<'a> }
    /// A PersistentVolume.
    Volume { spec: VolumeSpec<'a>, status: VolumeStatus<'a> }
    /// A StorageClass.
    Class {
        provisioner: Text<'a>,
        reclaim_policy: Text<'a>,
        volume_binding_mode: Text<'a>,
        mount_options: Vec<Text<'a>>,
        parameters: Labels<'a>,
    }
    /// A Node.
    Node { | status: NodeStatus }
}

/// The storage among amounts.
pub(crate) fn storage(amounts: &Amounts) -> Quantity {
    amounts.get("storage").copied().unwrap_or(Quantity::ZERO)
}

fn target<'m>(metadata: &'m ObjectMeta<'_>) -> Target<'m> {
    Target { namespace: &metadata.namespace, name: &metadata.name, uid: &metadata.uid }
}

impl Claim<'_> {
    /// The claim, and no other of its name.
    pub fn target(&self) -> Target<'_> {
        target(&self.metadata)
    }

    /// The class that it names; `None` when it has not said yet, and `""` for one without a class.
    pub fn named_class(&self) -> Option<&str> {
        self.annotations.get(BETA_CLASS).or(self.spec.storage_class_name.as_deref())
    }

    /// Its class; that of one which has not said yet is none.
    pub fn class(&self) -> &str {
        self.named_class().unwrap_or_default()
    }

    /// Whether claim and volume have known of each other.
    pub fn is_bind_completed(&self) -> bool {
        self.annotations.get(BIND_COMPLETED).is_some()
    }

    /// Bytes.
    pub fn request(&self) -> Quantity {
        storage(&self.spec.resources.requests)
    }

    /// What a volume must offer.
    pub fn terms(&self) -> Terms<'_> {
        Terms {
            class: self.class(),
            attributes_class: &self.spec.volume_attributes_class_name,
            bytes: self.request().value(),
            modes: AccessModes::new(self.spec.access_modes.iter().map(|mode| &**mode)),
            is_block: &*self.spec.volume_mode == "Block",
        }
    }

    /// The claim, as it looks for a volume with the labels that it selects.
    pub fn asked<'c>(&'c self, selector: Option<&'c LabelSelector>) -> Asked<'c> {
        Asked { claim: self.identity(), terms: self.terms(), selector }
    }

    fn identity(&self) -> (&str, &str, &str) {
        (&self.metadata.namespace, &self.metadata.name, &self.metadata.uid)
    }
}

impl Volume<'_> {
    /// The volume, and no other of its name.
    pub fn target(&self) -> Target<'_> {
        target(&self.metadata)
    }

    /// Its class.
    pub fn class(&self) -> &str {
        self.annotations.get(BETA_CLASS).unwrap_or(&self.spec.storage_class_name)
    }

    /// Bytes.
    pub fn capacity(&self) -> Quantity {
        storage(&self.spec.capacity)
    }

    /// Whether it is for this claim: by its name, and by its uid where the volume has one.
    pub fn is_for(&self, claim: &Claim<'_>) -> bool {
        Offer::is_for(&self, claim.identity())
    }

    /// Whether a node reaches it.
    pub fn is_reachable(&self, node: &Node<'_>) -> bool {
        self.spec.node_affinity.required.as_ref().is_none_or(|selector| selector.matches(&node.metadata))
    }
}

impl Offer for &Volume<'_> {
    fn name(&self) -> &str {
        &self.metadata.name
    }

    fn terms(&self) -> Terms<'_> {
        Terms {
            class: self.class(),
            attributes_class: &self.spec.volume_attributes_class_name,
            bytes: self.capacity().value(),
            modes: AccessModes::new(self.spec.access_modes.iter().map(|mode| &**mode)),
            is_block: &*self.spec.volume_mode == "Block",
        }
    }

    fn claim(&self) -> Option<(&str, &str, &str)> {
        self.spec.claim_ref.as_ref().map(|claim| (&*claim.namespace, &*claim.name, &*claim.uid))
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.get(key)
    }

    fn is_usable(&self) -> bool {
        !self.metadata.is_terminating() && is_bindable(&self.status.phase)
    }
}

impl Class<'_> {
    /// Whether claims wait for their first pod.
    pub fn waits(&self) -> bool {
        &*self.volume_binding_mode == "WaitForFirstConsumer"
    }

    /// Whether claims get it which name none.
    pub fn is_default(&self) -> bool {
        DEFAULT_CLASS.iter().any(|mark| self.annotations.get(mark) == Some("true"))
    }
}

impl PodView<'_> {
    /// Whether it runs, or is about to: one that has ended or is being deleted decides nothing.
    pub fn is_live(&self) -> bool {
        !self.metadata.is_terminating() && !matches!(&*self.status.phase, "Failed" | "Succeeded")
    }

    /// Whether a scheduler has placed it, or somebody by hand.
    pub fn is_placed(&self) -> bool {
        !self.spec.node_name.is_empty()
    }
}
