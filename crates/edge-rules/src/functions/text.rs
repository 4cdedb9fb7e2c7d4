//! Strings.

use crate::datum::Datum;
use crate::eval::{Eval, EvalError, fail, integer, typed};

/// Longest text that a function makes; a message is far shorter.
const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// A scalar as text, as eKuiper takes numbers and booleans for strings.
fn string(value: &Datum) -> Result<String, EvalError> {
    match value {
        Datum::Bool(_) | Datum::Int(_) | Datum::Float(_) | Datum::String(_) => Ok(value.to_text()),
        other => fail(format!("cannot convert {} to string", typed(other))),
    }
}

pub(super) fn map(arguments: &[Datum], body: fn(&str) -> String) -> Eval {
    Ok(Datum::from(body(&string(&arguments[0])?)))
}

pub(super) fn compare(arguments: &[Datum], body: fn(&str, &str) -> bool) -> Eval {
    Ok(Datum::Bool(body(&string(&arguments[0])?, &string(&arguments[1])?)))
}

pub(super) fn concat(arguments: &[Datum]) -> Eval {
    let mut all = String::new();
    for argument in arguments {
        all.push_str(&string(argument)?);
        if all.len() > TEXT_BYTES_MAX {
            return fail(format!("concat makes {TEXT_BYTES_MAX} bytes at most"));
        }
    }
    Ok(Datum::from(all))
}

/// Position in characters from 0; -1 where it is not found.
pub(super) fn indexof(arguments: &[Datum]) -> Eval {
    let (text, other) = (string(&arguments[0])?, string(&arguments[1])?);
    Ok(Datum::Int(text.find(&other).map_or(-1, |at| text[..at].chars().count() as i64)))
}

pub(super) fn length(arguments: &[Datum]) -> Eval {
    Ok(Datum::Int(match &arguments[0] {
        Datum::Array(items) => items.len(),
        Datum::Object(fields) => fields.len(),
        other => string(other)?.chars().count(),
    } as i64))
}

pub(super) fn numbytes(arguments: &[Datum]) -> Eval {
    Ok(Datum::Int(string(&arguments[0])?.len() as i64))
}

pub(super) fn pad(arguments: &[Datum], left: bool) -> Eval {
    let text = string(&arguments[0])?;
    let blanks = usize::try_from(integer(&arguments[1], "the second argument")?).unwrap_or(0);
    if blanks > TEXT_BYTES_MAX {
        return fail(format!("at most {TEXT_BYTES_MAX} blanks are added"));
    }
    let blanks = " ".repeat(blanks);
    Ok(Datum::from(if left { blanks + &text } else { text + &blanks }))
}

/// `substring(text, start)` and `substring(text, start, end)`, in characters from 0.
pub(super) fn substring(arguments: &[Datum]) -> Eval {
    let text: Vec<char> = string(&arguments[0])?.chars().collect();
    let bound = |value: &Datum| {
        let at = integer(value, "a position")?;
        usize::try_from(at).map_err(|_| EvalError(format!("a position is not below 0, but {at} is")))
    };
    let start = bound(&arguments[1])?.min(text.len());
    let end = arguments.get(2).map(bound).transpose()?.unwrap_or(text.len()).min(text.len());
    if start > end {
        return fail(format!("a substring cannot start at {start} and end at {end}"));
    }
    Ok(Datum::from(text[start..end].iter().collect::<String>()))
}

pub(super) fn split_value(arguments: &[Datum]) -> Eval {
    let (text, separator) = (string(&arguments[0])?, string(&arguments[1])?);
    let index = integer(&arguments[2], "the third argument")?;
    let parts: Vec<&str> = text.split(separator.as_str()).collect();
    let at = if index < 0 { index.saturating_add(parts.len() as i64) } else { index };
    match usize::try_from(at).ok().and_then(|at| parts.get(at)) {
        Some(part) => Ok(Datum::from(*part)),
        None => fail(format!("{index} out of index array (size = {})", parts.len())),
    }
}

/// The character of a number, or the first of a text.
pub(super) fn chr(arguments: &[Datum]) -> Eval {
    let c = match &arguments[0] {
        Datum::String(text) => text.chars().next(),
        other => u32::try_from(integer(other, "the argument of chr")?).ok().and_then(char::from_u32),
    };
    match c {
        Some(c) => Ok(Datum::from(c.to_string())),
        None => fail(format!("chr has no character for {}", typed(&arguments[0]))),
    }
}
