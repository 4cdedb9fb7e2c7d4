//! Certificates: who may approve requests, sign them, and vouch for trust bundles.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery_server::{
    Access, Admission, AdmissionError, AdmissionRequest, Authorizer, GROUP_MASTERS, Operation, Target, Union,
};
use serde_json::Value;

use crate::json::{items_at, text};

const GROUP: &str = "certificates.k8s.io";
const API_CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Requests are a kilobyte or two.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Kubernetes' plug-ins CertificateApproval, CertificateSigning, ClusterTrustBundleAttest and
/// CertificateSubjectRestriction.
pub struct Certificates {
    authorizer: Union,
}

impl Certificates {
    /// With what decides about signers.
    pub fn new(authorizer: Union) -> Self {
        Self { authorizer }
    }

    /// Whether the caller may do this for a signer, or for all of its domain.
    fn may(&self, request: &AdmissionRequest<'_>, verb: &str, signer: &str) -> bool {
        let domain = signer.split('/').next().unwrap_or_default();
        [signer.to_owned(), format!("{domain}/*")].iter().any(|name| {
            let target = Target::Resource {
                group: GROUP,
                resource: "signers",
                subresource: None,
                namespace: None,
                name: Some(name),
                selectors: None,
            };
            let access = Access { identity: request.identity, verb, target, object: None };
            self.authorizer.authorize(&access, request.store).is_allowed()
        })
    }
}

impl Admission for Certificates {
    fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), AdmissionError> {
        let forbid = |why: String| Err(AdmissionError::Forbidden(why));
        match (request.target(), request.operation, request.old) {
            ((GROUP, "certificatesigningrequests", Some("approval")), Operation::Update, Some(old)) => {
                // That of the stored one: a request cannot be moved to another signer on the way.
                let signer = text(old, "/spec/signerName");
                if !self.may(request, "approve", signer) {
                    return forbid(format!("user not permitted to approve requests with signerName {signer:?}"));
                }
            }
            ((GROUP, "certificatesigningrequests", Some("status")), Operation::Update, Some(old)) => {
                let signer = text(old, "/spec/signerName");
                let is_signed = text(old, "/status/certificate") != text(object, "/status/certificate")
                    || items_at(old, "/status/conditions") != items_at(object, "/status/conditions");
                if is_signed && !self.may(request, "sign", signer) {
                    return forbid(format!("user not permitted to sign requests with signerName {signer:?}"));
                }
            }
            ((GROUP, "clustertrustbundles", _), Operation::Create | Operation::Update, old) => {
                let signer = text(object, "/spec/signerName");
                let is_same = old.is_some_and(|old| old.get("spec") == object.get("spec"));
                if !signer.is_empty() && !is_same && !self.may(request, "attest", signer) {
                    return forbid(format!("user not permitted to attest for signerName {signer:?}"));
                }
            }
            ((GROUP, "certificatesigningrequests", None), Operation::Create, _) => {
                if text(object, "/spec/signerName") != API_CLIENT_SIGNER {
                    return Ok(());
                }
                let info =
                    parse(object).map_err(|why| AdmissionError::Forbidden(format!("failed to parse CSR: {why}")))?;
                if info.orgs.iter().any(|group| group == GROUP_MASTERS) {
                    return forbid(format!(
                        "use of {API_CLIENT_SIGNER} signer with system:masters group is not allowed"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn parse(csr: &Value) -> Result<base_pki::CsrInfo, String> {
    let encoded = text(csr, "/spec/request");
    let not_pem = || "PEM block type must be CERTIFICATE REQUEST".to_owned();
    if encoded.len() > REQUEST_BYTES_MAX {
        return Err(not_pem());
    }
    let pem = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(not_pem)?;
    machinery_kinds::parse_signing_request(&pem)?;
    base_pki::parse_csr(&pem).map_err(|_| not_pem())
}

/// The common name that a signing request asks for.
pub(crate) fn common_name(csr: &Value) -> Result<String, String> {
    parse(csr).map(|info| info.cn)
}
