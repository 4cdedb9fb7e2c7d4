//! The node's network.

pub mod addresses;
pub mod links;
pub mod names;
pub mod namespaces;
pub mod netlink;
mod notice;

pub use addresses::{Exhausted, ParseSubnetError, Subnet, choose_subnet};
pub use namespaces::{KINDS, Kind, NamespaceError, PodNamespaces};
pub use notice::Notice;
