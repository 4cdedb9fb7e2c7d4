//! Objects as `kubectl get` shows them: columns and rows.
//!
//! Built-in kinds have the columns that kubectl's users know; custom resources bring their own. Columns of priority 1
//! show with `-o wide` only. Ages are computed against a `now` that the caller passes in.

pub(crate) mod columns;
mod custom;
pub(crate) mod printers;
#[cfg(test)]
mod tests;

use std::borrow::Borrow;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{ResourceInfo, jsonpath::JsonPath, resource::Columns};
pub(crate) use printers::OTHERS;

/// What a row carries besides its cells, by the request's `includeObject`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The object's metadata: what kubectl requests.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

/// How a built-in kind is shown.
#[derive(Debug)]
pub(crate) struct Printer {
    /// A table of [`columns`].
    pub columns: &'static [Column],
    /// One value for each column.
    pub cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// A column of a built-in kind.
#[derive(Debug)]
pub(crate) struct Column {
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    description: &'static str,
    priority: u8,
}

/// A column that a CustomResourceDefinition declares.
#[derive(Clone, Debug)]
pub(crate) struct PrinterColumn {
    pub name: Box<str>,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: Box<str>,
    pub format: Box<str>,
    pub description: Box<str>,
    pub priority: i64,
    pub path: JsonPath,
}

/// Creates a `meta.k8s.io/v1` Table. The caller sets `metadata` (resource version, continue token) of the list.
pub fn table<O: Borrow<Value>>(
    resource: &ResourceInfo,
    objects: impl IntoIterator<Item = O>,
    now: Timestamp,
    include: IncludeObject,
) -> Value {
    let rows: Vec<Value> =
        objects.into_iter().map(|object| table_row(resource, object.borrow(), now, include)).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": column_definitions(resource),
        "rows": rows,
    })
}

/// The row of one object, for tables that are made while they are sent.
pub fn table_row(resource: &ResourceInfo, object: &Value, now: Timestamp, include: IncludeObject) -> Value {
    let mut row = Map::new();
    row.insert("cells".to_owned(), Value::Array(cells(resource, object, now)));
    if let Some(conditions) = (resource.strategy.row_conditions)(object) {
        row.insert("conditions".to_owned(), conditions);
    }
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => {
            let metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
            let partial =
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
            row.insert("object".to_owned(), partial);
        }
        IncludeObject::Object => {
            row.insert("object".to_owned(), object.clone());
        }
    }
    Value::Object(row)
}

/// The columns of a table of this resource, as `columnDefinitions`.
pub fn column_definitions(resource: &ResourceInfo) -> Vec<Value> {
    match &resource.columns {
        Columns::Builtin(printer) => printer
            .columns
            .iter()
            .map(|column| {
                json!({
                    "name": column.name, "type": column.kind, "format": column.format,
                    "description": column.description, "priority": column.priority,
                })
            })
            .collect(),
        Columns::Custom(columns) => {
            let name = json!({
                "name": "Name", "type": "string", "format": "name", "description": columns::NAME_DESCRIPTION, "priority": 0,
            });
            let given = columns.iter().map(|column| {
                json!({
                    "name": column.name, "type": column.kind, "format": column.format,
                    "description": column.description, "priority": column.priority,
                })
            });
            let age = || {
                json!({
                    "name": "Age", "type": "date", "format": "", "description": columns::AGE_DESCRIPTION, "priority": 0,
                })
            };
            let own_age = columns.is_empty().then(age);
            std::iter::once(name).chain(given).chain(own_age).collect()
        }
    }
}

fn cells(resource: &ResourceInfo, object: &Value, now: Timestamp) -> Vec<Value> {
    match &resource.columns {
        Columns::Builtin(printer) => (printer.cells)(object, now),
        Columns::Custom(columns) => {
            let name = Value::from(text(object, "/metadata/name"));
            let given = columns.iter().map(|column| custom::cell(column, object, now));
            let own_age = columns.is_empty().then(|| age_of(object, now));
            std::iter::once(name).chain(given).chain(own_age).collect()
        }
    }
}

pub(crate) fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn items<'v>(object: &'v Value, pointer: &str) -> &'v [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// What kubectl prints where there is nothing.
pub(crate) fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

pub(crate) fn age_of(object: &Value, now: Timestamp) -> Value {
    Value::from(since(text(object, "/metadata/creationTimestamp"), now))
}

/// How long ago an RFC 3339 time was; `<unknown>` when it is none.
pub(crate) fn since(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => human_duration(now.as_second() - time.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// A duration as kubectl shows ages: `45s`, `3m20s`, `5h`, `2d4h`, `400d`, `3y12d`. A little in the future counts as
/// `0s` (clocks differ); more than that is `<invalid>`.
///
/// ```
/// assert_eq!(machinery_kinds::human_duration(200), "3m20s");
/// ```
pub fn human_duration(seconds: i64) -> String {
    let pair = |large: i64, large_unit: char, small: i64, small_unit: char| match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let years = days / 365;
    match seconds {
        i64::MIN..=-2 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => pair(days, 'd', hours % 24, 'h'),
        _ if days < 730 => format!("{days}d"),
        _ if days < 8 * 365 => pair(years, 'y', days % 365, 'd'),
        _ => format!("{years}y"),
    }
}
