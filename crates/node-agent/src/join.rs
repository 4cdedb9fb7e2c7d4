//! From a token to a certificate, and from one certificate to the next.
//!
//! Two parties prove themselves: the hub by a CA whose hash the token carries ([`fetch_ca`]), the node by the token's
//! bootstrap secret. The node then asks for its certificate by a CertificateSigningRequest, as any kubelet does, and
//! later renews it the same way with the certificate it has. Nothing is tried a bounded number of times: a gateway
//! is often switched on before its link works.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api_kube::base64_text;
use base_pki::{JoinToken, KeyPair, PinError, PinnedCa, San};
use base_retry::{Backoff, BackoffLaw, Jitter, Retry};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::identity::{Identity, IdentityError, client_builder};
use node_client::{Access, ApiClient, ApiError, BACKOFF, DialError, HubAddress, StatusRegistry, chain};

/// Signer of node client certificates.
const SIGNER_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signer of kubelet serving certificates.
const SIGNER_SERVING: &str = "kubernetes.io/kubelet-serving";
const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// How soon a pending request is looked at, doubling up to how often: a hub that approves by itself does it in a few
/// milliseconds, a person needs longer.
const POLL_PERIODS: BackoffLaw =
    BackoffLaw::new(Duration::from_millis(25), Duration::from_secs(1)).with_jitter(Jitter::None);
/// A request that waits longer (a person must approve it) is made again, as the hub removes old ones.
const APPROVAL_WAIT_MAX: Duration = Duration::from_secs(600);
/// The hub's handshake, on a slow link.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest sleep towards a renewal: the clock of a box without one may jump.
const RENEWAL_RESYNC_PERIOD: Duration = Duration::from_secs(600);
/// A quarter of the certificate's life is left for it.
const RENEWAL_BACKOFF: BackoffLaw = BackoffLaw::new(Duration::from_secs(30), Duration::from_secs(30));

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its case is")]
pub enum JoinError {
    #[error(
        "the hub at {url} is not the one that the token was made on: none of its certificates has the SHA-256 {desired} (its last one has {found}); check the URL, or make a new token there with `selvedge token create`"
    )]
    WrongCa { url: String, desired: String, found: String },
    #[error("the hub at {url} shows a certificate that its CA does not vouch for under this name: {reason}")]
    NotVouchedFor { url: String, reason: String },
    #[error(
        "this machine's clock shows {now}, but the hub's certificate at {url} is valid from {from} to {until}: set the clock (a registry without a battery needs NTP first); if this clock is right, the hub's is wrong"
    )]
    Clock { url: String, now: jiff::Timestamp, from: jiff::Timestamp, until: jiff::Timestamp },
    #[error("failed to reach the hub")]
    Dial(#[from] DialError),
    #[error("failed to fetch the CA of the hub at {url}")]
    Handshake {
        url: String,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the hub refused the token (401): it is unknown or has expired; make a new one with `selvedge token create`"
    )]
    TokenRefused,
    #[error("failed to request a certificate")]
    Request(#[source] ApiError),
    #[error("the hub {verdict} the certificate request {name}: {message}")]
    Denied { verdict: &'static str, name: String, message: String },
    #[error("the hub rejected this node's request for a certificate: {message}")]
    Rejected { message: String },
    #[error("nobody approved the certificate request {name} yet (`kubectl certificate approve {name}`)")]
    NotApproved { name: String },
    #[error("failed to make a key or a request")]
    Pki(#[from] base_pki::PkiError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl JoinError {
    /// Whether a person must change something before a retry can help.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::WrongCa { .. }
                | Self::NotVouchedFor { .. }
                | Self::Clock { .. }
                | Self::TokenRefused
                | Self::Denied { .. }
                | Self::Rejected { .. }
                | Self::Pki(_)
        )
    }
}

/// What joining needs.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "as in the configuration that they come from")]
pub struct Joiner {
    pub data_dir: PathBuf,
    pub node_name: String,
    pub hub_urls: Vec<String>,
    pub token: JoinToken,
    pub ca: Option<String>,
    /// A person waits for the end of the first join: a refusal is theirs to read, by `refused`, and is not logged as well.
    pub is_first: bool,
}

/// Tries until the node has an identity, which is then on disk; `None` when `shutdown` came first. A refusal is
/// published in `refused`, for a person who waits; trying continues, as the hub may be set right.
pub async fn join(
    joiner: Joiner,
    registry: StatusRegistry,
    refused: &watch::Sender<Option<String>>,
    shutdown: &CancellationToken,
) -> Option<Identity> {
    let mut retry = Retry::new(BACKOFF);
    loop {
        for url in &joiner.hub_urls {
            let attempt = tokio::select! {
                () = shutdown.cancelled() => return None,
                attempt = join_at(&joiner, url, shutdown) => attempt,
            };
            match attempt {
                Ok(identity) => {
                    info!(node = %joiner.node_name, %url, "Joined the hub.");
                    refused.send_replace(None);
                    return Some(identity);
                }
                Err(failure) => {
                    let text = chain(&failure);
                    registry.error(format!("join: {text}"));
                    if failure.is_refusal() {
                        if !joiner.is_first {
                            error!(%url, error = %text, "The hub and this node do not agree; trying again.");
                        }
                        refused.send_replace(Some(format!("{url}: {text}")));
                    } else {
                        warn!(%url, error = %text, "Failed to join the hub; trying again.");
                    }
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return None,
            _ = retry.pause() => {}
        }
    }
}

/// Joins again once the hub refuses this node's key, and tries for as long as it does: a hub whose clock was beyond the
/// certificate's end for a while takes it again, and a token may be used up. `None` when `shutdown` came first.
pub async fn join_again(
    hub: &ApiClient,
    known: Option<&Identity>,
    joiner: &Joiner,
    registry: &StatusRegistry,
    refusal: &watch::Sender<Option<String>>,
    shutdown: &CancellationToken,
) -> Option<Identity> {
    loop {
        // A hub ends the handshake of a certificate that has run out, so it never says that it refuses it.
        if !known.is_some_and(Identity::is_expired) {
            refused(hub.clone(), &joiner.node_name).await;
        }
        info!(node = %joiner.node_name, "The hub refuses this node's key; joining again with the token.");
        tokio::select! {
            joined = join(joiner.clone(), registry.clone(), refusal, shutdown) => return joined,
            () = accepted(hub.clone(), &joiner.node_name) => {
                info!(node = %joiner.node_name, "The hub accepts this node's key again.");
                refusal.send_replace(None);
            }
        }
    }
}

/// Ends when the hub answers a request that this node's key made.
async fn accepted(hub: ApiClient, node_name: &str) {
    // Whoever is reported that there is no such Node may ask.
    asked(hub, node_name, None, |code| matches!(code, Some(200 | 404))).await;
}

/// Ends when the hub answers that it refuses this node's key; never while it does not.
async fn refused(hub: ApiClient, node_name: &str) {
    // The hub closes the connections of a key that it refuses from now on: the next one shows it.
    asked(hub, node_name, Some(RENEWAL_RESYNC_PERIOD), |code| code == Some(401)).await;
}

/// Asks for this node's Node until the answer's code is one that ends it; there is none when the hub did not answer. Between two
/// tries it rests for a time, or as after a failure.
async fn asked(mut hub: ApiClient, node_name: &str, rest: Option<Duration>, is_end: impl Fn(Option<u16>) -> bool) {
    let path = format!("/api/v1/nodes/{node_name}");
    let mut retry = hub.retry();
    loop {
        hub.connected().await;
        retry.attempt();
        let code = match hub.get(&path, "Node").await {
            Ok(_) => Some(200),
            Err(error) => error.code(),
        };
        if is_end(code) {
            return;
        }
        match rest {
            Some(period) => retry.rest(period).await,
            None => retry.pause().await,
        };
    }
}

async fn join_at(joiner: &Joiner, url: &str, shutdown: &CancellationToken) -> Result<Identity, JoinError> {
    let ca_pem = match &joiner.ca {
        Some(ca) => {
            let found = base_pki::ca_fingerprint(ca)?;
            if found != joiner.token.ca_sha256 {
                let desired = joiner.token.ca_sha256.clone();
                return Err(JoinError::WrongCa { url: url.to_owned(), desired, found });
            }
            ca.clone()
        }
        None => fetch_ca(url, &joiner.token.ca_sha256).await?,
    };
    let mut tls = client_builder(&ca_pem)?.with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let access = Access { urls: vec![url.to_owned()], tls: Arc::new(tls), bearer: Some(joiner.token.bearer()) };

    let (hub, manager) = node_client::client();
    let (_access_tx, access_rx) = watch::channel(Some(access));
    let done = shutdown.child_token();
    let _closing = done.clone().drop_guard();
    let registry = StatusRegistry::new(&joiner.node_name);
    let keeping = tokio::spawn(async move { manager.run(access_rx, registry, done).await });
    let mut waiting = hub.clone();
    let connected = tokio::time::timeout(HANDSHAKE_TIMEOUT, waiting.connected()).await;
    let result = match connected {
        Ok(()) => client_certificate(&hub, &joiner.node_name).await,
        Err(_) => Err(JoinError::Request(ApiError::Unreachable)),
    };
    keeping.abort();
    let (cert_pem, key_pem) = result?;
    // The hub that was joined comes first; the others are kept for when it moves.
    let mut urls = vec![url.to_owned()];
    urls.extend(joiner.hub_urls.iter().filter(|other| *other != url).cloned());
    let identity = Identity::new(&joiner.node_name, urls, ca_pem, cert_pem, key_pem);
    identity.save(&joiner.data_dir)?;
    Ok(identity)
}

/// Asks for a client certificate of `node_name` over `hub`; answers certificate and key in PEM.
pub async fn client_certificate(hub: &ApiClient, node_name: &str) -> Result<(String, String), JoinError> {
    let cn = format!("system:node:{node_name}");
    request_certificate(hub, node_name, SIGNER_CLIENT, "client auth", &cn, &[]).await
}

/// Asks for a serving certificate of the kubelet; answers certificate and key in PEM.
pub async fn serving_certificate(
    hub: &ApiClient,
    node_name: &str,
    sans: &[San],
) -> Result<(String, String), JoinError> {
    let cn = format!("system:node:{node_name}");
    request_certificate(hub, node_name, SIGNER_SERVING, "server auth", &cn, sans).await
}

async fn request_certificate(
    hub: &ApiClient,
    node_name: &str,
    signer: &str,
    usage: &str,
    cn: &str,
    sans: &[San],
) -> Result<(String, String), JoinError> {
    let key = KeyPair::generate()?;
    let csr = base_pki::make_csr(&key, cn, &["system:nodes".to_owned()], sans)?;
    let name = format!("csr-{}", uuid::Uuid::new_v4().simple());
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name, "labels": {api_edge::LABEL_NODE: node_name}},
        "spec": {"request": BASE64.encode(&csr), "signerName": signer, "usages": ["digital signature", usage]},
    });
    let act = |error: ApiError| match error.code() {
        Some(401) => JoinError::TokenRefused,
        // The name may be none that a node can have; waiting does not change that.
        Some(403 | 422) => match error {
            ApiError::Status { message, .. } => {
                // `… "csr-…" is forbidden: REASON`: the request was never kept, so its name helps nobody.
                let reason =
                    message.split_once(&format!("{name:?} is forbidden: ")).map(|(_, reason)| reason.to_owned());
                JoinError::Rejected { message: reason.unwrap_or(message) }
            }
            other => JoinError::Request(other),
        },
        _ => JoinError::Request(error),
    };
    hub.create(CSRS, &object).await.map_err(act)?;
    let give_up = tokio::time::Instant::now() + APPROVAL_WAIT_MAX;
    let mut pauses = Backoff::new(POLL_PERIODS);
    while tokio::time::Instant::now() < give_up {
        match verdict(
            hub.get(&format!("{CSRS}/{name}"), "CertificateSigningRequest").await.map_err(act)?.field("status"),
        ) {
            Verdict::Issued(certificate) => return Ok((certificate, key.to_pem())),
            Verdict::Refused { verdict, message } => return Err(JoinError::Denied { verdict, name, message }),
            Verdict::Pending => tokio::time::sleep(pauses.next_delay()).await,
        }
    }
    Err(JoinError::NotApproved { name })
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Pending,
    Issued(String),
    Refused { verdict: &'static str, message: String },
}

/// What has become of a CertificateSigningRequest.
fn verdict(status: &Value) -> Verdict {
    for condition in status["conditions"].as_array().into_iter().flatten() {
        let verdict = match condition["type"].as_str() {
            Some("Denied") => "denied",
            Some("Failed") => "could not sign",
            _ => continue,
        };
        let message = condition["message"].as_str().unwrap_or("no reason given").to_owned();
        return Verdict::Refused { verdict, message };
    }
    let certificate = status["certificate"].as_str().and_then(|encoded| base64_text::decode(encoded).ok());
    match certificate.and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(pem) if !pem.is_empty() => Verdict::Issued(pem),
        _ => Verdict::Pending,
    }
}

/// Renews the certificate at three quarters of its life, again and again, until `shutdown`.
pub async fn renew(
    mut hub: ApiClient,
    data_dir: PathBuf,
    identity: Arc<watch::Sender<Option<Arc<Identity>>>>,
    registry: StatusRegistry,
    shutdown: CancellationToken,
) {
    let mut changed = identity.subscribe();
    let mut retry = hub.retry_by(RENEWAL_BACKOFF);
    loop {
        let current = changed.borrow_and_update().clone();
        let wait = match current.as_deref().map(Identity::renew_at) {
            Some(Ok(at)) => {
                let left = at.saturating_sub(jiff::Timestamp::now().as_second());
                Duration::from_secs(u64::try_from(left).unwrap_or(0))
            }
            // An unreadable certificate would have been refused at the start.
            Some(Err(_)) | None => RENEWAL_RESYNC_PERIOD,
        };
        if let (Some(current), true) = (current, wait.is_zero()) {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = hub.connected() => {}
            }
            retry.attempt();
            let result = client_certificate(&hub, &current.node_name).await.and_then(|(cert_pem, key_pem)| {
                let next = Identity { cert_pem, key_pem, ..(*current).clone() };
                next.save(&data_dir)?;
                Ok(next)
            });
            match result {
                Ok(next) => {
                    info!("Renewed the node's certificate.");
                    retry.succeeded();
                    identity.send_replace(Some(Arc::new(next)));
                    continue;
                }
                Err(failure) => {
                    let text = chain(&failure);
                    if retry.failures() == 0 {
                        warn!(error = %text, "Failed to renew the node's certificate; trying again.");
                    }
                    registry.error(format!("certificate: {text}"));
                }
            }
        }
        let pause = async {
            if wait.is_zero() {
                retry.pause().await;
            } else {
                tokio::time::sleep(wait.min(RENEWAL_RESYNC_PERIOD)).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = pause => {}
            changed = changed.changed() => if changed.is_err() { return },
        }
    }
}

/// Connects to the hub and answers the CA certificate (PEM) in its chain whose SHA-256 is `desired`, after checking that it
/// vouches for the hub's certificate under the URL's name.
pub async fn fetch_ca(url: &str, desired: &str) -> Result<String, JoinError> {
    let address = HubAddress::parse(url)?;
    let pin = PinnedCa::new(desired);
    let tls = pin.client_config().map_err(IdentityError::from)?;
    let handshake = async {
        let tcp = TcpStream::connect((address.host.as_str(), address.port)).await?;
        TlsConnector::from(Arc::new(tls)).connect(address.server_name.clone(), tcp).await
    };
    let result = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    let seen = pin.take();
    let url = url.to_owned();
    match (seen, result) {
        (Some(Err(PinError::WrongCa { found })), _) => {
            Err(JoinError::WrongCa { url, desired: desired.to_owned(), found })
        }
        (Some(Err(PinError::NotVouchedFor { reason })), _) => Err(JoinError::NotVouchedFor { url, reason }),
        (Some(Err(PinError::Clock { from, until })), _) => {
            // A time beyond the calendar is no certificate's; its end serves as well.
            let time = |second| jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::MAX);
            Err(JoinError::Clock { url, now: jiff::Timestamp::now(), from: time(from), until: time(until) })
        }
        (Some(Ok(ca)), Ok(_)) => Ok(base_pki::certificate_pem(&ca)),
        (_, Err(source)) => Err(JoinError::Handshake { url, source }),
        (None, Ok(_)) => Err(JoinError::Handshake { url, source: std::io::ErrorKind::InvalidData.into() }),
    }
}

#[cfg(test)]
mod tests;
