//! Keys, certificates, signing requests and the join token: who a hub, a node and a person are to each other.
//!
//! Everything here is synchronous and touches no file, but for [`write_private`] and [`write_public`], which put what
//! they are given on disk so that a power cut leaves the old file or the new one, never half of one. Keys are P-256,
//! which every Kubernetes client and every small box can handle.
//!
//! - [`Ca`] signs: its own requests ([`Ca::sign`]) and those of others ([`Ca::sign_csr`]).
//! - [`make_csr`] and [`parse_csr`] are the two ends of a signing request.
//! - [`client_identity`] reads user and groups from a certificate as Kubernetes does: common name and organisations.
//! - [`JoinToken`] lets a new node trust the hub and the hub the node; [`PinnedCa`] is the handshake in which it does.

mod ca;
mod csr;
mod kubeconfig;
mod pin;
mod token;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use x509_parser::prelude::FromDer;

pub use base_fs::{WriteFileError, write_private, write_public};
pub use ca::{Ca, IssueRequest, Issued, San, Usage};
pub use csr::{CsrInfo, make_csr, parse_csr};
pub use kubeconfig::kubeconfig;
pub use pin::{PinError, PinnedCa};
pub use token::{JoinToken, ParseJoinTokenError};

/// Why a key or a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The random source or the key algorithm failed.
    #[error("failed to generate a key")]
    GenerateKey(#[source] rcgen::Error),
    /// Not a PKCS#8 P-256 key in PEM.
    #[error("failed to parse a private key; it must be a PKCS#8 key in PEM")]
    ParseKey(#[source] rcgen::Error),
    /// Not a certificate in PEM.
    #[error("failed to parse a certificate: {reason}")]
    ParseCertificate {
        /// What the parser found.
        reason: String,
    },
    /// Not a signing request, or its signature is not its key's.
    #[error("failed to parse a certificate signing request: {reason}")]
    ParseCsr {
        /// What the parser found.
        reason: String,
    },
    /// Certificate and key do not belong together.
    #[error("the private key is not the certificate's; restore the pair from the same backup")]
    KeyMismatch,
    /// A subject alternative name is not ASCII.
    #[error("`{name}` cannot be a subject alternative name")]
    BadName {
        /// The name.
        name: String,
    },
    /// A certificate carries one organisation; more would be dropped silently.
    #[error("a certificate for `{cn}` asks for {count} organisations; one at most can be signed")]
    TooManyOrganisations {
        /// Common name of the request.
        cn: String,
        /// How many were asked for.
        count: usize,
    },
    /// Signing failed.
    #[error("failed to sign a certificate for `{cn}`")]
    Sign {
        /// Common name of the request.
        cn: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
}

/// A private key with its public half.
pub struct KeyPair(rcgen::KeyPair);

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("KeyPair(..)")
    }
}

impl KeyPair {
    /// Makes a new P-256 key.
    pub fn generate() -> Result<Self, PkiError> {
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map(Self).map_err(PkiError::GenerateKey)
    }

    /// Reads a PKCS#8 key.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        rcgen::KeyPair::from_pem(pem).map(Self).map_err(PkiError::ParseKey)
    }

    /// The key as PKCS#8 PEM. Keep it with [`write_private`].
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }
}

/// Who a client certificate speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The subject's common name.
    pub user: String,
    /// The subject's organisations.
    pub groups: Vec<String>,
    /// SHA-256 of the public key (its SubjectPublicKeyInfo), in lower-case hex: stays the same over renewals with one key.
    pub key_sha256: String,
    /// SHA-256 of the certificate itself (DER), in lower-case hex.
    pub certificate_sha256: String,
    /// The last second (since 1970) in which the certificate is valid.
    pub not_after: i64,
}

/// Reads who a client certificate (DER) speaks for. The caller has verified the chain already, and asks whether it is still
/// valid: a connection may be older than the certificate may become.
pub fn client_identity(cert_der: &[u8]) -> Result<ClientIdentity, PkiError> {
    let (_, cert) = x509_parser::certificate::X509Certificate::from_der(cert_der)
        .map_err(|error| PkiError::ParseCertificate { reason: error.to_string() })?;
    let subject = csr::subject(cert.subject());
    let key_sha256 = fingerprint_of_der(cert.public_key().raw);
    let not_after = cert.validity().not_after.timestamp();
    let certificate_sha256 = fingerprint_of_der(cert_der);
    Ok(ClientIdentity { user: subject.0, groups: subject.1, key_sha256, certificate_sha256, not_after })
}

/// First and last second (since 1970) in which the first certificate of a PEM text is valid.
pub fn validity(cert_pem: &str) -> Result<(i64, i64), PkiError> {
    let der = certificate_der(cert_pem)?;
    let (_, cert) = x509_parser::certificate::X509Certificate::from_der(&der)
        .map_err(|error| PkiError::ParseCertificate { reason: error.to_string() })?;
    Ok((cert.validity().not_before.timestamp(), cert.validity().not_after.timestamp()))
}

/// Common name of the first certificate of a PEM text: a name for people, which proves nothing.
pub fn common_name(cert_pem: &str) -> Result<String, PkiError> {
    Ok(client_identity(&certificate_der(cert_pem)?)?.user)
}

/// SHA-256 of the first certificate of a PEM text (over its DER), in lower-case hex: what a join token carries.
pub fn ca_fingerprint(pem: &str) -> Result<String, PkiError> {
    Ok(fingerprint_of_der(&certificate_der(pem)?))
}

/// SHA-256 of a certificate's DER, in lower-case hex.
pub fn fingerprint_of_der(der: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Random bytes, for a key that is no key pair.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], PkiError> {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0; N];
    let filled = ring::rand::SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| PkiError::GenerateKey(rcgen::Error::RingUnspecified))?;
    Ok(bytes)
}

/// Every certificate of a PEM text, in order; at least one.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| PkiError::ParseCertificate { reason: error.to_string() })?;
    if certificates.is_empty() {
        return Err(PkiError::ParseCertificate { reason: "the text holds no CERTIFICATE block".to_owned() });
    }
    Ok(certificates)
}

/// The private key of a PEM text, for a TLS configuration.
pub fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, PkiError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| PkiError::ParseKey(rcgen::Error::CouldNotParseKeyPair))
}

/// Whether a certificate and a private key, both PEM, belong together.
pub fn is_pair(cert_pem: &str, key_pem: &str) -> bool {
    let (Ok(key), Ok(der)) = (KeyPair::from_pem(key_pem), certificate_der(cert_pem)) else { return false };
    x509_parser::parse_x509_certificate(&der)
        .is_ok_and(|(_, parsed)| parsed.public_key().subject_public_key.data.as_ref() == key.0.public_key_raw())
}

/// Whether a server that trusts the authorities of `ca_pem` takes the client certificate in `cert_pem` at a moment: what a
/// handshake would find, without one.
pub fn is_client_of(ca_pem: &str, cert_pem: &str, now: SystemTime) -> bool {
    let verified = || -> Option<()> {
        let mut roots = rustls::RootCertStore::empty();
        for authority in certificates(ca_pem).ok()? {
            roots.add(authority).ok()?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().ok()?;
        let chain = certificates(cert_pem).ok()?;
        let (own, between) = chain.split_first()?;
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).ok()?);
        verifier.verify_client_cert(own, between, now).ok().map(drop)
    };
    verified().is_some()
}

/// A PEM block of a certificate.
pub fn certificate_pem(der: &[u8]) -> String {
    pem_block("CERTIFICATE", der)
}

fn certificate_der(pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    Ok(certificates(pem)?.swap_remove(0))
}

fn pem_block(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in encoded.as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests;
