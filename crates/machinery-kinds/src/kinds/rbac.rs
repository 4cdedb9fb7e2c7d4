//! Kinds of the group `rbac`.

use crate::{metadata::NameRule, strategy::Strategy};

/// Roles and bindings have names with colons.
static NAMED: Strategy = Strategy { name_rule: NameRule::PathSegment, ..Strategy::PLAIN };

/// What is special about a kind of this group.
pub(crate) fn strategy(_kind: &str) -> Option<&'static Strategy> {
    Some(&NAMED)
}
