//! Objects as bytes: what the store keeps is what goes over the wire.
//!
//! An encoded object begins `{"apiVersion":"…","kind":"…","metadata":{"resourceVersion":"…"`, so that the revision can be
//! put in when the store gives it, and another version of a custom resource can be shown, without decoding anything.

use bytes::{Bytes, BytesMut};
use machinery_kinds::ResourceInfo;
use machinery_store::{IndexFields, Object, Revision};
use serde_json::{Map, Value};

use crate::status::{ApiError, Result};

/// Comes before the revision in every encoded object, and nowhere before that.
const REVISION_MARK: &[u8] = br#""metadata":{"resourceVersion":""#;

/// Begins the metadata of an encoded object. No string before it can hold it: quotes within strings are escaped.
const METADATA_MARK: &[u8] = br#""metadata":{"#;

/// Comes before the API version.
const API_VERSION_MARK: &[u8] = br#"{"apiVersion":""#;

/// An object that only lacks its revision.
#[derive(Debug)]
pub(crate) struct Encoded {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Encoded {
    /// Encodes an object, whatever revision it carries.
    pub(crate) fn new(object: &Value) -> Self {
        let empty = Map::new();
        let fields = object.as_object().unwrap_or(&empty);
        let mut head = Vec::with_capacity(128);
        head.extend_from_slice(br#"{"apiVersion":"#);
        write(&mut head, fields.get("apiVersion").unwrap_or(&Value::Null));
        head.extend_from_slice(br#","kind":"#);
        write(&mut head, fields.get("kind").unwrap_or(&Value::Null));
        head.push(b',');
        head.extend_from_slice(REVISION_MARK);
        let mut tail = Vec::with_capacity(512);
        tail.push(b'"');
        let metadata = fields.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
        for (key, value) in metadata.iter().filter(|(key, _)| *key != "resourceVersion") {
            write_entry(&mut tail, key, value);
        }
        tail.push(b'}');
        for (key, value) in fields.iter().filter(|(key, _)| !matches!(key.as_str(), "apiVersion" | "kind" | "metadata"))
        {
            write_entry(&mut tail, key, value);
        }
        tail.push(b'}');
        Self { head, tail }
    }

    /// The whole object at a revision.
    pub(crate) fn at(&self, revision: Revision) -> Bytes {
        [&self.head, revision.to_string().as_bytes(), &self.tail].concat().into()
    }

    /// Bytes without the revision.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }
}

fn write_entry(out: &mut Vec<u8>, key: &str, value: &Value) {
    out.push(b',');
    serde_json::to_writer(&mut *out, key).expect("a string always serialises into memory");
    out.push(b':');
    write(out, value);
}

fn write(out: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(out, value).expect("a JSON value always serialises into memory");
}

/// The same object at another revision.
pub(crate) fn with_revision(bytes: &Bytes, revision: Revision) -> Bytes {
    let Some(start) = find(bytes, REVISION_MARK).map(|at| at + REVISION_MARK.len()) else { return bytes.clone() };
    let Some(end) = bytes[start..].iter().position(|byte| *byte == b'"') else { return bytes.clone() };
    [&bytes[..start], revision.to_string().as_bytes(), &bytes[start + end..]].concat().into()
}

/// What comes before the entries of `metadata.managedFields`, and where in an encoded object all that belongs: after the
/// revision, which is found by what is before it, or at the beginning of the metadata of an object that was never stored.
pub(crate) fn managed_place(bytes: &[u8]) -> Option<(usize, &'static [u8], &'static [u8])> {
    managed_place_behind(bytes, find(bytes, REVISION_MARK))
}

/// The same, where it is known where the revision's mark is.
fn managed_place_behind(bytes: &[u8], mark: Option<usize>) -> Option<(usize, &'static [u8], &'static [u8])> {
    let after_revision = mark.and_then(|at| {
        let start = at + REVISION_MARK.len();
        bytes[start..].iter().position(|byte| *byte == b'"').map(|len| start + len + 1)
    });
    if let Some(at) = after_revision {
        return Some((at, br#","managedFields":"#, b""));
    }
    let at = find(bytes, METADATA_MARK).map(|at| at + METADATA_MARK.len())?;
    Some((at, br#""managedFields":"#, if bytes.get(at) == Some(&b'}') { b"" } else { b"," }))
}

/// The same object with `metadata.managedFields`, which are JSON already.
pub(crate) fn with_managed(bytes: &Bytes, entries: &str) -> Bytes {
    let Some((at, before, after)) = managed_place(bytes) else { return bytes.clone() };
    [&bytes[..at], before, entries.as_bytes(), after, &bytes[at..]].concat().into()
}

/// The same object as another version of its group; the very same bytes when it is that one already.
fn with_api_version(bytes: &Bytes, api_version: &str) -> Bytes {
    let Some(rest) = bytes.strip_prefix(API_VERSION_MARK) else { return bytes.clone() };
    let Some(end) = rest.iter().position(|byte| *byte == b'"') else { return bytes.clone() };
    if &rest[..end] == api_version.as_bytes() {
        return bytes.clone();
    }
    [API_VERSION_MARK, api_version.as_bytes(), &rest[end..]].concat().into()
}

/// The object without `apiVersion` and `kind`, as it is in a list.
pub(crate) fn without_type(bytes: &Bytes, out: &mut BytesMut) {
    match find(bytes, REVISION_MARK) {
        Some(at) => {
            out.extend_from_slice(b"{");
            out.extend_from_slice(&bytes[at..]);
        }
        None => out.extend_from_slice(bytes),
    }
}

/// Whether clients of this resource see what is stored, but for its version.
pub(crate) fn is_seen_as_stored(info: &ResourceInfo) -> bool {
    info.stored_as().is_none() && !info.is_reshaped()
}

/// Appends an object that is seen as it is stored: with this version and its kind or, if it is none, without. What
/// [`as_seen`], [`with_managed`] and [`without_type`] make of it, without a copy. `owners` appends its owners as JSON and says
/// whether it could.
pub(crate) fn write_seen(
    bytes: &[u8],
    api_version: Option<&str>,
    owners: Option<impl FnOnce(&mut BytesMut) -> bool>,
    out: &mut BytesMut,
) {
    let mark = find(bytes, REVISION_MARK);
    let mut start = 0;
    match (api_version, mark) {
        (Some(api_version), _) => {
            let version = bytes.strip_prefix(API_VERSION_MARK);
            if let Some(len) = version.and_then(|rest| rest.iter().position(|byte| *byte == b'"')) {
                out.extend_from_slice(API_VERSION_MARK);
                out.extend_from_slice(api_version.as_bytes());
                start = API_VERSION_MARK.len() + len;
            }
        }
        (None, Some(at)) => {
            out.extend_from_slice(b"{");
            start = at;
        }
        (None, None) => {}
    }
    if let Some(owners) = owners
        && let Some((at, before, after)) = managed_place_behind(bytes, mark)
    {
        out.extend_from_slice(&bytes[start..at]);
        start = at;
        let without = out.len();
        out.extend_from_slice(before);
        if owners(out) {
            out.extend_from_slice(after);
        } else {
            out.truncate(without);
        }
    }
    out.extend_from_slice(&bytes[start..]);
}

/// Decodes what the store holds, as `info`'s version.
pub(crate) fn decode(info: &ResourceInfo, object: &Object) -> Result<Value> {
    decode_bytes(info, &object.bytes)
        .map_err(|error| ApiError::internal(format!("the stored object {} cannot be read: {error}", object.key)))
}

fn decode_bytes(info: &ResourceInfo, bytes: &[u8]) -> serde_json::Result<Value> {
    let mut value: Value = serde_json::from_slice(bytes)?;
    if info.stored_as().is_some() {
        info.convert_from_stored(&mut value);
    }
    value["apiVersion"] = info.api_version().into();
    info.reshape(&mut value);
    Ok(value)
}

/// A stored object as clients of this resource see it: of most custom resources only the version differs, a few built-in
/// kinds are stored as another and have to be converted. What was stored under an earlier form of a definition is brought
/// into its form of today. What cannot be read is shown as it is.
pub(crate) fn as_seen(info: &ResourceInfo, bytes: &Bytes) -> Bytes {
    if is_seen_as_stored(info) {
        return with_api_version(bytes, &info.api_version());
    }
    let is_this =
        bytes.strip_prefix(API_VERSION_MARK).and_then(|rest| rest.strip_prefix(info.api_version().as_bytes()));
    if !info.is_reshaped() && is_this.is_some_and(|rest| rest.first() == Some(&b'"')) {
        // The answer to a dry run was never stored.
        return bytes.clone();
    }
    let Ok(value) = decode_bytes(info, bytes) else { return bytes.clone() };
    match text_at(&value, "/metadata/resourceVersion").parse() {
        Ok(revision) => Encoded::new(&value).at(revision),
        // The answer to a dry run was never stored.
        Err(_) => value.to_string().into(),
    }
}

fn find(bytes: &[u8], sought: &[u8]) -> Option<usize> {
    // Most places are no quote and need no comparison.
    let begins = |window: &[u8]| window.first() == sought.first() && window == sought;
    bytes.windows(sought.len()).position(begins)
}

/// The uid of each owner is in the index under this name, so that what an object owns is found at once.
pub const OWNER_UID_FIELD: &str = machinery_kinds::INDEX_OWNER_UID;

/// Fields by which objects are found without a look at the others: what [`StoreOptions::indexed_fields`] of a server's store
/// should have.
///
/// [`StoreOptions::indexed_fields`]: machinery_store::StoreOptions::indexed_fields
pub const INDEXED_FIELDS: [&str; 3] = ["spec.nodeName", OWNER_UID_FIELD, machinery_kinds::INDEX_REFS];

/// By which rules index fields are extracted: what [`StoreOptions::index_version`] of a server's store should be. Raised
/// whenever a built-in kind gets other fields; [`Server::reindex`](crate::Server::reindex) then extracts them from every
/// object that is stored.
///
/// 1: owners of all kinds, and what pods refer to. 2: resource claims of pods, claims and secrets of volumes. 3: of custom
/// objects the selectable fields of all versions.
///
/// [`StoreOptions::index_version`]: machinery_store::StoreOptions::index_version
pub const INDEX_VERSION: u32 = 3;

/// What selectors may ask about an object, and what it is found by.
pub(crate) fn index_fields(info: &ResourceInfo, object: &Value) -> IndexFields {
    let mut fields: Vec<(String, String)> = Vec::new();
    info.index_fields(object, &mut |name, value| fields.push((name.to_owned(), value.to_owned())));
    fields.into_iter().collect()
}

/// `metadata.name`, or nothing.
pub(crate) fn name_of(object: &Value) -> &str {
    text_at(object, "/metadata/name")
}

/// `metadata.uid`, or nothing.
pub(crate) fn uid_of(object: &Value) -> &str {
    text_at(object, "/metadata/uid")
}

/// The text at a JSON pointer, or nothing.
pub(crate) fn text_at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The object's metadata; made when it is missing or no object (the schema refuses that later).
pub(crate) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    let slot = match object {
        Value::Object(fields) => fields.entry("metadata").or_insert_with(|| Value::Object(Map::new())),
        other => {
            *other = Value::Object(Map::from_iter([("metadata".to_owned(), Value::Object(Map::new()))]));
            &mut other["metadata"]
        }
    };
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("made an object above")
}

/// Whether the object waits for its deletion.
pub(crate) fn is_terminating(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
}

/// A moment as Kubernetes writes it: UTC, whole seconds.
pub(crate) fn timestamp(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
