//! Annotations by which workloads say what they ask of a hub, where they cannot be read.

use api_edge::{ANNOTATION_REPLACE_WHEN_UNREACHABLE, go_duration};
use machinery_server::{Admission, AdmissionError, AdmissionRequest, Operation};
use serde_json::Value;

/// Warns whoever writes an annotation that the controllers will not follow: its effect is due when a node is lost, which is late to learn
/// of a mistake. A canary's need no warning: the next rollout waits for it, and says so.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkloadAnnotations;

impl Admission for WorkloadAnnotations {
    fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), AdmissionError> {
        let is_written = request.subresource.is_none()
            && matches!(request.operation, Operation::Create | Operation::Update)
            && matches!(&*request.info.group, "apps" | "batch" | "");
        if !is_written {
            return Ok(());
        }
        let Some(text) = said(object) else { return Ok(()) };
        if go_duration::parse(text).is_err() && request.old.and_then(said) != Some(text) {
            request.warn(format!(
                "metadata.annotations[{ANNOTATION_REPLACE_WHEN_UNREACHABLE}]: it is no duration such as 10m or 1h30m; pods on nodes that are out of reach stay"
            ));
        }
        Ok(())
    }
}

fn said(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(ANNOTATION_REPLACE_WHEN_UNREACHABLE)?.as_str()
}
