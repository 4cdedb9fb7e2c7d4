//! Telemetry on the hub's port: bodies, slots, and what a failure looks like on the wire.
//!
//! A batch passes four gates. Its sender may have a few requests at a time, and may not have sent more than its quota (`quota`);
//! then its body is read, under a budget of bytes
//! for all bodies and within a deadline; only then it waits for one of the slots in which batches are stored. So a body
//! that stalls holds nothing but its own share, and a node that sends much waits behind itself. Large batches have a budget
//! and slots apart from those of the small ones that nodes send all day, so neither displaces or delays the other. Queries
//! have slots of their own. Slots are given in the order of asking.
//!
//! [`TelemetryRoutes::call`] is all that a server needs: it is handed the request and who sent it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_edge::telemetry::{BATCH_BYTES_MAX, BATCHES_PATH};
use base_http::{Body, BodyBudget, BodyLimits, BodyPermit, BodyPriority, BoxError, BudgetLimits, ReadBodyError};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::error;

use crate::batch::BatchError;
use crate::http::{RequestError, check, handle};
use crate::quota::{QuotaLimits, Quotas};
use crate::store::Telemetry;

/// A batch up to this size is small: some two thousand readings, more than an export sends unless it is set to.
const SMALL_BATCH_BYTES: usize = 256 * 1024;

/// Small batches that are stored at a time: a disk gains nothing from more.
const BATCHES_IN_FLIGHT_MAX: usize = 32;

/// Large batches that are stored at a time. While one waits for the disk the next is read through; more gain nothing.
const LARGE_BATCHES_IN_FLIGHT_MAX: usize = 2;

/// Requests of one sender that are worked on at a time; the others wait behind them.
const SENDER_REQUESTS_MAX: usize = 4;

/// Of these, requests with a large batch.
const SENDER_LARGE_MAX: usize = 2;

/// Requests of one sender at a time, those included that wait: an export has one batch on its way.
const SENDER_WAITING_MAX: usize = crate::EXPORTS_MAX + SENDER_REQUESTS_MAX;

/// What small bodies hold that are read or wait for a slot. A sender's share is what its requests can use.
const SMALL_BODIES: BudgetLimits = BudgetLimits {
    bytes_max: 24 << 20,
    // Nobody with a privilege sends batches.
    bytes_reserved: 0,
    bytes_per_identity_max: (SENDER_REQUESTS_MAX * SMALL_BATCH_BYTES) as u64,
};

/// What large bodies hold. Four nodes that catch up use it whole; the fifth is asked to come again in a second, and what
/// all of them do to the hub's memory stays a fraction of what it may have.
const LARGE_BODIES: BudgetLimits = BudgetLimits {
    bytes_max: 32 << 20,
    bytes_reserved: 0,
    bytes_per_identity_max: (SENDER_LARGE_MAX * BATCH_BYTES_MAX) as u64,
};

/// Queries that are answered at a time; each may read for a second or two.
const QUERIES_IN_FLIGHT_MAX: usize = 4;

/// How long a request waits for its turn before it is asked to come again.
const TURN_DURATION_MAX: Duration = Duration::from_secs(10);

/// A sender is not sent away for longer: it may have been given another quota by then.
const RETRY_AFTER_S_MAX: u64 = 600;

/// A request's body, whoever it came from.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// Who sent a request, by certificate or token.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The user's name; a node's begins with `system:node:`.
    pub user: &'a str,
    /// The user's groups.
    pub groups: &'a [String],
}

/// Serves what lies under `/telemetry/`.
pub struct TelemetryRoutes {
    telemetry: Telemetry,
    senders: Arc<Senders>,
    small: Gate,
    large: Gate,
    quotas: Quotas,
    queries: Arc<Semaphore>,
}

/// What bodies of one size may hold, and how many are stored at a time.
struct Gate {
    bodies: BodyBudget,
    slots: Arc<Semaphore>,
}

impl Gate {
    fn new(bodies: BudgetLimits, slots: usize) -> Self {
        Self { bodies: BodyBudget::new(bodies), slots: Arc::new(Semaphore::new(slots)) }
    }
}

impl TelemetryRoutes {
    /// What the paths begin with.
    pub const PREFIX: &'static str = "/telemetry/";

    /// Serves what a store holds, and stores what nodes send.
    pub fn new(telemetry: Telemetry) -> Self {
        Self::with_quota(telemetry, QuotaLimits::default())
    }

    /// Like [`new`](Self::new), with another bound on what each node may send.
    pub fn with_quota(telemetry: Telemetry, quota: QuotaLimits) -> Self {
        Self {
            telemetry,
            senders: Arc::default(),
            small: Gate::new(SMALL_BODIES, BATCHES_IN_FLIGHT_MAX),
            large: Gate::new(LARGE_BODIES, LARGE_BATCHES_IN_FLIGHT_MAX),
            quotas: Quotas::new(quota),
            queries: Arc::new(Semaphore::new(QUERIES_IN_FLIGHT_MAX)),
        }
    }

    /// Answers a request.
    pub async fn call(&self, request: Request<RequestBody>, sender: Sender<'_>) -> Response<Body> {
        match self.serve(request, sender).await {
            Ok(response) => response.map(Body::from),
            Err(failure) => {
                if let RequestError::Internal(_) | RequestError::Full(_) = &failure {
                    error!(error = %base_observe::Chain(&failure), "Failed to serve telemetry.");
                }
                rejection(&failure)
            }
        }
    }

    async fn serve(&self, request: Request<RequestBody>, sender: Sender<'_>) -> Result<Response<Bytes>, RequestError> {
        let (parts, body) = request.into_parts();
        check(&parts, sender.user, sender.groups)?;
        let waiting = self.senders.enter(sender.user).ok_or_else(|| {
            let why = format!("{:?} has {SENDER_WAITING_MAX} requests open; wait for the answers", sender.user);
            RequestError::TooManyRequests(why)
        })?;
        let is_batch = parts.uri.path() == BATCHES_PATH;
        // A length that was declared is held to; a body without one may become large.
        let is_small = body.size_hint().upper().is_some_and(|bytes| bytes <= SMALL_BATCH_BYTES as u64);
        let gate = if is_small { &self.small } else { &self.large };
        // First the turn among its large ones: those that wait for it take no turns of its small batches and queries.
        let _large = match is_batch && !is_small {
            true => Some(turn(waiting.slots.large.clone().acquire_owned()).await?),
            false => None,
        };
        let _own = turn(waiting.slots.all.clone().acquire_owned()).await?;
        let (body, _bytes) = if is_batch { self.read(body, sender.user, gate).await? } else { (Bytes::new(), None) };
        let slots = if is_batch { &gate.slots } else { &self.queries };
        let slot = turn(slots.clone().acquire_owned()).await?;
        let (telemetry, user, groups) = (self.telemetry.clone(), sender.user.to_owned(), sender.groups.to_vec());
        let answered = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            handle(&telemetry, &parts, &user, &groups, &body)
        });
        answered.await.unwrap_or_else(|panic| Err(RequestError::Internal(Box::new(panic))))
    }

    /// Reads a body; it counts in the budget until the second of the two is dropped.
    async fn read(
        &self,
        body: RequestBody,
        user: &str,
        gate: &Gate,
    ) -> Result<(Bytes, Option<BodyPermit>), RequestError> {
        // After its turn among its own: a balance that is used up meanwhile counts.
        if let Err(after) = self.quotas.check(user, Instant::now()) {
            self.telemetry.count_over_quota();
            return Err(RequestError::OverQuota { user: user.to_owned(), after });
        }
        let mut permit = gate.bodies.permit(user, BodyPriority::Normal);
        let read = base_http::read_body_within(body, BodyLimits::new(BATCH_BYTES_MAX), &mut permit).await;
        // What came counts, also of a body that was not whole.
        self.quotas.charge(user, read.as_ref().map_or(permit.bytes(), |body| body.len() as u64), Instant::now());
        match read {
            Ok(body) => Ok((body, Some(permit))),
            Err(ReadBodyError::TooLarge { .. }) => {
                Err(RequestError::TooLarge(BatchError::TooLarge { bytes: BATCH_BYTES_MAX + 1 }))
            }
            Err(error @ ReadBodyError::OverBudget(_)) => Err(RequestError::TooManyRequests(error.to_string())),
            Err(error @ (ReadBodyError::TooSlow { .. } | ReadBodyError::Broken(_))) => {
                Err(RequestError::Timeout(error.to_string()))
            }
        }
    }
}

/// Waits for a permit as long as a sender may wait.
async fn turn<E>(
    permit: impl Future<Output = Result<OwnedSemaphorePermit, E>>,
) -> Result<OwnedSemaphorePermit, RequestError> {
    match tokio::time::timeout(TURN_DURATION_MAX, permit).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(RequestError::TooManyRequests("the hub serves as much as it can; try again".to_owned())),
    }
}

/// The requests of each sender; senders with none are not listed.
#[derive(Default)]
struct Senders {
    open: Mutex<HashMap<String, (usize, Arc<SenderSlots>)>>,
}

/// The turns that the requests of one sender share.
struct SenderSlots {
    all: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl SenderSlots {
    fn new() -> Self {
        let slots = |count| Arc::new(Semaphore::new(count));
        Self { all: slots(SENDER_REQUESTS_MAX), large: slots(SENDER_LARGE_MAX) }
    }
}

impl Senders {
    fn enter(self: &Arc<Self>, user: &str) -> Option<Waiting> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, slots) = open.entry(user.to_owned()).or_insert_with(|| (0, Arc::new(SenderSlots::new())));
        if *count >= SENDER_WAITING_MAX {
            return None;
        }
        *count += 1;
        Some(Waiting { senders: self.clone(), user: user.to_owned(), slots: slots.clone() })
    }
}

/// One request of a sender, until it is dropped.
struct Waiting {
    senders: Arc<Senders>,
    user: String,
    slots: Arc<SenderSlots>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut open = self.senders.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((count, _)) = open.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.user);
            }
        }
    }
}

fn status_of(failure: &RequestError) -> StatusCode {
    match failure {
        RequestError::NotFound(_) => StatusCode::NOT_FOUND,
        RequestError::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
        RequestError::Forbidden(_) => StatusCode::FORBIDDEN,
        RequestError::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        RequestError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        RequestError::BadRequest(_) => StatusCode::BAD_REQUEST,
        RequestError::Conflict(_) => StatusCode::CONFLICT,
        RequestError::Timeout(_) => StatusCode::REQUEST_TIMEOUT,
        RequestError::TooManyRequests(_) | RequestError::OverQuota { .. } => StatusCode::TOO_MANY_REQUESTS,
        RequestError::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
        RequestError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A `Status`, as Kubernetes' clients read it.
fn rejection(failure: &RequestError) -> Response<Body> {
    let status = status_of(failure);
    let body = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": failure.to_string(),
        "reason": status.canonical_reason().unwrap_or_default().replace(' ', ""), "details": {}, "code": status.as_u16(),
    });
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::TOO_MANY_REQUESTS {
        let seconds = match failure {
            // Rounded up, or the first try would come too early.
            RequestError::OverQuota { after, .. } => after.as_secs().saturating_add(1).min(RETRY_AFTER_S_MAX),
            _ => 1,
        };
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

#[cfg(test)]
mod tests;
