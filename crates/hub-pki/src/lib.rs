//! The certificates of a hub: which authorities it has, whom they vouch for, and when what is renewed.
//!
//! ```text
//! DATA_DIR/hub/pki/
//!   ca.crt, ca.key                            the hub's CA: its own certificates, client certificates of nodes and people;
//!                                             everyone trusts it, join tokens carry its hash
//!   node-serving-ca.crt, node-serving-ca.key  serving certificates of nodes; only the hub's dialer trusts it
//! DATA_DIR/hub/secrets.key                    seals the rows of Secrets in the store
//! DATA_DIR/hub/pki/
//!   admin.crt, admin.key                      the administrator, as in DATA_DIR/kubeconfig
//! ```
//!
//! Two authorities, because a node may get a certificate for its addresses and names: were it signed by the CA that
//! kubeconfigs trust, a node could play the hub to its administrators.
//!
//! - **Where is it?** The authorities on disk: `authorities`. The hub's own certificates: `certificates`. Renewal:
//!   `renewal`. Whose key may join as which node: `join`.
//! - **May I touch it?** The files' names and the CA's subject are a format: nodes hold the CA for twenty years.
//! - **How do I try it?** `cargo test -p hub-pki`; `openssl x509 -text -in DATA_DIR/hub/pki/ca.crt`.
//! - **What breaks?** A lost `ca.key` means that every node joins anew. Everything else is made again.
//!
//! **Invariant:** what has an end is compared with the wall clock, never with a sleep: clocks of small machines jump.

mod authorities;
mod certificates;
pub mod join;
mod renewal;
mod secrets;

pub use authorities::{BUILT_AT_S, ClockFinding, OpenPkiError, Pki};
pub use certificates::{HubCertificate, hub_names};
pub use renewal::{Renewable, Renewal, is_due, run as run_renewal};
pub use secrets::{check_token_key, secrets_key, token_key};

#[cfg(test)]
mod tests;
