//! What a listener puts up with, and how many files the process may open.

use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// File descriptors that are left to stores, logs and outgoing connections.
const FILES_RESERVED: u64 = 768;

/// Where the system names no limit. 100,000 nodes and what they need besides.
const CONNECTIONS_CEILING: u64 = 131_072;

/// What one listener puts up with.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections in all; the next one is closed as soon as it is accepted. The default is what the process may
    /// open ([`raise_file_limit`]), less a reserve.
    pub connections_max: usize,
    /// TLS handshakes at a time. When all are taken, addresses share them: one of the address that has most gives way.
    pub handshakes_max: usize,
    /// Connections that wait for a handshake while all are taken, with nothing held for them but the socket.
    pub waiting_max: usize,
    /// Connections without a certificate, where the listener asks for one: clients with a token, and those that are nobody.
    pub anonymous_max: usize,
    /// Of these, connections from one address (IPv4) or one /64 (IPv6).
    pub anonymous_per_address_max: usize,
    /// The same for this machine's own loopback address, where proxies and tools call from.
    pub anonymous_loopback_max: usize,
    /// Connections whose certificate the handler does not accept: of a node that was deleted or revoked. Each is notified by
    /// an answer, for which a moment is enough; the next one takes the place of the oldest.
    pub unaccepted_max: usize,
    /// From the accept to the end of the TLS handshake, and to the session that the handler makes.
    pub handshake_timeout: Duration,
    /// From the accept to the first request. The default suits a slow radio link.
    pub first_request_timeout: Duration,
    /// From the accept to the first authenticated request; and where no certificate was shown, from each authenticated request
    /// to the next. The connection is then closed with GOAWAY, however many pings came.
    pub anonymous_timeout: Duration,
    /// Time without a request after which an authenticated connection is closed with GOAWAY.
    pub idle_timeout: Duration,
    /// Time for the head of an HTTP/1.1 request, which is also how long an idle connection is kept. The default is
    /// longer than the 90 s after which clients drop idle connections themselves: no request meets a closing server.
    pub head_timeout: Duration,
    /// How long open requests may continue once their connection is being closed gracefully, and once the listener drains.
    pub drain_grace: Duration,
    /// How long a peer may take nothing of what waits to be sent to it: with HTTP/1.1, and with a socket that it does not
    /// read, its connection is closed then; with HTTP/2 the one request is reset. A response that makes any progress may
    /// take as long as it wants. Long enough for somebody who pages through a log.
    pub write_timeout: Duration,
    /// HTTP/2 streams per connection: requests and watches of one client. The default is client-go's own limit.
    pub streams_max: u32,
    /// The same for connections without a certificate or with one that is not accepted, where the listener asks for one:
    /// each stream costs memory before anybody knows whose it is, and their clients are tools that come with a token.
    pub anonymous_streams_max: u32,
    /// Silence after which a peer is asked for a sign of life; a dead link is noticed after twice this time.
    pub keep_alive: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let connections_max = connections_max(getrlimit(Resource::Nofile).current);
        Self {
            connections_max,
            // A third of what there is at most, so that a process that may open few files still serves those it knows.
            handshakes_max: (connections_max / 3).min(1024),
            waiting_max: (connections_max / 3).min(8192),
            anonymous_max: (connections_max / 3).min(1024),
            anonymous_per_address_max: 64,
            anonymous_loopback_max: 512,
            unaccepted_max: (connections_max / 3).min(64),
            handshake_timeout: Duration::from_secs(10),
            first_request_timeout: Duration::from_secs(10),
            anonymous_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(300),
            head_timeout: Duration::from_secs(100),
            drain_grace: Duration::from_secs(20),
            write_timeout: Duration::from_secs(60),
            streams_max: 250,
            anonymous_streams_max: 16,
            keep_alive: Duration::from_secs(30),
        }
    }
}

/// Connections that fit a limit of file descriptors.
fn connections_max(files_max: Option<u64>) -> usize {
    let files_max = files_max.unwrap_or(u64::MAX);
    // A quarter at most is reserved: where there are few descriptors, serving is what they are for.
    let connections = files_max.saturating_sub(FILES_RESERVED).max(files_max / 4 * 3);
    usize::try_from(connections.min(CONNECTIONS_CEILING)).unwrap_or(usize::MAX)
}

/// Lets this process open as many files as the system allows it, and returns how many that are. To be called at the start of
/// the program, before [`Limits::default`]: many systems begin with 1,024, for programs that use `select`.
///
/// # Errors
/// When the system does not let it; the old limit then stays.
pub fn raise_file_limit() -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_thousand_nodes_are_not_limited_by_us() {
        for (files_max, expected) in
            [(Some(256), 192), (Some(1024), 768), (Some(4096), 3328), (Some(20_000), 19_232), (Some(1 << 20), 131_072)]
        {
            assert_eq!(connections_max(files_max), expected, "{files_max:?}");
        }
        assert_eq!(connections_max(None), 131_072);
    }

    #[test]
    fn the_soft_limit_of_files_is_raised_to_the_hard_one() {
        let raised = raise_file_limit().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), raised);
        assert_eq!(getrlimit(Resource::Nofile).current, getrlimit(Resource::Nofile).maximum);
    }
}
