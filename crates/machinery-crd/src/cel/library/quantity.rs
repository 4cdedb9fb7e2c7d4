//! Quantities such as `1.5Gi`, exactly.

use std::cmp::Ordering;

use super::Val;
use crate::cel::eval::{EvalError, Result};

/// `digits × 10^exponent`.
#[derive(Clone, Debug)]
pub(crate) struct Quantity {
    digits: i128,
    exponent: i32,
}

/// More digits than this are no quantity that anybody means.
const DIGITS_MAX: usize = 30;

impl Quantity {
    fn read(text: &str) -> Option<Self> {
        let (sign, rest) = match text.as_bytes().first()? {
            b'-' => (-1, &text[1..]),
            b'+' => (1, &text[1..]),
            _ => (1, text),
        };
        let end = rest.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || whole.len() + fraction.len() == 0 || whole.len() + fraction.len() > DIGITS_MAX {
            return None;
        }
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let mut exponent = -i32::try_from(fraction.len()).ok()?;
        let mut factor: i128 = 1;
        match suffix {
            "" => {}
            "n" => exponent -= 9,
            "u" => exponent -= 6,
            "m" => exponent -= 3,
            "k" => exponent += 3,
            "M" => exponent += 6,
            "G" => exponent += 9,
            "T" => exponent += 12,
            "P" => exponent += 15,
            "E" => exponent += 18,
            "Ki" => factor = 1 << 10,
            "Mi" => factor = 1 << 20,
            "Gi" => factor = 1 << 30,
            "Ti" => factor = 1 << 40,
            "Pi" => factor = 1 << 50,
            "Ei" => factor = 1 << 60,
            other => {
                let power = other.strip_prefix(['e', 'E'])?;
                exponent = exponent.checked_add(power.parse::<i32>().ok().filter(|power| power.abs() < 1000)?)?;
            }
        }
        Some(Self { digits: digits.checked_mul(factor)?.checked_mul(sign)?, exponent }.reduced())
    }

    fn reduced(mut self) -> Self {
        while self.digits != 0 && self.digits % 10 == 0 {
            self.digits /= 10;
            self.exponent += 1;
        }
        if self.digits == 0 {
            self.exponent = 0;
        }
        self
    }

    /// Both with one exponent; nothing when that takes too many digits.
    fn aligned(&self, other: &Self) -> Option<(i128, i128, i32)> {
        let exponent = self.exponent.min(other.exponent);
        let at = |quantity: &Self| {
            let power = u32::try_from(quantity.exponent - exponent).ok()?;
            quantity.digits.checked_mul(10_i128.checked_pow(power)?)
        };
        Some((at(self)?, at(other)?, exponent))
    }

    pub fn compare(&self, other: &Self) -> Ordering {
        match self.aligned(other) {
            Some((a, b, _)) => a.cmp(&b),
            None => self.float().total_cmp(&other.float()),
        }
    }

    fn float(&self) -> f64 {
        self.digits as f64 * 10_f64.powi(self.exponent)
    }

    fn whole(&self) -> Option<i64> {
        let power = u32::try_from(self.exponent).ok()?;
        i64::try_from(self.digits.checked_mul(10_i128.checked_pow(power)?)?).ok()
    }
}

pub(super) fn parse<'v>(name: &str, text: &str) -> Result<'v> {
    let found = Quantity::read(text);
    if name == "isQuantity" {
        return Ok(Val::Bool(found.is_some()));
    }
    found.map(Val::Quantity).ok_or_else(|| {
        EvalError::new("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    })
}

pub(super) fn call<'v>(name: &str, own: &Quantity, rest: &[Val<'v>]) -> Result<'v> {
    let other = match rest {
        [Val::Quantity(other)] => Some(other.clone()),
        [Val::Int(number)] => Some(Quantity { digits: (*number).into(), exponent: 0 }),
        _ => None,
    };
    match (name, other) {
        ("sign", None) => Ok(Val::Int(own.digits.signum() as i64)),
        ("asInteger", None) => {
            own.whole().map(Val::Int).ok_or_else(|| EvalError::new("cannot convert value to integer"))
        }
        ("isInteger", None) => Ok(Val::Bool(own.whole().is_some())),
        ("asApproximateFloat", None) => Ok(Val::Double(own.float())),
        ("isGreaterThan", Some(other)) => Ok(Val::Bool(own.compare(&other).is_gt())),
        ("isLessThan", Some(other)) => Ok(Val::Bool(own.compare(&other).is_lt())),
        ("compareTo", Some(other)) => Ok(Val::Int(own.compare(&other) as i64)),
        ("add" | "sub", Some(other)) => {
            let sum = own.aligned(&other).and_then(|(a, b, exponent)| {
                let digits = if name == "add" { a.checked_add(b) } else { a.checked_sub(b) }?;
                Some(Quantity { digits, exponent }.reduced())
            });
            sum.map(Val::Quantity).ok_or_else(|| EvalError::new("quantity overflow"))
        }
        _ => Err(EvalError::no_overload()),
    }
}
