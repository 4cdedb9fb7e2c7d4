//! What the bearer of a bootstrap token may do.

use machinery_server::Identity;
use serde_json::{Value, json};

use crate::harness::{CSRS, Hub, csr, node};

fn token(id: &str) -> Identity {
    Identity::new(format!("system:bootstrap:{id}"), ["system:bootstrappers"])
}

#[tokio::test]
async fn a_bootstrap_token_requests_a_certificate_and_nothing_else() {
    let hub = Hub::start().await;
    let mine = &token("abcdef");
    hub.check(mine, "POST", CSRS, csr("node-csr-1", "gw-1"), 201).await;
    let one = &format!("{CSRS}/node-csr-1");
    hub.check(mine, "GET", one, Value::Null, 200).await;
    hub.check(mine, "GET", &format!("{CSRS}?fieldSelector=metadata.name%3Dnode-csr-1"), Value::Null, 200).await;
    hub.check(mine, "GET", &format!("{CSRS}/absent"), Value::Null, 404).await;
    hub.check(mine, "PUT", &format!("{one}/approval"), json!({}), 403).await;
    hub.check(mine, "GET", CSRS, Value::Null, 403).await;
    // A list or watch of what is not there yet might show another's tomorrow.
    hub.check(mine, "GET", &format!("{CSRS}?fieldSelector=metadata.name%3Dabsent"), Value::Null, 403).await;
    hub.check(&token("other1"), "GET", one, Value::Null, 403).await;
    hub.check(&node("gw-2"), "GET", one, Value::Null, 403).await;
    hub.check(mine, "GET", "/api/v1/nodes", Value::Null, 403).await;
    hub.check(mine, "GET", "/api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef", Value::Null, 403).await;
    assert_eq!(hub.call("GET", one, Value::Null).await.body["spec"]["username"], "system:bootstrap:abcdef");
}

#[tokio::test]
async fn a_request_for_a_name_that_no_node_may_have_is_rejected_at_once() {
    let hub = Hub::start().await;
    for (name, part) in [
        ("victim.part-1", "further part"),
        ("hub.example.com", "name of the hub"),
        ("Kubernetes", "name of the hub"),
        ("localhost", "name of the hub"),
    ] {
        let answer = hub.check(&token("abcdef"), "POST", CSRS, csr("x", name), 403).await;
        assert!(answer.message().contains(part), "{name}: {}", answer.message());
        assert!(answer.message().contains("--node-name"), "{}", answer.message());
    }
    // Names that only look like those.
    for (at, name) in ["kubernetes-edge-1", "victim.part-x", "victim.part-1.site"].iter().enumerate() {
        hub.check(&token("abcdef"), "POST", CSRS, csr(&format!("good-{at}"), name), 201).await;
    }
}

#[tokio::test]
async fn a_request_for_a_bad_name_is_rejected_before_its_token_is_used() {
    let hub = Hub::start().await;
    for name in ["AbC", "../../etc", "é", ".", "-x", "a\nb", "a\0b", "a b", " ", &"a".repeat(64)] {
        let answer = hub.check(&token("abcdef"), "POST", CSRS, csr("x", name), 403).await;
        assert!(answer.message().contains("bad name"), "{name:?}: {}", answer.message());
        assert!(!answer.message().contains(char::is_control), "{:?}", answer.message());
    }
}

#[tokio::test]
async fn a_request_keeps_nothing_for_its_sender() {
    let hub = Hub::start().await;
    let owners = json!([{"apiVersion": "v1", "kind": "Node", "name": "gw-2", "uid": "0"}]);
    for (field, value) in [
        ("finalizers", json!(["x.io/mine"])),
        ("ownerReferences", owners),
        ("annotations", json!({"a": "z".repeat(1024)})),
    ] {
        for sender in [&token("abcdef"), &node("gw-1")] {
            let mut request = csr("x", "gw-1");
            request["metadata"][field] = value.clone();
            let answer = hub.check(sender, "POST", CSRS, request, 422).await;
            assert!(answer.message().contains(&format!("metadata.{field}")), "{}", answer.message());
        }
    }
    let mut request = csr("x", "gw-1");
    request["metadata"]["annotations"] = json!({"a": "z".repeat(1000)});
    hub.check(&token("abcdef"), "POST", CSRS, request, 201).await;
}

#[tokio::test]
async fn requests_of_one_token_are_small_and_few() {
    let hub = Hub::start().await;
    let mut long = csr("long", "gw-1");
    long["spec"]["request"] = "A".repeat(32 * 1024).into();
    let answer = hub.check(&token("abcdef"), "POST", CSRS, long, 422).await;
    assert!(answer.message().contains("spec.request"), "{}", answer.message());
    let request = csr("many", "gw-1");
    let mut codes = Vec::new();
    for number in 0..40 {
        let mut request = request.clone();
        request["metadata"]["name"] = format!("many-{number}").into();
        codes.push(hub.send(&token("abcdef"), "POST", CSRS, request).await.code);
    }
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 30);
    assert_eq!(codes.last(), Some(&429));
    // Others join meanwhile.
    hub.check(&token("fedcba"), "POST", CSRS, csr("other", "gw-2"), 201).await;
    // Boxes of other names as well, whose token it is too: what was rejected did not cost them anything.
    let mut joined = 0;
    for number in 0..400 {
        let name = format!("shared-{number}");
        match hub.send(&token("abcdef"), "POST", CSRS, csr(&name, &name)).await.code {
            201 => joined += 1,
            code => assert_eq!(code, 429),
        }
    }
    assert_eq!(joined, 270);
}
