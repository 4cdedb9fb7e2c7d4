//! A pod's quality-of-service class: who is evicted first when a node runs out of memory.
//!
//! Computed in one place for hub and node, on exact amounts: `1` and `1000m` are the same request.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Quantity;

/// The class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QosClass {
    /// Every container has limits of CPU and memory, equal to its requests.
    Guaranteed,
    /// Some container asks for something.
    Burstable,
    /// None does.
    BestEffort,
}

/// What a container asks of one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// At least this.
    pub request: Option<Quantity>,
    /// At most this.
    pub limit: Option<Quantity>,
}

impl QosClass {
    /// As it is written in a pod's status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The class of a pod with these containers, init containers among them: for each what it asks of CPU and of memory.
    /// A request that is absent is the limit, as the API server's defaults have it; zero counts as nothing.
    pub fn of_containers(containers: impl IntoIterator<Item = [Amounts; 2]>) -> Self {
        let mut sums = [Amounts::default(); 2];
        let mut is_guaranteed = true;
        for container in containers {
            for (sum, amounts) in sums.iter_mut().zip(container) {
                let positive = |amount: Option<Quantity>| amount.filter(|amount| *amount > Quantity::ZERO);
                let limit = positive(amounts.limit);
                add(&mut sum.request, positive(amounts.request.or(amounts.limit)));
                add(&mut sum.limit, limit);
                is_guaranteed &= limit.is_some();
            }
        }
        let asks = sums.iter().any(|sum| sum.request.is_some() || sum.limit.is_some());
        match (asks, is_guaranteed && sums.iter().all(|sum| sum.request == sum.limit)) {
            (false, _) => Self::BestEffort,
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
        }
    }

    /// The class of a pod's spec as JSON. Resources of the whole pod come before those of its containers. What is no quantity
    /// counts as absent: the API rejects it, and a static pod's kubelet does.
    pub fn of_pod_spec(spec: &Value) -> Self {
        let of_pod = |list: &str| spec["resources"][list].as_object().is_some_and(|list| !list.is_empty());
        if of_pod("requests") || of_pod("limits") {
            return Self::of_containers([amounts(spec)]);
        }
        let containers = ["containers", "initContainers"].into_iter().flat_map(|list| spec[list].as_array()).flatten();
        Self::of_containers(containers.map(amounts))
    }
}

fn amounts(holder: &Value) -> [Amounts; 2] {
    ["cpu", "memory"].map(|resource| {
        let amount = |list: &str| Quantity::deserialize(&holder["resources"][list][resource]).ok();
        Amounts { request: amount("requests"), limit: amount("limits") }
    })
}

fn add(sum: &mut Option<Quantity>, amount: Option<Quantity>) {
    if let Some(amount) = amount {
        *sum = Some(sum.unwrap_or_default().saturating_add(amount));
    }
}

impl fmt::Display for QosClass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
