//! Numbers in the one form in which they are stored.
//!
//! `1.0` and `1e2` are integers to JSON Schema, and the reference implementation stores them as `1` and `100`.

use serde_json::{Number, Value};

/// Beyond this, neighbours of a float are more than one apart, and it stays a float.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// Turns whole floats into integers.
pub(super) fn canonicalize(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().unwrap_or_default();
            if float.fract() == 0.0 && float.abs() <= WHOLE_MAX {
                #[expect(clippy::cast_possible_truncation, reason = "it is whole, and within the range")]
                let whole = float as i64;
                *number = Number::from(whole);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(canonicalize),
        Value::Object(map) => map.values_mut().for_each(canonicalize),
        _ => {}
    }
}
