//! What a pod may ask of the runtimes that this version has: the table of `api-pod`, held at the hub.

use api_pod::{Runtime, Unsupported, unsupported};
use machinery_kinds::FieldError;
use machinery_server::{Admission, AdmissionError, AdmissionRequest, Operation};
use serde_json::Value;

/// Looks at what pods ask of the runtimes. A pod of a class that no node of this version has is stored, stays Pending and says
/// why; of the classes that there are, what they cannot honour is rejected field by field. An object keeps what it was stored
/// with: an older hub took more, and whoever changes a label should not have to mend that first.
#[derive(Clone, Copy, Debug, Default)]
pub struct PodRuntimeClass;

/// Where a DaemonSet, and where a pod has the spec.
const TEMPLATE_SPEC: (&str, &str) = ("/spec/template/spec", "spec.template.spec");
const SPEC: (&str, &str) = ("/spec", "spec");

impl Admission for PodRuntimeClass {
    fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), AdmissionError> {
        let (group, kind) = (&*request.info.group, &*request.info.kind);
        let place = match (group, kind, request.operation, request.subresource) {
            ("", "Pod", Operation::Create | Operation::Update, None) => SPEC,
            ("", "Pod", Operation::Update, Some("resize")) => return resize(request, object),
            // What a DaemonSet would make is looked at when the DaemonSet is applied: that is where a person reads it.
            ("apps", "DaemonSet", Operation::Create | Operation::Update, None) => TEMPLATE_SPEC,
            _ => return Ok(()),
        };
        // A static pod runs already; rejecting its mirror would only hide it.
        if is_mirror(object) {
            return Ok(());
        }
        let mut found = check(object, place);
        if let (false, Some(old)) = (found.is_empty(), request.old) {
            let before = check(old, place);
            found.retain(|one| !before.contains(one));
        }
        if found.is_empty() { Ok(()) } else { Err(AdmissionError::Invalid(found.into_iter().map(error).collect())) }
    }
}

/// Everything in the spec of an object that its runtime does not honour.
/// Whether a pod is only what its node shows of a static one.
pub(crate) fn is_mirror(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some()
}

fn check(object: &Value, (pointer, path): (&str, &str)) -> Vec<Unsupported> {
    let spec = object.pointer(pointer).unwrap_or(&Value::Null);
    of_ours(spec).map(|runtime| unsupported(spec, path, runtime)).unwrap_or_default()
}

/// The runtime of a class that only we have. Pods of images are everybody's: what a node does not honour of them it says itself.
fn of_ours(spec: &Value) -> Option<Runtime> {
    Runtime::of_spec(spec).filter(|runtime| *runtime != Runtime::Container)
}

fn error(unsupported: Unsupported) -> FieldError {
    let Unsupported { path, message, value } = unsupported;
    match value {
        Some(value) => FieldError::invalid(path, &value, message),
        None => FieldError::forbidden(path, message),
    }
}

/// A container has the limits with which it was started.
fn resize(request: &AdmissionRequest<'_>, pod: &Value) -> Result<(), AdmissionError> {
    let spec = |object: &Value| object.get("spec").cloned().unwrap_or_default();
    match of_ours(&spec(pod)) {
        Some(runtime) if request.old.is_none_or(|old| spec(old) != spec(pod)) => {
            let why = format!(
                "{} does not resize a container that runs; delete the pod and create it with other resources",
                runtime.name()
            );
            Err(AdmissionError::Invalid(vec![FieldError::forbidden("spec.containers".to_owned(), why)]))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
