//! StatefulSets: pods with names and storage of their own.

use serde_json::{Value, json};

use super::{pod, rules};
use crate::{
    checks,
    kinds::{
        core::persistent_volume_claim::{ClaimOptions, check_claim_spec, claim_spec_warnings},
        internal,
    },
    kit::{Errors, Path, Read, Write},
    metadata::NameRule,
    strategy::{Part, Strategy},
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
    name_rule: NameRule::Label,
    parts: &[Part {
        validate: |new, old, errors| {
            let (status, path) = (new.part("status"), Path::at("status"));
            rules::non_negative(status, &COUNTS, &path, errors);
            let parts = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
            rules::at_most_replicas(status, &parts, "cannot be greater than status.readyReplicas", &path, errors);
            rules::collisions(new, old, errors);
        },
        ..Part::STATUS
    }],
    validate: |set, errors| validate(set, Skipped::default(), pod::rules::Options::default(), errors),
    validate_update: Some(validate_update),
    warnings,
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

fn warnings(set: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = super::template_warnings(set, old);
    let path = Path::at("spec.volumeClaimTemplates");
    for (number, claim) in set.part("spec").items("volumeClaimTemplates").iter().enumerate() {
        let at = path.index(number);
        // A new version has the place written in another way.
        let at = if old.is_some() { at.field("Spec") } else { at };
        warnings.extend(claim_spec_warnings(claim.part("spec"), &at));
    }
    if set.part("spec").int("revisionHistoryLimit") < 0 {
        let message = "a negative value retains all historical revisions; a value >= 0 is recommended";
        warnings.push(format!("spec.revisionHistoryLimit: {message}"));
    }
    warnings
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

/// What a status counts.
const COUNTS: [&str; 7] = [
    "replicas",
    "readyReplicas",
    "currentReplicas",
    "updatedReplicas",
    "availableReplicas",
    "observedGeneration",
    "collisionCount",
];

/// Fields that may change.
const MUTABLE: [&str; 7] = [
    "replicas",
    "template",
    "updateStrategy",
    "minReadySeconds",
    "ordinals",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
];

/// What is not looked at again in a new version: it cannot change, or was wrong before.
#[derive(Clone, Copy, Default)]
struct Skipped {
    claims_and_service: bool,
    template: bool,
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let options = rules::template_options(Some(old));
    let mut skipped = Skipped { claims_and_service: true, template: false };
    let mut of_old = Errors::default();
    validate(old, skipped, options, &mut of_old);
    skipped.template = !of_old.is_empty();
    validate(new, skipped, options, errors);
    let mut masked = new.part("spec").clone();
    MUTABLE.iter().for_each(|key| masked.restore(key, old.part("spec")));
    if !checks::same(&masked, old.part("spec")) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                      'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                      'minReadySeconds' are forbidden";
        errors.forbidden(&Path::at("spec"), detail);
    }
}

fn validate(set: &Value, skipped: Skipped, options: pod::rules::Options, errors: &mut Errors) {
    let (spec, path) = (set.part("spec"), Path::at("spec"));
    let policy = spec.text("podManagementPolicy");
    let at = path.field("podManagementPolicy");
    match policy {
        "" => errors.required(&at, ""),
        "OrderedReady" | "Parallel" => {}
        other => errors.invalid(&at, other, "must be 'OrderedReady' or 'Parallel'"),
    }
    update_strategy(spec.part("updateStrategy"), &path.field("updateStrategy"), errors);
    let retention = spec.part("persistentVolumeClaimRetentionPolicy");
    let at = path.field("persistentVolumeClaimRetentionPolicy");
    for key in ["whenDeleted", "whenScaled"] {
        let word = retention.text(key);
        if !retention.is_null() && !matches!(word, "Retain" | "Delete") {
            errors.not_supported(&at.field(key), word, &["Retain", "Delete"]);
        }
    }
    if !skipped.claims_and_service {
        let at = path.field("volumeClaimTemplates");
        for (number, claim) in spec.items("volumeClaimTemplates").iter().enumerate() {
            let at = at.index(number);
            check_claim_spec(claim.part("spec"), ClaimOptions::default(), &at.field("spec"), errors);
        }
    }
    rules::non_negative(spec, &["replicas", "minReadySeconds"], &path, errors);
    checks::non_negative(spec.part("ordinals").int("start"), &path.field("ordinals.start"), errors);
    let service = spec.text("serviceName");
    if !skipped.claims_and_service && !service.is_empty() {
        errors.invalid_each(&path.field("serviceName"), service, checks::dns_label(service));
    }
    rules::required_selector(spec, "statefulset", &path, errors);
    template(spec, skipped, options, &path, errors);
    rules::endless(spec.part("template"), "StatefulSet", &path.field("template"), errors);
}

fn template(spec: &Value, skipped: Skipped, options: pod::rules::Options, path: &Path<'_>, errors: &mut Errors) {
    let (selector, at) = (rules::Selector::of(spec.part("selector")), path.field("template"));
    if matches!(selector, rules::Selector::Invalid) {
        rules::invalid_selector(spec.part("selector"), "", &path.field("selector"), errors);
        return;
    }
    let template = spec.part("template");
    rules::selects_template(&selector, template, &at, errors);
    if !skipped.template {
        pod::rules::validate_template(&as_in_pod(spec), options, &at, errors);
    }
    // Upstream asks for these a second time.
    let metadata = template.part("metadata");
    checks::labels(metadata.part("labels"), &at.field("labels"), errors);
    checks::annotations(metadata.part("annotations"), &at.field("annotations"), errors);
    pod::rules::validate_annotations(template, options, &at.field("annotations"), errors);
}

/// The template as its pods will have it: with names of their own, and with a volume for each claim.
fn as_in_pod(spec: &Value) -> Value {
    let mut template = spec.part("template").clone();
    let claims = spec.items("volumeClaimTemplates");
    let spec = template.make("spec");
    spec.unset("subdomain");
    spec.unset("hostname");
    if !claims.is_empty() {
        let names: Vec<&str> = claims.iter().map(|claim| claim.part("metadata").text("name")).collect();
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        let of_claim = |name: &&str| json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
        let mut volumes: Vec<Value> = unique.iter().map(of_claim).collect();
        volumes.extend(spec.items("volumes").iter().filter(|volume| !names.contains(&volume.text("name"))).cloned());
        spec.set("volumes", volumes);
    }
    template
}

fn update_strategy(strategy: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("rollingUpdate");
    match (strategy.text("type"), strategy.some("rollingUpdate")) {
        ("", _) => errors.required(path, ""),
        ("OnDelete", Some(rolling)) => {
            let shown = internal::json("RollingUpdateStatefulSetStrategy", rolling);
            errors.invalid_as(&at, &shown, "only allowed for updateStrategy 'RollingUpdate'");
        }
        ("RollingUpdate", Some(rolling)) => {
            rules::non_negative(rolling, &["partition"], &at, errors);
            if let Some(unavailable) = rolling.some("maxUnavailable") {
                let at = at.field("maxUnavailable");
                checks::positive_int_or_percent(unavailable, &at, errors);
                if rules::int_or_percent(unavailable) == 0 {
                    errors.invalid(&at, unavailable.clone(), "cannot be 0");
                }
                checks::at_most_100_percent(unavailable, &at, errors);
            }
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        _ => {
            let shown = internal::json("StatefulSetUpdateStrategy", strategy);
            errors.invalid_as(path, &shown, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
}
