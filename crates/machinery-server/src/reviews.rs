//! Questions about oneself: `kubectl auth can-i` and `kubectl auth whoami`.

use base_http::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use serde_json::{Value, json};

use crate::authorizer::describe;
use crate::negotiate::decode_body;
use crate::object::text_at;
use crate::request::ResourcePath;
use crate::server::Inner;
use crate::status::{self, ApiError, Result};
use crate::{Access, Decision, FieldSelector, Identity, LabelSelector, Target};

const ACCESS: (&str, &str, &str) = ("authorization.k8s.io", "v1", "selfsubjectaccessreviews");
const IDENTITY: (&str, &str, &str) = ("authentication.k8s.io", "v1", "selfsubjectreviews");

/// Whether a path leads here: these are never stored, so they are no resources of the registry.
pub(crate) fn is_review(path: &ResourcePath) -> bool {
    let resource = (path.group.as_str(), path.version.as_str(), path.plural.as_str());
    (resource == ACCESS || resource == IDENTITY) && path.namespace.is_none()
}

/// Reviews are made by POST, and have no names.
pub(crate) fn check_path(method: &Method, path: &ResourcePath) -> Result<()> {
    if *method == Method::POST && path.name.is_none() { Ok(()) } else { Err(ApiError::method_not_allowed()) }
}

/// Answers one. Everyone whose identity is known may ask.
pub(crate) fn answer(
    server: &Inner,
    headers: &HeaderMap,
    body: &Bytes,
    identity: &Identity,
    path: &ResourcePath,
) -> Result<Response<Body>> {
    let mut review = decode_body(headers, body)?;
    if !review.is_object() {
        return Err(ApiError::bad_request("the body must be an object"));
    }
    review["status"] = if path.plural == IDENTITY.2 {
        json!({"userInfo": {"username": identity.user, "groups": identity.groups}})
    } else {
        access_status(server, identity, review.get("spec").unwrap_or(&Value::Null))?
    };
    Ok(status::created(review.to_string()))
}

fn access_status(server: &Inner, identity: &Identity, spec: &Value) -> Result<Value> {
    let text = |pointer: &str| text_at(spec, pointer);
    let some = |pointer: &str| Some(text(pointer)).filter(|text| !text.is_empty());
    let selectors = (LabelSelector::default(), FieldSelector::default());
    let (verb, target) = if spec.get("resourceAttributes").is_some() {
        let target = Target::Resource {
            group: text("/resourceAttributes/group"),
            resource: text("/resourceAttributes/resource"),
            subresource: some("/resourceAttributes/subresource"),
            namespace: some("/resourceAttributes/namespace"),
            name: some("/resourceAttributes/name"),
            selectors: Some((&selectors.0, &selectors.1)),
        };
        (text("/resourceAttributes/verb"), target)
    } else if spec.get("nonResourceAttributes").is_some() {
        (text("/nonResourceAttributes/verb"), Target::Path(text("/nonResourceAttributes/path")))
    } else {
        return Err(ApiError::bad_request("spec.resourceAttributes or spec.nonResourceAttributes must be set"));
    };
    let access = Access { identity, verb, target };
    Ok(match server.authorizer.authorize(&access, &server.store) {
        Decision::Allow => json!({"allowed": true}),
        Decision::Deny(reason) if reason.is_empty() => json!({"allowed": false, "reason": describe(&access)}),
        Decision::Deny(reason) => json!({"allowed": false, "reason": reason}),
    })
}
