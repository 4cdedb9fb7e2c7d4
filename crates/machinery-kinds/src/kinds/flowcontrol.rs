//! Kinds of the group `flowcontrol`.

use crate::strategy::Strategy;

/// What is special about a kind of this group.
pub(crate) fn strategy(_kind: &str) -> Option<&'static Strategy> {
    None
}
