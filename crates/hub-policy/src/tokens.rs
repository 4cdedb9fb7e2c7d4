//! Bootstrap tokens whose time is over are deleted, as upstream's token cleaner does.

use std::time::Duration;

use api_kube::base64_text;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use machinery_server::{Identity, Server};
use machinery_store::{Object, Store};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use tracing::{info, warn};

/// An expired token is good for nothing already; it is only litter.
const SWEEP_PERIOD: Duration = Duration::from_secs(60);

/// Type of the Secrets that hold bootstrap tokens.
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";

/// Deletes expired tokens, every minute until `shutdown`.
pub async fn clean_tokens(server: Server, store: Store, shutdown: CancellationToken) {
    let mut looks = tokio::time::interval(SWEEP_PERIOD);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = looks.tick() => clean(&server, &store, jiff::Timestamp::now()).await,
        }
    }
}

async fn clean(server: &Server, store: &Store, now: jiff::Timestamp) {
    let Ok(secrets) = store.range("/secrets", Some("kube-system"), None, None, None) else { return };
    for secret in secrets.items.iter().filter(|secret| is_expired(secret, now)) {
        let name = &*secret.key.name;
        let path = format!("/api/v1/namespaces/kube-system/secrets/{name}");
        let request = Request::delete(path).body(Empty::<Bytes>::new()).expect("a Secret's name fits a path");
        let answered = server.in_process(Identity::controllers()).call(request).await;
        match answered.expect("in process nothing fails").status() {
            StatusCode::OK => info!(name, "Deleted an expired bootstrap token."),
            StatusCode::NOT_FOUND => {}
            code => warn!(name, %code, "Failed to delete an expired bootstrap token; trying again in a minute."),
        }
    }
}

fn is_expired(secret: &Object, now: jiff::Timestamp) -> bool {
    if secret.field("type") != Some(SECRET_TYPE) {
        return false;
    }
    let stored: Value = serde_json::from_slice(&secret.bytes).unwrap_or_default();
    let encoded = stored.pointer("/data/expiration").and_then(Value::as_str);
    let text = encoded.and_then(|encoded| String::from_utf8(base64_text::decode(encoded).ok()?).ok());
    // One without an expiration is good for ever; one that cannot be read is a person's to look at.
    text.and_then(|text| text.parse::<jiff::Timestamp>().ok()).is_some_and(|expiration| expiration <= now)
}

#[cfg(test)]
mod tests;
