//! Questions about permissions and identity: `kubectl auth can-i` and `kubectl auth whoami`, and the same about others for
//! those who may ask.
//!
//! They are created and answered, and never stored. What each asks for is decided by the server's own authenticators and
//! authorizers, so an answer is what a request would meet.

use std::collections::BTreeMap;

use base_http::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use machinery_kinds::FieldError;
use serde_json::{Map, Value, json};

use crate::auth::{AuthRequest, authenticate};
use crate::authorizer::Authorizer as _;
use crate::heavy::values_max;
use crate::object::{metadata, text_at, timestamp};
use crate::request::{Query, ResourcePath, WriteOptions};
use crate::server::{Inner, warn};
use crate::status::{self, ApiError, Result};
use crate::{Access, Decision, FieldSelector, Identity, LabelSelector, Target, VirtualKind};

const AUTHORIZATION: &str = "authorization.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// A kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Review {
    SelfSubject,
    Token,
    Access,
    SelfAccess,
    LocalAccess,
    SelfRules,
}

impl Review {
    /// The question that a path is about.
    pub(crate) fn of(path: &ResourcePath) -> Option<Self> {
        let is_served = path.version == "v1" && path.subresource.is_none();
        match (path.group.as_str(), path.plural.as_str(), &path.namespace) {
            _ if !is_served => None,
            (AUTHENTICATION, "selfsubjectreviews", None) => Some(Self::SelfSubject),
            (AUTHENTICATION, "tokenreviews", None) => Some(Self::Token),
            (AUTHORIZATION, "subjectaccessreviews", None) => Some(Self::Access),
            (AUTHORIZATION, "selfsubjectaccessreviews", None) => Some(Self::SelfAccess),
            (AUTHORIZATION, "selfsubjectrulesreviews", None) => Some(Self::SelfRules),
            (AUTHORIZATION, "localsubjectaccessreviews", Some(_)) => Some(Self::LocalAccess),
            _ => None,
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::SelfSubject => "SelfSubjectReview",
            Self::Token => "TokenReview",
            Self::Access => "SubjectAccessReview",
            Self::SelfAccess => "SelfSubjectAccessReview",
            Self::LocalAccess => "LocalSubjectAccessReview",
            Self::SelfRules => "SelfSubjectRulesReview",
        }
    }

    fn virtual_kind(self) -> VirtualKind {
        VirtualKind { group: self.group(), version: "v1", kind: self.kind() }
    }

    fn group(self) -> &'static str {
        match self {
            Self::SelfSubject | Self::Token => AUTHENTICATION,
            Self::Access | Self::SelfAccess | Self::LocalAccess | Self::SelfRules => AUTHORIZATION,
        }
    }
}

/// Reviews are made by POST, and have no names.
pub(crate) fn check_path(method: &Method, path: &ResourcePath) -> Result<()> {
    if *method == Method::POST && path.name.is_none() { Ok(()) } else { Err(ApiError::method_not_allowed()) }
}

/// Answers one that came as a body.
pub(crate) fn answer(
    server: &Inner,
    headers: &HeaderMap,
    body: &Bytes,
    identity: &Identity,
    path: &ResourcePath,
    query: &Query,
    review: Review,
) -> Result<Response<Body>> {
    let access = Access { identity, verb: "create", target: path.target(None), object: None };
    match server.authorizer.authorize(&access, &server.store) {
        Decision::Allow(_) => {}
        Decision::Deny(reason) | Decision::NoOpinion(reason) => {
            return Err(ApiError::forbidden_access(&access, &reason));
        }
    }
    let options = WriteOptions::parse(query, "CreateOptions")?;
    let mut warnings = Vec::new();
    let (kind, max) = (review.virtual_kind(), values_max(identity));
    let mut asked = kind.read(headers, body, max, options.field_validation, &mut warnings)?;
    if let Some(namespace) = &path.namespace {
        match text_at(&asked, "/metadata/namespace") {
            "" => drop(metadata(&mut asked).insert("namespace".to_owned(), namespace.as_str().into())),
            found if found == namespace => {}
            _ => {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        }
    }
    kind.own(headers, query, "", &mut asked)?;
    let answered = complete(server, identity, review, asked, jiff::Timestamp::now())?;
    let mut response = status::created(kind.complete(answered).to_string());
    warn(&mut response, &warnings);
    Ok(response)
}

/// Answers a decoded one.
pub(crate) fn complete(
    server: &Inner,
    identity: &Identity,
    review: Review,
    mut asked: Value,
    now: jiff::Timestamp,
) -> Result<Value> {
    let spec = asked.get("spec").cloned().unwrap_or_default();
    let answer = match review {
        Review::SelfSubject => json!({"userInfo": user_info(identity)}),
        Review::Token => token_status(server, &spec, now)?,
        Review::SelfRules => rules_status(server, identity, text_at(&spec, "/namespace"))?,
        Review::Access | Review::LocalAccess => {
            check_access(review, &asked, &spec)?;
            access_status(server, &subject(&spec), &spec)
        }
        Review::SelfAccess => {
            check_access(review, &asked, &spec)?;
            access_status(server, identity, &spec)
        }
    };
    let mut answered = Map::new();
    answered.insert("kind".to_owned(), review.kind().into());
    answered.insert("apiVersion".to_owned(), format!("{}/v1", review.group()).into());
    match review {
        Review::SelfSubject => {
            drop(answered.insert("metadata".to_owned(), json!({"creationTimestamp": timestamp(now)})))
        }
        // Whatever was asked, upstream's answer has only a status.
        Review::SelfRules => {
            answered.insert("metadata".to_owned(), json!({}));
            answered.insert("spec".to_owned(), json!({}));
        }
        _ => {
            answered.insert("metadata".to_owned(), asked.get_mut("metadata").map_or_else(|| json!({}), Value::take));
            answered.insert("spec".to_owned(), spec);
        }
    }
    answered.insert("status".to_owned(), answer);
    Ok(answered.into())
}

/// A caller as the API shows it.
pub(crate) fn user_info(identity: &Identity) -> Value {
    let mut info = json!({});
    if !identity.user.is_empty() {
        info["username"] = identity.user.as_str().into();
    }
    if !identity.uid.is_empty() {
        info["uid"] = identity.uid.as_str().into();
    }
    if !identity.groups.is_empty() {
        info["groups"] = json!(identity.groups);
    }
    if !identity.extra.is_empty() {
        info["extra"] = json!(identity.extra);
    }
    info
}

/// Whether a token is good, for whom, and whose it is.
fn token_status(server: &Inner, spec: &Value, now: jiff::Timestamp) -> Result<Value> {
    let token = text_at(spec, "/token");
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let asked = texts(spec.get("audiences"));
    let audiences = if asked.is_empty() { server.audiences.clone() } else { asked };
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}")) {
        headers.insert(header::AUTHORIZATION, value);
    }
    let request =
        AuthRequest { client_cert: None, headers: &headers, store: &server.store, now, audiences: Some(&audiences) };
    let not_good = |review: &str| {
        let error = match review {
            "" => "invalid bearer token".to_owned(),
            review => format!("[invalid bearer token, {review}]"),
        };
        Ok(json!({"user": {}, "error": error}))
    };
    let identity = match authenticate(&server.authenticators, &request) {
        Ok(Some(identity)) => identity,
        Ok(None) => return not_good(""),
        Err(error) => return not_good(&error.review),
    };
    // A token that knows of no audiences is good for those of the API.
    let of_api: &[String] = if identity.audiences.is_empty() { &server.audiences } else { &identity.audiences };
    let shared: Vec<&String> = of_api.iter().filter(|audience| audiences.contains(audience)).collect();
    if shared.is_empty() && !audiences.is_empty() {
        return not_good("");
    }
    let mut status = json!({"authenticated": true, "user": user_info(&identity)});
    if !shared.is_empty() {
        status["audiences"] = json!(shared);
    }
    Ok(status)
}

/// What the caller may do in a namespace.
fn rules_status(server: &Inner, identity: &Identity, namespace: &str) -> Result<Value> {
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let rules = server.authorizer.rules_of(identity, namespace, &server.store).unwrap_or_default();
    let resources: Vec<Value> = rules
        .resources
        .iter()
        .map(|rule| {
            let mut shown = json!({"verbs": rule.verbs});
            for (field, values) in
                [("apiGroups", &rule.groups), ("resources", &rule.resources), ("resourceNames", &rule.names)]
            {
                if !values.is_empty() {
                    shown[field] = json!(values);
                }
            }
            shown
        })
        .collect();
    let paths: Vec<Value> =
        rules.paths.iter().map(|(verbs, paths)| json!({"verbs": verbs, "nonResourceURLs": paths})).collect();
    let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": rules.is_incomplete});
    match rules.errors.as_slice() {
        [] => {}
        [error] => status["evaluationError"] = error.as_str().into(),
        errors => status["evaluationError"] = format!("[{}]", errors.join(", ")).into(),
    }
    Ok(status)
}

fn texts(value: Option<&Value>) -> Vec<String> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A field that is there and is not null.
fn given<'v>(object: &'v Value, field: &str) -> Option<&'v Value> {
    object.get(field).filter(|value| !value.is_null())
}

/// Rejects a question that asks for nothing, for two things at once, or about nobody.
fn check_access(review: Review, asked: &Value, spec: &Value) -> Result<()> {
    let mut errors = Vec::new();
    let (resource, path) = (given(spec, "resourceAttributes"), given(spec, "nonResourceAttributes"));
    // As Go names the fields of its own structure.
    let shown = path.map(|path| json!({"Path": text_at(path, "/path"), "Verb": text_at(path, "/verb")}));
    match (resource, &shown) {
        (Some(_), Some(shown)) => {
            let why = "cannot be specified in combination with resourceAttributes";
            errors.push(FieldError::invalid("spec.nonResourceAttributes", shown, why));
        }
        (None, None) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.push(FieldError::invalid("spec.resourceAttributes", &Value::Null, why));
        }
        _ => {}
    }
    let is_about_nobody = text_at(spec, "/user").is_empty() && texts(spec.get("groups")).is_empty();
    if review != Review::SelfAccess && is_about_nobody {
        let why = "at least one of user or group must be specified";
        errors.push(FieldError::invalid("spec.user", &"".into(), why));
    }
    if let Some(resource) = resource {
        check_selectors(resource, &mut errors);
    }
    let metadata = asked.get("metadata").and_then(Value::as_object);
    let mut more = metadata.into_iter().flatten().filter(|(field, value)| {
        let is_expected =
            *field == "managedFields" || (review == Review::LocalAccess && *field == "namespace") || value.is_null();
        !is_expected
    });
    if more.next().is_some() {
        let why = match review {
            Review::LocalAccess => "must be empty except for namespace",
            _ => "must be empty",
        };
        errors.push(FieldError::invalid_as("metadata", &go_metadata(&asked["metadata"]), why));
    }
    if review == Review::LocalAccess {
        let namespace = resource.map(|resource| text_at(resource, "/namespace"));
        if let Some(namespace) = namespace.filter(|namespace| *namespace != text_at(asked, "/metadata/namespace")) {
            let path = "spec.resourceAttributes.namespace";
            errors.push(FieldError::invalid(path, &namespace.into(), "must match metadata.namespace"));
        }
        if let Some(shown) = &shown {
            let why = "disallowed on this kind of request";
            errors.push(FieldError::invalid("spec.nonResourceAttributes", shown, why));
        }
    }
    // Upstream asks its own form of the object for its kind, which has none.
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid_kind(AUTHORIZATION, "", "", &errors)) }
}

/// Metadata as Go writes them, in the order of its structures.
fn go_metadata(metadata: &Value) -> String {
    const FIELDS: [&str; 15] = [
        "name",
        "generateName",
        "namespace",
        "selfLink",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ];
    const ENTRY: [&str; 7] = ["manager", "operation", "apiVersion", "time", "fieldsType", "fieldsV1", "subresource"];
    fn object(value: &Value, fields: &[&str], show: impl Fn(&str, &Value) -> String) -> String {
        let given = fields.iter().filter_map(|field| Some((*field, given(value, field)?)));
        let shown: Vec<String> = given.map(|(field, value)| format!("{field:?}:{}", show(field, value))).collect();
        format!("{{{}}}", shown.join(","))
    }
    object(metadata, &FIELDS, |field, value| match (field, value.as_array()) {
        ("managedFields", Some(entries)) => {
            let entries = entries.iter().map(|entry| object(entry, &ENTRY, |_, value| value.to_string()));
            format!("[{}]", entries.collect::<Vec<_>>().join(","))
        }
        _ => value.to_string(),
    })
}

fn check_selectors(resource: &Value, errors: &mut Vec<FieldError>) {
    for field in ["fieldSelector", "labelSelector"] {
        let Some(selector) = given(resource, field) else { continue };
        let path = format!("spec.resourceAttributes.{field}");
        let raw = text_at(selector, "/rawSelector");
        let requirements = selector.get("requirements").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if !raw.is_empty() && !requirements.is_empty() {
            let why = "may not specified at the same time as requirements";
            errors.push(FieldError::invalid(format!("{path}.rawSelector"), &raw.into(), why));
        }
        if raw.is_empty() && requirements.is_empty() {
            let why = format!("when {path} is specified, requirements or rawSelector is required");
            errors.push(FieldError::required(format!("{path}.requirements"), &why));
        }
        for (index, requirement) in requirements.iter().enumerate() {
            let path = format!("{path}.requirements[{index}]");
            let key = text_at(requirement, "/key");
            if field == "fieldSelector" && key.is_empty() {
                errors.push(FieldError::required(format!("{path}.key"), "must be specified"));
            }
            let values = texts(requirement.get("values"));
            match text_at(requirement, "/operator") {
                "In" | "NotIn" if values.is_empty() => {
                    let why = "must be specified when `operator` is 'In' or 'NotIn'";
                    errors.push(FieldError::required(format!("{path}.values"), why));
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => {
                    let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    errors.push(FieldError::forbidden(format!("{path}.values"), why));
                }
                _ => {}
            }
            if field == "labelSelector" && !machinery_kinds::is_qualified_name(key) {
                let why = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                           alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                           '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
                errors.push(FieldError::invalid(format!("{path}.key"), &key.into(), why));
            }
        }
    }
}

/// Whom a SubjectAccessReview asks about. As it is: a caller of whom the question does not say that it is authenticated is
/// judged without that.
fn subject(spec: &Value) -> Identity {
    let extra = spec.get("extra").and_then(Value::as_object);
    let extra: BTreeMap<String, Vec<String>> =
        extra.into_iter().flatten().map(|(key, values)| (key.clone(), texts(Some(values)))).collect();
    Identity {
        user: text_at(spec, "/user").to_owned(),
        uid: text_at(spec, "/uid").to_owned(),
        groups: texts(spec.get("groups")),
        extra,
        audiences: Vec::new(),
    }
}

/// A selector of a question as text; `None` when a part of it is not understood, which then counts as not there.
fn selector_text(selector: &Value) -> (String, bool) {
    let raw = text_at(selector, "/rawSelector");
    if !raw.is_empty() {
        return (raw.to_owned(), true);
    }
    let requirements = selector.get("requirements").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let parts: Vec<Option<String>> = requirements
        .iter()
        .map(|requirement| {
            let (key, values) = (text_at(requirement, "/key"), texts(requirement.get("values")));
            match (text_at(requirement, "/operator"), values.as_slice()) {
                ("In", [value]) => Some(format!("{key}={value}")),
                ("NotIn", [value]) => Some(format!("{key}!={value}")),
                ("In", values) => Some(format!("{key} in ({})", values.join(","))),
                ("NotIn", values) => Some(format!("{key} notin ({})", values.join(","))),
                ("Exists", []) => Some(key.to_owned()),
                ("DoesNotExist", []) => Some(format!("!{key}")),
                _ => None,
            }
        })
        .collect();
    let is_whole = parts.iter().all(Option::is_some);
    (parts.into_iter().flatten().collect::<Vec<_>>().join(","), is_whole)
}

/// The selectors of a question, and what of them was not understood.
fn selectors(resource: &Value) -> ((LabelSelector, FieldSelector), Vec<String>) {
    fn parse<S: std::str::FromStr + Default>(resource: &Value, field: &str, errors: &mut Vec<String>) -> S {
        let Some(selector) = given(resource, field) else { return S::default() };
        let (text, is_whole) = selector_text(selector);
        let parsed = text.parse::<S>();
        let how = match (&parsed, is_whole, text.is_empty()) {
            (Ok(_), true, _) => None,
            (Ok(_), false, false) => Some("partially ignored"),
            (Ok(_), false, true) | (Err(_), ..) => Some("ignored"),
        };
        errors.extend(how.map(|how| format!("spec.resourceAttributes.{field} {how} due to parse error")));
        parsed.unwrap_or_default()
    }
    let mut errors = Vec::new();
    let fields = parse(resource, "fieldSelector", &mut errors);
    let labels = parse(resource, "labelSelector", &mut errors);
    ((labels, fields), errors)
}

fn access_status(server: &Inner, identity: &Identity, spec: &Value) -> Value {
    let text = |pointer: &str| text_at(spec, pointer);
    let some = |pointer: &str| Some(text(pointer)).filter(|text| !text.is_empty());
    let (selectors, errors) = given(spec, "resourceAttributes").map(selectors).unwrap_or_default();
    let (verb, target) = if given(spec, "resourceAttributes").is_some() {
        let target = Target::Resource {
            group: text("/resourceAttributes/group"),
            resource: text("/resourceAttributes/resource"),
            subresource: some("/resourceAttributes/subresource"),
            namespace: some("/resourceAttributes/namespace"),
            name: some("/resourceAttributes/name"),
            selectors: Some((&selectors.0, &selectors.1)),
        };
        (text("/resourceAttributes/verb"), target)
    } else {
        (text("/nonResourceAttributes/verb"), Target::Path(text("/nonResourceAttributes/path")))
    };
    let access = Access { identity, verb, target, object: None };
    let (mut status, reason) = match server.authorizer.authorize(&access, &server.store) {
        Decision::Allow(reason) => (json!({"allowed": true}), reason),
        Decision::Deny(reason) => (json!({"allowed": false, "denied": true}), reason),
        Decision::NoOpinion(reason) => (json!({"allowed": false}), reason),
    };
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    if !errors.is_empty() {
        status["evaluationError"] = errors.join("; ").into();
    }
    status
}
