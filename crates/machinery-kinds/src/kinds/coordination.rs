//! Kinds of the group `coordination.k8s.io`: leases, by which nodes report that they live and controllers elect a leader.

use serde_json::Value;

use crate::{
    checks,
    kit::{Errors, Path, Read, Write},
    strategy::{Durability, Strategy},
    table::printers,
};

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    (kind == "Lease").then_some(&LEASE)
}

/// Leases come often, nobody watches one by name, and the next renewal repairs what was lost.
static LEASE: Strategy = Strategy {
    durability: Durability::Lazy,
    name_field: false,
    create_on_update: true,
    unconditional_update: false,
    kube_finalizers: false,
    // The server elects no leaders itself, as upstream by default does not.
    prepare_create: |lease, _| {
        for key in ELECTION {
            lease.some_mut("spec").map(|spec| spec.unset(key));
        }
    },
    prepare_update: |new, old| {
        for key in ELECTION {
            if !old.part("spec").has(key) {
                new.some_mut("spec").map(|spec| spec.unset(key));
            }
        }
    },
    validate: |lease, errors| validate_spec(lease.part("spec"), &Path::at("spec"), errors),
    printer: &printers::LEASES,
    ..Strategy::PLAIN
};

const ELECTION: [&str; 2] = ["strategy", "preferredHolder"];

fn validate_spec(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(seconds) = spec.some_int("leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        errors.invalid(&path.field("leaseDurationSeconds"), seconds, checks::NOT_POSITIVE);
    }
    if let Some(count) = spec.some_int("leaseTransitions").filter(|count| *count < 0) {
        errors.invalid(&path.field("leaseTransitions"), count, checks::NEGATIVE);
    }
    if let Some(strategy) = spec.part("strategy").as_str() {
        // Upstream names the field twice.
        let at = path.field("strategy");
        let at = at.field("strategy");
        if strategy.contains('/') {
            errors.invalid_each(&at, strategy, checks::qualified_name(strategy));
        } else if strategy != "OldestEmulationVersion" {
            errors.not_supported(&at, strategy, &["OldestEmulationVersion"]);
        }
    }
    if !spec.text("preferredHolder").is_empty() && spec.text("strategy").is_empty() {
        errors.forbidden(&path.field("preferredHolder"), "may only be specified if `strategy` is defined");
    }
}
