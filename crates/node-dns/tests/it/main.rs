//! The responder with real sockets, clients and upstreams.

mod common;
mod server;
mod upstream;
