//! Numbers.

use crate::datum::Datum;
use crate::eval::{Eval, EvalError, binary, fail, integer, typed};
use crate::sql::ast::BinaryOp;

fn float(value: &Datum) -> Result<f64, EvalError> {
    match value {
        Datum::Int(value) => Ok(*value as f64),
        Datum::Float(value) => Ok(*value),
        other => fail(format!("cannot convert {} to float64", typed(other))),
    }
}

/// Outside its domain a function has no value.
fn number(value: f64) -> Datum {
    if value.is_nan() { Datum::Null } else { Datum::Float(value) }
}

pub(super) fn real(arguments: &[Datum], body: fn(f64) -> f64) -> Eval {
    Ok(number(body(float(&arguments[0])?)))
}

pub(super) fn real2(arguments: &[Datum], body: fn(f64, f64) -> f64) -> Eval {
    Ok(number(body(float(&arguments[0])?, float(&arguments[1])?)))
}

pub(super) fn positive(arguments: &[Datum], body: fn(f64) -> f64) -> Eval {
    let value = float(&arguments[0])?;
    if value < 0.0 {
        return fail(format!("The argument must be a strictly positive number but got {value}"));
    }
    Ok(number(body(value)))
}

/// `log(x)` to base 10, `log(base, x)` to another.
pub(super) fn log(arguments: &[Datum]) -> Eval {
    let Some(value) = arguments.get(1) else { return positive(arguments, f64::log10) };
    let (base, value) = (float(&arguments[0])?, float(value)?);
    if base <= 0.0 || base == 1.0 || value < 0.0 {
        return fail(format!("log takes a base above 0 but not 1 and a number not below 0, not {base} and {value}"));
    }
    Ok(number(value.log(base)))
}

pub(super) fn abs(arguments: &[Datum]) -> Eval {
    match &arguments[0] {
        Datum::Int(value) => match value.checked_abs() {
            Some(value) => Ok(Datum::Int(value)),
            None => fail(format!("abs({value}) does not fit int64")),
        },
        other => Ok(Datum::Float(float(other)?.abs())),
    }
}

pub(super) fn sign(arguments: &[Datum]) -> Eval {
    let value = float(&arguments[0])?;
    Ok(Datum::Int(i64::from(value > 0.0) - i64::from(value < 0.0)))
}

pub(super) fn bits(arguments: &[Datum], body: fn(i64, i64) -> i64) -> Eval {
    let operand = |at: usize, word: &str| match arguments.get(at) {
        None => Ok(0),
        Some(Datum::Int(value)) => Ok(*value),
        Some(other) => fail(format!("Expect int type for the {word} operand but got {}", other.to_text())),
    };
    Ok(Datum::Int(body(operand(0, "first")?, operand(1, "second")?)))
}

pub(super) fn modulo(arguments: &[Datum]) -> Eval {
    binary(BinaryOp::Modulo, &Datum::Float(float(&arguments[0])?), &Datum::Float(float(&arguments[1])?))
}

fn at_digits(arguments: &[Datum], body: fn(f64) -> f64) -> Eval {
    let value = float(&arguments[0])?;
    let digits = match arguments.get(1) {
        None => 0,
        Some(digits) => integer(digits, "the second argument")?,
    };
    // A double has 17 digits that count and exponents to 308.
    let scale = 10f64.powi(digits.clamp(-400, 400) as i32);
    let scaled = value * scale;
    if scaled.is_infinite() || scale.is_infinite() {
        return Ok(Datum::Float(value));
    }
    Ok(if scale == 0.0 { Datum::Float(0.0) } else { Datum::Float(body(scaled) / scale) })
}

pub(super) fn round(arguments: &[Datum]) -> Eval {
    at_digits(arguments, f64::round)
}

pub(super) fn trunc(arguments: &[Datum]) -> Eval {
    at_digits(arguments, f64::trunc)
}
