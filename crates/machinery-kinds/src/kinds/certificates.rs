//! Kinds of the group `certificates`.

use crate::strategy::{self, Strategy};

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    Some(match kind {
        "CertificateSigningRequest" => &strategy::CERTIFICATE_SIGNING_REQUEST,
        _ => return None,
    })
}
