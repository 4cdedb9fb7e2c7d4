//! Cells of columns that a CustomResourceDefinition declares.

use jiff::Timestamp;
use serde_json::Value;

use super::{PrinterColumn, human_duration};
use crate::bounded::{cut_chars, shown};

/// A cell that is longer is no use in a table; a custom resource may have many columns, and a list many rows.
const CELL_CHARS_MAX: usize = 16 * 1024;

/// The first value that the path finds, as its column's type; what has another type is null, which kubectl leaves blank.
pub(super) fn cell(column: &PrinterColumn, object: &Value, now: Timestamp) -> Value {
    let Some(first) = column.path.find(object).into_iter().next() else { return Value::Null };
    match (&*column.kind, first) {
        ("string", value) => Value::from(plain(value)),
        ("integer", Value::Number(number)) => match number.as_i64() {
            Some(whole) => whole.into(),
            #[expect(clippy::cast_possible_truncation, reason = "upstream truncates, too")]
            None => Value::from(number.as_f64().unwrap_or_default() as i64),
        },
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => first.clone(),
        ("date", Value::String(time)) => Value::from(age(time, now)),
        _ => Value::Null,
    }
}

fn age(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        _ if time.is_empty() || time == "null" => "<unknown>".to_owned(),
        Ok(time) => human_duration(now.as_second() - time.as_second()),
        Err(_) => "<invalid>".to_owned(),
    }
}

/// Text as it is, everything else as JSON; both cut, since a path may lead to the whole object.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => cut_chars(text, CELL_CHARS_MAX).to_owned(),
        Value::Null => "<no value>".to_owned(),
        other => shown(other, CELL_CHARS_MAX),
    }
}
