//! Amounts in objects: quantities, and lists of resources such as `{"cpu": "500m"}`.

use api_kube::Quantity;
use serde_json::Value;

use crate::kit::{Read, Write};

/// The amount that a value says; nothing for what is absent. Whether it is an amount has been checked with the types.
pub(crate) fn amount(value: &Value) -> Quantity {
    match value {
        Value::String(text) => text.parse().unwrap_or_default(),
        Value::Number(number) => number.to_string().parse().unwrap_or_default(),
        _ => Quantity::ZERO,
    }
}

/// Rounds the amounts of a resource list up to thousandths, the smallest part that resources have.
pub(crate) fn round_up(object: &mut Value, key: &str) {
    let Some(amounts) = object.some_mut(key).and_then(Value::as_object_mut) else { return };
    for value in amounts.values_mut() {
        let exact = amount(value);
        let rounded = exact.rounded_up_to_millis();
        if rounded != exact {
            *value = rounded.to_string().into();
        }
    }
}

/// Fills a resource list in from another, where it says nothing.
pub(crate) fn fill_from(object: &mut Value, key: &str, source: &str) {
    let Some(amounts) = object.part(source).as_object().filter(|amounts| !amounts.is_empty()).cloned() else { return };
    let target = object.make(key);
    for (name, value) in amounts {
        target.default_to(&name, value);
    }
}
