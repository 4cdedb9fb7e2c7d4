//! The one connection to the hub, and who keeps it.
//!
//! All requests and watches of a node are streams of one HTTP/2 connection: a node costs the hub one socket, and one answer says
//! whether the hub is there. The [`ConnectionManager`] dials, waits until the connection ends, backs off with jitter and dials the
//! next URL; everyone else takes what is there at the moment and learns at once when nothing is.
//!
//! A handshake is no success. TLS 1.3 lets the client finish before the server has looked at its certificate, and a proxy
//! accepts connections for a hub that is long dead. So only an answered request forgets the failures before it, and a hub that
//! answers nothing but errors is left for the next URL.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use base_retry::{BackoffLaw, Retry, Wake};
use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::warnings::Warnings;
use crate::{ApiClient, StatusRegistry, chain};

/// A hub that has not answered within this is taken for dead; a slow radio link needs some of it for the handshake.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// A hub that has answered with nothing but errors for this long is left for the next of the list, when there is one.
const FAILOVER_AFTER: Duration = Duration::from_secs(15);
/// Between two dials, and between two attempts of everything that needs the hub.
pub const BACKOFF: BackoffLaw = BackoffLaw::new(Duration::from_millis(500), Duration::from_secs(30));

/// Why no connection to a hub could be made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Not a hub's URL.
    #[error("`{0}` is not a URL of the form https://HOST[:PORT]")]
    Url(String),
    /// Nobody listens, or the network is away.
    #[error("failed to connect to {address}")]
    Connect {
        /// `host:port`.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The handshake failed.
    #[error("failed to agree on TLS with {address}")]
    Tls {
        /// `host:port`.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody answers for whom the node's CA does not vouch.
    #[error(
        "what answers at {address} is not the hub that this node has joined: another CA has signed its certificate; correct the hub's URL, or, to take this node to that hub, start it with a token of that hub"
    )]
    OtherHub {
        /// `host:port`.
        address: String,
    },
    /// TLS came up, HTTP/2 did not.
    #[error("failed to speak HTTP/2 with {address}")]
    Http {
        /// `host:port`.
        address: String,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// No answer in time.
    #[error("{address} did not answer within {} s", DIAL_TIMEOUT.as_secs())]
    Timeout {
        /// `host:port`.
        address: String,
    },
}

/// With what to call which hubs. A new value makes the node dial again.
#[derive(Clone, Debug)]
pub struct Access {
    /// In order of preference.
    pub urls: Vec<String>,
    /// TLS with the node's certificate, or without one while it joins.
    pub tls: Arc<rustls::ClientConfig>,
    /// A token, while it joins.
    pub bearer: Option<String>,
}

/// A sender of requests over a connection that was open a moment ago.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub sender: http2::SendRequest<Full<Bytes>>,
    pub authority: Arc<str>,
    pub bearer: Option<Arc<str>>,
    /// Counts the connections of this process.
    pub number: u64,
    /// Ends this connection: for a caller that has seen it hang.
    pub close: CancellationToken,
    pub health: Arc<Health>,
}

/// What is known of a connection by what came over it.
#[derive(Debug)]
pub(crate) struct Health {
    opened: Instant,
    /// Milliseconds after `opened` at which a byte was read last.
    heard_ms: AtomicU64,
    /// Whether a request was answered with anything but an error of the server.
    is_answered: AtomicBool,
    /// Milliseconds after `opened` since which only errors were answered, plus one; 0 when that is not so.
    failing_ms: AtomicU64,
    /// Whether there is another hub to go to.
    has_alternative: bool,
    /// Bytes that watches hold back until their lines are complete.
    pub buffered: AtomicUsize,
}

impl Health {
    fn new(has_alternative: bool) -> Self {
        Self {
            opened: Instant::now(),
            heard_ms: AtomicU64::new(0),
            is_answered: AtomicBool::new(false),
            failing_ms: AtomicU64::new(0),
            has_alternative,
            buffered: AtomicUsize::new(0),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// When the last byte came.
    pub fn heard_at(&self) -> Instant {
        self.opened + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed))
    }

    fn hear(&self) {
        self.heard_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Notes how a request was answered; returns whether the connection is to be given up for another hub's.
    pub fn note(&self, is_error: bool) -> bool {
        if !is_error {
            self.is_answered.store(true, Ordering::Relaxed);
            self.failing_ms.store(0, Ordering::Relaxed);
            return false;
        }
        let now = self.now_ms();
        let since = match self.failing_ms.compare_exchange(0, now + 1, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => now,
            Err(since) => since - 1,
        };
        self.has_alternative && Duration::from_millis(now.saturating_sub(since)) >= FAILOVER_AFTER
    }

    /// Whether it has been of use, and not merely open.
    fn was_useful(&self) -> bool {
        self.is_answered.load(Ordering::Relaxed) && self.failing_ms.load(Ordering::Relaxed) == 0
    }
}

/// Where a hub listens, for programs that call it themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl Endpoint {
    fn of(url: &str) -> Option<Self> {
        HubAddress::parse(url).ok().map(|HubAddress { host, port, .. }| Self { host, port })
    }
}

/// Keeps the connection that an [`ApiClient`] uses.
#[derive(Debug)]
pub struct ConnectionManager {
    connection: watch::Sender<Option<Connection>>,
    endpoint: watch::Sender<Option<Endpoint>>,
    local_ip: watch::Sender<Option<std::net::IpAddr>>,
    restored: Wake,
}

/// A client that is not connected, and what connects it.
pub fn client() -> (ApiClient, ConnectionManager) {
    let (connection_tx, connection) = watch::channel(None);
    let (endpoint_tx, endpoint) = watch::channel(None);
    let (ip_tx, local_ip) = watch::channel(None);
    let restored = Wake::new();
    let client =
        ApiClient { connection, endpoint, local_ip, restored: restored.clone(), warnings: Warnings::default() };
    let manager = ConnectionManager { connection: connection_tx, endpoint: endpoint_tx, local_ip: ip_tx, restored };
    (client, manager)
}

impl ConnectionManager {
    /// Where the hub will be, for what is started before one was reached.
    pub fn expect(&self, urls: &[String]) {
        self.endpoint.send_replace(urls.first().and_then(|url| Endpoint::of(url)));
    }

    /// Keeps the connection until `shutdown`; waits for the first [`Access`] when there is none yet.
    pub async fn run(
        &self,
        mut access: watch::Receiver<Option<Access>>,
        registry: StatusRegistry,
        shutdown: CancellationToken,
    ) {
        let mut retry = Retry::new(BACKOFF);
        let mut turn = 0_usize;
        let mut connections = registry.connections();
        loop {
            let current = access.borrow_and_update().clone();
            let Some(current) = current.filter(|access| !access.urls.is_empty()) else {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    changed = access.changed() => if changed.is_err() { return },
                }
                continue;
            };
            let url = current.urls[turn % current.urls.len()].clone();
            let dialed = tokio::select! {
                () = shutdown.cancelled() => return,
                dialed = dial(&url, &current) => dialed,
            };
            match dialed {
                Ok((mut connection, driver, local_ip)) => {
                    connections += 1;
                    connection.number = connections;
                    let failures = retry.failures();
                    if failures == 0 || failures.is_power_of_two() {
                        info!(%url, "Connected to the hub.");
                    }
                    let health = connection.health.clone();
                    let renewed =
                        self.hold(connection, driver, local_ip, &url, &mut access, &registry, &shutdown).await;
                    if shutdown.is_cancelled() {
                        return;
                    }
                    if health.was_useful() || renewed {
                        retry.succeeded();
                    } else {
                        turn = turn.wrapping_add(1);
                    }
                    if retry.failures().is_power_of_two() || retry.failures() == 0 {
                        warn!(%url, "Lost the hub; pods run on, dialing again.");
                    }
                }
                Err(error) => {
                    let text = chain(&error);
                    // The first failure and then each time the back-off doubles: not one line per dial for hours.
                    let failures = retry.failures();
                    if failures == 0 || failures.is_power_of_two() {
                        warn!(%url, error = %text, failures, "Failed to reach the hub; pods run on, trying again.");
                    }
                    registry.error(format!("hub {url}: {text}"));
                    turn = turn.wrapping_add(1);
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = retry.pause() => {}
                changed = access.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Publishes a connection until it ends; returns whether it ended because there are other credentials.
    #[allow(clippy::too_many_arguments, reason = "what one connection needs, and nobody else")]
    async fn hold(
        &self,
        connection: Connection,
        driver: Driver,
        local_ip: Option<std::net::IpAddr>,
        url: &str,
        access: &mut watch::Receiver<Option<Access>>,
        registry: &StatusRegistry,
        shutdown: &CancellationToken,
    ) -> bool {
        let close = connection.close.clone();
        registry.set_connected(true);
        self.local_ip.send_replace(local_ip);
        self.endpoint.send_replace(Endpoint::of(url));
        self.connection.send_replace(Some(connection));
        // Whatever backs off after the outage tries now, not when its own pause is over.
        self.restored.wake_all();
        let is_renewed = tokio::select! {
            () = shutdown.cancelled() => false,
            () = close.cancelled() => false,
            changed = access.changed() => changed.is_ok(),
            ended = driver => {
                if let Err(error) = ended {
                    debug!(%url, error = %chain(&error), "The connection to the hub ended.");
                }
                false
            }
        };
        // Answers still under way keep the socket open beyond this: watches learn that nothing more will come.
        close.cancel();
        self.connection.send_replace(None);
        registry.set_connected(false);
        is_renewed
    }
}

type Driver = http2::Connection<TokioIo<tokio_rustls::client::TlsStream<Metered>>, Full<Bytes>, TokioExecutor>;
type Dialed = (Connection, Driver, Option<std::net::IpAddr>);

async fn dial(url: &str, access: &Access) -> Result<Dialed, DialError> {
    let address = HubAddress::parse(url)?;
    tokio::time::timeout(DIAL_TIMEOUT, dial_address(&address, access))
        .await
        .map_err(|_| DialError::Timeout { address: address.authority.clone() })?
}

async fn dial_address(address: &HubAddress, access: &Access) -> Result<Dialed, DialError> {
    let authority = &address.authority;
    let tcp = TcpStream::connect((address.host.as_str(), address.port))
        .await
        .map_err(|source| DialError::Connect { address: authority.clone(), source })?;
    let local_ip = tcp.local_addr().ok().map(|local| local.ip());
    // Small requests, answered one by one: waiting to fill a segment only adds delay. A refusal changes nothing else.
    let _ = tcp.set_nodelay(true);
    let health = Arc::new(Health::new(access.urls.len() > 1));
    let metered = Metered { tcp, health: health.clone() };
    let tls = TlsConnector::from(access.tls.clone()).connect(address.server_name.clone(), metered).await.map_err(
        |source| match is_of_another_ca(&source) {
            true => DialError::OtherHub { address: authority.clone() },
            false => DialError::Tls { address: authority.clone(), source },
        },
    )?;
    let (sender, driver) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        // Small windows: a list that is read over a thin link must not fill it for longer than a lease's renewal may wait.
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(256 * 1024)
        .max_send_buf_size(128 * 1024)
        .handshake(TokioIo::new(tls))
        .await
        .map_err(|source| DialError::Http { address: authority.clone(), source })?;
    let connection = Connection {
        sender,
        authority: authority.as_str().into(),
        bearer: access.bearer.as_deref().map(Into::into),
        number: 0,
        close: CancellationToken::new(),
        health,
    };
    Ok((connection, driver, local_ip))
}

/// A socket that notes when it was last heard.
#[derive(Debug)]
struct Metered {
    tcp: TcpStream,
    health: Arc<Health>,
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.tcp).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.health.hear();
        }
        read
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

/// Whether the server is somebody, but nobody whom the node's CA vouches for.
fn is_of_another_ca(error: &io::Error) -> bool {
    use rustls::{CertificateError, Error};
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
    // Two authorities of one name, as hubs of older programs have, differ in their signatures only.
    matches!(cause, Some(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)))
}

/// Host, port and TLS name of a hub URL.
#[derive(Clone, Debug)]
pub struct HubAddress {
    /// Name or address, without brackets.
    pub host: String,
    /// 443 unless the URL says otherwise.
    pub port: u16,
    /// `host:port`.
    pub authority: String,
    /// What the server's certificate must be for.
    pub server_name: ServerName<'static>,
}

/// A name that every Kubernetes API server's certificate carries.
pub(crate) const HUB_NAME: &str = "kubernetes";

impl HubAddress {
    /// Reads `https://HOST[:PORT]`.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(url: &str) -> Result<Self, DialError> {
        let refused = || DialError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| refused())?;
        let host = uri.host().ok_or_else(refused)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        if uri.scheme_str() != Some("https") {
            return Err(refused());
        }
        let port = uri.port_u16().unwrap_or(443);
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        ServerName::try_from(host.as_str()).map_err(|_| refused())?;
        // A node may have a certificate for any address, but never for this name: it cannot play the hub.
        let server_name = ServerName::try_from(HUB_NAME).map_err(|_| refused())?;
        Ok(Self { host, port, authority, server_name })
    }
}

#[cfg(test)]
mod tests;
