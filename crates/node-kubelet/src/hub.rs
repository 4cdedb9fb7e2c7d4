//! The one connection to the hub.
//!
//! All requests and watches of the kubelet are streams of one HTTP/2 connection: a node costs the hub one socket, and
//! one answer tells whether the hub is there. [`run`] keeps the connection (dial, wait until it ends, back off with
//! jitter, dial the next URL); everyone else takes what is there at the moment and is told at once when nothing is.
//!
//! Bodies stay JSON text or [`Value`]: the kubelet acts on few fields and keeps no typed copies.

mod warnings;

use std::sync::Arc;
use std::time::Duration;

use base_retry::{BackoffLaw, Retry, Wake};
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::report::{Board, chain};
use warnings::Warnings;

/// A hub that has not answered within this is taken for dead; a slow radio link needs some of it for the handshake.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait for the head and body of an ordinary answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest answer that is read: a list of 110 pods with their status stays well below.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Largest single event of a watch: objects are at most 1.5 MB in etcd, and so in any hub.
const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Between two dials, and between two attempts of everything that needs the hub.
pub(crate) const BACKOFF: BackoffLaw = BackoffLaw::new(Duration::from_millis(500), Duration::from_secs(30));

/// Why a request to the hub has no usable answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HubError {
    #[error("the hub is out of reach")]
    Unreachable,
    #[error("the hub did not answer {act} in time")]
    Timeout { act: String },
    #[error("the connection to the hub broke during {act}")]
    Broken {
        act: String,
        #[source]
        source: hyper::Error,
    },
    #[error("the hub answered {act} with {code} {reason}: {message}")]
    Status {
        act: String,
        code: u16,
        reason: String,
        message: String,
        /// The fields that the hub names as the causes.
        fields: Vec<String>,
    },
    #[error("the hub answered {act} with something that cannot be read: {message}")]
    Unreadable { act: String, message: String },
}

impl HubError {
    /// The HTTP status, when the hub answered at all.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// What the hub said, when it said something; else what went wrong.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Status { message, .. } if !message.is_empty() => message.clone(),
            other => chain(other),
        }
    }

    /// Whether the hub names this field as a cause.
    pub(crate) fn is_about(&self, field: &str) -> bool {
        matches!(self, Self::Status { fields, .. } if fields.iter().any(|found| found == field))
    }

    /// Whether waiting for the hub is all there is to do.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable | Self::Timeout { .. } | Self::Broken { .. } => true,
            Self::Status { code, .. } => *code >= 500 || *code == 429,
            Self::Unreadable { .. } => false,
        }
    }
}

/// Why no connection to a hub could be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("`{0}` is not a URL of the form https://HOST[:PORT]")]
    Url(String),
    #[error("failed to connect to {address}")]
    Connect {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to agree on TLS with {address}")]
    Tls {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "what answers at {address} is not the hub that this node has joined: another CA has signed its certificate; correct the hub's URL, or, to take this node to that hub, remove its state with `selvedge reset` and join with a token of that hub"
    )]
    OtherHub { address: String },
    #[error("failed to speak HTTP/2 with {address}")]
    Http {
        address: String,
        #[source]
        source: hyper::Error,
    },
    #[error("{address} did not answer within {} s", DIAL_TIMEOUT.as_secs())]
    Timeout { address: String },
}

/// With what to call which hubs. A new value makes the kubelet dial again.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub urls: Vec<String>,
    pub tls: Arc<rustls::ClientConfig>,
    pub bearer: Option<String>,
}

/// A sender of requests over a connection that was open a moment ago.
#[derive(Clone, Debug)]
struct Link {
    sender: http2::SendRequest<Full<Bytes>>,
    authority: Arc<str>,
    bearer: Option<Arc<str>>,
    /// Counts the connections of this process.
    number: u64,
    /// Ends this connection: for a caller that has seen it hang.
    hang_up: CancellationToken,
}

/// Where a hub listens, for programs that call it themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    fn of(url: &str) -> Option<Self> {
        HubAddress::parse(url).ok().map(|HubAddress { host, port, .. }| Self { host, port })
    }
}

/// A handle on the connection; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Hub {
    link: watch::Receiver<Option<Link>>,
    endpoint: watch::Receiver<Option<Endpoint>>,
    local_ip: watch::Receiver<Option<std::net::IpAddr>>,
    restored: Wake,
    warnings: Warnings,
}

/// The other end of a [`Hub`], for [`run`].
#[derive(Debug)]
pub(crate) struct HubKeeper {
    link: watch::Sender<Option<Link>>,
    endpoint: watch::Sender<Option<Endpoint>>,
    local_ip: watch::Sender<Option<std::net::IpAddr>>,
    restored: Wake,
}

/// A hub that is not connected, and its keeper.
pub(crate) fn hub() -> (Hub, HubKeeper) {
    let (link_tx, link) = watch::channel(None);
    let (endpoint_tx, endpoint) = watch::channel(None);
    let (ip_tx, local_ip) = watch::channel(None);
    let restored = Wake::new();
    let hub = Hub { link, endpoint, local_ip, restored: restored.clone(), warnings: Warnings::default() };
    (hub, HubKeeper { link: link_tx, endpoint: endpoint_tx, local_ip: ip_tx, restored })
}

impl HubKeeper {
    /// Where the hub will be, for what is started before one was reached.
    pub(crate) fn expect(&self, urls: &[String]) {
        self.endpoint.send_replace(urls.first().and_then(|url| Endpoint::of(url)));
    }
}

/// Keeps the connection until `shutdown`; waits for the first [`Access`] when there is none yet.
pub(crate) async fn run(
    keeper: HubKeeper,
    mut access: watch::Receiver<Option<Access>>,
    board: Board,
    shutdown: CancellationToken,
) {
    let mut retry = Retry::new(BACKOFF);
    let mut turn = 0_usize;
    let mut connections = 0_u64;
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
            Ok((mut link, connection, local_ip)) => {
                connections += 1;
                link.number = connections;
                info!(%url, "Connected to the hub.");
                retry.succeeded();
                board.set_connected(true);
                let hang_up = link.hang_up.clone();
                keeper.local_ip.send_replace(local_ip);
                keeper.endpoint.send_replace(Endpoint::of(&url));
                keeper.link.send_replace(Some(link));
                // Whatever backs off after the outage tries now, not when its own pause is over.
                keeper.restored.wake_all();
                let stop = tokio::select! {
                    () = shutdown.cancelled() => true,
                    () = hang_up.cancelled() => false,
                    changed = access.changed() => changed.is_err(),
                    ended = connection => {
                        if let Err(error) = ended {
                            debug!(%url, error = %chain(&error), "The connection to the hub ended.");
                        }
                        false
                    }
                };
                // Answers still under way keep the socket open beyond this: watches are told that nothing more will come.
                hang_up.cancel();
                keeper.link.send_replace(None);
                board.set_connected(false);
                if stop {
                    return;
                }
                warn!(%url, "Lost the hub; pods run on, dialing again.");
            }
            Err(error) => {
                let text = chain(&error);
                // The first failure and then each time the back-off doubles: not one line per dial for hours.
                let failures = retry.failures();
                if failures == 0 || failures.is_power_of_two() {
                    warn!(%url, error = %text, failures, "Failed to reach the hub; pods run on, trying again.");
                }
                board.error(format!("hub {url}: {text}"));
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

type Dialed = (
    Link,
    http2::Connection<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>, Full<Bytes>, TokioExecutor>,
    Option<std::net::IpAddr>,
);

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
    let tls =
        TlsConnector::from(access.tls.clone()).connect(address.server_name.clone(), tcp).await.map_err(|source| {
            match is_of_another_ca(&source) {
                true => DialError::OtherHub { address: authority.clone() },
                false => DialError::Tls { address: authority.clone(), source },
            }
        })?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        // Small windows: a node reads a few KB at a time, and the budget is for pods.
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(512 * 1024)
        .max_send_buf_size(128 * 1024)
        .handshake(TokioIo::new(tls))
        .await
        .map_err(|source| DialError::Http { address: authority.clone(), source })?;
    let link = Link {
        sender,
        authority: authority.as_str().into(),
        bearer: access.bearer.as_deref().map(Into::into),
        number: 0,
        hang_up: CancellationToken::new(),
    };
    Ok((link, connection, local_ip))
}

/// Whether the server is somebody, but nobody whom the node's CA vouches for.
fn is_of_another_ca(error: &std::io::Error) -> bool {
    use rustls::{CertificateError, Error};
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
    // Two authorities of one name, as hubs of older programs have, differ in their signatures only.
    matches!(cause, Some(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)))
}

/// Host, port and TLS name of a hub URL.
pub(crate) struct HubAddress {
    pub host: String,
    pub port: u16,
    pub authority: String,
    pub server_name: ServerName<'static>,
}

/// A name that every Kubernetes API server's certificate carries.
const HUB_NAME: &str = "kubernetes";

impl HubAddress {
    pub(crate) fn parse(url: &str) -> Result<Self, DialError> {
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

/// A patch, by how it is to be understood.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patch {
    Merge,
    Strategic,
}

impl Hub {
    /// Waits until there is a connection.
    pub(crate) async fn connected(&mut self) {
        // An error means that the keeper is gone, which happens at shutdown only; the caller is then cancelled, too.
        if self.link.wait_for(|link| link.as_ref().is_some_and(Link::is_open)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether there is a connection at this moment.
    pub(crate) fn is_connected(&self) -> bool {
        self.link.borrow().as_ref().is_some_and(Link::is_open)
    }

    /// The back-off of a part that needs the hub; a connection that is made ends its pauses.
    pub(crate) fn retry(&self) -> Retry {
        self.retry_by(BACKOFF)
    }

    /// The same by another law.
    pub(crate) fn retry_by(&self, law: BackoffLaw) -> Retry {
        Retry::new(law).with_wake(&self.restored)
    }

    /// What is called whenever a connection to the hub was made.
    pub(crate) fn restored(&self) -> Wake {
        self.restored.clone()
    }

    /// Address of this node's end of the connection: the one by which the hub's network knows the node.
    pub(crate) fn local_ip(&self) -> Option<std::net::IpAddr> {
        *self.local_ip.borrow()
    }

    /// The hub that was reached last, or the first of the configuration.
    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint.borrow().clone()
    }

    /// Which connection this is, counted from 1: who has told the hub something asks whether it is still the same one.
    pub(crate) fn connection_number(&self) -> u64 {
        self.link.borrow().as_ref().map_or(0, |link| link.number)
    }

    /// Ends a connection that hangs; the keeper dials again.
    pub(crate) fn hang_up(&self) {
        if let Some(link) = self.link.borrow().as_ref() {
            link.hang_up.cancel();
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, HubError> {
        self.json(Method::GET, path, None).await
    }

    pub(crate) async fn create(&self, path: &str, body: &Value) -> Result<Value, HubError> {
        self.json(Method::POST, path, Some(("application/json", body))).await
    }

    pub(crate) async fn patch(&self, path: &str, kind: Patch, body: &Value) -> Result<Value, HubError> {
        let content_type = match kind {
            Patch::Merge => "application/merge-patch+json",
            Patch::Strategic => "application/strategic-merge-patch+json",
        };
        self.json(Method::PATCH, path, Some((content_type, body))).await
    }

    pub(crate) async fn delete(&self, path: &str, options: &Value) -> Result<Value, HubError> {
        self.json(Method::DELETE, path, Some(("application/json", options))).await
    }

    /// Opens a watch; its first event may be long in coming.
    pub(crate) async fn watch(&self, path: &str) -> Result<Watch, HubError> {
        let act = format!("GET {path}");
        let link = self.link()?;
        let ended = link.hang_up.clone();
        let response = within(ANSWER_TIMEOUT, &act, link.send(Method::GET, path, None)).await?;
        let status = response.status();
        if status != StatusCode::OK {
            let body = within(ANSWER_TIMEOUT, &act, read_answer(response.into_body(), &act)).await?;
            return Err(status_error(act, status, &body));
        }
        Ok(Watch { act, ended, body: response.into_body(), buffer: BytesMut::new() })
    }

    async fn json(&self, method: Method, path: &str, body: Option<(&'static str, &Value)>) -> Result<Value, HubError> {
        let act = format!("{method} {}", path.split('?').next().unwrap_or(path));
        let link = self.link()?;
        let exchange = async {
            let response = link.send(method, path, body).await?;
            let status = response.status();
            self.warnings.log(&act, response.headers());
            Ok((status, read_answer(response.into_body(), &act).await?))
        };
        let (status, answer) = within(ANSWER_TIMEOUT, &act, exchange).await?;
        if !status.is_success() {
            return Err(status_error(act, status, &answer));
        }
        serde_json::from_slice(&answer).map_err(|error| HubError::Unreadable { act, message: error.to_string() })
    }

    fn link(&self) -> Result<Link, HubError> {
        self.link.borrow().clone().filter(Link::is_open).ok_or(HubError::Unreachable)
    }
}

impl Link {
    /// Whether nobody has given it up.
    fn is_open(&self) -> bool {
        !self.hang_up.is_cancelled()
    }

    async fn send(
        self,
        method: Method,
        path: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<Response<Incoming>, HubError> {
        let act = format!("{method} {path}");
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority))
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("selvedge-kubelet/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = &self.bearer {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let bytes = match body {
            Some((content_type, value)) => {
                request = request.header(CONTENT_TYPE, content_type);
                Bytes::from(value.to_string())
            }
            None => Bytes::new(),
        };
        let request = request
            .body(Full::new(bytes))
            .map_err(|error| HubError::Unreadable { act: act.clone(), message: error.to_string() })?;
        let mut sender = self.sender;
        sender.send_request(request).await.map_err(|source| HubError::Broken { act, source })
    }
}

async fn within<T>(limit: Duration, act: &str, work: impl Future<Output = Result<T, HubError>>) -> Result<T, HubError> {
    tokio::time::timeout(limit, work).await.map_err(|_| HubError::Timeout { act: act.to_owned() })?
}

async fn read_answer(mut body: Incoming, act: &str) -> Result<Bytes, HubError> {
    let mut answer = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| HubError::Broken { act: act.to_owned(), source })?;
        if let Some(data) = frame.data_ref() {
            if answer.len() + data.len() > ANSWER_BYTES_MAX {
                return Err(HubError::Unreadable { act: act.to_owned(), message: "it is too large".to_owned() });
            }
            answer.extend_from_slice(data);
        }
    }
    Ok(answer.freeze())
}

fn status_error(act: String, status: StatusCode, body: &[u8]) -> HubError {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
    let causes = answer["details"]["causes"].as_array().into_iter().flatten();
    let fields = causes.filter_map(|cause| cause["field"].as_str().map(str::to_owned)).collect();
    HubError::Status { act, code: status.as_u16(), reason: text("reason"), message: text("message"), fields }
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// Added or modified: the object as it is now.
    Applied(Value),
    /// The object as it was last.
    Deleted(Value),
    /// Nothing changed up to this resource version.
    Bookmark(String),
    /// The hub ends the watch; 410 asks for a new list.
    Error { code: u64, message: String },
}

/// An open watch.
#[derive(Debug)]
pub(crate) struct Watch {
    act: String,
    /// The connection was given up.
    ended: CancellationToken,
    body: Incoming,
    buffer: BytesMut,
}

impl Watch {
    /// The next event; `None` when the hub closed the watch in good order. May be dropped while it waits.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, HubError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return parse_event(&line).map(Some).map_err(|message| self.unreadable(message));
            }
            if self.buffer.len() > EVENT_BYTES_MAX {
                return Err(self.unreadable("an event is too large".to_owned()));
            }
            let frame = tokio::select! {
                () = self.ended.cancelled() => return Err(HubError::Unreachable),
                frame = self.body.frame() => frame,
            };
            match frame {
                None => return Ok(None),
                Some(Err(source)) => return Err(HubError::Broken { act: self.act.clone(), source }),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }

    fn unreadable(&self, message: String) -> HubError {
        HubError::Unreadable { act: self.act.clone(), message }
    }
}

pub(crate) fn parse_event(line: &[u8]) -> Result<Event, String> {
    let mut event: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let object = event["object"].take();
    match event["type"].as_str().unwrap_or_default() {
        "ADDED" | "MODIFIED" => Ok(Event::Applied(object)),
        "DELETED" => Ok(Event::Deleted(object)),
        "BOOKMARK" => {
            Ok(Event::Bookmark(object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()))
        }
        "ERROR" => Ok(Event::Error {
            code: object["code"].as_u64().unwrap_or(500),
            message: object["message"].as_str().unwrap_or_default().to_owned(),
        }),
        other => Err(format!("unknown event type `{other}`")),
    }
}

#[cfg(test)]
mod tests;
