//! From `kubectl apply` on the client's side to `kubectl apply --server-side`, and back.
//!
//! The client kept what it applied in an annotation. As long as an object has that, the manager `kubectl` takes over what
//! the annotation says and nobody has changed since, and the annotation follows what it applies.

use machinery_schema::Budget;
use serde_json::{Map, Value};

use crate::fields::FieldSet;
use crate::go;
use crate::schema::ApplySchema;
use crate::typed::{self, Duplicates, Typed};

/// Only kubectl takes over; others may opt in by its name.
pub(super) const MANAGER: &str = "kubectl";

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// As many bytes as all annotations of an object may have together.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// The fields of the live object that the annotation set and that are still as it set them. `None` when it says nothing.
pub(super) fn owned_by_client_side_apply<S: ApplySchema>(
    live: Typed<'_, S>,
    api_version: &str,
    budget: &mut Budget,
) -> Option<FieldSet> {
    let text = annotations(live.value)?.get(ANNOTATION)?.as_str().filter(|text| !text.is_empty())?;
    let last: Value = serde_json::from_str(text).ok()?;
    last.get("kind").and_then(Value::as_str).filter(|kind| !kind.is_empty())?;
    if last.get("apiVersion").and_then(Value::as_str) != Some(api_version) {
        return None;
    }
    let last = Typed::new(&last, live.schema, Duplicates::Rejected, budget).ok()?;
    let live = Typed::new(live.value, live.schema, Duplicates::Rejected, budget).ok()?;
    let changed = typed::compare(last, live);
    let set = typed::field_set(last);
    Some(set.difference(&changed.modified).difference(&changed.added).difference(&changed.removed))
}

/// Writes the annotation anew, if the object has it.
pub(super) fn follow(object: &mut Value, config: &Value) {
    let has_it = annotations(object).and_then(|all| all.get(ANNOTATION)).and_then(Value::as_str);
    if has_it.is_none_or(str::is_empty) {
        return;
    }
    let mut applied = config.clone();
    if let Some(Value::Object(all)) = applied.pointer_mut("/metadata/annotations") {
        all.remove(ANNOTATION);
    }
    let text = format!("{}\n", go::json(&applied));
    let Some(Value::Object(all)) = object.pointer_mut("/metadata/annotations") else { return };
    all.insert(ANNOTATION.to_owned(), text.into());
    let bytes: usize = all.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if bytes > ANNOTATIONS_BYTES_MAX {
        all.remove(ANNOTATION);
    }
}

fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    object.pointer("/metadata/annotations").and_then(Value::as_object)
}
