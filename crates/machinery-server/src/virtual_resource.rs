//! Resources of which nothing is stored: a create is answered, and that is all.
//!
//! Their bodies are of a kind of their own and take the way of every create up to the point where it would be stored:
//! decoding, plug-ins that change and plug-ins that validate. Reviews are built in (`reviews.rs`); what issues something,
//! such as tokens of service accounts, is given to the server ([`crate::ServerConfig::virtual_resources`]).

use bytes::Bytes;
use http::HeaderMap;
use http::header::USER_AGENT;
use machinery_kinds::Type;
use machinery_merge::{ApplyKind, BuiltinSchema, FieldFilter, FieldManager, Managed};
use machinery_schema::Budget;
use serde_json::{Value, json};

use crate::negotiate::decode_body;
use crate::object::{metadata, timestamp};
use crate::repeats::Repeats;
use crate::request::{FieldValidation, Query};
use crate::status::{ApiError, Result};
use crate::{AdmissionError, AdmissionRequest};

/// The kind of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualKind {
    /// API group; empty for core.
    pub group: &'static str,
    /// Version within the group.
    pub version: &'static str,
    /// The kind, such as `TokenRequest`.
    pub kind: &'static str,
}

impl VirtualKind {
    fn type_of(&self) -> Option<Type> {
        Type::of_kind(self.group, self.version, self.kind)
    }

    fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Reads a body of this kind.
    pub(crate) fn read(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
        values_max: usize,
        validation: FieldValidation,
        warnings: &mut Vec<String>,
    ) -> Result<Value> {
        let mut object = decode_body(headers, body, values_max)?;
        let repeats = Repeats::of(headers, body, &object, validation);
        let Self { version, kind, .. } = self;
        let api_version = self.api_version();
        let fields = object.as_object_mut().ok_or_else(|| ApiError::bad_request("the body must be an object"))?;
        match fields.get("apiVersion").and_then(Value::as_str).unwrap_or_default() {
            "" => {}
            found if found == api_version => {}
            found => {
                return Err(ApiError::bad_request(format!(
                    "the API version in the data ({found}) does not match the expected API version ({api_version})"
                )));
            }
        }
        match fields.get("kind").and_then(Value::as_str).unwrap_or_default() {
            "" => {}
            found if found == *kind => {}
            found => {
                return Err(ApiError::bad_request(format!(
                    "{found} in version {version:?} cannot be handled as a {kind}"
                )));
            }
        }
        fields.insert("apiVersion".to_owned(), api_version.into());
        fields.insert("kind".to_owned(), (*kind).into());
        let refused = |error: &str| {
            ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {error}"))
        };
        if let Some(of) = self.type_of() {
            let unknown = machinery_kinds::decode_type(of, &mut object).map_err(|error| refused(&error.to_string()))?;
            let repeats = repeats.without(&unknown);
            match validation {
                FieldValidation::Strict => {
                    if let Some(error) = repeats.strict_error(&unknown) {
                        return Err(refused(&error));
                    }
                }
                FieldValidation::Warn => warnings.extend(repeats.warnings(&unknown)),
                FieldValidation::Ignore => {}
            }
        }
        Ok(object)
    }

    /// Puts who owns which fields into an object that was read: what is not stored has owners as well.
    pub(crate) fn own(&self, headers: &HeaderMap, query: &Query, subresource: &str, object: &mut Value) -> Result<()> {
        let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let manager = match query.get("fieldManager") {
            Some(manager) if !manager.is_empty() => manager.to_owned(),
            _ => machinery_merge::manager_of_user_agent(agent),
        };
        let fields =
            FieldManager { kind: self, group: self.group, version: self.version, kind_name: self.kind, subresource };
        let now = timestamp(jiff::Timestamp::now());
        let nobody = Managed::default();
        *object = self.complete(std::mem::take(object));
        let managed = fields
            .update(&self.empty_object(), &nobody, object, &manager, &now, &mut Budget::of_request())
            .map_err(|error| ApiError::too_large(error.to_string()))?;
        if let Some(entries) = managed.to_value() {
            metadata(object).insert("managedFields".to_owned(), entries);
        }
        Ok(())
    }

    /// An object of this kind as it is answered.
    pub(crate) fn complete(&self, mut object: Value) -> Value {
        if let Some(of) = self.type_of() {
            machinery_kinds::complete_type(of, &mut object);
        }
        object
    }
}

impl ApplyKind for VirtualKind {
    type Schema = BuiltinSchema;

    fn schema(&self, api_version: &str) -> Option<BuiltinSchema> {
        (api_version == self.api_version()).then(|| self.type_of()).flatten().map(BuiltinSchema::of)
    }

    fn convert(&self, _: &Value, _: &str) -> Option<Value> {
        None
    }

    fn filter(&self, _: &str) -> Option<&FieldFilter> {
        None
    }

    fn empty_object(&self) -> Value {
        match self.type_of() {
            Some(of) => BuiltinSchema::empty_object(of, &self.api_version(), self.kind),
            None => json!({"apiVersion": self.api_version(), "kind": self.kind, "metadata": {}}),
        }
    }
}

/// Asks the plug-ins that validate about an object in its final form.
pub type Admit<'a> = &'a mut dyn FnMut(&Value) -> Result<(), AdmissionError>;

/// Answers creates of one resource or subresource.
pub trait VirtualResource: Send + Sync {
    /// Group, plural name and subresource under which it is served.
    fn target(&self) -> (&'static str, &'static str, Option<&'static str>);

    /// The kind of what is sent and answered.
    fn kind(&self) -> VirtualKind;

    /// Fills in what may be left out, before anybody looks at it.
    fn apply_defaults(&self, object: &mut Value) {
        let _ = object;
    }

    /// Answers a create. `object` is what was sent, changed by the plug-ins that do; `admit` is to be called with it once it is
    /// complete and valid, before anything is given away.
    ///
    /// # Errors
    /// When the request is rejected.
    fn create(
        &self,
        request: &AdmissionRequest<'_>,
        object: Value,
        now: jiff::Timestamp,
        admit: Admit<'_>,
    ) -> Result<Value, AdmissionError>;
}
