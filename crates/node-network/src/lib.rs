//! The node's network: pods' links and addresses, services, host ports; with no other program and no library.
//!
//! ```text
//! PodNamespaces ──▶ a network namespace without a process, pinned by a mount
//!                         │ netns
//! Network ── setup_pod ───▼──▶ links      a routed pair, a /32 and a /128, no bridge, no ARP   ┐
//!    │                         addresses  round robin from the node's subnet                   ├─ netlink ─▶ kernel
//!    ├── set_services ──▶ services ──▶ table   what nftables has and should have: differences  │
//!    └── reconcile              conntrack      flows of UDP to former endpoints                ┘
//! ```
//!
//! The kernel does all the work and keeps all of it when the agent ends: pods notice neither a restart nor an upgrade. What is
//! here writes small messages and waits for their acknowledgement, so a pod's network takes less than a millisecond.
//!
//! - **Where is it?** Messages to the kernel as bytes: [`netlink`]; nftables on top of it: [`nft`]. What a pod's link consists
//!   of: [`links`]. What the table is, as a drawing and as data: [`table`]. Names of all kernel objects: [`names`]. What an
//!   agent calls: [`Network`], [`PodNamespaces`].
//! - **What holds?** All functions are synchronous and end: an answer that does not come is an error after ten seconds. A
//!   batch for nftables is made as a whole or not at all, so the table is never half of anything. Whatever is set up may be
//!   set up again. Nothing that does not begin with `sv` or is in a table `selvedge` is changed, but for `ip_forward`.
//! - **May I touch it?** The fixed part of the table may change in any release: its hash is in its rules' comments, and
//!   another hash replaces it. Names of links ([`names`]) must not change: pods of the release before have them.
//! - **How do I try it?** `cargo test -p node-network` as root; every test leaves the machine's network first. Stock `nft`,
//!   `ip` and `conntrack` are the judges. Figures: `cargo run --release -p node-network --example network-figures`.
//! - **What breaks?** Another program that flushes all of nftables takes pods' way out and services until
//!   [`Network::repair`] or any other call notices; a firewall whose `forward` chain drops by default keeps pods from going
//!   out, since a packet must pass all chains of a hook.
//!
//! ```no_run
//! use node_network::{Kind, Network, NetworkConfig, PodLink, PodNamespaces};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (network, notices) = Network::open(NetworkConfig::default())?;
//! for notice in notices {
//!     eprintln!("{notice}");
//! }
//! let dir = std::path::Path::new("/run/pods/0d9b5f7e/ns");
//! let namespaces = PodNamespaces::create(dir, &[Kind::Net, Kind::Ipc, Kind::Uts], "web-0")?;
//! let netns = namespaces.path(Kind::Net).expect("it was asked for");
//! let link = PodLink { uid: "0d9b5f7e", netns: &netns, host_ports: &[], addresses: &[] };
//! let addresses = network.setup_pod(link)?;
//! # Ok(())
//! # }
//! ```

#![warn(missing_docs)]

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
mod settings;
pub mod table;

pub use addresses::{Exhausted, ParseSubnetError, Subnet, choose_subnet};
pub use namespaces::{KINDS, Kind, NamespaceError, PodNamespaces};
pub use network::{HostPort, Network, NetworkConfig, NetworkError, PodLink, Reconciled};
pub use notice::Notice;
pub use services::{Protocol, ServiceEntry, ServicePort};
