//! Volumes whose drivers were once a part of Kubernetes.

use serde_json::Value;

use super::{descending_path, required_text};
use crate::{
    checks,
    kit::{Errors, Path, Read},
};

/// Checks a source of the kind `driver`, which is at `path`; the volume is at `volume`.
pub(super) fn validate(
    driver: &str,
    source: &Value,
    name: &str,
    volume: &Path<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut required = |keys: &[&str]| keys.iter().for_each(|key| required_text(source, key, path, errors));
    match driver {
        "gitRepo" => {
            required(&["repository"]);
            descending_path(source.text("directory"), &path.field("directory"), errors);
        }
        "gcePersistentDisk" => {
            required(&["pdName"]);
            partition(source, path, errors);
        }
        "awsElasticBlockStore" => {
            required(&["volumeID"]);
            partition(source, path, errors);
        }
        "nfs" => {
            required(&["server", "path"]);
            let place = source.text("path");
            if !place.starts_with('/') {
                errors.invalid(&path.field("path"), place, "must be an absolute path");
            }
        }
        "iscsi" => {
            iscsi(source, path, errors);
            iscsi_name_of(source, name, volume, errors);
        }
        "glusterfs" => required(&["endpoints", "path"]),
        "flocker" => flocker(source, path, errors),
        "rbd" => {
            monitors(source, path, errors);
            required_text(source, "image", path, errors);
        }
        "cinder" => {
            required(&["volumeID"]);
            secret_name(source, path, errors);
        }
        "cephfs" => monitors(source, path, errors),
        "quobyte" => quobyte(source, path, errors),
        "fc" => fibre_channel(source, path, errors),
        "flexVolume" => {
            required(&["driver"]);
            flex_options(source, path, errors);
        }
        "azureFile" => required(&["secretName", "shareName"]),
        "vsphereVolume" => required(&["volumePath"]),
        "photonPersistentDisk" => required(&["pdID"]),
        "portworxVolume" => required(&["volumeID"]),
        "azureDisk" => azure_disk(source, path, errors),
        "storageos" => storage_os(source, path, errors),
        "scaleIO" => required(&["gateway", "system", "volumeName"]),
        _ => {}
    }
}

fn partition(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let partition = source.int("partition");
    if !(0..=255).contains(&partition) {
        errors.invalid(&path.field("partition"), partition, checks::range_message(1, 255));
    }
}

fn monitors(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    if source.items("monitors").is_empty() {
        errors.required(&path.field("monitors"), "");
    }
}

fn secret_name(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    if source.some("secretRef").is_some_and(|secret| secret.text("name").is_empty()) {
        errors.required(&path.field("secretRef.name"), "");
    }
}

fn iscsi(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    required_text(source, "targetPortal", path, errors);
    let target = source.text("iqn");
    let at = path.field("iqn");
    if target.is_empty() {
        errors.required(&at, "");
    } else if !has_iscsi_prefix(target) {
        errors.invalid(&at, target, "must be valid format starting with iqn, eui, or naa");
    } else if !is_iscsi_name(target) {
        errors.invalid(&at, target, "must be valid format");
    }
    let lun = source.int("lun");
    if !(0..=255).contains(&lun) {
        errors.invalid(&path.field("lun"), lun, checks::range_message(0, 255));
    }
    if (source.flag("chapAuthDiscovery") || source.flag("chapAuthSession")) && !source.has("secretRef") {
        errors.required(&path.field("secretRef"), "");
    }
    if source.has("initiatorName") {
        let initiator = source.text("initiatorName");
        let at = path.field("initiatorname");
        if !has_iscsi_prefix(initiator) {
            errors.invalid(&at, initiator, "must be valid format starting with iqn, eui, or naa");
        } else if !is_iscsi_name(initiator) {
            errors.invalid(&at, initiator, "must be valid format");
        }
    }
}

/// The name of a directory is made of the volume's name and the portal's.
pub(super) fn iscsi_name(volume: &Value, path: &Path<'_>, errors: &mut Errors) {
    iscsi_name_of(volume.part("iscsi"), volume.text("name"), path, errors);
}

fn iscsi_name_of(source: &Value, name: &str, path: &Path<'_>, errors: &mut Errors) {
    if source.has("initiatorName") && name.len() + 1 + source.text("targetPortal").len() > 64 {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if \
                      iscsi.initiatorName is specified.";
        errors.invalid(&path.field("name"), name, detail);
    }
}

fn has_iscsi_prefix(name: &str) -> bool {
    ["iqn", "eui", "naa"].iter().any(|prefix| name.starts_with(prefix))
}

/// `iqn.2001-04.com.example:storage`, `eui.` and sixteen, or `naa.` and thirty-two letters and digits.
fn is_iscsi_name(name: &str) -> bool {
    let is_rest = |rest: &str, length: usize| {
        let mut characters = rest.chars();
        characters.next().is_some()
            && characters.as_str().len() == length
            && characters.as_str().chars().all(|character| character.is_ascii_alphanumeric())
    };
    if let Some(rest) = name.strip_prefix("eui") {
        return is_rest(rest, 16);
    }
    if let Some(rest) = name.strip_prefix("naa") {
        return is_rest(rest, 32);
    }
    let Some(rest) = name.strip_prefix("iqn.") else { return false };
    let Some((date, rest)) = rest.split_once('.') else { return false };
    let is_date = date.split_once('-').is_some_and(|(year, month)| {
        let is_digits = |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
        is_digits(year, 4) && is_digits(month, 2)
    });
    let Some((authority, target)) = rest.split_once(':') else { return false };
    is_date
        && !authority.is_empty()
        && authority.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
        && !target.is_empty()
        && !target.chars().any(|c| c.is_ascii_whitespace() || matches!(c, ',' | ';' | '*' | '&' | '$' | '|'))
}

fn flocker(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (name, uuid) = (source.text("datasetName"), source.text("datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        errors.required(path, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uuid.is_empty() {
        errors.invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously");
    }
    if name.contains('/') {
        errors.invalid(&path.field("datasetName"), name, "must not contain '/'");
    }
}

fn quobyte(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = source.text("registry");
    if registry.is_empty() {
        errors.required(&path.field("registry"), PAIRS);
    } else if source.text("tenant").len() >= 65 {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.required(&path.field("tenant"), detail);
    } else {
        for pair in registry.split(',') {
            if !is_host_and_port(pair) {
                errors.invalid(&path.field("registry"), registry, PAIRS);
            }
        }
    }
    required_text(source, "volume", path, errors);
}

/// `host:port`, or `[address]:port`.
fn is_host_and_port(pair: &str) -> bool {
    let Some((host, _port)) = pair.rsplit_once(':') else { return false };
    match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').is_some_and(|inner| !inner.contains(['[', ']'])),
        None => !host.contains([':', '[', ']']),
    }
}

fn fibre_channel(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (names, ids) = (source.items("targetWWNs"), source.items("wwids"));
    let at = path.field("targetWWNs");
    if names.is_empty() && ids.is_empty() {
        errors.required(&at, "must specify either targetWWNs or wwids, but not both");
    }
    if !names.is_empty() && !ids.is_empty() {
        errors.invalid(&at, names, "targetWWNs and wwids can not be specified simultaneously");
    }
    if !names.is_empty() {
        match source.some_int("lun") {
            None => errors.required(&path.field("lun"), "lun is required if targetWWNs is specified"),
            Some(lun) if !(0..=255).contains(&lun) => {
                errors.invalid(&path.field("lun"), lun, checks::range_message(0, 255));
            }
            Some(_) => {}
        }
    }
}

fn flex_options(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (key, _) in source.entries("options") {
        let namespace = key.split_once('/').map_or(key, |(namespace, _)| namespace);
        let normalized = format!(".{}", namespace.to_lowercase());
        if normalized.ends_with(".kubernetes.io") || normalized.ends_with(".k8s.io") {
            let at = path.field("options");
            errors.invalid(&at.key(key), key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

fn azure_disk(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    const CACHING_MODES: [&str; 3] = ["None", "ReadOnly", "ReadWrite"];
    const KINDS: [&str; 3] = ["Dedicated", "Managed", "Shared"];
    const MANAGED: &str =
        "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    required_text(source, "diskName", path, errors);
    required_text(source, "diskURI", path, errors);
    for (key, allowed) in [("cachingMode", CACHING_MODES), ("kind", KINDS)] {
        let word = source.text(key);
        if source.has(key) && !allowed.contains(&word) {
            errors.not_supported(&path.field(key), word, &allowed);
        }
    }
    let uri = source.text("diskURI");
    let at = path.field("diskURI");
    match source.some("kind").and_then(Value::as_str) {
        Some("Managed") if !uri.starts_with("/subscriptions/") => errors.not_supported(&at, uri, &[MANAGED]),
        Some("Managed") | None => {}
        Some(_) if !uri.starts_with("https://") => errors.not_supported(&at, uri, &[BLOB]),
        Some(_) => {}
    }
}

fn storage_os(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let name = source.text("volumeName");
    if name.is_empty() {
        errors.required(&path.field("volumeName"), "");
    } else {
        errors.invalid_each(&path.field("volumeName"), name, checks::dns_label(name));
    }
    let namespace = source.text("volumeNamespace");
    if !namespace.is_empty() {
        errors.invalid_each(&path.field("volumeNamespace"), namespace, checks::dns_label(namespace));
    }
    secret_name(source, path, errors);
}
