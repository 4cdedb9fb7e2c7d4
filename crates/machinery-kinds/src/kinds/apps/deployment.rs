//! Deployments: a ReplicaSet at a time, and the way from one to the next.

use serde_json::{Value, json};

use super::{pod, rules};
use crate::{
    checks,
    kit::{Errors, Path, Read, Write},
    strategy::{Part, Strategy},
    table::{
        Printer, age_of, columns,
        printers::{name, selector_text},
    },
};

pub(crate) static DEPLOYMENT: Strategy = Strategy {
    generation: true,
    defaults,
    prepare_create: |deployment, _| {
        super::drop_disabled(deployment, &Value::Null);
        deployment.set("status", json!({}));
    },
    prepare_update: |new, old| {
        super::drop_disabled(new, old);
        // The annotations are handed down to the replica sets, so that they count as a part of the spec.
        let (before, after) = (old.part("metadata"), new.part("metadata"));
        if before.entries("annotations").ne(after.entries("annotations")) {
            let generation = before.int("generation").saturating_add(1);
            new.make("metadata").set("generation", generation);
        }
    },
    parts: &[Part {
        name: "status",
        prepare: |new, old| {
            new.restore("spec", old);
            new.make("metadata").restore("labels", old.part("metadata"));
        },
        validate: |new, old, errors| {
            let (status, path) = (new.part("status"), Path::at("status"));
            rules::non_negative(status, &COUNTS, &path, errors);
            let parts = ["updatedReplicas", "readyReplicas", "availableReplicas"];
            rules::at_most_replicas(status, &parts, "cannot be greater than readyReplicas", &path, errors);
            rules::collisions(new, old, errors);
        },
    }],
    validate: |deployment, errors| validate(deployment, None, errors),
    validate_update: Some(|new, old, errors| {
        validate(new, Some(old), errors);
        rules::immutable_selector(new, old, errors);
    }),
    warnings: super::warnings,
    printer: &Printer {
        columns: columns::DEPLOYMENT,
        cells: |deployment, now| {
            let (spec, status) = (deployment.part("spec"), deployment.part("status"));
            let [names, images] = pod::container_cells(spec.part("template"));
            vec![
                name(deployment),
                format!("{}/{}", status.int("readyReplicas"), spec.int("replicas")).into(),
                status.int("updatedReplicas").into(),
                status.int("availableReplicas").into(),
                age_of(deployment, now),
                names,
                images,
                selector_text(spec.some("selector")).into(),
            ]
        },
    },
    ..Strategy::PLAIN
};

fn defaults(deployment: &mut Value) {
    let spec = deployment.make("spec");
    pod::default_template(spec.make("template"));
    spec.default_to("replicas", 1);
    let strategy = spec.make("strategy");
    strategy.default_text("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        let rolling = strategy.make("rollingUpdate");
        rolling.default_to("maxUnavailable", "25%");
        rolling.default_to("maxSurge", "25%");
    }
    spec.default_to("revisionHistoryLimit", 10);
    spec.default_to("progressDeadlineSeconds", 600);
}

/// What a status counts.
const COUNTS: [&str; 8] = [
    "observedGeneration",
    "replicas",
    "updatedReplicas",
    "readyReplicas",
    "availableReplicas",
    "unavailableReplicas",
    "terminatingReplicas",
    "collisionCount",
];

fn validate(deployment: &Value, old: Option<&Value>, errors: &mut Errors) {
    let (spec, path) = (deployment.part("spec"), Path::at("spec"));
    rules::non_negative(spec, &["replicas"], &path, errors);
    rules::selector_and_template(spec, rules::template_options(old), &path, errors);
    strategy(spec.part("strategy"), &path.field("strategy"), errors);
    rules::non_negative(spec, &["minReadySeconds", "revisionHistoryLimit"], &path, errors);
    if let Some(deadline) = spec.some_int("progressDeadlineSeconds") {
        let at = path.field("progressDeadlineSeconds");
        checks::non_negative(deadline, &at, errors);
        if deadline <= spec.int("minReadySeconds") {
            errors.invalid(&at, deadline, "must be greater than minReadySeconds");
        }
    }
}

fn strategy(strategy: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("rollingUpdate");
    match (strategy.text("type"), strategy.some("rollingUpdate")) {
        ("Recreate", Some(_)) => {
            errors.forbidden(&at, "may not be specified when strategy `type` is 'Recreate'");
        }
        ("Recreate", None) => {}
        ("RollingUpdate", None) => errors.required(&at, "this should be defaulted and never be nil"),
        ("RollingUpdate", Some(rolling)) => {
            let keys = ["maxUnavailable", "maxSurge"];
            for key in keys {
                checks::positive_int_or_percent(rolling.part(key), &at.field(key), errors);
            }
            let unavailable = rolling.part("maxUnavailable");
            if keys.iter().all(|key| rules::int_or_percent(rolling.part(key)) == 0) {
                let detail = "may not be 0 when `maxSurge` is 0";
                errors.invalid(&at.field("maxUnavailable"), unavailable.clone(), detail);
            }
            checks::at_most_100_percent(unavailable, &at.field("maxUnavailable"), errors);
        }
        _ => {
            let supported = ["Recreate", "RollingUpdate"];
            rules::unsupported_struct("DeploymentStrategy", strategy, &supported, path, errors);
        }
    }
}
