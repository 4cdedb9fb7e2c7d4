//! Environment variables, and fields of a pod that containers can read.

use serde_json::Value;

use super::{each_container, no_backsteps, required_text};
use crate::{
    checks,
    kit::{Errors, Path, Read},
};

/// Fields of the pod that files of a volume may have.
pub(super) const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Fields of the pod that a variable may have.
const VARIABLE_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields that can be read at all.
const KNOWN_FIELDS: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Amounts of the container that can be read.
const RESOURCE_FIELDS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub(super) fn validate(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("env");
    for (number, variable) in container.items("env").iter().enumerate() {
        let at = at.index(number);
        let name = variable.text("name");
        if name.is_empty() {
            errors.required(&at.field("name"), "");
        } else {
            errors.invalid_each(&at.field("name"), name, checks::env_name(name));
        }
        if let Some(from) = variable.some("valueFrom") {
            value_from(from, !variable.text("value").is_empty(), &at.field("valueFrom"), errors);
        }
    }
    let at = path.field("envFrom");
    for (number, source) in container.items("envFrom").iter().enumerate() {
        from(source, &at.index(number), &at, errors);
    }
}

fn value_from(from: &Value, has_value: bool, path: &Path<'_>, errors: &mut Errors) {
    let mut sources = 0;
    let mut source = |key: &'static str, check: &mut dyn FnMut(&Value, &Path<'_>)| {
        if let Some(source) = from.some(key) {
            sources += 1;
            check(source, &path.field(key));
        }
    };
    source("fieldRef", &mut |source, at| field(source, &VARIABLE_FIELDS, at, errors));
    source("resourceFieldRef", &mut |source, at| resource_field(source, false, at, errors));
    source("configMapKeyRef", &mut |source, at| key(source, at, errors));
    source("secretKeyRef", &mut |source, at| key(source, at, errors));
    source("fileKeyRef", &mut |source, at| file_key(source, at, errors));
    let detail = match sources {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        _ if has_value => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.invalid(path, "", detail);
}

/// A key of a ConfigMap or Secret.
fn key(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let name = source.text("name");
    errors.invalid_each(&path.field("name"), name, checks::dns_subdomain(name));
    let key = source.text("key");
    if key.is_empty() {
        errors.required(&path.field("key"), "");
    } else {
        errors.invalid_each(&path.field("key"), key, checks::config_key(key));
    }
}

/// A key of a file with variables.
fn file_key(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let key = source.text("key");
    if key.is_empty() {
        errors.required(&path.field("key"), "");
    } else {
        errors.invalid_each(&path.field("key"), key, checks::env_name(key));
    }
    let volume = source.text("volumeName");
    if volume.is_empty() {
        errors.required(&path.field("volumeName"), "");
    } else {
        errors.invalid_each(&path.field("volumeName"), volume, checks::dns_label(volume));
    }
    required_text(source, "path", path, errors);
    no_backsteps(source.text("path"), &path.field("path"), errors);
}

/// Variables from all keys of a ConfigMap or Secret.
fn from(source: &Value, path: &Path<'_>, list: &Path<'_>, errors: &mut Errors) {
    let prefix = source.text("prefix");
    if !prefix.is_empty() {
        errors.invalid_each(&path.field("prefix"), prefix, checks::env_name(prefix));
    }
    let mut sources = 0;
    for key in ["configMapRef", "secretRef"] {
        let Some(reference) = source.some(key) else { continue };
        sources += 1;
        let (at, name) = (path.field(key), reference.text("name"));
        if name.is_empty() {
            errors.required(&at.field("name"), "");
        } else {
            // As if it were the beginning of a name that the server completes.
            errors.invalid_each(&at.field("name"), name, checks::dns_subdomain(&unfinished(name)));
        }
    }
    match sources {
        0 => errors.invalid(list, "", "must specify one of: `configMapRef` or `secretRef`"),
        1 => {}
        _ => errors.invalid(list, "", "may not have more than one field specified at a time"),
    }
}

/// A name whose last dash may be followed by more.
fn unfinished(name: &str) -> String {
    match name.strip_suffix('-') {
        Some(begin) => format!("{begin}a"),
        None => name.to_owned(),
    }
}

/// A field of the pod, `metadata.labels['x']`.
pub(super) fn field(reference: &Value, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    let version = reference.text("apiVersion");
    if version.is_empty() {
        errors.required(&path.field("apiVersion"), "");
        return;
    }
    let given = reference.text("fieldPath");
    let at = path.field("fieldPath");
    if given.is_empty() {
        errors.required(&at, "");
        return;
    }
    if version != "v1" {
        let detail = format!("error converting fieldPath: unsupported pod version: {version}");
        errors.invalid(&at, given, detail);
        return;
    }
    if let Some((field, subscript)) = split_subscript(given) {
        match field {
            "metadata.annotations" => {
                let subscript = subscript.to_lowercase();
                errors.invalid_each(path, &subscript, checks::qualified_name(&subscript));
            }
            "metadata.labels" => errors.invalid_each(path, subscript, checks::qualified_name(subscript)),
            _ => {
                let detail = format!("error converting fieldPath: field label does not support subscript: {given}");
                errors.invalid(&at, given, detail);
            }
        }
        return;
    }
    // A name of the past.
    let field = if given == "spec.host" { "spec.nodeName" } else { given };
    if !KNOWN_FIELDS.contains(&field) {
        errors.invalid(&at, given, format!("error converting fieldPath: field label not supported: {given}"));
    } else if !allowed.contains(&field) {
        errors.not_supported(&at, field, allowed);
    }
}

/// `metadata.labels['x']` is a field and what is in the brackets.
fn split_subscript(path: &str) -> Option<(&str, &str)> {
    let (field, subscript) = path.strip_suffix("']")?.split_once("['")?;
    (!field.is_empty()).then_some((field, subscript))
}

/// An amount of a container's resources.
pub(super) fn resource_field(reference: &Value, in_volume: bool, path: &Path<'_>, errors: &mut Errors) {
    let resource = reference.text("resource");
    let is_huge_page = ["requests.hugepages-", "limits.hugepages-"].iter().any(|prefix| resource.starts_with(prefix));
    if in_volume && reference.text("containerName").is_empty() {
        errors.required(&path.field("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.field("resource"), "");
    } else if !RESOURCE_FIELDS.contains(&resource) && !is_huge_page {
        errors.not_supported(&path.field("resource"), resource, &RESOURCE_FIELDS);
    }
    let divisor = checks::quantity(reference.part("divisor"));
    if divisor.is_zero() {
        return;
    }
    const CPU: &[&str] = &["1m", "1"];
    const BYTES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    const BYTES_TEXT: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let (allowed, text, of) = match resource {
        "limits.cpu" | "requests.cpu" => (CPU, "1m and 1", "cpu"),
        "limits.memory" | "requests.memory" => (BYTES, BYTES_TEXT, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (BYTES, BYTES_TEXT, "local ephemeral storage"),
        _ if is_huge_page => (BYTES, BYTES_TEXT, "hugepages"),
        _ => return,
    };
    if !allowed.contains(&divisor.to_string().as_str()) {
        let detail = format!("only divisor's values {text} are supported with the {of} resource");
        errors.invalid(&path.field("divisor"), resource, detail);
    }
}

/// Files with variables are in a volume of the pod that its containers fill.
pub(super) fn files(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    each_container(spec, path, |container, at| {
        for (number, variable) in container.items("env").iter().enumerate() {
            let Some(file) = variable.part("valueFrom").some("fileKeyRef") else { continue };
            let name = file.text("volumeName");
            let at = at.field("env");
            let at = at.index(number);
            let at = at.field("valueFrom.fileKeyRef.volumeName");
            match spec.items("volumes").iter().rfind(|volume| volume.text("name") == name) {
                None => errors.not_found(&at, name),
                Some(volume) if !volume.has("emptyDir") => {
                    errors.invalid(&at, name, "referenced volume must be of type emptyDir");
                }
                Some(_) => {}
            }
        }
    });
}
