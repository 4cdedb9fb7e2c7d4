//! LimitRange: bounds and defaults for the resources of each object in a namespace.

use std::collections::{BTreeSet, HashSet};

use api_kube::Quantity;
use serde_json::Value;

use crate::{
    checks,
    kinds::{
        amounts::{amount, fill_from, round_up},
        resources::{container_resource_name, may_be_overcommitted, resource_name},
    },
    kit::{Errors, Path, Read, Write},
    metadata::OnUpdate,
    strategy::Strategy,
    table::{Printer, columns, printers::name},
};

pub(super) static STRATEGY: Strategy = Strategy {
    metadata_on_update: OnUpdate::Whole,
    create_on_update: true,
    // A range may have no name; any will do.
    prepare_create: |range, creation| {
        if range.part("metadata").text("generateName").is_empty() {
            range.make("metadata").default_text("name", creation.uid);
        }
    },
    defaults: |range| {
        for item in range.make("spec").items_mut("limits") {
            // What a container may have by default, and requests by default, follows from its bounds.
            if item.text("type") == "Container" {
                fill_from(item, "default", "max");
                fill_from(item, "defaultRequest", "default");
                fill_from(item, "defaultRequest", "min");
            }
            for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
                round_up(item, list);
            }
        }
    },
    validate,
    printer: &PRINTER,
    ..Strategy::PLAIN
};

fn validate(range: &Value, errors: &mut Errors) {
    let at = Path::at("spec.limits");
    let mut seen = HashSet::new();
    for (number, item) in range.part("spec").items("limits").iter().enumerate() {
        let at = at.index(number);
        let kind = item.text("type");
        let messages = checks::qualified_name(kind);
        if messages.is_empty() && !kind.contains('/') && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim")
        {
            errors.invalid(&at.field("type"), kind, "must be a standard limit type or fully qualified");
        }
        errors.invalid_each(&at.field("type"), kind, messages);
        if !seen.insert(kind) {
            errors.duplicate(&at.field("type"), kind);
        }
        check_item(item, &at, errors);
    }
}

fn check_item(item: &Value, at: &Path<'_>, errors: &mut Errors) {
    let kind = item.text("type");
    let mut lists = vec!["max", "min"];
    for list in ["default", "defaultRequest"] {
        if kind != "Pod" {
            lists.push(list);
        } else if item.entries(list).next().is_some() {
            errors.forbidden(&at.field(list), "may not be specified when `type` is 'Pod'");
        }
    }
    lists.push("maxLimitRequestRatio");
    let mut names = BTreeSet::new();
    for list in &lists {
        for (name, _) in item.entries(list) {
            let at = at.field(list);
            match kind {
                "Pod" | "Container" => container_resource_name(name, &at.key(name), errors),
                _ => resource_name(name, &at.key(name), errors),
            }
            names.insert(name);
        }
    }
    if kind == "PersistentVolumeClaim" && !item.part("min").has("storage") && !item.part("max").has("storage") {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.required(&at.field("limits"), detail);
    }
    for name in names {
        let bound = |list: &str| {
            if !lists.contains(&list) {
                return None;
            }
            item.part(list).some(name).map(amount)
        };
        let [min, max, default, request, ratio] =
            ["min", "max", "default", "defaultRequest", "maxLimitRequestRatio"].map(bound);
        let mut ordered =
            |low: (&str, Option<Quantity>), high: (&str, Option<Quantity>), list: &str, shown: Option<Quantity>| {
                if let ((low_name, Some(low)), (high_name, Some(high)), Some(shown)) = (low, high, shown)
                    && low > high
                {
                    let detail = format!("{low_name} value {low} is greater than {high_name} value {high}");
                    errors.invalid(&at.field(list).key(name), shown.to_string(), detail);
                }
            };
        ordered(("min", min), ("max", max), "min", min);
        ordered(("min", min), ("default request", request), "defaultRequest", request);
        ordered(("default request", request), ("max", max), "defaultRequest", request);
        ordered(("default request", request), ("default limit", default), "defaultRequest", request);
        ordered(("min", min), ("default", default), "default", min);
        ordered(("default", default), ("max", max), "default", max);
        if let Some(ratio) = ratio {
            check_ratio(ratio, min, max, &at.field("maxLimitRequestRatio").key(name), errors);
        }
        if let (Some(default), Some(request)) = (default, request)
            && !may_be_overcommitted(name)
            && default != request
        {
            let detail = format!("default value {default} must equal to defaultRequest value {request} in {name}");
            errors.invalid(&at.field("defaultRequest").key(name), request.to_string(), detail);
        }
    }
}

fn check_ratio(ratio: Quantity, min: Option<Quantity>, max: Option<Quantity>, at: &Path<'_>, errors: &mut Errors) {
    if ratio < Quantity::from_units(1) {
        errors.invalid(at, ratio.to_string(), format!("ratio {ratio} is less than 1"));
    }
    let (Some(min), Some(max)) = (min, max) else { return };
    // Thousandths count, as long as their number is one that 64 bits hold.
    const WHOLE_MAX: i64 = i64::MAX / 1000;
    let is_small = [ratio, min, max].iter().all(|quantity| quantity.value() < WHOLE_MAX);
    let (value, low, high) = if is_small {
        (ratio.milli_value() as f64 / 1000.0, min.milli_value() as f64, max.milli_value() as f64)
    } else {
        (ratio.value() as f64, min.value() as f64, max.value() as f64)
    };
    let bound = high / low;
    if value > bound {
        let shown = if bound.is_infinite() { "+Inf".to_owned() } else { format!("{bound:.6}") };
        errors.invalid(at, ratio.to_string(), format!("ratio {ratio} is greater than max/min = {shown}"));
    }
}

static PRINTER: Printer = Printer {
    columns: columns::CREATED,
    cells: |range, _| vec![name(range), range.part("metadata").text("creationTimestamp").into()],
};
