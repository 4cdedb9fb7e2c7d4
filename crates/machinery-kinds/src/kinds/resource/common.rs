//! What claims, classes and slices have in common: names of drivers, pools and devices, configurations, bounded lists.

use serde_json::Value;

use crate::{
    checks::{self, Messages},
    kit::{Errors, Path, Read},
};

pub(super) const DRIVER_BYTES_MAX: usize = 63;
const POOL_BYTES_MAX: usize = 253;
const IDENTIFIER_BYTES_MAX: usize = 32;
pub(super) const SELECTORS_MAX: usize = 32;
const SELECTOR_BYTES_MAX: usize = 10 * 1024;
const PARAMETERS_BYTES_MAX: usize = 10 * 1024;
const BINDING_CONDITIONS_MAX: usize = 4;

/// The items of a list, each with its place, unless there are too many, which is the only thing said then.
pub(super) fn each(
    owner: &Value,
    key: &str,
    items_max: usize,
    path: &Path<'_>,
    errors: &mut Errors,
    mut check: impl FnMut(&Value, &Path<'_>, &mut Errors),
) {
    let (at, items) = (path.field(key), owner.items(key));
    if items.len() > items_max {
        return errors.too_many(&at, items.len(), items_max);
    }
    for (number, item) in items.iter().enumerate() {
        if errors.is_full() {
            break;
        }
        check(item, &at.index(number), errors);
    }
}

/// Items that another item has the same key as.
pub(super) fn unique(
    owner: &Value,
    key: &str,
    items_max: usize,
    path: &Path<'_>,
    errors: &mut Errors,
    item_key: impl Fn(&Value) -> Value,
) {
    let (at, items) = (path.field(key), owner.items(key));
    if items.len() > items_max {
        return;
    }
    let keys: Vec<Value> = items.iter().map(item_key).collect();
    for (number, key) in keys.iter().enumerate() {
        if errors.is_full() {
            break;
        }
        if keys[..number].contains(key) {
            errors.duplicate(&at.index(number), key.clone());
        }
    }
}

pub(super) fn driver(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    if name.len() > DRIVER_BYTES_MAX {
        errors.too_long(path, DRIVER_BYTES_MAX);
    }
    errors.invalid_each(path, name, checks::dns_subdomain(&name.to_lowercase()));
}

pub(super) fn pool(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    if name.len() > POOL_BYTES_MAX {
        errors.too_long(path, POOL_BYTES_MAX);
    }
    for part in name.split('/') {
        errors.invalid_each(path, part, checks::dns_subdomain(part));
    }
}

pub(super) fn label(name: &str, path: &Path<'_>, errors: &mut Errors) {
    errors.invalid_each(path, name, checks::dns_label(name));
}

fn identifier(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.len() > IDENTIFIER_BYTES_MAX {
        errors.too_long(path, IDENTIFIER_BYTES_MAX);
    }
    errors.invalid_each(path, name, checks::c_identifier(name));
}

/// `domain/name` or `name`: an attribute or a capacity.
pub(super) fn qualified(name: &str, path: &Path<'_>, errors: &mut Errors) {
    match name.split_once('/') {
        None => identifier(name, path, errors),
        // Upstream says nothing of more slashes.
        Some((_, rest)) if rest.contains('/') => {}
        Some((domain, rest)) => {
            match domain {
                "" => errors.invalid(path, "", "the domain must not be empty"),
                domain => driver(domain, path, errors),
            }
            match rest {
                "" => errors.invalid(path, "", "the name must not be empty"),
                rest => identifier(rest, path, errors),
            }
        }
    }
}

pub(super) fn fully_qualified(name: &str, path: &Path<'_>, errors: &mut Errors) {
    qualified(name, path, errors);
    if !name.contains('/') {
        errors.invalid(path, name, "a fully qualified name must be a domain and a name separated by a slash");
    }
}

pub(super) fn uid(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if checks::uuid(&text.to_lowercase()).is_empty() {
        if !checks::uuid(text).is_empty() {
            let detail = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
            errors.invalid(path, text, detail);
        }
        return;
    }
    let detail = match text.len() {
        36 => "invalid UUID format".to_owned(),
        length => format!("invalid UUID length: {length}"),
    };
    errors.invalid(path, text, format!("error validating uid: {detail}"));
}

/// Selectors of devices: expressions.
pub(super) fn selectors(owner: &Value, path: &Path<'_>, errors: &mut Errors) {
    each(owner, "selectors", SELECTORS_MAX, path, errors, |selector, path, errors| {
        let at = path.field("cel");
        match selector.some("cel") {
            None => errors.required(&at, ""),
            Some(cel) if cel.text("expression").len() > SELECTOR_BYTES_MAX => {
                errors.too_long(&at.field("expression"), SELECTOR_BYTES_MAX);
            }
            Some(_) => {}
        }
    });
}

/// What a driver gets along with a device.
pub(super) fn configuration(owner: &Value, is_stored: bool, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("opaque");
    let Some(opaque) = owner.some("opaque") else { return errors.required(&at, "") };
    driver(opaque.text("driver"), &at.field("driver"), errors);
    raw(opaque.part("parameters"), is_stored, PARAMETERS_BYTES_MAX, &at.field("parameters"), errors);
}

/// An object that only its reader understands.
pub(super) fn raw(value: &Value, is_stored: bool, bytes_max: usize, path: &Path<'_>, errors: &mut Errors) {
    match value {
        Value::Null => errors.required(path, ""),
        _ if !is_stored && value.to_string().len() > bytes_max => errors.too_long(path, bytes_max),
        Value::Object(_) => {}
        _ => errors.invalid(path, "<value omitted>", "must be a valid JSON object"),
    }
}

pub(super) fn label_keys(owner: &Value, key: &str, items_max: usize, path: &Path<'_>, errors: &mut Errors) {
    each(owner, key, items_max, path, errors, |item, path, errors| {
        let name = item.as_str().unwrap_or_default();
        errors.invalid_each(path, name, checks::qualified_name(name));
    });
}

/// Conditions that a device waits for before pods start, and those that say that it failed.
pub(super) fn binding_conditions(owner: &Value, path: &Path<'_>, errors: &mut Errors) {
    const KEYS: [&str; 2] = ["bindingConditions", "bindingFailureConditions"];
    for key in KEYS {
        label_keys(owner, key, BINDING_CONDITIONS_MAX, path, errors);
    }
    let (good, bad) = (owner.part(KEYS[0]), owner.part(KEYS[1]));
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).take(1024).map(str::to_owned).collect()
    };
    let (conditions, failures) = (texts(good), texts(bad));
    for (key, list) in [(KEYS[0], &conditions), (KEYS[1], &failures)] {
        let at = path.field(key);
        for (number, condition) in list.iter().enumerate() {
            if errors.is_full() {
                return;
            }
            if list[..number].contains(condition) {
                errors.duplicate(&at.index(number), condition.as_str());
            }
            if key == KEYS[1] && conditions.contains(condition) {
                let detail = "bindingFailureConditions must not overlap with bindingConditions";
                errors.invalid(&at.index(number), condition.as_str(), detail);
            }
        }
    }
    if conditions.is_empty() && !failures.is_empty() {
        let detail = "bindingConditions are required to use bindingFailureConditions";
        errors.invalid(&path.field(KEYS[0]), good.clone(), detail);
    }
    if failures.is_empty() && !conditions.is_empty() {
        let detail = "bindingFailureConditions are required to use bindingConditions";
        errors.invalid(&path.field(KEYS[1]), bad.clone(), detail);
    }
}

pub(super) const TAINT_EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

/// A value of a label, where it is shown along with all that is wrong.
pub(super) fn label_value(value: &str, path: &Path<'_>, errors: &mut Errors) {
    let messages: Messages = checks::label_value(value);
    errors.invalid_each(path, value, messages);
}
