//! Reading a request's body: bounded in bytes, in time, and in what all bodies of an identity may hold together.
//!
//! A body is read whole before it is worked on. Until it is there it may only cost what its sender has left of a budget:
//! [`BodyBudget`] counts the bytes that are held, in all and per identity, and grows with what arrives, not with what a
//! `Content-Length` claims. Five hundred slow bodies of one token fill that token's share, and nobody else's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::BoxError;

/// Budgets are counted in steps of this, so that small frames do not take the lock each. A small body costs one step, so
/// many small ones do not use up what large ones may.
const STEP_BYTES: usize = 4 * 1024;

/// When so much of a body is there, space for all that it declared is reserved. Growing by doubling would leave as many bytes
/// behind in smaller blocks as the body has, and they are not given back at once. What is reserved and not written costs
/// nothing but addresses, so a claim alone takes no memory.
const RESERVED_AFTER_BYTES: usize = 64 * 1024;

/// Of a body that is too large as much is read and thrown away, for so long; of one that says it is larger still, nothing.
const DRAINED_BYTES_MAX: usize = 8 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Bounds of one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// Largest body that is taken; of one that is larger nothing is kept.
    pub bytes_max: usize,
    /// Time for the whole body.
    pub deadline: Duration,
    /// A body that keeps this rate, in bytes per second, may take longer: each byte adds its share to the deadline.
    pub rate_min: u32,
}

impl BodyLimits {
    /// At most so many bytes, in 30 seconds or at 16 KiB a second: a slow radio link, but no slow attacker.
    pub const fn new(bytes_max: usize) -> Self {
        Self { bytes_max, deadline: Duration::from_secs(30), rate_min: 16 * 1024 }
    }

    fn time_for(&self, bytes: usize) -> Duration {
        // In milliseconds of 64 bits: no size that fits memory can overflow it.
        let extra_ms = (bytes as u64).saturating_mul(1000) / u64::from(self.rate_min.max(1));
        self.deadline.saturating_add(Duration::from_millis(extra_ms))
    }
}

impl From<usize> for BodyLimits {
    fn from(bytes_max: usize) -> Self {
        Self::new(bytes_max)
    }
}

/// Why a request's body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadBodyError {
    /// Answer 413.
    #[error("the body is larger than {max} bytes")]
    TooLarge {
        /// The limit.
        max: usize,
    },
    /// It came too slowly; answer 408.
    #[error("the body was not complete after {} s", after.as_secs())]
    TooSlow {
        /// The time it was given.
        after: Duration,
    },
    /// There is no capacity for it now; answer 429.
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    /// The client went away.
    #[error("the body ended before it was complete")]
    Broken(#[source] BoxError),
}

/// Whose budget is used up. The client may try again in a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverBudget {
    /// The sender's.
    #[error("too many bytes of request bodies of this user are being read; try again")]
    Identity,
    /// Everyone's.
    #[error("too many bytes of request bodies are being read; try again")]
    Total,
}

/// Reads a body without a budget: for roles with few clients.
///
/// # Errors
/// When it is larger or slower than the limits allow, or its sender went away.
pub async fn read_body<B>(body: B, limits: impl Into<BodyLimits>) -> Result<Bytes, ReadBodyError>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    read(body, limits.into(), None).await
}

/// Reads a body under a budget. The permit grows with the body and is to be kept until the body has been worked on.
///
/// # Errors
/// As [`read_body`], and when the budget is used up; the permit then holds what was counted so far, until it is dropped.
pub async fn read_body_within<B>(
    body: B,
    limits: impl Into<BodyLimits>,
    permit: &mut BodyPermit,
) -> Result<Bytes, ReadBodyError>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    read(body, limits.into(), Some(permit)).await
}

async fn read<B>(body: B, limits: BodyLimits, mut permit: Option<&mut BodyPermit>) -> Result<Bytes, ReadBodyError>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let max = limits.bytes_max;
    let declared = body.size_hint().lower();
    let mut body = std::pin::pin!(body);
    if declared > max as u64 {
        if declared <= max.saturating_add(DRAINED_BYTES_MAX) as u64 {
            drain(body).await;
        }
        return Err(ReadBodyError::TooLarge { max });
    }
    let started = Instant::now();
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    loop {
        let read = rest.as_ref().map_or(first.len(), BytesMut::len);
        let after = limits.time_for(read);
        // A limit that no clock reaches is none.
        let frame = match started.checked_add(after) {
            Some(deadline) => match tokio::time::timeout_at(deadline, body.frame()).await {
                Ok(frame) => frame,
                Err(_) => return Err(ReadBodyError::TooSlow { after }),
            },
            None => body.frame().await,
        };
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|error| ReadBodyError::Broken(error.into()))?.into_data() else { continue };
        if data.len() > max - read {
            // What was read is given up before more comes.
            drop((data, first, rest));
            drain(body).await;
            return Err(ReadBodyError::TooLarge { max });
        }
        if let Some(permit) = permit.as_deref_mut() {
            permit.grow_to(read + data.len())?;
        }
        match &mut rest {
            Some(rest) => {
                let missing = (declared as usize).saturating_sub(rest.len());
                if rest.len() >= RESERVED_AFTER_BYTES && rest.capacity() - rest.len() < missing {
                    rest.reserve(missing);
                }
                rest.extend_from_slice(&data);
            }
            // A small piece is copied: it would keep the buffer that its connection was read into, which is not counted.
            None if first.is_empty() && data.len() <= STEP_BYTES => first = Bytes::copy_from_slice(&data),
            // A larger one is not, as most bodies come in one piece.
            None if first.is_empty() => first = data,
            None => {
                let mut joined = BytesMut::from(first.as_ref());
                joined.extend_from_slice(&data);
                first = Bytes::new();
                rest = Some(joined);
            }
        }
    }
    Ok(rest.map_or(first, BytesMut::freeze))
}

/// Reads on for a moment and keeps nothing. A client that is still sending when its answer comes and the connection is closed
/// sees a broken connection, and not the answer; most bodies that are too large are so by little.
async fn drain<B>(mut body: std::pin::Pin<&mut B>)
where
    B: hyper::body::Body<Data = Bytes>,
{
    let mut left = DRAINED_BYTES_MAX;
    let drained = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    // Whoever has not finished by then gets its answer all the same.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
}

/// Bounds of all bodies together.
#[derive(Clone, Copy, Debug)]
pub struct BudgetLimits {
    /// Bytes held of all bodies.
    pub bytes_max: u64,
    /// Of these, bytes that only [`BodyPriority::Reserved`] may take.
    pub bytes_reserved: u64,
    /// Bytes held of one identity's bodies.
    pub bytes_per_identity_max: u64,
}

/// Who may use the reserve of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyPriority {
    /// Everyone else.
    Normal,
    /// Administrators, so that they can still act when everyone else has filled the budget. Their own share is not bounded.
    Reserved,
}

/// Bytes that request bodies may hold, in all and per identity. Clones are the same budget.
///
/// ```
/// # use base_http::{Body, BodyBudget, BodyLimits, BodyPriority, BudgetLimits, read_body_within};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), base_http::ReadBodyError> {
/// let budget = BodyBudget::new(BudgetLimits {
///     bytes_max: 64 << 20,
///     bytes_reserved: 16 << 20,
///     bytes_per_identity_max: 8 << 20,
/// });
/// let mut permit = budget.permit("system:node:gw-1", BodyPriority::Normal);
/// let body = read_body_within(Body::from("{}"), BodyLimits::new(3 << 20), &mut permit).await?;
/// assert_eq!(body, "{}");
/// drop(permit); // when the request has been worked on
/// assert_eq!(budget.bytes_held(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BodyBudget(Arc<Budget>);

struct Budget {
    limits: BudgetLimits,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    bytes: u64,
    by_identity: HashMap<Arc<str>, u64>,
}

/// What one body holds of a [`BodyBudget`]; given back when dropped.
pub struct BodyPermit {
    budget: Arc<Budget>,
    identity: Arc<str>,
    priority: BodyPriority,
    bytes: u64,
}

impl BodyBudget {
    /// A budget of which nothing is held.
    pub fn new(limits: BudgetLimits) -> Self {
        Self(Arc::new(Budget { limits, held: Mutex::default() }))
    }

    /// For a body of `identity`; it holds nothing yet.
    pub fn permit(&self, identity: &str, priority: BodyPriority) -> BodyPermit {
        let identity = match self.0.held.lock().by_identity.get_key_value(identity) {
            Some((known, _)) => known.clone(),
            None => identity.into(),
        };
        BodyPermit { budget: self.0.clone(), identity, priority, bytes: 0 }
    }

    /// Whether an identity holds all that it may.
    pub fn is_used_up(&self, identity: &str) -> bool {
        let of_identity = self.0.held.lock().by_identity.get(identity).copied().unwrap_or(0);
        of_identity >= self.0.limits.bytes_per_identity_max
    }

    /// Bytes held now.
    pub fn bytes_held(&self) -> u64 {
        self.0.held.lock().bytes
    }

    /// Identities that hold some.
    pub fn identities(&self) -> usize {
        self.0.held.lock().by_identity.len()
    }
}

impl BodyPermit {
    /// Bytes that it holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes it hold at least `bytes`, in steps; nothing changes when the budget does not have them.
    ///
    /// # Errors
    /// When the budget of the identity, or of all, is used up.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), OverBudget> {
        let bytes = bytes.next_multiple_of(STEP_BYTES) as u64;
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else { return Ok(()) };
        let limits = &self.budget.limits;
        let mut held = self.budget.held.lock();
        let of_identity = held.by_identity.get(&self.identity).copied().unwrap_or(0);
        let total = held.bytes;
        let total_max = match self.priority {
            BodyPriority::Reserved => limits.bytes_max,
            BodyPriority::Normal if of_identity.saturating_add(more) > limits.bytes_per_identity_max => {
                return Err(OverBudget::Identity);
            }
            BodyPriority::Normal => limits.bytes_max.saturating_sub(limits.bytes_reserved),
        };
        if total.saturating_add(more) > total_max {
            return Err(OverBudget::Total);
        }
        held.bytes = total + more;
        held.by_identity.insert(self.identity.clone(), of_identity + more);
        self.bytes = bytes;
        Ok(())
    }

    /// Counts so many more bytes, whether the budget has them or not: they are there already.
    pub fn add(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut held = self.budget.held.lock();
        held.bytes = held.bytes.saturating_add(bytes as u64);
        *held.by_identity.entry(self.identity.clone()).or_default() += bytes as u64;
        self.bytes += bytes as u64;
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut held = self.budget.held.lock();
        held.bytes -= self.bytes;
        if let Some(of_identity) = held.by_identity.get_mut(&self.identity) {
            *of_identity -= self.bytes;
            if *of_identity == 0 {
                held.by_identity.remove(&self.identity);
            }
        }
    }
}

#[cfg(test)]
mod tests;
