//! Who may do what on a Kubernetes API: roles, nodes, service accounts and their tokens, certificates, and what every new pod
//! is given. A library on the traits of `machinery-server`; it knows nothing of hubs.
//!
//! ```text
//! authenticators   CertificateAuthenticator · BootstrapTokenAuthenticator (both of the server) · TokenAuthenticator
//! authorizers      system:masters ─▶ NodeAuthorizer ─▶ Rbac
//! admission        ServiceAccounts · NodeRestriction · NotReadyTaint · Priority · DefaultTolerations · DefaultClasses ·
//!                  UseProtection · ClaimResize · RuntimeClasses · Certificates · TopologyLabels · Escalation
//! answered         TokenRequests · OpenID discovery
//! in process       default roles and priority classes · aggregated roles · a service account and the CA in each namespace
//! ```
//!
//! # A whole API
//!
//! ```
//! # use machinery_access::{Access, AccessOptions, Issuer, TokenKey};
//! # use machinery_server::{INDEX_VERSION, INDEXED_FIELDS, Server, ServerConfig};
//! # use machinery_store::{Store, StoreOptions};
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
//! # let dir = tempfile::tempdir().unwrap();
//! let options = StoreOptions {
//!     indexed_fields: INDEXED_FIELDS.to_vec(),
//!     index_version: INDEX_VERSION,
//!     ..StoreOptions::default()
//! };
//! let store = Store::open(dir.path(), options)?;
//! let issuer = Issuer::new("https://kubernetes.default.svc.cluster.local", TokenKey::generate()?);
//! let access = Access::new(AccessOptions::new(issuer));
//! let server = Server::new(access.configure(ServerConfig::new(store)))?;
//! access.bootstrap(&server).await?;
//! // Serve it with `base_http::serve`, and spawn `access.run(server.clone(), shutdown)` beside it.
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```
//!
//! - **Where is it?** Roles and bindings: `rbac`. Nodes: `node`. Tokens: `tokens`. Signers: `certificates`. What pods, claims
//!   and nodes are given: `admission`. What runs beside the server: `bootstrap`, `controllers`.
//! - **May I touch it?** Every rejection is a text that other people's clients show; it is looked up in upstream's source and
//!   checked by recorded answers. Decisions are made without I/O, from the store as it is in that moment.
//! - **How do I try it?** `cargo test -p machinery-access`; `cargo run -p machinery-replay -- rbac node-authorizer tokens
//!   certificates admission`.
//! - **What breaks?** A rule that is too strict is a 403 that names the user and the act; one that is too weak shows nowhere.
//!
//! **Invariant:** a decision knows every write that was answered before it.

mod access;
mod admission;
mod bootstrap;
mod certificates;
mod client;
mod controllers;
mod json;
mod node;
mod rbac;
mod tokens;

pub use access::{Access, AccessOptions};
pub use admission::{
    ClaimResize, DefaultClasses, DefaultTolerations, NodeFeatures, NotReadyTaint, Priority, RuntimeClasses,
    ServiceAccounts, TopologyLabels, Unenforced, UseProtection,
};
pub use bootstrap::NAMESPACES;
pub use certificates::Certificates;
pub use client::RequestError;
pub use node::{NodeAuthorizer, NodeRestriction};
pub use rbac::{Escalation, Rbac, Rule};
pub use tokens::{Issuer, LoadKeyError, TokenAuthenticator, TokenKey, TokenRequests};
