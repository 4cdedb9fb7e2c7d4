//! Volumes that pods claim, as far as they are on this node: PersistentVolumes of the kinds `local` and `hostPath`, made by hand or by the
//! hub, whose volumes are directories of the node itself.
//!
//! `pod ─ claimName ─▶ claim ─ spec.volumeName ─▶ volume ─ spec.claimRef ─▶ the same claim`
//!
//! Nobody here binds. A claim is bound when both name each other; what a controller of volumes writes into their statuses is not
//! needed, except that a claim which has lost its volume says so.

use serde::Deserialize;
use serde_json::Value;

use crate::env::{self, Lookup, NodeFacts, ValueError};
use crate::model::{ClaimVolume, HostPath, Pod};
use crate::store::{Known, ObjectKey, ObjectKind};
use crate::volumes::VolumeError;

/// The label that names the node.
const HOSTNAME: &str = "kubernetes.io/hostname";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
    uid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Claim {
    metadata: Named,
    spec: ClaimSpec,
    status: ClaimStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClaimSpec {
    volume_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ClaimStatus {
    phase: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PersistentVolume {
    metadata: Named,
    spec: VolumeSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct VolumeSpec {
    claim_ref: Option<ClaimRef>,
    host_path: Option<HostPath>,
    local: Option<HostPath>,
    volume_mode: Option<String>,
    node_affinity: NodeAffinity,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ClaimRef {
    namespace: String,
    name: String,
    uid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeAffinity {
    required: Option<NodeSelector>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSelector {
    node_selector_terms: Vec<Term>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Term {
    match_expressions: Vec<Requirement>,
    match_fields: Vec<Requirement>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Requirement {
    key: String,
    operator: String,
    values: Vec<String>,
}

/// The volume that a claim names.
pub(crate) fn volume_of(claim: &Known) -> Option<ObjectKey> {
    let Known::Present(claim) = claim else { return None };
    let name = claim["spec"]["volumeName"].as_str().filter(|name| !name.is_empty() && !name.contains('/'))?;
    Some(ObjectKey::of_volume(name))
}

/// Whether a volume names a claim.
pub(crate) fn is_bound(volume: &Known) -> bool {
    matches!(volume, Known::Present(volume) if volume["spec"]["claimRef"]["name"].is_string())
}

/// Where what a pod claims is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Claimed {
    /// In a path of the node.
    Path(HostPath),
    /// In the directory that the node keeps for the volume of this name, wherever the hub says that it is.
    Directory(String),
}

/// Where what a pod claims is on this node.
pub(crate) fn find(
    pod: &Pod,
    volume: &str,
    source: &ClaimVolume,
    node: &NodeFacts,
    lookup: &dyn Lookup,
) -> Result<Claimed, VolumeError> {
    let namespace = &pod.metadata.namespace;
    let fault = |why: String| VolumeError::Claim {
        volume: volume.to_owned(),
        claim: format!("{namespace}/{}", source.claim_name),
        why,
    };
    if pod.is_static() {
        return Err(fault("a static pod has no claims, as the hub does not know it; use hostPath".to_owned()));
    }
    let claim: Claim = read(volume, fetch(lookup, ObjectKind::Claim, namespace, &source.claim_name), fault)?;
    if claim.status.phase == "Lost" {
        return Err(fault("it has lost its volume".to_owned()));
    }
    let bound_to = &claim.spec.volume_name;
    if bound_to.is_empty() {
        return Err(fault(
            "it is not bound; a PersistentVolume that suits it, or its StorageClass, would bind it, or a name in its spec.volumeName"
                .to_owned(),
        ));
    }
    let object = fetch(lookup, ObjectKind::Volume, "", bound_to);
    let of_node = object.as_ref().ok().and_then(api_edge::volumes::node_of).map(str::to_owned);
    let found: PersistentVolume = read(volume, object, fault)?;
    let of = found.spec.claim_ref.unwrap_or_default();
    // A claim of the same name that was made anew has another uid; who binds by hand may leave it out.
    let is_same = (&of.namespace, &of.name) == (namespace, &source.claim_name)
        && (of.uid.is_empty() || of.uid == claim.metadata.uid);
    if !is_same {
        return Err(fault(format!(
            "volume {bound_to} is not bound to it; write the claim's namespace and name into its spec.claimRef"
        )));
    }
    if found.spec.volume_mode.as_deref() == Some("Block") {
        return Err(fault(format!("volume {} is a block device, which this node does not mount", found.metadata.name)));
    }
    if let Some(selector) = found.spec.node_affinity.required {
        is_of_node(&selector, node).map_err(|why| fault(format!("volume {bound_to}: {why}")))?;
    }
    if of_node.is_some() {
        return Ok(Claimed::Directory(bound_to.clone()));
    }
    match (found.spec.local, found.spec.host_path) {
        // A disk that is not mounted is not to be taken for an empty one: the directory has to be there.
        (Some(local), _) => Ok(Claimed::Path(HostPath { path: local.path, r#type: "Directory".to_owned() })),
        (None, Some(host_path)) => Ok(Claimed::Path(host_path)),
        (None, None) => Err(fault(format!("volume {bound_to} is neither of the kind local nor hostPath"))),
    }
}

fn fetch(lookup: &dyn Lookup, kind: ObjectKind, namespace: &str, name: &str) -> Result<Value, ValueError> {
    let missing = || ValueError::NoObject { kind, name: name.to_owned() };
    env::fetch(lookup, kind, namespace, name, false)?.ok_or_else(missing)
}

fn read<T: serde::de::DeserializeOwned>(
    volume: &str,
    object: Result<Value, ValueError>,
    fault: impl Fn(String) -> VolumeError,
) -> Result<T, VolumeError> {
    let object = object.map_err(|source| match source {
        ValueError::Pending { .. } => VolumeError::Pending { volume: volume.to_owned(), source },
        other => fault(other.to_string()),
    })?;
    serde_json::from_value(object).map_err(|error| fault(format!("it cannot be read: {error}")))
}

/// Whether a volume is on this node, as far as the node knows itself: by its name.
fn is_of_node(selector: &NodeSelector, node: &NodeFacts) -> Result<(), String> {
    let mut why = "it is on another node (node affinity)".to_owned();
    for term in &selector.node_selector_terms {
        let of_name = term.match_fields.iter().map(|one| (one, one.key == "metadata.name"));
        let of_labels = term.match_expressions.iter().map(|one| (one, one.key == HOSTNAME));
        let all: Vec<(&Requirement, bool)> = of_name.chain(of_labels).collect();
        if let Some((unknown, _)) = all.iter().find(|(_, is_known)| !is_known) {
            why = format!("its node affinity asks for {}; use {HOSTNAME}", unknown.key);
            continue;
        }
        let holds = |(requirement, _): &(&Requirement, bool)| {
            let is_named = requirement.values.contains(&node.node_name);
            match requirement.operator.as_str() {
                "In" => is_named,
                "NotIn" => !is_named,
                "Exists" => true,
                _ => false,
            }
        };
        // A term without requirements is met by no node.
        if !all.is_empty() && all.iter().all(holds) {
            return Ok(());
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests;
