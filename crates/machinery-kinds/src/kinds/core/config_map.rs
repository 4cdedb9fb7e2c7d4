//! ConfigMap: configuration in named texts and files.

use serde_json::Value;

use crate::{
    kinds::data::{BYTES_MAX, check_key, check_sealed, decoded_bytes},
    kit::{Errors, Path, Read},
    metadata::OnUpdate,
    strategy::Strategy,
    table::{Printer, age_of, columns, printers::keys, printers::name},
};

pub(super) static STRATEGY: Strategy = Strategy {
    metadata_on_update: OnUpdate::WholeAndChanges,
    validate,
    validate_update: Some(|new, old, errors| {
        check_sealed(new, old, &["data", "binaryData"], errors);
        validate(new, errors);
    }),
    printer: &PRINTER,
    ..Strategy::PLAIN
};

static PRINTER: Printer = Printer {
    columns: columns::CONFIG_MAP,
    cells: |object, now| {
        let count = keys(object, "/data") + keys(object, "/binaryData");
        vec![name(object), count.into(), age_of(object, now)]
    },
};

fn validate(object: &Value, errors: &mut Errors) {
    let mut bytes = 0;
    for (key, value) in object.entries("data") {
        let at = Path::at("data");
        check_key(&at.key(key), key, errors);
        if object.part("binaryData").has(key) {
            errors.invalid(&at.key(key), key, "duplicate of key present in binaryData");
        }
        bytes += value.as_str().map_or(0, str::len);
    }
    for (key, value) in object.entries("binaryData") {
        check_key(&Path::at("binaryData").key(key), key, errors);
        bytes += value.as_str().map_or(0, decoded_bytes);
    }
    if bytes > BYTES_MAX {
        // Upstream reports the size of the whole object at the empty path, which it shows as `[]`.
        errors.too_long(&Path::at("[]"), BYTES_MAX);
    }
}
