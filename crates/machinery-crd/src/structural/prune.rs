//! Removes what a schema does not know.

use serde_json::Value;

use crate::{DEPTH_MAX, field_error::UNKNOWN_FIELDS_MAX, schema::Schema};

/// What every object has, whatever its schema says.
pub(super) const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// What one pass has found.
struct Pruning {
    path: String,
    unknown: Vec<String>,
}

/// Removes unknown fields below `value` and returns their paths, sorted.
pub(crate) fn prune_fields(schema: &Schema, value: &mut Value, is_resource_root: bool) -> Vec<String> {
    let mut pruning = Pruning { path: String::new(), unknown: Vec::new() };
    let embedded = is_resource_root || schema.embedded_resource;
    pruning.place(Some(schema), embedded, false, value, 0);
    pruning.unknown.sort();
    pruning.unknown
}

impl Pruning {
    /// `keeps_unknown` is inherited by the items of a list, and by nothing else.
    fn place(&mut self, schema: Option<&Schema>, embedded: bool, keeps_unknown: bool, value: &mut Value, depth: usize) {
        if depth > DEPTH_MAX {
            return;
        }
        let keeps_unknown = keeps_unknown || schema.is_some_and(Schema::preserves_unknown);
        match value {
            Value::Object(map) => {
                // Borrowed twice otherwise: the closure writes the path, and the map is retained.
                let mut removed = Vec::new();
                for (name, inner) in map.iter_mut() {
                    let is_meta = META_FIELDS.contains(&name.as_str());
                    if embedded && is_meta {
                        continue;
                    }
                    let property = schema.and_then(|schema| schema.properties.get(name.as_str()));
                    let has_additional = schema.is_some_and(|schema| schema.additional.is_some());
                    let below = match (property, has_additional) {
                        (Some(property), _) => Some(property),
                        (None, true) => schema.and_then(Schema::additional_schema),
                        (None, false) if keeps_unknown => continue,
                        (None, false) => {
                            if (!is_meta || !self.path.is_empty()) && self.unknown.len() < UNKNOWN_FIELDS_MAX {
                                let mark = self.enter(name);
                                self.unknown.push(self.path.clone());
                                self.path.truncate(mark);
                            }
                            removed.push(name.clone());
                            continue;
                        }
                    };
                    let mark = self.enter(name);
                    let is_embedded = below.is_some_and(|below| below.embedded_resource);
                    self.place(below, is_embedded, false, inner, depth + 1);
                    self.path.truncate(mark);
                }
                for name in removed {
                    map.remove(&name);
                }
            }
            Value::Array(items) => {
                let below = schema.and_then(Schema::item);
                for (position, item) in items.iter_mut().enumerate() {
                    let mark = self.path.len();
                    self.path.push_str(&format!("[{position}]"));
                    // Where unknown fields are kept, they are kept in items that no schema describes, too.
                    if below.is_some() || !keeps_unknown {
                        let is_embedded = below.is_some_and(|below| below.embedded_resource);
                        self.place(below, is_embedded, keeps_unknown, item, depth + 1);
                    }
                    self.path.truncate(mark);
                }
            }
            _ => {}
        }
    }

    fn enter(&mut self, name: &str) -> usize {
        let mark = self.path.len();
        if !self.path.is_empty() {
            self.path.push('.');
        }
        machinery_schema::bounded::push_bounded(&mut self.path, name);
        mark
    }
}
