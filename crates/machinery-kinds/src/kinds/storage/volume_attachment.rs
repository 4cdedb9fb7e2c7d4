//! VolumeAttachment: a volume that shall be attached to a node.

use serde_json::Value;

use super::check_csi_driver;
use crate::{
    checks,
    kinds::core::persistent_volume::check_inline_spec,
    kit::{Errors, Path, Read, Write},
    metadata::OnUpdate,
    strategy::{Part, Strategy, restore_metadata_of},
    table::{Printer, age_of, columns, printers::name},
};

pub(super) static STRATEGY: Strategy = Strategy {
    unconditional_update: false,
    metadata_on_update: OnUpdate::Whole,
    parts: &[Part {
        prepare: |new, old| {
            new.restore("spec", old);
            restore_metadata_of(new, old);
        },
        validate: validate_update,
        ..Part::STATUS
    }],
    validate,
    validate_update: Some(validate_update),
    printer: &PRINTER,
    ..Strategy::PLAIN
};

const METADATA_BYTES_MAX: usize = 256 * 1024;
const MESSAGE_BYTES_MAX: usize = 1024;

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    validate(new, errors);
    if !checks::same(new.part("spec"), old.part("spec")) {
        errors.push(crate::FieldError::invalid_as("spec", &shown(new.part("spec")), checks::IMMUTABLE));
    }
}

/// A spec as upstream shows it: by the names of its fields in Go.
fn shown(spec: &Value) -> String {
    let source = spec.part("source");
    let text = |text: &str| Value::from(text);
    format!(
        "{{\"Attacher\":{},\"Source\":{{\"PersistentVolumeName\":{},\"InlineVolumeSpec\":{}}},\"NodeName\":{}}}",
        text(spec.text("attacher")),
        source.part("persistentVolumeName"),
        source.part("inlineVolumeSpec"),
        text(spec.text("nodeName"))
    )
}

fn validate(attachment: &Value, errors: &mut Errors) {
    let (at, spec) = (Path::at("spec"), attachment.part("spec"));
    check_csi_driver(spec.text("attacher"), &at.field("attacher"), errors);
    let source_at = at.field("source");
    let source = spec.part("source");
    let volume = source.part("persistentVolumeName").as_str();
    match (source.has("inlineVolumeSpec"), volume) {
        (false, None) => {
            errors.required(&source_at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
        }
        (true, Some(_)) => {
            errors.forbidden(&source_at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
        }
        (false, Some("")) => {
            errors.required(&source_at.field("persistentVolumeName"), "must specify non empty persistentVolumeName");
        }
        (true, None) => {
            check_inline_spec(source.part("inlineVolumeSpec"), &source_at.field("inlineVolumeSpec"), errors)
        }
        _ => {}
    }
    let node = spec.text("nodeName");
    errors.invalid_each(&at.field("nodeName"), node, checks::dns_subdomain(node));
    let (at, status) = (Path::at("status"), attachment.part("status"));
    let bytes: usize =
        status.entries("attachmentMetadata").map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if bytes > METADATA_BYTES_MAX {
        errors.too_long(&at.field("attachmentMetadata"), METADATA_BYTES_MAX);
    }
    for field in ["attachError", "detachError"] {
        let (at, error) = (at.field(field), status.part(field));
        if error.text("message").len() > MESSAGE_BYTES_MAX {
            // Upstream names the other bound.
            errors.too_long(&at.field("message"), METADATA_BYTES_MAX);
        }
        if let Some(code) = error.some_int("errorCode").filter(|code| *code < 0) {
            errors.invalid(&at.field("errorCode"), code, checks::range_message(0, i64::from(i32::MAX)));
        }
    }
    if let Some(volume) = volume {
        errors.invalid_each(&Path::at("spec.source.persistentVolumeName"), volume, checks::dns_subdomain(volume));
    }
}

static PRINTER: Printer = Printer {
    columns: columns::VOLUME_ATTACHMENT,
    cells: |attachment, now| {
        let spec = attachment.part("spec");
        vec![
            name(attachment),
            spec.text("attacher").into(),
            spec.part("source").text("persistentVolumeName").into(),
            spec.text("nodeName").into(),
            attachment.part("status").flag("attached").into(),
            age_of(attachment, now),
        ]
    },
};
