//! Tests of `csr`: its decisions, as data.

use base_pki::{KeyPair, San, make_csr};

use super::verdict::{SIGNER_CLIENT, SIGNER_NODE_CLIENT};
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
            "request": base64_text::encode(csr.as_bytes()), "signerName": signer, "username": username, "groups": [group],
            "usages": ["digital signature", usage],
        },
    })
}

const NODE: (&str, &str) = ("system:node:gw-1", "system:nodes");

/// What becomes of a request when the hub is known as `hub.example.com` and `192.0.2.1`, and the node, if there is one,
/// has these addresses.
fn check_with(request: &Value, addresses: Option<&[&str]>, expected: &str) {
    let text = request.to_string();
    let view: CsrView<'_> = serde_json::from_str(&text).unwrap();
    let policy =
        NamePolicy { hub_names: ["localhost", "hub.example.com", "kubernetes", "192.0.2.1"].map(San::from).to_vec() };
    let addresses: Option<String> =
        addresses.map(|list| Value::from_iter(list.iter().map(|address| json!({"address": address}))).to_string());
    let addresses: Option<Vec<hub_runtime::views::NodeAddress<'_>>> =
        addresses.as_ref().map(|text| serde_json::from_str(text).unwrap());
    let verdict =
        || match pem(&view.spec.request).and_then(|pem| base_pki::parse_csr(&pem).map_err(|error| error.to_string())) {
            Ok(info) => verdict::judge(&view.spec, &info, NodeFacts { addresses: addresses.as_deref() }, &policy),
            Err(reason) => Verdict::Fail(reason),
        };
    let shown = match step(state(&view), verdict, (0, 0), false) {
        Step::Wait => "wait".to_owned(),
        Step::Approve => "approve".to_owned(),
        Step::Sign(usage) => format!("sign {usage:?}"),
        Step::Fail(_, reason) => format!("fail: {reason}"),
        Step::Delete => "delete".to_owned(),
    };
    assert!(shown.starts_with(expected), "expected {expected}, was {shown}");
}

fn check(request: &Value, expected: &str) {
    check_with(request, Some(&["gw-1", "10.0.0.7", "gw-1.example.com"]), expected);
}

#[test]
fn a_bootstrap_token_may_request_for_a_node() {
    let bootstrapper =
        |subject| request(SIGNER_NODE_CLIENT, "system:bootstrap:a", "system:bootstrappers", subject, &[]);
    check_with(&bootstrapper(NODE), None, "approve");
    check(&bootstrapper(("system:node:", "system:nodes")), "fail: common name");
    check(&bootstrapper(("admin", "system:nodes")), "fail: common name");
    check(&bootstrapper(("system:node:gw-1", "system:masters")), "fail: certificates for the group system:masters");
}

#[test]
fn a_node_may_request_for_itself_only() {
    check(&request(SIGNER_NODE_CLIENT, NODE.0, "system:nodes", NODE, &[]), "approve");
    check(&request(SIGNER_NODE_CLIENT, "system:node:gw-2", "system:nodes", NODE, &[]), "wait");
    check(&request(SIGNER_NODE_SERVING, NODE.0, "system:nodes", NODE, &[]), "fail: a serving certificate");
    check(&request(SIGNER_NODE_SERVING, "system:bootstrap:a", "system:bootstrappers", NODE, &["gw-1"]), "wait");
}

#[test]
fn a_serving_certificate_names_what_the_node_has_reported() {
    let serving = |sans: &[&str]| request(SIGNER_NODE_SERVING, NODE.0, "system:nodes", NODE, sans);
    check(&serving(&["gw-1", "10.0.0.7", "127.0.0.1", "localhost", "gw-1.example.com"]), "approve");
    for foreign in ["10.0.0.1", "192.168.1.1", "192.0.2.1", "gw-2", "hub"] {
        check(&serving(&["gw-1", foreign]), "wait");
    }
    for of_hub in ["hub.example.com", "HUB.example.com", "kubernetes"] {
        check(&serving(&["gw-1", of_hub]), "fail: Dns(");
    }
    // Before the node is registered nothing is known of it: the request waits.
    check_with(&serving(&["gw-1"]), None, "wait");
}

#[test]
fn no_node_bears_a_name_of_the_hub() {
    let named = |node: &str, signer| {
        let cn = format!("system:node:{node}");
        let sans: &[&str] = if signer == SIGNER_NODE_SERVING { &["x"] } else { &[] };
        request(signer, &cn, "system:nodes", (&cn, "system:nodes"), sans)
    };
    for signer in [SIGNER_NODE_CLIENT, SIGNER_NODE_SERVING] {
        check(&named("hub.example.com", signer), "fail: hub.example.com is a name of the hub");
        check(&named("kubernetes", signer), "fail: kubernetes is a name of the hub");
    }
    check(&named("kubernetes-edge-1", SIGNER_NODE_CLIENT), "approve");
    let cn = "system:node:kubernetes-edge-1";
    let honest = request(SIGNER_NODE_SERVING, cn, "system:nodes", (cn, "system:nodes"), &["kubernetes-edge-1"]);
    check_with(&honest, Some(&[]), "approve");
}

#[test]
fn what_is_approved_is_signed_once() {
    let mut one = request(SIGNER_NODE_CLIENT, NODE.0, "system:nodes", NODE, &[]);
    one["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}]});
    check(&one, "sign Client");
    one["status"]["certificate"] = json!("signed");
    check(&one, "wait");
    one["status"] = json!({"conditions": [{"type": "Denied", "status": "True"}]});
    check(&one, "wait");
}

#[test]
fn a_person_decides_about_other_clients() {
    let mut one = request(SIGNER_CLIENT, "dev", "developers", ("dev", "developers"), &[]);
    check(&one, "wait");
    one["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}]});
    check(&one, "sign Client");
    one["spec"]["signerName"] = json!("example.org/other");
    check(&one, "wait");
}

#[test]
fn what_is_no_request_fails() {
    let mut one = request(SIGNER_NODE_CLIENT, NODE.0, "system:nodes", NODE, &[]);
    one["spec"]["usages"] = json!(["client auth", "server auth"]);
    check(&one, "fail: usage `server auth`");
    one["spec"]["request"] = json!("*");
    check(&one, "fail: spec.request is not base64");
    one["spec"]["request"] = json!("a".repeat(REQUEST_BYTES_MAX + 1));
    check(&one, "fail: spec.request is larger than");
}

#[test]
fn one_sender_cannot_fill_the_hub_with_requests() {
    let pending = |others| step(State::Pending, || Verdict::NeedsApproval(Usage::Client, ""), others, false);
    assert_eq!(pending((PENDING_MAX - 1, PENDING_MAX - 1)), Step::Wait);
    assert!(matches!(pending((PENDING_MAX, PENDING_MAX)), Step::Fail("TooManyRequests", _)));
    assert_eq!(pending((0, UNSIGNED_MAX)), Step::Delete);
    // Boxes that share a token with one whose requests are denied all the time, or that come all at once.
    let full = (PENDING_MAX, UNSIGNED_MAX);
    assert_eq!(step(State::Pending, || Verdict::AutoApprove(Usage::Client), full, false), Step::Approve);
    let mut memory = Memory::default();
    let text = json!({"metadata": {"uid": "u"}, "spec": {"username": "a"}}).to_string();
    let view: CsrView<'_> = serde_json::from_str(&text).unwrap();
    memory.note("one", &view, State::Pending);
    memory.note("two", &view, State::Failed);
    assert_eq!(memory.others("one", "a"), (0, 1));
    assert_eq!(memory.others("three", "a"), (1, 2));
    memory.note("one", &view, State::Signed);
    memory.forget("two");
    assert_eq!((memory.others("three", "a"), memory.unsigned.len()), ((0, 0), 0));
}

#[test]
fn requests_end_as_upstreams_cleaner_has_it() {
    let minutes = |status: Value, state: State, group: &str| {
        let metadata = json!({"creationTimestamp": "2026-01-01T00:00:00Z"});
        let object = json!({"metadata": metadata, "spec": {"groups": [group]}, "status": status}).to_string();
        let view: CsrView<'_> = serde_json::from_str(&object).unwrap();
        let created: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        kept_until(&view, state).duration_since(created).as_mins()
    };
    let hours = |status: Value, state: State| minutes(status, state, "system:nodes") / 60;
    assert_eq!(hours(json!({}), State::Pending), 24);
    let decided = |r#type: &str| json!({"conditions": [{"type": r#type, "lastUpdateTime": "2026-01-01T05:00:00Z"}]});
    assert_eq!(hours(decided("Denied"), State::Denied), 6);
    assert_eq!(hours(decided("Approved"), State::Signed), 6);
    assert_eq!(step(State::Signed, || Verdict::Ignore, (0, 0), true), Step::Delete);
    let of_token = |r#type: &str, state| minutes(decided(r#type), state, "system:bootstrappers");
    assert_eq!(of_token("Denied", State::Denied), 5 * 60 + 5);
    assert_eq!(of_token("Failed", State::Failed), 6 * 60);
}

#[tokio::test]
async fn a_request_that_a_person_decides_about_ends_in_its_time() {
    let api = crate::testing::TestApi::start().await;
    // A bootstrapper by its groups, without a token: nothing binds its key.
    let jane = api.as_user("jane", &["system:masters", "system:bootstrappers"]);
    let mut one = request(SIGNER_NODE_CLIENT, "jane", "system:bootstrappers", NODE, &[]);
    one["apiVersion"] = json!("certificates.k8s.io/v1");
    one["kind"] = json!("CertificateSigningRequest");
    jane.create(Kind::CertificateSigningRequest, one).await.unwrap().unwrap();
    let ca = |name| Arc::new(Ca::create(name).unwrap());
    let authorities = Authorities { client: ca("client"), serving: ca("serving") };
    let csr = Csr::new(api.context.clone(), authorities, NamePolicy { hub_names: Vec::new() });
    assert_eq!(csr.reconcile(&"r".into()).await.unwrap(), Next::After(DEADLINE_MAX));
    let held = api.find(Kind::CertificateSigningRequest, ("", "r")).await.unwrap();
    assert!(held["status"]["conditions"].is_null(), "{held}");
}
