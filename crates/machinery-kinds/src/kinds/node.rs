//! Kinds of the group `node`.

use crate::strategy::{self, Strategy};

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    Some(match kind {
        "RuntimeClass" => &strategy::RUNTIME_CLASS,
        _ => return None,
    })
}
