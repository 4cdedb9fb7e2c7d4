//! The HTTP/1.1 client under registries: one request after the other on connections that are kept for the next one.
//!
//! A connection has no task of its own: whoever waits for an answer or for bytes of it drives the connection, and whoever
//! drops the answer closes it.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where distributions keep the certificates that their programs trust: Debian and Alpine, Fedora, SUSE, OpenWrt.
const SYSTEM_CA_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const CA_BYTES_MAX: usize = 8 << 20;
/// Registries answer with a few headers; a CDN adds some of its own.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Connections that wait for the next request, for each host.
const IDLE_MAX: usize = 4;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nobody listens, or the network is away.
    #[error("failed to connect to {address}")]
    Connect {
        /// `host:port`.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What answers there does not speak TLS.
    #[error(
        "{address} does not speak TLS; a registry that is to be asked by plain HTTP is named in plainHttp of the node's registriesFile"
    )]
    NoTls {
        /// `host:port`.
        address: String,
    },
    /// Not the server that it should be, or one that cannot be trusted.
    #[error("failed to agree on TLS with {address}")]
    Tls {
        /// `host:port`.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection was cut.
    #[error("the connection to {address} broke")]
    Broken {
        /// `host:port`.
        address: String,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// Nothing came for too long.
    #[error("{address} sent nothing for {} s", after.as_secs())]
    Stalled {
        /// `host:port`.
        address: String,
        /// For how long.
        after: Duration,
    },
    /// A URL that cannot be used.
    #[error("`{0}` is no URL of a registry: write https://HOST[:PORT], or http:// where plainHttp names its host")]
    Url(String),
    /// Certificates that cannot be read.
    #[error("failed to read trusted certificates from {path}")]
    Ca {
        /// Where they should be.
        path: String,
    },
}

/// Scheme, host and port: what a connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) is_tls: bool,
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    pub(crate) fn of(uri: &Uri) -> Result<Self, HttpError> {
        let invalid = || HttpError::Url(uri.to_string());
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(invalid()),
        };
        let authority = uri.authority().ok_or_else(invalid)?;
        // A password in a URL would end up in logs.
        if authority.as_str().contains('@') {
            return Err(HttpError::Url("a URL with a password".to_owned()));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        if host.is_empty() { Err(invalid()) } else { Ok(Self { is_tls, host, port }) }
    }

    /// `host:port`, with brackets where they are needed.
    pub(crate) fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// Makes requests.
pub(crate) struct Client {
    tls: Arc<ClientConfig>,
    idle: Mutex<HashMap<Origin, Vec<Connection>>>,
    stall: Duration,
}

impl Client {
    /// Trusts the system's certificates and those of `ca_file`.
    pub(crate) fn new(ca_file: Option<&Path>, stall: Duration) -> Result<Self, HttpError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring offers what these versions need")
            .with_root_certificates(roots(ca_file)?)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(tls), idle: Mutex::default(), stall })
    }

    /// Sends a request and returns when the head of the answer is there. The URI of the request is whole.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer<'_>, HttpError> {
        let origin = Origin::of(request.uri())?;
        let request = to_origin_form(request, &origin);
        while let Some(mut connection) = self.take_idle(&origin) {
            // It may have been closed meanwhile, which is seen when it is used.
            if connection.is_open().await
                && let Ok(response) = connection.send(request.clone(), &origin, self.stall).await
            {
                return Ok(Answer::new(self, origin, response, connection));
            }
        }
        let mut connection = self.dial(&origin).await?;
        let response = connection.send(request, &origin, self.stall).await?;
        Ok(Answer::new(self, origin, response, connection))
    }

    async fn dial(&self, origin: &Origin) -> Result<Connection, HttpError> {
        let address = origin.authority();
        let dialed = tokio::time::timeout(self.stall, self.connect(origin, &address)).await;
        dialed.unwrap_or(Err(HttpError::Stalled { address, after: self.stall }))
    }

    async fn connect(&self, origin: &Origin, address: &str) -> Result<Connection, HttpError> {
        let tcp = TcpStream::connect((origin.host.as_str(), origin.port))
            .await
            .map_err(|source| HttpError::Connect { address: address.to_owned(), source })?;
        // Requests are small and go out whole; a refusal changes nothing else.
        let _ = tcp.set_nodelay(true);
        let stream = if origin.is_tls {
            let failed = |source: io::Error| {
                let cause = source.get_ref().and_then(|inner| inner.downcast_ref());
                let address = address.to_owned();
                match cause {
                    Some(rustls::Error::InvalidMessage(_)) => HttpError::NoTls { address },
                    _ => HttpError::Tls { address, source },
                }
            };
            let name = ServerName::try_from(origin.host.clone());
            let name = name.map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
            let tls = TlsConnector::from(self.tls.clone()).connect(name, tcp).await.map_err(failed)?;
            Stream::Tls(Box::new(tls))
        } else {
            Stream::Plain(tcp)
        };
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(HEADER_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| HttpError::Broken { address: address.to_owned(), source })?;
        Ok(Connection { sender, driver: Some(Box::pin(driver)) })
    }

    fn take_idle(&self, origin: &Origin) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).get_mut(origin)?.pop()
    }

    fn keep(&self, origin: Origin, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // Redirects lead to hosts without an end.
        if idle.len() >= 16 && !idle.contains_key(&origin) {
            idle.clear();
        }
        let connections = idle.entry(origin).or_default();
        if connections.len() < IDLE_MAX {
            connections.push(connection);
        }
    }

    /// Closes what is not in use: a pull is over, and the next one may be days away.
    pub(crate) fn close_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

type Driver = Pin<Box<http1::Connection<TokioIo<Stream>, Full<Bytes>>>>;

struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` when it has ended: what it has read can still be taken.
    driver: Option<Driver>,
}

impl Connection {
    async fn is_open(&mut self) -> bool {
        let Some(driver) = &mut self.driver else { return false };
        tokio::select! {
            biased;
            _ = driver => {
                self.driver = None;
                false
            }
            ready = self.sender.ready() => ready.is_ok(),
        }
    }

    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        origin: &Origin,
        stall: Duration,
    ) -> Result<Response<Incoming>, HttpError> {
        let sent = self.sender.send_request(request);
        let answered = tokio::time::timeout(stall, drive(&mut self.driver, sent)).await;
        match answered {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(source)) => Err(HttpError::Broken { address: origin.authority(), source }),
            Err(_) => Err(HttpError::Stalled { address: origin.authority(), after: stall }),
        }
    }
}

/// Waits for something that only happens while the connection is driven.
async fn drive<T>(driver: &mut Option<Driver>, future: impl Future<Output = T>) -> T {
    tokio::pin!(future);
    if let Some(running) = driver {
        tokio::select! {
            biased;
            done = &mut future => return done,
            // What went wrong is what the future reports.
            _ = running => *driver = None,
        }
    }
    future.await
}

/// An answer whose body is still to come.
pub(crate) struct Answer<'a> {
    client: &'a Client,
    origin: Origin,
    pub(crate) head: http::response::Parts,
    body: Incoming,
    connection: Option<Connection>,
}

impl<'a> Answer<'a> {
    fn new(client: &'a Client, origin: Origin, response: Response<Incoming>, connection: Connection) -> Self {
        let (head, body) = response.into_parts();
        Self { client, origin, head, body, connection: Some(connection) }
    }

    /// The next bytes of the body, `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        let Some(connection) = &mut self.connection else { return Ok(None) };
        loop {
            let frame = drive(&mut connection.driver, self.body.frame());
            let stall = self.client.stall;
            let frame = tokio::time::timeout(stall, frame)
                .await
                .map_err(|_| HttpError::Stalled { address: self.origin.authority(), after: stall })?;
            match frame.transpose() {
                Ok(Some(frame)) => match frame.into_data() {
                    Ok(bytes) if bytes.is_empty() => {}
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(_trailers) => {}
                },
                Ok(None) => {
                    if let Some(connection) = self.connection.take()
                        && connection.driver.is_some()
                    {
                        self.client.keep(self.origin.clone(), connection);
                    }
                    return Ok(None);
                }
                Err(source) => return Err(HttpError::Broken { address: self.origin.authority(), source }),
            }
        }
    }

    /// The whole body, or `None` when it is longer than `bytes_max`.
    pub(crate) async fn read(mut self, bytes_max: usize) -> Result<Option<Vec<u8>>, HttpError> {
        let mut whole = Vec::new();
        while let Some(bytes) = self.chunk().await? {
            if whole.len() + bytes.len() > bytes_max {
                return Ok(None);
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(Some(whole))
    }
}

/// Path and query alone, and the host in a header, as HTTP/1.1 wants it.
fn to_origin_form(mut request: Request<Full<Bytes>>, origin: &Origin) -> Request<Full<Bytes>> {
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    let is_default = origin.port == if origin.is_tls { 443 } else { 80 };
    let authority = origin.authority();
    let host =
        if is_default { authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host) } else { &authority };
    if let Ok(host) = http::HeaderValue::from_str(host) {
        request.headers_mut().insert(http::header::HOST, host);
    }
    request
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, HttpError> {
    let mut roots = RootCertStore::empty();
    let system = SYSTEM_CA_FILES.iter().map(Path::new).find(|path| path.is_file());
    for (path, is_required) in system.map(|path| (path, false)).into_iter().chain(ca_file.map(|path| (path, true))) {
        let failed = || HttpError::Ca { path: path.display().to_string() };
        let pem = match base_fs::read_bounded(path, CA_BYTES_MAX) {
            Ok(pem) => pem,
            Err(_) if !is_required => continue,
            Err(_) => return Err(failed()),
        };
        let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
        // Bundles of systems contain some that rustls does not take.
        let (added, _) = roots.add_parsable_certificates(certificates);
        if is_required && added == 0 {
            return Err(failed());
        }
    }
    Ok(roots)
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(inner) => Pin::new(inner).poll_read(context, buffer),
            Self::Tls(inner) => Pin::new(inner).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(inner) => Pin::new(inner).poll_write(context, bytes),
            Self::Tls(inner) => Pin::new(inner).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(inner) => Pin::new(inner).poll_flush(context),
            Self::Tls(inner) => Pin::new(inner).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(inner) => Pin::new(inner).poll_shutdown(context),
            Self::Tls(inner) => Pin::new(inner).poll_shutdown(context),
        }
    }
}
