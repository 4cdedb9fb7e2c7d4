//! The Kubernetes API over HTTP: who may do what, to which object, and in which words the answer comes.
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
//! each is refused with a sentence.

mod admission;
mod audit;
mod auth;
mod authorizer;
mod crd;
mod dial;
mod discovery;
mod dispatch;
mod flow;
mod housekeeping;
mod impersonation;
mod in_process;
mod kinds;
mod metrics;
mod negotiate;
mod object;
mod protobuf;
mod pump;
mod reindex;
mod request;
mod reviews;
mod selector;
mod server;
mod status;
mod verbs;
mod work;

pub use admission::{Admission, AdmissionError, AdmissionRequest, Operation};
pub use audit::{Audit, AuditEvent, AuditLimits, AuditLog};
pub use auth::{
    AuthRequest, AuthenticateError, Authenticator, BootstrapTokenAuthenticator, CertificateAuthenticator,
    EXTRA_KEY_SHA256, Identity,
};
pub use authorizer::{Access, AuthenticatedBasics, Authorizer, Decision, SystemMasters, Target, Union};
pub use dial::{AsyncReadWrite, DirectTls, NoNodes, NodeAddress, NodeDialer};
pub use in_process::InProcess;
pub use object::{INDEX_VERSION, INDEXED_FIELDS, OWNER_UID_FIELD};
pub use selector::{FieldSelector, LabelSelector, ParseSelectorError};
pub use server::{Extension, NewServerError, RequestBody, Server, ServerConfig, Session};

/// Group of the identity that may do everything, as in Kubernetes.
pub const GROUP_MASTERS: &str = "system:masters";

/// Group of every node's certificate, as in Kubernetes.
pub const GROUP_NODES: &str = "system:nodes";

/// Group of callers with a bootstrap token, as in Kubernetes.
pub const GROUP_BOOTSTRAPPERS: &str = "system:bootstrappers";

/// Group of every caller whose identity is known, as in Kubernetes.
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";

/// User of the hub's own controllers, which call in process.
pub const USER_CONTROLLERS: &str = "system:selvedge:controllers";

/// A node's user is this and its name, as in Kubernetes.
pub const USER_NODE_PREFIX: &str = "system:node:";

#[cfg(test)]
mod tests;
