//! Kubernetes' protobuf, both ways.
//!
//! Input: a byte that chooses a type, then a message of it, or an object as JSON. What can be read is written, and read again as the
//! same; an envelope is opened whatever it holds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use machinery_schema::types::Type;
use machinery_schema::{decode, protobuf};
use serde_json::Value;

/// More than an object of a fuzzer has.
const VALUES_MAX: usize = 10_000;

fuzz_target!(|input: &[u8]| {
    let _ = protobuf::open(input);
    let Some((&choice, rest)) = input.split_first() else { return };
    let kinds: Vec<Type> = machinery_schema::types::all_kinds().collect();
    let of = kinds[usize::from(choice) % kinds.len()];
    let object = match serde_json::from_slice::<Value>(rest) {
        Ok(object) => object,
        Err(_) => match protobuf::decode(of, rest, VALUES_MAX) {
            Ok(object) => Value::Object(object),
            Err(_) => return,
        },
    };
    check(of, object);
});

fn check(of: Type, mut object: Value) {
    if decode::decode(of, &mut object).is_err() {
        return;
    }
    decode::complete(of, &mut object);
    let mut once = object.clone();
    decode::complete(of, &mut once);
    assert_eq!(once, object, "what is complete stays as it is");

    let encoded = protobuf::encode(of, &object);
    let Ok(read) = protobuf::decode(of, &encoded, 100 * VALUES_MAX) else { return };
    let mut read = Value::Object(read);
    decode::decode(of, &mut read).expect("what we write has the right types");
    let again = protobuf::encode(of, &read);
    let mut twice = Value::Object(protobuf::decode(of, &again, 100 * VALUES_MAX).expect("what we write can be read"));
    decode::decode(of, &mut twice).expect("what we write has the right types");
    assert_eq!(twice, read);
}
