//! CSIDriver: what a cluster must know of a storage driver.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::{
    checks,
    kit::{Errors, Path, Read, Write},
    strategy::Strategy,
    table::{Printer, age_of, columns, or_none, printers::name},
};

const TOKENS_WARNING: &str = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";

pub(super) static STRATEGY: Strategy = Strategy {
    unconditional_update: false,
    defaults: |driver| {
        let spec = driver.make("spec");
        spec.default_to("attachRequired", true);
        for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            spec.default_to(field, false);
        }
        spec.default_to("fsGroupPolicy", "ReadWriteOnceWithFSType");
        if spec.items("volumeLifecycleModes").is_empty() {
            spec.set("volumeLifecycleModes", json!(["Persistent"]));
        }
    },
    // It has no generation until its spec changes.
    prepare_create: |driver, _| drop(driver.make("spec").unset("preventPodSchedulingIfMissing")),
    prepare_update: |new, old| {
        if !old.part("spec").has("preventPodSchedulingIfMissing") {
            new.make("spec").unset("preventPodSchedulingIfMissing");
        }
        if !checks::same(new.part("spec"), old.part("spec")) {
            let generation = old.part("metadata").int("generation").saturating_add(1);
            new.make("metadata").set("generation", generation);
        }
    },
    validate,
    validate_update: Some(|new, old, errors| {
        validate(new, errors);
        let (spec, before) = (new.part("spec"), old.part("spec"));
        let at = Path::at("spec");
        let (attach, held) = (spec.part("attachRequired"), before.part("attachRequired"));
        checks::immutable(attach, held, &at.field("attachedRequired"), errors);
        let modes = "volumeLifecycleModes";
        checks::immutable(spec.part(modes), before.part(modes), &at.field(modes), errors);
    }),
    warnings: |driver, old| {
        let spec = driver.part("spec");
        let is_new =
            old.is_none_or(|old| !checks::same(old.part("spec").part("tokenRequests"), spec.part("tokenRequests")));
        if is_new && !spec.items("tokenRequests").is_empty() && !spec.has("serviceAccountTokenInSecrets") {
            return vec![TOKENS_WARNING.to_owned()];
        }
        Vec::new()
    },
    printer: &PRINTER,
    ..Strategy::PLAIN
};

const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;

fn validate(driver: &Value, errors: &mut Errors) {
    let (at, spec) = (Path::at("spec"), driver.part("spec"));
    let fields = [
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
    ];
    for (_, shown) in fields.into_iter().filter(|(field, _)| !spec.has(field)) {
        errors.required(&at.field(shown), "");
    }
    if let Some(policy) = spec.part("fsGroupPolicy").as_str()
        && !matches!(policy, "File" | "None" | "ReadWriteOnceWithFSType")
    {
        errors.not_supported(&at.field("fsGroupPolicy"), policy, &["File", "None", "ReadWriteOnceWithFSType"]);
    }
    let mut audiences = HashSet::new();
    let tokens_at = at.field("tokenRequests");
    for (number, token) in spec.items("tokenRequests").iter().enumerate() {
        let at = tokens_at.index(number);
        if !audiences.insert(token.text("audience")) {
            errors.duplicate(&at.field("audience"), token.text("audience"));
            continue;
        }
        match token.some_int("expirationSeconds") {
            Some(seconds) if seconds < TOKEN_SECONDS_MIN => {
                let detail = "may not specify a duration less than 10 minutes";
                errors.invalid(&at.field("expirationSeconds"), seconds, detail);
            }
            Some(seconds) if seconds > TOKEN_SECONDS_MAX => {
                let detail = "may not specify a duration larger than 2^32 seconds";
                errors.invalid(&at.field("expirationSeconds"), seconds, detail);
            }
            _ => {}
        }
    }
    for mode in spec.texts("volumeLifecycleModes") {
        if !matches!(mode, "Persistent" | "Ephemeral") {
            errors.not_supported(&at.field("volumeLifecycleModes"), mode, &["Persistent", "Ephemeral"]);
        }
    }
    if !spec.has("seLinuxMount") {
        errors.required(&at.field("seLinuxMount"), "");
    }
    if let Some(period) = spec.some_int("nodeAllocatableUpdatePeriodSeconds").filter(|period| *period < 10) {
        let detail = "must be greater than or equal to 10 seconds";
        errors.invalid(&at.field("nodeAllocatableUpdatePeriodSeconds"), period, detail);
    }
    if let Some(in_secrets) = spec.some_flag("serviceAccountTokenInSecrets")
        && spec.items("tokenRequests").is_empty()
    {
        let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.invalid(&at.field("serviceAccountTokenInSecrets"), in_secrets, detail);
    }
}

static PRINTER: Printer = Printer {
    columns: columns::CSI_DRIVER,
    cells: |driver, now| {
        let spec = driver.part("spec");
        let modes: Vec<&str> = spec.texts("volumeLifecycleModes").collect();
        let audiences: Vec<&str> = spec.items("tokenRequests").iter().map(|token| token.text("audience")).collect();
        let audiences = if spec.has("tokenRequests") { audiences.join(",") } else { "<unset>".to_owned() };
        vec![
            name(driver),
            spec.some_flag("attachRequired").unwrap_or(true).into(),
            spec.flag("podInfoOnMount").into(),
            spec.flag("storageCapacity").into(),
            audiences.into(),
            spec.flag("requiresRepublish").into(),
            or_none(&modes.join(",")).into(),
            age_of(driver, now),
        ]
    },
};
