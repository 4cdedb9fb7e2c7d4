//! The first handshake of a node: it knows the SHA-256 of the hub's CA, or the CA, or a token that will prove it afterwards.

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

/// By what a server is accepted.
#[derive(Debug)]
enum Pin {
    Sha256(String),
    Bundle(Vec<CertificateDer<'static>>),
    Anyone,
}

/// Accepts a server whose chain holds the CA with a known SHA-256, and whose certificate that CA has signed for the name that
/// was dialed; remembers the CA, which from then on is trusted as any other.
#[derive(Debug)]
pub struct PinnedCa {
    pin: Pin,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Option<Result<CertificateDer<'static>, PinError>>>,
}

impl PinnedCa {
    /// For the CA with this SHA-256, in lower-case hex.
    pub fn new(sha256: &str) -> Arc<Self> {
        Self::by(Pin::Sha256(sha256.to_owned()))
    }

    /// For the CAs of a PEM bundle, which the server need not show.
    ///
    /// # Errors
    /// When the bundle holds no certificate.
    pub fn of_bundle(pem: &str) -> Result<Arc<Self>, crate::PkiError> {
        Ok(Self::by(Pin::Bundle(crate::certificates(pem)?)))
    }

    /// For whoever answers. Nothing secret may be sent there, and nothing from there may be believed unless it proves itself by
    /// other means, as the `cluster-info` of a cluster does by its signature.
    pub fn anyone() -> Arc<Self> {
        Self::by(Pin::Anyone)
    }

    fn by(pin: Pin) -> Arc<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Arc::new(Self { pin, provider, seen: Mutex::default() })
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

    /// What the last handshake saw, once: the CA (the first of a bundle; of anyone, its own certificate), or why the server is not the pinned one. `None` when it did not get so far.
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
        let wrong_ca = || PinError::WrongCa { found: crate::fingerprint_of_der(others.last().unwrap_or(end_entity)) };
        let trusted = match &self.pin {
            Pin::Sha256(sha256) => {
                let ca = others.iter().find(|certificate| crate::fingerprint_of_der(certificate) == *sha256);
                vec![ca.ok_or_else(wrong_ca)?.clone().into_owned()]
            }
            Pin::Bundle(trusted) => trusted.clone(),
            Pin::Anyone => return Ok(end_entity.clone().into_owned()),
        };
        let fail = |reason: String| PinError::NotVouchedFor { reason };
        let mut roots = RootCertStore::empty();
        for ca in &trusted {
            roots.add(ca.clone()).map_err(|error| fail(error.to_string()))?;
        }
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
        trusted.into_iter().next().ok_or_else(wrong_ca)
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
