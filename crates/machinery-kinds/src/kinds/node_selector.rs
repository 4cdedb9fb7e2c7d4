//! Node selectors: terms of which one must fit.

use serde_json::Value;

use crate::{
    checks,
    kit::{Errors, Path, Read},
};

/// Checks a node selector. `any_value` is for those that have values already that no label can have.
pub(crate) fn check_node_selector(selector: &Value, any_value: bool, at: &Path<'_>, errors: &mut Errors) {
    let at = at.field("nodeSelectorTerms");
    if selector.items("nodeSelectorTerms").is_empty() {
        return errors.required(&at, "must have at least one node selector term");
    }
    for (number, term) in selector.items("nodeSelectorTerms").iter().enumerate() {
        check_node_selector_term(term, any_value, &at.index(number), errors);
    }
}

/// One term: labels and fields of a node.
pub(crate) fn check_node_selector_term(term: &Value, any_value: bool, at: &Path<'_>, errors: &mut Errors) {
    let expressions_at = at.field("matchExpressions");
    for (number, expression) in term.items("matchExpressions").iter().enumerate() {
        check_expression(expression, any_value, &expressions_at.index(number), errors);
    }
    let fields_at = at.field("matchFields");
    for (number, expression) in term.items("matchFields").iter().enumerate() {
        check_field(expression, &fields_at.index(number), errors);
    }
}

/// Whether a selector has a value that no label can have.
pub(crate) fn has_invalid_value(selector: &Value) -> bool {
    let expressions = selector.items("nodeSelectorTerms").iter().flat_map(|term| term.items("matchExpressions"));
    expressions.flat_map(|expression| expression.texts("values")).any(|value| !checks::label_value(value).is_empty())
}

fn check_expression(expression: &Value, any_value: bool, at: &Path<'_>, errors: &mut Errors) {
    let values_at = at.field("values");
    let count = expression.items("values").len();
    match expression.text("operator") {
        "In" | "NotIn" if count == 0 => {
            errors.required(&values_at, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            errors.forbidden(&values_at, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if count != 1 => {
            errors.required(&values_at, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(&at.field("operator"), other, "not a valid selector operator"),
    }
    let key = expression.text("key");
    errors.invalid_each(&at.field("key"), key, checks::qualified_name(key));
    if !any_value {
        for (number, value) in expression.texts("values").enumerate() {
            errors.invalid_each(&values_at.index(number), value, checks::label_value(value));
        }
    }
}

fn check_field(expression: &Value, at: &Path<'_>, errors: &mut Errors) {
    let values_at = at.field("values");
    match expression.text("operator") {
        "In" | "NotIn" => {
            if expression.items("values").len() != 1 {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.required(&values_at, detail);
            }
        }
        other => errors.invalid(&at.field("operator"), other, "not a valid selector operator"),
    }
    match expression.text("key") {
        "metadata.name" => {
            for (number, value) in expression.texts("values").enumerate() {
                errors.invalid_each(&values_at.index(number), value, checks::dns_subdomain(value));
            }
        }
        other => errors.invalid(&at.field("key"), other, "not a valid field selector key"),
    }
}
