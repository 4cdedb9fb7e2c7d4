//! Volumes: names, and that each has one source; the sources of today. Those of old drivers are in [`super::drivers`].

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Options, at_most_one, claims, drivers, environment, file_mode, local_path, no_backsteps, projected};
use crate::{
    checks,
    kit::{Errors, Path, Read},
};

/// The sources in the order in which they are looked for; the first one counts.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// Checks the volumes of a spec; returns those that are right, by name.
pub(super) fn validate<'s>(
    spec: &'s Value,
    metadata: Option<&Value>,
    options: Options,
    path: &Path<'_>,
    errors: &mut Errors,
) -> BTreeMap<&'s str, &'s Value> {
    let volumes = spec.items("volumes");
    let pod_name = metadata.map_or("", |metadata| metadata.text("name"));
    let created_claims: BTreeSet<String> = volumes
        .iter()
        .filter(|volume| !pod_name.is_empty() && volume.has("ephemeral"))
        .map(|volume| format!("{pod_name}-{}", volume.text("name")))
        .collect();
    let mut good = BTreeMap::new();
    for (number, volume) in volumes.iter().enumerate() {
        let at = path.index(number);
        let mut found = Errors::default();
        source(volume, pod_name, options, &at, &mut found);
        let name = volume.text("name");
        if name.is_empty() {
            found.required(&at.field("name"), "");
        } else {
            found.invalid_each(&at.field("name"), name, checks::dns_label(name));
        }
        if good.contains_key(name) {
            found.duplicate(&at.field("name"), name);
        }
        if found.is_empty() {
            good.insert(name, volume);
        }
        errors.extend(found.into_vec());
        let claim = volume.part("persistentVolumeClaim").text("claimName");
        if volume.has("persistentVolumeClaim") && created_claims.contains(claim) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.invalid(&at.field("persistentVolumeClaim").field("claimName"), claim, detail);
        }
    }
    good
}

fn source(volume: &Value, pod_name: &str, options: Options, path: &Path<'_>, errors: &mut Errors) {
    let before = errors.len();
    let found = at_most_one(volume, &SOURCES, "may not specify more than 1 volume type", path, errors);
    // Upstream names two of the sources differently where they are not the first.
    if errors.len() > before {
        let renamed = std::mem::take(errors).into_vec().into_iter().map(|mut error| {
            for (name, shown) in [(".cephfs", ".cephFS"), (".downwardAPI", ".downwarAPI")] {
                if error.path.ends_with(name) {
                    error.path = error.path.replace(name, shown);
                }
            }
            error
        });
        errors.extend(renamed.collect::<Vec<_>>());
    }
    let Some((kind, source)) = found else {
        errors.required(path, "must specify a volume type");
        return;
    };
    let at = path.field(if kind == "gcePersistentDisk" { "persistentDisk" } else { kind });
    match kind {
        "emptyDir" => {
            if source.has("sizeLimit") && checks::quantity(source.part("sizeLimit")).is_negative() {
                errors.forbidden(&at.field("sizeLimit"), "SizeLimit field must be a valid resource quantity");
            }
        }
        "hostPath" => host_path(source, &at, errors),
        "secret" => keys(source, "secretName", &at, errors),
        "configMap" => keys(source, "name", &at, errors),
        "persistentVolumeClaim" => super::required_text(source, "claimName", &at, errors),
        "downwardAPI" => {
            file_mode(source, "defaultMode", &at, errors);
            for file in source.items("items") {
                downward_file(file, &at, errors);
            }
        }
        "projected" => projected::validate(source, options, &at, errors),
        "csi" => csi(source, &at, errors),
        "ephemeral" => {
            match source.some("volumeClaimTemplate") {
                None => errors.required(&at.field("volumeClaimTemplate"), ""),
                Some(template) => claims::template(template, &at.field("volumeClaimTemplate"), errors),
            }
            let name = volume.text("name");
            if !pod_name.is_empty() && !name.is_empty() {
                let claim = format!("{pod_name}-{name}");
                for message in checks::dns_subdomain(&claim) {
                    errors.invalid(&path.field("name"), name, format!("PVC name {claim:?}: {message}"));
                }
            }
        }
        "image" => {
            if options.is_pod {
                super::required_text(source, "reference", &at, errors);
            }
            super::containers::pull_policy(source.text("pullPolicy"), &at.field("pullPolicy"), errors);
        }
        driver => drivers::validate(driver, source, volume.text("name"), path, &at, errors),
    }
    if kind != "iscsi" && volume.has("iscsi") {
        drivers::iscsi_name(volume, path, errors);
    }
}

fn host_path(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    const TYPES: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let place = source.text("path");
    if place.is_empty() {
        errors.required(&path.field("path"), "");
        return;
    }
    no_backsteps(place, &path.field("path"), errors);
    let kind = source.text("type");
    if !TYPES.contains(&kind) {
        errors.not_supported(&path.field("type"), kind, &TYPES);
    }
}

/// A Secret or ConfigMap as a directory of files.
fn keys(source: &Value, name: &str, path: &Path<'_>, errors: &mut Errors) {
    super::required_text(source, name, path, errors);
    file_mode(source, "defaultMode", path, errors);
    let at = path.field("items");
    for (number, item) in source.items("items").iter().enumerate() {
        key_to_path(item, &at.index(number), errors);
    }
}

pub(super) fn key_to_path(item: &Value, path: &Path<'_>, errors: &mut Errors) {
    super::required_text(item, "key", path, errors);
    super::required_text(item, "path", path, errors);
    local_path(item.text("path"), &path.field("path"), errors);
    file_mode(item, "mode", path, errors);
}

/// A file with a field of the pod, or of its resources.
pub(super) fn downward_file(file: &Value, path: &Path<'_>, errors: &mut Errors) {
    super::required_text(file, "path", path, errors);
    local_path(file.text("path"), &path.field("path"), errors);
    match (file.some("fieldRef"), file.some("resourceFieldRef")) {
        (Some(field), other) => {
            environment::field(field, &environment::VOLUME_FIELDS, &path.field("fieldRef"), errors);
            if other.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid(path, "resource", detail);
            }
        }
        (None, Some(field)) => environment::resource_field(field, true, &path.field("resourceFieldRef"), errors),
        (None, None) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    file_mode(file, "mode", path, errors);
}

fn csi(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    csi_driver_name(source.text("driver"), &path.field("driver"), errors);
    let Some(secret) = source.some("nodePublishSecretRef") else { return };
    let name = secret.text("name");
    if name.is_empty() {
        errors.required(&path.field("nodePublishSecretRef").field("name"), "");
    } else {
        errors.invalid_each(&path.field("name"), name, checks::dns_subdomain(name));
    }
}

/// The name of a driver of volumes.
fn csi_driver_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    if name.len() > 63 {
        errors.too_long(path, 63);
    }
    errors.invalid_each(path, name, checks::dns_subdomain(&name.to_lowercase()));
}
