//! Kinds of the group `apps`.

use crate::strategy::{self, Strategy};

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    Some(match kind {
        "ControllerRevision" => &strategy::CONTROLLER_REVISION,
        "DaemonSet" => &strategy::DAEMON_SET,
        _ => return None,
    })
}
