use machinery_server::ServerConfig;
use machinery_store::{Key, StoreOptions};
use serde_json::json;

use super::*;

async fn create(server: &Server, path: &str, object: Value) {
    let request = Request::post(path).header("content-type", "application/json");
    let request = request.body(http_body_util::Full::new(Bytes::from(object.to_string()))).unwrap();
    let code = server.in_process(Identity::controllers()).call(request).await.unwrap().status();
    assert_eq!(code, StatusCode::CREATED);
}

#[tokio::test]
async fn a_token_is_deleted_when_its_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let server = Server::new(ServerConfig::new(store.clone())).unwrap();
    create(&server, "/api/v1/namespaces", json!({"metadata": {"name": "kube-system"}})).await;
    for (name, r#type, expiration) in [
        ("bootstrap-token-past00", SECRET_TYPE, Some("2026-01-01T00:00:00Z")),
        ("bootstrap-token-future", SECRET_TYPE, Some("2026-01-03T00:00:00Z")),
        ("bootstrap-token-always", SECRET_TYPE, None),
        ("something-else", "Opaque", Some("2026-01-01T00:00:00Z")),
    ] {
        let data = expiration.map_or_else(|| json!({}), |time| json!({"expiration": time}));
        let secret = json!({"metadata": {"name": name}, "type": r#type, "stringData": data});
        create(&server, "/api/v1/namespaces/kube-system/secrets", secret).await;
    }
    clean(&server, &store, "2026-01-02T00:00:00Z".parse().unwrap()).await;
    let is_there = |name: &str| store.get(&Key::new("/secrets", "kube-system", name)).is_some();
    assert!(!is_there("bootstrap-token-past00"));
    assert!(["bootstrap-token-future", "bootstrap-token-always", "something-else"].into_iter().all(is_there));
}
