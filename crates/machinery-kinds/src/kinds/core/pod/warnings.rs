//! What is stored as written and will not do what its author thinks.

mod overlaps;
mod ports;

use std::collections::BTreeSet;

use serde_json::Value;

use super::{prepare::APP_ARMOR_ANNOTATION_PREFIX, rules::each_container};
use crate::{
    checks,
    kinds::{core::persistent_volume_claim::claim_spec_warnings, node_labels},
    kit::{Path, Read},
};

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER_PREFIX: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Annotations that do nothing any more.
const DEAD_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

/// Volumes whose drivers are removed: the key, what upstream calls it, and since when.
const DEAD_VOLUMES: [(&str, &str, &str); 9] = [
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Warnings about a new pod. A new version gives none.
pub(super) fn of_pod(pod: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some() {
        return Vec::new();
    }
    let what = "this is used in the Pod's hostname";
    let mut warnings = name(pod, what);
    collect(pod, &Path::ROOT, false, &mut warnings);
    warnings
}

/// Warnings about the name of an object whose pods are named after it.
pub(crate) fn of_name(object: &Value) -> Vec<String> {
    name(object, "this is used in Pod names and hostnames")
}

fn name(object: &Value, what: &str) -> Vec<String> {
    let messages = checks::dns_label(object.part("metadata").text("name"));
    if messages.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: {what}, which can result in surprising behavior; a DNS label is recommended: [{}]",
        messages.join(" ")
    )]
}

/// Whether a new version has another spec than the old one, or is a new object: only then are there warnings.
pub(crate) fn is_new_spec(new: &Value, old: Option<&Value>) -> bool {
    let generation = |object: &Value| object.part("metadata").int("generation");
    old.is_none_or(|old| generation(old) != generation(new))
}

/// Warnings about a template, which is at `path`.
pub(crate) fn of_template(template: &Value, path: &Path<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    collect(template, path, true, &mut warnings);
    warnings
}

fn collect(holder: &Value, path: &Path<'_>, is_template: bool, warnings: &mut Vec<String>) {
    let (metadata, spec) = (holder.part("metadata"), holder.part("spec"));
    let (at, annotations) = (path.field("spec"), path.field("metadata.annotations"));
    node_selection(spec, &at, warnings);
    spread(spec, &at, warnings);
    for (key, message) in DEAD_ANNOTATIONS {
        if metadata.part("annotations").has(key) {
            warnings.push(format!("{}: {message}", annotations.key(key)));
        }
    }
    volumes(spec, &at, warnings);
    overlaps::collect(spec.items("volumes"), warnings);
    duplicates(spec, &at, warnings);
    fractions(spec.part("overhead"), &at.field("overhead"), warnings);
    let found = metadata.part("annotations");
    if !spec.part("securityContext").has("seccompProfile") && found.has(SECCOMP_POD) {
        warnings.push(seccomp(SECCOMP_POD, &annotations));
    }
    each_container(spec, &at, |container, at| {
        let security = container.part("securityContext");
        let key = format!("{SECCOMP_CONTAINER_PREFIX}{}", container.text("name"));
        if !security.has("seccompProfile") && found.has(&key) {
            warnings.push(seccomp(&key, &annotations));
        }
        let key = format!("{APP_ARMOR_ANNOTATION_PREFIX}{}", container.text("name"));
        if let Some(annotation) = found.some(&key).and_then(Value::as_str) {
            let profile = super::prepare::app_armor_profile(annotation);
            let of_pod = spec.part("securityContext").some("appArmorProfile");
            // A pod has the field of its annotation by now.
            let is_from_annotation = !is_template && security.some("appArmorProfile") == profile.as_ref();
            let is_worth_saying = (!security.has("appArmorProfile") || is_from_annotation)
                && (profile.is_none() || of_pod != profile.as_ref());
            if is_worth_saying {
                let message = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
                warnings.push(format!("{}: {message}", annotations.key(&key)));
            }
        }
        let resources = at.field("resources");
        for list in ["limits", "requests"] {
            fractions(container.part("resources").part(list), &resources.field(list), warnings);
        }
        hidden_variables(container, &at.field("env"), warnings);
    });
    ports::collect(spec, &at, warnings);
    if spec.int("terminationGracePeriodSeconds") < 0 {
        let message = "must be >= 0; negative values are invalid and will be treated as 1";
        warnings.push(format!("{}: {message}", at.field("terminationGracePeriodSeconds")));
    }
    pod_affinity(spec, &at, warnings);
    let servers = at.field("dnsConfig.nameservers");
    for (number, server) in spec.part("dnsConfig").texts("nameservers").enumerate() {
        warnings.extend(checks::ip_warning(server, &servers.index(number)));
    }
    let aliases = at.field("hostAliases");
    for (number, alias) in spec.items("hostAliases").iter().enumerate() {
        warnings.extend(checks::ip_warning(alias.text("ip"), &aliases.index(number).field("ip")));
    }
}

fn seccomp(key: &str, annotations: &Path<'_>) -> String {
    format!("{}: non-functional in v1.27+; use the \"seccompProfile\" field instead", annotations.key(key))
}

fn node_selection(spec: &Value, path: &Path<'_>, warnings: &mut Vec<String>) {
    let at = path.field("nodeSelector");
    for (key, _) in spec.entries("nodeSelector") {
        if let Some(message) = node_labels::deprecated_label(key) {
            warnings.push(format!("{}: {message}", at.key(key)));
        }
    }
    let nodes = spec.part("affinity").part("nodeAffinity");
    let at = path.field("affinity.nodeAffinity");
    let required = at.field(REQUIRED);
    let terms = required.field("nodeSelectorTerms");
    for (number, term) in nodes.part(REQUIRED).items("nodeSelectorTerms").iter().enumerate() {
        node_term(term, false, &terms.index(number), warnings);
    }
    let preferred = at.field(PREFERRED);
    for (number, term) in nodes.items(PREFERRED).iter().enumerate() {
        node_term(term.part("preference"), true, &preferred.index(number).field("preference"), warnings);
    }
}

fn node_term(term: &Value, has_any_value: bool, path: &Path<'_>, warnings: &mut Vec<String>) {
    let at = path.field("matchExpressions");
    for (number, expression) in term.items("matchExpressions").iter().enumerate() {
        let at = at.index(number);
        let key = expression.text("key");
        if let Some(message) = node_labels::deprecated_label(key) {
            warnings.push(format!("{}: {key} is {message}", at.field("key")));
        }
        if !has_any_value {
            continue;
        }
        let at = at.field("values");
        for (number, value) in expression.texts("values").enumerate() {
            for message in checks::label_value(value) {
                warnings.push(format!("{}: {value} is invalid, {message}", at.index(number)));
            }
        }
    }
}

fn spread(spec: &Value, path: &Path<'_>, warnings: &mut Vec<String>) {
    let at = path.field("topologySpreadConstraints");
    for (number, constraint) in spec.items("topologySpreadConstraints").iter().enumerate() {
        let at = at.index(number);
        let key = constraint.text("topologyKey");
        if let Some(message) = node_labels::deprecated_label(key) {
            warnings.push(format!("{}: {key} is {message}", at.field("topologyKey")));
        }
        if !constraint.has("labelSelector") {
            warnings.push(null_selector(&at.field("labelSelector")));
        }
    }
}

fn null_selector(path: &Path<'_>) -> String {
    format!("{path}: a null labelSelector results in matching no pod")
}

fn pod_affinity(spec: &Value, path: &Path<'_>, warnings: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = spec.part("affinity").part(kind);
        let at = path.field("affinity");
        let at = at.field(kind);
        let required = at.field(REQUIRED);
        for (number, term) in pods.items(REQUIRED).iter().enumerate() {
            if !term.has("labelSelector") {
                warnings.push(null_selector(&required.index(number).field("labelSelector")));
            }
        }
        let preferred = at.field(PREFERRED);
        for (number, term) in pods.items(PREFERRED).iter().enumerate() {
            if !term.part("podAffinityTerm").has("labelSelector") {
                warnings.push(null_selector(&preferred.index(number).field("podAffinityTerm.labelSelector")));
            }
        }
    }
}

fn volumes(spec: &Value, path: &Path<'_>, warnings: &mut Vec<String>) {
    let at = path.field("volumes");
    for (number, volume) in spec.items("volumes").iter().enumerate() {
        let at = at.index(number);
        for (key, shown, message) in DEAD_VOLUMES {
            if volume.has(key) {
                warnings.push(format!("{}: {message}", at.field(shown)));
            }
        }
        if let Some(template) = volume.part("ephemeral").some("volumeClaimTemplate") {
            let at = at.field("ephemeral.volumeClaimTemplate.spec");
            warnings.extend(claim_spec_warnings(template.part("spec"), &at));
        }
    }
}

/// Names and addresses of which one is enough.
fn duplicates(spec: &Value, path: &Path<'_>, warnings: &mut Vec<String>) {
    for (list, key) in [("hostAliases", "ip"), ("imagePullSecrets", "name")] {
        let at = path.field(list);
        let mut seen = BTreeSet::new();
        for (number, item) in spec.items(list).iter().enumerate() {
            let value = item.text(key);
            if !seen.insert(value) {
                warnings.push(format!("{}: duplicate {key} {value:?}", at.index(number).field(key)));
            }
        }
    }
    let at = path.field("imagePullSecrets");
    for (number, secret) in spec.items("imagePullSecrets").iter().enumerate() {
        if secret.text("name").is_empty() {
            warnings.push(format!("{}: invalid empty name \"\"", at.index(number).field("name")));
        }
    }
}

/// Bytes come whole.
fn fractions(amounts: &Value, path: &Path<'_>, warnings: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        let amount = checks::quantity(amounts.part(name));
        if amount.milli_value() % 1000 != 0 {
            warnings
                .push(format!("{}: fractional byte value \"{amount}\" is invalid, must be an integer", path.key(name)));
        }
    }
}

/// A variable that is there twice, and does not add to what it was.
fn hidden_variables(container: &Value, path: &Path<'_>, warnings: &mut Vec<String>) {
    let mut names = BTreeSet::new();
    for (number, variable) in container.items("env").iter().enumerate() {
        let (name, value) = (variable.text("name"), variable.text("value"));
        if names.insert(name) {
            continue;
        }
        let reference = format!("$({name})");
        if variable.has("valueFrom") || value == reference || !value.contains(&reference) {
            warnings.push(format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                path.index(number)
            ));
        }
    }
}
