//! Kinds of the group `certificates.k8s.io`: requests for certificates, who approves them, and what is issued.
//!
//! Three views of one object are written by three parties: the request itself by whoever needs the certificate, `approval` by
//! whoever decides, `status` by the signer. None of them may write what is another's.

mod pem;
mod rules;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    kit::{Read, Write},
    metadata::{NameRule, OnUpdate},
    strategy::{Part, Selectable, Strategy},
    table::printers,
};

/// Reads the request for a certificate that a text in PEM holds: its DER. Who signed it is not looked at.
///
/// # Errors
/// What a kube-apiserver says of a text that holds none.
pub fn parse_signing_request(pem: &str) -> Result<Vec<u8>, String> {
    pem::request_bytes(pem)
}

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    (kind == "CertificateSigningRequest").then_some(&SIGNING_REQUEST)
}

static SIGNING_REQUEST: Strategy = Strategy {
    // Any name that fits into a URL.
    name_rule: NameRule::ByKind,
    metadata_on_update: OnUpdate::WholeAndChanges,
    prepare_create: |request, creation| {
        let spec = request.make("spec");
        for key in ["username", "uid", "groups", "extra"] {
            spec.unset(key);
        }
        if !creation.user.is_empty() {
            spec.set("username", creation.user);
        }
        if !creation.groups.is_empty() {
            spec.set("groups", creation.groups.to_vec());
        }
        request.set("status", json!({}));
    },
    prepare_update: |new, old| new.restore("spec", old),
    parts: &[
        Part {
            prepare: |new, old| {
                new.restore("spec", old);
                keep_conditions(new, old, "Approved");
                keep_conditions(new, old, "Denied");
                stamp_conditions(new, old);
            },
            validate: |new, old, errors| rules::update(new, old, rules::Writer::Signer, errors),
            ..Part::STATUS
        },
        Part {
            name: "approval",
            prepare: |new, old| {
                stamp_conditions(new, old);
                let conditions = new.part("status").some("conditions").cloned();
                new.restore("spec", old);
                new.restore("status", old);
                let status = new.make("status");
                match conditions {
                    Some(conditions) => status.set("conditions", conditions),
                    None => drop(status.unset("conditions")),
                }
            },
            validate: |new, old, errors| rules::update(new, old, rules::Writer::Approver, errors),
        },
    ],
    selectable: &[Selectable::field("spec.signerName")],
    validate: rules::create,
    validate_update: Some(|new, old, errors| rules::update(new, old, rules::Writer::Requester, errors)),
    printer: &printers::SIGNING_REQUESTS,
    ..Strategy::PLAIN
};

/// Puts conditions of a type back to what they were, where there are as many as before. Where there are not, the rules say so.
fn keep_conditions(new: &mut Value, old: &Value, kind: &str) {
    let before: Vec<&Value> = rules::conditions(old).filter(|condition| condition.text("type") == kind).collect();
    let Some(status) = new.some_mut("status").filter(|status| status.is_object()) else { return };
    let now: Vec<&mut Value> =
        status.items_mut("conditions").iter_mut().filter(|condition| condition.text("type") == kind).collect();
    if now.len() == before.len() {
        now.into_iter().zip(before).for_each(|(now, before)| *now = before.clone());
    }
}

/// Writes when a condition was reported, and since when it holds, where its author does not say.
fn stamp_conditions(new: &mut Value, old: &Value) {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default().to_string();
    let Some(status) = new.some_mut("status").filter(|status| status.is_object()) else { return };
    for condition in status.items_mut("conditions").iter_mut().filter(|condition| condition.is_object()) {
        if condition.text("lastUpdateTime").is_empty() {
            condition.set("lastUpdateTime", now.as_str());
        }
        if condition.text("lastTransitionTime").is_empty() {
            let same = |before: &&Value| {
                before.text("type") == condition.text("type")
                    && before.text("status") == condition.text("status")
                    && !before.text("lastTransitionTime").is_empty()
            };
            let since =
                rules::conditions(old).find(same).map_or(now.as_str(), |before| before.text("lastTransitionTime"));
            condition.set("lastTransitionTime", since);
        }
    }
}
