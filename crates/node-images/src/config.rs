//! What a node says about registries.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

/// How registries are reached.
///
/// ```
/// let config: node_images::RegistriesConfig = serde_json::from_value(serde_json::json!({
///     "mirrors": {"docker.io": ["https://mirror.plant.example:5000"]},
///     "caFile": "/etc/selvedge/registry-ca.pem",
///     "plainHttp": ["localhost:5000"],
///     "credentials": {"quay.io": {"username": "robot", "password": "secret"}},
///     "parallelLayers": 3,
///     "bytesPerSecondMax": 1_000_000,
/// })).unwrap();
/// assert_eq!(config.parallel_layers, 3);
/// ```
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RegistriesConfig {
    /// For a registry (`docker.io`, `quay.io:443`), URLs that are asked before it, in their order. A mirror serves the same
    /// repositories under the same names; what it does not have, the registry is asked for.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Certificates (PEM) that are trusted beside those of the system: those of a private CA.
    pub ca_file: Option<PathBuf>,
    /// Hosts (`HOST` or `HOST:PORT`) that are spoken to without TLS. Whoever is between can then read the credentials and
    /// replace images that are named by tag.
    pub plain_http: Vec<String>,
    /// By host (`HOST` or `HOST:PORT`): with whom to log in where a pod brings no secret of its own.
    pub credentials: BTreeMap<String, Login>,
    /// Layers of one image that are downloaded at once.
    pub parallel_layers: usize,
    /// Bytes a second that all downloads together may take; without it there is no limit.
    pub bytes_per_second_max: Option<u64>,
}

impl Default for RegistriesConfig {
    fn default() -> Self {
        Self {
            mirrors: BTreeMap::new(),
            ca_file: None,
            plain_http: Vec::new(),
            credentials: BTreeMap::new(),
            // Enough to fill a line while one of them waits for the disk; each more costs a decompressor's memory.
            parallel_layers: 3,
            bytes_per_second_max: None,
        }
    }
}

/// A name and a password.
#[derive(Clone, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Login {
    /// Who logs in.
    pub username: String,
    /// With what.
    pub password: String,
}

impl fmt::Debug for Login {
    /// Without the password: configurations end up in logs.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}
