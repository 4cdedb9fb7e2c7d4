//! Times, durations, and conversions between plain types.

use super::Val;
use crate::cel::eval::{EvalError, Result};

const SECOND: i64 = 1_000_000_000;

/// The times that CEL knows: the years 1 to 9999.
const SECONDS_MIN: i64 = -62_135_596_800;
const SECONDS_MAX: i64 = 253_402_300_799;

pub(super) fn convert<'v>(name: &str, value: &Val<'v>) -> Result<'v> {
    let failed =
        |target: &str| EvalError::new(format!("type conversion error from '{}' to '{target}'", value.type_name()));
    let range = || EvalError::new("integer overflow");
    match (name, value) {
        ("int", Val::Int(_))
        | ("uint", Val::Uint(_))
        | ("double", Val::Double(_))
        | ("string", Val::Text(_))
        | ("bool", Val::Bool(_))
        | ("bytes", Val::Bytes(_))
        | ("duration", Val::Duration(_))
        | ("timestamp", Val::Timestamp(_)) => Ok(value.clone()),
        ("int", Val::Uint(number)) => i64::try_from(*number).map(Val::Int).map_err(|_| range()),
        ("int", Val::Double(number)) => {
            let fits = *number > -9.223_372_036_854_775e18 && *number < 9.223_372_036_854_775e18;
            if fits { Ok(Val::Int(*number as i64)) } else { Err(range()) }
        }
        ("int", Val::Text(text)) => text.parse().map(Val::Int).map_err(|_| failed("int")),
        ("int", Val::Timestamp(time)) => Ok(Val::Int(time.as_second())),
        ("int", Val::Duration(nanoseconds)) => Ok(Val::Int(*nanoseconds)),
        ("uint", Val::Int(number)) => {
            u64::try_from(*number).map(Val::Uint).map_err(|_| EvalError::new("unsigned integer overflow"))
        }
        ("uint", Val::Double(number)) if *number >= 0.0 && *number < 1.844e19 => Ok(Val::Uint(*number as u64)),
        ("uint", Val::Text(text)) => text.parse().map(Val::Uint).map_err(|_| failed("uint")),
        ("double", Val::Int(number)) => Ok(Val::Double(*number as f64)),
        ("double", Val::Uint(number)) => Ok(Val::Double(*number as f64)),
        ("double", Val::Text(text)) => text.parse().map(Val::Double).map_err(|_| failed("double")),
        ("bool", Val::Text(text)) => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
            _ => Err(failed("bool")),
        },
        ("bytes", Val::Text(text)) => Ok(Val::Bytes(text.as_bytes().into())),
        ("duration", Val::Text(text)) => {
            api_kube::go_duration::parse(text).map(Val::Duration).map_err(|_| failed("google.protobuf.Duration"))
        }
        ("duration", Val::Int(nanoseconds)) => Ok(Val::Duration(*nanoseconds)),
        ("timestamp", Val::Text(text)) => {
            text.parse().map(Val::Timestamp).map_err(|_| failed("google.protobuf.Timestamp"))
        }
        ("timestamp", Val::Int(seconds)) => {
            jiff::Timestamp::from_second(*seconds).map(Val::Timestamp).map_err(|_| EvalError::new("timestamp overflow"))
        }
        ("string", Val::Bytes(bytes)) => std::str::from_utf8(bytes)
            .map(Val::text)
            .map_err(|_| EvalError::new("invalid UTF-8 in bytes, cannot convert to string")),
        ("string", Val::Timestamp(time)) => Ok(Val::text(time.to_string())),
        ("string", Val::Duration(nanoseconds)) => Ok(Val::text(seconds(*nanoseconds))),
        ("string", Val::Ip(address)) => Ok(Val::text(address.to_string())),
        ("string", Val::Cidr(address, bits)) => Ok(Val::text(format!("{address}/{bits}"))),
        ("string", Val::Bool(_) | Val::Int(_) | Val::Uint(_) | Val::Double(_)) => Ok(Val::text(super::shown(value))),
        _ => Err(EvalError::no_overload()),
    }
}

/// `1.5s`: how a duration is written as text.
pub(super) fn seconds(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let all = nanoseconds.unsigned_abs();
    let (whole, rest) = (all / 1_000_000_000, all % 1_000_000_000);
    if rest == 0 {
        return format!("{sign}{whole}s");
    }
    let fraction = format!("{rest:09}");
    format!("{sign}{whole}.{}s", fraction.trim_end_matches('0'))
}

pub(super) fn arithmetic<'v>(name: &str, a: &Val<'v>, b: &Val<'v>) -> Result<'v> {
    let shift = |time: &jiff::Timestamp, nanoseconds: i64, sign: i64| {
        let by = jiff::SignedDuration::from_nanos(nanoseconds.saturating_mul(sign));
        let moved = time.checked_add(by).ok().filter(|time| (SECONDS_MIN..=SECONDS_MAX).contains(&time.as_second()));
        moved.map(Val::Timestamp).ok_or_else(|| EvalError::new("timestamp overflow"))
    };
    let duration = |found: Option<i64>| found.map(Val::Duration).ok_or_else(|| EvalError::new("duration overflow"));
    match (name, a, b) {
        ("_+_", Val::Timestamp(time), Val::Duration(by)) | ("_+_", Val::Duration(by), Val::Timestamp(time)) => {
            shift(time, *by, 1)
        }
        ("_-_", Val::Timestamp(time), Val::Duration(by)) => shift(time, *by, -1),
        ("_-_", Val::Timestamp(a), Val::Timestamp(b)) => {
            duration(i64::try_from(a.as_nanosecond() - b.as_nanosecond()).ok())
        }
        ("_+_", Val::Duration(a), Val::Duration(b)) => duration(a.checked_add(*b)),
        ("_-_", Val::Duration(a), Val::Duration(b)) => duration(a.checked_sub(*b)),
        _ => Err(EvalError::no_overload()),
    }
}

/// `getHours()` and its kind.
pub(super) fn part<'v>(name: &str, values: &[Val<'v>]) -> Result<'v> {
    match values {
        [Val::Duration(nanoseconds)] => Ok(Val::Int(match name {
            "getHours" => nanoseconds / (3600 * SECOND),
            "getMinutes" => nanoseconds / (60 * SECOND),
            "getSeconds" => nanoseconds / SECOND,
            "getMilliseconds" => nanoseconds / 1_000_000,
            _ => return Err(EvalError::no_overload()),
        })),
        [Val::Timestamp(time), zone @ ..] => {
            let zone = match zone {
                [Val::Text(zone)] => self::zone(zone)?,
                _ => jiff::tz::TimeZone::UTC,
            };
            let time = time.to_zoned(zone);
            Ok(Val::Int(match name {
                "getFullYear" => time.year().into(),
                "getMonth" => i64::from(time.month()) - 1,
                "getDayOfYear" => i64::from(time.day_of_year()) - 1,
                "getDayOfMonth" => i64::from(time.day()) - 1,
                "getDate" => time.day().into(),
                "getDayOfWeek" => i64::from(time.weekday().to_sunday_zero_offset()),
                "getHours" => time.hour().into(),
                "getMinutes" => time.minute().into(),
                "getSeconds" => time.second().into(),
                "getMilliseconds" => time.millisecond().into(),
                _ => return Err(EvalError::no_overload()),
            }))
        }
        _ => Err(EvalError::no_overload()),
    }
}

/// `+02:00` or, where the system knows it, `Europe/Berlin`.
fn zone(text: &str) -> std::result::Result<jiff::tz::TimeZone, EvalError> {
    let unknown = || EvalError::new(format!("unknown time zone {text}"));
    if let Some((hours, minutes)) = text.split_once(':') {
        let (hours, minutes): (i32, i32) =
            (hours.parse().map_err(|_| unknown())?, minutes.parse().map_err(|_| unknown())?);
        let sign = if text.starts_with('-') { -1 } else { 1 };
        let seconds =
            hours.checked_mul(3600).and_then(|seconds| seconds.checked_add(sign * minutes * 60)).ok_or_else(unknown)?;
        return jiff::tz::Offset::from_seconds(seconds).map(|offset| offset.to_time_zone()).map_err(|_| unknown());
    }
    if matches!(text, "UTC" | "") {
        return Ok(jiff::tz::TimeZone::UTC);
    }
    jiff::tz::TimeZone::get(text).map_err(|_| unknown())
}
