//! cel-go's extension of lists, in version 3: `sort`, `distinct`, `lists.range` and the like, and what they cost.
//!
//! Their costs follow from the arguments alone, so a run pays before it does the work: a range of a billion numbers is never
//! made, where upstream makes it and stops afterwards.

use std::cmp::Ordering;

use super::Val;
use crate::cel::{
    eval::{EvalError, Result},
    value::List,
};

/// A call, and the list that it makes.
const BASE_COST: u64 = 11;

/// How much dearer it is to compare text than to compare numbers.
const TEXT_FACTOR: f64 = 2.1;
const COMPARE_FACTOR: f64 = 2.0;

pub(super) fn call<'v>(name: &str, list: &List<'v>, rest: &[Val<'v>]) -> Result<'v> {
    match (name, rest) {
        ("slice", [Val::Int(start), Val::Int(end)]) => slice(list, *start, *end),
        ("flatten", []) => flatten(list, 1),
        ("flatten", [Val::Int(depth)]) => flatten(list, *depth),
        ("sort", []) => sorted(list, list),
        ("@sortByAssociatedKeys", [Val::List(keys)]) => sorted(list, keys),
        ("reverse", []) => {
            let mut items: Vec<Val<'v>> = list.iter().collect();
            items.reverse();
            Ok(Val::list(items))
        }
        ("distinct", []) => {
            let mut found: Vec<Val<'v>> = Vec::new();
            for item in list.iter() {
                if !found.iter().any(|held| held.equals(&item)) {
                    found.push(item);
                }
            }
            Ok(Val::list(found))
        }
        ("first", []) => Ok(list.get(0).map_or(Val::Optional(None), Val::some)),
        ("last", []) => {
            let last = list.len().checked_sub(1).and_then(|at| list.get(at));
            Ok(last.map_or(Val::Optional(None), Val::some))
        }
        ("unwrapOpt" | "optional.unwrap", []) => {
            let mut items = Vec::new();
            for item in list.iter() {
                let Val::Optional(inner) = item else { return Err(EvalError::no_overload()) };
                items.extend(inner.map(|inner| (*inner).clone()));
            }
            Ok(Val::list(items))
        }
        _ => Err(EvalError::no_overload()),
    }
}

/// The numbers from zero on; whoever calls has paid for them.
pub(super) fn range<'v>(count: i64) -> Val<'v> {
    Val::list((0..count).map(Val::Int).collect())
}

fn slice<'v>(list: &List<'v>, start: i64, end: i64) -> Result<'v> {
    let len = i64::try_from(list.len()).unwrap_or(i64::MAX);
    let why = if start < 0 || end < 0 {
        "negative indexes not supported".to_owned()
    } else if start > end {
        "start index must be less than or equal to end index".to_owned()
    } else if len < end {
        format!("list is length {len}")
    } else {
        let position = |at: i64| usize::try_from(at).unwrap_or_default();
        return Ok(Val::list((position(start)..position(end)).filter_map(|at| list.get(at)).collect()));
    };
    Err(EvalError::new(format!("cannot slice({start}, {end}), {why}")))
}

fn flatten<'v>(list: &List<'v>, depth: i64) -> Result<'v> {
    if depth < 0 {
        return Err(EvalError::new("level must be non-negative"));
    }
    let mut items = Vec::new();
    flatten_into(list, depth, &mut items);
    Ok(Val::list(items))
}

/// Descends as deep as a value nests, which is bounded where it was decoded.
fn flatten_into<'v>(list: &List<'v>, depth: i64, items: &mut Vec<Val<'v>>) {
    for item in list.iter() {
        match item {
            Val::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, items),
            other => items.push(other),
        }
    }
}

/// A list in the order of its keys.
fn sorted<'v>(list: &List<'v>, keys: &List<'v>) -> Result<'v> {
    if list.len() != keys.len() {
        return Err(EvalError::new(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} \
             elements respectively",
            list.len(),
            keys.len()
        )));
    }
    let mut pairs: Vec<(Val<'v>, Val<'v>)> = keys.iter().zip(list.iter()).collect();
    let Some((first, _)) = pairs.first() else { return Ok(Val::List(list.clone())) };
    let kind = first.type_name();
    if order(first, first).is_none() {
        return Err(EvalError::new("list elements must be comparable"));
    }
    if pairs.iter().any(|(key, _)| key.type_name() != kind) {
        return Err(EvalError::new("list elements must have the same type"));
    }
    pairs.sort_by(|(a, _), (b, _)| order(a, b).unwrap_or(Ordering::Equal));
    Ok(Val::list(pairs.into_iter().map(|(_, item)| item).collect()))
}

/// A total order, also of numbers that are none: a sort must come to an end.
fn order(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    match (a, b) {
        (Val::Double(a), Val::Double(b)) => Some(a.total_cmp(b)),
        _ => a.compare(b),
    }
}

/// What a call of this extension costs when it runs; `None` for other calls.
pub(in crate::cel) fn cost(name: &str, values: &[Val<'_>]) -> Option<u64> {
    let size = |at: usize| values.get(at).map_or(0, Val::size);
    let number = |at: usize| match values.get(at) {
        Some(Val::Int(number)) => u64::try_from(*number).unwrap_or(0),
        _ => 0,
    };
    let list = matches!(values.first(), Some(Val::List(_)));
    Some(match name {
        "lists.range" => number(0).saturating_add(BASE_COST),
        "slice" if list => number(2).min(size(0)).saturating_sub(number(1)).saturating_add(BASE_COST),
        "reverse" if list => size(0).saturating_add(BASE_COST),
        "flatten" if list => {
            let depth = if values.len() > 1 { number(1) } else { 1 };
            size(0).saturating_mul(depth).saturating_add(BASE_COST)
        }
        "distinct" | "sort" if list => compared(values.first()),
        "@sortByAssociatedKeys" if list => compared(values.get(1)),
        _ => return None,
    })
}

/// Every item is compared with every other.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as upstream")]
fn compared(list: Option<&Val<'_>>) -> u64 {
    let Some(Val::List(list)) = list else { return BASE_COST };
    let factor = match list.get(0) {
        Some(Val::Text(_) | Val::Bytes(_)) => TEXT_FACTOR,
        _ => COMPARE_FACTOR,
    };
    let count = list.len() as u64;
    // The conversion saturates.
    ((count.saturating_mul(count) as f64 * factor) as u64).saturating_add(BASE_COST)
}
