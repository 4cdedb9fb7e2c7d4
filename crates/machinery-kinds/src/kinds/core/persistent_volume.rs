//! PersistentVolume: storage that the cluster has.

mod rules;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    kinds::{
        amounts::{amount, round_up},
        core::persistent_volume_claim::access_modes,
        go_diff::{self, Shown},
        node_labels::selector_warnings,
    },
    kit::{Path, Read, Write},
    metadata::OnUpdate,
    strategy::{Part, Strategy},
    table::{Printer, age_of, columns, printers::name},
};

/// Where old clients wrote the class.
pub(super) const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) static STRATEGY: Strategy = Strategy {
    defaults,
    prepare_create: |volume, creation| {
        volume.set("status", json!({"phase": "Pending", "lastPhaseTransitionTime": creation.now}));
    },
    parts: &[Part {
        prepare: |new, old| {
            new.restore("spec", old);
            let (before, last) = (old.part("status"), "lastPhaseTransitionTime");
            let status = new.make("status");
            let is_same_phase = status.text("phase") == before.text("phase");
            if is_same_phase && !status.has(last) {
                status.restore(last, before);
            } else if !is_same_phase && (!status.has(last) || status.part(last) == before.part(last)) {
                // The server says when, whatever its author does: this is a time on the wire and decides nothing.
                status.set(last, Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
            }
        },
        validate: |new, _, errors| {
            if new.part("metadata").text("resourceVersion").is_empty() {
                errors.required(&Path::at("resourceVersion"), "");
            }
        },
        ..Part::STATUS
    }],
    metadata_on_update: OnUpdate::Whole,
    validate: |volume, errors| rules::validate(volume, None, errors),
    validate_update: Some(rules::validate_update),
    warnings: |volume, _| warnings(volume),
    printer: &PRINTER,
    ..Strategy::PLAIN
};

pub(in crate::kinds) use rules::check_inline_spec;

/// Names of fields in Go, and in JSON.
type ShownFields = &'static [(&'static str, &'static str)];

/// Types of volumes in the order of upstream's struct, with the names that they and their fields have in Go.
const SHOWN_SOURCES: [(&str, &str, ShownFields); 22] = [
    ("gcePersistentDisk", "GCEPersistentDisk", &[]),
    ("awsElasticBlockStore", "AWSElasticBlockStore", &[]),
    ("hostPath", "HostPath", &[("Path", "path"), ("Type", "type")]),
    ("glusterfs", "Glusterfs", &[]),
    ("nfs", "NFS", &[("Server", "server"), ("Path", "path"), ("ReadOnly", "readOnly")]),
    ("rbd", "RBD", &[]),
    ("quobyte", "Quobyte", &[]),
    ("iscsi", "ISCSI", &[]),
    ("flexVolume", "FlexVolume", &[]),
    ("cinder", "Cinder", &[]),
    ("cephfs", "CephFS", &[]),
    ("fc", "FC", &[]),
    ("flocker", "Flocker", &[]),
    ("azureFile", "AzureFile", &[]),
    ("vsphereVolume", "VsphereVolume", &[]),
    ("azureDisk", "AzureDisk", &[]),
    ("photonPersistentDisk", "PhotonPersistentDisk", &[]),
    ("portworxVolume", "PortworxVolume", &[]),
    ("scaleIO", "ScaleIO", &[]),
    ("local", "Local", &[("Path", "path"), ("FSType", "fsType")]),
    ("storageos", "StorageOS", &[]),
    (
        "csi",
        "CSI",
        &[
            ("Driver", "driver"),
            ("VolumeHandle", "volumeHandle"),
            ("ReadOnly", "readOnly"),
            ("FSType", "fsType"),
            ("VolumeAttributes", "volumeAttributes"),
            ("ControllerPublishSecretRef", "controllerPublishSecretRef"),
            ("NodeStageSecretRef", "nodeStageSecretRef"),
            ("NodePublishSecretRef", "nodePublishSecretRef"),
            ("ControllerExpandSecretRef", "controllerExpandSecretRef"),
            ("NodeExpandSecretRef", "nodeExpandSecretRef"),
        ],
    ),
];

/// What changed of the source, as upstream shows it. Of types that nobody uses any more the fields have their names of JSON.
fn source_difference(before: &Value, spec: &Value) -> String {
    let pretty = |spec: &Value| {
        let sources = SHOWN_SOURCES.iter().map(|(field, shown, names)| {
            let source = spec.part(field);
            if source.is_null() || names.is_empty() {
                return (*shown, Shown::Value(source.clone()));
            }
            let fields = names.iter().map(|(shown, field)| (*shown, Shown::Value(shown_value(source, field))));
            (*shown, Shown::Fields(fields.collect()))
        });
        Shown::Fields(sources.collect()).pretty()
    };
    go_diff::unified(&pretty(before), &pretty(spec))
}

/// A field's value, or what Go shows of one that is not there.
fn shown_value(source: &Value, field: &str) -> Value {
    match source.some(field) {
        Some(value) => value.clone(),
        None if field == "readOnly" => false.into(),
        None if matches!(field, "driver" | "volumeHandle" | "fsType" | "path" | "server") => "".into(),
        None => Value::Null,
    }
}

fn warnings(volume: &Value) -> Vec<String> {
    const ANNOTATIONS: [(&str, &str); 2] = [
        (CLASS_ANNOTATION, "deprecated since v1.8; use \"storageClassName\" attribute instead"),
        ("volume.beta.kubernetes.io/mount-options", "deprecated since v1.31; use \"mountOptions\" attribute instead"),
    ];
    const SOURCES: [(&str, &str, &str); 6] = [
        ("cephfs", "cephfs", "v1.28, non-functional in v1.31+"),
        ("photonPersistentDisk", "photonPersistentDisk", "v1.11, non-functional in v1.16+"),
        ("scaleIO", "scaleIO", "v1.16, non-functional in v1.22+"),
        ("storageos", "storageOS", "v1.22, non-functional in v1.25+"),
        ("glusterfs", "glusterfs", "v1.25, non-functional in v1.26+"),
        ("rbd", "rbd", "v1.28, non-functional in v1.31+"),
    ];
    let (annotations, spec) = (volume.part("metadata").part("annotations"), volume.part("spec"));
    let mut warnings = Vec::new();
    for (key, message) in ANNOTATIONS.into_iter().filter(|(key, _)| annotations.has(key)) {
        warnings.push(format!("metadata.annotations[{key}]: {message}"));
    }
    if spec.text("persistentVolumeReclaimPolicy") == "Recycle" {
        warnings.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
    }
    let at = Path::at("spec.nodeAffinity.required.nodeSelectorTerms");
    let terms = spec.part("nodeAffinity").part("required").items("nodeSelectorTerms");
    for (number, term) in terms.iter().enumerate() {
        warnings.extend(selector_warnings(term, &at.index(number)));
    }
    for (_, shown, since) in SOURCES.into_iter().filter(|(field, _, _)| spec.has(field)) {
        warnings.push(format!("spec.{shown}: deprecated in {since}"));
    }
    warnings
}

fn defaults(volume: &mut Value) {
    volume.make("status").default_text("phase", "Pending");
    let spec = volume.make("spec");
    spec.default_text("persistentVolumeReclaimPolicy", "Retain");
    spec.default_to("volumeMode", "Filesystem");
    round_up(spec, "capacity");
    if let Some(path) = spec.some_mut("hostPath") {
        path.default_to("type", "");
    }
    if let Some(rbd) = spec.some_mut("rbd") {
        rbd.default_text("pool", "rbd");
        rbd.default_text("user", "admin");
        rbd.default_text("keyring", "/etc/ceph/keyring");
    }
    if let Some(iscsi) = spec.some_mut("iscsi") {
        iscsi.default_text("iscsiInterface", "default");
    }
    if let Some(disk) = spec.some_mut("azureDisk") {
        disk.default_to("cachingMode", "ReadWrite");
        disk.default_to("fsType", "ext4");
        disk.default_to("readOnly", false);
        disk.default_to("kind", "Shared");
    }
    if let Some(scale) = spec.some_mut("scaleIO") {
        scale.default_text("storageMode", "ThinProvisioned");
        scale.default_text("fsType", "xfs");
    }
}

static PRINTER: Printer = Printer {
    columns: columns::PERSISTENT_VOLUME,
    cells: |volume, now| {
        let (metadata, spec, status) = (volume.part("metadata"), volume.part("spec"), volume.part("status"));
        let or_unset = |key: &str| Value::from(spec.part(key).as_str().unwrap_or("<unset>"));
        let claim = spec.part("claimRef");
        let claim =
            if claim.is_null() { String::new() } else { format!("{}/{}", claim.text("namespace"), claim.text("name")) };
        let class = metadata.part("annotations").some(CLASS_ANNOTATION).unwrap_or(spec.part("storageClassName"));
        let phase = if metadata.has("deletionTimestamp") { "Terminating" } else { status.text("phase") };
        vec![
            name(volume),
            amount(spec.part("capacity").part("storage")).to_string().into(),
            access_modes(spec).into(),
            spec.text("persistentVolumeReclaimPolicy").into(),
            phase.into(),
            claim.into(),
            class.as_str().unwrap_or_default().into(),
            or_unset("volumeAttributesClassName"),
            status.text("reason").into(),
            age_of(volume, now),
            or_unset("volumeMode"),
        ]
    },
};
