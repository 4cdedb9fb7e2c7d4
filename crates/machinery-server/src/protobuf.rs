//! Kubernetes' protobuf, for the few messages that kubectl sends in no other form.
//!
//! kubectl's own commands (`create namespace`, `create configmap`, `auth can-i`, `certificate approve`) encode what they
//! send as protobuf and do not try JSON when that is refused. Their messages are described here by a table, field by
//! field, and become the JSON that everything else works on. Answers are always JSON, which the same clients take.
//!
//! A message or a field that no table knows is refused rather than dropped: nobody loses a setting without learning of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use Shape::{Bytes, Flag, List, Message, Number, NumberOrAbsent, Skip, Text, TextMap, Time};

/// Comes before every message, so that nobody takes it for something else.
const MAGIC: &[u8] = b"k8s\0";

/// Why a body could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// It is cut, or not protobuf.
    #[error("error decoding the body as protobuf: {0}")]
    Malformed(&'static str),
    /// It is protobuf that is not understood here.
    #[error("{what} is not understood as protobuf by this server; send JSON (application/json)")]
    Unknown {
        /// A kind, or a field of one.
        what: String,
    },
    /// Decoded it would take far more memory than its bytes.
    #[error("the body has more than {max} values")]
    TooMany {
        /// How many are taken.
        max: usize,
    },
}

/// How a field's bytes become JSON.
#[derive(Clone, Copy)]
enum Shape {
    /// Go writes an empty text for one that is absent.
    Text,
    Bytes,
    Flag,
    Number,
    /// Go writes 0 for a number that is absent.
    NumberOrAbsent,
    Time,
    Message(&'static [Field]),
    List(&'static Shape),
    TextMap,
    BytesMap,
    /// What the server sets itself.
    Skip,
}

type Field = (u64, &'static str, Shape);

static METADATA: &[Field] = &[
    (1, "name", Text),
    (2, "generateName", Text),
    (3, "namespace", Text),
    (4, "selfLink", Skip),
    (5, "uid", Text),
    (6, "resourceVersion", Text),
    (7, "generation", NumberOrAbsent),
    (8, "creationTimestamp", Time),
    (9, "deletionTimestamp", Time),
    (10, "deletionGracePeriodSeconds", Number),
    (11, "labels", TextMap),
    (12, "annotations", TextMap),
    (13, "ownerReferences", List(&Message(OWNER))),
    (14, "finalizers", List(&Text)),
    (17, "managedFields", Skip),
];

static OWNER: &[Field] = &[
    (1, "kind", Text),
    (3, "name", Text),
    (4, "uid", Text),
    (5, "apiVersion", Text),
    (6, "controller", Flag),
    (7, "blockOwnerDeletion", Flag),
];

static NAMESPACE: &[Field] = &[
    (1, "metadata", Message(METADATA)),
    (2, "spec", Message(&[(1, "finalizers", List(&Text))])),
    (3, "status", Message(&[(1, "phase", Text), (2, "conditions", Skip)])),
];

static CONFIG_MAP: &[Field] = &[
    (1, "metadata", Message(METADATA)),
    (2, "data", TextMap),
    (3, "binaryData", Shape::BytesMap),
    (4, "immutable", Flag),
];

static SECRET: &[Field] = &[
    (1, "metadata", Message(METADATA)),
    (2, "data", Shape::BytesMap),
    (3, "type", Text),
    (4, "stringData", TextMap),
    (5, "immutable", Flag),
];

static SERVICE_ACCOUNT: &[Field] = &[
    (1, "metadata", Message(METADATA)),
    (2, "secrets", List(&Message(&[(1, "kind", Text), (2, "namespace", Text), (3, "name", Text)]))),
    (3, "imagePullSecrets", List(&Message(&[(1, "name", Text)]))),
    (4, "automountServiceAccountToken", Flag),
];

static SIGNING_REQUEST: &[Field] = &[
    (1, "metadata", Message(METADATA)),
    (
        2,
        "spec",
        Message(&[
            (1, "request", Bytes),
            (2, "username", Text),
            (3, "uid", Text),
            (4, "groups", List(&Text)),
            (5, "usages", List(&Text)),
            (6, "extra", Skip),
            (7, "signerName", Text),
            (8, "expirationSeconds", Number),
        ]),
    ),
    (
        3,
        "status",
        Message(&[
            (
                1,
                "conditions",
                List(&Message(&[
                    (1, "type", Text),
                    (2, "reason", Text),
                    (3, "message", Text),
                    (4, "lastUpdateTime", Time),
                    (5, "lastTransitionTime", Time),
                    (6, "status", Text),
                ])),
            ),
            (2, "certificate", Bytes),
        ]),
    ),
];

static ACCESS_REVIEW: &[Field] = &[
    (1, "metadata", Message(METADATA)),
    (
        2,
        "spec",
        Message(&[
            (
                1,
                "resourceAttributes",
                Message(&[
                    (1, "namespace", Text),
                    (2, "verb", Text),
                    (3, "group", Text),
                    (4, "version", Text),
                    (5, "resource", Text),
                    (6, "subresource", Text),
                    (7, "name", Text),
                    (8, "fieldSelector", Skip),
                    (9, "labelSelector", Skip),
                ]),
            ),
            (2, "nonResourceAttributes", Message(&[(1, "path", Text), (2, "verb", Text)])),
        ]),
    ),
    (3, "status", Skip),
];

static IDENTITY_REVIEW: &[Field] = &[(1, "metadata", Message(METADATA)), (2, "status", Skip)];

static DELETE_OPTIONS: &[Field] = &[
    (1, "gracePeriodSeconds", Number),
    (2, "preconditions", Message(&[(1, "uid", Text), (2, "resourceVersion", Text)])),
    (3, "orphanDependents", Flag),
    (4, "propagationPolicy", Text),
    (5, "dryRun", List(&Text)),
    (6, "ignoreStoreReadErrorWithClusterBreakingPotential", Skip),
];

/// The table of a kind.
fn fields_of(kind: &str) -> Option<&'static [Field]> {
    Some(match kind {
        "Namespace" => NAMESPACE,
        "ConfigMap" => CONFIG_MAP,
        "Secret" => SECRET,
        "ServiceAccount" => SERVICE_ACCOUNT,
        "CertificateSigningRequest" => SIGNING_REQUEST,
        "SelfSubjectAccessReview" => ACCESS_REVIEW,
        "SelfSubjectReview" => IDENTITY_REVIEW,
        "DeleteOptions" => DELETE_OPTIONS,
        _ => return None,
    })
}

/// Decodes a body: the envelope, which names the kind, and the message in it. Values are counted here, where they are
/// distinguished from what is in a text: a message of a megabyte may be one of them, or half a million.
pub(crate) fn decode(body: &[u8], values_max: usize) -> Result<Value, DecodeError> {
    let body = body.strip_prefix(MAGIC).ok_or(DecodeError::Malformed("it does not begin as Kubernetes' does"))?;
    let (mut kind, mut api_version, mut raw) = (String::new(), String::new(), &[][..]);
    let mut reader = Reader(body);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => {
                let mut names = Reader(bytes);
                while let Some((number, wire)) = names.next()? {
                    match (number, wire) {
                        (1, Wire::Bytes(bytes)) => api_version = text(bytes)?,
                        (2, Wire::Bytes(bytes)) => kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let fields = fields_of(&kind).ok_or_else(|| DecodeError::Unknown { what: format!("the kind {kind:?}") })?;
    let mut values = Values { left: values_max, max: values_max };
    let mut object = message(raw, fields, &kind, &mut values)?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(object))
}

/// How many more values a body may have.
struct Values {
    left: usize,
    max: usize,
}

impl Values {
    fn count(&mut self) -> Result<(), DecodeError> {
        self.left = self.left.checked_sub(1).ok_or(DecodeError::TooMany { max: self.max })?;
        Ok(())
    }
}

/// The tables are finite and do not refer to themselves, so this recursion ends however the bytes nest.
fn message(
    bytes: &[u8],
    fields: &'static [Field],
    path: &str,
    values: &mut Values,
) -> Result<Map<String, Value>, DecodeError> {
    let mut object = Map::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        let Some((_, name, shape)) = fields.iter().find(|field| field.0 == number) else {
            return Err(DecodeError::Unknown { what: format!("field {number} of {path}") });
        };
        values.count()?;
        put(&mut object, name, *shape, wire, path, values)?;
    }
    Ok(object)
}

fn put(
    object: &mut Map<String, Value>,
    name: &str,
    shape: Shape,
    wire: Wire<'_>,
    path: &str,
    values: &mut Values,
) -> Result<(), DecodeError> {
    match shape {
        Skip => {}
        List(item) => {
            let mut one = Map::new();
            // An empty text in a list is one, unlike an empty field.
            match (*item, wire) {
                (Text, Wire::Bytes(bytes)) => drop(one.insert(name.to_owned(), text(bytes)?.into())),
                (item, wire) => put(&mut one, name, item, wire, path, values)?,
            }
            let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            if let (Value::Array(list), Some(value)) = (list, one.remove(name)) {
                list.push(value);
            }
        }
        TextMap | Shape::BytesMap => {
            let Wire::Bytes(entry) = wire else { return Err(WRONG_TYPE) };
            let (mut key, mut value) = (String::new(), &[][..]);
            let mut reader = Reader(entry);
            while let Some((number, wire)) = reader.next()? {
                match (number, wire) {
                    (1, Wire::Bytes(bytes)) => key = text(bytes)?,
                    (2, Wire::Bytes(bytes)) => value = bytes,
                    _ => return Err(WRONG_TYPE),
                }
            }
            let value = if matches!(shape, TextMap) { text(value)? } else { STANDARD.encode(value) };
            let map = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = map {
                map.insert(key, value.into());
            }
        }
        single => {
            if let Some(value) = value(single, wire, name, path, values)? {
                object.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

const WRONG_TYPE: DecodeError = DecodeError::Malformed("a field has another type than its kind says");

/// A single value; `None` when it means an absent one.
fn value(
    shape: Shape,
    wire: Wire<'_>,
    name: &str,
    path: &str,
    values: &mut Values,
) -> Result<Option<Value>, DecodeError> {
    Ok(match (shape, wire) {
        (Text, Wire::Bytes(bytes)) => Some(text(bytes)?).filter(|text| !text.is_empty()).map(Value::String),
        (Bytes, Wire::Bytes(bytes)) => (!bytes.is_empty()).then(|| STANDARD.encode(bytes).into()),
        (Flag, Wire::Number(number)) => Some((number != 0).into()),
        // Negative numbers come as their two's complement.
        (Number, Wire::Number(number)) => Some(number.cast_signed().into()),
        (NumberOrAbsent, Wire::Number(number)) => (number != 0).then(|| number.cast_signed().into()),
        (Time, Wire::Bytes(bytes)) => time(bytes)?,
        (Message(fields), Wire::Bytes(bytes)) => {
            Some(Value::Object(message(bytes, fields, &format!("{path}.{name}"), values)?))
        }
        _ => return Err(WRONG_TYPE),
    })
}

fn time(bytes: &[u8]) -> Result<Option<Value>, DecodeError> {
    let mut seconds = None;
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        if let (1, Wire::Number(number)) = (number, wire) {
            seconds = Some(number.cast_signed());
        }
    }
    let Some(seconds) = seconds else { return Ok(None) };
    let time = jiff::Timestamp::from_second(seconds).map_err(|_| DecodeError::Malformed("a time is out of range"))?;
    Ok(Some(crate::object::timestamp(time).into()))
}

fn text(bytes: &[u8]) -> Result<String, DecodeError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Malformed("a text is not UTF-8"))
}

/// One field as it lies on the wire.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next field's number and value.
    fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>, DecodeError> {
        const CUT: DecodeError = DecodeError::Malformed("it is cut short");
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| CUT)?;
                let (bytes, rest) = self.0.split_at_checked(len).ok_or(CUT)?;
                self.0 = rest;
                Wire::Bytes(bytes)
            }
            _ => return Err(DecodeError::Malformed("a field has a type that no Kubernetes message uses")),
        };
        Ok(Some((tag >> 3, wire)))
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(DecodeError::Malformed("it is cut short"))?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError::Malformed("a number is longer than 64 bits"))
    }
}

#[cfg(test)]
pub(crate) mod tests;
