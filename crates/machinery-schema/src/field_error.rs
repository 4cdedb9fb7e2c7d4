//! What is wrong with one field of an object, as Kubernetes users know it.

use std::fmt;

use serde_json::Value;

use crate::bounded::{PATH_BYTES_MAX, cut, shown};

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
    /// The list has more items than allowed.
    TooMany,
    /// The value names something that does not exist.
    NotFound,
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
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
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
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
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
        Self::new(path, FieldErrorReason::Invalid, Some(value), detail.as_ref())
    }

    /// The value has the wrong type.
    pub fn type_invalid(path: impl Into<String>, value: &Value, detail: impl AsRef<str>) -> Self {
        Self::new(path, FieldErrorReason::TypeInvalid, Some(value), detail.as_ref())
    }

    /// The value is none of `supported`.
    pub fn not_supported(path: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|word| format!("{word:?}")).collect();
        let detail = if list.is_empty() { String::new() } else { format!("supported values: {}", list.join(", ")) };
        Self::new(path, FieldErrorReason::NotSupported, Some(value), &detail)
    }

    /// The value appears twice.
    pub fn duplicate(path: impl Into<String>, value: &Value) -> Self {
        Self::new(path, FieldErrorReason::Duplicate, Some(value), "")
    }

    /// The field may not be set or changed.
    pub fn forbidden(path: impl Into<String>, detail: impl AsRef<str>) -> Self {
        Self::new(path, FieldErrorReason::Forbidden, None, detail.as_ref())
    }

    /// The value has more than `bytes_max` bytes.
    pub fn too_long(path: impl Into<String>, bytes_max: usize) -> Self {
        Self::new(path, FieldErrorReason::TooLong, None, &format!("may not be more than {bytes_max} bytes"))
    }

    /// The list has more than `items_max` items.
    pub fn too_many(path: impl Into<String>, items: usize, items_max: usize) -> Self {
        let detail = format!("must have at most {items_max} items");
        Self::new(path, FieldErrorReason::TooMany, Some(&Value::from(items)), &detail)
    }

    /// The value names something that is not there.
    pub fn not_found(path: impl Into<String>, value: &Value) -> Self {
        Self::new(path, FieldErrorReason::NotFound, Some(value), "")
    }

    fn new(path: impl Into<String>, reason: FieldErrorReason, value: Option<&Value>, detail: &str) -> Self {
        let mut message = reason.phrase().to_owned();
        if let Some(value) = value {
            message.push_str(": ");
            message.push_str(&shown(value, SHOWN_CHARS_MAX));
        }
        if !detail.is_empty() {
            message.push_str(": ");
            message.push_str(detail);
        }
        let mut path = path.into();
        path.truncate(cut(&path, PATH_BYTES_MAX).len());
        Self { path, reason, message }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl std::error::Error for FieldError {}

/// Long values would drown the message that they belong to.
pub const SHOWN_CHARS_MAX: usize = 256;

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
        unknown_fields.iter().take(UNKNOWN_FIELDS_MAX).map(|path| format!("unknown field {path:?}")).collect();
    Some(format!("strict decoding error: {}", fields.join(", ")))
}

/// Several field errors as one sentence part: the error itself, or `[a, b]`.
pub fn join_field_errors(errors: &[FieldError]) -> String {
    match errors {
        [one] => one.to_string(),
        many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
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
