use serde_json::{Value, json};

use crate::harness::{Api, node, pod};

const PODS: &str = "/api/v1/namespaces/a/pods";

async fn read(api: &Api, of: &str, path: &str) -> u16 {
    api.call(&node(of), "GET", path, Value::Null).await.code
}

#[tokio::test]
async fn a_node_reads_what_its_pods_refer_to_and_nothing_else() {
    let api = Api::start().await;
    for name in ["own", "other"] {
        api.create("/api/v1/namespaces/a/secrets", json!({"metadata": {"name": name}})).await;
        api.create("/api/v1/namespaces/a/configmaps", json!({"metadata": {"name": name}})).await;
    }
    let secrets = "/api/v1/namespaces/a/secrets";
    assert_eq!(read(&api, "n1", &format!("{secrets}/own")).await, 403);
    let volumes = json!({"nodeName": "n1", "volumes": [
        {"name": "s", "secret": {"secretName": "own"}}, {"name": "c", "configMap": {"name": "own"}},
    ]});
    api.create(PODS, pod("p", volumes)).await;
    assert_eq!(read(&api, "n1", &format!("{secrets}/own")).await, 200);
    assert_eq!(read(&api, "n1", "/api/v1/namespaces/a/configmaps/own").await, 200);
    assert_eq!(read(&api, "n1", &format!("{secrets}?fieldSelector=metadata.name%3Down")).await, 200);
    for path in [format!("{secrets}/other"), secrets.to_owned(), "/api/v1/namespaces/b/secrets/own".to_owned()] {
        assert_eq!(read(&api, "n1", &path).await, 403, "{path}");
    }
    let refused = api.call(&node("n2"), "GET", &format!("{secrets}/own"), Value::Null).await;
    refused.check(403, "no relationship found between node 'n2' and this object");
    api.call(crate::harness::admin(), "DELETE", &format!("{PODS}/p?gracePeriodSeconds=0"), Value::Null).await.ok();
    assert_eq!(read(&api, "n1", &format!("{secrets}/own")).await, 403);
}

#[tokio::test]
async fn a_node_reads_the_volumes_of_its_pods_claims_and_the_secrets_of_their_drivers() {
    let api = Api::start().await;
    api.create("/api/v1/namespaces/b/secrets", json!({"metadata": {"name": "login"}})).await;
    let volume = json!({"metadata": {"name": "v"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "claimRef": {"namespace": "a", "name": "data"},
        "csi": {"driver": "d", "volumeHandle": "h", "nodePublishSecretRef": {"namespace": "b", "name": "login"}},
    }});
    api.create("/api/v1/persistentvolumes", volume).await;
    for path in ["/api/v1/persistentvolumes/v", "/api/v1/namespaces/b/secrets/login"] {
        assert_eq!(read(&api, "n1", path).await, 403, "{path}");
    }
    let claim = json!({"nodeName": "n1", "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]});
    api.create(PODS, pod("p", claim)).await;
    for path in ["/api/v1/persistentvolumes/v", "/api/v1/namespaces/b/secrets/login"] {
        assert_eq!(read(&api, "n1", path).await, 200, "{path}");
        assert_eq!(read(&api, "n2", path).await, 403, "{path}");
    }
}

#[tokio::test]
async fn a_node_lists_its_own_pods_and_reads_its_own_node() {
    let api = Api::start().await;
    api.create(PODS, pod("p", json!({"nodeName": "n1"}))).await;
    let list = |node: &str| format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}");
    assert_eq!(read(&api, "n1", &list("n1")).await, 200);
    for path in [list("n2"), "/api/v1/pods".to_owned()] {
        let refused = api.call(&node("n1"), "GET", &path, Value::Null).await;
        refused.check(403, "can only list/watch pods with spec.nodeName field selector");
    }
    api.call(&node("n1"), "POST", "/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await.ok();
    assert_eq!(read(&api, "n1", "/api/v1/nodes/n1").await, 200);
    let refused = api.call(&node("n2"), "GET", "/api/v1/nodes/n1", Value::Null).await;
    refused.check(403, "node 'n2' cannot read 'n1', only its own Node object");
}

#[tokio::test]
async fn a_node_writes_its_own_node_and_no_label_that_draws_pods() {
    let api = Api::start().await;
    let nodes = "/api/v1/nodes";
    let own = |labels: Value| json!({"metadata": {"name": "n1", "labels": labels}});
    api.call(&node("n2"), "POST", nodes, own(json!({})))
        .await
        .check(403, r#"node "n2" is not allowed to modify node "n1""#);
    let restricted = own(json!({"node-restriction.kubernetes.io/x": "y", "kubernetes.io/other": "z"}));
    api.call(&node("n1"), "POST", nodes, restricted).await.check(
        403,
        r#"node "n1" is not allowed to set the following labels: kubernetes.io/other, node-restriction.kubernetes.io/x"#,
    );
    let labels = json!({"kubernetes.io/hostname": "n1", "node.kubernetes.io/x": "y", "example.com/mine": "z"});
    api.call(&node("n1"), "POST", nodes, own(labels)).await.ok();
    let path = "/api/v1/nodes/n1";
    let taint = json!({"spec": {"taints": []}});
    api.call(&node("n1"), "PATCH", path, taint).await.check(403, r#"node "n1" is not allowed to modify taints"#);
}

#[tokio::test]
async fn a_node_gets_tokens_for_its_own_pods_and_audiences_that_they_ask_for() {
    let api = Api::start().await;
    let tokens = "/api/v1/namespaces/a/serviceaccounts/default/token";
    let made = api.create(PODS, pod("p", json!({"nodeName": "n1"}))).await;
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": made["metadata"]["uid"]});
    let ask = |spec: Value| api.call(&NODE, "POST", tokens, json!({"spec": spec}));
    static NODE: std::sync::LazyLock<machinery_server::Identity> = std::sync::LazyLock::new(|| node("n1"));
    ask(json!({"boundObjectRef": bound})).await.ok();
    ask(json!({})).await.check(403, "node requested token not bound to a pod");
    ask(json!({"boundObjectRef": bound, "audiences": ["vault"]}))
        .await
        .check(403, r#"audience "vault" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience"#);
    let refused = api.call(&node("n2"), "POST", tokens, json!({"spec": {"boundObjectRef": bound}})).await;
    refused.check(403, "no relationship found between node 'n2' and this object");
}
