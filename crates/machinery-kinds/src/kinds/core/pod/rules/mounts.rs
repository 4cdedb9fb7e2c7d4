//! Volumes in containers: as directories, and as devices.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Context, descending_path};
use crate::kit::{Errors, Path, Read};

pub(super) fn validate(context: &Context<'_>, container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let places = |list: &str, key: &str| -> BTreeMap<String, String> {
        container.items(list).iter().map(|item| (item.text("name").to_owned(), item.text(key).to_owned())).collect()
    };
    let devices = places("volumeDevices", "devicePath");
    mounts(context, container, &devices, &path.field("volumeMounts"), errors);
    self::devices(context, container, &places("volumeMounts", "mountPath"), &path.field("volumeDevices"), errors);
}

fn mounts(
    context: &Context<'_>,
    container: &Value,
    devices: &BTreeMap<String, String>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut places = BTreeSet::new();
    for (number, mount) in container.items("volumeMounts").iter().enumerate() {
        let at = path.index(number);
        let (name, place) = (mount.text("name"), mount.text("mountPath"));
        if name.is_empty() {
            errors.required(&at.field("name"), "");
        }
        if !context.volumes.contains_key(name) {
            errors.not_found(&at.field("name"), name);
        }
        if place.is_empty() {
            errors.required(&at.field("mountPath"), "");
        }
        if !places.insert(place) {
            errors.invalid(&at.field("mountPath"), place, "must be unique");
        }
        if devices.contains_key(name) {
            errors.invalid(&at.field("name"), name, "must not already exist in volumeDevices");
        }
        if devices.values().any(|device| device == place) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.invalid(&at.field("mountPath"), place, detail);
        }
        // Upstream gives the list and not the mount as the place of what follows.
        let (sub_path, expression) = (mount.text("subPath"), mount.text("subPathExpr"));
        if !sub_path.is_empty() {
            descending_path(sub_path, &path.field("subPath"), errors);
        }
        if !expression.is_empty() {
            if !sub_path.is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                errors.invalid(&at.field("subPathExpr"), expression, detail);
            }
            descending_path(expression, &path.field("subPathExpr"), errors);
        }
        if mount.has("mountPropagation") {
            propagation(mount, container, &path.field("mountPropagation"), errors);
        }
        if mount.has("recursiveReadOnly") {
            recursive_read_only(mount, &path.field("recursiveReadOnly"), errors);
        }
    }
}

fn propagation(mount: &Value, container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let word = mount.text("mountPropagation");
    if !matches!(word, "Bidirectional" | "HostToContainer" | "None") {
        errors.not_supported(path, word, &["Bidirectional", "HostToContainer", "None"]);
    }
    if word == "Bidirectional" && !container.part("securityContext").flag("privileged") {
        errors.forbidden(path, "Bidirectional mount propagation is available only to privileged containers");
    }
}

fn recursive_read_only(mount: &Value, path: &Path<'_>, errors: &mut Errors) {
    match mount.text("recursiveReadOnly") {
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !mount.flag("readOnly") {
                errors.forbidden(path, "may only be specified when readOnly is true");
            }
            if !matches!(mount.text("mountPropagation"), "" | "None") {
                errors.forbidden(path, "may only be specified when mountPropagation is None or not specified");
            }
        }
        other => errors.not_supported(path, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn devices(
    context: &Context<'_>,
    container: &Value,
    mounts: &BTreeMap<String, String>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let (mut names, mut places) = (BTreeSet::new(), BTreeSet::new());
    for (number, device) in container.items("volumeDevices").iter().enumerate() {
        let at = path.index(number);
        let (name, place) = (device.text("name"), device.text("devicePath"));
        if name.is_empty() {
            errors.required(&at.field("name"), "");
        }
        if names.contains(name) {
            errors.invalid(&at.field("name"), name, "must be unique");
        }
        match context.volumes.get(name) {
            None => errors.not_found(&at.field("name"), name),
            Some(volume) if !volume.has("persistentVolumeClaim") && !volume.has("ephemeral") => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&at.field("name"), name, detail);
            }
            Some(_) => {}
        }
        if place.is_empty() {
            errors.required(&at.field("devicePath"), "");
        }
        if places.contains(place) {
            errors.invalid(&at.field("devicePath"), place, "must be unique");
        }
        if place.split('/').any(|part| part == "..") {
            errors.invalid(&at.field("devicePath"), place, "can not contain backsteps ('..')");
        } else {
            places.insert(place);
        }
        if mounts.contains_key(name) {
            errors.invalid(&at.field("name"), name, "must not already exist in volumeMounts");
        }
        if mounts.values().any(|mount| mount == place) {
            let detail = "must not already exist as a path in volumeMounts";
            errors.invalid(&at.field("devicePath"), place, detail);
        }
        if !name.is_empty() {
            names.insert(name);
        }
    }
}
