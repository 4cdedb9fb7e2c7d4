//! Tests of `csr`: its decisions, as data.

use base_pki::{KeyPair, make_csr};

use super::*;

/// A request by `username` in `group`, for a certificate of `cn`, `org` and `sans`.
fn request(signer: &str, username: &str, group: &str, subject: (&str, &str), sans: &[&str]) -> Value {
    let key = KeyPair::generate().unwrap();
    let sans: Vec<San> = sans.iter().map(|san| San::from(*san)).collect();
    let csr = make_csr(&key, subject.0, &[subject.1.to_owned()], &sans).unwrap();
    let usage = if signer == SIGNER_NODE_SERVING { "server auth" } else { "client auth" };
    json!({
        "metadata": {"name": "r"},
        "spec": {
            "request": BASE64.encode(csr), "signerName": signer, "username": username, "groups": [group],
            "usages": ["digital signature", usage],
        },
    })
}

const NODE: (&str, &str) = ("system:node:gw-1", "system:nodes");

fn check(request: &Value, expected: &str) {
    let shown = match step(request) {
        Step::Nothing => "nothing".to_owned(),
        Step::Approve => "approve".to_owned(),
        Step::Sign(usage) => format!("sign {usage:?}"),
        Step::Fail(reason) => format!("fail: {reason}"),
    };
    assert!(shown.starts_with(expected), "expected {expected}, was {shown}");
}

#[test]
fn a_bootstrap_token_may_ask_for_a_node() {
    let bootstrapper =
        |subject| request(SIGNER_NODE_CLIENT, "system:bootstrap:a", "system:bootstrappers", subject, &[]);
    check(&bootstrapper(NODE), "approve");
    check(&bootstrapper(("system:node:", "system:nodes")), "fail: common name");
    check(&bootstrapper(("admin", "system:nodes")), "fail: common name");
    check(&bootstrapper(("system:node:gw-1", "system:masters")), "fail: certificates for the group system:masters");
}

#[test]
fn a_node_may_ask_for_itself_only() {
    check(&request(SIGNER_NODE_CLIENT, NODE.0, "system:nodes", NODE, &[]), "approve");
    check(&request(SIGNER_NODE_CLIENT, "system:node:gw-2", "system:nodes", NODE, &[]), "nothing");
    check(&request(SIGNER_NODE_SERVING, NODE.0, "system:nodes", NODE, &["gw-1", "10.0.0.7"]), "approve");
    check(&request(SIGNER_NODE_SERVING, NODE.0, "system:nodes", NODE, &["hub"]), "fail: Dns(\"hub\") is not a name");
    check(&request(SIGNER_NODE_SERVING, NODE.0, "system:nodes", NODE, &[]), "fail: a serving certificate");
    check(&request(SIGNER_NODE_SERVING, "system:bootstrap:a", "system:bootstrappers", NODE, &["gw-1"]), "nothing");
}

#[test]
fn what_is_approved_is_signed_once() {
    let mut one = request(SIGNER_NODE_CLIENT, NODE.0, "system:nodes", NODE, &[]);
    one["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}]});
    check(&one, "sign Client");
    let ca = Ca::create("test").unwrap();
    one["status"]["certificate"] = json!(BASE64.encode(sign(&ca, &one, Usage::Client).unwrap()));
    check(&one, "nothing");
    one["status"] = json!({"conditions": [{"type": "Denied", "status": "True"}]});
    check(&one, "nothing");
}

#[test]
fn a_person_decides_about_other_clients() {
    let mut one = request(SIGNER_CLIENT, "dev", "developers", ("dev", "developers"), &[]);
    check(&one, "nothing");
    one["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}]});
    check(&one, "sign Client");
    one["spec"]["signerName"] = json!("example.org/other");
    check(&one, "nothing");
}

#[test]
fn what_is_no_request_fails() {
    let mut one = request(SIGNER_NODE_CLIENT, NODE.0, "system:nodes", NODE, &[]);
    one["spec"]["usages"] = json!(["client auth", "server auth"]);
    check(&one, "fail: usage `server auth`");
    one["spec"]["request"] = json!("*");
    check(&one, "fail: spec.request is not base64");
}
