//! Groups of the Kubernetes community need an annotation that says where their definition was approved.

use serde_json::Value;

use super::text;
use crate::{FieldError, go_url::Url};

const ANNOTATION: &str = "api-approved.kubernetes.io";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Approval {
    Approved,
    Bypassed,
    Missing,
    Invalid,
}

/// Whether a group is one of the community's.
pub(super) fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .into_iter()
        .any(|domain| group == domain || group.strip_suffix(domain).is_some_and(|prefix| prefix.ends_with('.')))
}

/// What the annotation says, and the sentence about it.
pub(super) fn state(definition: &Value) -> (Approval, String) {
    let annotation = annotation(definition);
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    match annotation {
        "" => (Approval::Missing, format!("protected groups must have approval annotation \"{ANNOTATION}\", {see}")),
        _ if annotation.starts_with("unapproved") => {
            (Approval::Bypassed, format!("not approved: {}", crate::go::quoted(annotation)))
        }
        _ => match Url::parse(annotation) {
            Ok(url) if !url.host.is_empty() && !url.scheme.is_empty() => {
                (Approval::Approved, format!("approved in {annotation}"))
            }
            _ => {
                let why = format!(
                    "protected groups must have approval annotation \"{ANNOTATION}\" with either a URL or a reason starting \
                     with \"unapproved\", {see}"
                );
                (Approval::Invalid, why)
            }
        },
    }
}

fn annotation(definition: &Value) -> &str {
    let annotations = definition.pointer("/metadata/annotations").unwrap_or(&Value::Null);
    text(annotations, ANNOTATION)
}

/// A state that was stored stays allowed.
pub(super) fn check(definition: &Value, old: Option<&Value>) -> Option<FieldError> {
    let group = text(definition.get("spec").unwrap_or(&Value::Null), "group");
    if !is_protected(group) {
        return None;
    }
    let (found, why) = state(definition);
    if old.is_some_and(|old| state(old).0 == found) {
        return None;
    }
    let path = format!("metadata.annotations[{ANNOTATION}]");
    match found {
        Approval::Approved | Approval::Bypassed => None,
        Approval::Missing => Some(FieldError::required(path, &why)),
        Approval::Invalid => Some(FieldError::invalid(path, &annotation(definition).into(), why)),
    }
}
