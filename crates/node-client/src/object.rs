//! Objects and lists as they come from an API server, known to be what they claim.
//!
//! Whatever sits between a node and its hub may answer: a captive portal, a proxy with an error page, a cache with half a list. A node
//! that believes such an answer stops its pods. So nothing is read from an answer before it was found to be of the kind that was
//! requested, and an answer that is no object, no list, or shorter than it says changes nothing.

use serde_json::{Map, Value};

/// Why an answer is not what was requested.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is not JSON at all.
    #[error("it is not JSON: {0}")]
    Json(String),
    /// It is JSON of another type.
    #[error("it is {0} where an object belongs")]
    NoObject(&'static str),
    /// It is an object of another kind.
    #[error("it is of kind `{found}`, not `{expected}`")]
    Kind {
        /// What it says of itself.
        found: String,
        /// What was requested.
        expected: String,
    },
    /// A field that every such object has is missing or empty.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// An element of a list cannot be read.
    #[error("item {index} of the list: {reason}")]
    Item {
        /// Counted from 0.
        index: usize,
        /// What is wrong with it.
        reason: Box<Malformed>,
    },
    /// The list says that more items remain, and does not say how to get them.
    #[error("the list is {0} items short, and has no continue token")]
    Short(u64),
    /// The object is well-formed, and not one that was requested.
    #[error("{0}")]
    Foreign(String),
}

/// Sets a field of a value that is an object, and leaves any other as it is: `value["field"] = …` dies of those, which is one answer of
/// a hub away. `cargo xtask check` holds the node's crates to it.
pub fn set_field(value: &mut Value, field: &str, to: impl Into<Value>) {
    if let Value::Object(fields) = value {
        fields.insert(field.to_owned(), to.into());
    }
}

/// The type of a JSON value, for people.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A Kubernetes object: a JSON object that has metadata with a name and a resource version.
#[derive(Clone, Debug, PartialEq)]
pub struct Object(Map<String, Value>);

impl Object {
    /// Takes a value that should be an object.
    ///
    /// # Errors
    /// When it is none, or lacks metadata, a name or a resource version.
    pub fn new(value: Value) -> Result<Self, Malformed> {
        let Value::Object(fields) = value else { return Err(Malformed::NoObject(type_of(&value))) };
        let object = Self(fields);
        if !object.field("metadata").is_object() {
            return Err(Malformed::Missing("metadata"));
        }
        for (what, value) in [("metadata.name", object.name()), ("metadata.resourceVersion", object.resource_version())]
        {
            if value.is_empty() {
                return Err(Malformed::Missing(what));
            }
        }
        Ok(object)
    }

    /// As [`Object::new`], of this kind. An item of a list may leave its kind out, so `None` is as good.
    ///
    /// # Errors
    /// As [`Object::new`], and when it says that it is of another kind.
    pub fn of_kind(value: Value, expected: &str) -> Result<Self, Malformed> {
        let object = Self::new(value)?;
        match object.field("kind") {
            Value::Null => Ok(object),
            Value::String(kind) if kind == expected => Ok(object),
            other => Err(Malformed::Kind {
                found: other.as_str().unwrap_or_default().to_owned(),
                expected: expected.to_owned(),
            }),
        }
    }

    /// A field at the top, `null` when there is none.
    pub fn field(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    /// A text of the metadata, empty when there is none.
    pub fn metadata(&self, field: &str) -> &str {
        self.field("metadata").get(field).and_then(Value::as_str).unwrap_or_default()
    }

    /// `metadata.name`; never empty.
    pub fn name(&self) -> &str {
        self.metadata("name")
    }

    /// `metadata.namespace`; empty for what is in none.
    pub fn namespace(&self) -> &str {
        self.metadata("namespace")
    }

    /// `metadata.uid`; may be empty, see [`Object::require_uid`].
    pub fn uid(&self) -> &str {
        self.metadata("uid")
    }

    /// `metadata.resourceVersion`; never empty.
    pub fn resource_version(&self) -> &str {
        self.metadata("resourceVersion")
    }

    /// The resource version as a number, by which older is reported from newer; 0 where it is none.
    pub fn revision(&self) -> u64 {
        self.resource_version().parse().unwrap_or(0)
    }

    /// Whether it has an identity of its own.
    ///
    /// # Errors
    /// When it has not.
    pub fn require_uid(&self) -> Result<(), Malformed> {
        if self.uid().is_empty() { Err(Malformed::Missing("metadata.uid")) } else { Ok(()) }
    }

    /// Removes what only the API server's bookkeeping needs.
    pub fn trim(&mut self) {
        if let Some(metadata) = self.0.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    }

    /// Says of what type it is, as items of lists do not.
    pub fn set_type(&mut self, api_version: &str, kind: &str) {
        self.0.insert("apiVersion".to_owned(), api_version.into());
        self.0.insert("kind".to_owned(), kind.into());
    }

    /// The object as JSON.
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct ListPage {
    /// In the server's order.
    pub items: Vec<Object>,
    /// The revision at which the list was taken; never empty.
    pub resource_version: String,
    /// How to get the next page, when there is one.
    pub continue_token: Option<String>,
}

impl ListPage {
    /// Reads an answer that should be a list of `kind`.
    ///
    /// # Errors
    /// When it is none, or promises more than it holds.
    pub fn read(value: Value, kind: &str) -> Result<Self, Malformed> {
        let Value::Object(mut fields) = value else { return Err(Malformed::NoObject(type_of(&value))) };
        let expected = format!("{kind}List");
        let found = fields.get("kind").and_then(Value::as_str).unwrap_or_default();
        if found != expected {
            return Err(Malformed::Kind { found: found.to_owned(), expected });
        }
        let metadata = fields.remove("metadata").unwrap_or_default();
        let text = |field: &str| metadata.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        let resource_version =
            text("resourceVersion").ok_or(Malformed::Missing("metadata.resourceVersion"))?.to_owned();
        let continue_token = text("continue").map(str::to_owned);
        let remaining = metadata.get("remainingItemCount").and_then(Value::as_u64).unwrap_or(0);
        if remaining > 0 && continue_token.is_none() {
            return Err(Malformed::Short(remaining));
        }
        let items = match fields.remove("items") {
            Some(Value::Array(items)) => items,
            _ => return Err(Malformed::Missing("array of items")),
        };
        let read = |(index, item)| {
            Object::of_kind(item, kind).map_err(|reason| Malformed::Item { index, reason: Box::new(reason) })
        };
        let items = items.into_iter().enumerate().map(read).collect::<Result<_, _>>()?;
        Ok(Self { items, resource_version, continue_token })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_no_list_of_the_kind_is_not_read_as_one() {
        let good = json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "3"}});
        let list = |items: Value| json!({"kind": "PodList", "metadata": {"resourceVersion": "7"}, "items": items});
        for (value, expected) in [
            (json!({}), "it is of kind ``, not `PodList`"),
            (json!(null), "it is null where an object belongs"),
            (json!([]), "it is an array where an object belongs"),
            (json!("x"), "it is a string where an object belongs"),
            (json!({"kind": "Status", "status": "Success"}), "it is of kind `Status`, not `PodList`"),
            (json!({"kind": "ConfigMapList"}), "it is of kind `ConfigMapList`, not `PodList`"),
            (json!({"kind": "PodList", "items": []}), "it has no metadata.resourceVersion"),
            (list(json!({})), "it has no array of items"),
            (list(json!([5])), "item 0 of the list: it is a number where an object belongs"),
            (
                list(json!([good, {"metadata": {"resourceVersion": "1"}}])),
                "item 1 of the list: it has no metadata.name",
            ),
            (
                json!({"kind": "PodList", "metadata": {"resourceVersion": "7", "remainingItemCount": 2}, "items": []}),
                "the list is 2 items short, and has no continue token",
            ),
        ] {
            assert_eq!(ListPage::read(value.clone(), "Pod").unwrap_err().to_string(), expected, "{value}");
        }
        let read = ListPage::read(list(json!([good])), "Pod").unwrap();
        assert_eq!((read.items[0].name(), read.items[0].revision(), &*read.resource_version), ("p", 3, "7"));
    }

    #[test]
    fn an_object_of_another_kind_is_not_taken_for_the_requested_one() {
        let object = json!({"kind": "Secret", "metadata": {"name": "p", "resourceVersion": "3"}});
        assert!(Object::of_kind(object.clone(), "Secret").is_ok());
        assert_eq!(
            Object::of_kind(object, "ConfigMap").unwrap_err().to_string(),
            "it is of kind `Secret`, not `ConfigMap`"
        );
    }
}
