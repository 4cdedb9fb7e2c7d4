//! A proxy between a node and its hub that delays, hangs, aborts, throttles, freezes and lies by rule.
//!
//! It runs in the test's process on a runtime of its own, so that tests stay plain functions:
//!
//! ```text
//!                 ┌──────────────────────── Proxy ────────────────────────┐
//! node ──TCP──▶ line (bandwidth, freeze, bytes) ──▶ TLS ──▶ rules ──▶ TLS ──▶ hub
//!                                               Proxy::tunnel: ───────────▶ hub
//! ```
//!
//! - The node believes it, because it shows a certificate that the hub's own CA has signed: what a middle box of a company, or
//!   a hub that is ill, could say as well. To the hub it speaks with the node's certificate, read anew for each connection from
//!   the node's data directory; a node that shows none (it joins) is passed on without one, its bearer token with it.
//! - A connection of the node is one connection to the hub, made first: where the hub is away, the node sees it as it is.
//! - [`Rule`]s are looked at in their order for each request; the first that matches and is not used up acts, and a request that
//!   none matches passes unchanged. Rules can be changed at any time and hold for requests that begin after that.
//! - A watch is a request that began long ago: to lie in it, [`Proxy::reset_connections`] after the rule is in place.
//! - [`Proxy::requests`] says what has passed, [`Proxy::bytes`] what the node's side of the wire has carried, TLS included.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use base_pki::{Ca, IssueRequest, San, Usage};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::wire::{Access, HUB_NAME, Identity};

mod exchange;
mod line;
mod record;
mod rule;

pub use record::Passed;
pub use rule::{Action, Replace, Rule, RuleId};

use line::Line;
use record::Records;
use rule::Rules;

/// A hub on loopback answers at once; a test that waits longer for it has failed anyway.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// What the server under TLS may have in hand: small, so that a slow line is felt by who sends.
const PIPE_BYTES: usize = 8 * 1024;
/// What one answer may have in hand beyond what the node's windows allow.
const SEND_BYTES_MAX: usize = 64 * 1024;
/// Answers that were whole when the hub closed its connection still reach the node.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Longer than any test.
const VALIDITY: Duration = Duration::from_secs(10 * 86_400);

/// As whom the proxy speaks to the hub when its client has shown a certificate.
#[derive(Clone, Debug)]
pub enum Client {
    /// As the node in this data directory, by the identity that lies there at the time of each connection.
    NodeDir(PathBuf),
    /// As this one.
    Given(Identity),
}

impl Client {
    fn identity(&self) -> Result<Identity> {
        match self {
            Self::Given(identity) => Ok(identity.clone()),
            Self::NodeDir(dir) => node_identity(dir),
        }
    }
}

/// The certificate of the node in a data directory.
///
/// # Errors
/// When it has not joined.
pub fn node_identity(dir: &Path) -> Result<Identity> {
    let path = dir.join("node/pki/identity.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let json: serde_json::Value = serde_json::from_str(&text)?;
    let field = |name: &str| json.get(name).and_then(|pem| pem.as_str()).map(str::to_owned).context("a PEM text");
    Ok(Identity { cert_pem: field("certPem")?, key_pem: field("keyPem")? })
}

/// How the bytes of the node become requests to the hub.
enum Front {
    /// They do not: all is passed as it is.
    Tunnel,
    /// TLS ends here, and begins anew.
    Terminate { acceptor: TlsAcceptor, ca_pem: String, client: Client },
}

/// What all connections share.
struct Shared {
    front: Front,
    hub_address: Mutex<String>,
    rules: Rules,
    records: Records,
    line: Line,
    connections: AtomicU64,
}

/// A running proxy. Dropping it resets every connection.
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Proxy {
    /// A proxy before the hub at `hub_address`, whose CA signs what it shows.
    ///
    /// # Errors
    /// When no port or no certificate can be had.
    pub fn start(hub_address: &str, ca: &Ca, client: Client) -> Result<Self> {
        let issued = ca.sign(&IssueRequest {
            cn: HUB_NAME.to_owned(),
            orgs: Vec::new(),
            sans: vec![San::from(HUB_NAME), San::from("localhost"), San::from("127.0.0.1")],
            usage: Usage::Server,
            validity: VALIDITY,
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        for certificate in base_pki::certificates(ca.cert_pem())? {
            roots.add(certificate)?;
        }
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        // A joining node finds the hub's CA at the end of the chain.
        let chain = base_pki::certificates(&format!("{}{}", issued.cert_pem, ca.cert_pem()))?;
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients.allow_unauthenticated().build()?)
            .with_single_cert(chain, base_pki::private_key(&issued.key_pem)?)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // A resumed session would hide which certificate its client has now.
        tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        tls.send_tls13_tickets = 0;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        Self::start_as(hub_address, Front::Terminate { acceptor, ca_pem: ca.cert_pem().to_owned(), client })
    }

    /// A proxy that sees no request: it counts connections and bytes, and is slow, frozen or away as the other is. For what TLS
    /// itself decides, and for clocks that are not the test's.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn tunnel(hub_address: &str) -> Result<Self> {
        Self::start_as(hub_address, Front::Tunnel)
    }

    fn start_as(hub_address: &str, front: Front) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("failed to listen")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = {
            let _context = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let shared = Arc::new(Shared {
            front,
            hub_address: Mutex::new(hub_address.to_owned()),
            rules: Rules::default(),
            records: Records::default(),
            line: Line::default(),
            connections: AtomicU64::new(0),
        });
        runtime.spawn(accept(listener, shared.clone()));
        Ok(Self { shared, address, runtime: Some(runtime) })
    }

    /// `ip:port` for the node.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// `https://ip:port` for the node.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Where the next connections are passed on to.
    pub fn set_hub(&self, hub_address: &str) {
        hub_address.clone_into(&mut self.shared.hub_address.lock());
    }

    /// Puts a rule behind those that there are.
    pub fn rule(&self, rule: Rule) -> RuleId {
        self.shared.rules.push(rule)
    }

    /// Takes a rule away; what it has begun is not ended.
    pub fn remove(&self, rule: RuleId) {
        self.shared.rules.remove(rule);
    }

    /// Is honest from now on. What rules have begun (hanging, throttled) is not ended: see [`Proxy::reset_connections`].
    pub fn clear(&self) {
        self.shared.rules.clear();
    }

    /// What has passed so far, oldest first.
    pub fn requests(&self) -> Vec<Passed> {
        self.shared.records.all()
    }

    /// Those of [`Proxy::requests`] with this method whose path contains this text.
    pub fn requests_of(&self, method: &str, path: &str) -> Vec<Passed> {
        let mut found = self.requests();
        found.retain(|one| one.method == method && one.path.contains(path));
        found
    }

    /// How often a rule has acted.
    pub fn acted(&self, rule: RuleId) -> usize {
        self.requests().iter().filter(|one| one.rule == Some(rule)).count()
    }

    /// Connections that the node has made so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Bytes that the node has sent and received so far, TLS included, over all connections.
    pub fn bytes(&self) -> (u64, u64) {
        self.shared.line.bytes()
    }

    /// Bytes per second that the line carries in each direction, for all connections together; `None` is no limit. Connections
    /// that are made under a limit have small buffers in the kernel, so that who sends feels it.
    pub fn set_bandwidth(&self, bytes_per_second: Option<u64>) {
        self.shared.line.set_bandwidth(bytes_per_second);
    }

    /// No byte passes any more, in no connection; all stay open.
    pub fn freeze(&self) {
        self.shared.line.set_frozen(true);
    }

    /// All bytes pass again, those that were kept back first; also in connections that [`Action::Freeze`] froze.
    pub fn thaw(&self) {
        self.shared.line.set_frozen(false);
    }

    /// Ends every connection with a TCP reset.
    pub fn reset_connections(&self) {
        self.shared.line.reset_all();
    }

    /// Whether the hub is away: open connections and new ones are reset.
    pub fn set_away(&self, is_away: bool) {
        self.shared.line.set_away(is_away);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        // A listener on loopback fails when the test is out of files: its own deadline says the rest.
        let Ok((tcp, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let number = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
        tokio::spawn(connection(shared.clone(), tcp, number));
    }
}

/// One connection of the node, until one of its two sides ends.
async fn connection(shared: Arc<Shared>, mut tcp: TcpStream, number: u64) {
    let _ = tcp.set_nodelay(true);
    let flow = shared.line.open(number);
    let address = shared.hub_address.lock().clone();
    let dialed = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(&address)).await;
    let (false, Ok(Ok(hub))) = (shared.line.is_away(), dialed) else {
        // What a node sees where nobody listens is a reset as well.
        let _ = tcp.set_zero_linger();
        shared.line.close(number);
        return;
    };
    let _ = hub.set_nodelay(true);
    shared.line.shrink_buffers(&tcp);
    match &shared.front {
        Front::Tunnel => shared.line.carry(&mut tcp, hub, flow).await,
        Front::Terminate { acceptor, ca_pem, client } => {
            let (near, far) = tokio::io::duplex(PIPE_BYTES);
            let serving = async {
                // Whoever breaks off in a handshake has its reasons; the test sees them at the node.
                let _ = serve(&shared, acceptor, near, hub, (ca_pem, client), number).await;
            };
            let carrying = shared.line.carry(&mut tcp, far, flow);
            // The line ends when the server has dropped its end and the last byte is out.
            tokio::join!(serving, carrying);
        }
    }
    shared.line.close(number);
}

/// The requests of one connection.
async fn serve(
    shared: &Arc<Shared>,
    acceptor: &TlsAcceptor,
    near: tokio::io::DuplexStream,
    hub: TcpStream,
    (ca_pem, client): (&str, &Client),
    number: u64,
) -> Result<()> {
    let tls = acceptor.accept(near).await?;
    let address = shared.hub_address.lock().clone();
    let access = match tls.get_ref().1.peer_certificates() {
        Some(_) => Access::certificate(&address, ca_pem, &client.identity()?)?,
        None => Access::anonymous(&address, ca_pem)?,
    };
    let hub = TlsConnector::from(access.tls()).connect(ServerName::try_from(HUB_NAME)?, hub).await?;
    let (sender, driver) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .handshake(TokioIo::new(hub))
        .await?;
    let exchange = exchange::Exchange { shared: shared.clone(), sender, authority: address.into(), number };
    let service = hyper::service::service_fn(move |request| exchange.clone().run(request));
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder.http2().timer(TokioTimer::new()).max_send_buf_size(SEND_BYTES_MAX);
    let serving = builder.serve_connection(TokioIo::new(tls), service);
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => served.map_err(|error| anyhow::anyhow!("{error}"))?,
        _ = driver => {
            serving.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(LAST_WORDS, serving).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
