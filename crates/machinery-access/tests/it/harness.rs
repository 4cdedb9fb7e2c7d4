//! An API server in this process, and callers of it.

use std::sync::LazyLock;

use base_http::{Peer, PeerAddr};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use machinery_access::{Access, AccessOptions, Issuer, TokenKey};
use machinery_server::{GROUP_MASTERS, INDEX_VERSION, INDEXED_FIELDS, Identity, Server, ServerConfig};
use machinery_store::{Store, StoreOptions};
use serde_json::{Value, json};

pub const ISSUER: &str = "https://issuer.example";
pub const ROOT_CA: &str = "-----BEGIN CERTIFICATE-----\n";

/// One API.
pub struct Api {
    pub server: Server,
    pub store: Store,
    pub access: Access,
    _dir: tempfile::TempDir,
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
}

impl Answer {
    /// The object of a request that succeeded.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.code < 300, "{self:?}");
        self.body
    }

    /// Checks a rejection and its text.
    #[track_caller]
    pub fn check(&self, code: u16, part: &str) {
        let message = self.body["message"].as_str().unwrap_or_default();
        assert_eq!(self.code, code, "{self:?}");
        assert!(message.contains(part), "{message:?} has no {part:?}");
    }
}

pub fn admin() -> &'static Identity {
    static ADMIN: LazyLock<Identity> = LazyLock::new(|| Identity::new("admin", [GROUP_MASTERS]));
    &ADMIN
}

pub fn user(name: &str) -> Identity {
    Identity::new(name, Vec::<String>::new())
}

pub fn node(name: &str) -> Identity {
    Identity::new(format!("system:node:{name}"), ["system:nodes"])
}

impl Api {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            indexed_fields: INDEXED_FIELDS.to_vec(),
            index_version: INDEX_VERSION,
            ..StoreOptions::default()
        };
        let store = Store::open(dir.path(), options).unwrap();
        let issuer = Issuer::new(ISSUER, TokenKey::generate().unwrap());
        let access = Access::new(AccessOptions { root_ca: Some(ROOT_CA.into()), ..AccessOptions::new(issuer) });
        let server = Server::new(access.configure(ServerConfig::new(store.clone()))).unwrap();
        access.bootstrap(&server).await.unwrap();
        let api = Self { server, store, access, _dir: dir };
        for namespace in ["a", "b"] {
            api.create("/api/v1/namespaces", json!({"metadata": {"name": namespace}})).await;
            let account = json!({"metadata": {"name": "default"}});
            api.create(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), account).await;
        }
        api
    }

    /// A request of a caller whose identity is known.
    pub async fn call(&self, caller: &Identity, method: &str, path: &str, body: Value) -> Answer {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, media);
        let request = request.body(Self::body(&body)).unwrap();
        Self::answer(self.server.handle(request, Some(caller)).await).await
    }

    /// A request with these headers and no certificate.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let peer = Peer { addr: PeerAddr::Unix, client_cert: None, is_certificate_expected: true };
        Self::answer(self.server.handle_credentials(request.body(Self::body(&body)).unwrap(), &peer).await).await
    }

    /// A request with a bearer token.
    pub async fn with_token(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        self.send(method, path, &[("authorization", &format!("Bearer {token}"))], body).await
    }

    /// Creates an object as an administrator.
    pub async fn create(&self, path: &str, object: Value) -> Value {
        let answer = self.call(admin(), "POST", path, object).await;
        assert_eq!(answer.code, 201, "{path}: {answer:?}");
        answer.body
    }

    fn body(body: &Value) -> machinery_server::RequestBody {
        let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
    }

    async fn answer(response: http::Response<base_http::Body>) -> Answer {
        let code: StatusCode = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { code: code.as_u16(), body }
    }
}

pub fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": "i"}]}});
    if let (Some(fields), Value::Object(more)) = (pod["spec"].as_object_mut(), spec) {
        fields.extend(more);
    }
    pod
}
