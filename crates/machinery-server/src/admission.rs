//! A last look at objects before they are stored: plug-ins, in Kubernetes' two phases.
//!
//! ```text
//! decode ─▶ prune ─▶ default ─▶ mutate (all plug-ins; once more when one changed something) ─▶ default ─▶ validate by
//! schema ─▶ validate (all plug-ins) ─▶ store
//! ```
//!
//! A change is computed anew when somebody else wrote the object in between, so plug-ins run inside the write and see the
//! stored object as it is replaced. They decide at once and without I/O, from what they are handed and from the store.
//! Webhooks, when they come, answer before that loop begins, under a deadline, and their answer is checked again by the
//! plug-ins here, since what they were shown may have changed while they thought.

use std::cell::RefCell;

use machinery_kinds::{FieldError, ResourceInfo};
use machinery_store::{Op, Store};
use serde_json::Value;

use crate::Identity;

/// What is about to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change of one, by PUT or PATCH.
    Update,
    /// The removal of one.
    Delete,
    /// A stream into one, such as `exec`; nothing is stored.
    Connect,
}

/// What a plug-in is handed beside the object.
#[derive(Clone, Copy)]
pub struct AdmissionRequest<'a> {
    /// Create, update, delete or connect.
    pub operation: Operation,
    /// The resource.
    pub info: &'a ResourceInfo,
    /// `status` and the like.
    pub subresource: Option<&'a str>,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
    /// Who calls.
    pub identity: &'a Identity,
    /// The stored object before the change.
    pub old: Option<&'a Value>,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// Everything else that is stored.
    pub store: &'a Store,
    /// What the caller is to be warned of; see [`Self::warn`].
    pub warnings: &'a RefCell<Vec<String>>,
    /// What a create is committed together with; see [`Self::commit_with`].
    pub commits: &'a RefCell<Vec<Op>>,
}

impl AdmissionRequest<'_> {
    /// Warns the caller: kubectl shows it, and the request continues.
    pub fn warn(&self, warning: impl Into<String>) {
        let (warning, mut warnings) = (warning.into(), self.warnings.borrow_mut());
        // A plug-in may be asked twice.
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// Has an object created only together with this: a check that must hold in the same commit, or a write beside it. When
    /// it does not hold, the plug-ins are asked again, about what is stored by then. For the second phase of a create; other
    /// operations ignore it.
    pub fn commit_with(&self, op: Op) {
        self.commits.borrow_mut().push(op);
    }

    /// Group, plural name and subresource, to match on.
    pub fn target(&self) -> (&str, &str, Option<&str>) {
        (&self.info.group, &self.info.plural, self.subresource)
    }
}

/// Why a plug-in rejects a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// The caller may not; `Forbidden`, with a sentence.
    #[error("{0}")]
    Forbidden(String),
    /// The object is wrong; `Invalid`, with every wrong field.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<FieldError>),
    /// The object is there; `AlreadyExists`. For a plug-in that must not wait for the commit to find out.
    #[error("it exists already")]
    Exists,
    /// The caller sends too much of this; `TooManyRequests`, with a sentence.
    #[error("{0}")]
    TooMany(String),
    /// The request makes no sense; `BadRequest`, with a sentence.
    #[error("{0}")]
    BadRequest(String),
    /// Something that the object refers to is not there; `NotFound`.
    #[error("{} {name:?} not found", qualified(group, resource))]
    NotFound {
        /// API group of the missing object; empty for core.
        group: String,
        /// What the message calls its resource.
        resource: String,
        /// Its name.
        name: String,
    },
    /// Something is not what the request expects; `Conflict`.
    #[error("{} {name:?}: {why}", qualified(group, resource))]
    Conflict {
        /// API group of what conflicts; empty for core.
        group: String,
        /// What the message calls its resource.
        resource: String,
        /// Its name.
        name: String,
        /// A sentence.
        why: String,
    },
    /// Another object than the stored one is wrong, such as the body of a subresource; `Invalid`.
    #[error("{kind} {name:?} is invalid")]
    InvalidKind {
        /// API group of the object's kind.
        group: String,
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Every wrong field.
        errors: Vec<FieldError>,
    },
    /// The request cannot be judged; a status of 500 with this sentence.
    #[error("{0}")]
    Internal(String),
}

fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

/// A plug-in, for one phase or both. It decides quickly, without I/O.
pub trait Admission: Send + Sync {
    /// May change an object that is created or updated; answers whether it did, so that the others see the result once
    /// more. It must be idempotent.
    ///
    /// # Errors
    /// When the request is rejected.
    fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<bool, AdmissionError> {
        let _ = (request, object);
        Ok(false)
    }

    /// Looks at the object in its final form; for a delete or a connect, at the stored one.
    ///
    /// # Errors
    /// When the request is rejected.
    fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), AdmissionError> {
        let _ = (request, object);
        Ok(())
    }

    /// May change a pod that is bound to a node, in the write that binds it: `request` is the creation of a binding, and its
    /// `old` the pod as it is stored. What it makes of the pod is not validated again.
    ///
    /// # Errors
    /// When the pod is not bound.
    fn bind(&self, request: &AdmissionRequest<'_>, node: &str, pod: &mut Value) -> Result<(), AdmissionError> {
        let _ = (request, node, pod);
        Ok(())
    }
}
