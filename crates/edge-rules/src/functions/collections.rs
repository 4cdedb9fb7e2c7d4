//! Arrays and objects.

use std::collections::BTreeMap;

use crate::datum::Datum;
use crate::eval::{Eval, EvalError, fail, integer, same, typed};

fn array(arguments: &[Datum]) -> Result<&[Datum], EvalError> {
    match &arguments[0] {
        Datum::Array(items) => Ok(items),
        other => fail(format!("the first argument is an array, not {}", typed(other))),
    }
}

fn object(arguments: &[Datum]) -> Result<&BTreeMap<String, Datum>, EvalError> {
    match &arguments[0] {
        Datum::Object(fields) => Ok(fields),
        _ => fail("the argument should be map[string]interface{}"),
    }
}

pub(super) fn coalesce(arguments: &[Datum]) -> Eval {
    Ok(arguments.iter().find(|argument| !argument.is_null()).cloned().unwrap_or_default())
}

pub(super) fn cardinality(arguments: &[Datum]) -> Eval {
    // A null is no element, as array_create takes none.
    Ok(Datum::Int(array(arguments)?.iter().filter(|item| !item.is_null()).count() as i64))
}

pub(super) fn array_create(arguments: &[Datum]) -> Eval {
    Ok(Datum::from(arguments.iter().filter(|argument| !argument.is_null()).cloned().collect::<Vec<_>>()))
}

pub(super) fn array_contains(arguments: &[Datum]) -> Eval {
    if arguments[0].is_null() {
        return Ok(Datum::Bool(false));
    }
    Ok(Datum::Bool(array(arguments)?.iter().any(|item| same(item, &arguments[1]))))
}

/// Position from 0; -1 where it is not found.
pub(super) fn array_position(arguments: &[Datum]) -> Eval {
    let at = array(arguments)?.iter().position(|item| same(item, &arguments[1]));
    Ok(Datum::Int(at.map_or(-1, |at| at as i64)))
}

pub(super) fn array_extreme(arguments: &[Datum], largest: bool) -> Eval {
    let items = array(arguments)?;
    let mut best: Option<&Datum> = None;
    for item in items.iter().filter(|item| !item.is_null()) {
        best = match (best, item) {
            (None, _) => Some(item),
            (Some(Datum::Int(_) | Datum::Float(_)), Datum::Int(_) | Datum::Float(_))
            | (Some(Datum::String(_)), Datum::String(_)) => {
                let order = best.map_or(std::cmp::Ordering::Equal, |best| item.order(best));
                if (largest && order.is_gt()) || (!largest && order.is_lt()) { Some(item) } else { best }
            }
            (Some(_), other) => return fail(format!("{} cannot be compared with the others", typed(other))),
        };
    }
    Ok(best.cloned().unwrap_or_default())
}

/// An element by its position, negative from the end; or a member by its name.
pub(super) fn element_at(arguments: &[Datum]) -> Eval {
    match (&arguments[0], &arguments[1]) {
        (Datum::Object(fields), Datum::String(name)) => Ok(fields.get(&**name).cloned().unwrap_or_default()),
        (Datum::Array(items), index) => {
            let index = integer(index, "the second argument")?;
            let at = if index < 0 { index.saturating_add(items.len() as i64) } else { index };
            match usize::try_from(at).ok().and_then(|at| items.get(at)) {
                Some(item) => Ok(item.clone()),
                None => fail("index out of range"),
            }
        }
        (other, _) => fail(format!("element_at takes an array or an object, not {}", typed(other))),
    }
}

pub(super) fn keys(arguments: &[Datum]) -> Eval {
    Ok(Datum::from(object(arguments)?.keys().map(|name| Datum::from(name.as_str())).collect::<Vec<_>>()))
}

pub(super) fn values(arguments: &[Datum]) -> Eval {
    Ok(Datum::from(object(arguments)?.values().cloned().collect::<Vec<_>>()))
}

pub(super) fn object_size(arguments: &[Datum]) -> Eval {
    Ok(Datum::Int(object(arguments)?.len() as i64))
}
