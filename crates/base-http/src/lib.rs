//! Serving HTTP: TCP with or without TLS, or a unix socket; sessions, limits, drain, and `ports.json`.
//!
//! A role binds its [`Listener`]s first, so that a bad setting ends the process before it has acted, records their
//! addresses in `DATA_DIR/ports.json` ([`Ports`]), and then calls [`serve`] or [`serve_with`]. Shutdown is a
//! [`CancellationToken`]: no new connection is taken, open requests are finished, and the returned handle ends; aborting it
//! closes what is left at once.
//!
//! `accept ─▶ handshake ─▶ on_connect: Session ─▶ call(request, session) … ─▶ drain, limit or Connections::close_where`
//!
//! HTTP/2 is offered by ALPN on TLS listeners. Upgrades (WebSocket, SPDY) work on HTTP/1.1 connections, and extended CONNECT
//! (RFC 8441) on HTTP/2.
//!
//! # Where is it?
//!
//! | question | file |
//! | --- | --- |
//! | what a handler is, how connections are accepted and drained | `serve.rs` |
//! | what happens on one connection, over either protocol | `protocol.rs` |
//! | which connections get in, and which gives way to another | `admission.rs`, with the numbers in `limits.rs` |
//! | who waits when there are more handshakes than places | `lobby.rs` |
//! | what is counted about a connection, when it is due to be closed, how it is closed from outside | `connection.rs` |
//! | finding live connections by their session, for revocation | `connections.rs` |
//! | how a body is read: bytes, time, budgets | `read.rs` |
//! | counters for `/metrics` | `stats.rs` |
//! | parameters of a query, segments of a path | `query.rs` |
//! | responses as JSON and text | `respond.rs` |
//!
//! # May I touch it?
//!
//! These hold, and a test fails when they do not: whoever has no certificate cannot hold a connection for longer than
//! [`Limits::anonymous_timeout`] without an authenticated request, and cannot keep those with one out; nothing read from a
//! client is kept without a bound in bytes and in time; a handler that panics costs its request. Nothing here knows what a
//! user, a node or a Kubernetes object is: policy comes in by [`Handler`] and [`Limits`].
//!
//! # How do I try it?
//!
//! `cargo test -p base-http`; what an idle connection costs in memory: `cargo run --release -p base-http --example
//! connections`.
//!
//! # What breaks?
//!
//! Every role serves by this crate: the hub's API (`machinery-server`), the kubelet's API and status socket, and the edge
//! plane's socket.
//!
//! [`CancellationToken`]: tokio_util::sync::CancellationToken

mod admission;
mod body;
mod connection;
mod connections;
mod limits;
mod listener;
mod lobby;
mod ports;
mod protocol;
pub mod query;
mod read;
pub mod respond;
mod serve;
mod stats;
mod tls;

pub use body::{Body, BoxError};
pub use connection::{Close, ConnectionHandle};
pub use connections::Connections;
pub use limits::{Limits, raise_file_limit};
pub use listener::{Address, BindError, Listener};
pub use ports::{Ports, PortsError};
pub use protocol::keep_alive;
pub use read::{
    BodyBudget, BodyLimits, BodyPermit, BodyPriority, BudgetLimits, OverBudget, ReadBodyError, read_body,
    read_body_within,
};
pub use serve::{Handler, Peer, PeerAddr, Rejected, serve, serve_with};
pub use stats::{ConnectionStats, RejectReason};
pub use tls::{ServerTls, TlsError, client_config};

#[cfg(test)]
mod tests;
