//! A node's way to the Kubernetes API: one connection, requests, list-watch, events, and what the node reports about itself.
//!
//! ```text
//! ConnectionManager ──keeps──▶ [ one HTTP/2 connection ] ◀──uses── ApiClient ◀── list_watch · events · lease · status
//! ```
//!
//! - **Where is it?** Dialing, failing over, when a connection is given up: [`ConnectionManager`]. Requests, watches, time-outs by
//!   progress: [`ApiClient`]. What an answer must be before it is believed: [`Object`], [`ListPage`]. Lists in pages and watches:
//!   [`list_watch`]. Events: [`EventRecorder`]. Tasks that must not end: [`supervise`]. State of the node: [`StatusRegistry`].
//! - **May I touch it?** It decides nothing about pods or nodes. What must hold: nothing waits for the hub without a limit, nothing
//!   that came over the wire is indexed before it is known to be an object, and everything that is buffered is bounded.
//! - **How do I try it?** `cargo test -p node-client`; against a hub that lies: `cargo xtask test --black-box hostile_hub`.

#![warn(missing_docs)]

mod client;
mod connection;
mod events;
mod hub_state;
pub mod list_watch;
mod object;
mod partial;
mod registry;
mod supervise;
mod warnings;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub use client::{ApiClient, ApiError, Event, Page, Patch, Version, Watch, parse_event};
pub use connection::{Access, BACKOFF, ConnectionManager, DialError, Endpoint, HubAddress, client};
pub use events::{EventRecorder, EventSink, Recorded, event_recorder, send_events};
pub use hub_state::{HubState, PODS_ON_HOLD, Verified};
pub use object::{ListPage, Malformed, Object, set_field};
pub use registry::{NodePressure, Notice, StatusRegistry, chain};
pub use supervise::{panic_text, supervise};

/// What RFC 3986 leaves as it is.
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A value for a query string, or a segment of a path.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, QUERY_VALUE).to_string()
}

/// A time as Kubernetes writes it: whole seconds, UTC.
pub fn seconds(at: jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_encoded() {
        assert_eq!(encode("spec.nodeName=press-4"), "spec.nodeName%3Dpress-4");
        assert_eq!(encode("selvedge.dev/node=ü"), "selvedge.dev%2Fnode%3D%C3%BC");
    }
}
