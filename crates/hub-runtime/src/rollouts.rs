//! What rollouts of all workloads have in common at the edge: nodes that are left out, and nodes that come first.
//!
//! - [`skipped`]: a node out of reach, or one whose owner holds updates, keeps what it has. A rollout neither waits for it nor ends
//!   without it: it is complete when the node is back, and the condition `NodesSkipped` names the node until then.
//! - [`canary`]: a new template comes to a few nodes first, and to the others when it has run well there.

pub mod canary;
pub mod skipped;
