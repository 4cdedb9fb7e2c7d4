//! The template of a claim that is created for one pod.

use serde_json::Value;

use crate::{
    checks,
    kinds::core::persistent_volume_claim::{ClaimOptions, check_claim_spec},
    kit::{Errors, Path, Read},
};

/// The template of a claim that is created for one pod.
pub(super) fn template(template: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("metadata");
    let metadata = template.part("metadata");
    checks::template_metadata(metadata, &at, errors);
    for (key, _) in template.entries("metadata") {
        if !matches!(key, "annotations" | "labels") {
            errors.forbidden(&at.field(key), "cannot be set");
        }
    }
    check_claim_spec(template.part("spec"), ClaimOptions::default(), &path.field("spec"), errors);
}
