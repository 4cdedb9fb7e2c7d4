//! What a pod may ask of the runtimes that this version has.

use api_edge::{RUNTIME_CLASS_PROCESS, RUNTIME_CLASS_WASM};
use machinery_kinds::FieldError;
use machinery_server::{Admission, AdmissionError, AdmissionRequest, Operation};
use serde_json::Value;

/// Looks at what pods ask of the runtimes. A pod of a class that no node of this version has is stored, stays Pending and says
/// why; of the classes that there are, what they cannot honour is rejected field by field.
#[derive(Clone, Copy, Debug, Default)]
pub struct PodRuntimeClass;

impl Admission for PodRuntimeClass {
    fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), AdmissionError> {
        let errors = match (&*request.info.group, &*request.info.kind, request.operation, request.subresource) {
            ("", "Pod", Operation::Create, None) => {
                // A static pod runs already; rejecting its mirror would only hide it.
                if object.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some() {
                    return Ok(());
                }
                check_pod(object.get("spec").unwrap_or(&Value::Null), "spec")
            }
            // What a DaemonSet would make is looked at when the DaemonSet is applied: that is where a person reads it.
            ("apps", "DaemonSet", Operation::Create | Operation::Update, None) => {
                check_pod(object.pointer("/spec/template/spec").unwrap_or(&Value::Null), "spec.template.spec")
            }
            _ => return Ok(()),
        };
        if errors.is_empty() { Ok(()) } else { Err(AdmissionError::Invalid(errors)) }
    }
}

/// Everything in a pod's spec that its runtime does not honour.
fn check_pod(spec: &Value, path: &str) -> Vec<FieldError> {
    let class = spec.get("runtimeClassName").and_then(Value::as_str).unwrap_or_default();
    if class != RUNTIME_CLASS_PROCESS && class != RUNTIME_CLASS_WASM {
        return Vec::new();
    }
    let mut errors = Vec::new();
    for field in ["hostPID", "hostIPC"] {
        if spec.get(field) == Some(&Value::Bool(true)) {
            errors.push(FieldError::forbidden(
                format!("{path}.{field}"),
                format!("{class} does not share this namespace with the host"),
            ));
        }
    }
    for (number, volume) in items(spec, "volumes").enumerate() {
        check_volume(volume, &format!("{path}.volumes[{number}]"), class, &mut errors);
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        for (number, container) in items(spec, kind).enumerate() {
            check_container(container, &format!("{path}.{kind}[{number}]"), class, host_network, &mut errors);
        }
    }
    errors
}

fn check_volume(volume: &Value, path: &str, class: &str, errors: &mut Vec<FieldError>) {
    const SERVED: [&str; 6] = ["configMap", "secret", "emptyDir", "hostPath", "downwardAPI", "projected"];
    for source in volume.as_object().into_iter().flat_map(|fields| fields.keys()).filter(|key| *key != "name") {
        if !SERVED.contains(&source.as_str()) {
            let why = format!(
                "{class} does not mount volumes of this kind; configMap, secret, emptyDir, hostPath, downwardAPI and projected are served"
            );
            errors.push(FieldError::forbidden(format!("{path}.{source}"), why));
        }
    }
}

fn check_container(container: &Value, path: &str, class: &str, host_network: bool, errors: &mut Vec<FieldError>) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    if !image.starts_with("file:///") {
        let why = format!("{class} runs files of the node; it must begin with file:///");
        errors.push(FieldError::invalid(format!("{path}.image"), &image.into(), why));
    }
    if container.pointer("/securityContext/privileged") == Some(&Value::Bool(true)) {
        let why = format!("{class} gives no further rights to a container");
        errors.push(FieldError::forbidden(format!("{path}.securityContext.privileged"), why));
    }
    for flag in ["tty", "stdin"] {
        if container.get(flag) == Some(&Value::Bool(true)) {
            errors.push(FieldError::forbidden(format!("{path}.{flag}"), "attach is not served by this version"));
        }
    }
    for (number, port) in items(container, "ports").enumerate() {
        // On the host's network the port of the host is the container's, and the default says so itself.
        let is_own = host_network && port.get("hostPort") == port.get("containerPort");
        if !is_own && port.get("hostPort").and_then(Value::as_u64).is_some_and(|port| port != 0) {
            let why =
                format!("{class} has the node's network already, the program listens on the node itself; leave it out");
            errors.push(FieldError::forbidden(format!("{path}.ports[{number}].hostPort"), why));
        }
    }
    if container.get("volumeDevices").and_then(Value::as_array).is_some_and(|devices| !devices.is_empty()) {
        let why = format!("{class} has no block devices");
        errors.push(FieldError::forbidden(format!("{path}.volumeDevices"), why));
    }
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests;
