//! The node as the hub sees it: how it joins, who it is, that it is alive, and how it fares.
//!
//! ```text
//! token ──join──▶ Identity ──Access──▶ ConnectionManager (node-client)
//!                   ▲ renew                    │
//!                   └──────────────────────────┤
//! Lease, Node ◀── lease · node_status ─────────┘
//! ```
//!
//! - **Where is it?** From a token to a certificate, and its renewal: [`join`], [`identity`]. The Lease: [`lease`]. The Node object, its
//!   capacity and conditions: [`node_status`]. Whether its owner holds updates: [`hold`].
//! - **May I touch it?** It knows nothing of pods. What must hold: no answer of a hub stops anything here; an identity is replaced as a
//!   whole and only by one that works.
//! - **How do I try it?** `cargo test -p node-agent`; through the program: `cargo xtask test --black-box join`.

#![warn(missing_docs)]

mod config;
pub mod hold;
pub mod identity;
pub mod join;
pub mod lease;
pub mod node_status;

pub use config::{AgentConfig, Taint};
pub use identity::{Identity, IdentityError};
