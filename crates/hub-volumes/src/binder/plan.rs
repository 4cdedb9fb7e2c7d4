//! What a claim or a volume needs next, as plain functions: the cases of upstream's controller, in its words.

use crate::matching::{self, Place};
use crate::views::{Claim, Class, Node, PodView, Volume};
use api_edge::volumes::PROVISIONED_BY;
use hub_runtime::volumes::{BOUND_BY_CONTROLLER, NO_PROVISIONER, SELECTED_NODE};

/// Pods that an Event names at most.
const NAMED_PODS_MAX: usize = 10;

/// Something that a person should see of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub is_warning: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Said {
    fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { is_warning: false, reason, message: message.into() }
    }

    fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { is_warning: true, reason, message: message.into() }
    }
}

/// What is known when a claim is looked at.
pub(crate) struct ClaimFacts<'f, 'a> {
    /// The volume that it names.
    pub named: Option<&'f Volume<'a>>,
    /// All volumes; none where they do not matter.
    pub volumes: &'f [Volume<'a>],
    /// Its class, where there is one of that name.
    pub class: Option<&'f Class<'a>>,
    /// The class that claims get which name none.
    pub default_class: Option<&'f str>,
    /// The pods that have it.
    pub pods: &'f [PodView<'a>],
    /// The node that the first of them was placed on.
    pub node: Option<&'f Node<'a>>,
}

/// What a claim needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClaimStep {
    /// Nothing now, and nothing that somebody should see.
    Keep,
    /// The default class: it named none when there was none.
    SetClass(String),
    /// Its first pod has a node, which its volume is to be on.
    SelectNode(String),
    /// To be bound to this volume, as far as it is not yet.
    Bind(String),
    /// Its volume does not exist any more, or is another's.
    Lose(Said),
    /// To wait. A provisioner that is to make its volume is named on it.
    Wait { said: Option<Said>, provisioner: Option<String> },
}

fn wait(said: Said) -> ClaimStep {
    ClaimStep::Wait { said: Some(said), provisioner: None }
}

/// Decides about a claim.
pub(crate) fn claim_step(claim: &Claim<'_>, facts: &ClaimFacts<'_, '_>) -> ClaimStep {
    if claim.is_bind_completed() {
        return bound_claim_step(claim, facts.named);
    }
    if claim.metadata.is_terminating() {
        return ClaimStep::Keep;
    }
    if !claim.spec.volume_name.is_empty() {
        return named_claim_step(claim, facts.named);
    }
    if let (None, Some(class)) = (claim.named_class(), facts.default_class) {
        return ClaimStep::SetClass(class.to_owned());
    }
    let waits = facts.class.is_some_and(Class::waits);
    let place = match facts.node {
        _ if !waits => Place::Anywhere,
        Some(node) => Place::On(node),
        None => Place::NotYet,
    };
    if let Some(volume) = matching::best(claim, facts.volumes, place) {
        return ClaimStep::Bind(volume.metadata.name.to_string());
    }
    if waits && claim.annotations.get(SELECTED_NODE).is_none() {
        return match (facts.node, facts.class) {
            (Some(node), Some(class)) if &*class.provisioner != NO_PROVISIONER => {
                ClaimStep::SelectNode(node.metadata.name.to_string())
            }
            (Some(node), _) => {
                let message =
                    format!("no persistent volumes available for this claim on node {}", &*node.metadata.name);
                wait(Said::warning("FailedBinding", message))
            }
            (None, _) => wait(unscheduled(facts.pods)),
        };
    }
    match (claim.class(), facts.class) {
        ("", _) => {
            const NOTHING: &str = "no persistent volumes available for this claim and no storage class is set";
            wait(Said::normal("FailedBinding", NOTHING))
        }
        (name, None) => {
            wait(Said::warning("ProvisioningFailed", format!("storageclass.storage.k8s.io \"{name}\" not found")))
        }
        (_, Some(class)) if &*class.provisioner == NO_PROVISIONER => {
            wait(Said::warning("ProvisioningFailed", format!("no volume plugin matched name: {NO_PROVISIONER}")))
        }
        (_, Some(class)) => {
            let provisioner = &*class.provisioner;
            let message = format!(
                "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
                 system administrator. If volume creation is delayed, please verify that the provisioner is running and \
                 correctly registered."
            );
            let said = Some(Said::normal("ExternalProvisioning", message));
            ClaimStep::Wait { said, provisioner: Some(provisioner.to_owned()) }
        }
    }
}

/// Why a claim whose class waits for a pod waits.
fn unscheduled(pods: &[PodView<'_>]) -> Said {
    let waiting = pods.iter().filter(|pod| pod.is_live() && !pod.is_placed());
    let names: Vec<&str> = waiting.map(|pod| &*pod.metadata.name).take(NAMED_PODS_MAX).collect();
    match names.as_slice() {
        [] => Said::normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
        [one] => Said::normal("WaitForPodScheduled", format!("waiting for pod {one} to be scheduled")),
        more => Said::normal("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", more.join(","))),
    }
}

fn bound_claim_step(claim: &Claim<'_>, volume: Option<&Volume<'_>>) -> ClaimStep {
    let lost = |message: &str| ClaimStep::Lose(Said::warning("ClaimLost", message));
    match volume {
        _ if claim.spec.volume_name.is_empty() => {
            lost("Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
        }
        None => lost("Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
        Some(volume) if volume.spec.claim_ref.is_none() || volume.is_for(claim) => {
            ClaimStep::Bind(volume.metadata.name.to_string())
        }
        Some(_) => ClaimStep::Lose(Said::warning(
            "ClaimMisbound",
            "Two claims are bound to the same volume, this one is bound incorrectly",
        )),
    }
}

/// A claim that names a volume, and is not bound to it.
fn named_claim_step(claim: &Claim<'_>, volume: Option<&Volume<'_>>) -> ClaimStep {
    let Some(volume) = volume else { return ClaimStep::Wait { said: None, provisioner: None } };
    let name = &*volume.metadata.name;
    if volume.is_for(claim) {
        return ClaimStep::Bind(name.to_owned());
    }
    if volume.spec.claim_ref.is_some() {
        return wait(Said::warning("FailedBinding", format!("volume {name:?} already bound to a different claim.")));
    }
    let why = match volume.metadata.is_terminating() {
        true => Some(format!("the volume is marked for deletion {name:?}")),
        false => matching::mismatch(claim, volume).map(str::to_owned),
    };
    match why {
        None => ClaimStep::Bind(name.to_owned()),
        Some(why) => wait(Said::warning("VolumeMismatch", format!("Cannot bind to requested volume {name:?}: {why}"))),
    }
}

/// `status.phase` of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VolumePhase {
    Available,
    Bound,
    Released,
    Failed,
}

impl VolumePhase {
    pub fn name(self) -> &'static str {
        match self {
            Self::Available => "Available",
            Self::Bound => "Bound",
            Self::Released => "Released",
            Self::Failed => "Failed",
        }
    }
}

/// What a volume needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VolumeStep {
    /// Nothing: what its claim needs comes first.
    Keep,
    /// This phase, with what is said when it is new.
    Phase(VolumePhase, Option<Said>),
    /// To be freed of a claim that is bound to another volume; `forgets_claim` says whether a person had not chosen it.
    Unbind { forgets_claim: bool },
}

/// The claim that a volume names.
#[derive(Clone, Copy)]
pub(crate) enum ClaimOf<'c, 'a> {
    /// It is there.
    Found(&'c Claim<'a>),
    /// It is deleted, or another one of its name is there.
    Deleted,
}

/// Decides about a volume.
pub(crate) fn volume_step(volume: &Volume<'_>, claim: ClaimOf<'_, '_>) -> VolumeStep {
    let is_named_only = volume.spec.claim_ref.as_ref().is_none_or(|claim| claim.uid.is_empty());
    if is_named_only {
        return VolumeStep::Phase(VolumePhase::Available, None);
    }
    let claim = match claim {
        ClaimOf::Found(claim) if volume.is_for(claim) => claim,
        ClaimOf::Found(_) | ClaimOf::Deleted => return released(volume),
    };
    if claim.spec.volume_name.is_empty() {
        return VolumeStep::Keep;
    }
    if claim.spec.volume_name == volume.metadata.name {
        return VolumeStep::Phase(VolumePhase::Bound, None);
    }
    if volume.annotations.get(PROVISIONED_BY).is_some() && &*volume.spec.persistent_volume_reclaim_policy == "Delete" {
        return released(volume);
    }
    VolumeStep::Unbind { forgets_claim: volume.annotations.get(BOUND_BY_CONTROLLER).is_some() }
}

/// A volume whose claim is deleted. What its provisioner has made, its provisioner deletes.
fn released(volume: &Volume<'_>) -> VolumeStep {
    let name = &*volume.metadata.name;
    let failed = |reason: &'static str, message: String| {
        VolumeStep::Phase(VolumePhase::Failed, Some(Said::warning(reason, message)))
    };
    match &*volume.spec.persistent_volume_reclaim_policy {
        "Retain" | "" => {}
        "Delete" if volume.annotations.get(PROVISIONED_BY).is_some() => {}
        // It is said to be released first, as by upstream.
        _ if !matches!(&*volume.status.phase, "Released" | "Failed") => {}
        "Delete" => {
            let why = "no deletable volume plugin matched";
            let message = format!("error getting deleter volume plugin for volume {name:?}: {why}");
            return failed("VolumeFailedDelete", message);
        }
        "Recycle" => return failed("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned()),
        _ => {
            let message = "Volume has unrecognized PersistentVolumeReclaimPolicy".to_owned();
            return failed("VolumeUnknownReclaimPolicy", message);
        }
    }
    match &*volume.status.phase {
        // A person sees that something went wrong until it is right.
        "Failed" => VolumeStep::Keep,
        _ => VolumeStep::Phase(VolumePhase::Released, None),
    }
}

#[cfg(test)]
mod tests;
