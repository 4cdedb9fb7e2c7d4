//! The hub's own kinds stay: without them it does not work.

use machinery_server::{Admission, AdmissionError, AdmissionRequest, Operation};
use serde_json::Value;

use crate::references::text_at;

/// Rejects the deletion of a kind that is the hub's. With it all of its objects would go: every node would lose the key that it is
/// bound to, and every device its settings.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeptKinds;

impl Admission for KeptKinds {
    fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), AdmissionError> {
        let is_definition = request.target() == ("apiextensions.k8s.io", "customresourcedefinitions", None);
        if is_definition && request.operation == Operation::Delete && text_at(object, "/spec/group") == api_edge::GROUP
        {
            return Err(AdmissionError::Forbidden(format!(
                "kind {} is the hub's own and may not be deleted, all of its objects would be lost; delete the objects that are not needed",
                text_at(object, "/spec/names/kind")
            )));
        }
        Ok(())
    }
}
