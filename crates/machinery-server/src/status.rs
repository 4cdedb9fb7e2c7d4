//! Refusals as Kubernetes words them. The only place where a status code is chosen.

pub(crate) use api_kube::Reason;
use api_kube::names::quoted;
use base_http::query::QueryError;
use base_http::{Body, ReadBodyError};
use http::{HeaderValue, Response, StatusCode, header};
use machinery_kinds::{FieldError, ResourceInfo};
use machinery_store::{CommitError, Expired};
use serde::Serialize;
use serde_json::{Value, json};

use crate::authorizer::rejection;
use crate::{Access, AdmissionError};

pub(crate) type Result<T, E = ApiError> = std::result::Result<T, E>;

/// Why a request was refused, as the client sees it.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    reason: Reason,
    message: String,
    details: Option<Value>,
    retry_after_seconds: Option<u32>,
    /// Whether the answer is a plain page instead of a `Status`.
    is_page: bool,
    /// What the caller is warned of all the same.
    warnings: Vec<String>,
    /// With which an expired list continues all the same.
    continue_token: Option<String>,
}

/// `details` of a `Status`, without what is empty.
fn details_of(name: &str, group: &str, kind: &str) -> Value {
    let parts = [("name", name), ("group", group), ("kind", kind)];
    let given = parts.into_iter().filter(|(_, text)| !text.is_empty());
    given.map(|(key, text)| (key.to_owned(), Value::from(text))).collect()
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Encoding(_) => Self::bad_request(error.to_string()),
            QueryError::Value { value, .. } => Self::bad_number("ParseInt", &value),
        }
    }
}

/// The HTTP status of a reason.
fn code(reason: Reason) -> StatusCode {
    StatusCode::from_u16(reason.code()).expect("the codes of reasons are HTTP statuses")
}

impl ApiError {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            details: None,
            retry_after_seconds: None,
            is_page: false,
            warnings: Vec::new(),
            continue_token: None,
        }
    }

    fn about(mut self, info: &ResourceInfo, name: &str) -> Self {
        self.details = Some(details_of(name, &info.group, &info.plural));
        self
    }

    fn with_causes(mut self, causes: Vec<Value>) -> Self {
        let details = self.details.get_or_insert_with(|| json!({}));
        details["causes"] = Value::Array(causes);
        self
    }

    /// The same, with warnings that belong to what was asked.
    pub(crate) fn with_warnings(mut self, warnings: &[String]) -> Self {
        self.warnings.extend_from_slice(warnings);
        self
    }

    /// The request itself makes no sense.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// The caller did not say who it is, or not credibly.
    pub(crate) fn unauthorized() -> Self {
        Self::new(Reason::Unauthorized, "Unauthorized")
    }

    /// As [`Self::unauthorized`], with the reason where the authenticator gives one.
    pub(crate) fn unauthorized_because(reason: &str) -> Self {
        if reason.is_empty() {
            return Self::unauthorized();
        }
        Self::new(Reason::Unauthorized, format!("Unauthorized: {reason}"))
    }

    /// A number in a query that is none, in the words of Go's functions for it.
    pub(crate) fn bad_number(function: &str, text: &str) -> Self {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let digits = if function == "ParseInt" { text.trim_start_matches(['+', '-']) } else { text };
        let why = if is_number(digits) { "value out of range" } else { "invalid syntax" };
        Self::bad_request(format!("strconv.{function}: parsing {}: {why}", quoted(text)))
    }

    /// The server cannot do it, and upstream's storage has no reason for it either.
    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Self::new(Reason::Unknown, message)
    }

    /// A plug-in rejects the request.
    pub(crate) fn admission(info: &ResourceInfo, name: &str, error: AdmissionError) -> Self {
        match error {
            AdmissionError::Forbidden(why) => Self::forbidden(info, name, &why),
            AdmissionError::Invalid(errors) => Self::invalid(info, name, &errors),
            AdmissionError::Exists => Self::already_exists(info, name),
            AdmissionError::TooMany(why) => {
                let mut error = Self::new(Reason::TooManyRequests, why).about(info, name);
                error.retry_after_seconds = Some(10);
                error
            }
            AdmissionError::BadRequest(why) => Self::bad_request(why),
            AdmissionError::NotFound { ref group, ref resource, ref name } => {
                let details = details_of(name, group, resource);
                Self { details: Some(details), ..Self::new(Reason::NotFound, error.to_string()) }
            }
            AdmissionError::Conflict { ref group, ref resource, ref name, .. } => {
                let details = details_of(name, group, resource);
                let message = format!("Operation cannot be fulfilled on {error}");
                Self { details: Some(details), ..Self::new(Reason::Conflict, message) }
            }
            AdmissionError::InvalidKind { group, kind, name, errors } => {
                Self::invalid_kind(&group, &kind, &name, &errors)
            }
            AdmissionError::Internal(why) => Self::new(Reason::Unknown, why),
        }
    }

    /// The caller may not do this to an object.
    pub(crate) fn forbidden(info: &ResourceInfo, name: &str, why: &str) -> Self {
        Self::forbidden_resource(&info.group, &info.plural, name, why)
    }

    /// An authorizer rejects a request; a path that is no resource has no subject.
    pub(crate) fn forbidden_access(access: &Access<'_>, reason: &str) -> Self {
        let (group, resource, name) = access.subject();
        let why = rejection(access, reason);
        let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let message = match (resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{qualified} is forbidden: {why}"),
            _ => format!("{qualified} {} is forbidden: {why}", quoted(name)),
        };
        let details = details_of(name, group, resource);
        Self { details: Some(details), ..Self::new(Reason::Forbidden, message) }
    }

    /// The caller may not do this to a resource, which need not be one that is served.
    pub(crate) fn forbidden_resource(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let qualified = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
        let subject = if name.is_empty() { qualified } else { format!("{qualified} {}", quoted(name)) };
        let mut error = Self::new(Reason::Forbidden, format!("{subject} is forbidden: {why}"));
        error.details = Some(details_of(name, group, plural));
        error
    }

    /// Nothing may be created in a namespace that is being deleted.
    pub(crate) fn namespace_terminating(info: &ResourceInfo, name: &str, namespace: &str) -> Self {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        Self::forbidden(info, name, &why).with_causes(vec![json!({
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        })])
    }

    /// There is no such object.
    pub(crate) fn not_found(info: &ResourceInfo, name: &str) -> Self {
        Self::not_found_kind(&info.group, &info.plural, name)
    }

    /// There is no object of that name, of something that is said as `kind`.
    pub(crate) fn not_found_kind(group: &str, kind: &str, name: &str) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut error = Self::new(Reason::NotFound, format!("{qualified} {} not found", quoted(name)));
        error.details = Some(details_of(name, group, kind));
        error
    }

    /// There is no such namespace.
    pub(crate) fn namespace_not_found(name: &str) -> Self {
        Self::not_found_kind("", "namespaces", name)
    }

    /// Nothing is served under this path of a group that is served.
    pub(crate) fn no_such_path() -> Self {
        let mut error = Self::new(Reason::NotFound, "the server could not find the requested resource");
        error.details = Some(json!({}));
        error
    }

    /// Nothing at all is served under this path: a plain page, as of any web server.
    pub(crate) fn no_such_page() -> Self {
        Self { is_page: true, ..Self::new(Reason::NotFound, "404 page not found\n") }
    }

    /// Other servers serve it, this one does not yet; `message` says so.
    pub(crate) fn not_implemented(message: &str) -> Self {
        Self::new(Reason::NotImplemented, message)
    }

    /// The path is served, but not with this method.
    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        let mut error = Self::new(Reason::MethodNotAllowed, message);
        error.details = Some(json!({}));
        error
    }

    /// The resource is served, and does not know this act.
    pub(crate) fn not_supported(info: &ResourceInfo, act: &str) -> Self {
        let message = format!("{act} is not supported on resources of kind {:?}", info.qualified_name());
        let mut error = Self::new(Reason::MethodNotAllowed, message);
        error.details = Some(details_of("", &info.group, &info.plural));
        error
    }

    /// The client takes no format of these.
    pub(crate) fn not_acceptable(accepted: &str) -> Self {
        Self::new(Reason::NotAcceptable, format!("only the following media types are accepted: {accepted}"))
    }

    /// The client takes no format that is served at all.
    pub(crate) fn nothing_acceptable(message: impl Into<String>) -> Self {
        let mut error = Self::new(Reason::NotAcceptable, message);
        error.details = Some(json!({}));
        error
    }

    /// The client asks for a form that the answer does not have.
    pub(crate) fn no_such_form(message: impl Into<String>) -> Self {
        Self::new(Reason::NotAcceptable, message)
    }

    /// The body is in a format that is not served; `message` says which are.
    pub(crate) fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(Reason::UnsupportedMediaType, message)
    }

    /// The body is in a format for which there is no route.
    pub(crate) fn unrouted_media_type() -> Self {
        let mut error = Self::unsupported_media_type("415: Unsupported Media Type");
        error.details = Some(json!({}));
        error
    }

    /// A create met an object of that name.
    pub(crate) fn already_exists(info: &ResourceInfo, name: &str) -> Self {
        let message = format!("{} {} already exists", info.qualified_name(), quoted(name));
        Self::new(Reason::AlreadyExists, message).about(info, name)
    }

    /// A create met an object of that name, which is about to end.
    pub(crate) fn is_being_deleted(info: &ResourceInfo, name: &str) -> Self {
        let mut error = Self::already_exists(info, name);
        error.message = format!("object is being deleted: {}", error.message);
        error
    }

    /// The object changed since the client read it.
    pub(crate) fn modified(info: &ResourceInfo, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(info, name, why)
    }

    /// An expectation of the client does not hold.
    pub(crate) fn conflict(info: &ResourceInfo, name: &str, why: &str) -> Self {
        Self::conflict_kind(&info.group, &info.plural, name, why)
    }

    /// Another uid is held than the client sent, or none, as the object does not exist. Upstream's store says it, with its own
    /// key of the object.
    pub(crate) fn uid_conflict(
        info: &ResourceInfo,
        (namespace, name): (&str, &str),
        (sent, held): (&str, &str),
        is_dry: bool,
    ) -> Self {
        let root = if is_dry { "" } else { "/registry" };
        let resource = match (&*info.group, &*info.plural) {
            ("", "services") => "services/specs",
            ("", "endpoints") => "services/endpoints",
            ("", "nodes") => "minions",
            ("", "replicationcontrollers") => "controllers",
            ("networking.k8s.io", "ingresses") => "ingress",
            (_, plural) => plural,
        };
        let has_group = info.is_custom() || matches!(&*info.group, "apiextensions.k8s.io" | "apiregistration.k8s.io");
        let group = if has_group { format!("/{}", info.group) } else { String::new() };
        let namespace = if namespace.is_empty() { String::new() } else { format!("/{namespace}") };
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: {root}{group}/{resource}{namespace}/{name}, ResourceVersion: 0, \
             AdditionalErrorMsg: Precondition failed: UID in precondition: {sent}, UID in object meta: {held}"
        );
        Self::conflict(info, name, &why)
    }

    /// An expectation does not hold, of something that is said as `kind`.
    pub(crate) fn conflict_kind(group: &str, kind: &str, name: &str, why: &str) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let message = format!("Operation cannot be fulfilled on {qualified} {}: {why}", quoted(name));
        let mut error = Self::new(Reason::Conflict, message);
        error.details = Some(details_of(name, group, kind));
        error
    }

    /// Fields of the object are wrong.
    pub(crate) fn invalid(info: &ResourceInfo, name: &str, errors: &[FieldError]) -> Self {
        Self::invalid_kind(info.internal_group(), &info.kind, name, errors)
    }

    /// Fields of something that is no stored resource are wrong.
    pub(crate) fn invalid_kind(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let subject = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let causes = errors
            .iter()
            .map(|error| json!({"reason": error.reason.as_str(), "message": error.message, "field": error.path}))
            .collect();
        let message = format!("{subject} {} is invalid: {}", quoted(name), machinery_kinds::join_field_errors(errors));
        let mut error = Self::new(Reason::Invalid, message);
        error.details = Some(details_of(name, group, kind));
        error.with_causes(causes)
    }

    /// The request asks for more than one may.
    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(Reason::RequestEntityTooLarge, message)
    }

    /// The revision asked for has left the history.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// The revision of a list that was begun is not kept any more; the token continues it at a later one.
    pub(crate) fn expired_continue(token: String) -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You can start a \
                       new list without the continue parameter, or use the continue token in this response to retrieve \
                       the remainder of the results. Continuing with the provided token results in an inconsistent \
                       list - objects that were created, modified, or deleted between the time the first chunk was \
                       returned and now may show up in the list.";
        Self { continue_token: Some(token), ..Self::new(Reason::Expired, message) }
    }

    /// The revision asked for has not been reached; a client that came from another server lists anew.
    pub(crate) fn future_revision(expired: &Expired) -> Self {
        let mut error = Self::new(
            Reason::Timeout,
            format!("Timeout: Too large resource version: {}, current: {}", expired.asked, expired.current),
        )
        .with_causes(vec![json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"})]);
        error.retry_after_seconds = Some(1);
        error
    }

    /// The pod's budget does not allow its eviction.
    pub(crate) fn disruption(why: &str, retry_after_seconds: Option<u32>) -> Self {
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        let cause = json!({"reason": "DisruptionBudget", "message": why});
        let mut error = Self::new(Reason::TooManyRequests, message).with_causes(vec![cause]);
        error.retry_after_seconds = retry_after_seconds;
        error
    }

    /// A budget is written too often to be counted down.
    pub(crate) fn too_many_conflicts(budget: &str, retry_after_seconds: u32) -> Self {
        let message = format!("Timeout: couldn't update PodDisruptionBudget {} due to conflicts", quoted(budget));
        let mut error = Self::new(Reason::Timeout, message);
        error.retry_after_seconds = Some(retry_after_seconds);
        error
    }

    /// More requests than the server works on at a time.
    pub(crate) fn too_many_requests() -> Self {
        let message = "the server has received too many requests and has asked us to try again later";
        let mut error = Self::new(Reason::TooManyRequests, message);
        error.retry_after_seconds = Some(1);
        error
    }

    /// The answer did not come in time.
    pub(crate) fn timed_out(after: std::time::Duration) -> Self {
        let message = format!("the request was not completed within {} seconds; try again", after.as_secs());
        let mut error = Self::new(Reason::Timeout, message);
        error.retry_after_seconds = Some(1);
        error
    }

    /// Others own what a configuration changes.
    pub(crate) fn apply_conflict(message: String, causes: Vec<Value>) -> Self {
        Self::new(Reason::Conflict, message).with_causes(causes)
    }

    /// What a patch made of an object is wrong; it is about no kind and no name.
    pub(crate) fn invalid_patch(error: &FieldError) -> Self {
        let cause = json!({"reason": error.reason.as_str(), "message": error.message, "field": error.path});
        Self::new(Reason::Invalid, format!(" \"\" is invalid: {error}")).with_causes(vec![cause])
    }

    /// A patch that does not fit the object; upstream does not say why.
    pub(crate) fn patch_refused() -> Self {
        let mut error = Self::new(Reason::Invalid, "the server rejected our request due to an error in our request");
        error.details = Some(json!({}));
        error
    }

    /// The server is to blame.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(Reason::InternalError, format!("Internal error occurred: {message}"))
            .with_causes(vec![json!({"message": message})])
    }

    /// Something that the answer needs, such as a node, cannot be reached now.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Reason::ServiceUnavailable, message)
    }

    /// A body that could not be read.
    pub(crate) fn body(error: &ReadBodyError) -> Self {
        match error {
            ReadBodyError::TooLarge { max } => {
                Self::new(Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {max}"))
            }
            ReadBodyError::TooSlow { .. } => Self::new(Reason::Timeout, error.to_string()),
            ReadBodyError::OverBudget(_) => {
                let mut refusal = Self::too_many_requests();
                refusal.message = error.to_string();
                refusal
            }
            ReadBodyError::Broken(_) => Self::bad_request(error.to_string()),
        }
    }

    /// A commit that the store did not do, for reasons that are not the client's.
    pub(crate) fn commit(error: &CommitError) -> Self {
        match error {
            CommitError::Full => Self::new(
                Reason::InsufficientStorage,
                "the disk of the hub is full: writes are rejected, deletions are taken; delete what is not needed, or make space \
                 on the disk of its data directory, then try again",
            ),
            CommitError::Closed => Self::unavailable("the hub is shutting down; try again in a moment"),
            CommitError::Io(_) | CommitError::Conflict { .. } | CommitError::NotFound => {
                Self::internal(error.to_string())
            }
        }
    }

    /// What the log says.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn reason(&self) -> Reason {
        self.reason
    }

    /// The `Status` object.
    pub(crate) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.reason.code(),
        });
        if let Some(token) = &self.continue_token {
            status["metadata"]["continue"] = token.as_str().into();
        }
        if self.reason != Reason::Unknown {
            status["reason"] = self.reason.as_str().into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        if let Some(seconds) = self.retry_after_seconds {
            let details = status.as_object_mut().expect("made above").entry("details").or_insert_with(|| json!({}));
            details["retryAfterSeconds"] = seconds.into();
        }
        status
    }

    /// The whole answer.
    pub(crate) fn into_response(self) -> Response<Body> {
        if self.is_page {
            let mut response = text(true, self.message);
            *response.status_mut() = code(self.reason);
            return response;
        }
        let mut response = json_response(code(self.reason), &self.status());
        crate::server::warn(&mut response, &self.warnings);
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// The `Status` of something that was done and has no object to show, such as a delete.
pub(crate) fn success(info: &ResourceInfo, name: &str, uid: &str) -> Value {
    let mut details = details_of(name, &info.group, &info.plural);
    details["uid"] = uid.into();
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// 200 with an object.
pub(crate) fn ok(body: impl Into<Body>) -> Response<Body> {
    bytes_response(StatusCode::OK, body.into())
}

/// 200 with a document.
pub(crate) fn ok_json(value: &Value) -> Response<Body> {
    json_response(StatusCode::OK, value)
}

/// The same for documents that people read, with line breaks, as upstream writes them.
pub(crate) fn ok_json_to_read(document: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_string_pretty(document).expect("documents have names for keys");
    bytes_response(StatusCode::OK, Body::from(text))
}

/// 201 with the object that was made.
pub(crate) fn created(body: impl Into<Body>) -> Response<Body> {
    bytes_response(StatusCode::CREATED, body.into())
}

/// The same response as 202: what was asked for has begun and is not done.
pub(crate) fn accepted(mut response: Response<Body>) -> Response<Body> {
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

/// 204: there is nothing.
pub(crate) fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// 304: what the client holds is still right.
pub(crate) fn not_modified() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

/// Plain text, for health endpoints.
pub(crate) fn text(is_healthy: bool, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    if !is_healthy {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The page of figures.
pub(crate) fn metrics(page: String) -> Response<Body> {
    let mut response = Response::new(Body::from(page));
    let media = HeaderValue::from_static(base_observe::METRICS_CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    response
}

fn json_response(code: StatusCode, value: &Value) -> Response<Body> {
    bytes_response(code, Body::from(value.to_string()))
}

fn bytes_response(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}
