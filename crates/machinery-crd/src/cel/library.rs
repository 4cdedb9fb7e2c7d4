//! What the functions do, and what they cost.

mod ext_lists;
mod format;
mod formats;
mod net;
mod quantity;
mod semver;
mod strings;
mod times;

use std::{cmp::Ordering, sync::Arc};

use super::{
    eval::{EvalError, Result, items},
    functions::FORMATS,
    value::{Fields, Val},
};
pub(super) use ext_lists::cost as list_cost;
pub(super) use quantity::Quantity;
pub(super) use semver::Semver;

/// A text that a call makes is not longer than this; the cost limit would stop it later.
pub(super) const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Calls a function with its receiver, if it has one, and its arguments.
pub(super) fn call<'v>(name: &str, values: &[Val<'v>]) -> Result<'v> {
    if let Some(format) = name.strip_prefix("format.").and_then(|name| FORMATS.into_iter().find(|held| *held == name)) {
        return Ok(Val::Format(format));
    }
    match (name, values) {
        ("!_", [Val::Bool(flag)]) => Ok(Val::Bool(!flag)),
        ("_<_" | "_<=_" | "_>_" | "_>=_", [a, b]) => {
            let order = a.compare(b);
            let is_nan = |value: &Val<'v>| matches!(value, Val::Double(double) if double.is_nan());
            let Some(order) = order else {
                return if is_nan(a) || is_nan(b) { Ok(Val::Bool(false)) } else { Err(EvalError::no_overload()) };
            };
            Ok(Val::Bool(match name {
                "_<_" => order == Ordering::Less,
                "_<=_" => order != Ordering::Greater,
                "_>_" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            }))
        }
        ("_+_" | "_-_" | "_*_" | "_/_" | "_%_", [a, b]) => arithmetic(name, a, b),
        ("-_", [Val::Int(number)]) => {
            number.checked_neg().map(Val::Int).ok_or_else(|| EvalError::new("integer overflow"))
        }
        ("-_", [Val::Double(number)]) => Ok(Val::Double(-number)),
        ("dyn", [value]) => Ok(value.clone()),
        ("type", [value]) => Ok(Val::Type(value.type_name().into())),
        ("size", [value @ (Val::Text(_) | Val::Bytes(_) | Val::List(_) | Val::Map(_))]) => {
            Ok(Val::Int(i64::try_from(value.size()).unwrap_or(i64::MAX)))
        }
        ("optional.of", [value]) => Ok(Val::some(value.clone())),
        ("optional.ofNonZeroValue", [value]) => {
            Ok(if is_zero(value) { Val::Optional(None) } else { Val::some(value.clone()) })
        }
        ("optional.none", []) => Ok(Val::Optional(None)),
        ("hasValue", [Val::Optional(inner)]) => Ok(Val::Bool(inner.is_some())),
        ("value", [Val::Optional(inner)]) => match inner {
            Some(inner) => Ok((**inner).clone()),
            None => Err(EvalError::new("optional.none() dereference")),
        },
        ("int" | "uint" | "double" | "string" | "bool" | "bytes" | "duration" | "timestamp", [value]) => {
            times::convert(name, value)
        }
        (
            "slice"
            | "flatten"
            | "sort"
            | "@sortByAssociatedKeys"
            | "reverse"
            | "distinct"
            | "first"
            | "last"
            | "unwrapOpt"
            | "optional.unwrap",
            [Val::List(list), rest @ ..],
        ) => ext_lists::call(name, list, rest),
        ("lists.range", [Val::Int(count)]) => Ok(ext_lists::range(*count)),
        ("isSorted" | "sum" | "min" | "max" | "indexOf" | "lastIndexOf", [Val::List(list), rest @ ..]) => {
            lists(name, &items(list), rest)
        }
        ("sets.contains" | "sets.equivalent" | "sets.intersects", [Val::List(a), Val::List(b)]) => {
            let (a, b) = (items(a), items(b));
            let all = |inner: &[Val<'v>], outer: &[Val<'v>]| {
                inner.iter().all(|item| outer.iter().any(|held| held.equals(item)))
            };
            Ok(Val::Bool(match name {
                "sets.contains" => all(&b, &a),
                "sets.equivalent" => all(&b, &a) && all(&a, &b),
                _ => a.iter().any(|item| b.iter().any(|held| held.equals(item))),
            }))
        }
        ("format", [Val::Text(template), Val::List(args)]) => format::format(template, &items(args)).map(Val::text),
        ("format.named", [Val::Text(name)]) => {
            let found = FORMATS.into_iter().find(|held| *held == &**name);
            Ok(found.map_or(Val::Optional(None), |format| Val::some(Val::Format(format))))
        }
        ("validate", [Val::Format(format), Val::Text(text)]) => {
            let problems = formats::validate(format, text);
            Ok(if problems.is_empty() {
                Val::Optional(None)
            } else {
                Val::some(Val::list(problems.into_iter().map(Val::text).collect()))
            })
        }
        ("url" | "isURL", [Val::Text(text)]) => net::url(name, text),
        ("getScheme" | "getHost" | "getHostname" | "getPort" | "getEscapedPath" | "getQuery", [Val::Url(url)]) => {
            Ok(net::url_part(name, url))
        }
        ("quantity" | "isQuantity", [Val::Text(text)]) => quantity::parse(name, text),
        (_, [Val::Quantity(own), rest @ ..]) => quantity::call(name, own, rest),
        ("semver" | "isSemver", [Val::Text(text), rest @ ..]) => {
            let normalizes = matches!(rest, [Val::Bool(true)]);
            semver::parse(name, text, normalizes)
        }
        (_, [Val::Semver(own), rest @ ..]) => semver::call(name, own, rest),
        ("ip" | "isIP" | "ip.isCanonical" | "cidr" | "isCIDR", [Val::Text(text)]) => net::parse(name, text),
        (_, [Val::Ip(_) | Val::Cidr(..), ..]) => net::call(name, values),
        (_, [Val::Timestamp(_), ..] | [Val::Duration(_), ..]) => times::part(name, values),
        (_, [Val::Text(text), rest @ ..]) => strings::call(name, text, rest),
        ("join", [Val::List(list), rest @ ..]) => strings::join(&items(list), rest),
        _ => Err(EvalError::no_overload()),
    }
}

fn is_zero(value: &Val<'_>) -> bool {
    match value {
        Val::Null => true,
        Val::Bool(flag) => !flag,
        Val::Int(number) => *number == 0,
        Val::Uint(number) => *number == 0,
        Val::Double(number) => *number == 0.0,
        Val::Duration(number) => *number == 0,
        Val::Text(_) | Val::Bytes(_) | Val::List(_) | Val::Map(_) => value.size() == 0,
        Val::Optional(inner) => inner.is_none(),
        _ => false,
    }
}

fn arithmetic<'v>(name: &str, a: &Val<'v>, b: &Val<'v>) -> Result<'v> {
    let overflow = |value: Option<Val<'v>>, kind: &str| value.ok_or_else(|| EvalError::new(format!("{kind} overflow")));
    match (name, a, b) {
        ("_/_", Val::Int(_), Val::Int(0)) | ("_/_", Val::Uint(_), Val::Uint(0)) => {
            Err(EvalError::new("division by zero"))
        }
        ("_%_", Val::Int(_), Val::Int(0)) | ("_%_", Val::Uint(_), Val::Uint(0)) => {
            Err(EvalError::new("modulus by zero"))
        }
        (_, Val::Int(a), Val::Int(b)) => {
            let found = match name {
                "_+_" => a.checked_add(*b),
                "_-_" => a.checked_sub(*b),
                "_*_" => a.checked_mul(*b),
                "_/_" => a.checked_div(*b),
                _ => a.checked_rem(*b),
            };
            overflow(found.map(Val::Int), "integer")
        }
        (_, Val::Uint(a), Val::Uint(b)) => {
            let found = match name {
                "_+_" => a.checked_add(*b),
                "_-_" => a.checked_sub(*b),
                "_*_" => a.checked_mul(*b),
                "_/_" => a.checked_div(*b),
                _ => a.checked_rem(*b),
            };
            overflow(found.map(Val::Uint), "unsigned integer")
        }
        ("_+_", Val::Double(a), Val::Double(b)) => Ok(Val::Double(a + b)),
        ("_-_", Val::Double(a), Val::Double(b)) => Ok(Val::Double(a - b)),
        ("_*_", Val::Double(a), Val::Double(b)) => Ok(Val::Double(a * b)),
        ("_/_", Val::Double(a), Val::Double(b)) => Ok(Val::Double(a / b)),
        ("_+_", Val::Text(a), Val::Text(b)) => {
            if a.len() + b.len() > TEXT_BYTES_MAX {
                return Err(EvalError::new("operation cancelled: actual cost limit exceeded"));
            }
            Ok(Val::text([&**a, &**b].concat()))
        }
        ("_+_", Val::Bytes(a), Val::Bytes(b)) => Ok(Val::Bytes([&**a, &**b].concat().into())),
        _ => times::arithmetic(name, a, b),
    }
}

fn lists<'v>(name: &str, items: &[Val<'v>], rest: &[Val<'v>]) -> Result<'v> {
    match (name, rest) {
        ("isSorted", []) => Ok(Val::Bool(
            items.windows(2).all(|pair| pair[0].compare(&pair[1]).is_some_and(|order| order != Ordering::Greater)),
        )),
        ("sum", []) => {
            let mut sum = match items.first() {
                Some(Val::Double(_)) => Val::Double(0.0),
                Some(Val::Uint(_)) => Val::Uint(0),
                Some(Val::Duration(_)) => Val::Duration(0),
                _ => Val::Int(0),
            };
            for item in items {
                sum = arithmetic("_+_", &sum, item)?;
            }
            Ok(sum)
        }
        ("min" | "max", []) => {
            let Some((first, others)) = items.split_first() else {
                return Err(EvalError::new(format!("{name} called on empty list")));
            };
            let sought = if name == "min" { Ordering::Less } else { Ordering::Greater };
            let mut best = first;
            for item in others {
                if item.compare(best).ok_or_else(EvalError::no_overload)? == sought {
                    best = item;
                }
            }
            Ok(best.clone())
        }
        ("indexOf", [sought]) => Ok(position(items.iter().position(|item| item.equals(sought)))),
        ("lastIndexOf", [sought]) => Ok(position(items.iter().rposition(|item| item.equals(sought)))),
        _ => Err(EvalError::no_overload()),
    }
}

fn position<'v>(found: Option<usize>) -> Val<'v> {
    Val::Int(found.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1))
}

/// A value within a message.
pub(super) fn shown(value: &Val<'_>) -> String {
    match value {
        Val::Text(text) => text.to_string(),
        Val::Bool(flag) => flag.to_string(),
        Val::Int(number) => number.to_string(),
        Val::Uint(number) => number.to_string(),
        Val::Double(number) => crate::go::float(*number),
        _ => value.type_name().to_owned(),
    }
}

/// What a call costs when it runs.
pub(super) fn cost(name: &str, overload: &str, values: &[Val<'_>], result: Option<&Val<'_>>) -> u64 {
    let size = |at: usize| values.get(at).map_or(0, Val::size);
    let tenth = |size: u64| size.div_ceil(10);
    match name {
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => values.first().map_or(0, traversal),
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "cidr" | "isIP" | "isCIDR" | "quantity"
        | "isQuantity" | "semver" | "isSemver" => tenth(size(0)),
        "replace" | "split" | "ip.isCanonical" => tenth(2 * size(0)),
        "join" => tenth(2 * result.map_or(0, Val::size)),
        "find" | "findAll" => tenth(1 + size(0)) * size(1).div_ceil(4),
        "ip" => {
            if overload == "cidr_ip" {
                1
            } else {
                tenth(size(0))
            }
        }
        "containsIP" => {
            tenth(2 * size(0)) + if matches!(values.get(1), Some(Val::Text(_))) { tenth(size(1)) } else { 0 }
        }
        "containsCIDR" => {
            let text = if matches!(values.get(1), Some(Val::Text(_))) { tenth(size(1)) } else { 0 };
            tenth(2 * size(0)) + tenth(size(0)) + 1 + text
        }
        "validate" => {
            let regex = match values.first() {
                Some(Val::Format(format)) => formats::regex_size(format),
                _ => 0,
            };
            tenth(1 + size(1)) * u64::div_ceil(regex, 4)
        }
        "sets.contains" | "sets.intersects" => 1 + size(0) * size(1),
        "sets.equivalent" => 1 + 2 * size(0) * size(1),
        "_==_" | "_!=_"
            if !matches!(
                values.first(),
                Some(Val::Quantity(_) | Val::Ip(_) | Val::Cidr(..) | Val::Url(_) | Val::Semver(_) | Val::Format(_))
            ) =>
        {
            tenth(size(0).min(size(1)))
        }
        "startsWith" | "endsWith" => tenth(size(1)),
        "strings.quote" | "format" => tenth(size(0)),
        "string" if matches!(values.first(), Some(Val::Bytes(_))) => tenth(size(0)),
        "bytes" if matches!(values.first(), Some(Val::Text(_))) => tenth(size(0)),
        "@in" if matches!(values.get(1), Some(Val::List(_))) => size(1),
        "matches" => tenth(1 + size(0)) * size(1).div_ceil(4),
        "contains" => tenth(size(0)) * tenth(size(1)),
        "_<_" | "_<=_" | "_>_" | "_>=_" if matches!(values.first(), Some(Val::Text(_) | Val::Bytes(_))) => {
            tenth(size(0).min(size(1)))
        }
        "_+_" if matches!(values.first(), Some(Val::Text(_) | Val::Bytes(_))) => tenth(size(0) + size(1)),
        _ => 1,
    }
}

fn traversal(value: &Val<'_>) -> u64 {
    match value {
        Val::Text(_) | Val::Bytes(_) => value.size() / 10,
        Val::List(list) => items(list).iter().map(traversal).sum(),
        Val::Map(fields) => fields.entries().iter().map(|(key, value)| traversal(key) + traversal(value)).sum(),
        _ => 1,
    }
}

/// A map of a query, for the library of URLs.
fn map_of<'v>(entries: impl Iterator<Item = (String, Vec<String>)>) -> Val<'v> {
    let entries =
        entries.map(|(name, values)| (Val::text(name), Val::list(values.into_iter().map(Val::text).collect())));
    Val::Map(Fields::Made(Arc::new(entries.collect())))
}
