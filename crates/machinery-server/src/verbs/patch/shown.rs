//! The object that a patch made, as upstream shows it when it cannot be read.
//!
//! Upstream patches text: what the patch passed through becomes a map, whose keys are sorted, and all else stays as Go's
//! encoder wrote it, in the order of the struct's fields. Clients see that text in the error, so here it is written like it.

use std::collections::BTreeMap;

use machinery_schema::types::{Field, Shape, Type};
use serde_json::{Map, Value};

/// Which parts of an object a patch passed through.
#[derive(Debug, Default)]
pub(super) struct Touched(BTreeMap<String, Touched>);

impl Touched {
    /// By a merge patch.
    pub(super) fn by_merge(patch: &Value) -> Self {
        let entries = patch.as_object().into_iter().flatten();
        Self(
            entries
                .filter(|(_, value)| value.is_object())
                .map(|(key, value)| (key.clone(), Self::by_merge(value)))
                .collect(),
        )
    }

    /// By a JSON patch.
    pub(super) fn by_operations(patch: &Value) -> Self {
        let mut touched = Self::default();
        for operation in patch.as_array().into_iter().flatten() {
            for pointer in ["path", "from"] {
                let Some(pointer) = operation.get(pointer).and_then(Value::as_str) else { continue };
                let mut place = &mut touched;
                let tokens: Vec<String> =
                    pointer.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~")).collect();
                for token in tokens.iter().take(tokens.len().saturating_sub(1)) {
                    place = place.0.entry(token.clone()).or_default();
                }
            }
        }
        touched
    }
}

/// The object as text. `of` is unknown for a custom resource, whose objects are sorted through and through.
pub(super) fn patched_text(object: &Value, of: Option<Type>, touched: &Touched) -> String {
    let mut out = String::new();
    write(&mut out, object, of.map(Shape::Struct), Some(touched));
    out
}

fn write(out: &mut String, value: &Value, shape: Option<Shape>, touched: Option<&Touched>) {
    match value {
        Value::Object(map) => write_object(out, map, shape, touched),
        Value::Array(items) => {
            let item_shape = match shape {
                Some(Shape::List(items)) => Some(items.shape()),
                _ => None,
            };
            out.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                write(out, item, item_shape, touched.and_then(|touched| touched.0.get(&position.to_string())));
            }
            out.push(']');
        }
        plain => out.push_str(&machinery_schema::go::json(plain)),
    }
}

fn write_object(out: &mut String, map: &Map<String, Value>, shape: Option<Shape>, touched: Option<&Touched>) {
    let mut keys: Vec<&String> = map.keys().collect();
    let field = |key: &str| match shape {
        Some(Shape::Struct(of)) => of.field(key),
        _ => None,
    };
    if touched.is_none() {
        keys.sort_by_key(|key| field(key).map_or([u16::MAX; 4], Field::declared));
    }
    out.push('{');
    for (position, key) in keys.into_iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        out.push_str(&machinery_schema::go::json(&Value::String(key.clone())));
        out.push(':');
        let below = match shape {
            Some(Shape::Struct(_)) => field(key).map(Field::shape),
            Some(Shape::Map(items)) => Some(items.shape()),
            _ => None,
        };
        write(out, &map[key], below, touched.and_then(|touched| touched.0.get(key)));
    }
    out.push('}');
}
