//! CSIStorageCapacity: how much a driver has left where.

use serde_json::Value;

use crate::{
    checks::{self, SelectorOptions},
    kinds::node_labels::selector_warnings,
    kit::{Errors, Path, Read},
    metadata::OnUpdate,
    strategy::Strategy,
    table::{Printer, columns, printers::name},
};

pub(super) static STRATEGY: Strategy = Strategy {
    unconditional_update: false,
    metadata_on_update: OnUpdate::WholeAndChanges,
    validate: |capacity, errors| validate(capacity, SelectorOptions::default(), errors),
    validate_update: Some(|new, old, errors| {
        validate(new, SelectorOptions::for_update([old.part("nodeTopology")]), errors);
        let topology = "nodeTopology";
        checks::immutable(new.part(topology), old.part(topology), &Path::at(topology), errors);
        checks::immutable_text(new, old, "storageClassName", &Path::ROOT, errors);
    }),
    warnings: |capacity, _| selector_warnings(capacity.part("nodeTopology"), &Path::at("nodeTopology")),
    printer: &PRINTER,
    ..Strategy::PLAIN
};

fn validate(capacity: &Value, options: SelectorOptions, errors: &mut Errors) {
    checks::label_selector(capacity.part("nodeTopology"), options, &Path::at("nodeTopology"), errors);
    let class = capacity.text("storageClassName");
    errors.invalid_each(&Path::at("storageClassName"), class, checks::dns_subdomain(class));
    if capacity.has("capacity") {
        checks::non_negative_quantity(capacity.part("capacity"), &Path::at("capacity"), errors);
    }
}

// Upstream has columns of its own for it and does not use them.
static PRINTER: Printer = Printer {
    columns: columns::CREATED,
    cells: |capacity, _| vec![name(capacity), capacity.part("metadata").text("creationTimestamp").into()],
};
