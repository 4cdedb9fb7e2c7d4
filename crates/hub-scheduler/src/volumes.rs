//! Claims and volumes: which nodes a pod's claims leave it.
//!
//! A claim that is bound leaves the nodes that its volume can be reached from. One that is not, of a class that waits for its
//! first pod, is bound with the decision: to a volume that exists and fits, or by a provisioner, which is asked by the
//! annotation `volume.kubernetes.io/selected-node`. One of any other class must be bound before its pod is placed.
//!
//! Where volumes are directories of nodes, a node has so much to give as its disk is large, less what its volumes and the claims that are
//! about to get one were promised. Upstream reads that from CSIStorageCapacity objects; here it is known at once, and never late.

use std::collections::{BTreeMap, HashMap};

use api_edge::volumes::{PROVISIONED_BY, PROVISIONER, node_of};
use api_kube::{LabelSelector, LabelSelectorSpec, Quantity, Text};
use hub_runtime::views::ObjectMeta;
use hub_runtime::volumes::{
    AccessModes, Asked, BETA_CLASS, BIND_COMPLETED, NO_PROVISIONER, Offer, SELECTED_NODE, Suiting, Terms, is_bindable,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::pod::parse::node_terms;
use crate::pod::views::{ListView, nullable};
use crate::pod::{ClaimUse, Pod};
use crate::terms::{Labels, NodeTerm};

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// The uid of the pod that controls it.
    pub owner: Option<Box<str>>,
    /// `spec.volumeName`.
    pub volume: Option<Box<str>>,
    /// Whether claim and volume know of each other.
    pub is_bound: bool,
    /// Whether its volume is lost.
    pub is_lost: bool,
    /// Whether it waits for its deletion.
    pub is_terminating: bool,
    /// `spec.storageClassName`.
    pub class: Box<str>,
    /// The node for which a provisioner is asked already.
    pub selected_node: Option<Box<str>>,
    /// `spec.volumeAttributesClassName`.
    pub attributes_class: Box<str>,
    /// `spec.accessModes`.
    pub modes: AccessModes,
    /// Bytes.
    pub request: i64,
    /// Whether a block device is demanded.
    pub is_block: bool,
    /// The volumes that it may be bound to.
    pub selector: Option<LabelSelector>,
}

/// A PersistentVolume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Namespace, name and, once it is known, uid of the claim that it is for.
    pub claim: Option<(Box<str>, Box<str>, Box<str>)>,
    /// The nodes that reach it; all, where it does not say.
    pub nodes: Option<Vec<NodeTerm>>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.storageClassName`.
    pub class: Box<str>,
    /// `spec.volumeAttributesClassName`.
    pub attributes_class: Box<str>,
    /// `spec.accessModes`.
    pub modes: AccessModes,
    /// Bytes.
    pub capacity: i64,
    /// Whether it is a block device.
    pub is_block: bool,
    /// Whether it may be bound: it is not released, failed or on its way out.
    pub is_usable: bool,
    /// The node whose directory it is.
    pub directory_of: Option<Box<str>>,
}

/// Labels, and the values that each may have.
pub type Topology = Vec<(Box<str>, Vec<Box<str>>)>;

/// A StorageClass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// Whether claims wait for their first pod.
    pub waits: bool,
    /// Whether somebody makes volumes when they are needed.
    pub provisions: bool,
    /// Whether these are directories of nodes.
    pub are_directories: bool,
    /// Where: one of these, or anywhere where there is none. Each demands one of some values of each of its labels.
    pub topologies: Vec<Topology>,
}

/// All claims, volumes and classes.
#[derive(Debug, Default)]
pub struct Volumes {
    /// By namespace and name.
    pub claims: HashMap<Box<str>, HashMap<Box<str>, Claim>>,
    /// By name, so that of two that fit as well the same one is always taken.
    pub volumes: BTreeMap<Box<str>, Volume>,
    /// By name.
    pub classes: HashMap<Box<str>, Class>,
}

/// What a pod's claims mean for nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimCheck {
    /// Volumes of bound claims.
    bound: Vec<Box<str>>,
    /// Claims that are bound with the decision, and the names of the volumes that suit each, wherever they are.
    waiting: Vec<(Box<str>, Suiting<Box<str>>)>,
    /// The pod's claims that only one pod may use at a time.
    pub exclusive: Vec<Box<str>>,
    /// Bytes that each node has promised to others; none where that does not matter.
    promised: HashMap<Box<str>, i64>,
}

/// How the claims of a placed pod are bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimPlan {
    /// Claims and the volumes that they are bound to.
    pub bind: Vec<(Box<str>, Box<str>)>,
    /// Claims for which a provisioner is asked.
    pub provision: Vec<Box<str>>,
}

impl ClaimPlan {
    /// Whether everything is bound already.
    pub fn is_empty(&self) -> bool {
        self.bind.is_empty() && self.provision.is_empty()
    }
}

/// Why a node does not suit a pod's claims; several may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeConflict {
    /// A bound volume cannot be reached from it.
    pub unreachable: bool,
    /// No volume for an unbound claim.
    pub nothing_to_bind: bool,
    /// A claim is bound to a volume that does not exist.
    pub missing: bool,
    /// Its disk is too small for what the claims request.
    pub no_space: bool,
}

impl ClaimCheck {
    /// Whether nodes do not matter.
    pub fn is_empty(&self) -> bool {
        self.bound.is_empty() && self.waiting.is_empty()
    }
}

impl Volumes {
    /// A claim by its namespace and name.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Claim> {
        self.claims.get(namespace)?.get(name)
    }

    /// What a pod's claims mean for nodes, or why it cannot be placed anywhere.
    pub fn check(&self, pod: &Pod) -> Result<ClaimCheck, String> {
        let mut check = ClaimCheck::default();
        let claims = pod.claims.iter().map(|of_pod| Ok((of_pod, self.usable(pod, of_pod)?)));
        let claims = claims.collect::<Result<Vec<_>, String>>()?;
        let mut is_unbound = false;
        for (of_pod, claim) in claims {
            if claim.modes.contain(AccessModes::ONE_POD) {
                check.exclusive.push(of_pod.name.clone());
            }
            match &claim.volume {
                Some(volume) if claim.is_bound => check.bound.push(volume.clone()),
                None if self.classes.get(&claim.class).is_some_and(|class| class.waits) => {
                    let suiting = self.suiting(pod.namespace(), &of_pod.name, claim);
                    check.waiting.push((of_pod.name.clone(), suiting));
                }
                _ => is_unbound = true,
            }
        }
        if is_unbound {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        let waiting: Vec<&str> = check.waiting.iter().map(|(name, _)| &**name).collect();
        let mut claims = waiting.iter().filter_map(|name| self.claim(pod.namespace(), name));
        if claims.any(|claim| self.gets_directory(claim)) {
            check.promised = self.promised(pod.namespace(), &waiting);
        }
        Ok(check)
    }

    /// The volumes that suit a claim. One for which a provisioner was asked gets what that makes.
    fn suiting(&self, namespace: &str, name: &str, claim: &Claim) -> Suiting<Box<str>> {
        if claim.selected_node.is_some() {
            return Suiting::Free(Vec::new());
        }
        let (claim, terms, selector) = ((namespace, name, &*claim.uid), claim.terms(), claim.selector.as_ref());
        let asked = Asked { claim, terms, selector };
        let volumes = self.volumes.iter().map(|(name, volume)| Named { name, volume });
        Suiting::find(&asked, volumes).map(|found| found.name.into())
    }

    fn gets_directory(&self, claim: &Claim) -> bool {
        self.classes.get(&claim.class).is_some_and(|class| class.are_directories)
    }

    /// What nodes have promised: to volumes, and to claims that are about to get one, but those named here.
    fn promised(&self, namespace: &str, except: &[&str]) -> HashMap<Box<str>, i64> {
        let mut promised: HashMap<Box<str>, i64> = HashMap::new();
        let mut add = |node: &str, bytes: i64| {
            let sum = promised.entry(node.into()).or_default();
            *sum = sum.saturating_add(bytes.max(0));
        };
        for volume in self.volumes.values() {
            volume.directory_of.iter().for_each(|node| add(node, volume.capacity));
        }
        for (of_namespace, claims) in &self.claims {
            for (name, claim) in claims {
                let Some(node) = claim.selected_node.as_ref().filter(|_| claim.volume.is_none()) else { continue };
                let is_own = **of_namespace == *namespace && except.contains(&&**name);
                if !is_own && self.gets_directory(claim) && !self.volumes.contains_key(&*format!("pvc-{}", claim.uid)) {
                    add(node, claim.request);
                }
            }
        }
        promised
    }

    fn usable(&self, pod: &Pod, of_pod: &ClaimUse) -> Result<&Claim, String> {
        let name = &of_pod.name;
        let Some(claim) = self.claim(pod.namespace(), name) else {
            return Err(if of_pod.is_ephemeral {
                format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
            } else {
                format!("persistentvolumeclaim {name:?} not found")
            });
        };
        if claim.is_lost {
            let volume = claim.volume.as_deref().unwrap_or_default();
            return Err(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"));
        }
        if claim.is_terminating {
            return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
        }
        if of_pod.is_ephemeral && claim.owner.as_ref() != Some(&pod.uid) {
            let (namespace, pod) = (pod.namespace(), &pod.name);
            return Err(format!("PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"));
        }
        Ok(claim)
    }

    /// How the pod's claims are bound when it runs on a node, or why they cannot be. `disk` is how many bytes it has for directories, if it
    /// offers any.
    pub fn plan(
        &self,
        namespace: &str,
        check: &ClaimCheck,
        node: &str,
        labels: &Labels,
        disk: Option<i64>,
    ) -> Result<ClaimPlan, VolumeConflict> {
        let mut conflict = VolumeConflict::default();
        for name in &check.bound {
            match self.volumes.get(name) {
                None => conflict.missing = true,
                Some(volume) => conflict.unreachable |= !volume.is_reachable(node, labels),
            }
        }
        let mut plan = ClaimPlan::default();
        let mut promised = check.promised.get(node).copied().unwrap_or_default();
        for (name, suiting) in &check.waiting {
            let Some(claim) = self.claim(namespace, name) else {
                conflict.nothing_to_bind = true;
                continue;
            };
            let is_for_another = claim.selected_node.as_ref().is_some_and(|selected| **selected != *node);
            let found = suiting.first(|volume| {
                let is_taken = plan.bind.iter().any(|(_, taken)| taken == volume);
                !is_taken && self.volumes.get(volume).is_some_and(|volume| volume.is_reachable(node, labels))
            });
            match found {
                _ if is_for_another => conflict.nothing_to_bind = true,
                Some(volume) => plan.bind.push((name.clone(), volume.clone())),
                None if self.gets_directory(claim) && disk.is_none() => conflict.nothing_to_bind = true,
                None if self.can_provision(&claim.class, labels) => {
                    if let Some(disk) = disk.filter(|_| self.gets_directory(claim)) {
                        promised = promised.saturating_add(claim.request.max(0));
                        // A node that does not say how large its disk is takes what comes.
                        conflict.no_space |= disk > 0 && promised > disk;
                    }
                    plan.provision.push(name.clone());
                }
                None => conflict.nothing_to_bind = true,
            }
        }
        if conflict == VolumeConflict::default() { Ok(plan) } else { Err(conflict) }
    }

    fn can_provision(&self, class: &str, labels: &Labels) -> bool {
        let Some(class) = self.classes.get(class).filter(|class| class.provisions) else { return false };
        let suits = |(key, values): &(Box<str>, Vec<Box<str>>)| {
            labels.get(key).is_some_and(|label| values.iter().any(|value| **value == *label))
        };
        class.topologies.is_empty() || class.topologies.iter().any(|term| term.iter().all(suits))
    }
}

impl Claim {
    fn terms(&self) -> Terms<'_> {
        Terms {
            class: &self.class,
            attributes_class: &self.attributes_class,
            bytes: self.request,
            modes: self.modes,
            is_block: self.is_block,
        }
    }
}

/// A volume, which does not know its own name.
struct Named<'v> {
    name: &'v str,
    volume: &'v Volume,
}

impl Offer for Named<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn terms(&self) -> Terms<'_> {
        let Volume { class, attributes_class, capacity, modes, is_block, .. } = self.volume;
        Terms { class, attributes_class, bytes: *capacity, modes: *modes, is_block: *is_block }
    }

    fn claim(&self) -> Option<(&str, &str, &str)> {
        self.volume.claim.as_ref().map(|(namespace, name, uid)| (&**namespace, &**name, &**uid))
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.volume.labels.get(key)
    }

    fn is_usable(&self) -> bool {
        self.volume.is_usable
    }
}

impl Volume {
    fn is_reachable(&self, node: &str, labels: &Labels) -> bool {
        self.nodes.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(node, labels)))
    }
}

/// Annotations of an object, which the shared views leave out.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct AnnotatedView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub annotations: hub_runtime::views::Labels<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ClaimView<'a> {
    #[serde(borrow)]
    metadata: ObjectMeta<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    spec: ClaimSpecView<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    status: PhaseView<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClaimSpecView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    volume_name: Text<'a>,
    #[serde(borrow)]
    storage_class_name: Option<Text<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    access_modes: Vec<Text<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    resources: RequestsView<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    volume_attributes_class_name: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    volume_mode: Text<'a>,
    selector: Option<LabelSelectorSpec>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RequestsView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    requests: ListView<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PhaseView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    phase: Text<'a>,
}

/// Annotations, which the shared views leave out.
fn annotations(json: &[u8]) -> Result<Labels, serde_json::Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct View<'a> {
        #[serde(borrow, deserialize_with = "nullable")]
        metadata: AnnotatedView<'a>,
    }
    let view: View<'_> = serde_json::from_slice(json)?;
    Ok(Labels::new(view.metadata.annotations.iter()))
}

fn storage(list: &ListView<'_>) -> i64 {
    list.get("storage").as_ref().map_or(0, Quantity::value)
}

/// Reads a claim.
///
/// # Errors
/// When a field has another type, or its selector is none.
pub fn parse_claim(json: &[u8]) -> Result<Claim, crate::pod::ParsePodError> {
    let view: ClaimView<'_> = serde_json::from_slice(json)?;
    let annotations = annotations(json)?;
    let text = |text: &str| (!text.is_empty()).then(|| text.into());
    let class = annotations.get(BETA_CLASS).or(view.spec.storage_class_name.as_deref());
    Ok(Claim {
        uid: (&*view.metadata.uid).into(),
        owner: view.metadata.controller().map(|owner| (&*owner.uid).into()),
        volume: text(&view.spec.volume_name),
        is_bound: annotations.get(BIND_COMPLETED).is_some(),
        is_lost: &*view.status.phase == "Lost",
        is_terminating: view.metadata.is_terminating(),
        class: class.unwrap_or_default().into(),
        selected_node: annotations.get(SELECTED_NODE).and_then(text),
        attributes_class: (&*view.spec.volume_attributes_class_name).into(),
        modes: AccessModes::new(view.spec.access_modes.iter().map(|mode| &**mode)),
        request: storage(&view.spec.resources.requests),
        is_block: &*view.spec.volume_mode == "Block",
        selector: view.spec.selector.as_ref().map(LabelSelectorSpec::to_selector).transpose()?,
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct VolumeView<'a> {
    #[serde(borrow)]
    metadata: ObjectMeta<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    spec: VolumeSpecView<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    status: PhaseView<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct VolumeSpecView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    capacity: ListView<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    access_modes: Vec<Text<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    storage_class_name: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    volume_attributes_class_name: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    volume_mode: Text<'a>,
    #[serde(borrow)]
    claim_ref: Option<ReferenceView<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    node_affinity: AffinityView<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReferenceView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    namespace: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    name: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    uid: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AffinityView<'a> {
    #[serde(borrow)]
    required: Option<&'a RawValue>,
}

/// Reads a volume.
///
/// # Errors
/// When a field has another type.
pub fn parse_volume(json: &[u8]) -> Result<Volume, serde_json::Error> {
    let view: VolumeView<'_> = serde_json::from_slice(json)?;
    let annotations = annotations(json)?;
    let text = |text: &str| -> Box<str> { text.into() };
    let reference = view.spec.claim_ref.as_ref();
    let directory_of = match annotations.get(PROVISIONED_BY) == Some(PROVISIONER) {
        true => node_of(&serde_json::from_slice(json)?).map(text),
        false => None,
    };
    Ok(Volume {
        claim: reference.map(|claim| (text(&claim.namespace), text(&claim.name), text(&claim.uid))),
        nodes: view.spec.node_affinity.required.map(node_terms).transpose()?,
        labels: Labels::new(view.metadata.labels.iter()),
        class: annotations.get(BETA_CLASS).unwrap_or(&view.spec.storage_class_name).into(),
        attributes_class: text(&view.spec.volume_attributes_class_name),
        modes: AccessModes::new(view.spec.access_modes.iter().map(|mode| &**mode)),
        capacity: storage(&view.spec.capacity),
        is_block: &*view.spec.volume_mode == "Block",
        is_usable: !view.metadata.is_terminating() && is_bindable(&view.status.phase),
        directory_of,
    })
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClassView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    provisioner: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    volume_binding_mode: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    allowed_topologies: Vec<TopologyView<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TopologyView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    match_label_expressions: Vec<ValuesView<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ValuesView<'a> {
    #[serde(borrow)]
    key: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    values: Vec<Text<'a>>,
}

/// Reads a class.
///
/// # Errors
/// When a field has another type.
pub fn parse_class(json: &[u8]) -> Result<Class, serde_json::Error> {
    let view: ClassView<'_> = serde_json::from_slice(json)?;
    let values = |of: &ValuesView<'_>| -> (Box<str>, Vec<Box<str>>) {
        ((&*of.key).into(), of.values.iter().map(|value| (&**value).into()).collect())
    };
    Ok(Class {
        waits: &*view.volume_binding_mode == "WaitForFirstConsumer",
        provisions: !matches!(&*view.provisioner, "" | NO_PROVISIONER),
        are_directories: &*view.provisioner == PROVISIONER,
        topologies: view
            .allowed_topologies
            .iter()
            .map(|term| term.match_label_expressions.iter().map(values).collect())
            .collect(),
    })
}

#[cfg(test)]
mod tests;
