use base64::Engine as _;
use serde_json::{Value, json};

use super::*;

fn node(name: &str) -> Identity {
    Identity::new(format!("system:node:{name}"), ["system:nodes"])
}

#[tokio::test]
async fn nobody_learns_more_than_version_and_health() {
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
async fn a_bootstrap_token_is_its_secrets_as_long_as_that_says_so() {
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
        let peer =
            base_http::Peer { addr: base_http::PeerAddr::Unix, client_cert: None, is_certificate_expected: true };
        hub.server.identify(&peer, &headers).ok().flatten()
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
    // A token that is changed is looked at anew, and one that is deleted is none.
    let name = format!("{secrets}/bootstrap-token-abcdef");
    let patch = json!({"data": {"token-secret": encode("fedcba9876543210")}});
    assert_eq!(hub.patch(&name, "merge-patch", patch).await.code, 200);
    assert_eq!(authenticate("abcdef.0123456789abcdef"), None);
    assert!(authenticate("abcdef.fedcba9876543210").is_some());
    assert_eq!(hub.call("DELETE", &name, Value::Null).await.code, 200);
    assert_eq!(authenticate("abcdef.fedcba9876543210"), None);
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

/// Sends a request with further headers as an administrator, or as another.
async fn with_headers(hub: &Hub, identity: &Identity, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if method == "POST" { "{}" } else { "" };
    answer(hub.raw(Some(identity), request.body(body.to_owned()).unwrap()).await).await
}

const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

#[tokio::test]
async fn a_request_in_anothers_name_is_the_others() {
    let hub = Hub::start().await;
    let admin = &Identity::controllers();
    hub.create(CONFIG_MAPS, config_map("x", json!({}), json!({}))).await;
    let bob = &[("Impersonate-User", "bob")];
    let who = with_headers(&hub, admin, "POST", WHOAMI, bob).await;
    assert_eq!(who.body["status"]["userInfo"], json!({"username": "bob", "groups": ["system:authenticated"]}));
    for (method, path) in [("DELETE", format!("{CONFIG_MAPS}/x")), ("GET", "/api/v1/secrets".to_owned())] {
        let refused = with_headers(&hub, admin, method, &path, bob).await;
        refused.check(403, "Forbidden", r#"User "bob" cannot "#);
    }
    assert_eq!(hub.get(&format!("{CONFIG_MAPS}/x")).await.code, 200);
    let full = [
        ("Impersonate-User", "jane"),
        ("Impersonate-Group", "team-a"),
        ("Impersonate-Group", "team-b"),
        ("Impersonate-Uid", "1234"),
        ("Impersonate-Extra-Acme.com%2Fproject", "some"),
    ];
    let who = with_headers(&hub, admin, "POST", WHOAMI, &full).await;
    assert_eq!(
        who.body["status"]["userInfo"],
        json!({
            "username": "jane", "uid": "1234", "groups": ["team-a", "team-b", "system:authenticated"],
            "extra": {"acme.com/project": ["some"]},
        })
    );
    let account = [("Impersonate-User", "system:serviceaccount:default:robot")];
    let who = with_headers(&hub, admin, "POST", WHOAMI, &account).await;
    let groups = json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]);
    assert_eq!(who.body["status"]["userInfo"]["groups"], groups);
    let anonymous = with_headers(&hub, admin, "GET", "/api", &[("Impersonate-User", "system:anonymous")]).await;
    anonymous.check(403, "Forbidden", "system:anonymous");
    // Whoever may impersonate the administrators' group is one.
    let masters = [("Impersonate-User", "jane"), ("Impersonate-Group", "system:masters")];
    assert_eq!(with_headers(&hub, admin, "GET", "/api/v1/secrets", &masters).await.code, 200);
}

#[tokio::test]
async fn nobody_impersonates_without_permission_and_no_such_header_is_ignored() {
    let hub = Hub::start().await;
    let refused = with_headers(&hub, &node("gw-1"), "POST", WHOAMI, &[("Impersonate-User", "system:node:gw-2")]).await;
    refused.check(
        403,
        "Forbidden",
        r#"User "system:node:gw-1" cannot impersonate-on:arbitrary-node:create resource "selfsubjectreviews" in API group "authentication.k8s.io" at the cluster scope"#,
    );
    let admin = &Identity::controllers();
    for (headers, part) in [
        (&[("Impersonate-Group", "a")][..], "without impersonating a user"),
        (&[("Impersonate-Uid", "a")], "without impersonating a user"),
        (&[("Impersonate-Extra-x", "a")], "without impersonating a user"),
        (&[("Impersonate-User", "a"), ("Impersonate-User", "b")], "once only"),
        (&[("Impersonate-User", "")], "is empty"),
        (&[("Impersonate-User", "a"), ("Impersonate-Role", "b")], "is not known"),
    ] {
        with_headers(&hub, admin, "POST", WHOAMI, headers).await.check(400, "BadRequest", part);
    }
    let request = http::Request::get("/version").header("Impersonate-User", "bob").body(String::new()).unwrap();
    assert_eq!(hub.raw(None, request).await.status(), 401);
}

/// Collects events.
#[derive(Default)]
struct Events(std::sync::Mutex<Vec<Value>>);

impl crate::Audit for Events {
    fn record(&self, event: &crate::AuditEvent<'_>) {
        self.0.lock().unwrap().push(event.to_json());
    }
}

#[tokio::test]
async fn writes_and_requests_in_anothers_name_are_audited() {
    let dir = tempfile::tempdir().unwrap();
    let events = Arc::new(Events::default());
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let server = Server::new(ServerConfig { audit: Some(events.clone()), ..ServerConfig::new(store) }).unwrap();
    let hub = Hub { server, shutdown: CancellationToken::new(), dir };
    hub.create("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await;
    hub.get("/api/v1/namespaces/default").await;
    with_headers(&hub, &Identity::controllers(), "GET", &format!("{CONFIG_MAPS}/a"), &[("Impersonate-User", "bob")])
        .await;
    // What a fleet does all day, and what nobody known tries, would displace the rest.
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    hub.send(&node("gw-1"), "POST", leases, "application/json", "{}").await;
    let request = http::Request::post(CONFIG_MAPS).header("user-agent", "x".repeat(5000)).body(String::new()).unwrap();
    assert_eq!(hub.raw(None, request).await.status(), 401);
    let long = format!("{CONFIG_MAPS}?fieldManager={}", "x".repeat(5000));
    hub.send(&node("gw-1"), "POST", &long, "application/json", "{}").await;
    let events = events.0.lock().unwrap();
    let long = events.last().unwrap();
    assert_eq!(long["requestURI"].as_str().unwrap().len(), 1024);
    let seen: Vec<_> =
        events.iter().take(events.len() - 1).map(|event| (&event["verb"], &event["responseStatus"]["code"])).collect();
    assert_eq!(seen, [(&json!("create"), &json!(201)), (&json!("get"), &json!(403))]);
    assert_eq!(events[0]["objectRef"], json!({"resource": "namespaces", "apiVersion": "v1"}));
    assert_eq!(events[1]["user"]["username"], "system:selvedge:controllers");
    assert_eq!(events[1]["impersonatedUser"]["username"], "bob");
    assert_eq!(events[1]["objectRef"]["name"], "a");
}

#[tokio::test]
async fn a_question_about_oneself_is_small() {
    let hub = Hub::start().await;
    let long = json!({"spec": {"padding": "x".repeat(65 * 1024)}}).to_string();
    let answer = hub.send(&node("gw-1"), "POST", WHOAMI, "application/json", &long).await;
    answer.check(413, "RequestEntityTooLarge", "limit is 65536");
}

#[tokio::test]
async fn who_may_do_what_can_be_asked_of_others_by_administrators() {
    let hub = Hub::start().await;
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let ask = |user: &str, groups: Value| json!({"spec": {"user": user, "groups": groups, "resourceAttributes": {"verb": "list", "resource": "secrets"}}});
    for (question, allowed) in [(ask("jane", json!(["system:masters"])), true), (ask("jane", json!([])), false)] {
        let answer = hub.call("POST", reviews, question).await;
        assert_eq!((answer.code, &answer.body["status"]["allowed"]), (201, &json!(allowed)), "{}", answer.body);
    }
    let refused = hub.send(&node("gw-1"), "POST", reviews, "application/json", "{}").await;
    refused.check(403, "Forbidden", "cannot create resource \"subjectaccessreviews\"");
}
