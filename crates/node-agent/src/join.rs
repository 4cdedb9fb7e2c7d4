//! From a token to a certificate, and from one certificate to the next.
//!
//! Two parties prove themselves: the hub by a CA, the node by the token's bootstrap secret. Which CA that is says the configuration,
//! the hash that the token carries, or, for a token of a stock cluster, what the cluster has signed with it (`discovery`). The node
//! then requests its certificate by a CertificateSigningRequest, as any kubelet does (`certificate`), and later renews it the same
//! way with the certificate it has. Nothing is tried a bounded number of times: a gateway
//! is often switched on before its link works.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base_pki::{JoinToken, PinError, PinnedCa};
use base_retry::{BackoffLaw, Retry};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::identity::{Identity, IdentityError, client_builder};
use node_client::{Access, ApiClient, ApiError, BACKOFF, DialError, HubAddress, StatusRegistry, chain};

mod certificate;
mod discovery;

pub use certificate::Requester;

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
    #[error(
        "the CA of the cluster at {url} is not known: {reason}; give it with --ca, or make another token (`kubeadm token create`)"
    )]
    Discovery { url: String, reason: String },
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
                | Self::Discovery { .. }
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
    /// The key of the box that it has been under this name.
    pub key_pem: Option<String>,
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
    // One box, one key: an attempt whose answer was lost is not a second box of this name.
    let key_pem = joiner.key_pem.clone().or_else(|| base_pki::KeyPair::generate().ok().map(|key| key.to_pem()));
    let mut requester = Requester::client(&joiner.node_name, key_pem);
    loop {
        for url in &joiner.hub_urls {
            let attempt = tokio::select! {
                () = shutdown.cancelled() => return None,
                attempt = join_at(&joiner, url, &mut requester) => attempt,
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
    // A key whose certificate ran out is as good as it was; one that the hub refuses was stolen, or its Node deleted.
    let key_pem = known.filter(|known| known.is_expired()).map(|known| known.key_pem.clone());
    let again = Joiner { key_pem, ..joiner.clone() };
    loop {
        // A hub ends the handshake of a certificate that has run out, so it never says that it refuses it.
        if !known.is_some_and(Identity::is_expired) {
            refused(hub.clone(), &joiner.node_name).await;
        }
        info!(node = %joiner.node_name, "The hub refuses this node's key; joining again with the token.");
        tokio::select! {
            joined = join(again.clone(), registry.clone(), refusal, shutdown) => return joined,
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

async fn join_at(joiner: &Joiner, url: &str, requester: &mut Requester) -> Result<Identity, JoinError> {
    let ca_pem = trusted_ca(joiner, url).await?;
    let tls = client_builder(&ca_pem)?.with_no_client_auth();
    let bearer = Some(joiner.token.bearer());
    let (cert_pem, key_pem) = over(url, tls, bearer, async |hub| requester.certificate(hub, &[]).await).await??;
    // The hub that was joined comes first; the others are kept for when it moves.
    let mut urls = vec![url.to_owned()];
    urls.extend(joiner.hub_urls.iter().filter(|other| *other != url).cloned());
    let identity = Identity::new(&joiner.node_name, urls, ca_pem, cert_pem, key_pem);
    identity.save(&joiner.data_dir)?;
    Ok(identity)
}

/// The CA that the hub at `url` has proved to have: that of the configuration, of the token's hash, or of the cluster's own word.
async fn trusted_ca(joiner: &Joiner, url: &str) -> Result<String, JoinError> {
    let ca = match (&joiner.ca, &joiner.token.ca_sha256) {
        (None, Some(desired)) => return fetch_ca(url, desired).await,
        (None, None) => discovery::cluster_ca(url, &joiner.token).await?,
        (Some(ca), None) => ca.clone(),
        (Some(ca), Some(desired)) => {
            let found = base_pki::ca_fingerprint(ca)?;
            if !base_pki::certificates(ca)?.iter().any(|one| base_pki::fingerprint_of_der(one) == *desired) {
                return Err(JoinError::WrongCa { url: url.to_owned(), desired: desired.clone(), found });
            }
            ca.clone()
        }
    };
    // Before the token is sent, and for what is wrong with a message of its own.
    handshake(url, &PinnedCa::of_bundle(&ca)?, "").await?;
    Ok(ca)
}

/// Uses a connection of its own to the hub at `url`, which ends with it.
async fn over<T>(
    url: &str,
    mut tls: rustls::ClientConfig,
    bearer: Option<String>,
    act: impl AsyncFnOnce(&ApiClient) -> T,
) -> Result<T, JoinError> {
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let access = Access { urls: vec![url.to_owned()], tls: Arc::new(tls), bearer };
    let (hub, manager) = node_client::client();
    let (_access_tx, access_rx) = watch::channel(Some(access));
    let done = CancellationToken::new();
    let _closing = done.clone().drop_guard();
    let registry = StatusRegistry::new("");
    let keeping = tokio::spawn(async move { manager.run(access_rx, registry, done).await });
    let mut waiting = hub.clone();
    let result = match tokio::time::timeout(HANDSHAKE_TIMEOUT, waiting.connected()).await {
        Ok(()) => Ok(act(&hub).await),
        Err(_) => Err(JoinError::Request(ApiError::Unreachable)),
    };
    keeping.abort();
    result
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
    let mut requester: Option<Requester> = None;
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
            let requester = requester.get_or_insert_with(|| Requester::client(&current.node_name, None));
            let result = requester.certificate(&hub, &[]).await.and_then(|(cert_pem, key_pem)| {
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
    let ca = handshake(url, &PinnedCa::new(desired), desired).await?;
    Ok(base_pki::certificate_pem(&ca))
}

/// One handshake with the hub at `url`, for what it shows: the CA that vouches for it.
async fn handshake(url: &str, pin: &Arc<PinnedCa>, desired: &str) -> Result<CertificateDer<'static>, JoinError> {
    let address = HubAddress::parse(url)?;
    let tls = pin.client_config().map_err(IdentityError::from)?;
    let shaking = async {
        let tcp = TcpStream::connect((address.host.as_str(), address.port)).await?;
        TlsConnector::from(Arc::new(tls)).connect(address.server_name.clone(), tcp).await
    };
    let result = tokio::time::timeout(HANDSHAKE_TIMEOUT, shaking)
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
        (Some(Ok(ca)), Ok(_)) => Ok(ca),
        (_, Err(source)) => Err(JoinError::Handshake { url, source }),
        (None, Ok(_)) => Err(JoinError::Handshake { url, source: std::io::ErrorKind::InvalidData.into() }),
    }
}

#[cfg(test)]
mod tests;
