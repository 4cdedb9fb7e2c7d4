//! TLS for servers and clients: one provider (ring), TLS 1.2 and 1.3, certificates that can be replaced while serving.

use std::sync::{Arc, RwLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not a PEM text with at least one certificate.
    #[error("failed to read the {what}: it holds no usable certificate")]
    Certificate {
        /// Whose certificate.
        what: &'static str,
    },
    /// Not a private key in PEM.
    #[error("failed to read the private key")]
    Key(#[source] rustls::pki_types::pem::Error),
    /// Certificate and key do not fit, or are of a kind that is not served.
    #[error("failed to use certificate and key for TLS")]
    Config(#[source] rustls::Error),
    /// The bundle of CAs for client certificates does not work.
    #[error("failed to build the check of client certificates")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

/// A server's TLS configuration. Clones share the certificate, so that one of them can replace it for all.
#[derive(Clone)]
pub struct ServerTls {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) asks_certificates: bool,
    slot: Arc<Slot>,
}

#[derive(Debug)]
struct Slot(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Slot {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
    }
}

impl ServerTls {
    /// Serves `cert_pem` (with its chain). With `client_ca_pem`, clients may show a certificate of that CA, which then
    /// is found in [`crate::Peer::client_cert`]; one of another CA ends the handshake, none at all does not.
    pub fn new(cert_pem: &str, key_pem: &str, client_ca_pem: Option<&str>) -> Result<Self, TlsError> {
        let provider = provider();
        let slot = Arc::new(Slot(RwLock::new(certified_key(cert_pem, key_pem)?)));
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Config)?;
        let builder = match client_ca_pem {
            None => builder.with_no_client_auth(),
            Some(pem) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots(pem)?.into(), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(TlsError::Verifier)?,
            ),
        };
        let mut config = builder.with_cert_resolver(slot.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Resumption would keep a session alive whose client certificate is no longer good, and costs memory per peer.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), asks_certificates: client_ca_pem.is_some(), slot })
    }

    /// Serves another certificate from the next handshake on; open connections keep theirs.
    pub fn replace(&self, cert_pem: &str, key_pem: &str) -> Result<(), TlsError> {
        let key = certified_key(cert_pem, key_pem)?;
        *self.slot.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = key;
        Ok(())
    }
}

/// A client's configuration: trusts `ca_pem` only, and shows `identity` (certificate and key, PEM) when given.
/// No ALPN is set; the caller adds what it speaks.
pub fn client_config(ca_pem: &str, identity: Option<(&str, &str)>) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .with_root_certificates(roots(ca_pem)?);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((cert_pem, key_pem)) => builder
            .with_client_auth_cert(chain(cert_pem, "client certificate")?, key(key_pem)?)
            .map_err(TlsError::Config),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certified_key(cert_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = chain(cert_pem, "server certificate")?;
    CertifiedKey::from_der(chain, key(key_pem)?, &provider()).map(Arc::new).map_err(TlsError::Config)
}

fn roots(ca_pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(ca_pem, "CA bundle")? {
        roots.add(certificate).map_err(TlsError::Config)?;
    }
    Ok(roots)
}

fn chain(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::Certificate { what })?;
    if chain.is_empty() { Err(TlsError::Certificate { what }) } else { Ok(chain) }
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(TlsError::Key)
}
