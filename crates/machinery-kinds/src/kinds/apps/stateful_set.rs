//! StatefulSets: pods with names and storage of their own.

use serde_json::{Value, json};

use super::pod;
use crate::{
    kit::{Read, Write},
    strategy::Strategy,
    table::{Printer, age_of, columns, printers::name},
};

pub(crate) static STATEFUL_SET: Strategy = Strategy {
    generation: true,
    defaults,
    prepare_create: |set, _| {
        drop_disabled(set, &Value::Null);
        set.set("status", json!({"replicas": 0, "availableReplicas": 0}));
    },
    prepare_update: drop_disabled,
    warnings: super::warnings,
    printer: &Printer {
        columns: columns::STATEFUL_SET,
        cells: |set, now| {
            let (spec, status) = (set.part("spec"), set.part("status"));
            let [names, images] = pod::container_cells(spec.part("template"));
            let ready = format!("{}/{}", status.int("readyReplicas"), spec.int("replicas"));
            vec![name(set), ready.into(), age_of(set, now), names, images]
        },
    },
    ..Strategy::PLAIN
};

fn defaults(set: &mut Value) {
    let spec = set.make("spec");
    pod::default_template(spec.make("template"));
    spec.default_text("podManagementPolicy", "OrderedReady");
    let strategy = spec.make("updateStrategy");
    if strategy.text("type").is_empty() {
        strategy.set("type", "RollingUpdate");
        strategy.make("rollingUpdate");
    }
    if strategy.text("type") == "RollingUpdate"
        && let Some(rolling) = strategy.some_mut("rollingUpdate")
    {
        rolling.default_to("partition", 0);
    }
    let retention = spec.make("persistentVolumeClaimRetentionPolicy");
    retention.default_text("whenDeleted", "Retain");
    retention.default_text("whenScaled", "Retain");
    spec.default_to("replicas", 1);
    spec.default_to("revisionHistoryLimit", 10);
    for claim in spec.items_mut("volumeClaimTemplates") {
        claim.set("apiVersion", "v1");
        claim.set("kind", "PersistentVolumeClaim");
        claim.make("metadata");
        pod::default_claim_spec(claim.make("spec"));
        claim.make("status").default_text("phase", "Pending");
    }
}

/// How many pods may be down at once is a feature that is off by default.
fn drop_disabled(set: &mut Value, old: &Value) {
    super::drop_disabled(set, old);
    if old.part("spec").part("updateStrategy").part("rollingUpdate").has("maxUnavailable") {
        return;
    }
    if let Some(rolling) = set.make("spec").make("updateStrategy").some_mut("rollingUpdate") {
        rolling.unset("maxUnavailable");
    }
}
