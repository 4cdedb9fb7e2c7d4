//! Expressions of policies and of match conditions: what may stand in them, and what they must give.

use crate::kit::{Errors, Path};

/// What an expression is for, which says what it must give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Whether something holds.
    Condition,
    /// The text of a rejection.
    Message,
    /// A text for the audit log, or nothing.
    Audit,
    /// Anything: a variable of others.
    Variable,
    /// An apply configuration.
    ApplyConfiguration,
    /// A list of JSON patch operations.
    JsonPatch,
}

/// What an expression may name besides the object and its request.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    pub with_params: bool,
    /// Variables that come before it, by name; none at all when the policy has none.
    pub variables: Option<Vec<String>>,
}

/// Checks one expression.
pub(super) fn check(
    _expression: &str,
    _place: Place,
    _environment: &Environment,
    _path: &Path<'_>,
    _errors: &mut Errors,
) {
}
