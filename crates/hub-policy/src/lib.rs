//! Who may do what on a hub, and what it lets in: the policy of ours, apart from the API machinery.
//!
//! `machinery-server` asks authenticators, authorizers and admission plug-ins; this crate has those of a hub. All decide
//! at once, without I/O, from what they are handed and from the store.
//!
//! ```text
//! authenticators   NodeKeyAuthenticator (certificates; a node's key is the bound one) · bootstrap tokens
//! tasks            BindingKeeper (records keys, revokes those of deleted nodes) · clean_tokens
//! authorizers      system:masters · NodeAuthorizer · BootstrapAuthorizer · everyone's basics
//! admission        NodeRestriction (nodes, tokens) · PodRuntimeClass (what a runtime honours) · KeptKinds
//! ```
//!
//! - **Where is it?** Which key speaks as which node: `bindings`. What a node may do: `authorizer`. What it may write into an object: `restriction`. Its labels:
//!   `labels`. Names that no node may have: `names`. What a pod may ask of a runtime: `pods`. Kinds that nobody
//!   deletes: `kinds`. How much a node may store: `quota`.
//! - **May I touch it?** Every rule here keeps a stolen gateway from giving away more than itself: begin with a test that
//!   fails, in `tests/`.
//! - **How do I try it?** `cargo test -p hub-policy`; on a running hub with `kubectl --as system:node:NAME --as-group
//!   system:nodes …`.
//! - **What breaks?** A rule that is too strict shows as `403` in the nodes' logs, one that is too weak shows nowhere.
//!
//! **Invariant:** whose an object is, a field of the stored object says, never its name.

mod authorizer;
mod bindings;
mod kinds;
pub mod labels;
pub mod names;
mod pods;
mod quota;
mod references;
mod restriction;
mod tokens;

use std::sync::Arc;

use machinery_server::{
    Admission, AuthenticatedBasics, Authorizer, BootstrapTokenAuthenticator, ServerConfig, SystemMasters,
};
use machinery_store::Store;

pub use authorizer::{BootstrapAuthorizer, NodeAuthorizer};
pub use bindings::{BindingKeeper, NODE_IDENTITIES, NodeKeyAuthenticator, OnChange, binding, bindings};
pub use kinds::KeptKinds;
pub use pods::PodRuntimeClass;
pub use quota::NodeQuota;
pub use restriction::NodeRestriction;
pub use tokens::clean_tokens;

/// The authorizers of a hub, in the order in which they are asked.
pub fn authorizers() -> Vec<Arc<dyn Authorizer>> {
    vec![
        Arc::new(SystemMasters),
        Arc::new(NodeAuthorizer),
        Arc::new(BootstrapAuthorizer),
        Arc::new(AuthenticatedBasics),
    ]
}

/// The admission plug-ins of a hub that is reached by these names.
pub fn admission(hub_names: Vec<String>) -> Vec<Arc<dyn Admission>> {
    vec![
        Arc::new(NodeRestriction::new(hub_names)),
        Arc::new(PodRuntimeClass),
        Arc::new(KeptKinds),
        Arc::<NodeQuota>::default(),
    ]
}

/// The configuration of a hub's API server, and the keeper of its nodes' identities, which is to be run beside it.
pub fn server_config(store: Store, hub_names: Vec<String>) -> (ServerConfig, BindingKeeper) {
    let (node_keys, keeper) = bindings();
    let config = ServerConfig {
        authenticators: vec![Arc::new(node_keys), Arc::<BootstrapTokenAuthenticator>::default()],
        authorizers: authorizers(),
        admission: admission(hub_names),
        version: api_edge::KUBERNETES_VERSION,
        ..ServerConfig::new(store)
    };
    (config, keeper)
}
