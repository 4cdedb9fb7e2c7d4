//! Who is calling: by client certificate, or by bootstrap token.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use machinery_store::{Key, Store};
use serde_json::Value;

use crate::object::text_at;
use crate::status::{ApiError, Result};
use crate::{GROUP_AUTHENTICATED, GROUP_BOOTSTRAPPERS, GROUP_MASTERS, USER_CONTROLLERS, USER_NODE_PREFIX};

/// Type of the Secrets that hold bootstrap tokens.
const BOOTSTRAP_SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name, such as `system:node:gw-1`.
    pub user: String,
    /// Its groups.
    pub groups: Vec<String>,
}

impl Identity {
    /// A caller with these groups, and that of all who are known.
    pub fn new(user: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|group| group == GROUP_AUTHENTICATED) {
            groups.push(GROUP_AUTHENTICATED.to_owned());
        }
        Self { user: user.into(), groups }
    }

    /// The hub's own controllers, which may do everything.
    pub fn controllers() -> Self {
        Self::new(USER_CONTROLLERS, [GROUP_MASTERS])
    }

    /// Whether it belongs to a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one == group)
    }

    /// The node's name, when the caller is a node.
    pub fn node_name(&self) -> Option<&str> {
        self.user.strip_prefix(USER_NODE_PREFIX).filter(|name| !name.is_empty() && self.is_in(crate::GROUP_NODES))
    }
}

/// Who calls, by certificate, else by token; `None` when the caller does not say.
pub(crate) fn authenticate(
    store: &Store,
    client_cert: Option<&[u8]>,
    headers: &HeaderMap,
    now: jiff::Timestamp,
) -> Result<Option<Identity>> {
    if let Some(certificate) = client_cert {
        let identity = base_pki::client_identity(certificate).map_err(|_| ApiError::unauthorized())?;
        if identity.user.is_empty() {
            return Err(ApiError::unauthorized());
        }
        return Ok(Some(Identity::new(identity.user, identity.groups)));
    }
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    // Whoever shows something that is not good is refused, not treated as nobody.
    token.and_then(|token| bootstrap_token(store, token, now)).map(Some).ok_or_else(ApiError::unauthorized)
}

/// The bearer of a bootstrap token, whose Secret is `bootstrap-token-<id>` in kube-system.
fn bootstrap_token(store: &Store, token: &str, now: jiff::Timestamp) -> Option<Identity> {
    let (id, secret) = token.split_once('.')?;
    let is_part = |text: &str, len| {
        text.len() == len && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    if !is_part(id, 6) || !is_part(secret, 16) {
        return None;
    }
    let object = store.get(&Key::new("/secrets", "kube-system", &format!("bootstrap-token-{id}")))?;
    let stored: Value = serde_json::from_slice(&object.bytes).ok()?;
    let data = |key: &str| {
        let encoded = stored.get("data")?.get(key)?.as_str()?;
        String::from_utf8(STANDARD.decode(encoded).ok()?).ok()
    };
    let is_good = text_at(&stored, "/type") == BOOTSTRAP_SECRET_TYPE
        && !crate::object::is_terminating(&stored)
        && data("token-id").as_deref() == Some(id)
        && data("token-secret").is_some_and(|held| equal_in_constant_time(held.as_bytes(), secret.as_bytes()))
        && data("usage-bootstrap-authentication").as_deref() == Some("true")
        && match data("expiration") {
            None => true,
            Some(time) => time.parse::<jiff::Timestamp>().is_ok_and(|expiration| expiration > now),
        };
    let extra = data("auth-extra-groups").unwrap_or_default();
    let extra = extra.split(',').map(str::trim).filter(|group| group.starts_with("system:bootstrappers:"));
    let groups = std::iter::once(GROUP_BOOTSTRAPPERS).chain(extra);
    is_good.then(|| Identity::new(format!("system:bootstrap:{id}"), groups))
}

/// How long it takes must not tell how much of a secret was right.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}
