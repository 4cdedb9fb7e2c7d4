//! What claims, volumes, ingresses and nodes are given: default classes, finalizers that protect what is used, the taint of
//! a node that has not reported yet.

use std::str::FromStr as _;

use api_kube::Quantity;
use machinery_server::{Admission, AdmissionError, AdmissionRequest, Operation};
use machinery_store::Key;
use serde_json::{Value, json};

use super::{annotation, creates, holds, list, part};
use crate::json::{decoded, given, is_set, items_at, text};

const STORAGE_CLASSES: &str = "storage.k8s.io/storageclasses";
const INGRESS_CLASSES: &str = "networking.k8s.io/ingressclasses";
const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// Gives claims and ingresses that name no class the default one.
#[derive(Clone, Copy, Debug, Default)]
pub struct DefaultClasses;

impl Admission for DefaultClasses {
    fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<bool, AdmissionError> {
        let (field, old, resource, marks): (_, _, _, &[&str]) = if creates(request, "", "persistentvolumeclaims") {
            let marks =
                &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
            ("storageClassName", "volume.beta.kubernetes.io/storage-class", STORAGE_CLASSES, marks)
        } else if creates(request, "networking.k8s.io", "ingresses") {
            let marks = &["ingressclass.kubernetes.io/is-default-class"];
            ("ingressClassName", "kubernetes.io/ingress.class", INGRESS_CLASSES, marks)
        } else {
            return Ok(false);
        };
        let is_named = object.get("spec").and_then(|spec| given(spec, field)).is_some();
        if is_named || annotation(object, old).is_some() {
            return Ok(false);
        }
        let Some(class) = default_class(request, resource, marks) else { return Ok(false) };
        part(object, "spec")[field] = class.into();
        Ok(true)
    }
}

/// The newest of the classes that are marked as default; of several of one second the first by name.
fn default_class(request: &AdmissionRequest<'_>, resource: &str, marks: &[&str]) -> Option<String> {
    let classes = request.store.snapshot(resource);
    let defaults = classes
        .iter(None, None)
        .filter(|class| holds(class, "is-default-class"))
        .map(|class| decoded(class))
        .filter(|class| marks.iter().any(|mark| annotation(class, mark) == Some("true")));
    let newest = defaults.max_by(|one, other| {
        let created = |class: &Value| text(class, "/metadata/creationTimestamp").to_owned();
        let name = |class: &Value| text(class, "/metadata/name").to_owned();
        created(one).cmp(&created(other)).then_with(|| name(other).cmp(&name(one)))
    })?;
    Some(text(&newest, "/metadata/name").to_owned())
}

/// Keeps claims, volumes and their classes until nobody uses them any more.
#[derive(Clone, Copy, Debug, Default)]
pub struct UseProtection;

impl Admission for UseProtection {
    fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<bool, AdmissionError> {
        let finalizer = match request.target() {
            ("", "persistentvolumeclaims", None) => "kubernetes.io/pvc-protection",
            ("", "persistentvolumes", None) => "kubernetes.io/pv-protection",
            ("storage.k8s.io", "volumeattributesclasses", None) => "kubernetes.io/vac-protection",
            _ => return Ok(false),
        };
        let has = items_at(object, "/metadata/finalizers").iter().any(|held| held == finalizer);
        if request.operation != Operation::Create || has {
            return Ok(false);
        }
        list(part(object, "metadata"), "finalizers").push(finalizer.into());
        Ok(true)
    }
}

/// Lets claims grow when they are bound and their class allows it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClaimResize;

impl Admission for ClaimResize {
    fn validate(&self, request: &AdmissionRequest<'_>, claim: &Value) -> Result<(), AdmissionError> {
        let Some(old) = request.old.filter(|_| {
            request.target() == ("", "persistentvolumeclaims", None) && request.operation == Operation::Update
        }) else {
            return Ok(());
        };
        if storage(claim) <= storage(old) {
            return Ok(());
        }
        if text(old, "/status/phase") != "Bound" {
            let why = "Only bound persistent volume claims can be expanded";
            return Err(AdmissionError::Forbidden(why.to_owned()));
        }
        let class = |claim: &Value| -> String {
            let old = annotation(claim, "volume.beta.kubernetes.io/storage-class");
            old.unwrap_or_else(|| text(claim, "/spec/storageClassName")).to_owned()
        };
        let (before, after) = (class(old), class(claim));
        let stored = (!after.is_empty() && before == after)
            .then(|| request.store.get(&Key::new(STORAGE_CLASSES, "", &after)))
            .flatten();
        if stored.is_some_and(|class| is_set(&decoded(&class), "/allowVolumeExpansion")) {
            return Ok(());
        }
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
        Err(AdmissionError::Forbidden(why.to_owned()))
    }
}

/// How much storage a claim asks for.
fn storage(claim: &Value) -> Quantity {
    let asked = claim.pointer("/spec/resources/requests/storage");
    let text = match asked {
        Some(Value::String(text)) => text.clone(),
        Some(value) if !value.is_null() => value.to_string(),
        _ => "0".to_owned(),
    };
    Quantity::from_str(&text).unwrap_or_else(|_| Quantity::from_str("0").expect("zero is a quantity"))
}

/// Taints new nodes, so that nothing runs on them before they have reported that they are ready.
#[derive(Clone, Copy, Debug, Default)]
pub struct NotReadyTaint;

impl Admission for NotReadyTaint {
    fn mutate(&self, request: &AdmissionRequest<'_>, node: &mut Value) -> Result<bool, AdmissionError> {
        if !creates(request, "", "nodes") {
            return Ok(false);
        }
        let is_tainted = items_at(node, "/spec/taints")
            .iter()
            .any(|taint| text(taint, "/key") == NOT_READY && text(taint, "/effect") == "NoSchedule");
        if is_tainted {
            return Ok(false);
        }
        list(part(node, "spec"), "taints").push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        Ok(true)
    }
}
