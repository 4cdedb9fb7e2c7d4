use base64::Engine as _;
use serde_json::{Value, json};

use super::*;

fn node(name: &str) -> Identity {
    Identity::new(format!("system:node:{name}"), ["system:nodes"])
}

async fn check(hub: &Hub, identity: &Identity, method: &str, path: &str, body: Value, code: u16) {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let answer = hub.send(identity, method, path, media, &text).await;
    assert_eq!(answer.code, code, "{} {method} {path}: {}", identity.user, answer.body);
}

#[tokio::test]
async fn nobody_is_told_only_version_and_health() {
    let hub = Hub::start().await;
    for (path, code) in [
        ("/version", 200),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/api", 401),
        ("/api/v1/pods", 401),
        ("/nothing", 401),
    ] {
        let answer = answer(hub.raw(None, http::Request::get(path).body(String::new()).unwrap()).await).await;
        assert_eq!(answer.code, code, "{path}");
        if code == 401 {
            answer.check(401, "Unauthorized", "Unauthorized");
        }
    }
}

#[tokio::test]
async fn a_node_reads_and_writes_what_is_its_own() {
    let hub = Hub::start().await;
    let gw = &node("gw-1");
    check(&hub, gw, "POST", "/api/v1/nodes", json!({"metadata": {"name": "gw-2"}}), 403).await;
    let restricted = |value: Value| json!({"metadata": {"labels": {"node-restriction.kubernetes.io/zone": value}}});
    let mut trusted = restricted(json!("a"));
    trusted["metadata"]["name"] = "gw-1".into();
    check(&hub, gw, "POST", "/api/v1/nodes", trusted, 403).await;
    let taints = json!([{"key": "a", "effect": "NoSchedule"}]);
    let tainted = json!({"metadata": {"name": "gw-1"}, "spec": {"taints": taints}});
    check(&hub, gw, "POST", "/api/v1/nodes", tainted, 201).await;
    // An administrator says more of it; what a node sends along unchanged is no change.
    assert_eq!(hub.patch("/api/v1/nodes/gw-1", "merge-patch", restricted(json!("a"))).await.code, 200);
    check(&hub, gw, "PATCH", "/api/v1/nodes/gw-1", restricted(json!("a")), 200).await;
    check(&hub, gw, "PATCH", "/api/v1/nodes/gw-1", restricted(Value::Null), 403).await;
    check(&hub, &node("gw-2"), "POST", "/api/v1/nodes", json!({"metadata": {"name": "gw-2"}}), 201).await;
    hub.create(PODS, pod("own", "gw-1")).await;
    hub.create(PODS, pod("other", "gw-2")).await;
    for name in ["settings", "private"] {
        hub.create(CONFIG_MAPS, config_map(name, json!({}), json!({}))).await;
    }
    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let status = || json!({"status": {"phase": "Running"}});
    for (method, path, body, code) in [
        ("GET", "/api/v1/nodes/gw-1", Value::Null, 200),
        ("GET", "/api/v1/nodes/gw-2", Value::Null, 403),
        ("GET", "/api/v1/nodes", Value::Null, 403),
        ("GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dgw-1", Value::Null, 200),
        ("PATCH", "/api/v1/nodes/gw-1/status", json!({"status": {}}), 200),
        ("PATCH", "/api/v1/nodes/gw-2/status", json!({"status": {}}), 403),
        ("PATCH", "/api/v1/nodes/gw-1", json!({"metadata": {"labels": {"room": "b", "kubernetes.io/arch": "x"}}}), 200),
        ("PATCH", "/api/v1/nodes/gw-1", json!({"metadata": {"labels": {"kubernetes.io/cluster": "x"}}}), 403),
        ("PATCH", "/api/v1/nodes/gw-1", restricted(json!("b")), 403),
        ("PATCH", "/api/v1/nodes/gw-1", json!({"spec": {"taints": null}}), 403),
        ("DELETE", "/api/v1/nodes/gw-1", Value::Null, 403),
        ("GET", "/api/v1/pods", Value::Null, 403),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dgw-1", Value::Null, 200),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dgw-2", Value::Null, 403),
        ("GET", "/api/v1/namespaces/default/pods/own", Value::Null, 200),
        ("GET", "/api/v1/namespaces/default/pods/other", Value::Null, 403),
        ("PATCH", "/api/v1/namespaces/default/pods/own/status", status(), 200),
        ("PATCH", "/api/v1/namespaces/default/pods/other/status", status(), 403),
        ("PATCH", "/api/v1/namespaces/default/pods/own", json!({}), 403),
        ("DELETE", "/api/v1/namespaces/default/pods/other", Value::Null, 403),
        ("POST", PODS, pod("new", "gw-1"), 403),
        ("GET", "/api/v1/namespaces/default/configmaps/settings", Value::Null, 200),
        ("GET", "/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Dsettings", Value::Null, 200),
        ("GET", "/api/v1/namespaces/default/configmaps/private", Value::Null, 403),
        ("GET", "/api/v1/namespaces/default/configmaps", Value::Null, 403),
        ("PATCH", "/api/v1/namespaces/default/configmaps/settings", json!({}), 403),
        ("GET", "/api/v1/namespaces/default/secrets/settings", Value::Null, 403),
        ("GET", "/api/v1/secrets", Value::Null, 403),
        ("POST", leases, lease("gw-2"), 403),
        ("POST", leases, lease("gw-1"), 201),
        ("GET", "/api/v1/namespaces/default", Value::Null, 200),
        ("GET", "/apis/node.k8s.io/v1/runtimeclasses", Value::Null, 200),
        ("GET", "/apis/apps/v1/daemonsets", Value::Null, 403),
        ("GET", "/apis", Value::Null, 200),
    ] {
        check(&hub, gw, method, path, body, code).await;
    }
    let refused = hub.send(gw, "GET", "/api/v1/secrets", "", "").await;
    refused.check(
        403,
        "Forbidden",
        r#"User "system:node:gw-1" cannot list resource "secrets" in API group "" at the cluster scope"#,
    );
}

#[tokio::test]
async fn a_node_reads_its_own_assignment_only() {
    let hub = Hub::start().await;
    let crd = api_edge::crds::all().into_iter().find(|crd| crd["spec"]["names"]["kind"] == "NodeAssignment").unwrap();
    hub.create(CRDS, crd).await;
    let assignments = "/apis/edge.selvedge.dev/v1alpha1/nodeassignments";
    for (name, node) in [("gw-1", "gw-1"), ("gw-1.part-1", "gw-1"), ("gw-10", "gw-10")] {
        let labels = json!({api_edge::LABEL_NODE: node});
        hub.create(assignments, json!({"metadata": {"name": name, "labels": labels}, "spec": {"nodeName": node}}))
            .await;
    }
    let gw = &node("gw-1");
    for (path, code) in [
        ("/gw-1", 200),
        ("/gw-1.part-1", 200),
        ("/gw-10", 403),
        ("", 403),
        ("?labelSelector=selvedge.dev%2Fnode%3Dgw-1", 200),
        ("?labelSelector=selvedge.dev%2Fnode%3Dgw-10", 403),
    ] {
        check(&hub, gw, "GET", &format!("{assignments}{path}"), Value::Null, code).await;
    }
    let status = json!({"status": {"observedGeneration": 1}});
    check(&hub, gw, "PATCH", &format!("{assignments}/gw-1/status"), status.clone(), 200).await;
    check(&hub, gw, "PATCH", &format!("{assignments}/gw-10/status"), status.clone(), 403).await;
    check(&hub, gw, "PATCH", &format!("{assignments}/gw-1"), status, 403).await;
}

#[tokio::test]
async fn a_bootstrap_token_asks_for_a_certificate_and_for_nothing_else() {
    let hub = Hub::start().await;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let secret = |id: &str, expiration: &str| {
        json!({"metadata": {"name": format!("bootstrap-token-{id}")}, "type": "bootstrap.kubernetes.io/token", "data": {
            "token-id": encode(id), "token-secret": encode("0123456789abcdef"), "expiration": encode(expiration),
            "usage-bootstrap-authentication": encode("true"),
        }})
    };
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    hub.create(secrets, secret("abcdef", "2999-01-01T00:00:00Z")).await;
    hub.create(secrets, secret("fedcba", "2020-01-01T00:00:00Z")).await;
    let authenticate = |token: &str| {
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        crate::auth::authenticate(&hub.server.0.store, None, &headers, jiff::Timestamp::now()).ok().flatten()
    };
    for bad in [
        "abcdef.0123456789abcdee",
        "fedcba.0123456789abcdef",
        "aaaaaa.0123456789abcdef",
        "abcdef",
        "..",
        "abcdef.0123456789abcdef.x",
    ] {
        assert_eq!(authenticate(bad), None, "{bad}");
    }
    let identity = &authenticate("abcdef.0123456789abcdef").unwrap();
    assert_eq!(identity.user, "system:bootstrap:abcdef");

    let key = base_pki::KeyPair::generate().unwrap();
    let pem = base_pki::make_csr(&key, "system:node:gw-1", &["system:nodes".to_owned()], &[]).unwrap();
    let csr = json!({"metadata": {"name": "node-csr-1"}, "spec": {
        "request": encode(&pem), "signerName": "kubernetes.io/kube-apiserver-client-kubelet", "usages": ["client auth", "digital signature"],
    }});
    let csrs = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    check(&hub, identity, "POST", csrs, csr, 201).await;
    let one = format!("{csrs}/node-csr-1");
    check(&hub, identity, "GET", &one, Value::Null, 200).await;
    check(&hub, identity, "PUT", &format!("{one}/approval"), json!({}), 403).await;
    check(&hub, identity, "GET", csrs, Value::Null, 403).await;
    check(&hub, &Identity::new("system:bootstrap:other1", ["system:bootstrappers"]), "GET", &one, Value::Null, 403)
        .await;
    check(&hub, identity, "GET", "/api/v1/nodes", Value::Null, 403).await;
    assert_eq!(hub.get(&one).await.body["spec"]["username"], "system:bootstrap:abcdef");
}

#[tokio::test]
async fn everyone_may_ask_who_they_are_and_what_they_may() {
    let hub = Hub::start().await;
    let ask =
        |verb: &str, resource: &str| json!({"spec": {"resourceAttributes": {"verb": verb, "resource": resource}}});
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    for (identity, allowed) in [(Identity::controllers(), true), (node("gw-1"), false)] {
        let answer =
            hub.send(&identity, "POST", reviews, "application/json", &ask("list", "secrets").to_string()).await;
        assert_eq!((answer.code, &answer.body["status"]["allowed"]), (201, &json!(allowed)));
    }
    let who = hub
        .send(&node("gw-1"), "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", "application/json", "{}")
        .await;
    assert_eq!(who.body["status"]["userInfo"]["username"], "system:node:gw-1");
}
