//! What a PersistentVolume must be, and what of it may change.

use serde_json::Value;

use crate::{
    checks,
    kinds::{
        core::persistent_volume_claim::check_access_modes,
        node_selector::{check_node_selector, has_invalid_value},
        storage::check_csi_driver,
    },
    kit::{Errors, Path, Read},
};

/// Types of volumes, in the order in which upstream looks at them, with the fields that must not be empty.
const SOURCES: [(&str, &[&str]); 22] = [
    ("hostPath", &["path"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("glusterfs", &["endpoints", "path"]),
    ("flocker", &[]),
    ("nfs", &["server", "path"]),
    ("rbd", &["monitors", "image"]),
    ("quobyte", &["volume"]),
    ("cephfs", &["monitors"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("cinder", &["volumeID"]),
    ("fc", &[]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("local", &["path"]),
    ("storageos", &["volumeName"]),
    ("csi", &["volumeHandle"]),
];

/// Rules for the whole; `old` when it is a new version.
pub(super) fn validate(volume: &Value, old: Option<&Value>, errors: &mut Errors) {
    let before = old.map_or(&Value::Null, |old| old.part("spec"));
    let any_value = has_invalid_value(before.part("nodeAffinity").part("required"));
    check_spec(volume.part("spec"), any_value, &Path::at("spec"), errors);
    check_mount_options(volume, errors);
}

/// The spec of a volume that is attached without an object of its own.
pub(in crate::kinds) fn check_inline_spec(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    const INLINE: &str = "in the context of inline volumes";
    for field in ["claimRef", "nodeAffinity"].into_iter().filter(|field| spec.has(field)) {
        errors.forbidden(&at.field(field), format!("may not be specified {INLINE}"));
    }
    if spec.entries("capacity").next().is_some() {
        errors.forbidden(&at.field("capacity"), format!("may not be specified {INLINE}"));
    }
    if !spec.has("csi") {
        errors.required(&at.field("csi"), &format!("has to be specified {INLINE}"));
    }
    if spec.items("accessModes").is_empty() {
        errors.required(&at.field("accessModes"), "");
    }
    check_access_modes(spec, at, errors);
    if !matches!(spec.text("persistentVolumeReclaimPolicy"), "" | "Retain") {
        errors.forbidden(&at.field("persistentVolumeReclaimPolicy"), format!("may only be Retain {INLINE}"));
    }
    check_sources(spec, at, errors);
    if !spec.text("storageClassName").is_empty() {
        errors.forbidden(&at.field("storageClassName"), format!("may not be specified {INLINE}"));
    }
    if !matches!(spec.text("volumeMode"), "" | "Filesystem") {
        let detail = format!("may not specify volumeMode other than Filesystem {INLINE}");
        errors.forbidden(&at.field("volumeMode"), detail);
    }
}

fn check_spec(spec: &Value, any_value: bool, at: &Path<'_>, errors: &mut Errors) {
    if spec.items("accessModes").is_empty() {
        errors.required(&at.field("accessModes"), "");
    }
    check_access_modes(spec, at, errors);
    check_capacity(spec, &at.field("capacity"), errors);
    let policy = spec.text("persistentVolumeReclaimPolicy");
    let policy_at = at.field("persistentVolumeReclaimPolicy");
    if !matches!(policy, "" | "Delete" | "Recycle" | "Retain") {
        errors.not_supported(&policy_at, policy, &["Delete", "Recycle", "Retain"]);
    }
    if let Some(affinity) = spec.some("nodeAffinity") {
        let at = at.field("nodeAffinity");
        match affinity.some("required") {
            Some(selector) => check_node_selector(selector, any_value, &at.field("required"), errors),
            None => errors.required(&at.field("required"), "must specify required node constraints"),
        }
    }
    check_sources(spec, at, errors);
    if spec.has("hostPath") && policy == "Recycle" && is_root(spec.part("hostPath").text("path")) {
        errors.forbidden(&policy_at, "may not be 'recycle' for a hostPath mount of '/'");
    }
    let class = spec.text("storageClassName");
    if !class.is_empty() {
        errors.invalid_each(&at.field("storageClassName"), class, checks::dns_subdomain(class));
    }
    if let Some(mode) = spec.part("volumeMode").as_str()
        && !matches!(mode, "Block" | "Filesystem")
    {
        errors.not_supported(&at.field("volumeMode"), mode, &["Block", "Filesystem"]);
    }
    if let Some(class) = spec.part("volumeAttributesClassName").as_str() {
        let class_at = at.field("volumeAttributesClassName");
        match class {
            "" => errors.required(&class_at, "an empty string is disallowed"),
            class => errors.invalid_each(&class_at, class, checks::dns_subdomain(class)),
        }
        if !spec.has("csi") {
            errors.required(&at.field("csi"), "has to be specified when using volumeAttributesClassName");
        }
    }
}

fn check_capacity(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let capacity = spec.part("capacity");
    let count = capacity.as_object().map_or(0, serde_json::Map::len);
    if count == 0 {
        errors.required(at, "");
    }
    if !capacity.has("storage") || count > 1 {
        errors.not_supported(at, capacity.clone(), &["storage"]);
    }
    for (name, value) in spec.entries("capacity") {
        let at = at.key(name);
        let quantity = checks::quantity(value);
        if quantity.is_negative() {
            errors.invalid(&at, quantity.value(), "must be a valid resource quantity");
        }
        checks::positive_quantity(value, &at, errors);
    }
}

fn is_root(path: &str) -> bool {
    let mut depth = 0_usize;
    for step in path.split('/').filter(|step| !matches!(*step, "" | ".")) {
        depth = if step == ".." { depth.saturating_sub(1) } else { depth + 1 };
    }
    path.starts_with('/') && depth == 0
}

fn check_sources(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let mut count = 0;
    for (field, required) in SOURCES {
        let Some(source) = spec.some(field) else { continue };
        // Flex volumes are counted and never too many; that is upstream's.
        if count > 0 && field != "flexVolume" {
            let shown = if field == "cephfs" { "cephFS" } else { field };
            errors.forbidden(&at.field(shown), "may not specify more than 1 volume type");
            continue;
        }
        count += 1;
        let source_at = at.field(if field == "gcePersistentDisk" { "persistentDisk" } else { field });
        check_source(field, source, required, &source_at, errors);
        if field == "local" && !spec.has("nodeAffinity") {
            errors.required(&at.field("nodeAffinity"), "Local volume requires node affinity");
        }
    }
    if count == 0 {
        errors.required(at, "must specify a volume type");
    }
}

fn check_source(kind: &str, source: &Value, required: &[&str], at: &Path<'_>, errors: &mut Errors) {
    let is_empty = |field: &str| source.text(field).is_empty() && source.items(field).is_empty();
    if kind == "csi" {
        check_csi_driver(source.text("driver"), &at.field("driver"), errors);
    }
    for field in required.iter().filter(|field| is_empty(field)) {
        errors.required(&at.field(field), "");
    }
    let path = source.text("path");
    match kind {
        "hostPath" | "local" if !path.is_empty() => {
            if path.split('/').any(|step| step == "..") {
                errors.invalid(&at.field("path"), path, "must not contain '..'");
            }
            check_host_path_type(source.text("type"), &at.field("type"), errors);
        }
        "nfs" if !path.starts_with('/') => {
            errors.invalid(&at.field("path"), path, "must be an absolute path");
        }
        "csi" => {
            for field in [
                "controllerPublishSecretRef",
                "controllerExpandSecretRef",
                "nodePublishSecretRef",
                "nodeExpandSecretRef",
            ] {
                if let Some(secret) = source.some(field) {
                    check_secret(secret, &at.field(field), errors);
                }
            }
        }
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let partition = source.int("partition");
            if !(0..=255).contains(&partition) {
                errors.invalid(&at.field("partition"), partition, checks::range_message(1, 255));
            }
        }
        "iscsi" => {
            let lun = source.int("lun");
            if !(0..=255).contains(&lun) {
                errors.invalid(&at.field("lun"), lun, checks::range_message(0, 255));
            }
            let names = [("iqn", source.text("iqn")), ("initiatorname", source.text("initiatorName"))];
            for (field, name) in names.into_iter().filter(|(_, name)| !name.is_empty() && !is_iscsi_name(name)) {
                errors.invalid(&at.field(field), name, "must be valid format");
            }
        }
        "azureDisk" => check_azure_disk(source, at, errors),
        "fc" => check_fibre_channel(source, at, errors),
        "flocker" => {
            let (name, id) = (source.text("datasetName"), source.text("datasetUUID"));
            match (name.is_empty(), id.is_empty()) {
                (true, true) => errors.required(at, "one of datasetName and datasetUUID is required"),
                (false, false) => {
                    let detail = "datasetName and datasetUUID can not be specified simultaneously";
                    errors.invalid(at, "resource", detail);
                }
                _ => {}
            }
            if name.contains('/') {
                errors.invalid(&at.field("datasetName"), name, "must not contain '/'");
            }
        }
        _ => {}
    }
}

/// `iqn.2001-04.com.example:disk`, `eui.02004567A425678D` or `naa.…`.
fn is_iscsi_name(name: &str) -> bool {
    let is_word = |text: &str, lengths: &[usize]| {
        lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    if let Some(rest) = name.strip_prefix("eui.") {
        return is_word(rest, &[16]);
    }
    if let Some(rest) = name.strip_prefix("naa.") {
        return is_word(rest, &[32]);
    }
    let Some(rest) = name.strip_prefix("iqn.") else { return false };
    let Some((date, rest)) = rest.split_once('.') else { return false };
    let is_date = date.len() == 7
        && date.bytes().enumerate().all(|(place, byte)| if place == 4 { byte == b'-' } else { byte.is_ascii_digit() });
    let Some((authority, id)) = rest.split_once(':') else { return false };
    let is_authority = !authority.is_empty()
        && authority.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    let is_id = !id.is_empty() && !id.contains(|letter: char| ",;*&$|".contains(letter) || letter.is_whitespace());
    is_date && is_authority && is_id
}

fn check_azure_disk(source: &Value, at: &Path<'_>, errors: &mut Errors) {
    const MANAGED: &str =
        "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    let (mode, kind, disk) = (source.text("cachingMode"), source.text("kind"), source.text("diskURI"));
    if !mode.is_empty() && !matches!(mode, "None" | "ReadOnly" | "ReadWrite") {
        errors.not_supported(&at.field("cachingMode"), mode, &["None", "ReadOnly", "ReadWrite"]);
    }
    if !kind.is_empty() && !matches!(kind, "Dedicated" | "Managed" | "Shared") {
        errors.not_supported(&at.field("kind"), kind, &["Dedicated", "Managed", "Shared"]);
    }
    if kind == "Managed" && !disk.starts_with("/subscriptions/") {
        errors.not_supported(&at.field("diskURI"), disk, &[MANAGED]);
    }
    if !matches!(kind, "" | "Managed") && !disk.starts_with("https://") {
        errors.not_supported(&at.field("diskURI"), disk, &[BLOB]);
    }
}

fn check_host_path_type(kind: &str, at: &Path<'_>, errors: &mut Errors) {
    const TYPES: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if !TYPES.contains(&kind) {
        errors.not_supported(at, kind, &TYPES);
    }
}

fn check_fibre_channel(source: &Value, at: &Path<'_>, errors: &mut Errors) {
    let (targets, ids) = (source.items("targetWWNs"), source.items("wwids"));
    let targets_at = at.field("targetWWNs");
    if targets.is_empty() && ids.is_empty() {
        errors.required(&targets_at, "must specify either targetWWNs or wwids, but not both");
    }
    if !targets.is_empty() && !ids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        errors.invalid(&targets_at, source.part("targetWWNs").clone(), detail);
    }
    if !targets.is_empty() {
        match source.some_int("lun") {
            None => errors.required(&at.field("lun"), "lun is required if targetWWNs is specified"),
            Some(lun) if !(0..=255).contains(&lun) => {
                errors.invalid(&at.field("lun"), lun, checks::range_message(0, 255));
            }
            Some(_) => {}
        }
    }
}

fn check_secret(secret: &Value, at: &Path<'_>, errors: &mut Errors) {
    match secret.text("name") {
        "" => errors.required(&at.field("name"), ""),
        name => errors.invalid_each(&at.field("name"), name, checks::dns_subdomain(name)),
    }
    match secret.text("namespace") {
        "" => errors.required(&at.field("namespace"), ""),
        namespace => errors.invalid_each(&at.field("namespace"), namespace, checks::dns_label(namespace)),
    }
}

fn check_mount_options(volume: &Value, errors: &mut Errors) {
    const ANNOTATION: &str = "volume.beta.kubernetes.io/mount-options";
    const TAKE_OPTIONS: [&str; 13] = [
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "glusterfs",
        "nfs",
        "rbd",
        "quobyte",
        "iscsi",
        "cinder",
        "cephfs",
        "azureFile",
        "vsphereVolume",
        "azureDisk",
        "photonPersistentDisk",
    ];
    let spec = volume.part("spec");
    if volume.part("metadata").part("annotations").has(ANNOTATION)
        && !TAKE_OPTIONS.iter().any(|source| spec.has(source))
    {
        let detail = "may not specify mount options for this volume type";
        errors.forbidden(&Path::at("metadata.annotations").field(ANNOTATION), detail);
    }
}

/// Rules for a new version.
pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    validate(new, Some(old), errors);
    let (spec, before) = (new.part("spec"), old.part("spec"));
    let has_changed = SOURCES.iter().any(|(field, _)| {
        let (mut source, held) = (spec.part(field).clone(), before.part(field));
        // A secret for growing the volume may come later.
        if *field == "csi"
            && !held.has("controllerExpandSecretRef")
            && held.is_object()
            && let Some(source) = source.as_object_mut()
        {
            source.remove("controllerExpandSecretRef");
        }
        !checks::same(&source, held)
    });
    if has_changed {
        let changed = super::source_difference(before, spec);
        let detail = format!("spec.persistentvolumesource is immutable after creation\n{changed}");
        errors.forbidden(&Path::at("spec.persistentvolumesource"), detail);
    }
    checks::immutable(spec.part("volumeMode"), before.part("volumeMode"), &Path::at("volumeMode"), errors);
    let class = "volumeAttributesClassName";
    if before.has(class) && !spec.has(class) {
        errors.forbidden(&Path::at("spec").field(class), "update from non-nil value to nil is forbidden");
    }
    check_affinity_update(spec.part("nodeAffinity"), before.part("nodeAffinity"), errors);
}

/// Where a volume can be reached from does not change.
fn check_affinity_update(affinity: &Value, held: &Value, errors: &mut Errors) {
    if !held.is_null() && !checks::same(affinity, held) {
        let detail = "field is immutable, except for updating from beta label to GA";
        errors.invalid(&Path::at("nodeAffinity"), affinity.clone(), detail);
    }
}
