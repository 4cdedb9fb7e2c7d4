//! The metadata of an object in Kubernetes' protobuf: 189 bytes for a renewed Lease, where all of it is 600 in JSON.
//!
//! Only what a node compares is read of it. The form is `k8s\0` and an envelope (`runtime.Unknown`): field 1 says which type it is,
//! field 2 holds a `PartialObjectMetadata`, whose field 1 is the metadata.

use serde_json::Value;

use crate::Version;
use crate::object::{Malformed, Object};

const MAGIC: &[u8] = b"k8s\0";

/// Reads an answer that should be of the object `name` of `kind`: its metadata in protobuf, or all of it in JSON.
pub(crate) fn version(body: &[u8], kind: &str, name: &str) -> Result<Version, Malformed> {
    let (found, version) = match body.strip_prefix(MAGIC) {
        Some(envelope) => metadata(envelope)?,
        None => {
            let value: Value = serde_json::from_slice(body).map_err(|error| Malformed::Json(error.to_string()))?;
            let object = Object::of_kind(value, kind)?;
            object.require_uid()?;
            (object.name().to_owned(), Version { uid: object.uid().to_owned(), revision: object.revision() })
        }
    };
    if found != name {
        return Err(Malformed::Foreign(format!("it is of `{found}`, not of `{name}`")));
    }
    Ok(version)
}

/// Name and version in an envelope.
fn metadata(envelope: &[u8]) -> Result<(String, Version), Malformed> {
    let text = |message: &[u8], number, what| {
        let found = field(message, number).and_then(|bytes| std::str::from_utf8(bytes).ok());
        found.filter(|text| !text.is_empty()).map(str::to_owned).ok_or(Malformed::Missing(what))
    };
    let found = text(field(envelope, 1).ok_or(Malformed::Missing("type"))?, 2, "kind")?;
    if found != "PartialObjectMetadata" {
        return Err(Malformed::Kind { found, expected: "PartialObjectMetadata".to_owned() });
    }
    let metadata = field(envelope, 2).and_then(|raw| field(raw, 1)).ok_or(Malformed::Missing("metadata"))?;
    let revision = text(metadata, 6, "metadata.resourceVersion")?.parse().unwrap_or(0);
    let version = Version { uid: text(metadata, 5, "metadata.uid")?, revision };
    Ok((text(metadata, 1, "metadata.name")?, version))
}

/// The first field of this number, which is one of bytes.
fn field(mut message: &[u8], number: u64) -> Option<&[u8]> {
    loop {
        let key = varint(&mut message)?;
        match key & 7 {
            0 => drop(varint(&mut message)?),
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                let value = message.get(..length)?;
                message = message.get(length..)?;
                if key >> 3 == number {
                    return Some(value);
                }
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        field.extend_from_slice(content);
        field
    }

    fn answer(kind: &str, metadata: &[(u8, &str)]) -> Vec<u8> {
        let metadata: Vec<u8> = metadata.iter().flat_map(|(number, text)| bytes(*number, text.as_bytes())).collect();
        let r#type = [bytes(1, b"meta.k8s.io/v1"), bytes(2, kind.as_bytes())].concat();
        // A number before it, as a generation is, is passed over.
        let metadata = [vec![7 << 3, 0x96, 0x01], metadata].concat();
        [MAGIC.to_vec(), bytes(1, &r#type), bytes(2, &bytes(1, &metadata))].concat()
    }

    #[test]
    fn a_version_is_read_of_both_forms_and_of_nothing_else() {
        let expected = Version { uid: "u".to_owned(), revision: 7 };
        let fields = [(1, "n"), (3, "kube-node-lease"), (5, "u"), (6, "7")];
        let good = answer("PartialObjectMetadata", &fields);
        assert_eq!(version(&good, "Lease", "n"), Ok(expected.clone()));
        let json = br#"{"kind": "Lease", "metadata": {"name": "n", "uid": "u", "resourceVersion": "7"}}"#;
        assert_eq!(version(json, "Lease", "n"), Ok(expected));
        for (body, why) in [
            (good.clone(), "it is of `n`, not of `other`"),
            (answer("Status", &fields), "of kind `Status`"),
            (answer("PartialObjectMetadata", &fields[..3]), "metadata.resourceVersion"),
            (answer("PartialObjectMetadata", &[(1, "n"), (6, "7")]), "metadata.uid"),
            (br#"{"kind": "Status"}"#.to_vec(), "metadata"),
            (b"<html>".to_vec(), "not JSON"),
        ] {
            let error = version(&body, "Lease", "other").unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        for end in 0..good.len() {
            assert!(version(&good[..end], "Lease", "n").is_err(), "{end}");
        }
    }
}
