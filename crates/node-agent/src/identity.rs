//! Who this node is: its certificate, its key, and the hubs that know it.
//!
//! All of it is one file, `DATA_DIR/node/pki/identity.json` (0600), replaced as a whole: after a power cut the node is
//! what it was before or what it became, never half of both. It has a checksum, and a copy beside it: no token may be at hand, and
//! nobody to bring one, when a sector of the disk is lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use node_client::Access;

/// Format of `identity.json`. Files of version 1 have no checksum.
const VERSION: u32 = 2;
/// Key of the checksum: SHA-256 of the object without it.
const CHECKSUM: &str = "sha256";
/// Three PEM texts and some URLs; anything larger is not ours.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// What a joined node keeps.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Identity {
    /// Format of the file; 2.
    pub version: u32,
    /// Name of the Node object that the certificate speaks for.
    pub node_name: String,
    /// Hubs to call, in order of preference.
    pub hub_urls: Vec<String>,
    /// CA bundle that the hubs' certificates lead to, PEM.
    pub ca_pem: String,
    /// The node's client certificate, PEM.
    pub cert_pem: String,
    /// Its private key, PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    /// Leaves the key out: identities end up in logs.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Identity")
            .field("node_name", &self.node_name)
            .field("hub_urls", &self.hub_urls)
            .finish_non_exhaustive()
    }
}

/// Why the node's identity could not be read, kept or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file is there but cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what this program writes.
    #[error("failed to understand {}: {reason}; to join again, remove it and give a token", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file was written by a later version of this program.
    #[error("{} has version {found}, this program knows {VERSION}; run the newer program again", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// The data directory belongs to another node.
    #[error(
        "this data directory belongs to node `{found}`, not `{desired}`; give the old name, choose another directory with --data-dir, or remove the node's state with `selvedge reset`"
    )]
    OtherNode {
        /// Whose it is.
        found: String,
        /// What the configuration says.
        desired: String,
    },
    /// The data directory belongs to a node of another hub.
    #[error(
        "this data directory belongs to node `{node}` of the hub {hub}, and {given} of another hub, whose CA has the SHA-256 {desired}; choose another directory with --data-dir, or, to take this node to the other hub, stop its pods and remove its state with `selvedge reset` first"
    )]
    OtherHub {
        /// The node that joined.
        node: String,
        /// Name, fingerprint and addresses of the hub that it joined.
        hub: String,
        /// What speaks of another hub: `the token is`.
        given: &'static str,
        /// SHA-256 of the other hub's CA.
        desired: String,
    },
    /// The file could not be written.
    #[error("failed to keep the node's identity")]
    Write(#[source] base_pki::WriteFileError),
    /// The certificates or the key cannot be used.
    #[error("failed to use the node's certificate or its CA")]
    Pki(#[from] base_pki::PkiError),
    /// TLS refuses the pair of certificate and key.
    #[error("failed to set up TLS with the node's certificate")]
    Tls(#[from] rustls::Error),
}

impl IdentityError {
    /// Whether the file was damaged, and not meant for another program or another node: what is in it is lost anyway.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Parse { .. } | Self::Pki(_) | Self::Tls(_))
    }
}

impl Identity {
    /// Where the identity of the node of this data directory is kept.
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("node/pki/identity.json")
    }

    fn copy_path(data_dir: &Path) -> PathBuf {
        data_dir.join("node/pki/identity.copy.json")
    }

    /// Reads it, or its copy where it is damaged or lost; `None` when the node has not joined yet.
    pub fn load(data_dir: &Path) -> Result<Option<Self>, IdentityError> {
        match Self::read(Self::path(data_dir)) {
            Ok(Some(identity)) => Ok(Some(identity)),
            none => Self::read(Self::copy_path(data_dir)).ok().flatten().map_or(none, |copy| Ok(Some(copy))),
        }
    }

    /// Whether both files are there, and the same.
    pub fn is_kept_twice(&self, data_dir: &Path) -> bool {
        let is_this = |path| Self::read(path).is_ok_and(|found| found.as_ref() == Some(self));
        is_this(Self::path(data_dir)) && is_this(Self::copy_path(data_dir))
    }

    fn read(path: PathBuf) -> Result<Option<Self>, IdentityError> {
        let bytes = match read_bounded(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::Read { path, source }),
        };
        parse(&bytes, &path).map(Some)
    }

    /// Writes it and its copy; on disk when this returns.
    pub fn save(&self, data_dir: &Path) -> Result<(), IdentityError> {
        let Ok(Value::Object(mut object)) = serde_json::to_value(self) else {
            unreachable!("a struct becomes an object")
        };
        object.insert(CHECKSUM.to_owned(), checksum(&object).into());
        let text = format!("{:#}", Value::Object(object));
        [Self::path(data_dir), Self::copy_path(data_dir)]
            .into_iter()
            .try_for_each(|path| base_pki::write_private(&path, text.as_bytes()))
            .map_err(IdentityError::Write)
    }

    /// TLS settings that show the certificate and trust the CA bundle only.
    pub fn tls(&self) -> Result<rustls::ClientConfig, IdentityError> {
        let certificates = base_pki::certificates(&self.cert_pem)?;
        let key = base_pki::private_key(&self.key_pem)?;
        Ok(client_builder(&self.ca_pem)?.with_client_auth_cert(certificates, key)?)
    }

    /// The hub that the node joined, for people: its CA's name and fingerprint, and where it was.
    pub fn hub(&self) -> String {
        let name = base_pki::common_name(&self.ca_pem).unwrap_or_else(|_| "without a name".to_owned());
        let fingerprint = base_pki::ca_fingerprint(&self.ca_pem).unwrap_or_else(|_| "unknown".to_owned());
        format!("{name} (SHA-256 of its CA {fingerprint}; {})", self.hub_urls.join(", "))
    }

    /// Rejects what is meant for joining another hub: the node would continue with the one that it has, or with none.
    pub fn check_hub(&self, given: &'static str, ca_sha256: &str) -> Result<(), IdentityError> {
        let trusted = base_pki::certificates(&self.ca_pem)?;
        if trusted.iter().any(|ca| base_pki::fingerprint_of_der(ca) == ca_sha256) {
            return Ok(());
        }
        let (node, hub, desired) = (self.node_name.clone(), self.hub(), ca_sha256.to_owned());
        Err(IdentityError::OtherHub { node, hub, given, desired })
    }

    /// With what to call the hubs.
    ///
    /// # Errors
    /// When the certificates or the key cannot be used.
    pub fn access(&self) -> Result<Access, IdentityError> {
        let mut tls = self.tls()?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Access { urls: self.hub_urls.clone(), tls: Arc::new(tls), bearer: None })
    }

    /// Whether the certificate has run out, by this node's clock.
    pub fn is_expired(&self) -> bool {
        base_pki::validity(&self.cert_pem).is_ok_and(|(_, until)| until <= jiff::Timestamp::now().as_second())
    }

    /// Whether CAs that were given, by their SHA-256, are all of another hub; nothing speaks for that where none was given.
    pub fn is_of_another_hub(&self, given: &[String]) -> bool {
        !given.is_empty() && given.iter().all(|ca_sha256| self.check_hub("the token is", ca_sha256).is_err())
    }

    /// When to ask for the next certificate, in seconds since 1970: after three quarters of its life.
    pub fn renew_at(&self) -> Result<i64, IdentityError> {
        let (from, until) = base_pki::validity(&self.cert_pem)?;
        Ok(from + (until - from) / 4 * 3)
    }
}

/// TLS that trusts `ca_pem` and shows no certificate.
pub fn client_builder(
    ca_pem: &str,
) -> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>, IdentityError> {
    let mut roots = RootCertStore::empty();
    for certificate in base_pki::certificates(ca_pem)? {
        roots.add(certificate)?;
    }
    Ok(rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots))
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse(bytes: &[u8], path: &Path) -> Result<Identity, IdentityError> {
    let fail = |reason: String| IdentityError::Parse { path: path.to_owned(), reason };
    let mut object: Map<String, Value> = serde_json::from_slice(bytes).map_err(|error| fail(error.to_string()))?;
    let version = object.get("version").and_then(Value::as_u64).ok_or_else(|| fail("it has no version".to_owned()))?;
    if version > u64::from(VERSION) {
        return Err(IdentityError::TooNew { path: path.to_owned(), found: version });
    }
    let sum = object.remove(CHECKSUM);
    if version > 1 && sum != Some(checksum(&object).into()) {
        return Err(fail("its checksum is another one".to_owned()));
    }
    object.insert("version".to_owned(), VERSION.into());
    serde_json::from_value(Value::Object(object)).map_err(|error| fail(error.to_string()))
}

fn checksum(object: &Map<String, Value>) -> String {
    base_pki::fingerprint_of_der(&serde_json::to_vec(object).expect("texts and numbers become JSON"))
}

impl Identity {
    /// What a node keeps that has joined.
    pub fn new(node_name: &str, hub_urls: Vec<String>, ca_pem: String, cert_pem: String, key_pem: String) -> Self {
        Self { version: VERSION, node_name: node_name.to_owned(), hub_urls, ca_pem, cert_pem, key_pem }
    }
}

#[cfg(test)]
mod tests;
