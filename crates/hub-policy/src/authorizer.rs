//! What a node may do, and what somebody may who wants to become one.
//!
//! Who speaks with a key that joined this hub may do what is here, and nothing that Kubernetes' Node authoriser would add: it
//! reads what its own pods need and writes what it is the owner of, so a stolen gateway gives away itself and nothing else.
//! Whoever speaks in a node's name without its key, as an administrator may (`kubectl --as system:node:NAME`), is judged as
//! a kube-apiserver would judge: see [`InNodesName`].
//! Whose an object is, a field of the stored object says, never its name; the server asks again with the
//! object in hand when it acts on it ([`Access::object`]), so an object that is not there yet counts as nobody's.

use std::borrow::Cow;

use machinery_kinds::INDEX_REFS;
use machinery_server::{
    Access, Authorizer, Decision, EXTRA_KEY_SHA256, GROUP_BOOTSTRAPPERS, Identity, RulesOf, Target,
};
use machinery_store::{Key, Object, Store};
use serde_json::Value;

use crate::names;
use crate::references::text_at;

/// The only namespace in which nodes have Leases.
pub(crate) const NODE_LEASE_NAMESPACE: &str = "kube-node-lease";

/// Nodes that speak with their key; of others in their name only what concerns kinds that Kubernetes does not know.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeAuthorizer;

/// Callers in a node's name without its key: Kubernetes' Node authoriser.
#[derive(Clone, Copy, Debug, Default)]
pub struct InNodesName;

/// Bearers of bootstrap tokens: they may request a certificate, and nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootstrapAuthorizer;

impl Authorizer for NodeAuthorizer {
    fn authorize(&self, access: &Access<'_>, store: &Store) -> Decision {
        match access.identity.node_name() {
            // A certificate of an older version may still bear such a name.
            Some(node) => match names::rejection(node, &[]) {
                Some(why) => Decision::Deny(why),
                None if has_key(access.identity) || is_of_the_hub(&access.target) => node_rules(access, node, store),
                None => Decision::NoOpinion(String::new()),
            },
            None => Decision::NoOpinion(String::new()),
        }
    }
}

impl Authorizer for InNodesName {
    fn authorize(&self, access: &Access<'_>, store: &Store) -> Decision {
        match has_key(access.identity) {
            true => Decision::NoOpinion(String::new()),
            false => machinery_access::NodeAuthorizer.authorize(access, store),
        }
    }

    fn rules_of(&self, identity: &Identity, namespace: &str, store: &Store) -> Option<RulesOf> {
        machinery_access::NodeAuthorizer.rules_of(identity, namespace, store)
    }
}

/// Whether a node itself speaks: nobody else can have this extra, which the authenticator of certificates adds.
pub(crate) fn has_key(identity: &Identity) -> bool {
    identity.extra(EXTRA_KEY_SHA256).is_some()
}

/// Whether it is about what a hub has beside the Kubernetes API.
fn is_of_the_hub(target: &Target<'_>) -> bool {
    match target {
        Target::Path(path) => is_of_nodes(path),
        Target::Resource { group, .. } => *group == api_edge::GROUP,
    }
}

/// Whether nodes send something there; it is kept under the name of whoever has sent it.
fn is_of_nodes(path: &str) -> bool {
    path == api_edge::telemetry::BATCHES_PATH || path == api_edge::usage::USAGE_PATH
}

impl Authorizer for BootstrapAuthorizer {
    fn authorize(&self, access: &Access<'_>, store: &Store) -> Decision {
        let may = access.identity.is_in(GROUP_BOOTSTRAPPERS) && may_request_certificate(access, store);
        Decision::allow_if(may, "")
    }
}

/// The object that a request names: the one in hand, else the stored one.
fn object<'a>(access: &Access<'a>, store: &Store, key: Key) -> Option<Cow<'a, Object>> {
    access.object.map(Cow::Borrowed).or_else(|| store.get(&key).map(|object| Cow::Owned((*object).clone())))
}

fn decoded(object: &Object) -> Option<Value> {
    serde_json::from_slice(&object.bytes).ok()
}

/// A certificate may be requested by nodes and by those who want to become one; each sees its own requests.
fn may_request_certificate(access: &Access<'_>, store: &Store) -> bool {
    let Target::Resource { group: "certificates.k8s.io", resource, subresource: None, name, .. } = &access.target
    else {
        return false;
    };
    if *resource != "certificatesigningrequests" {
        return false;
    }
    let owner = |name: &str| {
        let request = object(access, store, Key::new("certificates.k8s.io/certificatesigningrequests", "", name));
        request.map(|request| decoded(&request).map(|request| text_at(&request, "/spec/username").to_owned()))
    };
    let user = &access.identity.user;
    match access.verb {
        "create" => true,
        // What is not there is nobody's, and the truth is 404.
        "get" => name.is_some_and(|name| owner(name).is_none_or(|owner| owner.as_ref() == Some(user))),
        // A list or watch outlives the moment: it is of a request that is the caller's.
        "list" | "watch" => named(access).is_some_and(|name| owner(name).flatten().as_ref() == Some(user)),
        _ => false,
    }
}

/// The one name that a request is about, from its path or its field selector.
fn named<'a>(access: &Access<'a>) -> Option<&'a str> {
    match &access.target {
        Target::Resource { name, selectors, .. } => {
            name.or_else(|| selectors.and_then(|(_, fields)| fields.exact("metadata.name")))
        }
        Target::Path(_) => None,
    }
}

/// What a node may do. An empty reason means that no rule speaks of it.
fn node_rules(access: &Access<'_>, node: &str, store: &Store) -> Decision {
    let (group, resource, subresource, namespace, name, selectors) = match &access.target {
        Target::Path(path) => {
            return Decision::allow_if(access.verb == "post" && is_of_nodes(path), "");
        }
        Target::Resource { group, resource, subresource, namespace, name, selectors } => {
            (*group, *resource, *subresource, *namespace, *name, *selectors)
        }
    };
    let verb = access.verb;
    let reads = matches!(verb, "get" | "list" | "watch");
    let name_or_field = named(access);
    match (group, resource, subresource) {
        ("", "nodes", None | Some("status")) => {
            let writes = matches!(verb, "update" | "patch" | "get");
            let may = (subresource.is_none() && verb == "create")
                || ((writes || (reads && subresource.is_none())) && name_or_field == Some(node));
            Decision::allow_if(may, format!("node {node:?} may only read and write its own Node"))
        }
        ("", "pods", None) => match verb {
            // Mirror pods of static pods; admission checks that they are its own.
            "create" => Decision::ALLOW,
            "list" | "watch" => {
                // By name would not do: a watch outlives the moment in which nobody has that name.
                let may = selectors.is_some_and(|(_, fields)| fields.exact("spec.nodeName") == Some(node));
                Decision::allow_if(
                    may,
                    format!("node {node:?} may only list pods with fieldSelector spec.nodeName={node}"),
                )
            }
            "get" | "delete" => own_pod(access, store, namespace, name, node),
            _ => Decision::NoOpinion(String::new()),
        },
        ("", "pods", Some("status")) if matches!(verb, "get" | "update" | "patch") => {
            own_pod(access, store, namespace, name, node)
        }
        // Claims and volumes are read and not watched, as by upstream's nodes.
        ("", "persistentvolumeclaims", None) if verb == "get" => {
            let is_own = namespace.zip(name).is_some_and(|(of, name)| is_referenced(store, node, of, resource, name));
            Decision::allow_if(is_own, format!("no pod of node {node:?} refers to it"))
        }
        ("", "persistentvolumes", None) if verb == "list" => {
            let label = api_edge::LABEL_NODE;
            let by_label = selectors.is_some_and(|(labels, _)| labels.exact(label) == Some(node));
            Decision::allow_if(
                by_label,
                format!("node {node:?} may only list volumes with labelSelector {label}={node}"),
            )
        }
        ("", "persistentvolumes", None) if matches!(verb, "get" | "patch") => own_volume(access, store, name, node),
        ("", "configmaps" | "secrets", None) if reads => {
            let may = match (namespace, name_or_field) {
                (Some(namespace), Some(name)) => is_referenced(store, node, namespace, resource, name),
                _ => false,
            };
            Decision::allow_if(may, format!("no pod of node {node:?} refers to it"))
        }
        // A pod of the node runs as it; which pod the token is bound to, admission checks.
        ("", "serviceaccounts", Some("token")) if verb == "create" => {
            machinery_access::NodeAuthorizer.authorize(access, store)
        }
        // Who asks its kubelet, and whether that one may.
        ("authentication.k8s.io", "tokenreviews", None) | ("authorization.k8s.io", "subjectaccessreviews", None) => {
            Decision::allow_if(verb == "create", "")
        }
        // Whose event one is, admission checks.
        ("", "events", None) => Decision::allow_if(matches!(verb, "create" | "patch" | "update"), ""),
        ("", "namespaces", None) => Decision::allow_if(reads, ""),
        ("node.k8s.io", "runtimeclasses", None) => Decision::allow_if(reads, ""),
        ("coordination.k8s.io", "leases", None) => {
            let is_own = namespace == Some(NODE_LEASE_NAMESPACE) && (verb == "create" || name == Some(node));
            // As in Kubernetes; a list or a watch would look through everybody's, and Leases are written all the time.
            let may = is_own && matches!(verb, "get" | "create" | "update" | "patch" | "delete");
            Decision::allow_if(may, format!("node {node:?} may only use its own Lease in {NODE_LEASE_NAMESPACE}"))
        }
        ("certificates.k8s.io", "certificatesigningrequests", None) => {
            Decision::allow_if(may_request_certificate(access, store), "")
        }
        (api_edge::GROUP, "nodeassignments", None) if matches!(verb, "list" | "watch") => {
            let by_label = selectors.is_some_and(|(labels, _)| labels.exact(api_edge::LABEL_NODE) == Some(node));
            let label = api_edge::LABEL_NODE;
            // As roles with `resourceNames` allow it on other clusters. A watch outlives the moment, so the name must do: no
            // node may be called as a part of another's is.
            let by_name = name_or_field.is_some_and(|name| names::is_assignment_of(name, node));
            Decision::allow_if(
                by_label || by_name,
                format!(
                    "node {node:?} may only list its own assignment, by fieldSelector metadata.name={node} or by label {label}={node}"
                ),
            )
        }
        (api_edge::GROUP, "nodeassignments", None) if verb == "get" => own_assignment(access, store, name, node),
        (api_edge::GROUP, "nodeassignments", Some("status")) if matches!(verb, "get" | "update" | "patch") => {
            own_assignment(access, store, name, node)
        }
        _ => Decision::NoOpinion(String::new()),
    }
}

/// An assignment is of the node that its spec names.
fn own_assignment(access: &Access<'_>, store: &Store, name: Option<&str>, node: &str) -> Decision {
    let is_own = |name: &str| {
        let assignment = object(access, store, Key::new("edge.selvedge.dev/nodeassignments", "", name));
        assignment.is_none_or(|assignment| {
            decoded(&assignment).is_some_and(|assignment| text_at(&assignment, "/spec/nodeName") == node)
        })
    };
    Decision::allow_if(
        name.is_some_and(is_own),
        format!("node {node:?} may only read its own assignment, and write its status"),
    )
}

/// A node reads the volumes that its pods have, and those that are directories of its own, whether a pod has them or not. Of
/// these it says when the directory is removed, which admission holds it to.
fn own_volume(access: &Access<'_>, store: &Store, name: Option<&str>, node: &str) -> Decision {
    let is_own = |name: &str| {
        let Some(volume) = object(access, store, Key::new("/persistentvolumes", "", name)) else {
            // What is not there is nobody's, and the truth is 404; nothing is created that way.
            return access.verb == "get";
        };
        let Some(volume) = decoded(&volume) else { return false };
        if api_edge::volumes::node_of(&volume) == Some(node) {
            return true;
        }
        let (namespace, claim) =
            (text_at(&volume, "/spec/claimRef/namespace"), text_at(&volume, "/spec/claimRef/name"));
        access.verb == "get"
            && !namespace.is_empty()
            && is_referenced(store, node, namespace, "persistentvolumeclaims", claim)
    };
    Decision::allow_if(name.is_some_and(is_own), format!("the volume is neither of node {node:?} nor of its pods"))
}

/// A pod is of the node that it is bound to.
fn own_pod(access: &Access<'_>, store: &Store, namespace: Option<&str>, name: Option<&str>, node: &str) -> Decision {
    let is_own = |(namespace, name): (&str, &str)| {
        let pod = object(access, store, Key::new("/pods", namespace, name));
        pod.is_none_or(|pod| pod.field("spec.nodeName") == Some(node))
    };
    Decision::allow_if(namespace.zip(name).is_some_and(is_own), format!("the pod is not bound to node {node:?}"))
}

/// Whether a pod of the node mounts or reads this ConfigMap, Secret or claim.
fn is_referenced(store: &Store, node: &str, namespace: &str, resource: &str, name: &str) -> bool {
    // By the index of the node: what it costs are the node's own pods, however many others there are, and what each of them
    // refers to was extracted when it was stored.
    let pods = store.snapshot("/pods");
    let reference = format!("{resource}/{name}");
    let mut own = pods.iter_where(("spec.nodeName", node), Some(namespace), None);
    own.any(|pod| pod.has_field(INDEX_REFS, &reference))
}
