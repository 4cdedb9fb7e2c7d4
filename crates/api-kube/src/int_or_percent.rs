//! A number, or a share of one: `maxUnavailable: 1`, `maxSurge: 25%`.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::ser::{Serialize, Serializer};

/// What Kubernetes' API server says of a text that is no percentage.
pub const PERCENT_MESSAGE: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// A number or a percentage. Reading JSON takes any text, so that a stored object never fails to be read; what is wrong with
/// it is said by [`IntOrPercent::check`] and [`IntOrPercent::scaled`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntOrPercent {
    /// A number.
    Int(i32),
    /// A text, which should be digits and `%`.
    Text(String),
}

/// Which way a share is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Down: of ten pods, 25 % are two.
    Down,
    /// Up: of ten pods, 25 % are three.
    Up,
}

/// Why it is no number of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntOrPercentError {
    /// The text is not digits and `%`.
    #[error("{PERCENT_MESSAGE}")]
    NotPercent,
    /// It is less than nothing.
    #[error("must be greater than or equal to 0")]
    Negative,
    /// It is more than all.
    #[error("must not be greater than 100%")]
    MoreThanAll,
}

impl IntOrPercent {
    /// The percentage, when it is one.
    pub fn percent(&self) -> Option<u32> {
        let Self::Text(text) = self else { return None };
        let digits = text.strip_suffix('%')?;
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        // A number that long is far above 100 and rejected as such.
        is_number.then(|| digits.parse().unwrap_or(u32::MAX))
    }

    /// Whether it is neither negative nor, as a share, more than all.
    pub fn check(&self) -> Result<(), IntOrPercentError> {
        match (self, self.percent()) {
            (Self::Int(number), _) if *number < 0 => Err(IntOrPercentError::Negative),
            (Self::Int(_), _) | (Self::Text(_), Some(0..=100)) => Ok(()),
            (Self::Text(_), Some(_)) => Err(IntOrPercentError::MoreThanAll),
            (Self::Text(_), None) => Err(IntOrPercentError::NotPercent),
        }
    }

    /// The number of things it means, of `total`.
    ///
    /// ```
    /// use api_kube::int_or_percent::{IntOrPercent, Rounding};
    /// let quarter = IntOrPercent::Text("25%".to_owned());
    /// assert_eq!(quarter.scaled(10, Rounding::Up), Ok(3));
    /// assert_eq!(quarter.scaled(10, Rounding::Down), Ok(2));
    /// ```
    pub fn scaled(&self, total: u32, rounding: Rounding) -> Result<u32, IntOrPercentError> {
        if let Self::Int(number) = self {
            return u32::try_from(*number).map_err(|_| IntOrPercentError::Negative);
        }
        let percent = self.percent().ok_or(IntOrPercentError::NotPercent)?;
        let product = u64::from(total) * u64::from(percent);
        let scaled = match rounding {
            Rounding::Down => product / 100,
            Rounding::Up => product.div_ceil(100),
        };
        Ok(u32::try_from(scaled).unwrap_or(u32::MAX))
    }
}

impl fmt::Display for IntOrPercent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => number.fmt(formatter),
            Self::Text(text) => formatter.write_str(text),
        }
    }
}

impl Serialize for IntOrPercent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Int(number) => serializer.serialize_i32(*number),
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for IntOrPercent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = IntOrPercent;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an integer of 32 bits, or a percentage")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<IntOrPercent, E> {
                i32::try_from(number).map(IntOrPercent::Int).map_err(|_| E::custom("must fit into 32 bits"))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<IntOrPercent, E> {
                i32::try_from(number).map(IntOrPercent::Int).map_err(|_| E::custom("must fit into 32 bits"))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<IntOrPercent, E> {
                Ok(IntOrPercent::Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Either).map_err(D::Error::custom)
    }
}
