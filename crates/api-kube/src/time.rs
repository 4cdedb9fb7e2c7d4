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
                // jiff also takes forms without a `T` or with a zone's name, which RFC 3339 does not know.
                let is_plain = text.as_bytes().get(10) == Some(&b'T') && !text.contains('[');
                text.parse().ok().filter(|_| is_plain).map(Self::new).ok_or_else(shown)
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
