//! The present, in UTC: a gateway's local time is whatever it was shipped with.

use jiff::Timestamp;

use crate::datum::Datum;
use crate::eval::{Eval, EvalError, fail, integer};

fn format(pattern: &str, digits: Option<&Datum>, now_ms: i64) -> Eval {
    let now = Timestamp::from_millisecond(now_ms)
        .map_err(|_| EvalError(format!("{now_ms} ms is no time that can be written")))?;
    let text = now.strftime(pattern).to_string();
    let digits = match digits {
        None => 0,
        Some(digits) => integer(digits, "the number of digits")?,
    };
    match usize::try_from(digits) {
        Ok(0) => Ok(Datum::from(text)),
        Ok(digits @ 1..=6) => {
            Ok(Datum::from(format!("{text}.{}", &format!("{:06}", now_ms.rem_euclid(1000) * 1000)[..digits])))
        }
        _ => fail(format!("a second has 0 to 6 digits, not {digits}")),
    }
}

pub(super) fn now(arguments: &[Datum], now_ms: i64) -> Eval {
    format("%Y-%m-%d %H:%M:%S", arguments.first(), now_ms)
}

pub(super) fn date(_: &[Datum], now_ms: i64) -> Eval {
    format("%Y-%m-%d", None, now_ms)
}

pub(super) fn time(arguments: &[Datum], now_ms: i64) -> Eval {
    format("%H:%M:%S", arguments.first(), now_ms)
}
