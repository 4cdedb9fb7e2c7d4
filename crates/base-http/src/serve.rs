//! The accept loop, and what happens on one connection.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use crate::admission::{Admission, address_key};
use crate::connection::Stream;
use crate::listener::Socket;
use crate::lobby::Lobby;
use crate::protocol::Server;
use crate::{Body, Close, ConnectionHandle, ConnectionStats, Connections, Listener, RejectReason};

/// When accepting fails (no file descriptor left), trying at once again would burn the CPU that could free one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How often it is looked whether a handshake has to give its place to one that waits, when none ends.
const HANDSHAKE_LOOK: Duration = Duration::from_millis(50);

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it calls from.
    pub addr: PeerAddr,
    /// The certificate it showed, verified against the listener's CA.
    pub client_cert: Option<Arc<CertificateDer<'static>>>,
    /// Whether the listener asks for certificates at all; where it does not, everyone is served alike.
    pub is_certificate_expected: bool,
}

/// Where a peer calls from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddr {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over a unix socket: the same user, by the socket's mode.
    Unix,
}

/// Why a handler does not serve a connection; the text is for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Rejected(pub String);

/// What answers requests. Every `async` closure over a request and a [`Peer`] is one, whose session is the peer.
///
/// A handler that knows its peers makes a session of its own:
///
/// ```
/// use base_http::{Body, ConnectionHandle, Handler, Peer, Rejected};
/// use http::{Request, Response};
/// use hyper::body::Incoming;
///
/// struct Hello;
///
/// struct Session {
///     user: String,
///     connection: ConnectionHandle,
/// }
///
/// impl Handler for Hello {
///     type Session = Session;
///
///     async fn on_connect(&self, peer: &Peer, connection: &ConnectionHandle) -> Result<Session, Rejected> {
///         let Some(certificate) = &peer.client_cert else {
///             return Err(Rejected("show a certificate".to_owned()));
///         };
///         let identity = base_pki::client_identity(certificate).map_err(|error| Rejected(error.to_string()))?;
///         connection.mark_authenticated();
///         connection.count_under(&identity.user, 32);
///         Ok(Session { user: identity.user, connection: connection.clone() })
///     }
///
///     async fn call(&self, _: Request<Incoming>, session: &Session) -> Response<Body> {
///         Response::new(Body::from(format!("hello {}, request {}", session.user, session.connection.requests())))
///     }
/// }
/// ```
pub trait Handler: Send + Sync + 'static {
    /// What is kept about a connection as long as it is open.
    type Session: Send + Sync + 'static;

    /// Called after the TLS handshake of a connection and before its first request; within
    /// [`Limits::handshake_timeout`](crate::Limits::handshake_timeout). Whoever is known by the certificate is marked authenticated here.
    ///
    /// Called once, and again while [`Connections::close_where`] was called meanwhile: the session that was made first is
    /// dropped then.
    fn on_connect(
        &self,
        peer: &Peer,
        connection: &ConnectionHandle,
    ) -> impl Future<Output = Result<Self::Session, Rejected>> + Send;

    /// Answers one request. Dropped when the client disconnects; a panic in it is answered with 500.
    fn call(&self, request: Request<Incoming>, session: &Self::Session) -> impl Future<Output = Response<Body>> + Send;
}

impl<F, R> Handler for F
where
    F: Fn(Request<Incoming>, Peer) -> R + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send,
{
    type Session = Peer;

    /// Whoever shows a certificate, or comes where none is expected, may stay.
    async fn on_connect(&self, peer: &Peer, connection: &ConnectionHandle) -> Result<Peer, Rejected> {
        if peer.client_cert.is_some() || !peer.is_certificate_expected {
            connection.mark_authenticated();
        }
        Ok(peer.clone())
    }

    fn call(&self, request: Request<Incoming>, session: &Peer) -> impl Future<Output = Response<Body>> + Send {
        self(request, session.clone())
    }
}

/// Serves a listener until `shutdown`, then finishes open requests, for which they have [`Limits::drain_grace`](crate::Limits::drain_grace). The handle
/// ends when the last connection has; aborting it closes those that are left at once. Must be called within a tokio runtime.
pub fn serve<H: Handler>(listener: Listener, handler: H, shutdown: CancellationToken) -> JoinHandle<()> {
    serve_with(listener, handler, Connections::new(), shutdown)
}

/// [`serve`], with the connections where the owner can see and close them.
pub fn serve_with<H: Handler>(
    listener: Listener,
    handler: H,
    connections: Connections<H::Session>,
    shutdown: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(run(listener, Arc::new(handler), connections, shutdown))
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    async fn accept(&self) -> io::Result<(Stream, PeerAddr)> {
        match self {
            Self::Tcp(listener) => {
                listener.accept().await.map(|(stream, addr)| (Stream::Tcp(stream), PeerAddr::Tcp(addr)))
            }
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| (Stream::Unix(stream), PeerAddr::Unix)),
        }
    }
}

async fn run<H: Handler>(
    listener: Listener,
    handler: Arc<H>,
    connections: Connections<H::Session>,
    shutdown: CancellationToken,
) {
    let name = listener.name;
    let acceptor = match listener.socket {
        Socket::Tcp(socket) => TcpListener::from_std(socket).map(Acceptor::Tcp),
        Socket::Unix(socket) => UnixListener::from_std(socket).map(Acceptor::Unix),
    };
    let acceptor = match acceptor {
        Ok(acceptor) => acceptor,
        Err(error) => {
            error!(listener = name, %error, "Failed to register a socket with the runtime; nothing is served on it.");
            return;
        }
    };
    let stats = connections.stats().clone();
    let asks_certificates = listener.tls.as_ref().is_some_and(|tls| tls.asks_certificates);
    let admission = Arc::new(Admission::new(listener.limits, asks_certificates, stats.clone()));
    let server = Arc::new(Server {
        handler,
        connections,
        tls: listener.tls.map(|tls| TlsAcceptor::from(tls.config)),
        tasks: TaskTracker::new(),
    });
    // Dropped before the tasks when this is aborted: an upgraded connection is in its handler's hands, not in theirs.
    let mut tasks = JoinSet::new();
    let cut = CutOnDrop(admission.clone());
    let start = |tasks: &mut JoinSet<()>, (stream, addr): (Stream, PeerAddr)| match admission.enter(addr) {
        Ok(seat) => drop(tasks.spawn(server.clone().connection(stream, seat))),
        Err(_) => debug!(listener = name, ?addr, "Closed a new connection: the listener has as many as it may."),
    };
    let mut lobby = Lobby::new();
    let mut look = tokio::time::interval(HANDSHAKE_LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        while admission.has_place()
            && let Some(next) = lobby.pop()
        {
            start(&mut tasks, next);
        }
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = tasks.join_next() => {
                note_panic(&name, ended, &stats);
                continue;
            }
            () = admission.left.notified(), if !lobby.is_empty() => continue,
            _ = look.tick(), if !lobby.is_empty() => {
                while lobby.turn().is_some_and(|source| admission.make_place(source))
                    && let Some(next) = lobby.pop()
                {
                    start(&mut tasks, next);
                }
                continue;
            }
            accepted = accept(&acceptor, &stats, &name) => accepted,
        };
        // Those who wait count as well, and give way to others.
        if admission.free() <= lobby.len() && lobby.turn_away().is_some() {
            stats.reject(RejectReason::Total);
        }
        let source = address_key(accepted.1);
        if !lobby.has_line(source) && admission.make_place(source) {
            start(&mut tasks, accepted);
        } else if let Some((_, addr)) = lobby.push(source, accepted, admission.limits.waiting_max) {
            stats.reject(RejectReason::Handshakes);
            debug!(listener = name, ?addr, "Closed a new connection: too many wait for a handshake.");
        }
    }
    drop((acceptor, lobby));
    if let crate::Address::Unix(path) = &listener.address {
        // It is already missing when a data directory was removed under us, which is nobody's problem.
        let _ = std::fs::remove_file(path);
    }
    admission.close_all(Close::Gracefully);
    while let Some(ended) = tasks.join_next().await {
        note_panic(&name, ended, &stats);
    }
    // Requests and tunnels of HTTP/2 are tasks of their own, which end with their connection.
    server.tasks.close();
    server.tasks.wait().await;
    drop(cut);
}

struct CutOnDrop(Arc<Admission>);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.close_all(Close::AtOnce);
    }
}

fn note_panic(listener: &str, ended: Result<(), tokio::task::JoinError>, stats: &ConnectionStats) {
    if let Err(error) = ended
        && error.is_panic()
    {
        stats.panic();
        error!(listener, %error, "Serving a connection panicked; it was closed.");
    }
}

async fn accept(acceptor: &Acceptor, stats: &ConnectionStats, name: &str) -> (Stream, PeerAddr) {
    loop {
        match acceptor.accept().await {
            Ok(accepted) => return accepted,
            // The client was faster than we were; nothing is wrong here.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                stats.accept_error();
                warn!(listener = name, %error, "Failed to accept a connection; trying again.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
