//! What nodes do not do for a Service is said when it is created.

use machinery_server::{Admission, AdmissionError, AdmissionRequest, Operation};
use serde_json::Value;

use crate::references::text_at;

/// Warns of a Service of a type for which nothing here has an answer: nodes serve cluster addresses, node ports and names.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeServices;

impl Admission for NodeServices {
    fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), AdmissionError> {
        let is_new = request.target() == ("", "services", None) && request.operation == Operation::Create;
        if is_new && text_at(object, "/spec/type") == "LoadBalancer" {
            request.warn(format!(
                "nothing gives Service {:?} the address of a load balancer; it is reached by its cluster address and its node ports",
                text_at(object, "/metadata/name")
            ));
        }
        Ok(())
    }
}
