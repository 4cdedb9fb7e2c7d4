//! The Kubernetes API as bytes on a connection: for clients that a well-behaved library would not let us be.
//!
//! One [`Connection`] is one HTTP/2 connection over TLS. Requests can be whole ([`Connection::send`]), or be left hanging
//! in the middle of their body ([`Connection::begin`]); answers can be read, followed line by line ([`Lines`]) or never be
//! read at all. Fleets of hollow nodes and attackers are both made of this.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base_pki::{PinError, PinnedCa};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request};
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// A name that every hub's certificate carries, and no node's ever does.
pub(crate) const HUB_NAME: &str = "kubernetes";
/// A hub that has not taken a connection by then is down for the purposes of a test.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// An answer later than this is no answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// As a kubelet's: a few KB are read at a time.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 512 * 1024;

/// Content type of a JSON body.
pub const JSON: &str = "application/json";
/// Content type of a strategic merge patch.
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
/// Content type of a merge patch.
pub const MERGE: &str = "application/merge-patch+json";
/// Content type of a JSON patch.
pub const JSON_PATCH: &str = "application/json-patch+json";
/// Asks for a list as kubectl's tables.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// Where a hub is, whom to trust there, and who one is.
#[derive(Clone)]
pub struct Access {
    /// `ip:port`.
    pub address: String,
    tls: Arc<ClientConfig>,
    bearer: Option<Arc<str>>,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Certificate chain, PEM.
    pub cert_pem: String,
    /// Private key, PEM.
    pub key_pem: String,
}

impl Access {
    /// Trusts `ca_pem`; shows nothing.
    pub fn anonymous(address: &str, ca_pem: &str) -> Result<Self> {
        Ok(Self { address: address.to_owned(), tls: with_alpn(builder(ca_pem)?.with_no_client_auth()), bearer: None })
    }

    /// Trusts `ca_pem`; shows a bearer token.
    pub fn bearer(address: &str, ca_pem: &str, token: &str) -> Result<Self> {
        Ok(Self { bearer: Some(token.into()), ..Self::anonymous(address, ca_pem)? })
    }

    /// Trusts `ca_pem`; shows a certificate.
    pub fn certificate(address: &str, ca_pem: &str, identity: &Identity) -> Result<Self> {
        let chain = base_pki::certificates(&identity.cert_pem)?;
        let tls = builder(ca_pem)?.with_client_auth_cert(chain, key(&identity.key_pem)?)?;
        Ok(Self { address: address.to_owned(), tls: with_alpn(tls), bearer: None })
    }

    /// What a kubeconfig of the hub says, with everything inside it.
    pub fn kubeconfig(path: &Path) -> Result<Self> {
        let (address, ca_pem, identity) = read_kubeconfig(path)?;
        Self::certificate(&address, &ca_pem, &identity)
    }

    /// The TLS settings, for those who speak something else than HTTP/2.
    pub fn tls(&self) -> Arc<ClientConfig> {
        self.tls.clone()
    }

    /// A TLS stream on which nothing was said yet.
    pub async fn handshake(&self) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let dial = async {
            let tcp = TcpStream::connect(&self.address).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from(HUB_NAME).map_err(io::Error::other)?;
            TlsConnector::from(self.tls.clone()).connect(name, tcp).await
        };
        tokio::time::timeout(DIAL_TIMEOUT, dial)
            .await
            .with_context(|| format!("{} took no connection within {DIAL_TIMEOUT:?}", self.address))?
            .with_context(|| format!("failed to connect to {}", self.address))
    }

    /// An HTTP/2 connection.
    pub async fn connect(&self) -> Result<Connection> {
        let tls = self.handshake().await?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false)
            .handshake::<_, Bytes>(tls)
            .await
            .with_context(|| format!("failed to speak HTTP/2 with {}", self.address))?;
        let driver = tokio::spawn(connection);
        Ok(Connection { sender, driver, authority: self.address.as_str().into(), bearer: self.bearer.clone() })
    }
}

/// The value of a metric on a page of `/metrics`, by its name with labels.
pub fn figure(page: &str, name: &str) -> Result<f64> {
    ensure!(page.ends_with("# EOF\n"), "the page is cut: {page}");
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("{name} in {page}"))?.parse()?)
}

/// CA (PEM) that a kubeconfig trusts, with the address and the identity in it.
pub fn read_kubeconfig(path: &Path) -> Result<(String, String, Identity)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let field = |name: &str| {
        let found = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
        found.map(str::trim).with_context(|| format!("{} has no {name}", path.display()))
    };
    let pem = |name: &str| -> Result<String> { Ok(String::from_utf8(BASE64.decode(field(name)?)?)?) };
    let address = field("server")?.trim_start_matches("https://").replace("0.0.0.0", "127.0.0.1");
    let identity = Identity { cert_pem: pem("client-certificate-data")?, key_pem: pem("client-key-data")? };
    Ok((address, pem("certificate-authority-data")?, identity))
}

fn with_alpn(mut tls: ClientConfig) -> Arc<ClientConfig> {
    tls.alpn_protocols = vec![b"h2".to_vec()];
    // A fleet that comes back shakes hands anew, as kubelets on real boxes do.
    tls.resumption = rustls::client::Resumption::disabled();
    Arc::new(tls)
}

fn builder(ca_pem: &str) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>> {
    let mut roots = RootCertStore::empty();
    for certificate in base_pki::certificates(ca_pem)? {
        roots.add(certificate)?;
    }
    Ok(plain_builder()?.with_root_certificates(roots))
}

fn plain_builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    // One provider for all connections of a process: each holds tables of its own.
    static PROVIDER: std::sync::LazyLock<Arc<rustls::crypto::CryptoProvider>> =
        std::sync::LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    Ok(ClientConfig::builder_with_provider(PROVIDER.clone()).with_safe_default_protocol_versions()?)
}

/// From when until when, in seconds since 1970, the certificate is valid that a hub shows.
///
/// # Errors
/// When there is no handshake. Whether the certificate is valid now is not looked at.
pub async fn served_validity(address: &str, ca_pem: &str) -> Result<(i64, i64)> {
    let pin = PinnedCa::new(&base_pki::ca_fingerprint(ca_pem)?);
    let access = Access { address: address.to_owned(), tls: Arc::new(pin.client_config()?), bearer: None };
    let handshake = access.handshake().await;
    match (pin.take(), handshake) {
        // Its clock is not ours, and what its certificate says is the question.
        (Some(Err(PinError::Clock { from, until })), _) => Ok((from, until)),
        (_, handshake) => {
            let stream = handshake?;
            let chain = stream.get_ref().1.peer_certificates().context("the hub showed no certificate")?;
            let shown = chain.first().context("the hub showed no certificate")?;
            Ok(base_pki::validity(&base_pki::certificate_pem(shown))?)
        }
    }
}

/// Whether a client that trusts `ca_pem` would believe a server that shows `chain_pem` under `name`.
pub fn is_trusted_server(ca_pem: &str, chain_pem: &str, name: &str) -> Result<bool> {
    let mut roots = RootCertStore::empty();
    for certificate in base_pki::certificates(ca_pem)? {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
    let chain = base_pki::certificates(chain_pem)?;
    let (end_entity, others) = chain.split_first().context("the chain is empty")?;
    let name = ServerName::try_from(name).context("not a name")?;
    Ok(verifier.verify_server_cert(end_entity, others, &name, &[], UnixTime::now()).is_ok())
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>> {
    use rustls::pki_types::pem::PemObject as _;
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).context("the identity holds no private key")
}

/// Fetches the CA of the hub at `address` as a joining node does: from its chain, by the hash that the token carries.
pub async fn fetch_ca(address: &str, sha256: &str) -> Result<String> {
    let pin = PinnedCa::new(sha256);
    let access = Access { address: address.to_owned(), tls: Arc::new(pin.client_config()?), bearer: None };
    let handshake = access.handshake().await;
    match (pin.take(), handshake) {
        (Some(Ok(ca)), Ok(_)) => Ok(base_pki::certificate_pem(&ca)),
        (Some(Err(error)), _) => Err(error).with_context(|| format!("{address} is not the hub")),
        (_, Err(error)) => Err(error),
        (None, Ok(_)) => bail!("{address} showed no certificate"),
    }
}

/// An open HTTP/2 connection. Dropping it closes it.
pub struct Connection {
    sender: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
    authority: Arc<str>,
    bearer: Option<Arc<str>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; `null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The answer when it is a good one; else an error that says what it was.
    pub fn ok(self) -> Result<Self> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        bail!("{}: {}", self.status, self.text().chars().take(2000).collect::<String>())
    }
}

/// A request whose body is not finished.
pub struct Pending {
    response: ResponseFuture,
    body: SendStream<Bytes>,
}

impl Pending {
    /// Sends a part of the body.
    pub fn push(&mut self, part: impl Into<Bytes>) -> Result<()> {
        self.body.send_data(part.into(), false).context("failed to send a part of a body")
    }

    /// Ends the body and waits for the answer.
    pub async fn finish(mut self, part: impl Into<Bytes>) -> Result<Answer> {
        // A server that has answered already may have closed its end for what is still to come.
        let _ = self.body.send_data(part.into(), true);
        self.answer().await
    }

    /// Waits for the answer; a server may give it before the body is there.
    pub async fn answer(self) -> Result<Answer> {
        let read = async {
            let (head, body) = self.response.await?.into_parts();
            Ok::<_, h2::Error>(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body: read_all(body).await?,
            })
        };
        tokio::time::timeout(ANSWER_TIMEOUT, read)
            .await
            .with_context(|| format!("no answer within {ANSWER_TIMEOUT:?}"))?
            .context("the request failed")
    }

    /// The head of the answer has come; the body stays unread until someone reads it.
    pub async fn head(self) -> Result<(u16, RecvStream)> {
        let response = tokio::time::timeout(ANSWER_TIMEOUT, self.response)
            .await
            .with_context(|| format!("no answer within {ANSWER_TIMEOUT:?}"))?
            .context("the request failed")?;
        Ok((response.status().as_u16(), response.into_body()))
    }
}

async fn read_all(mut body: RecvStream) -> Result<Bytes, h2::Error> {
    let mut all = BytesMut::new();
    while let Some(part) = body.data().await {
        let part = part?;
        // The window is given back as it is used, or the answer stops after its first 256 KB.
        let _ = body.flow_control().release_capacity(part.len());
        all.extend_from_slice(&part);
    }
    Ok(all.freeze())
}

impl Connection {
    /// Begins a request: its head is sent, its body is the caller's to send.
    pub async fn begin(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Result<Pending> {
        self.start(method, path, headers, false).await
    }

    async fn start(&self, method: Method, path: &str, headers: &[(&str, &str)], whole: bool) -> Result<Pending> {
        let mut request = Request::builder().method(method).uri(format!("https://{}{path}", self.authority));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = &self.bearer {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(()).context("the request cannot be said")?;
        let mut sender = self.sender.clone().ready().await.context("the connection is closed")?;
        let (response, body) = sender.send_request(request, whole).context("failed to send a request")?;
        Ok(Pending { response, body })
    }

    /// Sends a request with headers of the caller's and reads the answer.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Result<Answer> {
        let pending = self.start(method, path, headers, body.is_empty()).await?;
        if body.is_empty() { pending.answer().await } else { pending.finish(body).await }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, &[("accept", JSON)], Bytes::new()).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.write(Method::POST, path, JSON, body).await
    }

    /// PATCH.
    pub async fn patch(&self, path: &str, content_type: &str, body: &Value) -> Result<Answer> {
        self.write(Method::PATCH, path, content_type, body).await
    }

    /// Any verb with a JSON body.
    pub async fn write(&self, method: Method, path: &str, content_type: &str, body: &Value) -> Result<Answer> {
        let headers = [("accept", JSON), ("content-type", content_type)];
        self.send(method, path, &headers, body.to_string().into()).await
    }

    /// DELETE without options.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.send(Method::DELETE, path, &[("accept", JSON)], Bytes::new()).await
    }

    /// Opens a watch. An answer other than 200 is the error's text, its code first.
    pub async fn watch(&self, path: &str) -> Result<Lines, WatchError> {
        let headers = [("accept", JSON)];
        let pending = self.start(Method::GET, path, &headers, true).await.map_err(WatchError::Broken)?;
        let (status, body) = pending.head().await.map_err(WatchError::Broken)?;
        if status == 200 {
            return Ok(Lines { body, buffer: BytesMut::new(), searched: 0 });
        }
        let text = read_all(body).await.map_err(|error| WatchError::Broken(error.into()))?;
        Err(WatchError::Status(status, String::from_utf8_lossy(&text).into_owned()))
    }

    /// Whether the other side has closed it.
    pub fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }

    /// Waits until the other side closes it.
    pub async fn closed(&mut self) {
        let _ = (&mut self.driver).await;
    }
}

/// Why there is no watch.
#[derive(Debug)]
pub enum WatchError {
    /// The hub said so.
    Status(u16, String),
    /// Nobody said anything.
    Broken(anyhow::Error),
}

impl std::fmt::Display for WatchError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(code, text) => write!(formatter, "{code}: {text}"),
            Self::Broken(error) => write!(formatter, "{error:#}"),
        }
    }
}

impl std::error::Error for WatchError {}

/// A watch, line by line.
pub struct Lines {
    body: RecvStream,
    buffer: BytesMut,
    searched: usize,
}

impl Lines {
    /// The next line without its end; `None` when the hub closed the watch in good order.
    pub async fn next(&mut self) -> Result<Option<Bytes>, h2::Error> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end + 1);
                self.searched = 0;
                if line.len() > 1 {
                    return Ok(Some(line.freeze()));
                }
                continue;
            }
            self.searched = self.buffer.len();
            match self.body.data().await {
                None => return Ok(None),
                Some(part) => {
                    let part = part?;
                    let _ = self.body.flow_control().release_capacity(part.len());
                    if self.buffer.is_empty() && part.ends_with(b"\n") {
                        // The usual case: one event, one frame; an idle watch then holds no buffer at all.
                        self.buffer = BytesMut::from(part);
                    } else {
                        self.buffer.extend_from_slice(&part);
                    }
                }
            }
        }
    }
}
