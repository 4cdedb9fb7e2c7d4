//! Bodies in Kubernetes' protobuf: typed clients, and kubectl's own commands, send nothing else.
//!
//! What a message means is looked up in the tables of `machinery-schema`. It becomes the JSON that everything else works on.

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
    let (group, version) = envelope.api_version.split_once('/').unwrap_or(("", &envelope.api_version));
    // Options are registered in every group.
    let is_options = envelope.kind.ends_with("Options");
    let of = Type::of_kind(group, version, &envelope.kind)
        .or_else(|| is_options.then(|| Type::named(&format!("{META}.{}", envelope.kind))).flatten());
    let Some(of) = of else {
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

#[cfg(test)]
pub(crate) mod tests;
