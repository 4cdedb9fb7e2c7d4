use serde_json::{Value, json};

use crate::harness::{Api, admin, user};

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/a/roles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/a/rolebindings";
const CLUSTER_ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";

fn role(name: &str, rules: Value) -> Value {
    json!({"metadata": {"name": name}, "rules": rules})
}

fn binding(name: &str, kind: &str, role: &str, user: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    })
}

fn rule(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!({"verbs": verbs, "apiGroups": [group], "resources": resources})
}

#[tokio::test]
async fn what_is_granted_may_be_done_at_once_and_what_is_taken_back_no_longer() {
    let api = Api::start().await;
    let alice = user("alice");
    let maps = "/api/v1/namespaces/a/configmaps";
    let refused = r#"configmaps is forbidden: User "alice" cannot list resource "configmaps" in API group "" in the namespace "a""#;
    api.call(&alice, "GET", maps, Value::Null).await.check(403, refused);
    api.create(ROLES, role("reader", json!([rule(&["list"], "", &["configmaps"])]))).await;
    api.create(BINDINGS, binding("alice", "Role", "reader", "alice")).await;
    api.call(&alice, "GET", maps, Value::Null).await.ok();
    api.call(&alice, "GET", "/api/v1/configmaps", Value::Null).await.check(403, "at the cluster scope");
    api.call(admin(), "DELETE", &format!("{BINDINGS}/alice"), Value::Null).await.ok();
    api.call(&alice, "GET", maps, Value::Null).await.check(403, refused);
}

#[tokio::test]
async fn nobody_grants_what_it_does_not_hold() {
    let api = Api::start().await;
    let alice = user("alice");
    let writes_roles = rule(&["create", "update", "patch"], "rbac.authorization.k8s.io", &["roles", "rolebindings"]);
    api.create(ROLES, role("lord", json!([writes_roles, rule(&["get"], "", &["configmaps"])]))).await;
    api.create(BINDINGS, binding("alice", "Role", "lord", "alice")).await;
    let held = role("held", json!([rule(&["get"], "", &["configmaps"])]));
    api.call(&alice, "POST", ROLES, held).await.ok();
    let more = role("more", json!([rule(&["get", "list"], "", &["configmaps"])]));
    api.call(&alice, "POST", ROLES, more).await.check(
        403,
        "user \"alice\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"configmaps\"], Verbs:[\"list\"]}",
    );
    let patch = json!({"rules": [rule(&["*"], "*", &["*"])]});
    api.call(&alice, "PATCH", &format!("{ROLES}/held"), patch).await.check(403, "not currently held");
    api.call(&alice, "POST", BINDINGS, binding("x", "ClusterRole", "cluster-admin", "alice"))
        .await
        .check(403, "not currently held");
    api.call(&alice, "POST", BINDINGS, binding("x", "Role", "ghost", "alice"))
        .await
        .check(404, r#"rolebindings.rbac.authorization.k8s.io "ghost" not found"#);
    // Who may bind a role may do so, and who may escalate may write any.
    let bind = json!({
        "verbs": ["bind"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["view"],
    });
    api.create(ROLES, role("binder", json!([bind]))).await;
    api.create(BINDINGS, binding("binder", "Role", "binder", "alice")).await;
    api.call(&alice, "POST", BINDINGS, binding("view", "ClusterRole", "view", "bob")).await.ok();
    let escalate = json!([rule(&["escalate"], "rbac.authorization.k8s.io", &["roles"])]);
    api.create(ROLES, role("escalator", escalate)).await;
    api.create(BINDINGS, binding("escalator", "Role", "escalator", "alice")).await;
    let all = role("all", json!([rule(&["*"], "*", &["*"])]));
    api.call(&alice, "POST", ROLES, all).await.ok();
}

#[tokio::test]
async fn the_default_roles_are_there_and_the_aggregated_ones_are_filled() {
    let api = Api::start().await;
    let get = |name: &str| {
        let path = format!("{CLUSTER_ROLES}/{name}");
        async { api.call(admin(), "GET", &{ path }, Value::Null).await.ok() }
    };
    let view = get("view").await;
    assert_eq!(view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"], "true");
    let grants = |role: &Value, resource: &str| {
        role["rules"]
            .as_array()
            .unwrap()
            .iter()
            .any(|rule| rule["resources"].as_array().is_some_and(|all| all.contains(&json!(resource))))
    };
    assert!(grants(&view, "pods") && !grants(&view, "secrets"));
    for (role, resource) in [("edit", "secrets"), ("admin", "rolebindings"), ("admin", "pods/log")] {
        assert!(grants(&get(role).await, resource), "{role} {resource}");
    }
    // What somebody has taken away is there again after the next start.
    api.call(admin(), "PATCH", &format!("{CLUSTER_ROLES}/system:discovery"), json!({"rules": []})).await.ok();
    api.call(admin(), "DELETE", &format!("{CLUSTER_ROLES}/system:basic-user"), Value::Null).await.ok();
    api.access.bootstrap(&api.server).await.unwrap();
    assert!(!get("system:discovery").await["rules"].as_array().unwrap().is_empty());
    assert!(grants(&get("system:basic-user").await, "selfsubjectaccessreviews"));
}

#[tokio::test]
async fn who_is_not_known_sees_the_version_and_nothing_else() {
    let api = Api::start().await;
    for path in ["/version", "/healthz", "/livez", "/readyz"] {
        assert_eq!(api.send("GET", path, &[], Value::Null).await.code, 200, "{path}");
    }
    api.send("GET", "/api", &[], Value::Null).await.check(403, r#"User "system:anonymous" cannot get path "/api""#);
    let pods = r#"pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" at the cluster scope"#;
    api.send("GET", "/api/v1/pods", &[], Value::Null).await.check(403, pods);
    // A false credential is none, and not nobody's.
    api.with_token("false", "GET", "/version", Value::Null).await.check(401, "Unauthorized");
}

#[tokio::test]
async fn what_one_may_do_is_listed_and_reasoned() {
    let api = Api::start().await;
    api.create(ROLES, role("reader", json!([rule(&["get"], "", &["configmaps"])]))).await;
    api.create(BINDINGS, binding("alice", "Role", "reader", "alice")).await;
    let ask = json!({"spec": {"user": "alice", "resourceAttributes": {"namespace": "a", "verb": "get", "resource": "configmaps"}}});
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let status = api.call(admin(), "POST", reviews, ask).await.ok()["status"].clone();
    let reason = r#"RBAC: allowed by RoleBinding "alice/a" of Role "reader" to User "alice""#;
    assert_eq!(status, json!({"allowed": true, "reason": reason}));
    let rules = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let listed = api.call(&user("alice"), "POST", rules, json!({"spec": {"namespace": "a"}})).await.ok();
    let own = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"]});
    assert!(listed["status"]["resourceRules"].as_array().unwrap().contains(&own), "{listed}");
    assert_eq!(listed["status"]["incomplete"], false);
    api.call(admin(), "POST", reviews, json!({"spec": {}}))
        .await
        .check(422, "exactly one of nonResourceAttributes or resourceAttributes");
}

#[tokio::test]
async fn a_signer_approves_and_signs_what_it_may_alone() {
    let api = Api::start().await;
    let key = base_pki::KeyPair::generate().unwrap();
    let request = |cn: &str, orgs: &[&str], signer: &str| {
        use base64::Engine as _;
        let orgs: Vec<String> = orgs.iter().map(|org| (*org).to_owned()).collect();
        let pem = base_pki::make_csr(&key, cn, &orgs, &[]).unwrap();
        let encoded = base64::engine::general_purpose::STANDARD.encode(pem);
        json!({"metadata": {"name": "r"}, "spec": {"signerName": signer, "request": encoded, "usages": ["client auth"]}})
    };
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let client = "kubernetes.io/kube-apiserver-client";
    api.call(admin(), "POST", path, request("eve", &["system:masters"], client))
        .await
        .check(403, "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed");
    api.call(admin(), "POST", path, request("eve", &["team"], "example.com/own")).await.ok();
    let rules =
        json!([rule(&["get", "update", "patch"], "certificates.k8s.io", &["certificatesigningrequests/approval"])]);
    api.create(CLUSTER_ROLES, role("approver", rules)).await;
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    api.create(bindings, binding("approver", "ClusterRole", "approver", "alice")).await;
    let approve = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "r"}]}});
    let approval = format!("{path}/r/approval");
    api.call(&user("alice"), "PATCH", &approval, approve.clone())
        .await
        .check(403, r#"user not permitted to approve requests with signerName "example.com/own""#);
    let domain = json!([{
        "verbs": ["approve"], "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["example.com/*"],
    }]);
    api.create(CLUSTER_ROLES, role("signers", domain)).await;
    api.create(bindings, binding("signers", "ClusterRole", "signers", "alice")).await;
    api.call(&user("alice"), "PATCH", &approval, approve).await.ok();
}

#[tokio::test]
async fn acting_as_somebody_else_needs_rights_of_one_of_the_ways() {
    let api = Api::start().await;
    api.create(
        CLUSTER_ROLES,
        role("as", json!([rule(&["impersonate:user-info"], "authentication.k8s.io", &["users"])])),
    )
    .await;
    let on = rule(&["impersonate-on:user-info:list"], "", &["configmaps"]);
    api.create(CLUSTER_ROLES, role("on", json!([on]))).await;
    api.create(CLUSTER_ROLES, role("maps", json!([rule(&["list"], "", &["configmaps", "secrets"])]))).await;
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    for (name, to) in [("as", "proxy"), ("on", "proxy"), ("maps", "alice")] {
        api.create(bindings, binding(name, "ClusterRole", name, to)).await;
    }
    let send = async |path: &'static str| {
        let request = http::Request::get(path).header("impersonate-user", "alice");
        let body = http_body_util::BodyExt::boxed_unsync(http_body_util::BodyExt::map_err(
            http_body_util::Empty::<bytes::Bytes>::new(),
            |never| match never {},
        ));
        api.server.handle(request.body(body).unwrap(), Some(&user("proxy"))).await.status().as_u16()
    };
    assert_eq!(send("/api/v1/configmaps").await, 200);
    // Alice may, and the proxy may not do this as her.
    assert_eq!(send("/api/v1/secrets").await, 403);
}
