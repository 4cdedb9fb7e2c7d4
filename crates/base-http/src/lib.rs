//! Serving HTTP: TCP with or without TLS, or a unix socket; limits, drain, and `ports.json`.
//!
//! A role binds its [`Listener`]s first, so that a bad setting ends the process before it has acted, tells their
//! addresses in `DATA_DIR/ports.json` ([`Ports`]), and then calls [`serve`]. Stopping is a [`CancellationToken`]: no new
//! connection is taken, open requests are finished, and the returned handle ends; aborting it cuts what is left.
//!
//! `accept ──TLS──▶ connection (limits, keep-alive) ──request, Peer──▶ handler ──Response<Body>──▶`
//!
//! HTTP/2 is offered by ALPN on TLS listeners; upgrades (WebSocket, SPDY) work on HTTP/1.1 connections.
//!
//! [`CancellationToken`]: tokio_util::sync::CancellationToken

mod body;
mod listener;
mod ports;
mod serve;
mod tls;

pub use body::{Body, BoxError, ReadBodyError, read_body};
pub use listener::{Address, BindError, Listener};
pub use ports::{Ports, PortsError};
pub use serve::{Handler, Limits, Peer, PeerAddr, serve};
pub use tls::{ServerTls, TlsError, client_config};

#[cfg(test)]
mod tests;
