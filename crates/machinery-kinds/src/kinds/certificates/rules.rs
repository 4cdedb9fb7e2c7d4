//! What a request for a certificate must be, and what each of its writers may change.

use api_kube::base64_text;
use machinery_schema::field_error::{json_text, quoted};
use serde_json::Value;

use super::pem;
use crate::{
    checks::{self, DNS_SUBDOMAIN_BYTES_MAX},
    kit::{Errors, Path, Read},
};

const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
/// A label and a subdomain fit into the second part of a signer's name.
const SIGNER_NAME_BYTES_MAX: usize = DNS_SUBDOMAIN_BYTES_MAX + DNS_SUBDOMAIN_BYTES_MAX + 63 + 2;
const EXPIRATION_SECONDS_MIN: i64 = 600;

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// Who writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// The object itself.
    Requester,
    /// Its `approval`.
    Approver,
    /// Its `status`.
    Signer,
}

/// What is not asked because the old version has it already.
#[derive(Default)]
struct Tolerated {
    both_decisions: bool,
    legacy_signer: bool,
    duplicate_types: bool,
    empty_types: bool,
    any_certificate: bool,
    duplicate_usages: bool,
    unknown_usages: bool,
}

pub(super) fn conditions(request: &Value) -> impl Iterator<Item = &Value> {
    request.part("status").items("conditions").iter()
}

pub(super) fn create(request: &Value, errors: &mut Errors) {
    validate(request, &Tolerated::default(), errors);
}

pub(super) fn update(new: &Value, old: &Value, writer: Writer, errors: &mut Errors) {
    let certificate = |request: &Value| certificate_text(request);
    let has = |kind: &str| conditions(old).any(|condition| condition.text("type") == kind);
    let types: Vec<&str> = conditions(old).map(|condition| condition.text("type")).collect();
    let usages: Vec<&str> = old.part("spec").texts("usages").collect();
    let (now, before) = (certificate(new), certificate(old));
    let tolerated = Tolerated {
        both_decisions: has("Approved") && has("Denied"),
        legacy_signer: old.part("spec").text("signerName") == LEGACY_SIGNER,
        duplicate_types: has_duplicates(&types),
        empty_types: types.contains(&""),
        any_certificate: now == before || pem::certificate_problem(&before).is_some(),
        duplicate_usages: has_duplicates(&usages),
        unknown_usages: usages.iter().any(|usage| !USAGES.contains(usage)),
    };
    validate(new, &tolerated, errors);
    let path = Path::at("status.conditions");
    let counts = |kind: &str| {
        let count = |request: &Value| conditions(request).filter(|condition| condition.text("type") == kind).count();
        (count(new), count(old))
    };
    for kind in ["Approved", "Denied", "Failed"] {
        let (now, before) = counts(kind);
        if now < before {
            errors.forbidden(&path, format!("updates may not remove a condition of type {}", quoted(kind)));
        }
    }
    if writer != Writer::Approver {
        for kind in ["Approved", "Denied"] {
            let (now, before) = counts(kind);
            if now > before {
                errors.forbidden(&path, format!("updates may not add a condition of type {}", quoted(kind)));
            }
        }
    }
    if now != before {
        let path = Path::at("status.certificate");
        if writer != Writer::Signer {
            errors.forbidden(&path, "updates may not set certificate content");
        } else if !before.is_empty() {
            errors.forbidden(&path, "updates may not modify existing certificate content");
        }
    }
}

fn has_duplicates(items: &[&str]) -> bool {
    items.iter().enumerate().any(|(number, item)| items[..number].contains(item))
}

/// The text in a field of bytes.
fn decoded(bytes: &str) -> String {
    base64_text::decode(bytes).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn certificate_text(request: &Value) -> String {
    decoded(request.part("status").text("certificate"))
}

fn validate(request: &Value, tolerated: &Tolerated, errors: &mut Errors) {
    let (path, spec) = (Path::at("spec"), request.part("spec"));
    if let Some(problem) = pem::request_problem(&decoded(spec.text("request"))) {
        // No bytes are nil, not empty ones, when nobody sent any.
        errors.invalid_as(&path.field("request"), &json_text(spec.part("request")), problem);
    }
    let at = path.field("usages");
    let usages: Vec<&str> = spec.texts("usages").collect();
    if usages.is_empty() {
        errors.required(&at, "");
    }
    for (number, usage) in usages.iter().enumerate() {
        if errors.is_full() {
            break;
        }
        if !tolerated.unknown_usages && !USAGES.contains(usage) {
            errors.not_supported(&at.index(number), *usage, &USAGES);
        }
        if !tolerated.duplicate_usages && usages[..number].contains(usage) {
            errors.duplicate(&at.index(number), *usage);
        }
    }
    let at = path.field("signerName");
    match spec.text("signerName") {
        LEGACY_SIGNER if !tolerated.legacy_signer => {
            errors.invalid(&at, LEGACY_SIGNER, "the legacy signerName is not allowed via this API version");
        }
        name => signer_name(name, &at, errors),
    }
    if let Some(seconds) = spec.some_int("expirationSeconds").filter(|seconds| *seconds < EXPIRATION_SECONDS_MIN) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(&path.field("expirationSeconds"), seconds, detail);
    }
    validate_conditions(request, tolerated, errors);
    if !tolerated.any_certificate
        && let Some(problem) = pem::certificate_problem(&certificate_text(request))
    {
        errors.invalid(&Path::at("status.certificate"), "<certificate data>", problem);
    }
}

/// `example.com/signer`: a domain of two or more labels, and a path of labels.
fn signer_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    let parts = name.split_once('/').filter(|(_, rest)| !rest.contains('/'));
    let Some((domain, rest)) = parts else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(path, name, detail);
    };
    if domain.len() > DNS_SUBDOMAIN_BYTES_MAX {
        errors.too_long(path, DNS_SUBDOMAIN_BYTES_MAX);
    }
    let labels = |text: &str, check: fn(&str) -> checks::Messages, errors: &mut Errors| {
        let found = text.split('.').map(|label| (label, check(label))).find(|(_, messages)| !messages.is_empty());
        for message in found.iter().flat_map(|(_, messages)| messages) {
            let label = quoted(found.as_ref().map_or("", |(label, _)| label));
            errors.invalid(path, text, format!("validating label {label}: {message}"));
        }
    };
    labels(domain, checks::dns_label, errors);
    if !domain.contains('.') {
        errors.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    labels(rest, checks::dns_subdomain, errors);
    if name.len() > SIGNER_NAME_BYTES_MAX {
        errors.too_long(path, SIGNER_NAME_BYTES_MAX);
    }
}

fn validate_conditions(request: &Value, tolerated: &Tolerated, errors: &mut Errors) {
    let path = Path::at("status.conditions");
    let all: Vec<&Value> = conditions(request).collect();
    let (mut approved, mut denied) = (false, false);
    for (number, condition) in all.iter().enumerate() {
        if errors.is_full() {
            break;
        }
        let (at, kind) = (path.index(number), condition.text("type"));
        if kind.is_empty() && !tolerated.empty_types {
            errors.required(&at.field("type"), "");
        }
        let allowed: &[&str] = match kind {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        match condition.text("status") {
            "" => errors.required(&at.field("status"), ""),
            status if !allowed.contains(&status) => errors.not_supported(&at.field("status"), status, allowed),
            _ => {}
        }
        approved |= kind == "Approved";
        denied |= kind == "Denied";
        if !tolerated.both_decisions && approved && denied && matches!(kind, "Approved" | "Denied") {
            errors.invalid(&path, kind, "Approved and Denied conditions are mutually exclusive");
        }
        if !tolerated.duplicate_types && all[..number].iter().any(|earlier| earlier.text("type") == kind) {
            errors.duplicate(&at.field("type"), kind);
        }
    }
}
