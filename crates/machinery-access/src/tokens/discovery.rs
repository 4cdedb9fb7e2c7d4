//! What others need to verify our tokens: OpenID discovery, as far as Kubernetes publishes it.

use std::sync::Arc;

use base_http::Body;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use machinery_server::{Extension, Identity, RequestBody};
use serde_json::{Value, json};

use super::Issuer;

const KEYS_PATH: &str = "/openid/v1/jwks";

/// `/.well-known/openid-configuration`.
pub(crate) struct IssuerConfiguration {
    pub issuer: Arc<Issuer>,
    /// `host:port` of the API, where the keys are.
    pub address: String,
}

/// `/openid/v1/jwks`.
pub(crate) struct KeySet(pub Arc<Issuer>);

impl Extension for IssuerConfiguration {
    fn prefix(&self) -> &'static str {
        "/.well-known/openid-configuration"
    }

    fn call<'a>(&'a self, request: Request<RequestBody>, _: &'a Identity) -> BoxFuture<'a, Response<Body>> {
        let document = json!({
            "issuer": self.issuer.url,
            "jwks_uri": format!("https://{}{KEYS_PATH}", self.address),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        });
        let response = answer(request.method(), &document, "application/json");
        Box::pin(async move { response })
    }
}

impl Extension for KeySet {
    fn prefix(&self) -> &'static str {
        KEYS_PATH
    }

    fn call<'a>(&'a self, request: Request<RequestBody>, _: &'a Identity) -> BoxFuture<'a, Response<Body>> {
        let keys: Vec<Value> = self.0.keys().map(super::TokenKey::jwk).collect();
        let response = answer(request.method(), &json!({"keys": keys}), "application/jwk-set+json");
        Box::pin(async move { response })
    }
}

fn answer(method: &Method, document: &Value, media: &'static str) -> Response<Body> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = Response::new(Body::from("405: Method Not Allowed"));
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        return response;
    }
    let mut response = Response::new(Body::from(document.to_string()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}
