use std::{fs, io::Read as _, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::decode;

const VALUES_MAX: usize = 100_000;

/// Objects as Go encodes them, in JSON and in protobuf; `SELVEDGE_PROTOBUF` names a file with more.
fn vectors() -> Vec<Value> {
    let text = match std::env::var_os("SELVEDGE_PROTOBUF") {
        Some(path) => fs::read_to_string(path).expect("the file is readable"),
        None => {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/kubernetes/protobuf-1.36.jsonl.gz");
            let packed = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let mut text = String::new();
            flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).expect("vectors are gzip");
            text
        }
    };
    text.lines().map(|line| serde_json::from_str(line).expect("vectors are JSON")).collect()
}

/// Protobuf does not know an empty list or map from one that is not there.
fn without_empty(value: &Value) -> Value {
    match value {
        Value::Array(items) if items.is_empty() => Value::Null,
        Value::Object(members) if members.is_empty() => Value::Null,
        Value::Array(items) => items.iter().map(without_empty).collect(),
        Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), without_empty(value))).collect(),
        other => other.clone(),
    }
}

fn type_of(object: &Value) -> Type {
    let api_version = object["apiVersion"].as_str().expect("an object names its version");
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = object["kind"].as_str().expect("an object names its kind");
    Type::of_kind(group, version, kind).unwrap_or_else(|| panic!("{api_version} {kind} is published"))
}

#[test]
fn base64_that_was_stored_before_it_was_canonical_keeps_its_bytes() {
    let of = Type::of_kind("", "v1", "Secret").expect("Secrets are published");
    let stored = json!({"data": {"broken": "?", "loose": "eB==", "wrapped": "QUJD\r\nREVG\n"}});
    let read = decode(of, &encode(of, &stored), VALUES_MAX).expect("it is whole");
    assert_eq!(read["data"], json!({"broken": "Pw==", "loose": "eA==", "wrapped": "QUJDREVG"}));
}

#[test]
fn objects_encode_to_the_bytes_of_go_and_back() {
    let vectors = vectors();
    assert!(vectors.len() > 100, "{}", vectors.len());
    for vector in vectors {
        let bytes = STANDARD.decode(vector["proto"].as_str().expect("a text")).expect("base64");
        let mut expected = vector["json"].clone();
        // Neither form of Go's says what kind an object within an object is.
        let claims = expected.pointer_mut("/spec/volumeClaimTemplates").and_then(Value::as_array_mut);
        for claim in claims.into_iter().flatten().filter_map(Value::as_object_mut) {
            claim.remove("apiVersion");
            claim.remove("kind");
        }
        let expected = &expected;
        let of = type_of(expected);
        // Raw extensions keep the order of their keys in Go; ours are sorted.
        let mut object = expected.clone();
        decode::decode(of, &mut object).unwrap_or_else(|error| panic!("{error}: {expected}"));
        let encoded = encode_sealed(of, &object);

        let envelope = open(&bytes).expect("an envelope");
        let mut read = Value::Object(super::decode(of, envelope.raw, VALUES_MAX).expect("a message"));
        read["apiVersion"] = envelope.api_version.clone().into();
        read["kind"] = envelope.kind.clone().into();
        decode::decode(of, &mut read).expect("types are right");
        decode::complete(of, &mut read);
        assert_eq!(without_empty(&read), without_empty(expected), "decoded");

        let envelope = open(&encoded).expect("an envelope");
        let mut again = Value::Object(super::decode(of, envelope.raw, VALUES_MAX).expect("a message"));
        again["apiVersion"] = envelope.api_version.into();
        again["kind"] = envelope.kind.into();
        decode::decode(of, &mut again).expect("types are right");
        decode::complete(of, &mut again);
        assert_eq!(without_empty(&again), without_empty(expected), "encoded and decoded");
        let has_raw = bytes.windows(2).any(|pair| pair == b"{\"");
        assert!(encoded == bytes || has_raw, "{expected}\n{encoded:?}\n{bytes:?}");
    }
}

#[test]
fn a_watch_event_is_framed_by_its_length() {
    let frame = frame_event("ADDED", b"k8s\0");
    assert_eq!(frame, [&[0, 0, 0, 15][..], b"\x0a\x05ADDED\x12\x06\x0a\x04k8s\0"].concat());
}

#[test]
fn what_nests_or_counts_too_much_is_rejected() {
    let of = Type::of_kind("", "v1", "Pod").expect("pods are published");
    let many = [0x12, 0x02, 0x12, 0x00].repeat(1000);
    assert_eq!(super::decode(of, &many, 100), Err(ReadError::TooMany { max: 100 }));
    assert!(super::decode(of, &[0x0a, 0x05, 0x00], 100).is_err(), "it is cut");
    // A JSON schema in `not` of a JSON schema in …
    let schemas = Type::json_schema();
    let field = schemas.field("not").expect("schemas have it");
    let mut raw = Vec::new();
    for _ in 0..200 {
        let mut outer = Vec::new();
        write::bytes_field(&mut outer, field.tag(), &raw);
        raw = outer;
    }
    assert!(matches!(super::decode(schemas, &raw, 10_000), Err(ReadError::Malformed(_))));
}

proptest! {
    #[test]
    fn no_bytes_make_us_panic(raw in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..20_usize) {
        let of = crate::types::all_kinds().nth(kind * 7).expect("there are many");
        if let Ok(object) = super::decode(of, &raw, 1000) {
            let mut object = Value::Object(object);
            if decode::decode(of, &mut object).is_ok() {
                let encoded = encode(of, &object);
                let mut again = Value::Object(super::decode(of, &encoded, 10_000).expect("what we write can be read"));
                decode::decode(of, &mut again).expect("and has the right types");
                decode::complete(of, &mut object);
                decode::complete(of, &mut again);
                prop_assert_eq!(again, object);
            }
        }
        let _ = open(&raw);
    }
}

#[test]
fn a_list_holds_its_items_as_they_were_encoded() {
    let of = Type::of_kind("", "v1", "ConfigMap").expect("config maps are published");
    let one = encode(of, &json!({"metadata": {"name": "a"}, "data": {"k": "v"}}));
    let list = seal_list("v1", "ConfigMapList", &json!({"resourceVersion": "7"}), [&one[..], &one[..]]);
    let envelope = open(&list).expect("an envelope");
    let of = Type::of_kind("", "v1", "ConfigMapList").expect("lists are published");
    let mut read = Value::Object(super::decode(of, envelope.raw, 1000).expect("a list"));
    decode::decode(of, &mut read).expect("types are right");
    let item = json!({"metadata": {"name": "a"}, "data": {"k": "v"}});
    assert_eq!(read, json!({"metadata": {"resourceVersion": "7"}, "items": [item, item]}));
}
