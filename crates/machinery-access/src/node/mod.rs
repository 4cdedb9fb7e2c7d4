//! Nodes: what a kubelet may do, and what it may write into objects.
//!
//! [`NodeAuthorizer`] gives a node what its own pods need and what is its own, [`NodeRestriction`] looks into what it writes.
//! Whose an object is, the stored objects say: the pods that are bound to the node, and what they refer to.

mod authorizer;
mod graph;
mod restriction;

pub use authorizer::NodeAuthorizer;
pub use restriction::NodeRestriction;
pub(crate) use restriction::refers_to_secrets;

use machinery_server::{GROUP_NODES, Identity, USER_NODE_PREFIX};

/// Whether a caller is a node, and which one.
pub(crate) enum NodeIdentity<'a> {
    NotANode,
    /// Of the group of nodes, with a user that is no node's.
    Unknown,
    Node(&'a str),
}

impl<'a> NodeIdentity<'a> {
    pub fn of(identity: &'a Identity) -> Self {
        // A user that is no node's name is nobody's business here, whatever its groups.
        match identity.user.strip_prefix(USER_NODE_PREFIX) {
            Some(name) if identity.is_in(GROUP_NODES) => match name {
                "" => Self::Unknown,
                name => Self::Node(name),
            },
            _ => Self::NotANode,
        }
    }
}
