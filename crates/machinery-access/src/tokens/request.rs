//! TokenRequest: who may create `serviceaccounts/NAME/token` gets a token of that service account.

use std::sync::Arc;

use machinery_kinds::FieldError;
use machinery_server::{AdmissionError, AdmissionRequest, Admit, VirtualKind, VirtualResource};
use machinery_store::Key;
use serde_json::{Value, json};

use super::Issuer;
use super::jwt::{Claims, Kubernetes, Reference, sign};
use crate::json::{decoded, given, text, texts};

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";

/// What a token is good for that is asked for without saying.
const EXPIRATION_SECONDS: i64 = 60 * 60;

/// The life of the tokens that pods get by default. Their readers of old read them once only: such a token is good for a
/// year, and says from when on a newer one should have been read.
const WARN_ONLY_SECONDS: i64 = 60 * 60 + 7;
const EXTENDED_SECONDS: i64 = 24 * 365 * 60 * 60;

/// Issues tokens.
pub struct TokenRequests(Arc<Issuer>);

impl TokenRequests {
    /// With this issuer's key.
    pub fn new(issuer: Arc<Issuer>) -> Self {
        Self(issuer)
    }
}

/// What a token is bound to.
#[derive(Default)]
struct Bound {
    pod: Option<Reference>,
    secret: Option<Reference>,
    node: Option<Reference>,
}

impl VirtualResource for TokenRequests {
    fn target(&self) -> (&'static str, &'static str, Option<&'static str>) {
        ("", "serviceaccounts", Some("token"))
    }

    fn kind(&self) -> VirtualKind {
        VirtualKind { group: GROUP, version: "v1", kind: KIND }
    }

    fn apply_defaults(&self, asked: &mut Value) {
        for part in ["metadata", "spec"] {
            if !asked.get(part).is_some_and(Value::is_object) {
                asked[part] = json!({});
            }
        }
        if given(&asked["spec"], "expirationSeconds").is_none() {
            asked["spec"]["expirationSeconds"] = EXPIRATION_SECONDS.into();
        }
    }

    fn create(
        &self,
        request: &AdmissionRequest<'_>,
        mut asked: Value,
        now: jiff::Timestamp,
        admit: Admit<'_>,
    ) -> Result<Value, AdmissionError> {
        let (namespace, name) = (request.namespace, request.name);
        check_name(&asked, "name", name, "must match the service account name if specified", name)?;
        check_name(&asked, "namespace", namespace, "must match the service account namespace if specified", name)?;
        let account =
            get(request, "/serviceaccounts", namespace, name).ok_or_else(|| not_found("serviceaccounts", name))?;
        let uid = text(&account, "/metadata/uid");
        let claimed = text(&asked, "/metadata/uid");
        if !claimed.is_empty() && claimed != uid {
            return Err(AdmissionError::Conflict {
                group: GROUP.to_owned(),
                resource: KIND.to_owned(),
                name: name.to_owned(),
                why: format!(
                    "the UID in the token request ({claimed}) does not match the UID of the service account ({uid})"
                ),
            });
        }
        complete(&mut asked, &self.0, name, namespace, uid, now);
        let expiration = asked["spec"]["expirationSeconds"].as_i64().unwrap_or_default();
        check_expiration(expiration)?;
        admit(&asked)?;
        let bound = bind(request, &asked)?;
        let audiences = texts(&asked["spec"], "audiences");
        let is_for_api = audiences.iter().all(|audience| self.0.audiences.contains(audience));
        let is_extended = bound.pod.is_some() && expiration == WARN_ONLY_SECONDS && is_for_api;
        let issued = now.as_second();
        let claims = Claims {
            aud: audiences,
            exp: Some(issued.saturating_add(if is_extended { EXTENDED_SECONDS } else { expiration })),
            iat: Some(issued),
            iss: self.0.url.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes: Kubernetes {
                namespace: namespace.to_owned(),
                node: bound.node,
                pod: bound.pod,
                secret: bound.secret,
                serviceaccount: Reference { name: name.to_owned(), uid: uid.to_owned() },
                warnafter: is_extended.then(|| issued.saturating_add(expiration)),
            },
            nbf: Some(issued),
            sub: format!("{}{namespace}:{name}", machinery_server::USER_SERVICE_ACCOUNT_PREFIX),
        };
        let token = sign(&self.0, &claims)
            .map_err(|error| AdmissionError::Internal(format!("failed to generate token: {error}")))?;
        let expires = jiff::Timestamp::from_second(issued.saturating_add(expiration)).unwrap_or(jiff::Timestamp::MAX);
        asked["status"] = json!({"token": token, "expirationTimestamp": seconds(expires)});
        Ok(asked)
    }
}

/// RFC 3339 in whole seconds, as the API shows times.
fn seconds(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn get(request: &AdmissionRequest<'_>, resource: &str, namespace: &str, name: &str) -> Option<Value> {
    request.store.get(&Key::new(resource, namespace, name)).map(|object| decoded(&object))
}

fn not_found(resource: &str, name: &str) -> AdmissionError {
    AdmissionError::NotFound { group: String::new(), resource: resource.to_owned(), name: name.to_owned() }
}

fn invalid(name: &str, errors: Vec<FieldError>) -> AdmissionError {
    AdmissionError::InvalidKind { group: GROUP.to_owned(), kind: KIND.to_owned(), name: name.to_owned(), errors }
}

fn check_name(asked: &Value, field: &str, expected: &str, why: &str, name: &str) -> Result<(), AdmissionError> {
    let found = text(asked, &format!("/metadata/{field}"));
    if found.is_empty() || found == expected {
        return Ok(());
    }
    Err(invalid(name, vec![FieldError::invalid(format!("metadata.{field}"), &found.into(), why)]))
}

/// Fills in what the request leaves out.
fn complete(asked: &mut Value, issuer: &Issuer, name: &str, namespace: &str, uid: &str, now: jiff::Timestamp) {
    let metadata = &mut asked["metadata"];
    for (field, value) in [("name", name), ("namespace", namespace), ("uid", uid)] {
        metadata[field] = value.into();
    }
    metadata["creationTimestamp"] = seconds(now).into();
    let spec = &mut asked["spec"];
    if texts(spec, "audiences").is_empty() {
        spec["audiences"] = json!(issuer.audiences);
    }
    if given(spec, "boundObjectRef").is_none() {
        // A field without `omitempty`.
        spec["boundObjectRef"] = Value::Null;
    }
}

fn check_expiration(seconds: i64) -> Result<(), AdmissionError> {
    let why = if seconds < 10 * 60 {
        "may not specify a duration less than 10 minutes"
    } else if seconds > 1 << 32 {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    Err(invalid("", vec![FieldError::invalid("spec.expirationSeconds", &seconds.into(), why)]))
}

/// Looks up what a token is to be bound to.
fn bind(request: &AdmissionRequest<'_>, asked: &Value) -> Result<Bound, AdmissionError> {
    let mut bound = Bound::default();
    let Some(reference) = given(&asked["spec"], "boundObjectRef") else { return Ok(bound) };
    let (version, kind) = (text(reference, "/apiVersion"), text(reference, "/kind"));
    let (name, expected) = (text(reference, "/name"), text(reference, "/uid"));
    let (resource, namespace) = match kind {
        _ if version.contains('/') => ("", ""),
        "Pod" => ("pods", request.namespace),
        "Node" => ("nodes", ""),
        "Secret" => ("secrets", request.namespace),
        _ => ("", ""),
    };
    if resource.is_empty() {
        let shown = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
        return Err(AdmissionError::BadRequest(format!("cannot bind token to object of type {shown}, Kind={kind}")));
    }
    if name.is_empty() {
        return Err(AdmissionError::BadRequest("Name parameter required.".to_owned()));
    }
    let stored = get(request, &format!("/{resource}"), namespace, name).ok_or_else(|| not_found(resource, name))?;
    if kind == "Pod" && text(&stored, "/spec/serviceAccountName") != request.name {
        return Err(AdmissionError::BadRequest(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            request.name
        )));
    }
    let uid = text(&stored, "/metadata/uid");
    if !expected.is_empty() && expected != uid {
        return Err(AdmissionError::Conflict {
            group: String::new(),
            resource: kind.to_owned(),
            name: name.to_owned(),
            why: format!(
                "the UID in the bound object reference ({expected}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            ),
        });
    }
    let reference = Reference { name: name.to_owned(), uid: uid.to_owned() };
    match kind {
        "Secret" => bound.secret = Some(reference),
        "Node" => bound.node = Some(reference),
        _ => {
            let node = text(&stored, "/spec/nodeName");
            // A node that is not there is named all the same, for whoever looks into the token.
            bound.node = (!node.is_empty()).then(|| {
                let stored = get(request, "/nodes", "", node);
                let uid = stored.as_ref().map_or("", |stored| text(stored, "/metadata/uid"));
                Reference { name: node.to_owned(), uid: uid.to_owned() }
            });
            bound.pod = Some(reference);
        }
    }
    Ok(bound)
}
