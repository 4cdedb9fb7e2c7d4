//! The first handshake of a node: it knows the SHA-256 of the hub's CA, and nothing else yet.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Why a server is not the one that was pinned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Its chain does not hold the pinned CA.
    #[error("none of the server's certificates has the pinned SHA-256; its last one has {found}")]
    WrongCa {
        /// SHA-256 of the last certificate of the chain.
        found: String,
    },
    /// The CA has not signed its certificate, or not for this name.
    #[error("the pinned CA does not vouch for the server under this name: {reason}")]
    NotVouchedFor {
        /// What the verifier found.
        reason: String,
    },
    /// The certificate is right but for the time, by this machine's clock. Seconds since 1970.
    #[error("the server's certificate is valid from {from} to {until}, and not now by this machine's clock")]
    Clock {
        /// First second.
        from: i64,
        /// Last second.
        until: i64,
    },
}

/// Accepts a server whose chain holds the CA with a known SHA-256, and whose certificate that CA has signed for the name that
/// was dialed; remembers the CA, which from then on is trusted as any other.
#[derive(Debug)]
pub struct PinnedCa {
    sha256: String,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Option<Result<CertificateDer<'static>, PinError>>>,
}

impl PinnedCa {
    /// For the CA with this SHA-256, in lower-case hex.
    pub fn new(sha256: &str) -> Arc<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Arc::new(Self { sha256: sha256.to_owned(), provider, seen: Mutex::default() })
    }

    /// TLS settings of a client that believes it, shows no certificate, and speaks HTTP/2.
    ///
    /// # Errors
    /// When the TLS library has no version that its provider can speak.
    pub fn client_config(self: &Arc<Self>) -> Result<ClientConfig, rustls::Error> {
        let mut tls = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(self.clone())
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(tls)
    }

    /// What the last handshake saw, once: the CA, or why the server is not the pinned one. `None` when it did not get so far.
    pub fn take(&self) -> Option<Result<CertificateDer<'static>, PinError>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, PinError> {
        let ca = others.iter().find(|certificate| crate::fingerprint_of_der(certificate) == self.sha256).ok_or_else(
            || PinError::WrongCa { found: crate::fingerprint_of_der(others.last().unwrap_or(end_entity)) },
        )?;
        let fail = |reason: String| PinError::NotVouchedFor { reason };
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned()).map_err(|error| fail(error.to_string()))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| fail(error.to_string()))?;
        verifier.verify_server_cert(end_entity, others, name, &[], now).map_err(|error| {
            match (&error, crate::validity(&crate::certificate_pem(end_entity))) {
                (rustls::Error::InvalidCertificate(cause), Ok((from, until))) if is_about_time(cause) => {
                    PinError::Clock { from, until }
                }
                _ => fail(error.to_string()),
            }
        })?;
        Ok(ca.clone().into_owned())
    }
}

fn is_about_time(error: &rustls::CertificateError) -> bool {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    matches!(error, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let judged = self.judge(end_entity, intermediates, server_name, now);
        let is_accepted = judged.is_ok();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(judged);
        if is_accepted {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
