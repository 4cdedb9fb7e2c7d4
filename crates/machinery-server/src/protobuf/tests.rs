use proptest::prelude::*;
use serde_json::json;

use super::*;

/// More than any test sends.
const VALUES_MAX: usize = 1000;

fn decode(body: &[u8]) -> Result<Value, DecodeError> {
    super::decode(body, VALUES_MAX)
}

/// A field with bytes in it.
pub(crate) fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let (mut tag, mut len) = (vec![number << 3 | 2], bytes.len());
    while len >= 0x80 {
        tag.push((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    tag.push(len as u8);
    [&tag, bytes].concat()
}

fn number(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

pub(crate) fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let names = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [protobuf::MAGIC, &field(1, &names), &field(2, message), &field(3, b""), &field(4, b"")].concat()
}

#[test]
fn a_message_becomes_the_json_that_its_author_would_have_written() {
    let entry = |key: &[u8], value: &[u8]| [field(1, key), field(2, value)].concat();
    let metadata = [
        field(1, b"settings"),
        field(2, b""),
        number(7, 0),
        field(8, b""),
        field(11, &entry(b"app", b"web")),
        field(14, b"example.org/hold"),
    ]
    .concat();
    let message =
        [field(1, &metadata), field(2, &entry(b"a", b"")), field(3, &entry(b"b", &[0, 255])), number(4, 1)].concat();
    let expected = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "settings", "labels": {"app": "web"}, "finalizers": ["example.org/hold"]},
        "data": {"a": ""}, "binaryData": {"b": "AP8="}, "immutable": true,
    });
    assert_eq!(decode(&envelope("v1", "ConfigMap", &message)).unwrap(), expected);
}

#[test]
fn zero_is_a_grace_period_and_no_generation() {
    let options = [number(1, 0), field(4, b"Background"), field(5, b"All")].concat();
    let expected = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
        "propagationPolicy": "Background", "dryRun": ["All"]});
    assert_eq!(decode(&envelope("v1", "DeleteOptions", &options)).unwrap(), expected);
}

#[test]
fn values_are_counted_and_what_is_in_a_text_is_none() {
    let text = envelope("v1", "ConfigMap", &field(2, &field(2, &b"\n\0".repeat(1_000_000))));
    assert_eq!(super::decode(&text, 1).unwrap()["data"][""].as_str().map(str::len), Some(2_000_000));
    let finalizers = |count: usize| field(1, &field(14, b"").repeat(count));
    let entries = |count: usize| field(2, b"").repeat(count);
    let usages = |count: usize| field(2, &field(5, b"").repeat(count));
    for (version, kind, most, more) in [
        ("v1", "ConfigMap", finalizers(9), finalizers(10)),
        ("v1", "ConfigMap", entries(10), entries(11)),
        ("certificates.k8s.io/v1", "CertificateSigningRequest", usages(9), usages(10)),
    ] {
        assert!(super::decode(&envelope(version, kind, &most), 10).is_ok());
        assert_eq!(super::decode(&envelope(version, kind, &more), 10), Err(DecodeError::TooMany { max: 10 }));
    }
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    for (body, part) in [
        (envelope("v1", "Nothing", b""), "no kind \"Nothing\" is registered for version \"v1\""),
        (envelope("v1", "ConfigMap", &[10, 100]), "unexpected EOF"),
        (envelope("v1", "ConfigMap", &number(2, 1)), "wrong wireType"),
        (b"{}".to_vec(), "does not appear to be a protobuf message"),
    ] {
        let error = decode(&body).unwrap_err().to_string();
        assert!(error.contains(part), "{error} has no {part}");
    }
    // As upstream: what a newer client knows besides is skipped.
    let newer = decode(&envelope("v1", "ConfigMap", &field(1, &field(15, b"x")))).expect("it is skipped");
    assert_eq!(newer["metadata"], json!({}));
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = decode(&bytes);
        let _ = decode(&[protobuf::MAGIC, &bytes].concat());
        let short = &bytes[..bytes.len().min(40)];
        for kind in ["ConfigMap", "CertificateSigningRequest", "DeleteOptions"] {
            let _ = decode(&envelope("v1", kind, short));
        }
    }
}
