//! What a node may write into objects: Kubernetes' NodeRestriction.
//!
//! The authoriser does not see what is written. Here it is seen, beside the stored object, and a node is held to its own
//! Node, Lease and CSINode, to its own pods' status, and to mirror pods that open nothing to it.

use machinery_server::{Access, Admission, AdmissionError, AdmissionRequest, Authorizer, Operation, Target, Union};
use machinery_store::Key;
use serde_json::Value;

use super::NodeIdentity;
use super::authorizer::LEASE_NAMESPACE;
use crate::json::{decoded, given, is_set, items, items_at, text, texts};

const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Labels that a kubelet describes its machine by.
const KUBELET_LABELS: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// Holds nodes to what is theirs.
pub struct NodeRestriction {
    /// Decides whether a node may have a token for an audience that its pod does not ask for.
    authorizer: Union,
}

type Checked = Result<(), AdmissionError>;

fn forbid(why: impl Into<String>) -> Checked {
    Err(AdmissionError::Forbidden(why.into()))
}

/// As upstream's listers say it: the kind in one word, in lower case.
fn missing(kind: &str, name: &str) -> AdmissionError {
    AdmissionError::NotFound { group: String::new(), resource: kind.to_owned(), name: name.to_owned() }
}

impl NodeRestriction {
    /// With what decides about audiences.
    pub fn new(authorizer: Union) -> Self {
        Self { authorizer }
    }

    fn check(&self, node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Checked {
        match request.target() {
            ("", "pods", None) => pod(node, request, object),
            ("", "pods", Some("status")) => pod_status(node, request, object),
            ("", "pods", Some("eviction")) => eviction(node, request),
            ("", "pods", Some(part)) => {
                forbid(format!("unexpected pod subresource {part:?}, only 'status' and 'eviction' are allowed"))
            }
            ("", "nodes", _) => own_node(node, request, object),
            ("", "persistentvolumeclaims", Some("status")) => claim_status(node, request, object),
            ("", "persistentvolumeclaims", _) => forbid("may only update PVC status"),
            ("", "serviceaccounts", Some("token")) if request.operation == Operation::Create => {
                self.token(node, request, object)
            }
            ("coordination.k8s.io", "leases", _) => lease(node, request, object),
            ("storage.k8s.io", "csinodes", _) => csi_node(node, request, object),
            ("resource.k8s.io", "resourceslices", _) => resource_slice(node, request, object),
            ("certificates.k8s.io", "certificatesigningrequests", _) => certificate_request(node, request, object),
            ("certificates.k8s.io", "podcertificaterequests", _) => pod_certificate_request(node, request, object),
            _ => Ok(()),
        }
    }

    /// A node gets tokens for the pods that run on it, as long as these are there, and for whom they are meant.
    fn token(&self, node: &str, request: &AdmissionRequest<'_>, asked: &Value) -> Checked {
        let bound = asked.pointer("/spec/boundObjectRef").filter(|bound| !bound.is_null()).unwrap_or(&Value::Null);
        let name = text(bound, "/name");
        if text(bound, "/apiVersion") != "v1" || text(bound, "/kind") != "Pod" || name.is_empty() {
            return forbid("node requested token not bound to a pod");
        }
        let uid = text(bound, "/uid");
        if uid.is_empty() {
            return forbid("node requested token with a pod binding without a uid");
        }
        let pod = stored(request, "/pods", request.namespace, name).ok_or_else(|| missing("pod", name))?;
        if uid != text(&pod, "/metadata/uid") {
            return forbid(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
                 deleted and then recreated"
            ));
        }
        if text(&pod, "/spec/nodeName") != node {
            return forbid("node requested token bound to a pod scheduled on a different node");
        }
        let audience = match texts(asked.get("spec").unwrap_or(&Value::Null), "audiences").as_slice() {
            [] => String::new(),
            [audience] => audience.clone(),
            _ => return forbid("node may only request 0 or 1 audiences"),
        };
        match is_audience_of(request, &pod, &audience) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(why) => return forbid(format!("error validating audience {audience:?}: {why}")),
        }
        let target = Target::Resource {
            group: "",
            resource: &audience,
            subresource: None,
            namespace: Some(request.namespace),
            name: Some(request.name),
            selectors: None,
        };
        let verb = "request-serviceaccounts-token-audience";
        let access = Access { identity: request.identity, verb, target, object: None };
        if self.authorizer.authorize(&access, request.store).is_allowed() {
            return Ok(());
        }
        forbid(format!(
            "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
            request.identity.user
        ))
    }
}

impl Admission for NodeRestriction {
    fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<bool, AdmissionError> {
        // It changes nothing, and is asked in this phase because upstream's is: what it rejects is not validated before.
        match NodeIdentity::of(request.identity) {
            NodeIdentity::NotANode => Ok(false),
            NodeIdentity::Unknown => {
                let why = format!("could not determine node from user {:?}", request.identity.user);
                Err(AdmissionError::Forbidden(why))
            }
            NodeIdentity::Node(node) => self.check(node, request, object).map(|()| false),
        }
    }
}

fn stored(request: &AdmissionRequest<'_>, resource: &str, namespace: &str, name: &str) -> Option<Value> {
    request.store.get(&Key::new(resource, namespace, name)).map(|object| decoded(&object))
}

/// Go's name of an operation.
fn operation(request: &AdmissionRequest<'_>) -> &'static str {
    match request.operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

fn pod(node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Checked {
    match request.operation {
        Operation::Create => mirror_pod(node, request, object),
        Operation::Delete => {
            let name = request.name;
            let pod = stored(request, "/pods", request.namespace, name).ok_or_else(|| missing("pod", name))?;
            if text(&pod, "/spec/nodeName") != node {
                return forbid(format!("node {node:?} can only delete pods with spec.nodeName set to itself"));
            }
            Ok(())
        }
        Operation::Update | Operation::Connect => forbid(format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            operation(request)
        )),
    }
}

fn mirror_pod(node: &str, request: &AdmissionRequest<'_>, pod: &Value) -> Checked {
    if pod.pointer("/metadata/annotations").and_then(|all| all.get(MIRROR_ANNOTATION)).is_none() {
        return forbid(format!(
            "pod does not have {MIRROR_ANNOTATION:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if text(pod, "/spec/nodeName") != node {
        return forbid(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owner = match items_at(pod, "/metadata/ownerReferences") {
        [owner] => owner,
        [] => return forbid(format!("node {node:?} can only create pods with an owner reference set to itself")),
        _ => return forbid(format!("node {node:?} can only create pods with a single owner reference set to itself")),
    };
    if (text(owner, "/apiVersion"), text(owner, "/kind"), text(owner, "/name")) != ("v1", "Node", node) {
        return forbid(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if !is_set(owner, "/controller") {
        return forbid(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
    }
    if is_set(owner, "/blockOwnerDeletion") {
        return forbid(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let own = stored(request, "/nodes", "", node).ok_or_else(|| missing("node", node))?;
    let (expected, found) = (text(owner, "/uid"), text(&own, "/metadata/uid"));
    if expected != found {
        return forbid(format!("node {node} UID mismatch: expected {expected} got {found}"));
    }
    match referenced(pod) {
        Some(what) => forbid(format!("node {node:?} can not create pods that reference {what}")),
        None => Ok(()),
    }
}

/// The first kind of object that a pod refers to, in the order in which upstream looks.
fn referenced(pod: &Value) -> Option<&'static str> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let has = |value: &Value, field: &str| given(value, field).is_some();
    if !text(spec, "/serviceAccountName").is_empty() {
        return Some("serviceaccounts");
    }
    let volumes = items(spec, "volumes");
    let sources = || volumes.iter().flat_map(|volume| items_at(volume, "/projected/sources"));
    let containers =
        || ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|list| items(spec, list));
    let in_env = |key: &str, from: &str| {
        containers().any(|container| {
            items(container, "env").iter().any(|env| env.pointer("/valueFrom").is_some_and(|source| has(source, key)))
                || items(container, "envFrom").iter().any(|source| has(source, from))
        })
    };
    if refers_to_secrets(spec) {
        return Some("secrets");
    }
    if in_env("configMapKeyRef", "configMapRef")
        || volumes.iter().any(|volume| has(volume, "configMap"))
        || sources().any(|source| has(source, "configMap"))
    {
        return Some("configmaps");
    }
    if !items(spec, "resourceClaims").is_empty() {
        return Some("resourceclaims");
    }
    volumes.iter().find_map(|volume| {
        let of_kind = [
            ("csi", "csidrivers (via CSI volumes)"),
            ("glusterfs", "endpoints (via glusterFS volumes)"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
            ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
            ("azureFile", "secrets (via azureFile volumes)"),
        ];
        let source_kinds = [
            ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
            ("clusterTrustBundle", "clustertrustbundles"),
            ("podCertificate", "podcertificates"),
        ];
        let of = |value: &Value, kinds: &[(&'static str, &'static str)]| {
            kinds.iter().find(|(field, _)| has(value, field)).map(|(_, what)| *what)
        };
        let in_sources = || items_at(volume, "/projected/sources").iter().find_map(|source| of(source, &source_kinds));
        of(volume, &of_kind).or_else(in_sources)
    })
}

/// Whether a pod's spec names a secret.
pub(crate) fn refers_to_secrets(spec: &Value) -> bool {
    let has = |value: &Value, field: &str| given(value, field).is_some();
    let volumes = items(spec, "volumes");
    let containers =
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|list| items(spec, list));
    let has_driver_secret = |volume: &Value| {
        !text(volume, "/azureFile/secretName").is_empty()
            || [
                "/cephfs/secretRef",
                "/cinder/secretRef",
                "/csi/nodePublishSecretRef",
                "/flexVolume/secretRef",
                "/iscsi/secretRef",
                "/rbd/secretRef",
                "/scaleIO/secretRef",
                "/storageos/secretRef",
            ]
            .iter()
            .any(|pointer| volume.pointer(pointer).is_some_and(|secret| !secret.is_null()))
    };
    let in_env = |container: &Value| {
        items(container, "env").iter().any(|env| env.get("valueFrom").is_some_and(|source| has(source, "secretKeyRef")))
            || items(container, "envFrom").iter().any(|source| has(source, "secretRef"))
    };
    !items(spec, "imagePullSecrets").is_empty()
        || containers.into_iter().any(in_env)
        || volumes.iter().any(|volume| has(volume, "secret") || has_driver_secret(volume))
        || volumes.iter().flat_map(|volume| items_at(volume, "/projected/sources")).any(|source| has(source, "secret"))
}

fn pod_status(node: &str, request: &AdmissionRequest<'_>, new: &Value) -> Checked {
    let Some(old) = request.old.filter(|_| request.operation == Operation::Update) else {
        return forbid(format!("unexpected operation {:?}", operation(request)));
    };
    if text(old, "/spec/nodeName") != node {
        return forbid(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if labels(Some(old)) != labels(Some(new)) {
        return forbid(format!("node {node:?} cannot update labels through pod status"));
    }
    let claims = |pod: &Value| -> Vec<(String, Option<String>)> {
        let claim = |status: &Value| {
            let name = status.get("resourceClaimName").and_then(Value::as_str).map(str::to_owned);
            (text(status, "/name").to_owned(), name)
        };
        items_at(pod, "/status/resourceClaimStatuses").iter().map(claim).collect()
    };
    if claims(old) != claims(new) {
        return forbid(format!("node {node:?} cannot update resource claim statues"));
    }
    let extended =
        |pod: &Value| pod.pointer("/status/extendedResourceClaimStatus").filter(|claim| !claim.is_null()).cloned();
    if extended(old) != extended(new) {
        return forbid(format!("node {node:?} cannot update extended resource claim status"));
    }
    Ok(())
}

fn eviction(node: &str, request: &AdmissionRequest<'_>) -> Checked {
    if request.operation != Operation::Create {
        return forbid(format!("unexpected operation {}", operation(request)));
    }
    let name = request.name;
    let pod = stored(request, "/pods", request.namespace, name).ok_or_else(|| missing("pod", name))?;
    if text(&pod, "/spec/nodeName") != node {
        return forbid(format!("node {node} can only evict pods with spec.nodeName set to itself"));
    }
    Ok(())
}

fn labels(object: Option<&Value>) -> Option<&serde_json::Map<String, Value>> {
    let labels = object?.pointer("/metadata/labels")?.as_object()?;
    Some(labels).filter(|labels| !labels.is_empty())
}

/// Labels that differ and that a node may not set on itself, in order: they draw pods to it.
fn forbidden_labels(old: Option<&Value>, new: &Value) -> Vec<String> {
    let (before, after) = (labels(old), labels(Some(new)));
    let value =
        |labels: Option<&serde_json::Map<String, Value>>, key: &str| labels.and_then(|all| all.get(key)).cloned();
    let keys = before.into_iter().chain(after).flat_map(|labels| labels.keys());
    let mut keys: Vec<String> =
        keys.filter(|key| value(before, key) != value(after, key) && !is_kubelets_own(key)).cloned().collect();
    keys.sort();
    keys.dedup();
    keys
}

fn is_kubelets_own(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let is_of = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    if is_of("node-restriction.kubernetes.io") {
        return false;
    }
    let is_kubernetes = is_of("kubernetes.io") || is_of("k8s.io");
    !is_kubernetes || KUBELET_LABELS.contains(&key) || is_of("kubelet.kubernetes.io") || is_of("node.kubernetes.io")
}

fn own_node(node: &str, request: &AdmissionRequest<'_>, new: &Value) -> Checked {
    // A create names its object in the body alone.
    let requested = request.name;
    if requested != node {
        return forbid(format!("node {node:?} is not allowed to modify node {requested:?}"));
    }
    let source = |object: &Value| object.pointer("/spec/configSource").filter(|source| !source.is_null()).cloned();
    match (request.operation, request.old) {
        (Operation::Create, _) => {
            if source(new).is_some() {
                return forbid(format!("node {node:?} is not allowed to create pods with a non-nil configSource"));
            }
            match forbidden_labels(None, new).as_slice() {
                [] => Ok(()),
                keys => {
                    forbid(format!("node {node:?} is not allowed to set the following labels: {}", keys.join(", ")))
                }
            }
        }
        (Operation::Update, Some(old)) => {
            if source(new).is_some() && source(new) != source(old) {
                return forbid(format!(
                    "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                ));
            }
            if items_at(new, "/spec/taints") != items_at(old, "/spec/taints") {
                return forbid(format!("node {node:?} is not allowed to modify taints"));
            }
            if items_at(new, "/metadata/ownerReferences") != items_at(old, "/metadata/ownerReferences") {
                return forbid(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
            match forbidden_labels(Some(old), new).as_slice() {
                [] => Ok(()),
                keys => forbid(format!("is not allowed to modify labels: {}", keys.join(", "))),
            }
        }
        _ => Ok(()),
    }
}

fn claim_status(node: &str, request: &AdmissionRequest<'_>, new: &Value) -> Checked {
    let Some(old) = request.old.filter(|_| request.operation == Operation::Update) else {
        return forbid(format!("unexpected operation {:?}", operation(request)));
    };
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        for (part, fields) in [
            ("metadata", &["resourceVersion", "managedFields"][..]),
            ("status", &["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"][..]),
        ] {
            if let Some(part) = claim.get_mut(part).and_then(Value::as_object_mut) {
                fields.iter().for_each(|field| drop(part.remove(*field)));
            }
        }
        claim
    };
    if rest(old) != rest(new) {
        // Upstream adds the difference as its own library prints it.
        return forbid(format!(
            "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
        ));
    }
    Ok(())
}

/// Whether the projected volumes of a pod, or the drivers of its volumes, ask for tokens for an audience.
fn is_audience_of(request: &AdmissionRequest<'_>, pod: &Value, audience: &str) -> Result<bool, String> {
    let mut errors = Vec::new();
    for volume in items_at(pod, "/spec/volumes") {
        let tokens =
            items_at(volume, "/projected/sources").iter().filter_map(|source| given(source, "serviceAccountToken"));
        if tokens.into_iter().any(|token| text(token, "/audience") == audience) {
            return Ok(true);
        }
        let name = text(volume, "/name");
        let claim = if volume.pointer("/ephemeral/volumeClaimTemplate").is_some_and(|template| !template.is_null()) {
            Some(format!("{}-{name}", text(pod, "/metadata/name")))
        } else {
            given(volume, "persistentVolumeClaim").map(|claim| text(claim, "/claimName").to_owned())
        };
        let driver = match claim {
            Some(claim) => driver_of_claim(request, &claim),
            None => Ok(text(volume, "/csi/driver").to_owned()),
        };
        let driver = match driver {
            Ok(driver) if driver.is_empty() => continue,
            Ok(driver) => driver,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        match stored(request, "storage.k8s.io/csidrivers", "", &driver) {
            Some(driver) => {
                let mut asked = items_at(&driver, "/spec/tokenRequests").iter();
                if asked.any(|token| text(token, "/audience") == audience) {
                    return Ok(true);
                }
            }
            None => errors.push(format!("csidriver.storage.k8s.io {driver:?} not found")),
        }
    }
    if errors.is_empty() { Ok(false) } else { Err(crate::json::aggregate(&errors)) }
}

fn driver_of_claim(request: &AdmissionRequest<'_>, name: &str) -> Result<String, String> {
    let claim = stored(request, "/persistentvolumeclaims", request.namespace, name);
    let claim = claim.ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
    let volume = text(&claim, "/spec/volumeName");
    let volume = stored(request, "/persistentvolumes", "", volume)
        .ok_or_else(|| format!("persistentvolume {volume:?} not found"))?;
    Ok(text(&volume, "/spec/csi/driver").to_owned())
}

fn lease(node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Checked {
    if request.namespace != LEASE_NAMESPACE {
        return forbid(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
    }
    if written_name(request, object) != node {
        return forbid("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn csi_node(node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Checked {
    if written_name(request, object) != node {
        return forbid("can only access CSINode with the same name as the requesting node");
    }
    Ok(())
}

fn written_name<'v>(request: &AdmissionRequest<'v>, object: &'v Value) -> &'v str {
    match request.operation {
        Operation::Create => text(object, "/metadata/name"),
        _ => request.name,
    }
}

fn resource_slice(node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Checked {
    match request.operation {
        Operation::Create if text(object, "/spec/nodeName") != node => {
            forbid("can only create ResourceSlice with the same NodeName as the requesting node")
        }
        Operation::Delete if text(request.old.unwrap_or(object), "/spec/nodeName") != node => {
            forbid("can only delete ResourceSlice with the same NodeName as the requesting node")
        }
        _ => Ok(()),
    }
}

fn certificate_request(node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Checked {
    let of_kubelets = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
    if request.operation != Operation::Create || !of_kubelets.contains(&text(object, "/spec/signerName")) {
        return Ok(());
    }
    match crate::certificates::common_name(object) {
        Err(why) => forbid(format!("unable to parse csr: {why}")),
        Ok(name) if name != format!("system:node:{node}") => {
            forbid(format!("can only create a node CSR with CN=system:node:{node}"))
        }
        Ok(_) => Ok(()),
    }
}

/// What it says of node, pod and service account must be as they are stored. A mismatch that may be due to a change of the
/// last moment is no rejection but an error, so that the kubelet tries again.
fn pod_certificate_request(node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Checked {
    if request.operation != Operation::Create {
        return forbid(format!("unexpected operation {}", operation(request)));
    }
    if let Some(part) = request.subresource {
        return forbid(format!("unexpected subresource {part}"));
    }
    let later = |why: String| Err(AdmissionError::Internal(why));
    let at = |field: &str| text(object, &format!("/spec/{field}"));
    let named = at("nodeName");
    if named != node {
        return forbid(format!(
            "PodCertificateRequest.Spec.NodeName={named:?}, which is not the requesting node {node:?}"
        ));
    }
    let Some(own) = stored(request, "/nodes", "", node) else {
        return later(format!(
            "while retrieving node {node:?} named in the PodCertificateRequest: node {node:?} not found"
        ));
    };
    let pod_name = format!("{}/{}", request.namespace, at("podName"));
    let (found, claimed) = (text(&own, "/metadata/uid"), at("nodeUID"));
    if found != claimed {
        return later(format!(
            "PodCertificateRequest for pod {pod_name:?} names node UID {claimed:?}, inconsistent with the running node ({found:?})"
        ));
    }
    let Some(pod) = stored(request, "/pods", request.namespace, at("podName")) else {
        return later(format!(
            "while retrieving pod {pod_name:?} named in the PodCertificateRequest: pod {:?} not found",
            at("podName")
        ));
    };
    let (found, claimed) = (text(&pod, "/metadata/uid"), at("podUID"));
    if found != claimed {
        return later(format!(
            "PodCertificateRequest for pod {pod_name:?} contains pod UID ({claimed:?}) which differs from running pod {found:?}"
        ));
    }
    if text(&pod, "/spec/nodeName") != node {
        return forbid(format!("pod {pod_name:?} is not running on node {node:?} named in the PodCertificateRequest"));
    }
    if pod.pointer("/metadata/annotations").and_then(|all| all.get(MIRROR_ANNOTATION)).is_some() {
        return forbid(format!("pod {pod_name:?} is a mirror pod"));
    }
    let (found, claimed) = (text(&pod, "/spec/serviceAccountName"), at("serviceAccountName"));
    if found != claimed {
        return forbid(format!(
            "PodCertificateRequest for pod {pod_name:?} contains serviceAccountName ({claimed:?}) that differs from running pod ({found:?})"
        ));
    }
    let account_name = format!("{}/{claimed}", request.namespace);
    let Some(account) = stored(request, "/serviceaccounts", request.namespace, claimed) else {
        return later(format!(
            "while retrieving service account {account_name:?} named in the PodCertificateRequest: serviceaccount {claimed:?} not found"
        ));
    };
    let (found, claimed) = (text(&account, "/metadata/uid"), at("serviceAccountUID"));
    if found != claimed {
        return later(format!(
            "PodCertificateRequest for pod {pod_name:?} names service account UID {claimed:?}, which differs from the running service account ({found:?})"
        ));
    }
    Ok(())
}
