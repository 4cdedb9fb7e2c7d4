//! What is read of a pod, borrowed from its JSON.

use api_kube::selector::{Expression, LabelSelectorSpec};
use api_kube::{Quantity, Text};
use hub_runtime::views::{ClaimSourceView, Labels, ObjectMeta};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

/// A field that is `null` means what an absent one means.
pub fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Declares views: fields that borrow, and after the bar those that own what they read.
macro_rules! views {
    ($($name:ident { $($field:ident: $type:ty),* $(,)? $(| $($own:ident: $own_type:ty),+ $(,)?)? })+) => {$(
        #[derive(Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name<'a> {
            $(#[serde(borrow, deserialize_with = "nullable")] pub $field: $type,)*
            $($(#[serde(deserialize_with = "nullable")] pub $own: $own_type,)+)?
        }
    )+};
}

views! {
    PodView { metadata: ObjectMeta<'a>, spec: SpecView<'a>, status: StatusView<'a> }
    SpecView {
        node_name: Text<'a>,
        scheduler_name: Text<'a>,
        node_selector: Labels<'a>,
        affinity: AffinityView<'a>,
        tolerations: Vec<TolerationView<'a>>,
        topology_spread_constraints: Vec<SpreadView<'a>>,
        containers: Vec<ContainerView<'a>>,
        init_containers: Vec<ContainerView<'a>>,
        resources: ResourcesView<'a>,
        overhead: ListView<'a>,
        volumes: Vec<VolumeView<'a>>,
        scheduling_gates: Vec<GateView<'a>>,
        preemption_policy: Text<'a>,
        | priority: i32,
    }
    StatusView {
        phase: Text<'a>,
        conditions: Vec<ConditionView<'a>>,
        nominated_node_name: Text<'a>,
        start_time: Text<'a>,
        container_statuses: Vec<ContainerStatusView<'a>>,
        init_container_statuses: Vec<ContainerStatusView<'a>>,
    }
    ConditionView { r#type: Text<'a>, status: Text<'a>, reason: Text<'a>, message: Text<'a> }
    AffinityView { node_affinity: NodeAffinityView<'a>, pod_affinity: TermsView<'a>, pod_anti_affinity: TermsView<'a> }
    NodeAffinityView {
        required_during_scheduling_ignored_during_execution: Option<NodeSelectorView<'a>>,
        preferred_during_scheduling_ignored_during_execution: Vec<PreferredNodesView<'a>>,
    }
    NodeSelectorView { node_selector_terms: Vec<NodeTermView<'a>> }
    PreferredNodesView { preference: NodeTermView<'a> | weight: i64 }
    NodeTermView { match_fields: Vec<FieldView<'a>> | match_expressions: Vec<Expression> }
    FieldView { key: Text<'a>, operator: Text<'a>, values: Vec<Text<'a>> }
    TermsView {
        required_during_scheduling_ignored_during_execution: Vec<TermView<'a>>,
        preferred_during_scheduling_ignored_during_execution: Vec<WeightedTermView<'a>>,
    }
    WeightedTermView { pod_affinity_term: TermView<'a> | weight: i64 }
    TermView {
        namespaces: Vec<Text<'a>>,
        topology_key: Text<'a>,
        match_label_keys: Vec<Text<'a>>,
        mismatch_label_keys: Vec<Text<'a>>,
        | label_selector: Option<LabelSelectorSpec>,
        namespace_selector: Option<LabelSelectorSpec>,
    }
    SpreadView {
        topology_key: Text<'a>,
        when_unsatisfiable: Text<'a>,
        match_label_keys: Vec<Text<'a>>,
        node_affinity_policy: Text<'a>,
        node_taints_policy: Text<'a>,
        | max_skew: i64,
        min_domains: Option<i64>,
        label_selector: Option<LabelSelectorSpec>,
    }
    TolerationView { key: Text<'a>, operator: Text<'a>, value: Text<'a>, effect: Text<'a> }
    GateView { name: Text<'a> }
    ContainerView {
        name: Text<'a>,
        image: Text<'a>,
        resources: ResourcesView<'a>,
        ports: Vec<PortView<'a>>,
        restart_policy: Text<'a>,
    }
    ContainerStatusView { name: Text<'a>, allocated_resources: Option<ListView<'a>>, resources: ResourcesView<'a> }
    ResourcesView { requests: Option<ListView<'a>> }
    VolumeView {
        name: Text<'a>,
        persistent_volume_claim: Option<ClaimSourceView<'a>>,
        image: Option<ImageVolumeView<'a>>,
        | ephemeral: Option<IgnoredAny>,
    }
    ImageVolumeView { reference: Text<'a> }
}

/// One of a container's ports.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortView<'a> {
    #[serde(deserialize_with = "nullable")]
    pub host_port: u16,
    #[serde(borrow, rename = "hostIP", deserialize_with = "nullable")]
    pub host_ip: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub protocol: Text<'a>,
}

/// A list of resources.
#[derive(Clone, Debug, Default)]
pub struct ListView<'a>(pub Vec<(Text<'a>, Quantity)>);

impl<'de: 'a, 'a> Deserialize<'de> for ListView<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor;
        impl<'de> Visitor<'de> for ListVisitor {
            type Value = ListView<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of resources to quantities")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(pair) = map.next_entry::<Text<'de>, Quantity>()? {
                    list.push(pair);
                }
                Ok(ListView(list))
            }
        }
        deserializer.deserialize_map(ListVisitor)
    }
}

impl ListView<'_> {
    /// The amount of a resource.
    pub fn get(&self, name: &str) -> Option<Quantity> {
        self.0.iter().find(|(held, _)| **held == *name).map(|(_, amount)| *amount)
    }
}

impl<'a> ListView<'a> {
    /// Takes another list in: what both have by `merge`.
    pub fn merge(&mut self, other: &Self, merge: impl Fn(Quantity, Quantity) -> Quantity) {
        for (name, amount) in &other.0 {
            match self.0.iter_mut().find(|(held, _)| **held == **name) {
                Some((_, held)) => *held = merge(*held, *amount),
                None => self.0.push((name.clone(), *amount)),
            }
        }
    }

    /// The sum of both.
    pub fn add(&mut self, other: &Self) {
        self.merge(other, Quantity::saturating_add);
    }

    /// Of each resource the larger amount.
    pub fn max(&mut self, other: &Self) {
        self.merge(other, Ord::max);
    }

    /// Adds amounts of resources that are absent.
    pub fn with_missing(mut self, missing: &[(&'static str, Quantity)]) -> Self {
        for (name, amount) in missing {
            if self.get(name).is_none() {
                self.0.push((Text((*name).into()), *amount));
            }
        }
        self
    }
}
