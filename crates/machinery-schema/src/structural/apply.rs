//! What a schema does to an object: unknown fields go, defaults come.

use serde_json::Value;

use super::{Additional, Node};
use crate::{
    DEPTH_MAX,
    builtin::{enter, enter_item, prune_metadata},
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
                        let mark = enter(path, name);
                        unknown.push(path.clone());
                        path.truncate(mark);
                        return false;
                    }
                };
                if let Some(inner) = inner {
                    let mark = enter(path, name);
                    prune_node(inner, value, inner.embedded_resource, path, unknown, depth + 1);
                    if inner.embedded_resource
                        && let Some(metadata) = value.get_mut("metadata")
                    {
                        unknown.extend(prune_metadata(metadata).into_iter().map(|inner| format!("{path}.{inner}")));
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

/// Fills in what is missing below `value`.
pub(super) fn defaults(node: &Node, value: &mut Value, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, inner) in &node.properties {
                match map.get_mut(&**name) {
                    None => {
                        if let Some(default) = &inner.default {
                            map.insert(name.to_string(), default.clone());
                        }
                    }
                    Some(value @ Value::Null) if !inner.nullable => {
                        if let Some(default) = &inner.default {
                            *value = default.clone();
                        }
                    }
                    Some(_) => {}
                }
                if let Some(value) = map.get_mut(&**name) {
                    defaults(inner, value, depth + 1);
                }
            }
            if let Some(Additional::Schema(inner)) = &node.additional {
                let values = map.iter_mut().filter(|(name, _)| !node.properties.contains_key(name.as_str()));
                values.for_each(|(_, value)| defaults(inner, value, depth + 1));
            }
        }
        Value::Array(items) => {
            if let Some(inner) = &node.items {
                items.iter_mut().for_each(|item| defaults(inner, item, depth + 1));
            }
        }
        _ => {}
    }
}

/// Fills the defaults of inner fields into the defaults of outer ones, so that a default counts as a whole value.
pub(super) fn complete_defaults(node: &mut Node) {
    for inner in node.properties.values_mut() {
        complete_defaults(inner);
    }
    if let Some(Additional::Schema(inner)) = &mut node.additional {
        complete_defaults(inner);
    }
    if let Some(inner) = &mut node.items {
        complete_defaults(inner);
    }
    if let Some(mut default) = node.default.take() {
        defaults(node, &mut default, 0);
        node.default = Some(default);
    }
}
