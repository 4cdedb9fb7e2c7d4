//! Bootstrap tokens: Secrets `bootstrap-token-<id>` in kube-system, as Kubernetes defines them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use api_kube::base64_text;
use machinery_store::{Key, Object, Revision};
use serde_json::Value;
use subtle::ConstantTimeEq as _;

use super::{AuthRequest, AuthenticateError, Authenticator, Identity};
use crate::GROUP_BOOTSTRAPPERS;
use crate::object::{is_terminating, text_at};

/// Type of the Secrets that hold bootstrap tokens.
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";

/// Tokens kept decoded: more than an administrator has at a time. When there are more, decoding begins anew.
const CACHED_MAX: usize = 1024;

/// Recognises bearers of bootstrap tokens. A token's Secret is decoded once for each of its versions, not per request.
#[derive(Debug, Default)]
pub struct BootstrapTokenAuthenticator {
    cache: Mutex<HashMap<Box<str>, Cached>>,
}

/// A decoded token, good as long as its Secret is at this revision.
#[derive(Debug)]
struct Cached {
    revision: Revision,
    token: Arc<Token>,
}

/// What a Secret says of a token.
struct Token {
    id: String,
    secret: String,
    /// Whether its Secret is one of a token that may be used to call the API.
    is_usable: bool,
    /// `Some(None)`: an expiration that cannot be read, which counts as past.
    expiration: Option<Option<jiff::Timestamp>>,
    groups: Vec<String>,
}

impl std::fmt::Debug for Token {
    /// Leaves the secret out: a cache may end up in a log.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Authenticator for BootstrapTokenAuthenticator {
    fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Option<Identity>, AuthenticateError> {
        let Some((id, secret)) = request.bearer().and_then(split) else { return Ok(None) };
        let key = Key::new("/secrets", "kube-system", &format!("bootstrap-token-{id}"));
        let stored = request.store.get(&key).ok_or_else(AuthenticateError::default)?;
        let token = self.decoded(id, &stored);
        let is_good = token.is_usable
            && token.id == id
            && bool::from(token.secret.as_bytes().ct_eq(secret.as_bytes()))
            && token.expiration.is_none_or(|time| time.is_some_and(|expiration| expiration > request.now));
        if !is_good {
            return Err(AuthenticateError::default());
        }
        Ok(Some(Identity::new(format!("system:bootstrap:{id}"), token.groups.iter().cloned())))
    }
}

impl BootstrapTokenAuthenticator {
    fn decoded(&self, id: &str, stored: &Object) -> Arc<Token> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = cache.get(id).filter(|cached| cached.revision == stored.revision) {
            return cached.token.clone();
        }
        let token = Arc::new(Token::decode(stored));
        if cache.len() >= CACHED_MAX {
            cache.clear();
        }
        cache.insert(id.into(), Cached { revision: stored.revision, token: token.clone() });
        token
    }
}

impl Token {
    fn decode(stored: &Object) -> Self {
        let secret: Value = serde_json::from_slice(&stored.bytes).unwrap_or_default();
        let data = |key: &str| {
            let encoded = secret.get("data")?.get(key)?.as_str()?;
            String::from_utf8(base64_text::decode(encoded).ok()?).ok()
        };
        let extra = data("auth-extra-groups").unwrap_or_default();
        let extra: BTreeSet<&str> = extra.split(',').filter(|group| !group.is_empty()).collect();
        // A group that a token may not have makes the whole of it worthless, as in Kubernetes.
        let are_good = extra.iter().all(|group| is_group(group));
        let groups = std::iter::once(GROUP_BOOTSTRAPPERS).chain(extra).map(str::to_owned).collect();
        Self {
            is_usable: are_good
                && text_at(&secret, "/type") == SECRET_TYPE
                && !is_terminating(&secret)
                && data("usage-bootstrap-authentication").as_deref() == Some("true"),
            id: data("token-id").unwrap_or_default(),
            secret: data("token-secret").unwrap_or_default(),
            expiration: data("expiration").map(|time| time.parse().ok()),
            groups,
        }
    }
}

/// Whether a bootstrap token may put its bearer into this group.
fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let is_end = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    rest.len() <= 256
        && rest.bytes().all(|byte| is_end(byte) || matches!(byte, b':' | b'-'))
        && rest.bytes().last().is_some_and(is_end)
}

/// Id and secret of a bearer token that has a bootstrap token's form.
fn split(token: &str) -> Option<(&str, &str)> {
    let is_part = |text: &str, len| {
        text.len() == len && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    token.split_once('.').filter(|(id, secret)| is_part(id, 6) && is_part(secret, 16))
}
