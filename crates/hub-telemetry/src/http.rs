//! Requests under `/telemetry/v1/` as calls of the store, and answers as bytes.
//!
//! Plain functions, without a socket: a failure leaves here as a [`RequestError`], typed, and [`crate::routes`] writes it down.
//! The two answers of the protocol, 200 and 409 with a [`BatchAnswer`](api_edge::telemetry::BatchAnswer), are built here.

use api_edge::telemetry::{BATCH_CONTENT_TYPE, BATCHES_PATH, LATEST_PATH, READINGS_PATH};
use base_http::query::Query;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode, header};
use serde::Serialize;

use crate::batch::BatchError;
use crate::query::{Order, QueryError, ReadingsQuery};
use crate::store::{EpochConflict, IngestError, Telemetry};

/// User names of nodes begin with this.
const NODE_PREFIX: &str = "system:node:";

/// Group of those who may read.
const ADMINS: &str = "system:masters";

/// Why a request was not served; the text is for its sender.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// 404.
    #[error("there is no {0}; there are {BATCHES_PATH}, {READINGS_PATH} and {LATEST_PATH}")]
    NotFound(String),
    /// 405.
    #[error("{path} does not take {method}; use {allowed}")]
    MethodNotAllowed {
        /// Of the request.
        path: &'static str,
        /// Of the request.
        method: Method,
        /// The one it takes.
        allowed: Method,
    },
    /// 403.
    #[error("{0}")]
    Forbidden(String),
    /// 415.
    #[error("a batch must come as {BATCH_CONTENT_TYPE}")]
    UnsupportedMediaType,
    /// 413.
    #[error(transparent)]
    TooLarge(BatchError),
    /// 400.
    #[error("{0}")]
    BadRequest(String),
    /// 409: another journal has the batch's epoch. Unlike the protocol's 409 it has no offset to continue at.
    #[error(transparent)]
    Conflict(EpochConflict),
    /// 408: the body did not come in time.
    #[error("{0}")]
    Timeout(String),
    /// 429: the sender should try again, and with fewer requests at a time.
    #[error("{0}")]
    TooManyRequests(String),
    /// 429: the sender has sent more than it may, and may send again after this time.
    #[error("{user:?} has sent more than its quota of bytes; try again in {} s", after.as_secs().max(1))]
    OverQuota {
        /// The sender.
        user: String,
        /// When it may send again.
        after: std::time::Duration,
    },
    /// 507: no space on the hub's disk; the sender should try again later.
    #[error(transparent)]
    Full(IngestError),
    /// 500: the hub's disk failed.
    #[error("the hub failed to store or read readings")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Serves one request; blocks on the disk. `user` and `groups` are of the sender, `body` is whole and bounded by
/// [`api_edge::telemetry::BATCH_BYTES_MAX`].
pub fn handle(
    telemetry: &Telemetry,
    parts: &Parts,
    user: &str,
    groups: &[String],
    body: &Bytes,
) -> Result<Response<Bytes>, RequestError> {
    check(parts, user, groups)?;
    match parts.uri.path() {
        BATCHES_PATH => post_batch(telemetry, user, body),
        LATEST_PATH => get_latest(telemetry, parts.uri.query().unwrap_or_default()),
        _ => get_readings(telemetry, parts.uri.query().unwrap_or_default()),
    }
}

/// Decides whether a request is to be served, by all but its body: that is read only if it is.
pub(crate) fn check(parts: &Parts, user: &str, groups: &[String]) -> Result<(), RequestError> {
    let read = |path| {
        allow_method(parts, path, Method::GET)?;
        if groups.iter().any(|group| group == ADMINS) {
            return Ok(());
        }
        Err(RequestError::Forbidden(format!("user {user:?} may not read telemetry; only {ADMINS} may")))
    };
    match parts.uri.path() {
        BATCHES_PATH => {
            allow_method(parts, BATCHES_PATH, Method::POST)?;
            if node_of(user).is_none() {
                return Err(RequestError::Forbidden(format!("user {user:?} may not send telemetry; only nodes may")));
            }
            let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            if content_type.is_none_or(|text| text.split(';').next().unwrap_or_default().trim() != BATCH_CONTENT_TYPE) {
                return Err(RequestError::UnsupportedMediaType);
            }
            Ok(())
        }
        READINGS_PATH => read(READINGS_PATH),
        LATEST_PATH => read(LATEST_PATH),
        other => Err(RequestError::NotFound(other.to_owned())),
    }
}

/// The name comes from the certificate and never from the body: a node speaks for itself only.
fn node_of(user: &str) -> Option<&str> {
    user.strip_prefix(NODE_PREFIX).filter(|node| !node.is_empty() && !node.contains('/'))
}

fn allow_method(parts: &Parts, path: &'static str, allowed: Method) -> Result<(), RequestError> {
    if parts.method == allowed {
        Ok(())
    } else {
        Err(RequestError::MethodNotAllowed { path, method: parts.method.clone(), allowed })
    }
}

fn post_batch(telemetry: &Telemetry, user: &str, body: &Bytes) -> Result<Response<Bytes>, RequestError> {
    let node = node_of(user).unwrap_or_default();
    match telemetry.ingest_body(node, body) {
        Ok(answer) => Ok(json(StatusCode::OK, &answer)),
        Err(IngestError::OffsetMismatch(answer)) => Ok(json(StatusCode::CONFLICT, &answer)),
        Err(IngestError::EpochConflict(conflict)) => Err(RequestError::Conflict(conflict)),
        Err(IngestError::Batch(error @ BatchError::TooLarge { .. })) => Err(RequestError::TooLarge(error)),
        Err(IngestError::Batch(error)) => Err(RequestError::BadRequest(error.to_string())),
        // Not 400: a node leaves events out that can never be taken, and these can as soon as the hub has caught up.
        Err(error @ (IngestError::NotAssigned { .. } | IngestError::TooManyExports { .. })) => {
            Err(RequestError::Forbidden(error.to_string()))
        }
        Err(error @ IngestError::TooManyEpochs { .. }) => Err(RequestError::TooManyRequests(error.to_string())),
        Err(error @ IngestError::Full { .. }) => Err(RequestError::Full(error)),
        Err(error @ IngestError::Store(_)) => Err(RequestError::Internal(Box::new(error))),
    }
}

fn query_error(error: QueryError) -> RequestError {
    match error {
        QueryError::Token(_) | QueryError::Limit(_) => RequestError::BadRequest(error.to_string()),
        QueryError::Read(_) => RequestError::Internal(Box::new(error)),
    }
}

fn get_readings(telemetry: &Telemetry, query: &str) -> Result<Response<Bytes>, RequestError> {
    let page = telemetry.query(&parse_query(query)?).map_err(query_error)?;
    Ok(json(StatusCode::OK, &page))
}

fn get_latest(telemetry: &Telemetry, query: &str) -> Result<Response<Bytes>, RequestError> {
    let query = parse_query(query)?;
    if query.order == Order::Newest || query.after.is_some() {
        return Err(RequestError::BadRequest(format!("{LATEST_PATH} takes neither order nor after: it is one page")));
    }
    Ok(json(StatusCode::OK, &telemetry.latest(&query).map_err(query_error)?))
}

/// Reads `node=…&device=…&resource=…&from=…&to=…&order=…&limit=…&after=…`. An unknown parameter is an error: a mistyped filter
/// must not answer with everything.
pub fn parse_query(text: &str) -> Result<ReadingsQuery, RequestError> {
    let mut query = ReadingsQuery::default();
    let parameters = Query::parse(Some(text)).map_err(|error| RequestError::BadRequest(error.to_string()))?;
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        let number = |what: &str| RequestError::BadRequest(format!("`{name}` is `{value}`; it must be {what}"));
        let nanoseconds = || value.parse().map_err(|_| number("a time in nanoseconds since 1970"));
        match name {
            "node" => query.node = Some(value.to_owned()),
            "device" => query.device = Some(value.to_owned()),
            "resource" => query.resource = Some(value.to_owned()),
            "from" => query.from = Some(nanoseconds()?),
            "to" => query.to = Some(nanoseconds()?),
            "order" => {
                query.order = match value {
                    "asc" => Order::Oldest,
                    "desc" => Order::Newest,
                    _ => return Err(number("`asc` (stored first comes first) or `desc`")),
                }
            }
            "limit" => query.limit = Some(value.parse().map_err(|_| number("a number of readings"))?),
            "after" => query.after = Some(value.to_owned()),
            _ => {
                return Err(RequestError::BadRequest(format!(
                    "unknown parameter `{name}`; known are node, device, resource, from, to, order, limit and after"
                )));
            }
        }
    }
    Ok(query)
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Bytes> {
    let body = serde_json::to_vec(body).expect("answers hold JSON values only");
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
