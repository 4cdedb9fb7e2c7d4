//! What of a pod depends on its node: applied when the pod gets it, in the same write, and checked where a person writes it.
//!
//! A pod gets its node when the scheduler binds it, or when it is created with one, as a DaemonSet's is. From then on the stored pod is
//! what runs: the node, `kubectl describe` and whoever counts resources read the variant, and the annotation `selvedge.dev/variant`
//! says which one it is. Labels of the node that change later change nothing.
//!
//! The API server of another cluster does not let a pod change when it is bound: there, variants apply to the pods of DaemonSets
//! alone, which our controller creates with their node.

use api_edge::variants::{self, Mistake, Variant};
use api_edge::{ANNOTATION_VARIANT, ANNOTATION_VARIANTS};
use api_pod::{Runtime, unsupported};
use machinery_kinds::{FieldError, ResourceInfo};
use machinery_server::{Admission, AdmissionError, AdmissionRequest, Operation};
use machinery_store::Key;
use serde_json::{Value, json};

use crate::pods::is_mirror;
use crate::references::text_at;

/// Applies variants of pods, and looks at those of pods and pod templates.
#[derive(Clone, Copy, Debug, Default)]
pub struct PodVariants;

impl Admission for PodVariants {
    fn mutate(&self, request: &AdmissionRequest<'_>, pod: &mut Value) -> Result<bool, AdmissionError> {
        if request.target() != ("", "pods", None) || request.operation != Operation::Create || is_mirror(pod) {
            return Ok(false);
        }
        let before = pod.clone();
        // Which one a pod is says the hub, not whoever wrote its template.
        if let Some(annotations) = pod.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
            annotations.remove(ANNOTATION_VARIANT);
        }
        let node = text_at(pod, "/spec/nodeName").to_owned();
        if !node.is_empty() {
            place(request, &node, pod)?;
        }
        Ok(*pod != before)
    }

    fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), AdmissionError> {
        if request.subresource.is_some() || !matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let Some(template) = template_at(&request.info.group, &request.info.kind) else { return Ok(()) };
        if is_mirror(object) {
            return Ok(());
        }
        let mut found = mistakes(request.info, object, template);
        // An object keeps what it was stored with: whoever changes a label should not have to mend that first.
        if let (false, Some(old)) = (found.is_empty(), request.old) {
            let before = mistakes(request.info, old, template);
            found.retain(|one| !before.contains(one));
        }
        if found.is_empty() { Ok(()) } else { Err(AdmissionError::Invalid(found)) }
    }

    fn bind(&self, request: &AdmissionRequest<'_>, node: &str, pod: &mut Value) -> Result<(), AdmissionError> {
        place(request, node, pod)
    }
}

/// Where objects of a kind have a pod template; empty for a pod itself.
fn template_at(group: &str, kind: &str) -> Option<&'static str> {
    match (group, kind) {
        ("", "Pod") => Some(""),
        ("", "ReplicationController") => Some("/spec/template"),
        ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet") => Some("/spec/template"),
        ("batch", "Job") => Some("/spec/template"),
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

/// The annotation of a pod or a template.
fn annotation(template: &Value) -> Option<&str> {
    template.get("metadata")?.get("annotations")?.get(ANNOTATION_VARIANTS)?.as_str()
}

/// What is wrong with the variants of an object.
fn mistakes(info: &ResourceInfo, object: &Value, template_at: &str) -> Vec<FieldError> {
    let Some(template) = object.pointer(template_at) else { return Vec::new() };
    let Some(text) = annotation(template) else { return Vec::new() };
    let at = template_at.trim_start_matches('/').replace('/', ".");
    let dot = if at.is_empty() { "" } else { "." };
    let path = format!("{at}{dot}metadata.annotations[{ANNOTATION_VARIANTS}]");
    let error = |Mistake { path: inner, message }: Mistake| {
        FieldError::invalid(format!("{path}{inner}"), &Value::from(shortened(text)), message)
    };
    let list = match variants::parse(text) {
        Ok(list) => list,
        Err(mistakes) => return mistakes.into_iter().map(error).collect(),
    };
    let spec = template.get("spec").cloned().unwrap_or_default();
    let mut found: Vec<FieldError> = variants::unknown_containers(&list, &spec).into_iter().map(error).collect();
    let of_itself = info.validate(object);
    for (index, variant) in list.iter().enumerate() {
        let path = format!("{path}[{index}]");
        found.extend(unhonoured(&spec, variant, &path));
        let mut varied = object.clone();
        if let Some(spec) = varied.pointer_mut(&format!("{template_at}/spec")).and_then(Value::as_object_mut) {
            variant.apply(spec);
        }
        // What the rules of its kind say of the pod that it makes: nobody looks again when the pod gets its node.
        let invalid = info.validate(&varied).into_iter().filter(|error| !of_itself.contains(error));
        found.extend(invalid.map(|error| FieldError {
            path: path.clone(),
            message: format!("{}: {}", error.path, error.message),
            ..error
        }));
    }
    found
}

/// What the runtime of a variant does not honour of the pod that it makes.
fn unhonoured(spec: &Value, variant: &Variant, path: &str) -> Vec<FieldError> {
    let mut spec = spec.clone();
    let Some(fields) = spec.as_object_mut() else { return Vec::new() };
    variant.apply(fields);
    let runtime = Runtime::of_spec(&spec).filter(|runtime| *runtime != Runtime::Container);
    let found = runtime.map(|runtime| unsupported(&spec, "spec", runtime)).unwrap_or_default();
    let error = |one: api_pod::Unsupported| {
        let message = format!("{}: {}", one.path, one.message);
        FieldError::forbidden(path.to_owned(), message)
    };
    found.into_iter().map(error).collect()
}

/// A message shows what was written, but not all of it.
fn shortened(text: &str) -> String {
    const SHOWN_MAX: usize = 120;
    let shown: String = text.chars().take(SHOWN_MAX).collect();
    if shown.len() < text.len() { format!("{shown}…") } else { shown }
}

/// Makes a pod what it is on a node.
fn place(request: &AdmissionRequest<'_>, node: &str, pod: &mut Value) -> Result<(), AdmissionError> {
    let Some(text) = annotation(pod) else { return Ok(()) };
    // One that an older hub let in is placed as it is written.
    let Ok(list) = variants::parse(text) else { return Ok(()) };
    let stored = request.store.get(&Key::new("/nodes", "", node));
    let object: Value = stored.and_then(|node| serde_json::from_slice(&node.bytes).ok()).unwrap_or_default();
    let label = |key: &str| {
        let labels = object.pointer("/metadata/labels")?;
        labels.get(key)?.as_str().map(str::to_owned)
    };
    let Some((index, variant)) = variants::find(&list, label) else { return Ok(()) };
    let class = text_at(pod, "/spec/runtimeClassName").to_owned();
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    variant.apply(spec);
    let placed = spec.get("runtimeClassName").and_then(Value::as_str).unwrap_or_default().to_owned();
    if placed != class {
        // What a class costs is the class's; the pod's own was that of the other one.
        match overhead_of(request, &placed)? {
            Some(overhead) => drop(spec.insert("overhead".to_owned(), overhead)),
            None => drop(spec.remove("overhead")),
        }
    }
    pod["metadata"]["annotations"][ANNOTATION_VARIANT] = variant.label(index).into();
    Ok(())
}

/// What pods of a runtime class cost beside their containers.
fn overhead_of(request: &AdmissionRequest<'_>, class: &str) -> Result<Option<Value>, AdmissionError> {
    if class.is_empty() {
        return Ok(None);
    }
    let stored = request.store.get(&Key::new("node.k8s.io/runtimeclasses", "", class));
    let Some(stored) = stored else {
        return Err(AdmissionError::Forbidden(format!(
            "pod rejected: RuntimeClass {class:?} of its {ANNOTATION_VARIANTS} not found"
        )));
    };
    let class: Value = serde_json::from_slice(&stored.bytes).unwrap_or_default();
    let fixed = class.pointer("/overhead/podFixed").filter(|fixed| fixed.is_object());
    Ok(fixed.map(|fixed| json!(fixed)))
}

#[cfg(test)]
mod tests;
