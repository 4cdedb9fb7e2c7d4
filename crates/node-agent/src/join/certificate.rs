//! One certificate: requested, watched until somebody has decided about it, and given up after a bounded time.
//!
//! A request that nobody decided about in time is not forgotten: the next attempt looks at the same one, so that whoever approves it
//! late finds a node that takes the certificate, and no list of abandoned requests.

use std::time::Duration;

use api_kube::base64_text;
use base_pki::{KeyPair, San};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use node_client::{ApiClient, ApiError, Event, encode};
use serde_json::{Value, json};

use super::JoinError;

/// Signer of node client certificates.
const SIGNER_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signer of kubelet serving certificates.
const SIGNER_SERVING: &str = "kubernetes.io/kubelet-serving";
const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const KIND: &str = "CertificateSigningRequest";
/// A hub approves by itself within milliseconds. Where a person does, the node says by then which request waits, and looks again.
const DECISION_WAIT_MAX: Duration = Duration::from_secs(60);
/// A serving certificate is approved by nobody on most clusters. An open watch costs nothing; a new one costs the request's bytes.
const SERVING_DECISION_WAIT_MAX: Duration = Duration::from_secs(3600);

/// A certificate that a node needs, and the request for it that is open.
#[derive(Debug)]
pub struct Requester {
    node_name: String,
    signer: &'static str,
    usage: &'static str,
    wait_max: Duration,
    /// The key to use; a new one for each request without it.
    key_pem: Option<String>,
    open: Option<Open>,
}

/// A request that was sent.
#[derive(Debug)]
struct Open {
    name: String,
    key_pem: String,
}

impl Requester {
    /// For the certificate by which the node is known to the hub. With a key of its own it stays the box that it was: a hub takes
    /// any token from the box that has a name already, and no token from another.
    pub fn client(node_name: &str, key_pem: Option<String>) -> Self {
        Self {
            node_name: node_name.to_owned(),
            signer: SIGNER_CLIENT,
            usage: "client auth",
            wait_max: DECISION_WAIT_MAX,
            key_pem,
            open: None,
        }
    }

    /// For the certificate that the kubelet's API shows.
    pub fn serving(node_name: &str) -> Self {
        let wait_max = SERVING_DECISION_WAIT_MAX;
        Self { signer: SIGNER_SERVING, usage: "server auth", wait_max, ..Self::client(node_name, None) }
    }

    /// The next request is a new one.
    pub fn forget(&mut self) {
        self.open = None;
    }

    /// Sends a request, or looks at the one that is open, and waits for the decision; answers certificate and key in PEM.
    ///
    /// # Errors
    /// When the hub is away or says no, or when nobody has decided in time.
    pub async fn certificate(&mut self, hub: &ApiClient, sans: &[San]) -> Result<(String, String), JoinError> {
        let open = match self.open.take() {
            Some(open) => open,
            None => self.send(hub, sans).await?,
        };
        let name = open.name.clone();
        let decided = match tokio::time::timeout(self.wait_max, decision(hub, &name)).await {
            Ok(decided) => decided.map_err(|error| refusal(error, &name)),
            Err(_) => Err(JoinError::NotApproved { name: name.clone() }),
        };
        match decided {
            Ok(Verdict::Issued(certificate)) => Ok((certificate, open.key_pem)),
            Ok(Verdict::Refused { verdict, message }) => Err(JoinError::Denied { verdict, name, message }),
            // It was removed meanwhile: the next attempt makes another.
            Ok(Verdict::Pending) => Err(JoinError::NotApproved { name }),
            Err(error) => {
                let is_there = match &error {
                    JoinError::NotApproved { .. } => true,
                    JoinError::Request(cause) => cause.is_outage(),
                    _ => false,
                };
                self.open = is_there.then_some(open);
                Err(error)
            }
        }
    }

    async fn send(&self, hub: &ApiClient, sans: &[San]) -> Result<Open, JoinError> {
        let key = match &self.key_pem {
            Some(pem) => KeyPair::from_pem(pem)?,
            None => KeyPair::generate()?,
        };
        let cn = format!("system:node:{}", self.node_name);
        let csr = base_pki::make_csr(&key, &cn, &["system:nodes".to_owned()], sans)?;
        let name = format!("csr-{}", uuid::Uuid::new_v4().simple());
        let object = json!({
            "apiVersion": "certificates.k8s.io/v1",
            "kind": KIND,
            "metadata": {"name": name, "labels": {api_edge::LABEL_NODE: self.node_name}},
            "spec": {
                "request": BASE64.encode(&csr), "signerName": self.signer, "usages": ["digital signature", self.usage],
            },
        });
        hub.create(CSRS, &object).await.map_err(|error| refusal(error, &name))?;
        Ok(Open { name, key_pem: key.to_pem() })
    }
}

/// What an answer to a request for a certificate means.
fn refusal(error: ApiError, name: &str) -> JoinError {
    match error.code() {
        Some(401) => JoinError::TokenRefused,
        // The name may be none that a node can have; waiting does not change that.
        Some(403 | 422) => match error {
            ApiError::Status { message, .. } => {
                // `… "csr-…" is forbidden: REASON`: the request was never kept, so its name helps nobody.
                let reason =
                    message.split_once(&format!("{name:?} is forbidden: ")).map(|(_, reason)| reason.to_owned());
                JoinError::Rejected { message: reason.unwrap_or(message) }
            }
            other => JoinError::Request(other),
        },
        _ => JoinError::Request(error),
    }
}

/// Watches a request until it is decided about; `Pending` when it was removed before.
async fn decision(hub: &ApiClient, name: &str) -> Result<Verdict, ApiError> {
    // Without a revision a watch begins with the object as it is: one request is all that this costs.
    let path = format!("{CSRS}?watch=true&fieldSelector={}", encode(&format!("metadata.name={name}")));
    loop {
        let mut watch = hub.watch(&path, KIND).await?;
        while let Some(event) = watch.next().await? {
            match event {
                Event::Applied(request) => match verdict(request.field("status")) {
                    Verdict::Pending => {}
                    decided => return Ok(decided),
                },
                Event::Deleted(_) => return Ok(Verdict::Pending),
                Event::Bookmark(_) => {}
                Event::Error { .. } => break,
            }
        }
        // The hub ends a watch in good order after some minutes. Whether the request is still there the next one would not say.
        match hub.get(&format!("{CSRS}/{name}"), KIND).await {
            Ok(_) => {}
            Err(error) if error.code() == Some(404) => return Ok(Verdict::Pending),
            Err(error) => return Err(error),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Pending,
    Issued(String),
    Refused { verdict: &'static str, message: String },
}

/// What has become of a CertificateSigningRequest.
fn verdict(status: &Value) -> Verdict {
    for condition in status["conditions"].as_array().into_iter().flatten() {
        let verdict = match condition["type"].as_str() {
            Some("Denied") => "denied",
            Some("Failed") => "could not sign",
            _ => continue,
        };
        let message = condition["message"].as_str().unwrap_or("no reason given").to_owned();
        return Verdict::Refused { verdict, message };
    }
    let certificate = status["certificate"].as_str().and_then(|encoded| base64_text::decode(encoded).ok());
    match certificate.and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(pem) if !pem.is_empty() => Verdict::Issued(pem),
        _ => Verdict::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_pending_issued_or_refused() {
        let pem = "-----BEGIN CERTIFICATE-----";
        let issued = json!({"conditions": [{"type": "Approved"}], "certificate": BASE64.encode(pem)});
        for (status, expected) in [
            (json!({}), Verdict::Pending),
            (json!({"conditions": [{"type": "Approved"}]}), Verdict::Pending),
            (issued, Verdict::Issued(pem.into())),
            (
                json!({"conditions": [{"type": "Denied", "message": "no"}]}),
                Verdict::Refused { verdict: "denied", message: "no".into() },
            ),
        ] {
            assert_eq!(verdict(&status), expected);
        }
    }
}
