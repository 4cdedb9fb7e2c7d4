//! What a node may do: Kubernetes' Node authoriser.
//!
//! Who asks about one object of a kind that is divided among nodes gets it when the node is related to it. All other kinds
//! are the same for all nodes: what the ClusterRole `system:node` says, which is bound to nobody.

use std::sync::LazyLock;

use machinery_server::{Access, Authorizer, Decision, FieldSelector, Identity, RulesOf, Target};
use machinery_store::Store;

use super::NodeIdentity;
use super::graph::Graph;
use crate::rbac::{Rule, default_policy};

/// The only namespace in which nodes have Leases.
pub(super) const LEASE_NAMESPACE: &str = "kube-node-lease";

const CERTIFICATES: &str = "certificates.k8s.io";

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let role =
        default_policy().into_iter().find(|role| role.name == "system:node" && role.object["kind"] == "ClusterRole");
    Rule::of_role(&role.expect("the policy has a role for nodes").object)
});

/// Decides about callers in the group `system:nodes` whose user is `system:node:NAME`.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeAuthorizer;

impl Authorizer for NodeAuthorizer {
    fn authorize(&self, access: &Access<'_>, store: &Store) -> Decision {
        let node = match NodeIdentity::of(access.identity) {
            NodeIdentity::NotANode => return Decision::NoOpinion(String::new()),
            NodeIdentity::Unknown => {
                return Decision::NoOpinion(format!("unknown node for user {:?}", access.identity.user));
            }
            NodeIdentity::Node(node) => node,
        };
        let graph = Graph { store, node, object: access.object };
        let decided = match &access.target {
            Target::Resource { group, resource, subresource, namespace, name, selectors } => {
                let request = Request {
                    verb: access.verb,
                    subresource: subresource.unwrap_or_default(),
                    namespace: namespace.unwrap_or_default(),
                    name: name.unwrap_or_default(),
                    fields: selectors.map(|(_, fields)| fields),
                };
                request.decide(group, resource, &graph)
            }
            Target::Path(_) => None,
        };
        match decided {
            Some(Ok(())) => Decision::ALLOW,
            Some(Err(why)) => Decision::NoOpinion(why),
            None => Decision::allow_if(RULES.iter().any(|rule| rule.allows(access.verb, &access.target)), ""),
        }
    }

    fn rules_of(&self, identity: &Identity, _: &str, _: &Store) -> Option<RulesOf> {
        let is_node = !matches!(NodeIdentity::of(identity), NodeIdentity::NotANode);
        is_node.then(|| RulesOf {
            is_incomplete: true,
            errors: vec!["node authorizer does not support user rule resolution".to_owned()],
            ..RulesOf::default()
        })
    }
}

/// A request about a resource, with nothing where it says nothing.
struct Request<'a> {
    verb: &'a str,
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
    fields: Option<&'a FieldSelector>,
}

/// Allowed, or why not.
type Decided = Result<(), String>;

fn reject(why: impl Into<String>) -> Decided {
    Err(why.into())
}

impl Request<'_> {
    /// `None` when the kind is the same for all nodes.
    fn decide(&self, group: &str, resource: &str, graph: &Graph<'_>) -> Option<Decided> {
        let (namespace, name) = (self.namespace, self.name);
        Some(match (group, resource) {
            ("", "secrets") => self.read(graph, |graph| graph.has_secret(namespace, name)),
            ("", "configmaps") => self.read(graph, |graph| graph.has_config_map(namespace, name)),
            ("", "persistentvolumeclaims") if self.subresource == "status" => match self.verb {
                "update" | "patch" => self.related(graph, |graph| graph.has_claim(namespace, name)),
                _ => reject("can only get/update/patch this type"),
            },
            ("", "persistentvolumeclaims") => self.get(graph, |graph| graph.has_claim(namespace, name)),
            ("", "persistentvolumes") => self.get(graph, |graph| graph.has_volume(name)),
            ("resource.k8s.io", "resourceclaims") => self.get(graph, |graph| graph.has_resource_claim(namespace, name)),
            ("storage.k8s.io", "volumeattachments") => {
                self.get(graph, |graph| graph.names_node("storage.k8s.io/volumeattachments", "", name))
            }
            ("", "serviceaccounts") => self.service_account(graph),
            ("coordination.k8s.io", "leases") => self.lease(graph.node),
            ("storage.k8s.io", "csinodes") => self.csi_node(graph.node),
            ("resource.k8s.io", "resourceslices") => self.resource_slice(graph),
            ("", "nodes") => self.node(graph.node),
            ("", "pods") => self.pod(graph),
            (CERTIFICATES, "podcertificaterequests") => self.pod_certificate_request(graph),
            _ => return None,
        })
    }

    /// Whether a selector lets through nothing but what names the node in this field.
    fn selects(&self, field: &str, node: &str) -> bool {
        let terms = self.fields.map(FieldSelector::terms).unwrap_or_default();
        terms.iter().any(|term| term.is_equal && &*term.field == field && &*term.value == node)
    }

    fn related(&self, graph: &Graph<'_>, is_related: impl Fn(&Graph<'_>) -> bool) -> Decided {
        if self.name.is_empty() {
            return reject("No Object name found");
        }
        match is_related(graph) {
            true => Ok(()),
            false => reject(format!("no relationship found between node '{}' and this object", graph.node)),
        }
    }

    fn get(&self, graph: &Graph<'_>, is_related: impl Fn(&Graph<'_>) -> bool) -> Decided {
        match (self.verb, self.subresource) {
            ("get", "") => self.related(graph, is_related),
            ("get", _) => reject("cannot get subresource"),
            _ => reject("can only get individual resources of this type"),
        }
    }

    fn read(&self, graph: &Graph<'_>, is_related: impl Fn(&Graph<'_>) -> bool) -> Decided {
        if !matches!(self.verb, "get" | "list" | "watch") {
            return reject("can only read resources of this type");
        }
        if !self.subresource.is_empty() {
            return reject("cannot read subresource");
        }
        if self.namespace.is_empty() {
            return reject("can only read namespaced object of this type");
        }
        self.related(graph, is_related)
    }

    fn service_account(&self, graph: &Graph<'_>) -> Decided {
        let is_related = |graph: &Graph<'_>| graph.has_service_account(self.namespace, self.name);
        if self.verb == "get" && self.subresource.is_empty() {
            return self.read(graph, is_related);
        }
        if self.verb != "create" || self.name.is_empty() {
            return reject("can only create tokens for individual service accounts");
        }
        if self.subresource != "token" {
            return reject("can only create token subresource of serviceaccount");
        }
        self.related(graph, is_related)
    }

    fn lease(&self, node: &str) -> Decided {
        if !matches!(self.verb, "get" | "create" | "update" | "patch" | "delete") {
            return reject("can only get, create, update, patch, or delete a node lease");
        }
        if self.namespace != LEASE_NAMESPACE {
            return reject(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
        }
        // The name of a new one is not known here; the restriction looks at it.
        if self.verb != "create" && self.name != node {
            return reject("can only access node lease with the same name as the requesting node");
        }
        Ok(())
    }

    fn csi_node(&self, node: &str) -> Decided {
        if !matches!(self.verb, "get" | "create" | "update" | "patch" | "delete") {
            return reject("can only get, create, update, patch, or delete a CSINode");
        }
        if !self.subresource.is_empty() {
            return reject("cannot authorize CSINode subresources");
        }
        if self.verb != "create" && self.name != node {
            return reject("can only access CSINode with the same name as the requesting node");
        }
        Ok(())
    }

    fn resource_slice(&self, graph: &Graph<'_>) -> Decided {
        if !self.subresource.is_empty() {
            return reject("cannot authorize ResourceSlice subresources");
        }
        match self.verb {
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => {
                self.related(graph, |graph| graph.names_node("resource.k8s.io/resourceslices", "", self.name))
            }
            "watch" | "list" | "deletecollection" if self.selects("spec.nodeName", graph.node) => Ok(()),
            // One of those that a selector has found: asked about once more, now by itself.
            "deletecollection" if graph.object.is_some() => {
                self.related(graph, |graph| graph.names_node("resource.k8s.io/resourceslices", "", self.name))
            }
            "watch" | "list" | "deletecollection" => {
                reject("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => reject(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, \
                 deletecollection",
            ),
        }
    }

    fn pod_certificate_request(&self, graph: &Graph<'_>) -> Decided {
        if !self.subresource.is_empty() {
            return reject("nodes may not access the status subresource of PodCertificateRequests");
        }
        match self.verb {
            "create" => Ok(()),
            "get" => {
                let resource = "certificates.k8s.io/podcertificaterequests";
                self.related(graph, |graph| graph.names_node(resource, self.namespace, self.name))
            }
            "list" | "watch" if self.selects("spec.nodeName", graph.node) => Ok(()),
            "list" | "watch" => reject("can only list/watch podcertificaterequests with nodeName field selector"),
            verb => reject(format!("nodes may not {verb} podcertificaterequests")),
        }
    }

    fn node(&self, node: &str) -> Decided {
        match (self.subresource, self.verb, self.name) {
            // Which one it writes, the restriction looks at.
            ("", "create" | "update" | "patch", _) | ("status", "update" | "patch", _) => Ok(()),
            ("", "get" | "list" | "watch", name) if name == node => Ok(()),
            ("", "get" | "list" | "watch", "") => {
                reject(format!("node '{node}' cannot read all nodes, only its own Node object"))
            }
            ("", "get" | "list" | "watch", name) => {
                reject(format!("node '{node}' cannot read '{name}', only its own Node object"))
            }
            _ => reject(""),
        }
    }

    fn pod(&self, graph: &Graph<'_>) -> Decided {
        let has_pod = |graph: &Graph<'_>| graph.has_pod(self.namespace, self.name);
        match (self.subresource, self.verb) {
            ("", "get") => self.get(graph, has_pod),
            ("", "list" | "watch") if self.selects("spec.nodeName", graph.node) => Ok(()),
            ("", "list" | "watch") if !self.name.is_empty() => self.related(graph, has_pod),
            ("", "list" | "watch") => reject("can only list/watch pods with spec.nodeName field selector"),
            // Mirror pods, status and evictions of its own: the restriction looks at whose they are.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => reject(""),
        }
    }
}
