//! What is wrong with one field of an object, as Kubernetes users know it.

use std::{collections::HashSet, fmt, fmt::Write as _};

use serde_json::Value;

use crate::bounded::{PATH_BYTES_MAX, cut, cut_chars, shown};
use crate::go;

/// Why a field was rejected. The names are the `reason`s of `Status.details.causes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorReason {
    /// The field must be present and is not.
    Required,
    /// The value has the right type but is not allowed.
    Invalid,
    /// The value is none of a closed set.
    NotSupported,
    /// The value has another type than the field.
    TypeInvalid,
    /// The value appears twice in a list whose items are unique.
    Duplicate,
    /// The value may not be set here or may not be changed.
    Forbidden,
    /// The value is longer than allowed.
    TooLong,
    /// The value is shorter than allowed.
    TooShort,
    /// The list has more items than allowed.
    TooMany,
    /// The list has fewer items than allowed.
    TooFew,
    /// The value names something that does not exist.
    NotFound,
    /// Something went wrong that is not up to the author.
    Internal,
}

impl FieldErrorReason {
    /// The machine-readable form, such as `FieldValueInvalid`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooShort => "FieldValueTooShort",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::NotFound => "FieldValueNotFound",
            Self::Internal => "InternalError",
        }
    }

    fn phrase(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooShort => "Too short",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::NotFound => "Not found",
            Self::Internal => "Internal error",
        }
    }
}

/// One rejected field. `Display` gives the whole line, `path: Invalid value: "x": why`.
///
/// ```
/// use machinery_schema::FieldError;
/// let error = FieldError::invalid("spec.replicas", &serde_json::json!(-1), "must be at least 0");
/// assert_eq!(error.to_string(), "spec.replicas: Invalid value: -1: must be at least 0");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Where, as `spec.containers[0].name`.
    pub path: String,
    /// Which kind of mistake.
    pub reason: FieldErrorReason,
    /// The line without the path, as it is in `causes[].message`.
    pub message: String,
}

impl FieldError {
    /// The field must be present.
    pub fn required(path: impl Into<String>, detail: &str) -> Self {
        Self::new(path, FieldErrorReason::Required, None, detail)
    }

    /// The value is not allowed.
    pub fn invalid(path: impl Into<String>, value: &Value, detail: impl AsRef<str>) -> Self {
        Self::new(path, FieldErrorReason::Invalid, Some(&quoted_value(value)), detail.as_ref())
    }

    /// The value is not allowed, and is shown as this text: where upstream shows a struct, whose fields have an order and
    /// sometimes names of their own.
    pub fn invalid_as(path: impl Into<String>, shown: &str, detail: impl AsRef<str>) -> Self {
        Self::new(path, FieldErrorReason::Invalid, Some(shown), detail.as_ref())
    }

    /// The value has the wrong type.
    pub fn type_invalid(path: impl Into<String>, value: &Value, detail: impl AsRef<str>) -> Self {
        Self::new(path, FieldErrorReason::TypeInvalid, Some(&quoted_value(value)), detail.as_ref())
    }

    /// The value is none of `supported`.
    pub fn not_supported(path: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        Self::not_supported_as(path, &quoted_value(value), supported)
    }

    /// The value is none of `supported`, and is shown as this text; see [`Self::invalid_as`].
    pub fn not_supported_as(path: impl Into<String>, shown: &str, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|word| quoted(word)).collect();
        let detail = if list.is_empty() { String::new() } else { format!("supported values: {}", list.join(", ")) };
        Self::new(path, FieldErrorReason::NotSupported, Some(shown), &detail)
    }

    /// The value appears twice.
    pub fn duplicate(path: impl Into<String>, value: &Value) -> Self {
        Self::new(path, FieldErrorReason::Duplicate, Some(&quoted_value(value)), "")
    }

    /// The value appears twice, and is shown as this text; see [`Self::invalid_as`].
    pub fn duplicate_as(path: impl Into<String>, shown: &str) -> Self {
        Self::new(path, FieldErrorReason::Duplicate, Some(shown), "")
    }

    /// The field may not be set or changed.
    pub fn forbidden(path: impl Into<String>, detail: impl AsRef<str>) -> Self {
        Self::new(path, FieldErrorReason::Forbidden, None, detail.as_ref())
    }

    /// The value has more than `bytes_max` bytes.
    pub fn too_long(path: impl Into<String>, bytes_max: usize) -> Self {
        let detail = format!("may not be more than {bytes_max} {}", plural(bytes_max, "byte"));
        Self::new(path, FieldErrorReason::TooLong, None, &detail)
    }

    /// The value has more than `chars_max` characters.
    pub fn too_long_characters(path: impl Into<String>, chars_max: usize) -> Self {
        let detail = format!("may not be more than {chars_max} {}", plural(chars_max, "character"));
        Self::new(path, FieldErrorReason::TooLong, None, &detail)
    }

    /// The value has fewer than `chars_min` characters.
    pub fn too_short(path: impl Into<String>, chars_min: usize) -> Self {
        let detail = format!("must be at least {chars_min} {}", plural(chars_min, "character"));
        Self::new(path, FieldErrorReason::TooShort, None, &detail)
    }

    /// The list has more than `items_max` items.
    pub fn too_many(path: impl Into<String>, items: usize, items_max: usize) -> Self {
        let detail = format!("must have at most {items_max} {}", plural(items_max, "item"));
        Self::new(path, FieldErrorReason::TooMany, Some(&items.to_string()), &detail)
    }

    /// The list has too many items; how many are allowed is not said.
    pub fn too_many_unbounded(path: impl Into<String>, items: usize) -> Self {
        Self::new(path, FieldErrorReason::TooMany, Some(&items.to_string()), "has too many items")
    }

    /// The list has fewer than `items_min` items.
    pub fn too_few(path: impl Into<String>, items: usize, items_min: usize) -> Self {
        let detail = format!("must have at least {items_min} {}", plural(items_min, "item"));
        Self::new(path, FieldErrorReason::TooFew, Some(&items.to_string()), &detail)
    }

    /// The value names something that is not there.
    pub fn not_found(path: impl Into<String>, value: &Value) -> Self {
        Self::new(path, FieldErrorReason::NotFound, Some(&quoted_value(value)), "")
    }

    /// The value names something that is not there; the detail says what it should be among.
    pub fn not_found_because(path: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::new(path, FieldErrorReason::NotFound, Some(&quoted_value(value)), detail)
    }

    /// Something failed that is not up to the author.
    pub fn internal(path: impl Into<String>, detail: impl AsRef<str>) -> Self {
        Self::new(path, FieldErrorReason::Internal, None, detail.as_ref())
    }

    fn new(path: impl Into<String>, reason: FieldErrorReason, shown: Option<&str>, detail: &str) -> Self {
        let mut message = reason.phrase().to_owned();
        if let Some(shown) = shown {
            message.push_str(": ");
            message.push_str(cut_chars(shown, SHOWN_CHARS_MAX));
        }
        if !detail.is_empty() {
            message.push_str(": ");
            message.push_str(cut_chars(detail, DETAIL_CHARS_MAX));
        }
        let mut path = path.into();
        path.truncate(cut(&path, PATH_BYTES_MAX).len());
        Self { path, reason, message }
    }
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

/// A value as upstream's messages show it: texts quoted as Go quotes them, numbers and flags bare, anything else as the JSON
/// that Go writes.
pub fn quoted_value(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => go::float(float),
            None => number.to_string(),
        },
        other => json_text(other),
    }
}

/// A value as Go writes it as JSON: with `<`, `>` and `&` escaped, since it may end up in HTML.
pub fn json_text(value: &Value) -> String {
    let text = shown(value, SHOWN_CHARS_MAX);
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                write!(escaped, "\\u{:04x}", u32::from(character)).expect("writing to a string never fails");
            }
            other => escaped.push(other),
        }
    }
    escaped
}

/// A text in quotes, as Go's `%q` writes it: what cannot be printed is escaped. Of a very long text, the beginning.
pub fn quoted(text: &str) -> String {
    go::quoted(cut_chars(text, SHOWN_CHARS_MAX))
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl std::error::Error for FieldError {}

/// Values are shown whole, as upstream shows them, but one error is not as long as a whole body.
pub const SHOWN_CHARS_MAX: usize = 16 * 1024;

/// A detail may name values, too; and the difference between two versions of a pod is one.
const DETAIL_CHARS_MAX: usize = 16 * 1024;

/// Beyond this many mistakes nobody reads on, and the response would grow without bound.
pub const ERRORS_MAX: usize = 64;

/// As many unknown fields as kube-apiserver reports.
pub const UNKNOWN_FIELDS_MAX: usize = 100;

/// The message of a strict decode that met unknown fields; `None` when there are none. It names at most 100 of them, as
/// kube-apiserver does.
///
/// ```
/// let message = machinery_schema::strict_decoding_error(&["spec.foo".to_owned()]);
/// assert_eq!(message.as_deref(), Some(r#"strict decoding error: unknown field "spec.foo""#));
/// ```
pub fn strict_decoding_error(unknown_fields: &[String]) -> Option<String> {
    if unknown_fields.is_empty() {
        return None;
    }
    let fields: Vec<String> =
        unknown_fields.iter().take(UNKNOWN_FIELDS_MAX).map(|path| format!("unknown field {}", quoted(path))).collect();
    Some(format!("strict decoding error: {}", fields.join(", ")))
}

/// Several field errors as one sentence part: the error itself, or `[a, b]`. What is said twice is repeated in
/// `Status.details.causes` and not here.
pub fn join_field_errors(errors: &[FieldError]) -> String {
    let mut seen = HashSet::new();
    let lines: Vec<String> = errors.iter().map(ToString::to_string).filter(|line| seen.insert(line.clone())).collect();
    match lines.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// The JSON type of a value, as messages name it.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_shown_as_go_shows_them() {
        let check = |value: Value, shown: &str| assert_eq!(quoted_value(&value), shown, "{value}");
        check(json!("a\"b\\c\n\u{7}\u{1}\u{7f}"), r#""a\"b\\c\n\a\x01\x7f""#);
        check(json!("é € \u{301} \u{200b}\u{ad}\u{e000}\u{f0000}"), "\"é € \u{301} \\u200b\\u00ad\\ue000\\U000f0000\"");
        check(json!("<a&b>"), r#""<a&b>""#);
        check(json!(["<a&b>"]), r#"["\u003ca\u0026b\u003e"]"#);
        check(json!({"b": [1, null], "a": true}), r#"{"a":true,"b":[1,null]}"#);
        check(json!(null), "null");
        check(json!(-3), "-3");
        check(json!(1.5), "1.5");
        check(json!(1e21), "1e+21");
        check(json!(0.00001), "1e-05");
        check(json!(false), "false");
    }

    #[test]
    fn one_is_not_said_to_be_many() {
        assert_eq!(FieldError::too_long("a", 1).message, "Too long: may not be more than 1 byte");
        assert_eq!(FieldError::too_long_characters("a", 2).message, "Too long: may not be more than 2 characters");
        assert_eq!(FieldError::too_many("a", 3, 1).message, "Too many: 3: must have at most 1 item");
        assert_eq!(FieldError::too_few("a", 0, 1).message, "Too few: 0: must have at least 1 item");
        assert_eq!(FieldError::too_short("a", 1).message, "Too short: must be at least 1 character");
        assert_eq!(FieldError::internal("a", "no").message, "Internal error: no");
    }

    #[test]
    fn what_is_said_twice_is_once_in_the_message() {
        let errors = [FieldError::required("a", ""), FieldError::required("b", ""), FieldError::required("a", "")];
        assert_eq!(join_field_errors(&errors), "[a: Required value, b: Required value]");
        assert_eq!(join_field_errors(&[errors[0].clone(), errors[2].clone()]), "a: Required value");
    }

    #[test]
    fn a_huge_value_is_cut() {
        let error = FieldError::invalid("a", &json!("x".repeat(1 << 20)), "no");
        assert!(error.message.len() < SHOWN_CHARS_MAX + 64, "{}", error.message.len());
    }
}
