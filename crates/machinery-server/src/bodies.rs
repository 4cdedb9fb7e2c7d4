//! What requests' bodies hold until they have been worked on, in three budgets that cannot use up one another.
//!
//! Leases keep nodes Ready, so nobody else's bodies may leave no bytes for theirs; they are small, and so is what they may
//! hold. Nodes and tokens, of which there are many and any may be stolen, hold little each. Administrators, and whoever else has
//! a certificate, share the rest.

use std::time::Duration;

use base_http::{BodyBudget, BodyLimits, BodyPermit, BodyPriority, BudgetLimits, ReadBodyError};
use bytes::Bytes;
use futures::future::BoxFuture;

use crate::flow::Lane;
use crate::server::RequestBody;
use crate::{GROUP_BOOTSTRAPPERS, GROUP_MASTERS, GROUP_NODES, Identity};

/// A lease has a few hundred bytes.
pub(crate) const LEASE_BODY_BYTES_MAX: usize = 8 * 1024;

/// A thousand leases that come in the same moment; of one node there is one on its way, and one that is sent again.
const LEASES: BudgetLimits =
    BudgetLimits { bytes_max: 4 << 20, bytes_reserved: 0, bytes_per_identity_max: 4 * LEASE_BODY_BYTES_MAX as u64 };

/// Two of the largest that a node may send. Eight nodes together can keep others from writing, but not from being Ready.
const NODES: BudgetLimits = BudgetLimits { bytes_max: 16 << 20, bytes_reserved: 0, bytes_per_identity_max: 2 << 20 };

/// A body costs several times its size while it is worked on, and a server may have 256 MB in all.
const OTHERS: BudgetLimits =
    BudgetLimits { bytes_max: 16 << 20, bytes_reserved: 8 << 20, bytes_per_identity_max: 6 << 20 };

/// Bodies up to this size have come after [`SMALL_DEADLINE`], whatever the link.
const SMALL_BYTES: usize = 64 * 1024;
const SMALL_DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct Bodies {
    leases: BodyBudget,
    nodes: BodyBudget,
    others: BodyBudget,
}

impl Bodies {
    pub(crate) fn new() -> Self {
        Self { leases: BodyBudget::new(LEASES), nodes: BodyBudget::new(NODES), others: BodyBudget::new(OTHERS) }
    }

    /// Bytes held now.
    pub(crate) fn bytes_held(&self) -> u64 {
        self.leases.bytes_held() + self.nodes.bytes_held() + self.others.bytes_held()
    }

    /// Reads a body. What it holds is given back when the permit is dropped, with the work on it.
    pub(crate) async fn read(
        &self,
        identity: &Identity,
        lane: Lane,
        body: RequestBody,
        bytes_max: usize,
    ) -> Result<(Bytes, BodyPermit), ReadBodyError> {
        let (budget, bytes_max) = match lane {
            Lane::Lease => (&self.leases, bytes_max.min(LEASE_BODY_BYTES_MAX)),
            Lane::Shared if is_weak(identity) => (&self.nodes, bytes_max),
            Lane::Shared | Lane::Masters => (&self.others, bytes_max),
        };
        let priority = if identity.is_in(GROUP_MASTERS) { BodyPriority::Reserved } else { BodyPriority::Normal };
        let mut permit = budget.permit(&identity.user, priority);
        let limits = limits(&body, bytes_max);
        let bytes = read_within(body, limits, &mut permit).await?;
        Ok((bytes, permit))
    }
}

/// Whether there are many like it, any of which may have been stolen: a node or a token.
pub(crate) fn is_weak(identity: &Identity) -> bool {
    identity.is_in(GROUP_NODES) || identity.is_in(GROUP_BOOTSTRAPPERS)
}

/// A larger body may take longer on a slow link, but only for what has come of it.
fn limits(body: &RequestBody, bytes_max: usize) -> BodyLimits {
    let declared = hyper::body::Body::size_hint(body).exact().and_then(|bytes| usize::try_from(bytes).ok());
    let limits = BodyLimits { deadline: SMALL_DEADLINE, ..BodyLimits::new(bytes_max) };
    if declared.unwrap_or(usize::MAX).min(bytes_max) <= SMALL_BYTES {
        return BodyLimits { rate_min: u32::MAX, ..limits };
    }
    limits
}

/// Boxed, because the compiler cannot see through the generic future that it is `Send` (rust-lang/rust#102211).
fn read_within<'a>(
    body: RequestBody,
    limits: BodyLimits,
    permit: &'a mut BodyPermit,
) -> BoxFuture<'a, Result<Bytes, ReadBodyError>> {
    Box::pin(base_http::read_body_within(body, limits, permit))
}
