//! Expressions of policies and of match conditions: what may stand in them, and what they must give.

use machinery_crd::{PolicyScope, PolicyType, check_policy};

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

impl Place {
    fn types(self) -> &'static [&'static str] {
        match self {
            Self::Condition => &["bool"],
            Self::Message => &["string"],
            Self::Audit => &["string", "null_type"],
            Self::Variable | Self::ApplyConfiguration | Self::JsonPatch => &[],
        }
    }
}

/// What an expression may name besides the object and its request.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    pub with_params: bool,
    /// Variables that come before it, by name; none at all when the policy has none.
    pub variables: Option<Vec<(String, PolicyType)>>,
}

/// Checks one expression; gives its type as far as it is known.
pub(super) fn check(
    expression: &str,
    place: Place,
    environment: &Environment,
    path: &Path<'_>,
    errors: &mut Errors,
) -> PolicyType {
    // What makes objects of named types is not known here.
    if matches!(place, Place::ApplyConfiguration | Place::JsonPatch) {
        return PolicyType::ANY;
    }
    let scope = PolicyScope {
        params: environment.with_params,
        // A message is for the caller, who need not learn what others may.
        authorizer: place != Place::Message,
        variables: environment.variables.clone(),
    };
    let of = match check_policy(expression, &scope) {
        Ok(of) => of,
        Err(problem) => {
            errors.invalid(path, expression, problem);
            return PolicyType::ANY;
        }
    };
    let (desired, found) = (place.types(), of.name());
    if of.is_unknown() || desired.is_empty() || desired.contains(&found.as_str()) {
        return of;
    }
    let desired = match desired {
        [one] => (*one).to_owned(),
        many => format!("one of [{}]", many.join(" ")),
    };
    errors.invalid(path, expression, format!("must evaluate to {desired} but got {found}"));
    of
}
