//! Kinds of the group `apiextensions`.

use crate::strategy::{self, Strategy};

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    Some(match kind {
        "CustomResourceDefinition" => &strategy::CUSTOM_RESOURCE_DEFINITION,
        _ => return None,
    })
}
