use serde_json::{Value, json};

use crate::harness::{Api, ISSUER, admin, pod};

const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const TOKEN: &str = "/api/v1/namespaces/a/serviceaccounts/default/token";

async fn token(api: &Api, spec: Value) -> String {
    let asked = api.call(admin(), "POST", TOKEN, json!({"spec": spec})).await.ok();
    asked["status"]["token"].as_str().expect("a token").to_owned()
}

async fn review(api: &Api, spec: Value) -> Value {
    api.call(admin(), "POST", REVIEWS, json!({"spec": spec})).await.ok()["status"].clone()
}

#[tokio::test]
async fn a_token_speaks_as_its_service_account_until_that_is_deleted() {
    let api = Api::start().await;
    let token = token(&api, json!({})).await;
    let who = api.with_token(&token, "POST", WHOAMI, json!({})).await.ok()["status"]["userInfo"].clone();
    assert_eq!(who["username"], "system:serviceaccount:a:default");
    assert_eq!(who["groups"], json!(["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]));
    assert!(who["extra"]["authentication.kubernetes.io/credential-id"][0].as_str().unwrap().starts_with("JTI="));
    let status = review(&api, json!({"token": token})).await;
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!([ISSUER])));

    api.call(admin(), "DELETE", "/api/v1/namespaces/a/serviceaccounts/default", Value::Null).await.ok();
    api.with_token(&token, "POST", WHOAMI, json!({})).await.check(401, "Unauthorized");
    let status = review(&api, json!({"token": token})).await;
    assert_eq!(status["error"], r#"[invalid bearer token, serviceaccounts "default" not found]"#);
    // One of the same name is another.
    api.create("/api/v1/namespaces/a/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let status = review(&api, json!({"token": token})).await;
    assert!(status["error"].as_str().unwrap().contains("does not match claim"), "{status}");
}

#[tokio::test]
async fn a_token_that_is_bound_to_a_pod_ends_with_the_pod() {
    let api = Api::start().await;
    let made = api.create("/api/v1/namespaces/a/pods", pod("p", json!({}))).await;
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": made["metadata"]["uid"]});
    let token = token(&api, json!({"boundObjectRef": bound})).await;
    let who = api.with_token(&token, "POST", WHOAMI, json!({})).await.ok();
    let extra = &who["status"]["userInfo"]["extra"];
    assert_eq!(extra["authentication.kubernetes.io/pod-name"], json!(["p"]));
    api.call(admin(), "DELETE", "/api/v1/namespaces/a/pods/p?gracePeriodSeconds=0", Value::Null).await.ok();
    api.with_token(&token, "POST", WHOAMI, json!({})).await.check(401, "Unauthorized");
    let error = &review(&api, json!({"token": token})).await["error"];
    assert_eq!(error, "[invalid bearer token, service account token has been invalidated]");
}

#[tokio::test]
async fn what_a_token_is_bound_to_must_be_there_and_be_meant() {
    let api = Api::start().await;
    api.create("/api/v1/namespaces/a/serviceaccounts", json!({"metadata": {"name": "robot"}})).await;
    api.create("/api/v1/namespaces/a/pods", pod("p", json!({"serviceAccountName": "robot"}))).await;
    let ask = |reference: Value| api.call(admin(), "POST", TOKEN, json!({"spec": {"boundObjectRef": reference}}));
    let pod = |name: &str| json!({"kind": "Pod", "apiVersion": "v1", "name": name});
    ask(pod("ghost")).await.check(404, r#"pods "ghost" not found"#);
    ask(pod("p")).await.check(400, "pod running with different serviceaccount name");
    ask(json!({"kind": "Deployment", "apiVersion": "apps/v1", "name": "d"}))
        .await
        .check(400, "cannot bind token to object of type apps/v1, Kind=Deployment");
    api.create("/api/v1/namespaces/a/secrets", json!({"metadata": {"name": "s"}})).await;
    ask(json!({"kind": "Secret", "apiVersion": "v1", "name": "s", "uid": "other"}))
        .await
        .check(409, "the UID in the bound object reference (other) does not match the UID in record");
    for (seconds, part) in [(599, "less than 10 minutes"), ((1_i64 << 32) + 1, "larger than 2^32 seconds")] {
        let asked = json!({"spec": {"expirationSeconds": seconds}});
        api.call(admin(), "POST", TOKEN, asked).await.check(422, part);
    }
    let ghost = "/api/v1/namespaces/a/serviceaccounts/ghost/token";
    api.call(admin(), "POST", ghost, json!({"spec": {}})).await.check(404, r#"serviceaccounts "ghost" not found"#);
}

#[tokio::test]
async fn a_token_for_others_is_no_key_to_the_api() {
    let api = Api::start().await;
    let token = token(&api, json!({"audiences": ["vault"]})).await;
    api.with_token(&token, "POST", WHOAMI, json!({})).await.check(401, "Unauthorized");
    let status = review(&api, json!({"token": token, "audiences": ["vault", "x"]})).await;
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!(["vault"])));
    let error = &review(&api, json!({"token": token})).await["error"];
    assert!(
        error.as_str().unwrap().contains(r#"token audiences ["vault"] is invalid for the target audiences"#),
        "{error}"
    );
}

#[tokio::test]
async fn a_forged_token_is_refused() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    let api = Api::start().await;
    let token = token(&api, json!({})).await;
    let parts: Vec<&str> = token.split('.').collect();
    let claims = String::from_utf8(BASE64.decode(parts[1]).unwrap()).unwrap();
    let forged_claims = BASE64.encode(claims.replace("\"default\"", "\"robot\""));
    let unsigned = BASE64.encode(r#"{"alg":"none"}"#);
    let other_key = BASE64.encode(r#"{"alg":"ES256","kid":"other"}"#);
    for forged in [
        format!("{}.{forged_claims}.{}", parts[0], parts[2]),
        format!("{unsigned}.{}.", parts[1]),
        format!("{unsigned}.{}.{}", parts[1], parts[2]),
        format!("{other_key}.{}.{}", parts[1], parts[2]),
        format!("{}.{}.{}", parts[0], parts[1], BASE64.encode([0; 64])),
        format!("{}.{}", parts[0], parts[1]),
        "nonsense".to_owned(),
    ] {
        api.with_token(&forged, "POST", WHOAMI, json!({})).await.check(401, "Unauthorized");
        let status = review(&api, json!({"token": forged})).await;
        assert!(status.get("authenticated").is_none_or(|good| good == false), "{forged}: {status}");
    }
}

#[tokio::test]
async fn others_find_the_keys_that_verify_tokens() {
    let api = Api::start().await;
    let get = |path| api.call(admin(), "GET", path, Value::Null);
    let configuration = get("/.well-known/openid-configuration").await.ok();
    assert_eq!(configuration["issuer"], ISSUER);
    assert_eq!(configuration["id_token_signing_alg_values_supported"], json!(["ES256"]));
    let keys = get("/openid/v1/jwks").await.ok()["keys"].clone();
    assert_eq!((&keys[0]["kty"], &keys[0]["crv"], &keys[0]["use"]), (&json!("EC"), &json!("P-256"), &json!("sig")));
    // Service accounts may look, as the default roles say; others may not.
    let token = token(&api, json!({})).await;
    api.with_token(&token, "GET", "/openid/v1/jwks", Value::Null).await.ok();
    api.send("GET", "/openid/v1/jwks", &[], Value::Null).await.check(403, r#"cannot get path "/openid/v1/jwks""#);
}
