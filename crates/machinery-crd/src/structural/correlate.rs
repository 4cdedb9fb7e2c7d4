//! Finds what a part of an object was before an update.

use std::collections::HashMap;

use serde_json::Value;

use super::lists::key_of;
use crate::{go, schema::Schema};

/// A list as it was, by the keys of its items. Only lists of type `map` have keys; of others nothing is found.
#[derive(Debug)]
pub(crate) struct MapList<'v> {
    items: HashMap<String, &'v Value>,
}

impl<'v> MapList<'v> {
    pub fn new(schema: &Schema, items: &'v [Value]) -> Self {
        if schema.list_type.as_deref() != Some("map") || schema.list_map_keys.is_empty() {
            return Self { items: HashMap::new() };
        }
        let mut by_key = HashMap::with_capacity(items.len());
        for item in items.iter().filter(|item| item.is_object()) {
            // Of several with one key the first counts.
            by_key.entry(go::json(&key_of(schema, item))).or_insert(item);
        }
        Self { items: by_key }
    }

    /// The item that was in the place of this one.
    pub fn get(&self, schema: &Schema, item: &Value) -> Option<&'v Value> {
        if self.items.is_empty() || !item.is_object() {
            return None;
        }
        self.items.get(&go::json(&key_of(schema, item))).copied()
    }
}
