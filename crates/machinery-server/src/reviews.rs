//! Questions about permissions and identity: `kubectl auth can-i` and `kubectl auth whoami`, and the same about others for
//! those who may ask.

use std::collections::BTreeMap;

use base_http::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use serde_json::{Value, json};

use crate::authorizer::{Authorizer as _, describe, rejection};
use crate::heavy::values_max;
use crate::negotiate::decode_body;
use crate::object::text_at;
use crate::request::ResourcePath;
use crate::server::Inner;
use crate::status::{self, ApiError, Result};
use crate::{Access, Decision, FieldSelector, Identity, LabelSelector, Target};

const AUTHORIZATION: &str = "authorization.k8s.io";
const SELF_SUBJECT_REVIEWS: &str = "selfsubjectreviews";
const SELF_ACCESS_REVIEWS: &str = "selfsubjectaccessreviews";
const ACCESS_REVIEWS: &str = "subjectaccessreviews";

/// Whether a path leads here: these are never stored, so they are no resources of the registry.
pub(crate) fn is_review(path: &ResourcePath) -> bool {
    let known = match path.group.as_str() {
        AUTHORIZATION => matches!(path.plural.as_str(), SELF_ACCESS_REVIEWS | ACCESS_REVIEWS),
        "authentication.k8s.io" => path.plural == SELF_SUBJECT_REVIEWS,
        _ => false,
    };
    known && path.version == "v1" && path.namespace.is_none()
}

/// Reviews are made by POST, and have no names.
pub(crate) fn check_path(method: &Method, path: &ResourcePath) -> Result<()> {
    if *method == Method::POST && path.name.is_none() { Ok(()) } else { Err(ApiError::method_not_allowed()) }
}

/// Answers one. Everyone whose identity is known may ask about itself.
pub(crate) fn answer(
    server: &Inner,
    headers: &HeaderMap,
    body: &Bytes,
    identity: &Identity,
    path: &ResourcePath,
) -> Result<Response<Body>> {
    authorize(server, identity, path)?;
    let mut review = decode_body(headers, body, values_max(identity))?;
    if !review.is_object() {
        return Err(ApiError::bad_request("the body must be an object"));
    }
    let spec = review.get("spec").cloned().unwrap_or_default();
    review["status"] = match path.plural.as_str() {
        SELF_SUBJECT_REVIEWS => json!({"userInfo": user_info(identity)}),
        ACCESS_REVIEWS => access_status(server, &subject(&spec)?, &spec)?,
        _ => access_status(server, identity, &spec)?,
    };
    Ok(status::created(review.to_string()))
}

fn authorize(server: &Inner, identity: &Identity, path: &ResourcePath) -> Result<()> {
    let target = Target::Resource {
        group: &path.group,
        resource: &path.plural,
        subresource: None,
        namespace: None,
        name: None,
        selectors: None,
    };
    let access = Access { identity, verb: "create", target, object: None };
    match server.authorizer.authorize(&access, &server.store) {
        Decision::Allow => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => {
            let why = format!("{}.{} is forbidden: {}", path.plural, path.group, rejection(&access, &reason));
            Err(ApiError::forbidden_path(&path.plural, &why))
        }
    }
}

/// A caller as the API shows it.
pub(crate) fn user_info(identity: &Identity) -> Value {
    let mut info = json!({"username": identity.user, "groups": identity.groups});
    if !identity.uid.is_empty() {
        info["uid"] = identity.uid.as_str().into();
    }
    if !identity.extra.is_empty() {
        info["extra"] = json!(identity.extra);
    }
    info
}

/// Whom a SubjectAccessReview asks about.
fn subject(spec: &Value) -> Result<Identity> {
    let texts = |value: Option<&Value>| -> Vec<String> {
        value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let (user, groups) = (text_at(spec, "/user").to_owned(), texts(spec.get("groups")));
    if user.is_empty() && groups.is_empty() {
        return Err(ApiError::bad_request("spec.user or spec.groups must be set"));
    }
    let extra = spec.get("extra").and_then(Value::as_object);
    let extra: BTreeMap<String, Vec<String>> =
        extra.into_iter().flatten().map(|(key, values)| (key.clone(), texts(Some(values)))).collect();
    // As it is: a caller of whom the question does not say that it is authenticated is judged without that.
    Ok(Identity { user, uid: text_at(spec, "/uid").to_owned(), groups, extra })
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
    let access = Access { identity, verb, target, object: None };
    Ok(match server.authorizer.authorize(&access, &server.store) {
        Decision::Allow => json!({"allowed": true}),
        Decision::Deny(reason) => json!({"allowed": false, "denied": true, "reason": reason}),
        Decision::NoOpinion(reason) if reason.is_empty() => json!({"allowed": false, "reason": describe(&access)}),
        Decision::NoOpinion(reason) => json!({"allowed": false, "reason": reason}),
    })
}
