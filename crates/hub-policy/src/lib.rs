//! Who may do what on a hub, and what it lets in: the policy of ours, apart from the API machinery.
//!
//! `machinery-server` asks authenticators, authorizers and admission plug-ins; this crate has those of a hub. All decide
//! at once, without I/O, from what they are handed and from the store.
//!
//! ```text
//! authenticators   NodeKeyAuthenticator (certificates; a node's key is the bound one) · bootstrap tokens · service accounts
//! tasks            BindingKeeper (records keys, revokes those of deleted nodes) · clean_tokens
//! authorizers      system:masters · NodeAuthorizer (nodes with a key) · InNodesName · BootstrapAuthorizer · roles
//! admission        what machinery-access has for every pod and node · NodeRestriction (nodes with a key, tokens) ·
//!                  PodVariants (what a pod is on its node) · PodRuntimeClass (what a runtime honours) · WorkloadAnnotations · KeptKinds ·
//!                  escalation of roles
//! ```
//!
//! - **Where is it?** Which key speaks as which node: `bindings`. What a node may do: `authorizer`. What it may write into an object: `restriction`. Its labels:
//!   `labels`. Names that no node may have: `names`. What a pod may ask of a runtime: `pods`. What of it depends on its node: `variants`. What of a
//!   workload cannot be followed: `annotations`. Kinds that nobody deletes: `kinds`. How much a node may store: `quota`.
//! - **May I touch it?** Every rule here keeps a stolen gateway from giving away more than itself: begin with a test that
//!   fails, in `tests/`.
//! - **How do I try it?** `cargo test -p hub-policy`; on a running hub with `kubectl --as system:node:NAME --as-group
//!   system:nodes …`.
//! - **What breaks?** A rule that is too strict shows as `403` in the nodes' logs, one that is too weak shows nowhere.
//!
//! Roles, service accounts, tokens and the plug-ins of every cluster are `machinery-access`'s, which knows of no hubs.
//!
//! **Invariant:** whose an object is, a field of the stored object says, never its name.

mod annotations;
mod authorizer;
mod bindings;
mod kinds;
pub mod labels;
pub mod names;
mod pods;
mod quota;
mod references;
mod restriction;
mod services;
mod tokens;
mod variants;

use std::sync::Arc;

use machinery_access::{Access, AccessOptions, Issuer, TokenAuthenticator, TokenKey, Unenforced};
use machinery_server::{Admission, Authorizer, BootstrapTokenAuthenticator, ServerConfig, SystemMasters, Union};
use machinery_store::Store;

pub use annotations::WorkloadAnnotations;
pub use authorizer::{BootstrapAuthorizer, InNodesName, NodeAuthorizer};
pub use bindings::{BindingKeeper, NODE_IDENTITIES, NodeKeyAuthenticator, OnChange, binding, bindings};
pub use kinds::KeptKinds;
pub use pods::PodRuntimeClass;
pub use quota::NodeQuota;
pub use restriction::NodeRestriction;
pub use services::NodeServices;
pub use tokens::clean_tokens;
pub use variants::PodVariants;

/// What tokens of service accounts say of who issued them: the name by which pods know the API.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Kinds of which users expect that something happens, and on which no controller of a hub and no node acts yet. What is data
/// for others (classes, templates, endpoints, what a storage driver reports) is not among them.
const WAITING: &[(&str, &str)] = &[
    ("apiregistration.k8s.io", "apiservices"),
    ("flowcontrol.apiserver.k8s.io", "flowschemas"),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
    ("networking.k8s.io", "ingresses"),
    ("networking.k8s.io", "networkpolicies"),
    ("resource.k8s.io", "resourceclaims"),
];

/// The authorizers of a hub before its roles, in the order in which they are asked.
pub fn authorizers() -> Vec<Arc<dyn Authorizer>> {
    vec![Arc::new(SystemMasters), Arc::new(NodeAuthorizer), Arc::new(InNodesName), Arc::new(BootstrapAuthorizer)]
}

/// The admission plug-ins of a hub that is reached by these names; `authorizer` decides about escalation and signers.
pub fn admission(hub_names: Vec<String>, access: &Access, authorizer: &Union) -> Vec<Arc<dyn Admission>> {
    let nodes = Arc::new(NodeRestriction::new(hub_names, authorizer.clone()));
    let mut plugins = access.admission_with(nodes, authorizer);
    // Before all others: they look at what a pod is on its node.
    plugins.insert(0, Arc::new(PodVariants));
    plugins.push(Arc::new(PodRuntimeClass));
    plugins.push(Arc::new(WorkloadAnnotations));
    plugins.push(Arc::new(KeptKinds));
    plugins.push(Arc::new(NodeServices));
    plugins.push(Arc::<NodeQuota>::default());
    plugins.push(Arc::new(Unenforced::beside(WAITING)));
    plugins
}

/// The configuration of a hub's API server, and the keeper of its nodes' identities, which is to be run beside it.
pub fn server_config(store: Store, hub_names: Vec<String>, access: &Access) -> (ServerConfig, BindingKeeper) {
    let (node_keys, keeper) = bindings();
    let mut authorizers = authorizers();
    authorizers.push(Arc::new(access.rbac()));
    let union = Union::new(authorizers.clone());
    let config = ServerConfig {
        authenticators: vec![
            Arc::new(node_keys),
            Arc::<BootstrapTokenAuthenticator>::default(),
            Arc::new(TokenAuthenticator::new(access.issuer().clone())),
        ],
        anonymous: true,
        audiences: access.issuer().audiences.clone(),
        authorizers,
        admission: admission(hub_names, access, &union),
        virtual_resources: access.virtual_resources(),
        version: api_edge::KUBERNETES_VERSION,
        ..ServerConfig::new(store)
    };
    (config, keeper)
}

/// Roles, service accounts and tokens of a hub.
pub fn access(key: TokenKey, ca_pem: &str) -> Access {
    Access::new(AccessOptions { root_ca: Some(ca_pem.into()), ..AccessOptions::new(Issuer::new(ISSUER, key)) })
}
