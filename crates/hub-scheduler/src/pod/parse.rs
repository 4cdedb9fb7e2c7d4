//! Reads a pod's JSON.

use std::collections::BTreeSet;
use std::sync::Arc;

use api_kube::selector::{Expression, Operator, ParseSelectorError, Requirement};
use api_kube::{LabelSelector, Quantity, Text};
use hub_runtime::views::time;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::views::{
    ContainerStatusView, ContainerView, ListView, NodeSelectorView, NodeTermView, PodView, SpreadView, TermView,
    TermsView, TolerationView, VolumeView, nullable,
};
use super::{
    AffinityTerm, Amounts, ClaimUse, Demand, HostPort, Needs, Pod, PodAffinity, SCHEDULER_NAME, SpreadConstraint,
    VariantDemand, WorkloadKind,
};
use crate::terms::{Effect, Labels, NodeDemand, NodeTerm, PodMatcher, Toleration};

/// What a container without a request counts for when nodes are scored, as upstream has it.
const SCORED_CPU: i64 = 100;
const SCORED_MEMORY: i64 = 200 * 1024 * 1024;

/// A pod does not read as one, or demands what no API server lets pass.
#[derive(Debug, thiserror::Error)]
pub enum ParsePodError {
    /// A field has another type.
    #[error("failed to read the pod")]
    Read(#[from] serde_json::Error),
    /// A selector that no pod may have.
    #[error("failed to read a selector of the pod")]
    Selector(#[from] ParseSelectorError),
}

/// What of a pod changes after its creation, beside what it demands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// `spec.nodeName`.
    pub node: Option<Box<str>>,
    /// Whether it is one of ours.
    pub is_ours: bool,
    /// Whether it has ended by itself.
    pub has_ended: bool,
    /// Whether it waits for its deletion.
    pub is_terminating: bool,
    /// Whether it waits for that because another pod took its place.
    pub is_preempted: bool,
    /// `spec.schedulingGates`.
    pub gates: Vec<Box<str>>,
    /// `status.nominatedNodeName`.
    pub nominated: Option<Box<str>>,
    /// `reason` and `message` of the condition `PodScheduled` where it is `False`.
    pub unscheduled: Option<(Box<str>, Box<str>)>,
    /// `metadata.creationTimestamp` in nanoseconds.
    pub created: i128,
    /// `status.startTime` in nanoseconds; at the end of time for a pod that has not started.
    pub started: i128,
}

/// Reads a pod.
///
/// # Errors
/// When it is none, or demands what no API server lets pass.
pub fn parse(json: &[u8]) -> Result<(Pod, Seen), ParsePodError> {
    let view: PodView<'_> = serde_json::from_slice(json)?;
    let name: &str = &view.metadata.name;
    let claims = view.spec.volumes.iter().filter_map(|volume| claim_use(name, volume)).collect();
    let mut demand = demand(&view)?;
    // What has a node is what it is there already. Few pods have variants: the others are not read twice.
    if view.spec.node_name.is_empty()
        && std::str::from_utf8(json).is_ok_and(|text| text.contains(api_edge::ANNOTATION_VARIANTS))
        && let Ok(Annotated { metadata: AnnotatedMeta { annotations } }) = serde_json::from_slice(json)
        && let Some(variants) = annotations.variants
    {
        demand.variants = of_variants(json, &variants, &mut demand.requests)?;
    }
    let (uid, generation) = ((&*view.metadata.uid).into(), view.metadata.generation);
    let pod = Pod { name: name.into(), uid, generation, demand: Arc::new(demand), claims };
    Ok((pod, seen(&view)))
}

/// A pod's variants.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotated<'a> {
    #[serde(borrow)]
    metadata: AnnotatedMeta<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AnnotatedMeta<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    annotations: Annotations<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotations<'a> {
    #[serde(rename = "selvedge.dev/variants", borrow)]
    variants: Option<Text<'a>>,
}

/// What the pod needs as each of its variants. `requests`, those of the pod as it is written, get the scalars of all of them.
fn of_variants(json: &[u8], text: &str, requests: &mut Amounts) -> Result<Vec<VariantDemand>, ParsePodError> {
    // What does not read as a list is placed as it is written.
    let Ok(list) = api_edge::variants::parse(text) else { return Ok(Vec::new()) };
    let mut all = Vec::with_capacity(list.len());
    for variant in &list {
        let mut pod: Value = serde_json::from_slice(json)?;
        if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
            variant.apply(spec);
        }
        let text = pod.to_string();
        let view: PodView<'_> = serde_json::from_str(&text)?;
        let (requests, scored) = self::requests(&view);
        let nodes = Labels::new(variant.node_selector.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        all.push(VariantDemand { nodes, needs: Needs { requests, scored, images: images(&view) } });
    }
    let scalars = all.iter().flat_map(|one| &one.needs.requests.scalars).chain(&requests.scalars);
    let names: BTreeSet<Box<str>> = scalars.map(|(name, _)| name.clone()).collect();
    for amounts in all.iter_mut().map(|one| &mut one.needs.requests).chain([requests]) {
        amounts.scalars = names.iter().map(|name| (name.clone(), amounts.scalar(name))).collect();
    }
    Ok(all)
}

fn claim_use(pod: &str, volume: &VolumeView<'_>) -> Option<ClaimUse> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(ClaimUse { name: (&*claim.claim_name).into(), is_ephemeral: false }),
        (None, Some(_)) => Some(ClaimUse { name: format!("{pod}-{}", &*volume.name).into(), is_ephemeral: true }),
        (None, None) => None,
    }
}

fn seen(view: &PodView<'_>) -> Seen {
    let (spec, status) = (&view.spec, &view.status);
    let condition = |r#type: &str| status.conditions.iter().find(|one| *one.r#type == *r#type);
    let unscheduled = condition("PodScheduled").filter(|one| &*one.status == "False");
    let nanos = |text: &str| time(text).map_or(i128::MAX, |time| time.as_nanosecond());
    let is_terminating = view.metadata.is_terminating();
    let is_target = condition("DisruptionTarget")
        .is_some_and(|one| &*one.status == "True" && &*one.reason == "PreemptionByScheduler");
    Seen {
        node: non_empty(&spec.node_name),
        is_ours: &*spec.scheduler_name == SCHEDULER_NAME,
        has_ended: matches!(&*status.phase, "Failed" | "Succeeded"),
        is_terminating,
        is_preempted: is_terminating && is_target,
        gates: spec.scheduling_gates.iter().map(|gate| (&*gate.name).into()).collect(),
        nominated: non_empty(&status.nominated_node_name),
        unscheduled: unscheduled.map(|one| ((&*one.reason).into(), (&*one.message).into())),
        created: view.metadata.created().as_nanosecond(),
        started: nanos(&status.start_time),
    }
}

fn demand(view: &PodView<'_>) -> Result<Demand, ParsePodError> {
    let spec = &view.spec;
    let labels = Labels::new(view.metadata.labels.iter());
    let namespace: &str = &view.metadata.namespace;
    let term = |term: &TermView<'_>| affinity_term(term, namespace, &labels);
    let required_of = |terms: &TermsView<'_>| -> Result<Vec<AffinityTerm>, ParseSelectorError> {
        terms.required_during_scheduling_ignored_during_execution.iter().map(term).collect()
    };
    let mut preferred = Vec::new();
    for (sign, terms) in [(1, &spec.affinity.pod_affinity), (-1, &spec.affinity.pod_anti_affinity)] {
        for one in &terms.preferred_during_scheduling_ignored_during_execution {
            preferred.push((one.weight.clamp(0, 100) * sign, term(&one.pod_affinity_term)?));
        }
    }
    let of_nodes = &spec.affinity.node_affinity;
    let required = of_nodes.required_during_scheduling_ignored_during_execution.as_ref();
    let preferred_nodes = of_nodes.preferred_during_scheduling_ignored_during_execution.iter();
    let spread = spec.topology_spread_constraints.iter().map(|one| spread(one, namespace, &labels));
    let (requests, scored) = requests(view);
    Ok(Demand {
        namespace: namespace.into(),
        priority: spec.priority,
        never_preempts: &*spec.preemption_policy == "Never",
        requests,
        scored,
        nodes: NodeDemand {
            selector: Labels::new(spec.node_selector.iter()),
            required: required.map(|selector| selector.node_selector_terms.iter().map(node_term).collect()),
        },
        preferred_nodes: preferred_nodes
            .filter(|one| one.weight > 0)
            .map(|one| (one.weight.min(100), node_term(&one.preference)))
            .collect(),
        tolerations: spec.tolerations.iter().filter_map(toleration).collect(),
        ports: ports(view),
        affinity: PodAffinity {
            required: required_of(&spec.affinity.pod_affinity)?,
            required_anti: required_of(&spec.affinity.pod_anti_affinity)?,
            preferred,
        },
        spread: spread.collect::<Result<_, _>>()?,
        images: images(view),
        owner: owner(view),
        variants: Vec::new(),
        labels,
    })
}

fn is_sidecar(container: &ContainerView<'_>) -> bool {
    &*container.restart_policy == "Always"
}

/// Ports of containers and of sidecars: other init containers have ended before these start.
fn ports(view: &PodView<'_>) -> Vec<HostPort> {
    let sidecars = view.spec.init_containers.iter().filter(|one| is_sidecar(one));
    let ports = view.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    let text = |text: &str, default: &str, means: &str| if text == default { means.into() } else { text.into() };
    ports
        .filter(|port| port.host_port > 0)
        .map(|port| HostPort {
            ip: text(&port.host_ip, "0.0.0.0", ""),
            protocol: text(&port.protocol, "", "TCP"),
            port: port.host_port,
        })
        .collect()
}

fn images(view: &PodView<'_>) -> Vec<Box<str>> {
    let of_containers = view.spec.init_containers.iter().chain(&view.spec.containers).map(|one| &one.image);
    let of_volumes = view.spec.volumes.iter().filter_map(|one| one.image.as_ref()).map(|image| &image.reference);
    of_containers.chain(of_volumes).map(|image| full_image_name(image)).collect()
}

fn owner(view: &PodView<'_>) -> Option<(WorkloadKind, Box<str>)> {
    let owner = view.metadata.controller()?;
    let kind = match (&*owner.api_version, &*owner.kind) {
        ("v1", "ReplicationController") => WorkloadKind::ReplicationController,
        ("apps/v1", "ReplicaSet") => WorkloadKind::ReplicaSet,
        ("apps/v1", "StatefulSet") => WorkloadKind::StatefulSet,
        _ => return None,
    };
    Some((kind, (&*owner.name).into()))
}

/// What the pod occupies, and the CPU and memory that it counts for in scores.
fn requests(view: &PodView<'_>) -> (Amounts, [i64; 2]) {
    let requests = total(view, &[]);
    let mut missing = vec![("cpu", Quantity::from_millis(SCORED_CPU)), ("memory", Quantity::from_units(SCORED_MEMORY))];
    if !pod_level(view).0.is_empty() {
        missing.retain(|(name, _)| requests.get(name).is_none());
    }
    let scored = if missing.is_empty() { amounts(&requests) } else { amounts(&total(view, &missing)) };
    (amounts(&requests), [scored.cpu, scored.memory])
}

/// `spec.resources`, as far as a pod as a whole may request them.
fn pod_level<'a>(view: &PodView<'a>) -> ListView<'a> {
    let is_supported = |name: &str| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
    let requests = view.spec.resources.requests.iter().flat_map(|list| &list.0);
    ListView(requests.filter(|(name, _)| is_supported(name)).cloned().collect())
}

/// The requests of all containers, replaced by those of the pod as a whole where it has them, and the overhead.
fn total<'a>(view: &PodView<'a>, missing: &[(&'static str, Quantity)]) -> ListView<'a> {
    let statuses = || view.status.container_statuses.iter().chain(&view.status.init_container_statuses);
    let status = |name: &str| -> Option<&ContainerStatusView<'a>> { statuses().find(|one| *one.name == *name) };
    let of_spec = |container: &ContainerView<'a>| container.resources.requests.clone();
    // A container that is resized has what it had or what it shall have, whichever is more. One whose resize cannot be
    // done keeps what it had.
    let resize = view.status.conditions.iter().find(|one| &*one.r#type == "PodResizePending");
    let is_infeasible = resize.is_some_and(|one| &*one.reason == "Infeasible");
    let mut total = ListView::default();
    if !is_infeasible {
        total = sum(view, missing, of_spec);
    }
    if is_infeasible || statuses().any(|one| one.allocated_resources.is_some() || one.resources.requests.is_some()) {
        let fallback = |container: &ContainerView<'a>| if is_infeasible { None } else { of_spec(container) };
        let allocated = sum(view, missing, |container| {
            status(&container.name).and_then(|one| one.allocated_resources.clone()).or_else(|| fallback(container))
        });
        let actual = sum(view, missing, |container| {
            let status = status(&container.name);
            let actual = status.and_then(|one| one.resources.requests.clone().or(one.allocated_resources.clone()));
            actual.or_else(|| fallback(container))
        });
        total.max(&allocated);
        total.max(&actual);
    }
    total.merge(&pod_level(view), |_, of_pod| of_pod);
    total.add(&view.spec.overhead);
    total
}

/// Containers run at the same time, and with them the sidecars; each init container runs with the sidecars before it.
fn sum<'a>(
    view: &PodView<'a>,
    missing: &[(&'static str, Quantity)],
    list: impl Fn(&ContainerView<'a>) -> Option<ListView<'a>>,
) -> ListView<'a> {
    let list = |container: &ContainerView<'a>| list(container).unwrap_or_default().with_missing(missing);
    let mut running = ListView::default();
    for container in &view.spec.containers {
        running.add(&list(container));
    }
    let (mut sidecars, mut starting) = (ListView::default(), ListView::default());
    for container in &view.spec.init_containers {
        let mut own = list(container);
        if is_sidecar(container) {
            running.add(&own);
            sidecars.add(&own);
            starting.max(&sidecars);
        } else {
            own.add(&sidecars);
            starting.max(&own);
        }
    }
    running.max(&starting);
    running
}

/// As much of anything as counts: half a petabyte, or half a billion processors. The sum of what 16,384 pods of a node request is a number
/// that 64 bits hold, so that it is zero again when they are deleted.
const AMOUNT_MAX: i64 = i64::MAX >> 14;

/// The amounts of a list; what is neither a field of its own nor counted by its name is left out.
pub(crate) fn amounts(list: &ListView<'_>) -> Amounts {
    let mut amounts = Amounts::default();
    for (name, amount) in &list.0 {
        let units = amount.value().clamp(0, AMOUNT_MAX);
        match &**name {
            "cpu" => amounts.cpu = amount.milli_value().clamp(0, AMOUNT_MAX),
            "memory" => amounts.memory = units,
            "ephemeral-storage" => amounts.storage = units,
            name if is_scalar(name) => amounts.scalars.push((name.into(), units)),
            _ => {}
        }
    }
    amounts.scalars.sort();
    amounts.scalars.dedup_by(|one, other| one.0 == other.0);
    amounts
}

/// Whether a resource is counted by its name alone: extended ones, huge pages, attachable volumes.
fn is_scalar(name: &str) -> bool {
    name.starts_with("hugepages-") || name.starts_with("attachable-volumes-") || name.contains('/')
}

fn non_empty(text: &str) -> Option<Box<str>> {
    (!text.is_empty()).then(|| text.into())
}

/// The name under which a node reports the image: with a tag.
fn full_image_name(image: &str) -> Box<str> {
    let has_tag = image.rfind(':') > image.rfind('/');
    if has_tag { image.into() } else { format!("{image}:latest").into() }
}

fn toleration(view: &TolerationView<'_>) -> Option<Toleration> {
    let value = match &*view.operator {
        "" | "Equal" => Some((&*view.value).into()),
        "Exists" => None,
        // `Lt` and `Gt` are behind a gate that is closed by default: they tolerate nothing.
        _ => return None,
    };
    let effect = match &*view.effect {
        "" => None,
        effect => Some(Effect::parse(effect)?),
    };
    Some(Toleration { key: (&*view.key).into(), value, effect })
}

fn node_term(view: &NodeTermView<'_>) -> NodeTerm {
    let labels: Result<Vec<Requirement>, _> = view.match_expressions.iter().map(Expression::to_requirement).collect();
    let mut labels = labels.ok();
    let mut names = Vec::new();
    for field in &view.match_fields {
        match (&*field.key, &*field.operator) {
            ("metadata.name", operator @ ("In" | "NotIn")) => {
                names.push((operator == "In", field.values.iter().map(|name| (&**name).into()).collect()));
            }
            // No API server lets it pass.
            _ => labels = None,
        }
    }
    NodeTerm { labels, names }
}

/// The terms of a node selector, as a volume has them.
pub(crate) fn node_terms(json: &RawValue) -> Result<Vec<NodeTerm>, serde_json::Error> {
    let view: NodeSelectorView<'_> = serde_json::from_str(json.get())?;
    Ok(view.node_selector_terms.iter().map(node_term).collect())
}

fn affinity_term(view: &TermView<'_>, namespace: &str, labels: &Labels) -> Result<AffinityTerm, ParseSelectorError> {
    let selector = match &view.label_selector {
        None => LabelSelector::nothing(),
        Some(spec) => {
            let keys = [(&view.match_label_keys[..], true), (&view.mismatch_label_keys[..], false)];
            with_own_values(spec.to_selector()?, &keys, labels)?
        }
    };
    let mut namespaces: Vec<Box<str>> = view.namespaces.iter().map(|one| (&**one).into()).collect();
    if namespaces.is_empty() && view.namespace_selector.is_none() {
        namespaces.push(namespace.into());
    }
    namespaces.sort();
    namespaces.dedup();
    let namespace_selector = match &view.namespace_selector {
        None => LabelSelector::nothing(),
        Some(spec) => spec.to_selector()?,
    };
    let matcher = PodMatcher { namespaces, namespace_selector, selector };
    Ok(AffinityTerm { matcher, topology_key: (&*view.topology_key).into() })
}

/// A selector that demands the pod's own values of these labels as well, or others than those. An API server has added
/// them already; adding them again changes nothing.
fn with_own_values(
    selector: LabelSelector,
    keys: &[(&[Text<'_>], bool)],
    labels: &Labels,
) -> Result<LabelSelector, ParseSelectorError> {
    if keys.iter().all(|(keys, _)| keys.is_empty()) {
        return Ok(selector);
    }
    let mut requirements = selector.requirements().to_vec();
    for (keys, is_in) in keys {
        for key in *keys {
            let Some(value) = labels.get(key) else { continue };
            let values = vec![value.to_owned()];
            let operator = if *is_in { Operator::In(values) } else { Operator::NotIn(values) };
            let requirement = Requirement::new(key, operator)?;
            if !requirements.contains(&requirement) {
                requirements.push(requirement);
            }
        }
    }
    Ok(LabelSelector::new(requirements))
}

fn spread(view: &SpreadView<'_>, namespace: &str, labels: &Labels) -> Result<SpreadConstraint, ParsePodError> {
    let selector = match &view.label_selector {
        None => LabelSelector::nothing(),
        Some(spec) => with_own_values(spec.to_selector()?, &[(&view.match_label_keys[..], true)], labels)?,
    };
    let bounded = |number: i64| number.clamp(1, i64::from(i32::MAX));
    Ok(SpreadConstraint {
        max_skew: bounded(view.max_skew),
        min_domains: bounded(view.min_domains.unwrap_or(1)),
        topology_key: (&*view.topology_key).into(),
        matcher: PodMatcher::in_namespace(namespace, selector),
        is_hard: &*view.when_unsatisfiable != "ScheduleAnyway",
        honors_affinity: &*view.node_affinity_policy != "Ignore",
        honors_taints: &*view.node_taints_policy == "Honor",
    })
}
