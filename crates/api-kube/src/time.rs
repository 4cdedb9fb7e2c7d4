//! Times as objects carry them: RFC 3339 in UTC, with whole seconds ([`Time`]) or microseconds ([`MicroTime`], for leases
//! and events). Reading takes any offset and any fraction; what is finer is cut off, as Kubernetes does.

use std::fmt;
use std::str::FromStr;

use jiff::{Timestamp, Unit};
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::ser::{Serialize, Serializer};

/// Why a text is no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a time in RFC 3339 form, such as 2026-01-31T12:00:00Z")]
pub struct ParseTimeError {
    text: String,
}

/// A text of a time is not longer than this; Go writes nine digits of a fraction at most.
const TEXT_BYTES_MAX: usize = 64;

/// Whether a text has the form that Go's `time.RFC3339` takes. jiff knows more forms (a space for the `T`, small letters, a second
/// 60, basic form, zones' names), and what is stored in one of those no Go client can decode: its whole list fails.
fn is_rfc3339(text: &[u8]) -> bool {
    let matches = |text: &[u8], form: &[u8]| {
        text.len() == form.len()
            && text
                .iter()
                .zip(form)
                .all(|(byte, form)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form })
    };
    let number = |at: usize, text: &[u8]| u32::from(text[at] - b'0') * 10 + u32::from(text[at + 1] - b'0');
    if text.len() > TEXT_BYTES_MAX || text.len() < 20 || !matches(&text[..19], b"0000-00-00T00:00:00") {
        return false;
    }
    // Leap seconds are not known there, nor is the hour 24.
    if number(11, text) > 23 || number(17, text) > 59 {
        return false;
    }
    let mut zone = &text[19..];
    if let Some((b'.', rest)) = zone.split_first() {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return false;
        }
        zone = &rest[digits..];
    }
    match zone {
        b"Z" => true,
        _ => (matches(zone, b"+00:00") || matches(zone, b"-00:00")) && number(1, zone) < 24 && number(4, zone) < 60,
    }
}

macro_rules! time {
    ($(#[$doc:meta])* $name:ident, $unit:expr, $form:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Timestamp);

        impl $name {
            /// The time, without what is finer.
            pub fn new(timestamp: Timestamp) -> Self {
                let rounding = jiff::TimestampRound::new().smallest($unit).mode(jiff::RoundMode::Floor);
                // Rounding down fails only at the calendar's very beginning, where there is nothing to cut off.
                Self(timestamp.round(rounding).unwrap_or(timestamp))
            }

            /// The same as a timestamp.
            pub fn timestamp(self) -> Timestamp {
                self.0
            }
        }

        impl From<Timestamp> for $name {
            fn from(timestamp: Timestamp) -> Self {
                Self::new(timestamp)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.strftime($form).fmt(formatter)
            }
        }

        impl FromStr for $name {
            type Err = ParseTimeError;

            fn from_str(text: &str) -> Result<Self, ParseTimeError> {
                let shown = || ParseTimeError { text: text.chars().take(64).collect() };
                let is_exact = is_rfc3339(text.as_bytes());
                text.parse().ok().filter(|_| is_exact).map(Self::new).ok_or_else(shown)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct OfTime;
                impl Visitor<'_> for OfTime {
                    type Value = $name;

                    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                        formatter.write_str("a time in RFC 3339 form")
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(OfTime).map_err(D::Error::custom)
            }
        }
    };
}

time!(
    /// A time in whole seconds: `creationTimestamp`, `lastTransitionTime`.
    Time,
    Unit::Second,
    "%Y-%m-%dT%H:%M:%SZ"
);
time!(
    /// A time in microseconds: `renewTime` of a lease, `eventTime`.
    MicroTime,
    Unit::Microsecond,
    "%Y-%m-%dT%H:%M:%S.%6fZ"
);
