//! The node's network.

pub mod addresses;
pub mod conntrack;
pub mod links;
pub mod names;
pub mod namespaces;
pub mod netlink;
mod network;
pub mod nft;
mod notice;
pub mod services;
pub mod table;

pub use addresses::{Exhausted, ParseSubnetError, Subnet, choose_subnet};
pub use namespaces::{KINDS, Kind, NamespaceError, PodNamespaces};
pub use network::{HostPort, Network, NetworkConfig, NetworkError, PodLink, Reconciled};
pub use notice::Notice;
pub use services::{Protocol, ServiceEntry, ServicePort};
