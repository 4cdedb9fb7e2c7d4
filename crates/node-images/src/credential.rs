//! Logins for registries, as Kubernetes' secrets have them.
//!
//! `kubernetes.io/dockerconfigjson` holds `{"auths": {KEY: …}}`, the older `kubernetes.io/dockercfg` the inner object alone. A
//! key is a host with an optional port and path, in which `*` is any part of the host; the longest key that fits comes
//! first, as in the kubelet.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use crate::Reference;
use crate::config::Login;
use crate::reference::DEFAULT_REGISTRY;

/// Kubernetes takes no larger secrets.
const CONFIG_BYTES_MAX: usize = 1 << 20;

/// With what a registry is logged into.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Name and password, which a registry may want to exchange for a token.
    Basic {
        /// Who.
        username: String,
        /// With what.
        password: String,
    },
    /// A long-lived token that is exchanged for a short-lived one.
    Identity(String),
    /// A token that the registry takes as it is.
    Bearer(String),
}

/// Why a secret holds no logins.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// Not JSON, or of another form.
    #[error("the secret is no docker configuration")]
    Json(#[source] serde_json::Error),
    /// Larger than a secret can be.
    #[error("the secret has more than 1 MiB")]
    TooLarge,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Credential {
    /// The logins of a secret that fit an image, the most specific first.
    ///
    /// ```
    /// use node_images::{Credential, Reference};
    /// let secret = br#"{"auths": {"quay.io": {"username": "u", "password": "p"}}}"#;
    /// let image = Reference::parse("quay.io/org/app").unwrap();
    /// assert_eq!(Credential::from_docker_config(secret, &image).unwrap().len(), 1);
    /// let image = Reference::parse("busybox").unwrap();
    /// assert!(Credential::from_docker_config(secret, &image).unwrap().is_empty());
    /// ```
    pub fn from_docker_config(bytes: &[u8], image: &Reference) -> Result<Vec<Self>, CredentialError> {
        #[derive(Deserialize)]
        struct Modern {
            auths: BTreeMap<String, Auth>,
        }
        if bytes.len() > CONFIG_BYTES_MAX {
            return Err(CredentialError::TooLarge);
        }
        let auths = match serde_json::from_slice::<Modern>(bytes) {
            Ok(modern) => modern.auths,
            Err(error) => match serde_json::from_slice(bytes) {
                Ok(legacy) => legacy,
                Err(_) => return Err(CredentialError::Json(error)),
            },
        };
        let fitting = auths.iter().rev().filter(|(key, _)| fits(key, image));
        Ok(fitting.filter_map(|(_, auth)| auth.credential()).collect())
    }
}

impl From<&Login> for Credential {
    fn from(login: &Login) -> Self {
        Self::Basic { username: login.username.clone(), password: login.password.clone() }
    }
}

impl fmt::Debug for Credential {
    /// Who, never with what.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(formatter, "Basic({username})"),
            Self::Identity(_) => formatter.write_str("Identity"),
            Self::Bearer(_) => formatter.write_str("Bearer"),
        }
    }
}

impl Auth {
    fn credential(&self) -> Option<Credential> {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = filled(&self.registrytoken) {
            return Some(Credential::Bearer(token));
        }
        if let Some(token) = filled(&self.identitytoken) {
            return Some(Credential::Identity(token));
        }
        // `auth` is both in one; a broken one is no login.
        if let Some(auth) = filled(&self.auth) {
            let decoded = BASE64_STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok())?;
            let (username, password) = decoded.split_once(':')?;
            // Docker pads it with zeros on Windows.
            let password = password.trim_end_matches('\0').to_owned();
            return Some(Credential::Basic { username: username.to_owned(), password });
        }
        let username = filled(&self.username)?;
        Some(Credential::Basic { username, password: self.password.clone().unwrap_or_default() })
    }
}

/// Whether a key of a docker configuration is for the registry, and the part of it, of an image.
fn fits(key: &str, image: &Reference) -> bool {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    // The address of the registry's API, as `docker login` writes it for Docker Hub.
    let path = path.trim_end_matches('/');
    let path = path.strip_prefix("v1").or_else(|| path.strip_prefix("v2")).unwrap_or(path).trim_start_matches('/');
    let is_beneath = image.repository() == path
        || path.is_empty()
        || image.repository().strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    let is_docker_hub = matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    let is_host = if is_docker_hub { image.registry() == DEFAULT_REGISTRY } else { fits_host(host, image.registry()) };
    is_host && is_beneath
}

fn fits_host(pattern: &str, host: &str) -> bool {
    let split = |text: &'_ str| {
        text.rsplit_once(':').map_or((text.to_owned(), None), |(host, port)| (host.to_owned(), Some(port.to_owned())))
    };
    let ((pattern, pattern_port), (host, port)) = (split(pattern), split(host));
    let parts = |text: &str| text.split('.').map(str::to_ascii_lowercase).collect::<Vec<_>>();
    let (pattern, host) = (parts(&pattern), parts(&host));
    pattern_port == port
        && pattern.len() == host.len()
        && pattern.iter().zip(&host).all(|(pattern, part)| fits_part(pattern.as_bytes(), part.as_bytes()))
}

/// One part of a host name; `*` is any number of characters.
fn fits_part(pattern: &[u8], part: &[u8]) -> bool {
    let Some(star) = pattern.iter().position(|byte| *byte == b'*') else { return pattern == part };
    let (before, after) = (&pattern[..star], &pattern[star + 1..]);
    let Some(rest) = part.strip_prefix(before) else { return false };
    // More than one star in a part of 63 bytes: trying each end is quick enough.
    (0..=rest.len()).any(|at| fits_part(after, &rest[at..]))
}

#[cfg(test)]
mod tests;
