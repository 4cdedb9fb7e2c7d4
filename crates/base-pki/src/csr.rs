//! Certificate signing requests: made by a node, read by the hub.

use std::net::IpAddr;

use rcgen::CertificateSigningRequestParams;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use crate::ca::{San, params};
use crate::{KeyPair, PkiError};

/// A request is a few hundred bytes; this leaves space for long lists of names and none for abuse.
const CSR_BYTES_MAX: usize = 64 * 1024;

/// What a signing request asks for. Its signature has been verified against its own key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsrInfo {
    /// Common name.
    pub cn: String,
    /// Organisations.
    pub orgs: Vec<String>,
    /// Names and addresses.
    pub sans: Vec<San>,
    /// SHA-256 of the public key (its SubjectPublicKeyInfo), in lower-case hex.
    pub key_sha256: String,
}

/// Makes a signing request for `key`, PEM.
pub fn make_csr(key: &KeyPair, cn: &str, orgs: &[String], sans: &[San]) -> Result<String, PkiError> {
    let sign_error = |source| PkiError::Sign { cn: cn.to_owned(), source };
    // Validity is no part of a request; the authority decides it.
    let never = std::time::SystemTime::UNIX_EPOCH;
    let mut params = params(cn, orgs, sans, never, never)?;
    params.use_authority_key_identifier_extension = false;
    params.serialize_request(&key.0).and_then(|request| request.pem()).map_err(sign_error)
}

/// Reads and verifies a signing request. Names other than DNS names and addresses are refused: none could be checked.
pub fn parse_csr(pem: &str) -> Result<CsrInfo, PkiError> {
    let der = csr_der(pem)?;
    rcgen_request(pem)?;
    let (_, request) = X509CertificationRequest::from_der(&der).map_err(|error| parse_error(&error))?;
    let (cn, orgs) = subject(&request.certification_request_info.subject);
    let mut sans = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            for name in &names.general_names {
                sans.push(san(name)?);
            }
        }
    }
    let key_sha256 = crate::fingerprint_of_der(request.certification_request_info.subject_pki.raw);
    Ok(CsrInfo { cn, orgs, sans, key_sha256 })
}

/// The request as rcgen reads it; verifies its signature.
pub(crate) fn rcgen_request(pem: &str) -> Result<CertificateSigningRequestParams, PkiError> {
    let der = csr_der(pem)?;
    CertificateSigningRequestParams::from_der(&der.into()).map_err(|error| parse_error(&error))
}

/// Common name and organisations of a subject.
pub(crate) fn subject(name: &X509Name<'_>) -> (String, Vec<String>) {
    let cn = name.iter_common_name().filter_map(|value| value.as_str().ok()).next().unwrap_or_default();
    let orgs = name.iter_organization().filter_map(|value| value.as_str().ok()).map(str::to_owned).collect();
    (cn.to_owned(), orgs)
}

fn san(name: &GeneralName<'_>) -> Result<San, PkiError> {
    match name {
        GeneralName::DNSName(name) => Ok(San::Dns((*name).to_owned())),
        GeneralName::IPAddress(bytes) => {
            let v4: Option<[u8; 4]> = (*bytes).try_into().ok();
            let v6: Option<[u8; 16]> = (*bytes).try_into().ok();
            let ip = v4.map(IpAddr::from).or(v6.map(IpAddr::from));
            ip.map(San::Ip).ok_or_else(|| parse_error(&"an address is neither IPv4 nor IPv6"))
        }
        other => Err(parse_error(&format_args!("only DNS names and IP addresses can be signed, not {other}"))),
    }
}

fn csr_der(pem: &str) -> Result<Vec<u8>, PkiError> {
    use rustls::pki_types::CertificateSigningRequestDer;
    use rustls::pki_types::pem::PemObject;
    if pem.len() > CSR_BYTES_MAX {
        return Err(parse_error(&format_args!("it is larger than {CSR_BYTES_MAX} bytes")));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|error| parse_error(&error))?;
    Ok(der.as_ref().to_vec())
}

fn parse_error(reason: &dyn std::fmt::Display) -> PkiError {
    PkiError::ParseCsr { reason: reason.to_string() }
}
