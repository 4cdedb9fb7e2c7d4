//! `FieldsV1`: a set of fields as JSON.
//!
//! Each key is `.` (the path so far is a member), `f:` and a field's name, `k:` and the keys of an item as JSON, `v:` and
//! the value of an item as JSON, or `i:` and a place. What a later version may add is skipped, as upstream does.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{FieldSet, KeyField, Node, PathElement};
use crate::{DEPTH_MAX, go};

/// Why `fieldsV1` could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseFieldsError {
    /// A level is not an object.
    #[error(
        "ReadMapCB: expect {{ or n, but found {found}, error found in #1 byte of ...|{found}|..., bigger context ...|{found}|..."
    )]
    NotAMap {
        /// The first character of what is there.
        found: String,
    },
    /// A key names no step of a path.
    #[error("parsing key as path element: {why}, error found in #0 byte of ...||..., bigger context ...||...")]
    Element {
        /// What is wrong with it.
        why: String,
    },
    /// It nests too deep.
    #[error("the fields nest deeper than {DEPTH_MAX} levels")]
    TooDeep,
}

impl FieldSet {
    /// Reads `fieldsV1`.
    ///
    /// # Errors
    /// When it is no trie of path elements.
    pub fn from_value(fields: &Value) -> Result<Self, ParseFieldsError> {
        match fields {
            Value::Null => Ok(Self::default()),
            fields => read(fields, DEPTH_MAX).map(|level| level.children),
        }
    }

    /// The set as `fieldsV1`, in upstream's order.
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        self.write_json(&mut out);
        out
    }

    /// Appends what [`to_json`](Self::to_json) returns.
    pub fn write_json(&self, out: &mut String) {
        write_level(out, self, false);
    }

    /// The set as a value; JSON objects of this program are sorted by their keys as text.
    pub fn to_value(&self) -> Value {
        value_of(self, false)
    }
}

struct Level {
    is_member: bool,
    children: FieldSet,
}

fn read(value: &Value, levels: usize) -> Result<Level, ParseFieldsError> {
    let levels = levels.checked_sub(1).ok_or(ParseFieldsError::TooDeep)?;
    let empty = Map::new();
    let map = match value {
        Value::Object(map) => map,
        Value::Null => &empty,
        other => {
            let found = go::json(other).chars().next().map(String::from).unwrap_or_default();
            return Err(ParseFieldsError::NotAMap { found });
        }
    };
    let mut is_member = false;
    let mut nodes = Vec::with_capacity(map.len());
    for (key, value) in map {
        if key == "." {
            is_member = true;
            continue;
        }
        let Some(element) = parse_element(key).map_err(|why| ParseFieldsError::Element { why })? else { continue };
        let level = read(value, levels)?;
        nodes.push(Node { element, is_member: level.is_member, children: level.children });
    }
    let children = FieldSet::from_nodes(nodes);
    Ok(Level { is_member: is_member || children.is_empty(), children })
}

/// Reads one key; `None` for a kind of element that this version does not know.
pub(crate) fn parse_element(key: &str) -> Result<Option<PathElement>, String> {
    if key.len() < 2 {
        return Err("key must be 2 characters long:".to_owned());
    }
    if key.as_bytes()[1] != b':' {
        return Err(format!("missing colon: {key}"));
    }
    let rest = &key[2..];
    let element = match key.as_bytes()[0] {
        b'f' => PathElement::field(rest),
        b'v' => PathElement::Value(Arc::new(serde_json::from_str(rest).map_err(|error| error.to_string())?)),
        b'i' => PathElement::Index(
            rest.parse().map_err(|_| format!("strconv.Atoi: parsing {}: invalid syntax", go::quoted(rest)))?,
        ),
        b'k' => {
            let fields: Map<String, Value> = serde_json::from_str(rest).map_err(|error| error.to_string())?;
            PathElement::key(
                fields.into_iter().map(|(name, value)| KeyField { name: name.as_str().into(), value }).collect(),
            )
        }
        _ => return Ok(None),
    };
    Ok(Some(element))
}

/// Appends an element as a key, not yet as a JSON string.
pub(crate) fn write_element(out: &mut String, element: &PathElement) {
    match element {
        PathElement::Field(name) => {
            out.push_str("f:");
            out.push_str(name);
        }
        PathElement::Key(fields) => {
            out.push_str("k:{");
            for (position, field) in fields.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                go::write_json_text(out, &field.name);
                out.push(':');
                go::write_json(out, &field.value);
            }
            out.push('}');
        }
        PathElement::Value(value) => {
            out.push_str("v:");
            go::write_json(out, value);
        }
        PathElement::Index(index) => {
            let _ = write!(out, "i:{index}");
        }
    }
}

fn write_level(out: &mut String, set: &FieldSet, is_member: bool) {
    out.push('{');
    let mut is_first = true;
    if is_member && !set.is_empty() {
        out.push_str(r#"".":{}"#);
        is_first = false;
    }
    let mut key = String::new();
    for node in set.nodes() {
        if !is_first {
            out.push(',');
        }
        is_first = false;
        key.clear();
        write_element(&mut key, &node.element);
        go::write_json_text(out, &key);
        out.push(':');
        write_level(out, &node.children, node.is_member);
    }
    out.push('}');
}

fn value_of(set: &FieldSet, is_member: bool) -> Value {
    let mut map = Map::new();
    if is_member && !set.is_empty() {
        map.insert(".".to_owned(), Value::Object(Map::new()));
    }
    for node in set.nodes() {
        let mut key = String::new();
        write_element(&mut key, &node.element);
        map.insert(key, value_of(&node.children, node.is_member));
    }
    Value::Object(map)
}
