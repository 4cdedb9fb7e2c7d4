//! Who is calling: authenticators, asked in order, each for one kind of credential.
//!
//! A server is given a list of them ([`crate::ServerConfig::authenticators`]); the first that recognises its kind of
//! credential decides. Service accounts and OIDC become further entries of the list. [`CertificateAuthenticator`] and
//! [`BootstrapTokenAuthenticator`] are here because every Kubernetes API has them; who is *still* welcome (revoked keys,
//! deleted nodes) is policy of whoever embeds the server.

mod bootstrap;

use std::collections::BTreeMap;

use http::{HeaderMap, header};
use machinery_store::Store;

use crate::{
    GROUP_AUTHENTICATED, GROUP_MASTERS, GROUP_NODES, GROUP_UNAUTHENTICATED, USER_ANONYMOUS, USER_CONTROLLERS,
    USER_NODE_PREFIX, USER_SERVICE_ACCOUNT_PREFIX,
};

pub use bootstrap::BootstrapTokenAuthenticator;

/// Key of [`Identity::extra`] under which the key of a node's client certificate is kept, as SHA-256 of its public key in hex:
/// what a node is bound to. The server alone sets it; who speaks in a node's name without being it has none.
pub const EXTRA_KEY_SHA256: &str = "selvedge.dev/key-sha256";

/// Key of [`Identity::extra`] under which Kubernetes names the credential that a caller has shown.
const EXTRA_CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// A caller: Kubernetes' `UserInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its name, such as `system:node:gw-1`.
    pub user: String,
    /// What keeps two callers of the same name apart over time; empty for most.
    pub uid: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// What else its authenticator knows, for authorizers and audit.
    pub extra: BTreeMap<String, Vec<String>>,
    /// For which of the requested audiences its credential is good; empty when it is bound to none, and good for the API.
    pub audiences: Vec<String>,
}

impl Identity {
    /// A caller with these groups, and that of all who are known.
    pub fn new(user: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|group| group == GROUP_AUTHENTICATED) {
            groups.push(GROUP_AUTHENTICATED.to_owned());
        }
        Self { user: user.into(), groups, ..Self::default() }
    }

    /// Controllers of the same program, which may do everything.
    pub fn controllers() -> Self {
        Self::new(USER_CONTROLLERS, [GROUP_MASTERS])
    }

    /// A caller whose identity is not known.
    pub fn anonymous() -> Self {
        let groups = vec![GROUP_UNAUTHENTICATED.to_owned()];
        Self { user: USER_ANONYMOUS.to_owned(), groups, ..Self::default() }
    }

    /// Namespace and name, when the caller is a service account.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        split_service_account(&self.user)
    }

    /// Whether it belongs to a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one == group)
    }

    /// The node's name, when the caller is a node.
    pub fn node_name(&self) -> Option<&str> {
        self.user.strip_prefix(USER_NODE_PREFIX).filter(|name| !name.is_empty() && self.is_in(GROUP_NODES))
    }

    /// The first value of an extra.
    pub fn extra(&self, key: &str) -> Option<&str> {
        self.extra.get(key).and_then(|values| values.first()).map(String::as_str)
    }
}

/// Namespace and name in a user's name that is a service account's.
pub(crate) fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(USER_SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    (machinery_kinds::is_dns_label(namespace) && machinery_kinds::is_dns_subdomain(name)).then_some((namespace, name))
}

/// What an authenticator may look at.
#[derive(Clone, Copy)]
pub struct AuthRequest<'a> {
    /// The client certificate (DER), when the caller has shown one; its chain has been verified.
    pub client_cert: Option<&'a [u8]>,
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// Where tokens and bindings are kept.
    pub store: &'a Store,
    /// Now, for expirations.
    pub now: jiff::Timestamp,
    /// For whom the credential has to be good, when a TokenReview asks in another's name; `None` for the API itself.
    pub audiences: Option<&'a [String]>,
}

impl AuthRequest<'_> {
    /// The bearer token; `Some("")` when the header is there and is not one.
    pub fn bearer(&self) -> Option<&str> {
        let value = self.headers.get(header::AUTHORIZATION)?;
        let token = value.to_str().ok().and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        Some(token.unwrap_or_default())
    }
}

/// Why a caller is not who it says it is; the answer is `401 Unauthorized`.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct AuthenticateError {
    /// A sentence for the caller and the log; empty to say nothing.
    pub reason: String,
    /// What a TokenReview says of a token that is not good; whoever shows it reads nothing of that.
    pub review: String,
}

impl AuthenticateError {
    /// An error that says why.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), review: String::new() }
    }

    /// An error that only a TokenReview explains.
    pub fn of_token(review: impl Into<String>) -> Self {
        Self { reason: String::new(), review: review.into() }
    }
}

/// Recognises one kind of credential.
pub trait Authenticator: Send + Sync {
    /// Who calls; `None` when the request carries no credential of this kind.
    ///
    /// # Errors
    /// When it carries one that is not good. Others are not asked then: who shows something false is rejected, not
    /// treated as nobody.
    fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Option<Identity>, AuthenticateError>;
}

/// Client certificates as Kubernetes reads them: the common name is the user, the organisations are the groups. One that has
/// expired is refused on a connection that it opened earlier, too.
#[derive(Clone, Copy, Debug, Default)]
pub struct CertificateAuthenticator;

impl Authenticator for CertificateAuthenticator {
    fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Option<Identity>, AuthenticateError> {
        let Some(certificate) = request.client_cert else { return Ok(None) };
        let client = base_pki::client_identity(certificate)
            .map_err(|_| AuthenticateError::new("the client certificate cannot be read"))?;
        // From when it is valid is the handshake's affair: a box without a clock may be behind at times.
        if client.not_after < request.now.as_second() {
            let expired = jiff::Timestamp::from_second(client.not_after)
                .map_or_else(|_| "long ago".to_owned(), |at| format!("at {at}"));
            return Err(AuthenticateError::new(format!("the client certificate expired {expired}; renew it")));
        }
        if client.user.is_empty() {
            return Err(AuthenticateError::new("the client certificate names no user"));
        }
        let mut identity = Identity::new(client.user, client.groups);
        identity.extra.insert(EXTRA_CREDENTIAL.to_owned(), vec![format!("X509SHA256={}", client.certificate_sha256)]);
        if identity.node_name().is_some() {
            identity.extra.insert(EXTRA_KEY_SHA256.to_owned(), vec![client.key_sha256]);
        }
        Ok(Some(identity))
    }
}

/// Asks the authenticators in order; `Ok(None)` for a caller that shows nothing.
pub(crate) fn authenticate(
    authenticators: &[std::sync::Arc<dyn Authenticator>],
    request: &AuthRequest<'_>,
) -> Result<Option<Identity>, AuthenticateError> {
    for authenticator in authenticators {
        if let Some(identity) = authenticator.authenticate(request)? {
            return Ok(Some(identity));
        }
    }
    match request.bearer() {
        // A token that nobody recognises is a false one.
        Some(_) => Err(AuthenticateError::default()),
        None => Ok(None),
    }
}
