//! Kubernetes' protobuf on the wire: typed clients, and kubectl's own commands, send nothing else and prefer it in answers.
//!
//! What a message means is looked up in the tables of `machinery-schema`. It becomes the JSON that everything else works on,
//! and answers become messages when they are whole.

use machinery_schema::protobuf::{self, ReadError};
use machinery_schema::types::Type;
use serde_json::Value;

/// Where options of requests and other messages of no group are.
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Why a body could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// It is cut, or not protobuf.
    #[error("{0}")]
    Malformed(String),
    /// It is a message of a kind that is not known.
    #[error("no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/runtime/scheme.go:111\"")]
    Unknown {
        /// The version that it names.
        api_version: String,
        /// The kind that it names.
        kind: String,
    },
    /// Decoded it would take far more memory than its bytes.
    #[error("the body has more than {max} values")]
    TooMany {
        /// How many are taken.
        max: usize,
    },
}

impl From<ReadError> for DecodeError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Malformed(why) => Self::Malformed(why.to_owned()),
            ReadError::TooMany { max } => Self::TooMany { max },
        }
    }
}

/// Decodes a body: the envelope, which names the kind, and the message in it. Values are counted here, where they are
/// distinguished from what is in a text: a message of a megabyte may be one of them, or half a million.
pub(crate) fn decode(body: &[u8], values_max: usize) -> Result<Value, DecodeError> {
    let envelope = protobuf::open(body)?;
    let Some(of) = type_of(&envelope.api_version, &envelope.kind) else {
        return Err(DecodeError::Unknown { api_version: envelope.api_version, kind: envelope.kind });
    };
    let mut object = protobuf::decode(of, envelope.raw, values_max)?;
    object.insert("apiVersion".to_owned(), envelope.api_version.into());
    object.insert("kind".to_owned(), envelope.kind.into());
    let mut object = Value::Object(object);
    // Go writes the zero values of what cannot be nil.
    machinery_schema::decode::decode(of, &mut object).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    Ok(object)
}

/// The type of what names itself so: a kind that is served, or one of those that are registered in every group.
fn type_of(api_version: &str, kind: &str) -> Option<Type> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let is_common =
        kind.ends_with("Options") || matches!(kind, "Status" | "PartialObjectMetadata" | "PartialObjectMetadataList");
    Type::of_kind(group, version, kind).or_else(|| is_common.then(|| Type::named(&format!("{META}.{kind}"))).flatten())
}

/// An answer as a message in its envelope; `None` when there is no message for it.
pub(crate) fn encode(value: &Value) -> Option<Vec<u8>> {
    let name = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let of = type_of(name("apiVersion"), name("kind"))?;
    Some(protobuf::encode_sealed(of, value))
}

/// An event of a watch in its frame; what has no message is left out of it.
pub(crate) fn event(kind: &str, object: &Value) -> Vec<u8> {
    protobuf::frame_event(kind, &encode(object).unwrap_or_default())
}

#[cfg(test)]
pub(crate) mod tests;
