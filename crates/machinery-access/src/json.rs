//! What is read out of an object's JSON. A missing field, a null and Go's zero value are the same.

use serde_json::Value;

/// The text at a JSON pointer, or nothing.
pub(crate) fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items of a list.
pub(crate) fn items<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The items of the list at a JSON pointer.
pub(crate) fn items_at<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The texts of a list.
pub(crate) fn texts(value: &Value, key: &str) -> Vec<String> {
    items(value, key).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A field that is there and is not null.
pub(crate) fn given<'v>(object: &'v Value, field: &str) -> Option<&'v Value> {
    object.get(field).filter(|value| !value.is_null())
}

/// Whether the flag at a pointer is set.
pub(crate) fn is_set(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

/// A list of texts as Go prints it with `%q`: `["a" "b"]`.
pub(crate) fn quoted(values: &[impl AsRef<str>]) -> String {
    let values: Vec<String> = values.iter().map(|value| format!("{:?}", value.as_ref())).collect();
    format!("[{}]", values.join(" "))
}

/// Several errors as Go prints them together: one as it is, more in brackets, each once.
pub(crate) fn aggregate(errors: &[String]) -> String {
    let mut shown: Vec<&str> = Vec::new();
    for error in errors {
        if !shown.contains(&error.as_str()) {
            shown.push(error);
        }
    }
    match shown.as_slice() {
        [one] => (*one).to_owned(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// The stored object, decoded; `Null` when it is no JSON, which nothing that the server stores is.
pub(crate) fn decoded(object: &machinery_store::Object) -> Value {
    serde_json::from_slice(&object.bytes).unwrap_or_default()
}
