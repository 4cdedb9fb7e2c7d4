use serde_json::json;

use super::*;
use crate::kit::Errors;

/// A request that is signed by the key it names, and the same with one bit of its signature changed.
const SIGNED: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIak1JR0tBZ0VBTUNneEVqQVFCZ05WQkFvTUNXTmhjMlV0ZEdWaGJURVNNQkFHQTFVRUF3d0pZMkZ6WlMxMQpjMlZ5TUZrd0V3WUhLb1pJemowQ0FRWUlLb1pJemowREFRY0RRZ0FFTUtPWW1KSGh1RWdwa0dDV3dYbTY1QXQ3CjJiY3NMSkJNZVFhdEN5Uk5HajFKb1JUTWl1Q2dUa0lDTnVnZ0xyN2F5N0dyUUJUbzZzZjRMMjZFT0ZOempLQUEKTUFvR0NDcUdTTTQ5QkFNQ0EwZ0FNRVVDSVFDeWhVZzdLc054cnRCVjlnaWdHR2p2dWd3b0ZUQUplMDRJQnNHWQpVck5YOWdJZ2NIc1BCUkRtb2VFdFFQWUR5TnAvejB2UDNGS1FtcnJLSDNYTWlOU2ZuTkk9Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQptb3JlIHRleHQK";
const FORGED: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIak1JR0tBZ0VBTUNneEVqQVFCZ05WQkFvTUNXTmhjMlV0ZEdWaGJURVNNQkFHQTFVRUF3d0pZMkZ6WlMxMWMyVnlNRmt3RXdZSEtvWkl6ajBDQVFZSUtvWkl6ajBEQVFjRFFnQUVNS09ZbUpIaHVFZ3BrR0NXd1htNjVBdDcyYmNzTEpCTWVRYXRDeVJOR2oxSm9SVE1pdUNnVGtJQ051Z2dMcjdheTdHclFCVG82c2Y0TDI2RU9GTnpqS0FBTUFvR0NDcUdTTTQ5QkFNQ0EwZ0FNRVVDSVFDeWhVZzdLc054cnRCVjlnaWdHR2p2dWd3b0ZUQUplMDRJQnNHWVVyTlg5Z0lnY0hzUEJSRG1vZUV0UVBZRHlOcC96MHZQM0ZLUW1ycktIM1hNaU5TZm5OTT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg==";
/// Four zero bytes in the armour of a request.
const ZEROS: &str =
    "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KQUFBQQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K";

fn request(text: &str) -> Value {
    json!({"metadata": {"name": "a"}, "spec": {"request": text, "signerName": "example.com/a", "usages": ["client auth"]}})
}

fn lines(check: impl Fn(&Value, &mut Errors), object: &Value) -> Vec<String> {
    let mut errors = Errors::default();
    check(object, &mut errors);
    errors.into_vec().iter().map(ToString::to_string).collect()
}

#[test]
fn a_request_is_signed_by_the_key_it_names() {
    assert_eq!(lines(rules::create, &request(SIGNED)), [""; 0]);
    let check = |text: &str, end: &str| {
        let found = lines(rules::create, &request(text));
        assert!(found.len() == 1 && found[0].ends_with(end), "{found:?}");
    };
    check(FORGED, ": x509: ECDSA verification failure");
    check(
        ZEROS,
        ": asn1: structure error: tags don't match (16 vs {class:0 tag:0 length:0 isCompound:false}) {optional:false explicit:false application:false private:false defaultValue:<nil> tag:<nil> stringType:0 timeType:0 set:false omitEmpty:false} certificateRequest @2",
    );
    check("bm8gcGVtIGF0IGFsbA==", ": PEM block type must be CERTIFICATE REQUEST");
    let mut none = request("");
    none["spec"].unset("request");
    assert_eq!(
        lines(rules::create, &none),
        ["spec.request: Invalid value: null: PEM block type must be CERTIFICATE REQUEST"]
    );
}

#[test]
fn a_signer_has_a_domain_and_a_path() {
    let check = |name: &str, expected: &[&str]| {
        let mut object = request(SIGNED);
        object["spec"]["signerName"] = name.into();
        let found = lines(rules::create, &object);
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (line, part) in found.iter().zip(expected) {
            assert!(line.starts_with(&format!("spec.signerName: {part}")), "{line}");
        }
    };
    check("kubernetes.io/kubelet-serving", &[]);
    check("kubernetes.io/legacy-unknown", &["Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName"]);
    check("example/a", &["Invalid value: \"example\": should be a domain with at least two segments"]);
    check(
        "/a",
        &["Invalid value: \"\": validating label \"\": a lowercase", "Invalid value: \"\": should be a domain"],
    );
    check("example.com/", &["Invalid value: \"\": validating label \"\": a lowercase RFC 1123 subdomain"]);
    check("example.com/a/b", &["Invalid value: \"example.com/a/b\": must be a fully qualified domain and path"]);
    check("", &["Required value"]);
}

#[test]
fn each_writer_has_its_part() {
    let mut old = request(SIGNED);
    old["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}], "certificate": "eA=="});
    let with = |status: Value| {
        let mut new = old.clone();
        new["status"] = status;
        new
    };
    let update =
        |writer: rules::Writer, new: &Value| lines(|new, errors| rules::update(new, &old, writer, errors), new);
    assert_eq!(
        update(rules::Writer::Approver, &with(json!({"certificate": "eA=="}))),
        ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
    );
    let denied = json!([{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]);
    assert_eq!(
        update(rules::Writer::Signer, &with(json!({"certificate": "eA==", "conditions": denied}))),
        [
            "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
            "status.conditions: Forbidden: updates may not add a condition of type \"Denied\"",
        ]
    );
    assert_eq!(
        update(rules::Writer::Signer, &with(json!({"conditions": old["status"]["conditions"]}))),
        ["status.certificate: Forbidden: updates may not modify existing certificate content"]
    );
}

#[test]
fn conditions_get_their_times() {
    let since = "2026-01-01T00:00:00Z";
    let old = json!({"status": {"conditions": [
        {"type": "Approved", "status": "True", "reason": "x", "lastUpdateTime": since, "lastTransitionTime": since},
    ]}});
    let mut new = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "y"}]}});
    let approval = SIGNING_REQUEST.parts[1].prepare;
    approval(&mut new, &old);
    let condition = &new["status"]["conditions"][0];
    assert_eq!((&condition["reason"], &condition["lastTransitionTime"]), (&json!("y"), &json!(since)));
    assert_ne!(condition["lastUpdateTime"], since);
    // The signer does not decide.
    let mut new = json!({"status": {"certificate": "x", "conditions": [{"type": "Approved", "reason": "z"}]}});
    (SIGNING_REQUEST.parts[0].prepare)(&mut new, &old);
    assert_eq!(new["status"]["conditions"], old["status"]["conditions"]);
}
