//! Kubernetes' protobuf, both ways, along the tables of types.
//!
//! Typed clients (kubelets, controllers, kubectl's own commands) send and take it by default. A message follows from its Go
//! type: fields by their tags in ascending order, those that cannot be nil always, zero or not; maps with sorted keys.
//! So an object encodes to the same bytes as upstream's.
//!
//! ```text
//! envelope   "k8s\0" | Unknown { 1: TypeMeta { 1: apiVersion, 2: kind }, 2: raw, 3: contentEncoding, 4: contentType }
//! watch      length (4 bytes, big endian) | WatchEvent { 1: type, 2: RawExtension { 1: envelope } }
//! ```
//!
//! Decoding is bounded by the depth of messages and by a count of values that the caller gives: a message of a megabyte may be
//! one value, or half a million. What a type does not know is skipped, as upstream does.

mod read;
#[cfg(test)]
mod tests;
mod write;

use serde_json::{Map, Value};

use crate::types::Type;
pub use read::ReadError;

/// Comes before every message, so that nobody takes it for something else.
pub const MAGIC: &[u8] = b"k8s\0";

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Messages within messages. The deepest published type that is not a JSON schema has some twenty.
const DEPTH_MAX: usize = 64;

/// An envelope that has been opened: what it says of its message, and the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'b> {
    /// `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// The message.
    pub raw: &'b [u8],
}

/// Opens an envelope.
///
/// # Errors
/// When it is cut, or none.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, ReadError> {
    read::open(bytes)
}

/// Decodes a message of a type into the object that its author would have written as JSON; `values_max` bounds how many
/// values it may have. The result has zero values that [`crate::decode::decode`] takes away.
///
/// # Errors
/// When it is cut, not protobuf, nests too deep or has too many values.
pub fn decode(of: Type, raw: &[u8], values_max: usize) -> Result<Map<String, Value>, ReadError> {
    read::message(of, raw, values_max)
}

/// Encodes an object of a type as a message, without envelope. `object` is as decoded or complete; values of other types than
/// the fields' are left out.
pub fn encode(of: Type, object: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write::message(of, object, &mut out);
    out
}

/// A message in its envelope.
pub fn seal(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    let mut names = Vec::new();
    write::bytes_field(&mut names, 1, api_version.as_bytes());
    write::bytes_field(&mut names, 2, kind.as_bytes());
    write::bytes_field(&mut out, 1, &names);
    write::bytes_field(&mut out, 2, raw);
    write::bytes_field(&mut out, 3, b"");
    write::bytes_field(&mut out, 4, b"");
    out
}

/// An object in its envelope, by the `apiVersion` and `kind` that it names.
pub fn encode_sealed(of: Type, object: &Value) -> Vec<u8> {
    let name = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    seal(name("apiVersion"), name("kind"), &encode(of, object))
}

/// A list of messages that have been encoded, in its envelope. `metadata` is the list's.
pub fn seal_list<'m>(
    api_version: &str,
    kind: &str,
    metadata: &Value,
    items: impl IntoIterator<Item = &'m [u8]>,
) -> Vec<u8> {
    let of = Type::named("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta").expect("lists have metadata");
    let mut raw = Vec::new();
    write::bytes_field(&mut raw, 1, &encode(of, metadata));
    for item in items {
        write::bytes_field(&mut raw, 2, item);
    }
    seal(api_version, kind, &raw)
}

/// A watch event with its frame; `object` is a message in its envelope.
pub fn frame_event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut extension = Vec::new();
    write::bytes_field(&mut extension, 1, object);
    let mut event = vec![0; 4];
    write::bytes_field(&mut event, 1, kind.as_bytes());
    write::bytes_field(&mut event, 2, &extension);
    let length = u32::try_from(event.len() - 4).expect("an object is smaller than 4 GiB");
    event[..4].copy_from_slice(&length.to_be_bytes());
    event
}
