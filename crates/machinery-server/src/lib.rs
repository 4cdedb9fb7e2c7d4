//! The Kubernetes API over HTTP: from a request and an identity to a decision and its status code.
//!
//! ```text
//!            ┌ base-http ─ certificate or token ─┐
//! request ──▶│                                    ├─▶ Identity ─▶ impersonate? ─▶ authorise ─▶ verb ─▶ machinery-store
//!            └ InProcess (controllers' client) ───┘                                            │
//!                                                   machinery-schema: prune, default, validate ┤
//!                                                   machinery-merge:  patches                  ┤
//!                                                   admission: mutate, validate                ┘
//! ```
//!
//! **Invariant:** only this crate knows the Kubernetes HTTP API, and a status code is chosen in `status.rs` and nowhere
//! else. What is stored are objects as they go over the wire ([`Server`] splices them into lists and watch events
//! without decoding them), so a list of 50,000 objects costs its bytes and not its values.
//!
//! Server-side apply, exec and port-forward are not served, and protobuf only for what kubectl sends in no other form;
//! each is rejected with a sentence.
//!
//! # Where is it?
//!
//! | question | file |
//! | --- | --- |
//! | the way of a request, its body and its turn | `server.rs` and `server/route.rs`, with the verb and the connected subresources in `dispatch.rs` |
//! | what a path and a query mean | `request.rs`, `selector.rs` |
//! | one verb | `verbs/`: `create` (`answer`, of what is not stored), `update` (patches too), `delete`, `read` (get, list), `watch`, `log`; what writes have in common is `write` |
//! | who is calling, in whose name, and what they may | `auth.rs`, `impersonation.rs`, `authorizer.rs`, `reviews.rs` |
//! | who waits for whom | `flow.rs` (turns, fairly by identity), `work.rs` (threads), `heavy.rs` (costly writes), `pump.rs` (long answers, piece by piece) |
//! | who may hold how many bytes | `bodies.rs` (what comes), `outgoing.rs` (what is to be taken) |
//! | what is stored, and what it is found by | `object.rs`, `reindex.rs` |
//! | JSON, YAML, protobuf, tables, partial metadata | `negotiate.rs`, `protobuf.rs`; what a body says that it is: `typed.rs`; YAML for people: `yaml.rs` |
//! | status codes, reasons and their texts | `status.rs` |
//! | definitions of custom resources, discovery | `crd.rs`, `discovery.rs` |
//! | what is recorded and counted, and what ends by itself | `audit.rs`, `metrics.rs`, `event_ttl.rs` |
//!
//! # May I touch it?
//!
//! Other people's clients talk to it, so what a text or a code should be is looked up in upstream's source;
//! `docs/reference/compatibility.md` names the test of each promise. What a *kind* is does not belong here but in
//! `machinery-schema`, and what somebody may do is decided by who embeds the server (`machinery-access`
//! has what every cluster decides): the first is looked up there, the second comes in by traits. Three things must hold:
//! a decision is made on the object in hand and in the step that writes it ([`Access::object`]); nothing a client sends is held
//! without a bound in bytes and time; work happens on the pool and never on the threads that serve sockets. Whoever
//! changes what an object is found by raises [`INDEX_VERSION`].
//!
//! # How do I try it?
//!
//! `cargo test -p machinery-server`: a whole server over a store in a temporary directory, called in process. `cargo run -p
//! machinery-server --example serve` for `kubectl`, without controllers. Against a running server: `kubectl get --raw PATH`, `-v=8` for
//! what goes over the wire, `/metrics` and the audit log for what it did.
//!
//! # What breaks?
//!
//! A full disk: writes are answered with 507 and deletions are taken. A stored object that cannot be read: 500 for that
//! object, and lists give its bytes as they are. A panic in a handler: that request, with the place in the log. A client
//! that does not read: its watch or list, after a minute. A definition that this version does not take: its resource is
//! not served, its objects stay. Too many requests of one identity: 429 for it, while masters, leases and the server's own
//! controllers have places of their own.

mod admission;
mod audit;
mod auth;
mod authorizer;
mod bodies;
mod crd;
mod dial;
mod discovery;
mod dispatch;
mod documents;
mod event_ttl;
mod extension_group;
mod flow;
mod flow_schemas;
mod heavy;
mod impersonation;
mod in_process;
mod kinds;
mod metrics;
mod negotiate;
mod object;
mod outgoing;
mod owners;
mod protobuf;
mod pump;
mod reindex;
mod repeats;
mod request;
mod reviews;
mod selector;
mod server;
mod services;
mod status;
mod typed;
mod verbs;
mod virtual_resource;
mod work;

pub use admission::{Admission, AdmissionError, AdmissionRequest, Operation};
pub use audit::{Audit, AuditEvent, AuditLimits, AuditLog};
pub use auth::{
    AuthRequest, AuthenticateError, Authenticator, BootstrapTokenAuthenticator, CertificateAuthenticator,
    EXTRA_KEY_SHA256, Identity,
};
pub use authorizer::{
    Access, AuthenticatedBasics, Authorizer, Decision, ResourceRules, RulesOf, SystemMasters, Target, Union,
};
pub use dial::{AsyncReadWrite, DirectTls, NoNodes, NodeAddress, NodeDialer};
pub use extension_group::{ExtensionGroup, ExtensionResource};
pub use in_process::InProcess;
pub use negotiate::read_yaml;
pub use object::{INDEX_VERSION, INDEXED_FIELDS, OWNER_UID_FIELD};
pub use selector::{FieldSelector, LabelSelector, ParseSelectorError};
pub use server::{Extension, NewServerError, RequestBody, Server, ServerConfig, Session};
pub use services::ServiceRange;
pub use virtual_resource::{Admit, VirtualKind, VirtualResource};

/// Group of the identity that may do everything, as in Kubernetes.
pub const GROUP_MASTERS: &str = "system:masters";

/// Group of every node's certificate, as in Kubernetes.
pub const GROUP_NODES: &str = "system:nodes";

/// Group of callers with a bootstrap token, as in Kubernetes.
pub const GROUP_BOOTSTRAPPERS: &str = "system:bootstrappers";

/// Group of every caller whose identity is known, as in Kubernetes.
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";

/// Group of every caller whose identity is not known, as in Kubernetes.
pub const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";

/// User of every caller whose identity is not known, as in Kubernetes.
pub const USER_ANONYMOUS: &str = "system:anonymous";

/// What the user of a service account begins with, as in Kubernetes: its namespace and its name follow.
pub const USER_SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// User of controllers of the same program, which call in process.
pub const USER_CONTROLLERS: &str = "system:selvedge:controllers";

/// A node's user is this and its name, as in Kubernetes.
pub const USER_NODE_PREFIX: &str = "system:node:";

#[cfg(test)]
mod tests;
