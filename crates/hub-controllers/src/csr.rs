//! Certificate signing requests: who may have which certificate, and its signature.
//!
//! Two signers are approved without a person, as kubeadm sets clusters up: a node's client certificate, asked for by
//! a bootstrap token or by the node itself, and a node's serving certificate, asked for by the node itself. Whatever a
//! person approved is signed for these and for `kube-apiserver-client`, but never for the administrators' group.

use std::sync::Arc;
use std::time::Duration;

use base_pki::{Ca, CsrInfo, San, Usage};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Value, json};
use tracing::info;

use crate::cache::Lister;
use crate::driver::FirstFailure;
use crate::events::{Recorder, seconds};
use crate::kinds::Kind;
use crate::writer::{WriteError, Writer};

/// Gateways are out of reach for months and may come back with a wrong clock.
const VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);
/// Upstream's smallest `expirationSeconds`.
const VALIDITY_MIN_S: u64 = 600;

const SIGNER_NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SIGNER_NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
const SIGNER_CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// What a request needs next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is done, denied, or waits for a person.
    Nothing,
    /// It may be approved.
    Approve,
    /// It is approved: sign it.
    Sign(Usage),
    /// It can never be signed: the reason, for its `Failed` condition.
    Fail(String),
}

/// Decides about one request.
pub(crate) fn step(request: &Value) -> Step {
    let has = |wanted: &str| {
        let conditions = request["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|one| one["type"] == wanted && one["status"] != "False")
    };
    if has("Denied") || has("Failed") || request["status"]["certificate"].as_str().is_some_and(|pem| !pem.is_empty()) {
        return Step::Nothing;
    }
    let signer = request["spec"]["signerName"].as_str().unwrap_or_default();
    if ![SIGNER_NODE_CLIENT, SIGNER_NODE_SERVING, SIGNER_CLIENT].contains(&signer) {
        return Step::Nothing;
    }
    let info = match pem(request).and_then(|pem| base_pki::parse_csr(&pem).map_err(|error| error.to_string())) {
        Ok(info) => info,
        Err(reason) => return Step::Fail(reason),
    };
    let usage = match is_wellformed(signer, request, &info) {
        Ok(usage) => usage,
        Err(reason) => return Step::Fail(reason),
    };
    match (has("Approved"), may_approve(signer, request, &info)) {
        (true, _) => Step::Sign(usage),
        (false, true) => Step::Approve,
        (false, false) => Step::Nothing,
    }
}

fn pem(request: &Value) -> Result<String, String> {
    let encoded = request["spec"]["request"].as_str().unwrap_or_default();
    let bytes = BASE64.decode(encoded).map_err(|_| "spec.request is not base64".to_owned())?;
    String::from_utf8(bytes).map_err(|_| "spec.request holds no PEM".to_owned())
}

/// Whether the request is one that its signer could sign at all.
fn is_wellformed(signer: &str, request: &Value, info: &CsrInfo) -> Result<Usage, String> {
    let usages: Vec<&str> =
        request["spec"]["usages"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let (usage, wanted) = match signer {
        SIGNER_NODE_SERVING => (Usage::Server, "server auth"),
        _ => (Usage::Client, "client auth"),
    };
    if let Some(other) = usages.iter().find(|one| !["digital signature", "key encipherment", wanted].contains(one)) {
        return Err(format!("usage `{other}` is not among those of {signer}"));
    }
    if !usages.contains(&wanted) {
        return Err(format!("{signer} needs the usage `{wanted}`"));
    }
    if info.orgs.iter().any(|org| org == "system:masters") {
        return Err("certificates for the group system:masters are not signed on request".to_owned());
    }
    if signer == SIGNER_CLIENT {
        return Ok(usage);
    }
    let node = info.cn.strip_prefix("system:node:").filter(|node| !node.is_empty());
    let Some(node) = node else {
        return Err(format!("common name `{}` is not of the form system:node:NAME", info.cn));
    };
    if info.orgs != ["system:nodes"] {
        return Err("the organisation of a node's certificate is system:nodes".to_owned());
    }
    match signer {
        SIGNER_NODE_CLIENT if !info.sans.is_empty() => Err("a node's client certificate names no hosts".to_owned()),
        // A node speaks for itself only: with another's name it could play the hub to its neighbours.
        SIGNER_NODE_SERVING => match info.sans.iter().find(|san| !is_own_name(san, node)) {
            Some(other) => Err(format!("{other:?} is not a name of node {node}")),
            None if info.sans.is_empty() => Err("a serving certificate names at least one host".to_owned()),
            None => Ok(usage),
        },
        _ => Ok(usage),
    }
}

fn is_own_name(san: &San, node: &str) -> bool {
    match san {
        // Nodes know the hub by the name `kubernetes`, whatever its address: no node may bear it.
        San::Dns(name) => (name == node && !name.starts_with("kubernetes")) || name == "localhost",
        San::Ip(_) => true,
    }
}

/// Whether nobody needs to be asked.
fn may_approve(signer: &str, request: &Value, info: &CsrInfo) -> bool {
    let spec = &request["spec"];
    let is_itself = spec["username"] == info.cn.as_str();
    let is_bootstrapper = spec["groups"].as_array().into_iter().flatten().any(|group| group == "system:bootstrappers");
    match signer {
        SIGNER_NODE_CLIENT => is_itself || is_bootstrapper,
        SIGNER_NODE_SERVING => is_itself,
        _ => false,
    }
}

/// One run over all requests.
pub(crate) async fn reconcile(
    ca: &Arc<Ca>,
    lister: &dyn Lister,
    writer: &Writer,
    recorder: &Recorder,
    now: Timestamp,
) -> Result<(), WriteError> {
    let kind = Kind::CertificateSigningRequest;
    let mut failures = FirstFailure::default();
    for request in lister.list(kind).values() {
        let name = request["metadata"]["name"].as_str().unwrap_or_default();
        let mut changed = (**request).clone();
        let (subresource, condition) = match step(request) {
            Step::Nothing => continue,
            Step::Approve => {
                let message = "Asked for by a node or its bootstrap token.";
                ("approval", Some(("Approved", "AutoApproved", message.to_owned())))
            }
            Step::Fail(reason) => ("status", Some(("Failed", "SignerValidationFailure", reason))),
            Step::Sign(usage) => match sign(ca, request, usage) {
                Ok(pem) => {
                    changed["status"]["certificate"] = json!(BASE64.encode(pem));
                    info!(name, signer = %request["spec"]["signerName"], "Signed a certificate.");
                    ("status", None)
                }
                Err(reason) => ("status", Some(("Failed", "SigningError", reason))),
            },
        };
        if let Some((r#type, reason, message)) = condition {
            if r#type == "Failed" {
                recorder.warning(kind, request, reason, message.clone());
            }
            add_condition(&mut changed, r#type, reason, &message, now);
        }
        failures.note(writer.replace_subresource(kind, name, subresource, &changed).await);
    }
    failures.into_result()
}

fn add_condition(request: &mut Value, r#type: &str, reason: &str, message: &str, now: Timestamp) {
    let condition = json!({
        "type": r#type, "status": "True", "reason": reason, "message": message,
        "lastUpdateTime": seconds(now), "lastTransitionTime": seconds(now),
    });
    let status = &mut request["status"];
    match status["conditions"].as_array_mut() {
        Some(conditions) => conditions.push(condition),
        None => {
            let mut fresh = json!({"conditions": [condition]});
            if let Some(certificate) = status.get("certificate") {
                fresh["certificate"] = certificate.clone();
            }
            *status = fresh;
        }
    }
}

fn sign(ca: &Ca, request: &Value, usage: Usage) -> Result<String, String> {
    let pem = pem(request)?;
    let asked = request["spec"]["expirationSeconds"].as_u64();
    let validity = asked.map_or(VALIDITY, |seconds| Duration::from_secs(seconds.max(VALIDITY_MIN_S)).min(VALIDITY));
    ca.sign_csr(&pem, usage, validity).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
