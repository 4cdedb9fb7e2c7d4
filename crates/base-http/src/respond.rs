//! Responses as roles give them: JSON, text, or bytes of a type, with a status.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::Body;

/// A value as JSON.
///
/// # Panics
/// When the value does not serialize: a map with keys that are no text, or a `Serialize` that fails by itself. Both are mistakes
/// in our own types, and cost the request.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("our types serialize as JSON");
    body(status, "application/json", bytes)
}

/// Text for a person.
pub fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    body(status, "text/plain; charset=utf-8", text.into())
}

/// Bytes of a media type.
pub fn body(status: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_response_says_what_it_is() {
        for (response, status, content_type, expected) in [
            (json(StatusCode::OK, &[1, 2]), 200, "application/json", "[1,2]"),
            (text(StatusCode::NOT_FOUND, "none"), 404, "text/plain; charset=utf-8", "none"),
            (body(StatusCode::CREATED, "text/csv", "a,b"), 201, "text/csv", "a,b"),
        ] {
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()[header::CONTENT_TYPE], content_type);
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), expected);
        }
    }
}
