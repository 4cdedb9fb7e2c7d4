//! The node's DNS: answers for the names of its Services and pods, and asks upstreams about the rest of the world.
//!
//! ```text
//!  agent ─ set_pods, set_services ─▶ names ── Arc<Table> ─┐
//!                                                         ▼
//!  pods, host ─ UDP ─▶ udp (32 at a time) ─┐        ┌ answer ──────▶ cluster names, absences: written in place
//!             ─ TCP ─▶ tcp ────────────────┴ server ┤
//!                                                   └ forward ─ cache ─ upstreams (resolv.conf) ─▶ the rest
//! ```
//!
//! - **Where is it?** What has which name: [`Names`]. Bytes: [`message`]. The thread: [`DnsServer`]. A pod's `resolv.conf`: [`resolv_conf`].
//! - **May I touch it?** Yes. What must hold: one thread, nothing allocated for a cluster name, every read bounded, no name below the
//!   cluster domain ever sent to an upstream, and an absence that is not ours never claimed.
//! - **How do I try it?** `cargo test -p node-dns` (with `dig` and `dnsmasq`), `cargo run --release -p node-dns --example dns-load`.
//! - **What breaks?** Names in every pod of the node; addresses continue to work.
//!
//! It depends on no other part of the node: the agent hands it plain data.

mod answer;
mod cache;
mod forward;
#[doc(hidden)]
pub mod fuzzing;
pub mod message;
mod names;
mod poll;
mod random;
mod resolv;
mod server;
mod tcp;
mod udp;
mod upstreams;
mod waiter;

pub use names::{
    DomainError, EndpointNames, NameRecords, Names, NamesConfig, Network, PodNames, PortName, PortProtocol,
    SCHEMA_VERSION, ServiceNames, TTL_SECONDS,
};
pub use resolv::{
    DnsPolicy, NAMESERVERS_MAX, PodDns, PodDnsConfig, ResolvConf, SEARCH_CHARS_MAX, SEARCHES_MAX, resolv_conf,
};
pub use server::{Counters, DnsConfig, DnsError, DnsServer, server_ips};
pub use upstreams::UpstreamSource;
