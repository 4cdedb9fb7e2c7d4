//! Durations as Go reads them: `1h30m`, `-1.5s`, `300ms`.

/// Why a text is no duration, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseGoDurationError {
    /// It has no form that Go knows, or is longer than 64 bits of nanoseconds.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number without a unit.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// A unit that there is none of.
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// All of it.
        text: String,
    },
}

/// Nothing of a fraction beyond this many digits makes a nanosecond of an hour.
const FRACTION_DIGITS_MAX: usize = 13;

/// Reads a duration; in nanoseconds.
///
/// # Errors
/// With Go's first mistake.
pub fn parse(text: &str) -> Result<i64, ParseGoDurationError> {
    let invalid = || ParseGoDurationError::Invalid(text.to_owned());
    let (is_negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0_i128;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = after.strip_prefix('.').map_or(("", after), digits);
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let (unit, after) = after.split_at(after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len()));
        let scale: i128 = match unit {
            "" => return Err(ParseGoDurationError::MissingUnit(text.to_owned())),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            unit => return Err(ParseGoDurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() }),
        };
        let number = |digits: &str| if digits.is_empty() { Ok(0) } else { digits.parse::<u64>() };
        let whole = i128::from(number(whole).map_err(|_| invalid())?);
        let fraction = &fraction[..fraction.len().min(FRACTION_DIGITS_MAX)];
        let parts = fraction.bytes().fold(1_i128, |parts, _| parts * 10);
        let fraction = i128::from(number(fraction).map_err(|_| invalid())?);
        total += whole * scale + fraction * scale / parts;
        if total > i128::from(i64::MAX) + i128::from(is_negative) {
            return Err(invalid());
        }
        rest = after;
    }
    i64::try_from(if is_negative { -total } else { total }).map_err(|_| invalid())
}

/// The digits that a text begins with, and what comes after them.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanoseconds) in [
            ("1h2m", Some(3_720_000_000_000)),
            ("-1.5s", Some(-1_500_000_000)),
            ("+1.5s", Some(1_500_000_000)),
            (".5ms", Some(500_000)),
            ("1.h", Some(3_600_000_000_000)),
            ("0.00000000000000000000000001h", Some(0)),
            ("0", Some(0)),
            ("1", None),
            ("", None),
            ("-", None),
            (".s", None),
            ("1d", None),
            ("9223372036854775807ns", Some(i64::MAX)),
            ("9223372036854775808ns", None),
            ("-9223372036854775808ns", Some(i64::MIN)),
            ("2562047h", Some(9_223_369_200_000_000_000)),
            ("2562047.9h", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(parse(text).ok(), nanoseconds, "{text}");
        }
    }

    #[test]
    fn a_mistake_is_said_in_gos_words() {
        for (text, why) in [
            ("x", "time: invalid duration \"x\""),
            ("876000000h", "time: invalid duration \"876000000h\""),
            ("1h5", "time: missing unit in duration \"1h5\""),
            ("1h 5m", "time: unknown unit \"h \" in duration \"1h 5m\""),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), why);
        }
    }
}
