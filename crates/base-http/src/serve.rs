//! The accept loop, and what happens on one connection.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::listener::Socket;
use crate::{Body, Listener};

/// When accepting fails (no file descriptor left), trying at once again would burn the CPU that could free one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What one listener puts up with.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections; more wait in the system's queue. The default leaves room under a hard limit of 4096 files
    /// for a store, logs and outgoing connections.
    pub connections_max: usize,
    /// Time for a TLS handshake. The default suits a slow radio link.
    pub handshake_timeout: Duration,
    /// Time for the head of an HTTP/1.1 request, which is also how long an idle connection is kept. The default is
    /// longer than the 90 s after which clients drop idle connections themselves: no request meets a closing server.
    pub head_timeout: Duration,
    /// HTTP/2 streams per connection: requests and watches of one client. The default is client-go's own limit.
    pub streams_max: u32,
    /// Silence after which a peer is asked for a sign of life; a dead link is noticed after twice this time.
    pub keep_alive: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 3072,
            handshake_timeout: Duration::from_secs(15),
            head_timeout: Duration::from_secs(100),
            streams_max: 250,
            keep_alive: Duration::from_secs(30),
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it calls from.
    pub addr: PeerAddr,
    /// The certificate it showed, verified against the listener's CA.
    pub client_cert: Option<Arc<CertificateDer<'static>>>,
}

/// Where a peer calls from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddr {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over a unix socket: the same user, by the socket's mode.
    Unix,
}

/// What answers requests. Every `async` closure over a request and a [`Peer`] is one.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Dropped when the client goes away.
    fn call(&self, request: Request<Incoming>, peer: Peer) -> impl Future<Output = Response<Body>> + Send;
}

impl<F, R> Handler for F
where
    F: Fn(Request<Incoming>, Peer) -> R + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send,
{
    fn call(&self, request: Request<Incoming>, peer: Peer) -> impl Future<Output = Response<Body>> + Send {
        self(request, peer)
    }
}

/// Serves a listener until `shutdown`, then finishes open requests. The handle ends when the last connection has;
/// aborting it cuts those that are left. Must be called within a tokio runtime.
pub fn serve<H: Handler>(listener: Listener, handler: H, shutdown: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(run(listener, Arc::new(handler), shutdown))
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Stream {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Acceptor {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, addr)| Stream::Tcp(stream, addr)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

async fn run<H: Handler>(listener: Listener, handler: Arc<H>, shutdown: CancellationToken) {
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
    let limits = Arc::new(listener.limits);
    let tls = listener.tls.map(|tls| TlsAcceptor::from(tls.config));
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let mut connections = JoinSet::new();
    loop {
        let (stream, slot) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => { note_panic(&name, ended); continue; }
            accepted = accept(&acceptor, &slots, &name) => accepted,
        };
        let connection =
            Connection { handler: handler.clone(), limits: limits.clone(), shutdown: shutdown.clone(), _slot: slot };
        connections.spawn(connection.run(stream, tls.clone()));
    }
    drop(acceptor);
    if let crate::Address::Unix(path) = &listener.address {
        // Gone already when a data folder was removed under us, which is nobody's problem.
        let _ = std::fs::remove_file(path);
    }
    while let Some(ended) = connections.join_next().await {
        note_panic(&name, ended);
    }
}

fn note_panic(listener: &str, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(listener, %error, "A request handler panicked; its connection was closed.");
    }
}

async fn accept(acceptor: &Acceptor, slots: &Arc<Semaphore>, name: &str) -> (Stream, OwnedSemaphorePermit) {
    let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match acceptor.accept().await {
            Ok(stream) => return (stream, slot),
            // The client was faster than we were; nothing is wrong here.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                warn!(listener = name, %error, "Failed to accept a connection; trying again.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Connection<H> {
    handler: Arc<H>,
    limits: Arc<Limits>,
    shutdown: CancellationToken,
    _slot: OwnedSemaphorePermit,
}

impl<H: Handler> Connection<H> {
    async fn run(self, stream: Stream, tls: Option<TlsAcceptor>) {
        match stream {
            Stream::Unix(stream) => {
                self.http1(stream, Peer { addr: PeerAddr::Unix, client_cert: None }).await;
            }
            Stream::Tcp(stream, addr) => {
                if let Err(error) = tune(&stream, &self.limits) {
                    debug!(%addr, %error, "Failed to set TCP options; serving without them.");
                }
                let mut peer = Peer { addr: PeerAddr::Tcp(addr), client_cert: None };
                let Some(tls) = tls else { return self.http1(stream, peer).await };
                let stream = match tokio::time::timeout(self.limits.handshake_timeout, tls.accept(stream)).await {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => return debug!(%addr, %error, "A TLS handshake failed."),
                    Err(_) => return debug!(%addr, "A TLS handshake took too long."),
                };
                let session = stream.get_ref().1;
                peer.client_cert = session
                    .peer_certificates()
                    .and_then(|chain| chain.first())
                    .map(|certificate| Arc::new(certificate.clone().into_owned()));
                if session.alpn_protocol() == Some(b"h2") {
                    self.http2(stream, peer).await;
                } else {
                    self.http1(stream, peer).await;
                }
            }
        }
    }

    async fn http1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S, peer: Peer) {
        let service = service_fn(|request| answer(&*self.handler, request, peer.clone()));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_timeout)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        note_end(&peer, ended);
    }

    async fn http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S, peer: Peer) {
        let handler = self.handler.clone();
        let service_peer = peer.clone();
        let service = service_fn(move |request| {
            let (handler, peer) = (handler.clone(), service_peer.clone());
            async move { answer(&*handler, request, peer).await }
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.streams_max)
            .keep_alive_interval(self.limits.keep_alive)
            .keep_alive_timeout(self.limits.keep_alive)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        note_end(&peer, ended);
    }
}

async fn answer<H: Handler>(
    handler: &H,
    request: Request<Incoming>,
    peer: Peer,
) -> Result<Response<Body>, std::convert::Infallible> {
    Ok(handler.call(request, peer).await)
}

fn note_end(peer: &Peer, ended: hyper::Result<()>) {
    if let Err(error) = ended {
        debug!(addr = ?peer.addr, %error, "A connection ended early.");
    }
}

/// Small answers leave at once, and a peer behind a dead link is noticed even when only it should speak.
fn tune(stream: &TcpStream, limits: &Limits) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, limits.keep_alive)?;
    sockopt::set_tcp_keepintvl(stream, (limits.keep_alive / 3).max(Duration::from_secs(1)))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}
