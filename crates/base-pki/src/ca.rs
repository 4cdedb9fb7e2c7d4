//! The certificate authority of a hub.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType,
};

use crate::{KeyPair, PkiError, csr};

/// Certificates start to be valid before they are made: the clock of a box without a battery is late, seldom early.
const BACKDATE: Duration = Duration::from_secs(3600);

/// Nobody walks up to a thousand gateways to replace a CA.
const CA_VALIDITY: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// A certificate authority: its certificate and its key.
pub struct Ca {
    cert_pem: String,
    key_pem: String,
    issuer: Issuer<'static, rcgen::KeyPair>,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Ca").finish_non_exhaustive()
    }
}

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To prove who is calling.
    Client,
    /// To prove who answers.
    Server,
}

/// A name or address that a server certificate is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum San {
    /// A DNS name.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
}

impl From<&str> for San {
    /// An address when it reads as one, else a DNS name.
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Dns(text.to_owned()), Self::Ip)
    }
}

/// A certificate to be made together with its key.
#[derive(Clone, Debug)]
pub struct IssueRequest {
    /// Common name; to Kubernetes the user.
    pub cn: String,
    /// Organisations; to Kubernetes the groups. One at most.
    pub orgs: Vec<String>,
    /// Names and addresses, for servers.
    pub sans: Vec<San>,
    /// Client or server.
    pub usage: Usage,
    /// How long from now it is valid.
    pub validity: Duration,
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub cert_pem: String,
    /// Its key.
    pub key_pem: String,
}

impl Ca {
    /// Makes a new authority named `name` (its common name), valid from an hour ago.
    pub fn create(name: &str) -> Result<Self, PkiError> {
        let now = SystemTime::now();
        Self::create_valid(name, now - BACKDATE, now + CA_VALIDITY)
    }

    /// Makes a new authority that is valid between two moments: a hub whose clock may be wrong should not depend on it.
    pub fn create_valid(name: &str, from: SystemTime, until: SystemTime) -> Result<Self, PkiError> {
        Self::create_with(KeyPair::generate()?, name, from, until)
    }

    /// As [`Self::create_valid`], named `PREFIX-` and eight digits of the SHA-256 of its public key: two authorities of
    /// one kind can be distinguished by name. Nothing may rely on the name, as authorities of older programs have the prefix alone.
    pub fn create_distinct(prefix: &str, from: SystemTime, until: SystemTime) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let digits = crate::fingerprint_of_der(key.0.public_key_raw());
        Self::create_with(key, &format!("{prefix}-{}", &digits[..8]), from, until)
    }

    fn create_with(key: KeyPair, name: &str, from: SystemTime, until: SystemTime) -> Result<Self, PkiError> {
        let mut params = params(name, &[], &[], from, until)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let cert = params.self_signed(&key.0).map_err(|source| PkiError::Sign { cn: name.to_owned(), source })?;
        Self::load(&cert.pem(), &key.to_pem())
    }

    /// Opens an authority from what [`Self::cert_pem`] and [`Self::key_pem`] gave.
    pub fn load(cert_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key_pem)?;
        let der = crate::certificate_der(cert_pem)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|error| PkiError::ParseCertificate { reason: error.to_string() })?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.0.public_key_raw() {
            return Err(PkiError::KeyMismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&der, key.0)
            .map_err(|error| PkiError::ParseCertificate { reason: error.to_string() })?;
        Ok(Self { cert_pem: cert_pem.to_owned(), key_pem: key_pem.to_owned(), issuer })
    }

    /// The authority's certificate, PEM; public.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The authority's key, PEM. Keep it with [`crate::write_private`].
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Makes a key and a certificate for it, valid from now.
    pub fn sign(&self, request: &IssueRequest) -> Result<Issued, PkiError> {
        self.sign_at(request, SystemTime::now())
    }

    /// As [`Self::sign`], at a moment that the caller names.
    pub fn sign_at(&self, request: &IssueRequest, now: SystemTime) -> Result<Issued, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = params(&request.cn, &request.orgs, &request.sans, now - BACKDATE, now + request.validity)?;
        restrict(&mut params, request.usage);
        let cert = params
            .signed_by(&key.0, &self.issuer)
            .map_err(|source| PkiError::Sign { cn: request.cn.clone(), source })?;
        Ok(Issued { cert_pem: cert.pem(), key_pem: key.to_pem() })
    }

    /// Signs another's request as it is (subject and names), for `usage` only; whatever else it asks for is
    /// dropped. Whether it *should* be signed is the caller's decision, on [`crate::parse_csr`].
    pub fn sign_csr(&self, csr_pem: &str, usage: Usage, validity: Duration) -> Result<String, PkiError> {
        let info = csr::parse_csr(csr_pem)?;
        let mut request = csr::rcgen_request(csr_pem)?;
        let now = SystemTime::now();
        let mut params = params(&info.cn, &info.orgs, &info.sans, now - BACKDATE, now + validity)?;
        restrict(&mut params, usage);
        request.params = params;
        let cert = request.signed_by(&self.issuer).map_err(|source| PkiError::Sign { cn: info.cn, source })?;
        Ok(cert.pem())
    }
}

/// Certificate parameters, valid between two moments.
pub(crate) fn params(
    cn: &str,
    orgs: &[String],
    sans: &[San],
    from: SystemTime,
    until: SystemTime,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject_name(cn, orgs)?;
    params.subject_alt_names = sans.iter().map(san_type).collect::<Result<_, _>>()?;
    let since_epoch = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(from);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(until);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn restrict(params: &mut CertificateParams, usage: Usage) {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match usage {
        Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
    }];
}

fn subject_name(cn: &str, orgs: &[String]) -> Result<DistinguishedName, PkiError> {
    if orgs.len() > 1 {
        return Err(PkiError::TooManyOrganisations { cn: cn.to_owned(), count: orgs.len() });
    }
    let mut name = DistinguishedName::new();
    if let Some(org) = orgs.first() {
        name.push(DnType::OrganizationName, org.as_str());
    }
    name.push(DnType::CommonName, cn);
    Ok(name)
}

fn san_type(san: &San) -> Result<SanType, PkiError> {
    match san {
        San::Ip(ip) => Ok(SanType::IpAddress(*ip)),
        San::Dns(name) => {
            Ok(SanType::DnsName(name.as_str().try_into().map_err(|_| PkiError::BadName { name: name.clone() })?))
        }
    }
}
