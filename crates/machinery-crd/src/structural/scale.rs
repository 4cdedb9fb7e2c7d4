//! Where the scale of a custom object is, and what may be there.

use serde_json::{Value, json};

use crate::FieldError;
use crate::go;

/// `subresources.scale` of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// As `.spec.replicas`.
    pub spec_path: Box<str>,
    /// As `.status.replicas`.
    pub status_path: Box<str>,
    /// As `.status.selector`; a serialised label selector is there.
    pub selector_path: Option<Box<str>>,
}

impl Scale {
    /// Reads `subresources` of a version.
    pub fn read(subresources: &Value) -> Option<Self> {
        let scale = subresources.get("scale").filter(|scale| scale.is_object())?;
        let text = |key: &str| scale.get(key).and_then(Value::as_str);
        Some(Self {
            spec_path: text("specReplicasPath").unwrap_or_default().into(),
            status_path: text("statusReplicasPath").unwrap_or_default().into(),
            selector_path: text("labelSelectorPath").filter(|path| !path.is_empty()).map(Into::into),
        })
    }

    /// The replicas that the spec requests; zero where it says nothing.
    pub fn spec_replicas(&self, object: &Value) -> Result<Option<i64>, String> {
        whole_at(object, &self.spec_path)
    }

    /// The replicas that the status reports.
    pub fn status_replicas(&self, object: &Value) -> Result<Option<i64>, String> {
        whole_at(object, &self.status_path)
    }

    /// The serialised selector of the status; empty where there is none.
    pub fn selector<'v>(&self, object: &'v Value) -> Result<&'v str, String> {
        let Some(path) = &self.selector_path else { return Ok("") };
        match at(object, path)? {
            None => Ok(""),
            Some(value) => value.as_str().ok_or_else(|| accessor_error(path, value, "string")),
        }
    }

    /// The fields on the way to the replicas of the spec.
    pub fn spec_fields(&self) -> impl Iterator<Item = &str> {
        fields(&self.spec_path)
    }

    /// Sets the replicas that the spec requests; says why when the way to them is blocked by another value.
    pub fn set_spec_replicas(&self, object: &mut Value, replicas: i64) -> Result<(), String> {
        let fields: Vec<&str> = fields(&self.spec_path).collect();
        let Some((last, way)) = fields.split_last() else { return Ok(()) };
        let mut value = object;
        for field in way {
            let Some(map) = value.as_object_mut() else {
                return Err(format!(
                    "value cannot be set because {} is not a map[string]interface{{}}",
                    self.spec_path
                ));
            };
            value = map.entry(*field).or_insert_with(|| json!({}));
        }
        let Some(map) = value.as_object_mut() else {
            return Err(format!("value cannot be set because {} is not a map[string]interface{{}}", self.spec_path));
        };
        map.insert((*last).to_owned(), replicas.into());
        Ok(())
    }

    pub(super) fn validate_spec(&self, object: &Value) -> Option<FieldError> {
        check_replicas(object, &self.spec_path)
    }

    pub(super) fn validate_status(&self, object: &Value) -> Vec<FieldError> {
        let mut errors: Vec<FieldError> = check_replicas(object, &self.status_path).into_iter().collect();
        if let (Some(path), Err(detail)) = (&self.selector_path, self.selector(object)) {
            errors.push(FieldError::invalid(&**path, &json!(""), detail));
        }
        errors
    }
}

fn check_replicas(object: &Value, path: &str) -> Option<FieldError> {
    let (replicas, detail) = match whole_at(object, path) {
        Err(detail) => (0, detail),
        Ok(Some(replicas)) if replicas < 0 => (replicas, "should be a non-negative integer".to_owned()),
        Ok(Some(replicas)) if replicas > i64::from(i32::MAX) => {
            (replicas, format!("should be less than or equal to {}", i32::MAX))
        }
        Ok(_) => return None,
    };
    Some(FieldError::invalid(path, &replicas.into(), detail))
}

fn whole_at(object: &Value, path: &str) -> Result<Option<i64>, String> {
    match at(object, path)? {
        None => Ok(None),
        Some(value) => value.as_i64().map(Some).ok_or_else(|| accessor_error(path, value, "int64")),
    }
}

/// The value at a dotted path; an error when something on the way is no object.
fn at<'v>(object: &'v Value, path: &str) -> Result<Option<&'v Value>, String> {
    let mut value = object;
    let mut way = String::new();
    for field in fields(path) {
        match value {
            Value::Null => return Ok(None),
            Value::Object(map) => match map.get(field) {
                Some(inner) => value = inner,
                None => return Ok(None),
            },
            other => return Err(accessor_error(&way, other, "map[string]interface{}")),
        }
        way.push('.');
        way.push_str(field);
    }
    Ok(Some(value))
}

fn fields(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('.').unwrap_or(path).split('.')
}

fn accessor_error(path: &str, value: &Value, expected: &str) -> String {
    let dot = if path.starts_with('.') { "" } else { "." };
    format!(
        "{dot}{path} accessor error: {} is of the type {}, expected {expected}",
        go::plain(value),
        go::type_name(value)
    )
}
