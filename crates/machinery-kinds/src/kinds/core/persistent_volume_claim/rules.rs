//! What a PersistentVolumeClaim must be, and what of it may change.

use serde_json::{Value, json};

use super::super::persistent_volume::CLASS_ANNOTATION;
use crate::{
    checks::{self, SelectorOptions},
    kinds::{
        go_diff::{self, Shown},
        resources::resource_quantity,
    },
    kit::{Errors, Path, Read, Write},
};

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Modes in which a volume is mounted: known ones, and the one that excludes all others alone.
pub(in crate::kinds) fn check_access_modes(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let at = at.field("accessModes");
    for mode in spec.texts("accessModes").filter(|mode| !MODES.contains(mode)) {
        errors.not_supported(&at, mode, &MODES);
    }
    let known: Vec<&str> = spec.texts("accessModes").filter(|mode| MODES.contains(mode)).collect();
    if known.contains(&"ReadWriteOncePod") && known.iter().any(|mode| *mode != "ReadWriteOncePod") {
        errors.forbidden(&at, "may not use ReadWriteOncePod with other access modes");
    }
}

/// What a claim has already and keeps.
#[derive(Clone, Copy, Default)]
pub(crate) struct ClaimOptions {
    pub selector: SelectorOptions,
    pub any_group: bool,
}

impl ClaimOptions {
    fn for_update(before: &Value) -> Self {
        let groups = ["dataSource", "dataSourceRef"].map(|field| before.part(field).text("apiGroup"));
        Self {
            selector: SelectorOptions::for_update([before.part("selector")]),
            any_group: groups.iter().any(|group| !group.is_empty() && !checks::dns_subdomain(group).is_empty()),
        }
    }
}

/// Rules for the spec of a claim; templates of claims have one, too.
pub(crate) fn check_claim_spec(spec: &Value, options: ClaimOptions, at: &Path<'_>, errors: &mut Errors) {
    if spec.items("accessModes").is_empty() {
        errors.required(&at.field("accessModes"), "at least 1 access mode is required");
    }
    checks::label_selector(spec.part("selector"), options.selector, &at.field("selector"), errors);
    check_access_modes(spec, at, errors);
    let size_at = at.field("resources");
    let size_at = size_at.key("storage");
    match spec.part("resources").part("requests").some("storage") {
        None => errors.required(&size_at, ""),
        Some(size) => {
            let before = errors.len();
            checks::positive_quantity(size, &size_at, errors);
            if errors.len() == before {
                resource_quantity("storage", size, &size_at, errors);
            }
        }
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        let class = spec.text(field);
        if !class.is_empty() {
            errors.invalid_each(&at.field(field), class, checks::dns_subdomain(class));
        }
    }
    if let Some(mode) = spec.part("volumeMode").as_str()
        && !matches!(mode, "Block" | "Filesystem")
    {
        errors.not_supported(&at.field("volumeMode"), mode, &["Block", "Filesystem"]);
    }
    for field in ["dataSource", "dataSourceRef"].into_iter().filter(|field| spec.has(field)) {
        check_source(spec.part(field), options, &at.field(field), errors);
    }
    let (source, reference) = (spec.part("dataSource"), spec.part("dataSourceRef"));
    if source.is_null() || reference.is_null() {
        return;
    }
    let is_same = ["apiGroup", "kind", "name"].into_iter().all(|field| source.text(field) == reference.text(field));
    if !reference.text("namespace").is_empty() {
        let detail = "may not be specified when dataSourceRef.namespace is specified";
        errors.push(crate::FieldError::invalid_as(at.to_string(), "{}", detail));
    } else if !is_same {
        // Upstream shows a path here, which has no fields to show.
        errors.push(crate::FieldError::invalid_as(at.to_string(), "{}", "must match dataSourceRef"));
    }
}

fn check_source(source: &Value, options: ClaimOptions, at: &Path<'_>, errors: &mut Errors) {
    for field in ["name", "kind"].into_iter().filter(|field| source.text(field).is_empty()) {
        errors.required(&at.field(field), "");
    }
    let (group, kind) = (source.text("apiGroup"), source.text("kind"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        errors.invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    }
    if !group.is_empty() && !options.any_group {
        errors.invalid_each(&at.field("apiGroup"), group, checks::dns_subdomain(group));
    }
    let namespace = source.text("namespace");
    if !namespace.is_empty() {
        errors.invalid_each(&at.field("namespace"), namespace, checks::dns_label(namespace));
    }
}

pub(super) fn validate(claim: &Value, errors: &mut Errors) {
    check_claim_spec(claim.part("spec"), ClaimOptions::default(), &Path::at("spec"), errors);
}

pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let at = Path::at("spec");
    let (spec, before) = (new.part("spec"), old.part("spec"));
    check_claim_spec(spec, ClaimOptions::for_update(before), &at, errors);
    let annotation = |claim: &Value| claim.part("metadata").part("annotations").part(CLASS_ANNOTATION).clone();
    let (mut now, mut held) = (spec.clone(), before.clone());
    // Mirrored sources of an old claim are no change.
    super::mirror_source(&mut held);
    if held.text("volumeName").is_empty() {
        held.restore("volumeName", spec);
    }
    let (class, old_class) = (spec.part("storageClassName"), before.part("storageClassName"));
    let (class_text, old_text) = (annotation(new), annotation(old));
    let is_moved = !old_text.is_null()
        && old_class.is_null()
        && *class == old_text
        && (class_text.is_null() || class_text == old_text);
    if is_moved {
        now.unset("storageClassName");
    } else {
        if class_text.as_str().unwrap_or_default() != old_text.as_str().unwrap_or_default() {
            let annotations = Path::at("metadata.annotations");
            let text = class_text.as_str().unwrap_or_default();
            errors.invalid(&annotations.field(CLASS_ANNOTATION), text, checks::IMMUTABLE);
        }
        if !class.is_null() && old_class.is_null() && (old_text.is_null() || *class == old_text) {
            now.unset("storageClassName");
        }
    }
    let size = |spec: &Value| spec.part("resources").part("requests").part("storage").clone();
    if new.part("status").text("phase") == "Bound" {
        let old_size = size(before);
        if now.part("resources").has("requests") {
            now.make("resources").make("requests").set("storage", old_size);
        }
        now.restore("volumeAttributesClassName", before);
    }
    if !checks::same(&now, &held) {
        let changed = go_diff::unified(&pretty(&held), &pretty(&now));
        let detail = format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{changed}"
        );
        errors.forbidden(&at, detail);
    }
    let (new_size, old_size) = (checks::quantity(&size(spec)), checks::quantity(&size(before)));
    let status_size = checks::quantity(old.part("status").part("capacity").part("storage"));
    if new_size < old_size && new_size <= status_size {
        let detail = "field can not be less than status.capacity";
        errors.forbidden(&Path::at("spec.resources.requests.storage"), detail);
    }
    checks::immutable(spec.part("volumeMode"), before.part("volumeMode"), &Path::at("volumeMode"), errors);
    let class = "volumeAttributesClassName";
    if spec.part(class) != before.part(class) && old.part("status").has("currentVolumeAttributesClassName") {
        let what = match spec.part(class).as_str() {
            None => "nil",
            Some("") => "empty string",
            Some(_) => return,
        };
        let detail = format!("update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil");
        errors.forbidden(&at.field(class), detail);
    }
}

pub(super) fn validate_status(new: &Value, _old: &Value, errors: &mut Errors) {
    const RESIZES: [&str; 5] = [
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
        "NodeResizePending",
    ];
    if new.part("metadata").text("resourceVersion").is_empty() {
        errors.required(&Path::at("resourceVersion"), "");
    }
    if new.part("spec").items("accessModes").is_empty() {
        errors.required(&Path::at("Spec.accessModes"), "");
    }
    let (at, status) = (Path::at("status"), new.part("status"));
    let amount = |value: &Value, at: &Path<'_>, errors: &mut Errors| {
        let quantity = checks::quantity(value);
        if quantity.is_negative() {
            errors.invalid(at, quantity.value(), "must be a valid resource quantity");
        }
    };
    for (name, value) in status.entries("capacity") {
        amount(value, &at.field("capacity").key(name), errors);
    }
    let statuses_at = at.field("allocatedResourceStatuses");
    for (name, value) in status.entries("allocatedResourceStatuses") {
        check_key(name, &statuses_at, errors);
        if !RESIZES.contains(&value.as_str().unwrap_or_default()) {
            let mut supported = RESIZES;
            supported.sort_unstable();
            errors.not_supported(&statuses_at, name, &supported);
        }
    }
    let allocated_at = at.field("allocatedResources");
    for (name, value) in status.entries("allocatedResources") {
        let before = errors.len();
        check_key(name, &allocated_at, errors);
        if errors.len() == before {
            amount(value, &allocated_at.key(name), errors);
        }
        if errors.len() == before {
            resource_quantity("storage", value, &allocated_at.key(name), errors);
        }
    }
}

fn check_key(name: &str, at: &Path<'_>, errors: &mut Errors) {
    let messages = checks::qualified_name(name);
    if messages.is_empty() && crate::kinds::resources::is_native(name) && name != "storage" {
        errors.not_supported(at, name, &["storage"]);
    }
    errors.invalid_each(at, name, messages);
}

/// A spec as upstream shows it: by the names and in the order of its fields in Go, one value on a line.
fn pretty(spec: &Value) -> String {
    let source = |source: &Value, has_namespace: bool| {
        if source.is_null() {
            return Shown::Value(Value::Null);
        }
        let mut fields = vec![
            ("APIGroup", Shown::Value(source.part("apiGroup").clone())),
            ("Kind", Shown::Value(source.text("kind").into())),
            ("Name", Shown::Value(source.text("name").into())),
        ];
        if has_namespace {
            fields.push(("Namespace", Shown::Value(source.part("namespace").clone())));
        }
        Shown::Fields(fields)
    };
    let resources = spec.part("resources");
    let fields = vec![
        ("AccessModes", Shown::Value(spec.part("accessModes").clone())),
        ("Selector", Shown::Value(spec.part("selector").clone())),
        (
            "Resources",
            Shown::Fields(vec![
                ("Limits", Shown::Value(resources.part("limits").clone())),
                ("Requests", Shown::Value(resources.part("requests").clone())),
            ]),
        ),
        ("VolumeName", Shown::Value(json!(spec.text("volumeName")))),
        ("StorageClassName", Shown::Value(spec.part("storageClassName").clone())),
        ("VolumeMode", Shown::Value(spec.part("volumeMode").clone())),
        ("DataSource", source(spec.part("dataSource"), false)),
        ("DataSourceRef", source(spec.part("dataSourceRef"), true)),
        ("VolumeAttributesClassName", Shown::Value(spec.part("volumeAttributesClassName").clone())),
    ];
    Shown::Fields(fields).pretty()
}
