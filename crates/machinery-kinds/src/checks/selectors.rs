//! Label selectors, and the field selectors of access reviews.

use serde_json::Value;

use super::names::{label_value, qualified_name};
use crate::kit::{Errors, Path, Read};

/// What is not asked of a selector.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SelectorOptions {
    /// An object that has an invalid value already keeps it.
    pub any_value: bool,
    /// Reviews ask of operators that others may know.
    pub any_operator: bool,
}

impl SelectorOptions {
    /// For a new version of an object whose selectors were these.
    pub(crate) fn for_update<'s>(old: impl IntoIterator<Item = &'s Value>) -> Self {
        Self { any_value: old.into_iter().any(has_invalid_value), any_operator: false }
    }
}

/// Whether an expression of the selector has a value that no label can have.
pub(crate) fn has_invalid_value(selector: &Value) -> bool {
    let mut values = selector.items("matchExpressions").iter().flat_map(|expression| expression.texts("values"));
    values.any(|value| !label_value(value).is_empty())
}

/// A label selector, if it is there.
pub(crate) fn label_selector(selector: &Value, options: SelectorOptions, path: &Path<'_>, errors: &mut Errors) {
    super::labels(selector.part("matchLabels"), &path.field("matchLabels"), errors);
    let at = path.field("matchExpressions");
    for (number, expression) in selector.items("matchExpressions").iter().enumerate() {
        label_requirement(expression, options, &at.index(number), errors);
    }
}

/// Whether a selector selects nothing because it says nothing, where upstream asks for `len(…) + len(…) == 0`.
pub(crate) fn is_empty_selector(selector: &Value) -> bool {
    selector.entries("matchLabels").next().is_none() && selector.items("matchExpressions").is_empty()
}

/// Whether a selector can be used: its operators are known, have values or none, and keys and values are those of labels.
pub(crate) fn is_usable_selector(selector: &Value) -> bool {
    let is_key = |key: &str| qualified_name(key).is_empty();
    let is_label =
        |(key, value): (&str, &Value)| is_key(key) && label_value(value.as_str().unwrap_or_default()).is_empty();
    let is_requirement = |expression: &Value| {
        let has_values = !expression.items("values").is_empty();
        let fits = match expression.text("operator") {
            "In" | "NotIn" => has_values,
            "Exists" | "DoesNotExist" => !has_values,
            _ => false,
        };
        fits && is_key(expression.text("key")) && expression.texts("values").all(|value| label_value(value).is_empty())
    };
    selector.entries("matchLabels").all(is_label) && selector.items("matchExpressions").iter().all(is_requirement)
}

/// One expression of a label selector.
pub(crate) fn label_requirement(expression: &Value, options: SelectorOptions, path: &Path<'_>, errors: &mut Errors) {
    requirement_operator(expression, options, path, errors);
    let key = expression.text("key");
    errors.invalid_each(&path.field("key"), key, qualified_name(key));
    if !options.any_value {
        let at = path.field("values");
        for (number, value) in expression.texts("values").enumerate() {
            errors.invalid_each(&at.index(number), value, label_value(value));
        }
    }
}

fn requirement_operator(requirement: &Value, options: SelectorOptions, path: &Path<'_>, errors: &mut Errors) {
    let has_values = !requirement.items("values").is_empty();
    match requirement.text("operator") {
        "In" | "NotIn" if !has_values => {
            errors.required(&path.field("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if has_values => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(&path.field("values"), detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ if options.any_operator => {}
        other => errors.invalid(&path.field("operator"), other, "not a valid selector operator"),
    }
}
