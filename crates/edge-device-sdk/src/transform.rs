//! How a raw value becomes a reading, and back: mask, shift, base, scale, offset, in EdgeX's order.
//!
//! Mask and shift apply to unsigned integers; base, scale and offset to all numbers; other types pass unchanged. An
//! integer result loses its fraction, as EdgeX's does. Whole-number scales and offsets are computed exactly, so a
//! 64-bit counter keeps its last digits. A result that does not fit the resource's type is an error, never a wrapped
//! number.

use api_edge::edgex::{ResourceProperties, Value, ValueType};

/// Why a value could not be converted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TransformError {
    /// The result is outside the range of the type.
    #[error("{step} of {raw} gives {result}, which does not fit {value_type} (overflow)")]
    Overflow {
        /// `shift`, `base`, `scale`, `offset` or `conversion`.
        step: &'static str,
        /// The value before.
        raw: String,
        /// The value after.
        result: String,
        /// The type that it should have.
        value_type: ValueType,
    },
    /// The value is of another kind than the resource: text where a number should be.
    #[error("`{raw}` is not a {value_type}")]
    WrongKind {
        /// The value as text.
        raw: String,
        /// The type that it should have.
        value_type: ValueType,
    },
    /// The reading differs from the profile's `assertion`.
    #[error("read `{read}`, but the profile asserts `{expected}`")]
    Assertion {
        /// What was read, after transformation.
        read: String,
        /// What the profile says.
        expected: String,
    },
}

/// Numbers on their way through the steps: exact as long as possible.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Number {
    Integer(i128),
    Real(f64),
}

impl Number {
    fn of(value: &Value) -> Option<Number> {
        match value {
            Value::Int(value) => Some(Number::Integer((*value).into())),
            Value::Uint(value) => Some(Number::Integer((*value).into())),
            Value::Float(value) => Some(Number::Real(*value)),
            _ => None,
        }
    }

    fn as_f64(self) -> f64 {
        match self {
            Number::Integer(value) => value as f64,
            Number::Real(value) => value,
        }
    }

    fn text(self) -> String {
        match self {
            Number::Integer(value) => value.to_string(),
            Number::Real(value) => value.to_string(),
        }
    }

    /// `self ∘ factor`: in integers where both are whole and the result fits, else in floating point.
    fn combine(self, other: f64, exact: fn(i128, i128) -> Option<i128>, real: fn(f64, f64) -> f64) -> Number {
        // Beyond 2^53 a float no longer says which whole number was meant.
        let is_whole = other.fract() == 0.0 && other.abs() <= 9_007_199_254_740_992.0;
        if let (Number::Integer(value), true) = (self, is_whole)
            && let Some(result) = exact(value, other as i128)
        {
            return Number::Integer(result);
        }
        Number::Real(real(self.as_f64(), other))
    }
}

fn is_unsigned(value_type: ValueType) -> bool {
    matches!(value_type, ValueType::Uint8 | ValueType::Uint16 | ValueType::Uint32 | ValueType::Uint64)
}

fn is_float(value_type: ValueType) -> bool {
    matches!(value_type, ValueType::Float32 | ValueType::Float64)
}

fn is_numeric(value_type: ValueType) -> bool {
    value_type.integer_range().is_some() || is_float(value_type)
}

/// Makes the value of a reading out of a raw value, and checks the profile's assertion.
///
/// # Errors
/// [`TransformError`]; EdgeX would give a reading `overflow` or `NaN` in the first case.
pub fn to_reading(raw: Value, properties: &ResourceProperties) -> Result<Value, TransformError> {
    let value = transform(raw, properties)?;
    if let Some(expected) = properties.assertion.as_deref().filter(|expected| !expected.is_empty()) {
        let read = value.to_edgex(properties.value_type).unwrap_or_default();
        // EdgeX compares texts; ours also takes `21.5` for `2.15e+01`.
        let is_same = read == expected
            || Value::from_edgex(expected, properties.value_type).is_ok_and(|expected| expected == value);
        if !is_same {
            return Err(TransformError::Assertion { read, expected: expected.to_owned() });
        }
    }
    Ok(value)
}

fn transform(raw: Value, properties: &ResourceProperties) -> Result<Value, TransformError> {
    let value_type = properties.value_type;
    if !is_numeric(value_type) {
        return convert(raw, value_type);
    }
    let Some(mut number) = Number::of(&raw) else { return convert(raw, value_type) };
    let before = number;
    let overflow =
        |step, result: Number| TransformError::Overflow { step, raw: before.text(), result: result.text(), value_type };
    if is_unsigned(value_type)
        && let Number::Integer(bits) = number
    {
        let masked = match properties.mask {
            Some(mask) if mask != 0 => bits & i128::from(mask),
            _ => bits,
        };
        number = Number::Integer(shift(masked, properties.shift.unwrap_or(0)));
        check_range(number, value_type).map_err(|result| overflow("shift", result))?;
    }
    if let Some(base) = properties.base.filter(|base| *base != 0.0) {
        number = Number::Real(base.powf(number.as_f64()));
        check_range(number, value_type).map_err(|result| overflow("base", result))?;
    }
    if let Some(scale) = properties.scale.filter(|scale| *scale != 1.0) {
        number = number.combine(scale, i128::checked_mul, |value, scale| value * scale);
        check_range(number, value_type).map_err(|result| overflow("scale", result))?;
    }
    if let Some(offset) = properties.offset.filter(|offset| *offset != 0.0) {
        number = number.combine(offset, i128::checked_add, |value, offset| value + offset);
        check_range(number, value_type).map_err(|result| overflow("offset", result))?;
    }
    finish(number, value_type, f64::trunc).map_err(|result| overflow("conversion", result))
}

/// Left when positive, right when negative, as EdgeX's SDK does. More than 64 bits leave nothing.
fn shift(bits: i128, by: i64) -> i128 {
    match by {
        0 => bits,
        1..=63 => bits << by,
        -63..=-1 => bits >> -by,
        _ => 0,
    }
}

fn check_range(number: Number, value_type: ValueType) -> Result<(), Number> {
    finish(number, value_type, f64::trunc).map(|_| ())
}

/// The number in its type; the number itself when it does not fit.
fn finish(number: Number, value_type: ValueType, round: fn(f64) -> f64) -> Result<Value, Number> {
    if let Some((low, high)) = value_type.integer_range() {
        let integer = match number {
            Number::Integer(value) => value,
            // Far outside of every type, casts saturate; the range check below then refuses it.
            Number::Real(value) if value.is_finite() => round(value) as i128,
            Number::Real(_) => return Err(number),
        };
        if integer < low || integer > high {
            return Err(number);
        }
        return match (low, u64::try_from(integer), i64::try_from(integer)) {
            (0, Ok(value), _) => Ok(Value::Uint(value)),
            (_, _, Ok(value)) => Ok(Value::Int(value)),
            _ => Err(number),
        };
    }
    let value = number.as_f64();
    let value = if value_type == ValueType::Float32 { f64::from(value as f32) } else { value };
    if value.is_finite() { Ok(Value::Float(value)) } else { Err(number) }
}

/// A value of another kind in the type of the resource, where that loses nothing: `1` as Bool, a number as text.
fn convert(value: Value, value_type: ValueType) -> Result<Value, TransformError> {
    let wrong = |value: &Value| TransformError::WrongKind {
        raw: value.to_edgex(value_type).unwrap_or_else(|| kind_of(value).to_owned()),
        value_type,
    };
    match (&value, value_type) {
        (Value::Null, _)
        | (Value::Bool(_), ValueType::Bool)
        | (Value::String(_), ValueType::String)
        | (Value::Binary(_), ValueType::Binary)
        | (Value::Object(_), ValueType::Object | ValueType::ObjectArray) => Ok(value),
        (Value::Int(0) | Value::Uint(0), ValueType::Bool) => Ok(Value::Bool(false)),
        (Value::Int(1) | Value::Uint(1), ValueType::Bool) => Ok(Value::Bool(true)),
        (Value::Bool(bit), _) if is_numeric(value_type) => {
            finish(Number::Integer((*bit).into()), value_type, f64::trunc).map_err(|_| wrong(&value))
        }
        (Value::String(text), _) => Value::from_edgex(text, value_type)
            .map_err(|error| TransformError::WrongKind { raw: error.text, value_type }),
        (Value::Array(_), _) if value_type.element().is_some() => {
            let element = value_type.element().expect("checked by the guard");
            let Value::Array(values) = value else { unreachable!("matched above") };
            let plain = plain_properties(element);
            values.into_iter().map(|value| transform(value, &plain)).collect::<Result<_, _>>().map(Value::Array)
        }
        _ => Err(wrong(&value)),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "a truth value",
        Value::Int(_) | Value::Uint(_) | Value::Float(_) => "a number",
        Value::String(_) => "text",
        Value::Binary(_) => "bytes",
        Value::Object(_) => "an object",
        Value::Array(_) => "an array",
        Value::Null => "no value",
    }
}

/// Properties that transform nothing.
pub(crate) fn plain_properties(value_type: ValueType) -> ResourceProperties {
    ResourceProperties {
        value_type,
        read_write: api_edge::edgex::ReadWrite::R,
        units: None,
        minimum: None,
        maximum: None,
        default_value: None,
        mask: None,
        shift: None,
        base: None,
        scale: None,
        offset: None,
        assertion: None,
        media_type: None,
        optional: Default::default(),
    }
}

/// Makes the raw value that gives `value` when it is read: offset, scale, base, shift and mask undone, in that order.
///
/// The result is a float where the resource is one, and else rounded to the nearest whole number: `21.5 / 0.1` must
/// become 215, not 214.
///
/// # Errors
/// [`TransformError::Overflow`] when the raw value does not fit the type of the resource.
pub fn from_write(value: Value, properties: &ResourceProperties) -> Result<Value, TransformError> {
    let value_type = properties.value_type;
    if !is_numeric(value_type) {
        return convert(value, value_type);
    }
    let Some(mut number) = Number::of(&value) else { return convert(value, value_type) };
    let before = number;
    let overflow =
        |step, result: Number| TransformError::Overflow { step, raw: before.text(), result: result.text(), value_type };
    if let Some(offset) = properties.offset.filter(|offset| *offset != 0.0) {
        number = number.combine(offset, i128::checked_sub, |value, offset| value - offset);
    }
    if let Some(scale) = properties.scale.filter(|scale| *scale != 1.0 && *scale != 0.0) {
        let exact = |value: i128, scale: i128| if value % scale == 0 { Some(value / scale) } else { None };
        number = number.combine(scale, exact, |value, scale| value / scale);
    }
    if let Some(base) = properties.base.filter(|base| *base != 0.0) {
        number = Number::Real(number.as_f64().ln() / base.ln());
    }
    let raw = finish(number, value_type, f64::round).map_err(|result| overflow("the inverse of scale", result))?;
    if is_unsigned(value_type)
        && let Some(Number::Integer(bits)) = Number::of(&raw)
    {
        let moved = shift(bits, properties.shift.unwrap_or(0).saturating_neg());
        let kept = match properties.mask {
            Some(mask) if mask != 0 => moved & i128::from(mask),
            _ => moved,
        };
        return finish(Number::Integer(kept), value_type, f64::trunc)
            .map_err(|result| overflow("the inverse of shift", result));
    }
    Ok(raw)
}
