//! PersistentVolumeClaim: storage that somebody asks for.

mod rules;

use serde_json::{Value, json};

use crate::{
    kinds::{
        amounts::{amount, round_up},
        core::{persistent_volume::CLASS_ANNOTATION, pod::default_claim_spec},
    },
    kit::{Path, Read, Write},
    metadata::OnUpdate,
    strategy::{Part, Strategy},
    table::{Printer, age_of, columns, printers::name},
};

pub(super) static STRATEGY: Strategy = Strategy {
    defaults: |claim| {
        claim.make("status").default_text("phase", "Pending");
        default_claim_spec(claim.make("spec"));
        let status = claim.make("status");
        round_up(status, "capacity");
        round_up(status, "allocatedResources");
    },
    prepare_create: |claim, _| {
        let spec = claim.make("spec");
        drop_foreign_source(spec, &Value::Null);
        drop_unknown_source(spec);
        mirror_source(spec);
        claim.set("status", json!({"phase": "Pending"}));
    },
    prepare_update: |new, old| {
        let before = old.part("spec");
        let spec = new.make("spec");
        drop_foreign_source(spec, before);
        if !before.has("dataSource") {
            drop_unknown_source(spec);
        }
        mirror_source(spec);
    },
    parts: &[Part { validate: rules::validate_status, ..Part::STATUS }],
    metadata_on_update: OnUpdate::WholeAndChanges,
    validate: rules::validate,
    validate_update: Some(rules::validate_update),
    warnings: |claim, _| warnings(claim),
    printer: &PRINTER,
    ..Strategy::PLAIN
};

pub(in crate::kinds) use rules::{ClaimOptions, check_access_modes, check_claim_spec};

fn warnings(claim: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    if claim.part("metadata").part("annotations").has(CLASS_ANNOTATION) {
        warnings.push(class_warning());
    }
    warnings.extend(claim_spec_warnings(claim.part("spec"), &Path::at("spec")));
    warnings
}

/// What an author should know about the class of a volume or claim that is named in an annotation.
pub(super) fn class_warning() -> String {
    format!(
        "metadata.annotations[{CLASS_ANNOTATION}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
    )
}

/// What an author should know about the size of a claim.
pub(crate) fn claim_spec_warnings(spec: &Value, at: &Path<'_>) -> Vec<String> {
    let at = at.field("resources");
    let lists = ["requests", "limits"].into_iter();
    let fractions = lists.filter_map(|list| {
        let size = amount(spec.part("resources").part(list).part("storage"));
        let at = at.field(list);
        (size.milli_value() % 1000 != 0)
            .then(|| format!("{}: fractional byte value \"{size}\" is invalid, must be an integer", at.key("storage")))
    });
    fractions.collect()
}

/// Sources in other namespaces are a feature that is off.
fn drop_foreign_source(spec: &mut Value, before: &Value) {
    if !before.has("dataSourceRef") && !spec.part("dataSourceRef").text("namespace").is_empty() {
        spec.unset("dataSourceRef");
    }
}

/// The old field knows claims and snapshots only; what else it says is ignored, as it always was.
fn drop_unknown_source(spec: &mut Value) {
    if spec.has("dataSourceRef") {
        return;
    }
    let source = spec.part("dataSource");
    let is_known = matches!(
        (source.text("apiGroup"), source.text("kind")),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    );
    if !is_known {
        spec.unset("dataSource");
    }
}

/// The old and the new field say the same, whichever was written.
pub(super) fn mirror_source(spec: &mut Value) {
    let copy = |from: &Value| {
        let mut to = json!({"kind": from.text("kind"), "name": from.text("name")});
        to.restore("apiGroup", from);
        to
    };
    match (spec.some("dataSource"), spec.some("dataSourceRef")) {
        (Some(source), None) => {
            let source = copy(source);
            spec.set("dataSourceRef", source);
        }
        (None, Some(source)) if source.text("namespace").is_empty() => {
            let source = copy(source);
            spec.set("dataSource", source);
        }
        _ => {}
    }
}

static PRINTER: Printer = Printer {
    columns: columns::PERSISTENT_VOLUME_CLAIM,
    cells: |claim, now| {
        let (metadata, spec, status) = (claim.part("metadata"), claim.part("spec"), claim.part("status"));
        let or_unset = |key: &str| Value::from(spec.part(key).as_str().unwrap_or("<unset>"));
        let (capacity, modes) = match spec.text("volumeName") {
            "" => (String::new(), String::new()),
            _ => (amount(status.part("capacity").part("storage")).to_string(), access_modes(status)),
        };
        let class = metadata.part("annotations").some(CLASS_ANNOTATION).unwrap_or(spec.part("storageClassName"));
        let phase = if metadata.has("deletionTimestamp") { "Terminating" } else { status.text("phase") };
        vec![
            name(claim),
            phase.into(),
            spec.text("volumeName").into(),
            capacity.into(),
            modes.into(),
            class.as_str().unwrap_or_default().into(),
            or_unset("volumeAttributesClassName"),
            age_of(claim, now),
            or_unset("volumeMode"),
        ]
    },
};

/// `RWO,ROX`: the modes at `accessModes`, each once and in the order in which kubectl's users know them.
pub(super) fn access_modes(object: &Value) -> String {
    const MODES: [(&str, &str); 4] =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let has = |mode: &str| object.texts("accessModes").any(|given| given == mode);
    let shown: Vec<&str> = MODES.into_iter().filter(|(mode, _)| has(mode)).map(|(_, short)| short).collect();
    shown.join(",")
}
