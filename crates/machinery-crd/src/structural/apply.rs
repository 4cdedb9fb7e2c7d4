//! What a schema does to an object: unknown fields go, defaults come.

use serde_json::Value;

use super::{Additional, Default, Node};
use crate::{
    Budget, BudgetExceeded, DEPTH_MAX,
    builtin::{enter, enter_item, prune_metadata},
    field_error::UNKNOWN_FIELDS_MAX,
};

/// Removes what the schema does not know. `metadata` at the top, and all that an embedded resource shares with
/// other objects, is left alone here.
pub(super) fn prune(root: &Node, object: &mut Value, unknown: &mut Vec<String>) {
    prune_node(root, object, true, &mut String::new(), unknown, 0);
}

fn prune_node(
    node: &Node,
    value: &mut Value,
    is_object_root: bool,
    path: &mut String,
    unknown: &mut Vec<String>,
    depth: usize,
) {
    if depth > DEPTH_MAX {
        return;
    }
    match value {
        Value::Object(map) => {
            map.retain(|name, value| {
                if is_object_root && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                    return true;
                }
                let inner = match (node.properties.get(name.as_str()), &node.additional) {
                    (Some(inner), _) => Some(inner),
                    (None, Some(Additional::Schema(inner))) => Some(&**inner),
                    (None, Some(Additional::Any)) => None,
                    (None, None) if node.preserve_unknown => None,
                    (None, None) => {
                        if unknown.len() < UNKNOWN_FIELDS_MAX {
                            let mark = enter(path, name);
                            unknown.push(path.clone());
                            path.truncate(mark);
                        }
                        return false;
                    }
                };
                if let Some(inner) = inner {
                    let mark = enter(path, name);
                    prune_node(inner, value, inner.embedded_resource, path, unknown, depth + 1);
                    if inner.embedded_resource
                        && let Some(metadata) = value.get_mut("metadata")
                    {
                        let left = UNKNOWN_FIELDS_MAX.saturating_sub(unknown.len());
                        let inner = prune_metadata(metadata).into_iter().take(left);
                        unknown.extend(inner.map(|inner| format!("{path}.{inner}")));
                    }
                    path.truncate(mark);
                }
                true
            });
        }
        Value::Array(items) => {
            let Some(inner) = &node.items else { return };
            for (position, item) in items.iter_mut().enumerate() {
                let mark = enter_item(path, position);
                prune_node(inner, item, inner.embedded_resource, path, unknown, depth + 1);
                path.truncate(mark);
            }
        }
        _ => {}
    }
}

/// Fills in what is missing below `value`. A default is written by the author of the schema and copied as often as the
/// author of an object likes: a list of a million `{}` under a default of 10 KB would be 10 GB. So copies are paid for.
pub(super) fn defaults(
    node: &Node,
    value: &mut Value,
    depth: usize,
    budget: &mut Budget,
) -> Result<(), BudgetExceeded> {
    if depth > DEPTH_MAX {
        return Ok(());
    }
    budget.spend(1)?;
    match value {
        Value::Object(map) => {
            budget.spend_items(node.properties.len())?;
            for (name, inner) in &node.properties {
                if let Some(default) = &inner.default {
                    let is_missing = match map.get(&**name) {
                        None => true,
                        Some(value) => value.is_null() && !inner.nullable,
                    };
                    if is_missing {
                        budget.spend(default.steps)?;
                        map.insert(name.to_string(), default.value.clone());
                    }
                }
                if let Some(value) = map.get_mut(&**name) {
                    defaults(inner, value, depth + 1, budget)?;
                }
            }
            if let Some(Additional::Schema(inner)) = &node.additional {
                for (_, value) in map.iter_mut().filter(|(name, _)| !node.properties.contains_key(name.as_str())) {
                    defaults(inner, value, depth + 1, budget)?;
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = &node.items {
                for item in items {
                    defaults(inner, item, depth + 1, budget)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// Fills the defaults of inner fields into the defaults of outer ones, so that a default counts as a whole value.
pub(super) fn complete_defaults(node: &mut Node, budget: &mut Budget) -> Result<(), BudgetExceeded> {
    for inner in node.properties.values_mut() {
        complete_defaults(inner, budget)?;
    }
    if let Some(Additional::Schema(inner)) = &mut node.additional {
        complete_defaults(inner, budget)?;
    }
    if let Some(inner) = &mut node.items {
        complete_defaults(inner, budget)?;
    }
    if let Some(mut default) = node.default.take() {
        defaults(node, &mut default.value, 0, budget)?;
        node.default = Some(Default::of(default.value));
    }
    Ok(())
}

/// What it costs to copy a value: its parts, and a little for long text.
pub(super) fn copy_steps(value: &Value) -> u64 {
    let inner = match value {
        Value::String(text) => u64::try_from(text.len() / BYTES_PER_STEP).unwrap_or(u64::MAX),
        Value::Array(items) => items.iter().map(copy_steps).sum(),
        Value::Object(map) => map.values().map(copy_steps).sum(),
        _ => 0,
    };
    1 + inner
}

/// Bytes of text that are copied in the time of one step.
const BYTES_PER_STEP: usize = 64;
