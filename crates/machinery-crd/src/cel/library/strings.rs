//! Functions of strings; positions count characters.

use super::{TEXT_BYTES_MAX, Val};
use crate::cel::eval::{EvalError, Result};

pub(super) fn call<'v>(name: &str, text: &str, rest: &[Val<'v>]) -> Result<'v> {
    let chars = || text.chars().collect::<Vec<char>>();
    match (name, rest) {
        ("contains", [Val::Text(part)]) => Ok(Val::Bool(text.contains(&**part))),
        ("startsWith", [Val::Text(part)]) => Ok(Val::Bool(text.starts_with(&**part))),
        ("endsWith", [Val::Text(part)]) => Ok(Val::Bool(text.ends_with(&**part))),
        ("matches", [Val::Text(pattern)]) => Ok(Val::Bool(regex(pattern)?.is_match(text))),
        ("find", [Val::Text(pattern)]) => Ok(Val::text(regex(pattern)?.find(text).map_or("", |found| found.as_str()))),
        ("findAll", [Val::Text(pattern), limit @ ..]) => {
            let most = match limit {
                [Val::Int(limit)] if *limit >= 0 => usize::try_from(*limit).unwrap_or(usize::MAX),
                _ => usize::MAX,
            };
            let regex = regex(pattern)?;
            Ok(Val::list(regex.find_iter(text).take(most).map(|found| Val::text(found.as_str())).collect()))
        }
        ("charAt", [Val::Int(at)]) => {
            let chars = chars();
            let position = usize::try_from(*at).ok().filter(|position| *position <= chars.len());
            let position = position.ok_or_else(|| EvalError::new(format!("index out of range: {at}")))?;
            Ok(Val::text(chars.get(position).map(char::to_string).unwrap_or_default()))
        }
        ("indexOf" | "lastIndexOf", [Val::Text(part), from @ ..]) => {
            let from = match from {
                [Val::Int(from)] => Some(*from),
                _ => None,
            };
            index_of(&chars(), &part.chars().collect::<Vec<_>>(), from, name == "lastIndexOf")
        }
        ("lowerAscii", []) => Ok(Val::text(text.to_ascii_lowercase())),
        ("upperAscii", []) => Ok(Val::text(text.to_ascii_uppercase())),
        ("trim", []) => Ok(Val::text(text.trim())),
        ("substring", [Val::Int(start), end @ ..]) => {
            let chars = chars();
            let length = i64::try_from(chars.len()).unwrap_or(i64::MAX);
            let end = match end {
                [Val::Int(end)] => *end,
                _ => length,
            };
            if *start < 0 || *start > length {
                return Err(EvalError::new(format!("index out of range: {start}")));
            }
            if end < 0 || end > length {
                return Err(EvalError::new(format!("index out of range: {end}")));
            }
            if *start > end {
                return Err(EvalError::new(format!("invalid substring range. start: {start}, end: {end}")));
            }
            let count = usize::try_from(end - start).unwrap_or(0);
            Ok(Val::text(chars.iter().skip(usize::try_from(*start).unwrap_or(0)).take(count).collect::<String>()))
        }
        ("replace", [Val::Text(old), Val::Text(new), limit @ ..]) => {
            let most = match limit {
                [Val::Int(limit)] if *limit >= 0 => usize::try_from(*limit).unwrap_or(usize::MAX),
                _ => usize::MAX,
            };
            let times = if old.is_empty() { text.chars().count() + 1 } else { text.matches(&**old).count() }.min(most);
            if text.len().saturating_add(times.saturating_mul(new.len())) > TEXT_BYTES_MAX {
                return Err(EvalError::new("operation cancelled: actual cost limit exceeded"));
            }
            Ok(Val::text(text.replacen(&**old, new, most)))
        }
        ("split", [Val::Text(separator), limit @ ..]) => {
            let limit = match limit {
                [Val::Int(limit)] => *limit,
                _ => -1,
            };
            Ok(Val::list(split(text, separator, limit).into_iter().map(Val::text).collect()))
        }
        ("strings.quote", []) => Ok(Val::text(crate::go::quoted(text))),
        _ => Err(EvalError::no_overload()),
    }
}

fn regex(pattern: &str) -> std::result::Result<regex::Regex, EvalError> {
    let bytes = crate::go_regex::weigh(pattern).map_err(EvalError::new)?;
    crate::go_regex::program(pattern, bytes).map_err(|error| EvalError::new(error.to_string()))
}

fn index_of<'v>(text: &[char], part: &[char], from: Option<i64>, is_last: bool) -> Result<'v> {
    let length = i64::try_from(text.len()).unwrap_or(i64::MAX);
    if let Some(from) = from
        && (from < 0 || from >= length.max(1))
    {
        return Err(EvalError::new(format!("index out of range: {from}")));
    }
    let found = |start: usize| text[start..].starts_with(part);
    let last = text.len().checked_sub(part.len());
    let at = match (last, is_last) {
        (None, _) => None,
        (Some(last), false) => {
            let from = from.and_then(|from| usize::try_from(from).ok()).unwrap_or(0);
            (from..=last).find(|start| found(*start))
        }
        (Some(last), true) => {
            let from = from.and_then(|from| usize::try_from(from).ok()).unwrap_or(usize::MAX);
            (0..=last.min(from)).rev().find(|start| found(*start))
        }
    };
    Ok(super::position(at))
}

fn split(text: &str, separator: &str, limit: i64) -> Vec<String> {
    let all: Vec<String> = if separator.is_empty() {
        text.chars().map(String::from).collect()
    } else {
        text.split(separator).map(str::to_owned).collect()
    };
    match usize::try_from(limit) {
        Err(_) => all,
        Ok(0) => Vec::new(),
        Ok(most) if all.len() <= most => all,
        Ok(most) => {
            let mut parts: Vec<String> = all[..most - 1].to_vec();
            parts.push(all[most - 1..].join(separator));
            parts
        }
    }
}

pub(super) fn join<'v>(items: &[Val<'v>], rest: &[Val<'v>]) -> Result<'v> {
    let separator = match rest {
        [Val::Text(separator)] => &**separator,
        _ => "",
    };
    let texts: Option<Vec<&str>> = items
        .iter()
        .map(|item| match item {
            Val::Text(text) => Some(&**text),
            _ => None,
        })
        .collect();
    let texts = texts.ok_or_else(EvalError::no_overload)?;
    let length = texts.iter().map(|text| text.len()).sum::<usize>() + separator.len() * texts.len();
    if length > TEXT_BYTES_MAX {
        return Err(EvalError::new("operation cancelled: actual cost limit exceeded"));
    }
    Ok(Val::text(texts.join(separator)))
}
