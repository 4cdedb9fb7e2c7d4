//! Bounds of numbers. The reference implementation compares integers as integers and everything else as floats, and
//! checks that the bounds themselves have the type of the schema.

use serde_json::{Number, Value};

use super::{Outcome, ValueError};
use crate::{go, schema::Limits};

/// The largest whole number that JSON's numbers hold exactly.
const JSON_INTEGER_MAX: f64 = 9_007_199_254_740_991.0;

/// How close to a whole number counts as one.
const EPSILON: f64 = 1e-9;

pub(super) fn check(limits: &Limits, types: &[&str], format: &str, number: &Number, path: &str, outcome: &mut Outcome) {
    // Types and formats count where they are unambiguous.
    let (kind, format) = match types {
        ["integer"] if matches!(format, "int32" | "int64") => ("integer", format),
        ["integer"] => ("integer", ""),
        ["number"] if matches!(format, "float" | "double") => ("number", format),
        ["number"] => ("number", ""),
        _ => ("", ""),
    };
    let value = Value::Number(number.clone());
    let float = number.as_f64().unwrap_or_default();
    let range = Range { kind, format, path };
    range.check(number.as_i64(), float, "Checked", outcome);
    outcome.passed += 1;
    if let Some(factor) = limits.multiple_of {
        let is_native = range.check(None, factor, "MultipleOf", outcome);
        let detail = match number.as_i64().filter(|_| is_native) {
            Some(whole) => multiple_of_whole(whole, factor),
            None => multiple_of(float, factor),
        };
        match detail {
            Multiple::Yes => {}
            Multiple::No(factor) => {
                let text = format!("{path} in body should be a multiple of {factor}");
                outcome.add(ValueError::invalid(path, &value, text));
            }
            Multiple::BadFactor(factor) => {
                let text = format!("factor MultipleOf declared for {path} must be positive: {factor}");
                let shown = serde_json::from_str(&factor).unwrap_or_default();
                outcome.add(ValueError::invalid(path, &shown, text));
            }
        }
    }
    let bounds = [
        (limits.minimum, limits.exclusive_minimum, "Minimum boundary", false),
        (limits.maximum, limits.exclusive_maximum, "Maximum boundary", true),
    ];
    for (bound, exclusive, what, is_maximum) in bounds {
        let Some(bound) = bound else { continue };
        let is_native = range.check(None, bound, what, outcome);
        let (exceeds, shown) = match number.as_i64().filter(|_| is_native) {
            Some(whole) => {
                #[expect(clippy::cast_possible_truncation, reason = "the reference implementation truncates, too")]
                let bound = bound as i64;
                let exceeds = if is_maximum { whole > bound } else { whole < bound };
                (exceeds || exclusive && whole == bound, bound.to_string())
            }
            None => {
                let exceeds = if is_maximum { float > bound } else { float < bound };
                (exceeds || exclusive && float == bound, go::float(bound))
            }
        };
        if exceeds {
            let relation = match (is_maximum, exclusive) {
                (true, false) => "less than or equal to",
                (true, true) => "less than",
                (false, false) => "greater than or equal to",
                (false, true) => "greater than",
            };
            let text = format!("{path} in body should be {relation} {shown}");
            outcome.add(ValueError::invalid(path, &value, text));
        }
    }
}

struct Range<'r> {
    kind: &'r str,
    format: &'r str,
    path: &'r str,
}

impl Range<'_> {
    /// Whether the type and format can hold a number.
    fn check(&self, whole: Option<i64>, float: f64, what: &str, outcome: &mut Outcome) -> bool {
        // A float is written without an exponent and read as the type.
        let as_whole = whole.or_else(|| {
            let is_whole =
                float.fract() == 0.0 && (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&float);
            #[expect(clippy::cast_possible_truncation, reason = "it is whole and within the range")]
            is_whole.then_some(float as i64)
        });
        let fits = match (self.kind, self.format) {
            ("integer", "int32") => as_whole.is_some_and(|whole| i32::try_from(whole).is_ok()),
            ("integer", _) => as_whole.is_some(),
            (_, "float") => {
                #[expect(clippy::cast_possible_truncation, reason = "whether it overflows is the question")]
                let single = float as f32;
                single.is_finite()
            }
            _ => true,
        };
        if !fits {
            let format = match self.format {
                "" => "(default format)".to_owned(),
                format => format!("with format {format}"),
            };
            let text = format!("{what} value must be of type {} {format} in {}", self.kind, self.path);
            outcome.add(ValueError::composite(text));
        }
        fits
    }
}

enum Multiple {
    Yes,
    No(String),
    BadFactor(String),
}

fn multiple_of_whole(whole: i64, factor: f64) -> Multiple {
    #[expect(clippy::cast_possible_truncation, reason = "the reference implementation truncates, too")]
    let factor = factor as i64;
    match factor {
        i64::MIN..=0 => Multiple::BadFactor(factor.to_string()),
        _ if whole % factor == 0 => Multiple::Yes,
        _ => Multiple::No(factor.to_string()),
    }
}

fn multiple_of(float: f64, factor: f64) -> Multiple {
    if factor <= 0.0 {
        return Multiple::BadFactor(go::float(factor));
    }
    let times = if factor < 1.0 { 1.0 / factor * float } else { float / factor };
    if is_json_integer(times) { Multiple::Yes } else { Multiple::No(go::float(factor)) }
}

/// Whether a float counts as an integer, up to a rounding error.
pub(super) fn is_json_integer(float: f64) -> bool {
    if !float.is_finite() || float.abs() > JSON_INTEGER_MAX {
        return false;
    }
    let whole = float.trunc();
    float == whole || (float - whole).abs() / (float.abs() + whole.abs()) < EPSILON
}

/// Whether a value equals one of an enumeration: numbers are compared as the type that the enumeration has.
pub(super) fn equals(value: &Value, allowed: &Value) -> bool {
    match (value, allowed) {
        (Value::Number(value), Value::Number(allowed)) => match (allowed.as_i64(), value.as_i64()) {
            (Some(allowed), Some(value)) => allowed == value,
            #[expect(clippy::cast_possible_truncation, reason = "the reference implementation truncates, too")]
            (Some(allowed), None) => value.as_f64().is_some_and(|value| value as i64 == allowed),
            (None, _) => value.as_f64() == allowed.as_f64(),
        },
        _ => value == allowed,
    }
}
