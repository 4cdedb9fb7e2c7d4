//! Exact amounts: `500m` of a processor, `1.5Gi` of memory.
//!
//! The value is a whole number of billionths, the smallest part that Kubernetes knows; what is smaller is rounded up, away
//! from zero, as there. So sums and comparisons are exact, and `1000m` equals `1`.
//!
//! Text is read in Kubernetes' grammar: a sign, digits with an optional point, and a suffix: decimal `n u m k M G T P E`,
//! binary `Ki Mi Gi Ti Pi Ei`, or an exponent `e3`, `E-2`. It is written in canonical form: no fraction, the largest
//! suffix that keeps the number whole, in the family it was read in. `0.5` becomes `500m`, `1024Mi` becomes `1Gi`.
//!
//! Kubernetes bounds amounts by 2^63-1 when they are large or odd enough to need its slow arithmetic, and leaves short
//! ones such as `100E` alone; so do we. It also keeps `1e100`; here nothing exceeds [`UNITS_MAX`].

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::ser::{Serialize, Serializer};

/// Billionths in one.
const NANOS: i128 = 1_000_000_000;

/// Largest amount that can be held, in units; far beyond any resource of any machine.
pub const UNITS_MAX: i128 = 100_000_000_000_000_000_000_000_000_000;

/// Text of an amount is not longer than this. Kubernetes knows no bound, but its clients need seconds for a number of some
/// hundred thousand digits, and whoever writes one means ill.
const TEXT_BYTES_MAX: usize = 64;

/// Exponents are not larger than this, either way: clients print a number with as many zeros.
const EXPONENT_MAX: i32 = 1_000;

const NANOS_MAX: u128 = (UNITS_MAX * NANOS) as u128;

/// Kubernetes' bound where its slow arithmetic is needed.
const CAPPED_NANOS: u128 = (i64::MAX as i128 * NANOS) as u128;

/// The family of suffixes in which an amount is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `12e6`.
    DecimalExponent,
    /// `12Mi`: 12 × 1024².
    BinarySi,
    /// `12M`: 12 × 1000².
    DecimalSi,
}

/// An exact amount. Two are equal when their values are, however they were written.
///
/// ```
/// use api_kube::Quantity;
/// let half: Quantity = "0.5".parse().unwrap();
/// assert_eq!(half, "500m".parse().unwrap());
/// assert_eq!(half.to_string(), "500m");
/// let memory: Quantity = "1.5Gi".parse().unwrap();
/// assert_eq!((memory.value(), memory.to_string().as_str()), (1_610_612_736, "1536Mi"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity. The words are those of Kubernetes' API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseQuantityError {
    /// No number, or something after it.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// Longer than any amount needs to be.
    #[error("must be no more than {TEXT_BYTES_MAX} bytes")]
    TooLong,
    /// The suffix is none of the known ones.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    /// So many whole units, written with decimal suffixes.
    pub const fn from_units(units: i64) -> Self {
        Self { nanos: units as i128 * NANOS, format: Format::DecimalSi }
    }

    /// So many thousandths: a processor's millicores.
    pub const fn from_millis(millis: i64) -> Self {
        Self { nanos: millis as i128 * (NANOS / 1000), format: Format::DecimalSi }
    }

    /// So many bytes, written with binary suffixes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self { nanos: bytes as i128 * NANOS, format: Format::BinarySi }
    }

    /// Whole units, rounded up away from zero; at the ends of `i64` for what is beyond them.
    pub fn value(&self) -> i64 {
        self.scaled(NANOS)
    }

    /// Thousandths, rounded and bounded as [`Quantity::value`].
    pub fn milli_value(&self) -> i64 {
        self.scaled(NANOS / 1000)
    }

    fn scaled(&self, unit: i128) -> i64 {
        let rounded = self.nanos.unsigned_abs().div_ceil(unit.unsigned_abs());
        let signed = i128::try_from(rounded).unwrap_or(i128::MAX) * self.nanos.signum();
        i64::try_from(signed).unwrap_or(if signed < 0 { i64::MIN } else { i64::MAX })
    }

    /// The same in whole thousandths, rounded away from zero.
    #[must_use]
    pub fn rounded_up_to_millis(self) -> Self {
        const STEP: u128 = (NANOS / 1000) as u128;
        let rounded = self.nanos.unsigned_abs().div_ceil(STEP) * STEP;
        let nanos = i128::try_from(rounded).unwrap_or(NANOS_MAX as i128).min(NANOS_MAX as i128) * self.nanos.signum();
        Self { nanos, format: self.format }
    }

    /// How it is written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether it is less than nothing.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// The sum, at the bound for what is beyond it. Written as `self`, or as `other` when `self` is zero.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos).clamp(-(NANOS_MAX as i128), NANOS_MAX as i128), format }
    }

    /// The difference, as [`Quantity::saturating_add`].
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        self.saturating_add(Self { nanos: -other.nanos, format: other.format })
    }

    /// The canonical number and the exponent of its suffix: of 10 in steps of 3, or of 1024.
    fn canonical(&self) -> (u128, Family) {
        let nanos = self.nanos.unsigned_abs();
        let small = nanos < 1024 * NANOS.unsigned_abs();
        if self.format == Format::BinarySi && !small && nanos.is_multiple_of(NANOS.unsigned_abs()) {
            let (mut number, mut power) = (nanos / NANOS.unsigned_abs(), 0);
            while power < 6 && number.is_multiple_of(1024) {
                number /= 1024;
                power += 1;
            }
            return (number, Family::Binary(power));
        }
        // Fractions and what is small would lose precision or read oddly in binary, so they are decimal.
        let (mut number, mut exponent) = (nanos, -9);
        let largest = if self.format == Format::DecimalExponent { i32::MAX } else { 18 };
        while exponent < largest && number.is_multiple_of(1000) {
            number /= 1000;
            exponent += 3;
        }
        match self.format {
            Format::DecimalExponent => (number, Family::Exponent(exponent)),
            Format::BinarySi | Format::DecimalSi => (number, Family::Decimal(exponent)),
        }
    }
}

enum Family {
    Binary(usize),
    Decimal(i32),
    Exponent(i32),
}

const BINARY_SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL_SUFFIXES: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return formatter.write_str("0");
        }
        if self.is_negative() {
            formatter.write_str("-")?;
        }
        let (number, family) = self.canonical();
        write!(formatter, "{number}")?;
        match family {
            Family::Binary(power) => formatter.write_str(BINARY_SUFFIXES[power]),
            Family::Decimal(exponent) => {
                let suffix = DECIMAL_SUFFIXES.iter().find(|(_, known)| *known == exponent);
                formatter.write_str(suffix.map_or("", |(suffix, _)| suffix))
            }
            Family::Exponent(0) => Ok(()),
            Family::Exponent(exponent) => write!(formatter, "e{exponent}"),
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Default for Quantity {
    fn default() -> Self {
        Self::ZERO
    }
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(ParseQuantityError::TooLong);
        }
        let (is_negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let digits_len = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, rest) = unsigned.split_at(digits_len(unsigned));
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(digits_len(rest)),
            None => ("", rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(ParseQuantityError::Format);
        }
        let (scale, format) = parse_suffix(suffix)?;
        let whole = whole.trim_start_matches('0');
        let (nanos, needs_slow) = match scale {
            Scale::Decimal(exponent) => (
                decimal_nanos(whole, fraction, exponent),
                whole.len().max(1) + fraction.len() > 18
                    || exponent.saturating_sub(i32::try_from(fraction.len()).unwrap_or(i32::MAX)) < -9,
            ),
            Scale::Binary(power) => (
                binary_nanos(whole, fraction, power),
                !fraction.is_empty() || 14 < whole.len().max(1) + usize::try_from(power * 3 / 10).unwrap_or(0),
            ),
        };
        let bound = if needs_slow { CAPPED_NANOS } else { NANOS_MAX };
        let nanos = i128::try_from(nanos.min(bound)).expect("the bound fits");
        Ok(Self { nanos: if is_negative { -nanos } else { nanos }, format })
    }
}

/// What a suffix multiplies by.
enum Scale {
    /// 10 to this.
    Decimal(i32),
    /// 2 to this.
    Binary(u32),
}

fn parse_suffix(suffix: &str) -> Result<(Scale, Format), ParseQuantityError> {
    if let Some((_, exponent)) = DECIMAL_SUFFIXES.iter().find(|(known, _)| *known == suffix) {
        return Ok((Scale::Decimal(*exponent), Format::DecimalSi));
    }
    if let Some(power) = BINARY_SUFFIXES.iter().position(|known| *known == suffix) {
        return Ok((Scale::Binary(u32::try_from(power * 10).expect("a small number")), Format::BinarySi));
    }
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']) {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ParseQuantityError::Suffix);
        }
        // What does not fit 32 bits no Go client decodes, and with a large one it does not end.
        let exponent = exponent.parse::<i32>().ok().filter(|exponent| exponent.unsigned_abs() <= EXPONENT_MAX as u32);
        return Ok((Scale::Decimal(exponent.ok_or(ParseQuantityError::Suffix)?), Format::DecimalExponent));
    }
    let in_alphabet = suffix.bytes().all(|byte| b"eEinumkKMGTP+-0123456789".contains(&byte));
    Err(if in_alphabet { ParseQuantityError::Suffix } else { ParseQuantityError::Format })
}

/// `whole.fraction × 10^exponent` in billionths, rounded up; saturating. Digit by digit, so that its cost is the text's
/// length and no digit is lost.
fn decimal_nanos(whole: &str, fraction: &str, exponent: i32) -> u128 {
    // So many of the digits are before the point when counted in billionths.
    let kept = i64::try_from(whole.len()).unwrap_or(i64::MAX).saturating_add(i64::from(exponent)).saturating_add(9);
    let mut digits = whole.bytes().chain(fraction.bytes()).map(|digit| u128::from(digit - b'0'));
    let mut nanos = 0u128;
    let mut taken = 0;
    while taken < kept {
        match digits.next() {
            Some(digit) => nanos = nanos.saturating_mul(10).saturating_add(digit),
            // Only zeros follow: multiply until it saturates, and not a million times.
            None if nanos == 0 || nanos >= NANOS_MAX => return nanos,
            None => nanos = nanos.saturating_mul(10),
        }
        taken += 1;
    }
    if digits.any(|digit| digit != 0) { nanos.saturating_add(1) } else { nanos }
}

/// `whole.fraction × 2^power` in billionths, rounded up; saturating.
fn binary_nanos(whole: &str, fraction: &str, power: u32) -> u128 {
    let one = NANOS.unsigned_abs() << power;
    let units =
        whole.bytes().fold(0u128, |units, digit| units.saturating_mul(10).saturating_add(u128::from(digit - b'0')));
    // Long multiplication from the last digit: what is carried out of the first is the whole part.
    let (mut carry, mut has_rest) = (0u128, false);
    for digit in fraction.bytes().rev() {
        carry += u128::from(digit - b'0') * one;
        has_rest |= !carry.is_multiple_of(10);
        carry /= 10;
    }
    units.saturating_mul(one).saturating_add(carry).saturating_add(u128::from(has_rest))
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    /// From a text or a number, as Kubernetes takes both.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfQuantity;
        impl Visitor<'_> for OfQuantity {
            type Value = Quantity;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a quantity, such as 500m or \"1Gi\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Quantity, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Quantity, E> {
                Ok(Quantity::from_units(number))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Quantity, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Quantity, E> {
                // The shortest decimal text that means this float: 0.1 is a tenth here, as its author meant.
                let text = number.to_string();
                if text.len() <= TEXT_BYTES_MAX {
                    self.visit_str(&text)
                } else {
                    self.visit_str(&format!("{number:e}"))
                }
            }
        }
        deserializer.deserialize_any(OfQuantity).map_err(D::Error::custom)
    }
}
