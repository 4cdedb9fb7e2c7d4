//! What waits for clients to take it: responses are bounded in number and in bytes, for each identity and in all.
//!
//! A client that opens streams and never reads makes the server keep a response for each of them. So every response is counted
//! from the beginning of its request until its last byte has been handed on, and its bytes are held of a budget for as long.
//! An identity whose budget is used up gets 429 on its next request; a read that passes the budget gets it in place of
//! its answer. A write has happened by then and is answered whatever it costs: its own body was bounded before.
//!
//! Small answers are bounded by their number alone. Watches are bounded by their own number, and what waits in each of them is
//! held of the same budget; one that finds it used up ends, and its client lists again. Administrators' watches are not
//! counted: what a slow one keeps is mostly the store's, and ending it would hide what happens. A log counts as the buffers
//! between its client and the kubelet, which have a fixed size.

use std::sync::Arc;

use base_http::{Body, BodyBudget, BodyPermit, BodyPriority, BudgetLimits, OverBudget};
use http::Response;

use crate::flow::{Entry, Lane};
use crate::server::{Context, Inner};
use crate::status::ApiError;
use crate::{GROUP_MASTERS, Identity};

/// Two of the largest objects for each identity; a dozen identities that take nothing leave space for administrators.
pub(crate) const BUDGET: BudgetLimits =
    BudgetLimits { bytes_max: 128 << 20, bytes_reserved: 32 << 20, bytes_per_identity_max: 8 << 20 };

/// Answers below this are not held of the budget.
const SMALL_BYTES: usize = 4 * 1024;

/// Says of a response how much memory it keeps while it is sent, where that is not its length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BytesKept(pub(crate) usize);

/// Says of a response that its identity has too many of them; its connection is to be closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overrun;

/// A response that is to come.
pub(crate) struct Outgoing {
    entry: Entry,
    permit: BodyPermit,
}

impl Outgoing {
    /// Counts a request's response, or says with 429 that its identity has enough to take.
    pub(crate) fn begin(server: &Arc<Inner>, identity: &Identity, lane: Lane) -> Result<Self, Box<Response<Body>>> {
        let refusal = || ApiError::too_many_requests().into_response();
        let Ok(entry) = server.flow.open_response(&identity.user, lane) else {
            let mut refusal = refusal();
            refusal.extensions_mut().insert(Overrun);
            return Err(Box::new(refusal));
        };
        if check(server, identity).is_err() {
            // It is one more that waits to be taken.
            return Err(Box::new(refusal().map(|body| body.holding(entry))));
        }
        let priority = if identity.is_in(GROUP_MASTERS) { BodyPriority::Reserved } else { BodyPriority::Normal };
        Ok(Self { entry, permit: server.outgoing.permit(&identity.user, priority) })
    }

    /// The answer, which is counted until it has been sent.
    pub(crate) fn answer(mut self, is_read: bool, mut response: Response<Body>) -> Response<Body> {
        let exact = hyper::body::Body::size_hint(response.body()).exact().map(|bytes| bytes as usize);
        let kept = response.extensions_mut().remove::<BytesKept>().map(|BytesKept(bytes)| bytes);
        let bytes = kept.or(exact).filter(|bytes| *bytes > SMALL_BYTES).unwrap_or(0);
        if !is_read {
            self.permit.add(bytes);
        } else if self.permit.grow_to(bytes).is_err() {
            response = ApiError::too_many_requests().into_response();
        }
        let Self { entry, permit } = self;
        response.map(|body| body.holding((entry, permit)))
    }
}

/// Says with 429 that an identity holds all that it may. It is asked when a request comes, and once more when its turn has come:
/// a write's answer is given whatever it costs, and hundreds may have come before the first of them was answered.
pub(crate) fn check(server: &Inner, identity: &Identity) -> Result<(), ApiError> {
    // What others hold is no reason to refuse a request whose answer may be small.
    let is_refused = !identity.is_in(GROUP_MASTERS) && server.outgoing.is_used_up(&identity.user);
    if is_refused { Err(ApiError::too_many_requests()) } else { Ok(()) }
}

/// Counts what waits in a watch.
pub(crate) struct Holder(Option<(BodyBudget, String)>);

impl Holder {
    /// For a watch of the request's identity; those of administrators and in process are not counted.
    pub(crate) fn of(context: &Context<'_>) -> Self {
        let is_counted = context.turn.is_some() && !context.identity.is_in(GROUP_MASTERS);
        Self(is_counted.then(|| (context.server.outgoing.clone(), context.identity.user.clone())))
    }

    /// Holds so many bytes, until what it gives is dropped.
    pub(crate) fn hold(&self, bytes: usize) -> Result<Option<BodyPermit>, OverBudget> {
        let Some((budget, user)) = self.0.as_ref().filter(|_| bytes > SMALL_BYTES) else { return Ok(None) };
        let mut permit = budget.permit(user, BodyPriority::Normal);
        permit.grow_to(bytes)?;
        Ok(Some(permit))
    }
}
