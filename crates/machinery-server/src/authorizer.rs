//! Who may do what. A few fixed rules: administrators, nodes, nodes that want to join.
//!
//! A node may read what its own pods need and write what it is the owner of, so a stolen gateway gives away itself and
//! nothing else.

use machinery_store::{Key, Object, Store};
use serde_json::Value;

use crate::object::{mentions, name_of, text_at};
use crate::selector::{FieldSelector, LabelSelector};
use crate::{GROUP_AUTHENTICATED, GROUP_BOOTSTRAPPERS, GROUP_MASTERS, Identity};

/// The only namespace in which nodes have Leases.
const NODE_LEASE_NAMESPACE: &str = "kube-node-lease";

/// What a caller wants to do.
#[derive(Clone, Debug)]
pub struct Access<'a> {
    /// Who.
    pub identity: &'a Identity,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for paths the method in lower case.
    pub verb: &'a str,
    /// To what.
    pub target: Target<'a>,
}

/// What something is done to.
#[derive(Clone, Debug)]
pub enum Target<'a> {
    /// A path that is no resource, such as `/version`.
    Path(&'a str),
    /// A resource, or one object of it.
    Resource {
        /// API group; empty for core.
        group: &'a str,
        /// Plural name.
        resource: &'a str,
        /// `status` and the like.
        subresource: Option<&'a str>,
        /// Namespace, when the request names one.
        namespace: Option<&'a str>,
        /// Name, when the request names one. A create does not.
        name: Option<&'a str>,
        /// Selectors of a list or watch.
        selectors: Option<(&'a LabelSelector, &'a FieldSelector)>,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Allow,
    /// Stop. The reason is added to the message when it is not empty.
    Deny(String),
}

/// Decides what callers may do.
pub trait Authorizer: Send + Sync {
    /// Decides one request. The store may be read, for what a decision depends on.
    fn authorize(&self, access: &Access<'_>, store: &Store) -> Decision;
}

/// The rules of a hub.
#[derive(Clone, Copy, Debug, Default)]
pub struct StandardAuthorizer;

impl Authorizer for StandardAuthorizer {
    fn authorize(&self, access: &Access<'_>, store: &Store) -> Decision {
        let identity = access.identity;
        if identity.is_in(GROUP_MASTERS) {
            return Decision::Allow;
        }
        if let Some(node) = identity.node_name() {
            let decision = node_rules(access, node, store);
            if decision != Decision::Deny(String::new()) {
                return decision;
            }
        }
        if identity.is_in(GROUP_BOOTSTRAPPERS) && may_request_certificate(access, store) {
            return Decision::Allow;
        }
        if identity.is_in(GROUP_AUTHENTICATED) && is_for_everyone(access) {
            return Decision::Allow;
        }
        Decision::Deny(String::new())
    }
}

/// How the request reads in a refusal: `User "x" cannot get resource "pods" in API group "" in the namespace "y"`.
pub(crate) fn describe(access: &Access<'_>) -> String {
    let (user, verb) = (&access.identity.user, access.verb);
    match &access.target {
        Target::Path(path) => format!("User {user:?} cannot {verb} path {path:?}"),
        Target::Resource { group, resource, subresource, namespace, .. } => {
            let resource = subresource.map_or_else(|| (*resource).to_owned(), |part| format!("{resource}/{part}"));
            let scope = match namespace {
                Some(namespace) => format!("in the namespace {namespace:?}"),
                None => "at the cluster scope".to_owned(),
            };
            format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}")
        }
    }
}

/// Discovery, versions, and questions about oneself.
fn is_for_everyone(access: &Access<'_>) -> bool {
    match &access.target {
        Target::Path(path) => {
            let is_open = ["/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz"]
                .iter()
                .any(|prefix| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
            access.verb == "get" && is_open
        }
        Target::Resource { group, resource, .. } => {
            access.verb == "create"
                && matches!(
                    (*group, *resource),
                    ("authorization.k8s.io", "selfsubjectaccessreviews")
                        | ("authentication.k8s.io", "selfsubjectreviews")
                )
        }
    }
}

/// A certificate may be asked for by nodes and by those who want to become one; each sees its own requests.
fn may_request_certificate(access: &Access<'_>, store: &Store) -> bool {
    let Target::Resource { group: "certificates.k8s.io", resource, subresource: None, name, selectors, .. } =
        &access.target
    else {
        return false;
    };
    if *resource != "certificatesigningrequests" {
        return false;
    }
    let is_own = |name: &str| {
        let stored = store.get(&Key::new("certificates.k8s.io/certificatesigningrequests", "", name));
        stored
            .and_then(|object| value(&object))
            .is_none_or(|csr| text_at(&csr, "/spec/username") == access.identity.user)
    };
    match access.verb {
        "create" => true,
        "get" => name.is_some_and(is_own),
        "list" | "watch" => named(*name, *selectors).is_some_and(is_own),
        _ => false,
    }
}

/// The one name that a request is about, from its path or its field selector.
fn named<'a>(name: Option<&'a str>, selectors: Option<(&'a LabelSelector, &'a FieldSelector)>) -> Option<&'a str> {
    name.or_else(|| selectors.and_then(|(_, fields)| fields.exact("metadata.name")))
}

/// What a node may do. An empty reason means that no rule speaks of it.
fn node_rules(access: &Access<'_>, node: &str, store: &Store) -> Decision {
    let (group, resource, subresource, namespace, name, selectors) = match &access.target {
        Target::Path(path) => {
            let may = access.verb == "post" && *path == api_edge::telemetry::BATCHES_PATH;
            return allow_if(may, "");
        }
        Target::Resource { group, resource, subresource, namespace, name, selectors } => {
            (*group, *resource, *subresource, *namespace, *name, *selectors)
        }
    };
    let verb = access.verb;
    let reads = matches!(verb, "get" | "list" | "watch");
    let name_or_field = named(name, selectors);
    match (group, resource, subresource) {
        ("", "nodes", None | Some("status")) => {
            let writes = matches!(verb, "update" | "patch" | "get");
            let may = (subresource.is_none() && verb == "create")
                || ((writes || (reads && subresource.is_none())) && name_or_field == Some(node));
            allow_if(may, &format!("node {node:?} may only read and write its own Node"))
        }
        ("", "pods", None) => match verb {
            // Mirror pods of static pods; admission checks that they are its own.
            "create" => Decision::Allow,
            "list" | "watch" => {
                // By name would not do: a watch outlives the moment in which nobody has that name.
                let may = selectors.is_some_and(|(_, fields)| fields.exact("spec.nodeName") == Some(node));
                allow_if(may, &format!("node {node:?} may only list pods with fieldSelector spec.nodeName={node}"))
            }
            "get" | "delete" => own_pod(store, namespace, name, node),
            _ => Decision::Deny(String::new()),
        },
        ("", "pods", Some("status")) if matches!(verb, "get" | "update" | "patch") => {
            own_pod(store, namespace, name, node)
        }
        ("", "configmaps" | "secrets", None) if reads => {
            let may = match (namespace, name_or_field) {
                (Some(namespace), Some(name)) => is_referenced(store, node, namespace, resource, name),
                _ => false,
            };
            allow_if(may, &format!("no pod of node {node:?} refers to it"))
        }
        ("", "events", None) => allow_if(matches!(verb, "create" | "patch" | "update"), ""),
        ("", "namespaces", None) => allow_if(reads, ""),
        ("node.k8s.io", "runtimeclasses", None) => allow_if(reads, ""),
        ("coordination.k8s.io", "leases", None) => {
            let is_own = namespace == Some(NODE_LEASE_NAMESPACE) && (verb == "create" || name_or_field == Some(node));
            let may = is_own && !matches!(verb, "deletecollection");
            allow_if(may, &format!("node {node:?} may only use its own Lease in {NODE_LEASE_NAMESPACE}"))
        }
        ("certificates.k8s.io", "certificatesigningrequests", None) => {
            allow_if(may_request_certificate(access, store), "")
        }
        (api_edge::GROUP, "nodeassignments", None) if reads => {
            let by_label = selectors.is_some_and(|(labels, _)| labels.exact(api_edge::LABEL_NODE) == Some(node));
            let may = by_label || name_or_field.is_some_and(|name| is_own_assignment(name, node));
            allow_if(
                may,
                &format!(
                    "node {node:?} may only read its own assignment, by name or label {}={node}",
                    api_edge::LABEL_NODE
                ),
            )
        }
        (api_edge::GROUP, "nodeassignments", Some("status")) => {
            let may =
                matches!(verb, "get" | "update" | "patch") && name.is_some_and(|name| is_own_assignment(name, node));
            allow_if(may, &format!("node {node:?} may only write the status of its own assignment"))
        }
        _ => Decision::Deny(String::new()),
    }
}

fn allow_if(may: bool, reason: &str) -> Decision {
    if may { Decision::Allow } else { Decision::Deny(reason.to_owned()) }
}

/// The parts of a node's assignment are named `<node>` and `<node>.part-<n>`.
fn is_own_assignment(name: &str, node: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name == node || name.strip_prefix(node).and_then(|rest| rest.strip_prefix(".part-")).is_some_and(is_number)
}

fn own_pod(store: &Store, namespace: Option<&str>, name: Option<&str>, node: &str) -> Decision {
    let may = name.is_some_and(|name| is_own_pod(store, namespace, name, node));
    allow_if(may, &format!("the pod is not bound to node {node:?}"))
}

/// A pod that is gone counts as the node's own: the truth, 404, ends its work on it.
fn is_own_pod(store: &Store, namespace: Option<&str>, name: &str, node: &str) -> bool {
    let Some(namespace) = namespace else { return false };
    store.get(&Key::new("/pods", namespace, name)).is_none_or(|pod| pod.field("spec.nodeName") == Some(node))
}

/// Whether a pod of the node mounts or reads this ConfigMap or Secret.
fn is_referenced(store: &Store, node: &str, namespace: &str, resource: &str, name: &str) -> bool {
    let Ok(pods) = store.range("/pods", Some(namespace), None, None, None) else { return false };
    pods.items
        .iter()
        .filter(|pod| pod.field("spec.nodeName") == Some(node) && mentions(pod, name))
        .filter_map(|pod| value(pod))
        .any(|pod| refers(pod.get("spec").unwrap_or(&Value::Null), resource == "secrets", name))
}

fn refers(spec: &Value, is_secret: bool, name: &str) -> bool {
    let items = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let is_it = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str) == Some(name);
    let (volume, projected, env, env_from) = if is_secret {
        ("/secret/secretName", "/secret/name", "/valueFrom/secretKeyRef/name", "/secretRef/name")
    } else {
        ("/configMap/name", "/configMap/name", "/valueFrom/configMapKeyRef/name", "/configMapRef/name")
    };
    let by_volume = items(spec, "volumes").iter().any(|one| {
        is_it(one, volume)
            || one.get("projected").is_some_and(|it| items(it, "sources").iter().any(|source| is_it(source, projected)))
    });
    let by_container = ["containers", "initContainers", "ephemeralContainers"].iter().any(|kind| {
        items(spec, kind).iter().any(|container| {
            items(container, "env").iter().any(|one| is_it(one, env))
                || items(container, "envFrom").iter().any(|one| is_it(one, env_from))
        })
    });
    let by_pull = is_secret && items(spec, "imagePullSecrets").iter().any(|one| name_is(one, name));
    by_volume || by_container || by_pull
}

fn name_is(value: &Value, name: &str) -> bool {
    value.get("name").and_then(Value::as_str) == Some(name)
}

fn value(object: &Object) -> Option<Value> {
    serde_json::from_slice(&object.bytes).ok()
}

/// What a node may write *into* an object; names in a body are not known when a request is authorised.
pub(crate) fn node_restriction(
    identity: &Identity,
    group: &str,
    resource: &str,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), String> {
    let is_create = old.is_none();
    let Some(node) = identity.node_name() else { return Ok(()) };
    let refuse = |what: String| Err(format!("node {node:?} is not allowed to {what}"));
    match (group, resource) {
        ("", "nodes") if is_create && name_of(new) != node => refuse(format!("create the Node {:?}", name_of(new))),
        ("", "nodes") => {
            // Taints and protected labels say what may run on a node: what it says of itself must not decide that.
            if old.is_some_and(|old| old.pointer("/spec/taints") != new.pointer("/spec/taints")) {
                return refuse("modify taints".to_owned());
            }
            match protected_changes(old, new).as_slice() {
                [] => Ok(()),
                keys if is_create => refuse(format!("set the labels {}", keys.join(", "))),
                keys => refuse(format!("modify the labels {}", keys.join(", "))),
            }
        }
        ("coordination.k8s.io", "leases") if is_create && name_of(new) != node => {
            refuse(format!("create the Lease {:?}", name_of(new)))
        }
        ("", "pods") if is_create => {
            let is_mirror = new.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some();
            if !is_mirror {
                return refuse("create pods that are not mirror pods of its static pods".to_owned());
            }
            if text_at(new, "/spec/nodeName") != node {
                return refuse("create pods for other nodes".to_owned());
            }
            if refers_to_any(new.get("spec").unwrap_or(&Value::Null)) {
                return refuse("create pods that refer to secrets or config maps".to_owned());
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Labels that differ and are not a node's own to set, as Kubernetes' admission plug-in NodeRestriction has it.
fn protected_changes(old: Option<&Value>, new: &Value) -> Vec<String> {
    const OWN: [&str; 13] = [
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/instance-type",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.kubernetes.io/zone",
        "failure-domain.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "kubernetes.io/instance-type",
    ];
    let is_of =
        |domain: &str, of: &str| domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    let is_protected = |key: &str| {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let is_kubernetes = is_of(domain, "kubernetes.io") || is_of(domain, "k8s.io");
        let is_own =
            OWN.contains(&key) || is_of(domain, "node.kubernetes.io") || is_of(domain, "kubelet.kubernetes.io");
        is_kubernetes && !is_own
    };
    let labels = |object: Option<&Value>| {
        object.and_then(|object| object.pointer("/metadata/labels")?.as_object()).cloned().unwrap_or_default()
    };
    let (before, after) = (labels(old), labels(Some(new)));
    let mut keys: Vec<String> = before.keys().chain(after.keys()).filter(|key| is_protected(key)).cloned().collect();
    keys.retain(|key| before.get(key) != after.get(key));
    keys.sort();
    keys.dedup();
    keys
}

/// Whether a mirror pod names anything that its node could then read: it must not become a key.
fn refers_to_any(spec: &Value) -> bool {
    const KEYS: [&str; 9] = [
        "secret",
        "secretName",
        "secretRef",
        "secretKeyRef",
        "configMap",
        "configMapRef",
        "configMapKeyRef",
        "imagePullSecrets",
        "persistentVolumeClaim",
    ];
    match spec {
        Value::Object(fields) => fields.iter().any(|(key, value)| KEYS.contains(&key.as_str()) || refers_to_any(value)),
        Value::Array(items) => items.iter().any(refers_to_any),
        _ => false,
    }
}
