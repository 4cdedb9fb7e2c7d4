//! The API in process, as the parts that run beside the server call it.

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use machinery_server::{GROUP_MASTERS, Identity, Server};
use serde_json::Value;
use tower::Service as _;

/// A caller in this process, which may do everything.
#[derive(Clone)]
pub(crate) struct Client {
    server: Server,
    identity: Identity,
    /// Under which name it manages fields.
    agent: &'static str,
}

/// A request that was not answered with success.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{method} {path} was answered with {code}: {message}")]
pub struct RequestError {
    method: Method,
    path: String,
    /// The status.
    pub code: StatusCode,
    message: String,
}

impl Client {
    pub fn new(server: &Server, user: &str, agent: &'static str) -> Self {
        Self { server: server.clone(), identity: Identity::new(user, [GROUP_MASTERS]), agent }
    }

    /// Sends a request; answers the object of the response.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        media: &'static str,
        body: &Value,
    ) -> Result<Value, RequestError> {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(header::CONTENT_TYPE, media)
            .header(header::USER_AGENT, self.agent)
            .body(Full::new(body))
            .expect("paths are made of names that the API has checked");
        let mut service = self.server.in_process(self.identity.clone());
        let response = service.call(request).await.expect("in process nothing fails");
        let code = response.status();
        let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let object: Value = serde_json::from_slice(&body).unwrap_or_default();
        if code.is_success() {
            return Ok(object);
        }
        let message = crate::json::text(&object, "/message").to_owned();
        Err(RequestError { method, path: path.to_owned(), code, message })
    }

    /// Creates an object; one that is there already is left alone.
    pub async fn ensure(&self, collection: &str, object: &Value) -> Result<(), RequestError> {
        match self.send(Method::POST, collection, "application/json", object).await {
            Err(error) if error.code != StatusCode::CONFLICT => Err(error),
            _ => Ok(()),
        }
    }

    pub async fn replace(&self, path: &str, object: &Value) -> Result<(), RequestError> {
        self.send(Method::PUT, path, "application/json", object).await.map(|_| ())
    }

    pub async fn delete(&self, path: &str) -> Result<(), RequestError> {
        match self.send(Method::DELETE, path, "application/json", &Value::Null).await {
            Err(error) if error.code != StatusCode::NOT_FOUND => Err(error),
            _ => Ok(()),
        }
    }

    /// Server-side apply with force.
    pub async fn apply(&self, path: &str, object: &Value) -> Result<(), RequestError> {
        let path = format!("{path}?fieldManager={}&force=true", self.agent);
        self.send(Method::PATCH, &path, "application/apply-patch+yaml", object).await.map(|_| ())
    }
}
