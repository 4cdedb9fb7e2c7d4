//! Strategic merge patch: a merge patch that knows which lists are sets and which are maps in disguise.
//!
//! | directive | where | what it does |
//! |---|---|---|
//! | `$patch: replace` | in an object, or as an item of a list | the patch takes the place of what is there |
//! | `$patch: delete` | in an object, or in an item that names its key | empties the object, removes the item |
//! | `$retainKeys: [k, …]` | in an object | removes every other key |
//! | `$deleteFromPrimitiveList/f: [v, …]` | beside list `f` | removes plain values |
//! | `$setElementOrder/f: […]` | beside list `f` | orders the merged list |
//!
//! This follows upstream to the letter, also where that surprises: items that are new come before those that only the
//! server has, a directive in an item that is new stays in it, and an unknown one is an error of the server's (500).
//!
//! Both lists come from the network, so nothing here compares each item with each: items are found in hash maps, an order
//! is a sort. A list of n items under a patch of m costs O((n + m) log(n + m)).

use std::collections::{HashMap, HashSet};

use machinery_schema::{Budget, ListStrategy, PatchField, PatchSchema};
use serde_json::{Map, Value};

use crate::{PatchError, go, identity::Identity, walk};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

const BAD_RETAIN_KEYS: &str = "invalid patch format of retainKeys";
const BAD_PRIMITIVE_LIST: &str = "invalid patch format of primitive list";
const BAD_ORDER: &str = "invalid patch format of setElementOrder list";
const LISTS_OF_LISTS: &str = "lists of lists are not supported";

type Object = Map<String, Value>;

/// Applies a strategic merge patch to an object of the kind that `schema` describes.
///
/// ```
/// use serde_json::json;
/// let registry = machinery_kinds::Registry::builtin();
/// let schema = registry.resource("", "v1", "pods").and_then(|pods| pods.patch_schema()).expect("pods are built in");
/// let pod = json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}});
/// let patch = json!({"spec": {"containers": [{"name": "b", "image": "z"}]}});
/// let patched = machinery_merge::strategic_merge(&pod, &patch, &schema).expect("the patch fits");
/// assert_eq!(patched["spec"]["containers"], json!([{"name": "a", "image": "x"}, {"name": "b", "image": "z"}]));
/// ```
///
/// # Errors
/// [`PatchError::BadRequest`] for a patch that is no object or a directive of the wrong form, [`PatchError::Failed`] for a
/// list item without its merge key or an unknown directive, [`PatchError::TooDeep`] when the patch nests too deep.
pub fn strategic_merge(document: &Value, patch: &Value, schema: &PatchSchema) -> Result<Value, PatchError> {
    strategic_merge_within(document, patch, schema, &mut Budget::of_request())
}

/// The same on the budget of a request.
///
/// # Errors
/// As [`strategic_merge`]; [`PatchError::TooLarge`] also when the budget does not last.
pub fn strategic_merge_within(
    document: &Value,
    patch: &Value,
    schema: &PatchSchema,
    budget: &mut Budget,
) -> Result<Value, PatchError> {
    walk::check_whole(patch, budget)?;
    walk::check_whole(document, budget)?;
    let patch = match patch {
        Value::Object(patch) => patch.clone(),
        // Go decodes null into any map, and leaves it empty.
        Value::Null => Object::new(),
        other => {
            return Err(PatchError::BadRequest(format!(
                "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                go::json_type(other)
            )));
        }
    };
    let merged = merge_objects(document.as_object().cloned().unwrap_or_default(), patch, *schema)?;
    Ok(Value::Object(merged))
}

fn merge_objects(mut original: Object, mut patch: Object, schema: PatchSchema) -> Result<Object, PatchError> {
    if let Some(directive) = patch.get(PATCH) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(PATCH);
                Ok(patch)
            }
            Some("delete") => Ok(Object::new()),
            _ => Err(unknown_directive(&patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    let orders: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for key in orders {
        if let Some(order) = patch.remove(&key) {
            let list = listed(&key).ok_or(PatchError::BadRequest(BAD_ORDER.to_owned()))?;
            merge_in_order(&mut original, &mut patch, list, order, schema)?;
        }
    }
    for (key, value) in patch {
        let is_deletion = key.starts_with(DELETE_FROM);
        let key = match listed(&key) {
            Some(list) if is_deletion => list.to_owned(),
            None if is_deletion => return Err(PatchError::BadRequest(BAD_PRIMITIVE_LIST.to_owned())),
            _ => key,
        };
        let old = original.remove(&key);
        let merged = match (old, value) {
            (_, Value::Null) => None,
            (Some(Value::Object(old)), Value::Object(new)) if !is_deletion => {
                Some(Value::Object(merge_objects(old, new, schema.field(&key).schema)?))
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                Some(Value::Array(merge_lists(old, new, schema.field(&key), is_deletion)?))
            }
            (old, _) if is_deletion => old,
            (_, new) => without_directives(without_nulls(new)),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

/// The name of the list behind the slash of a directive.
fn listed(key: &str) -> Option<&str> {
    key.split_once('/').map(|(_, list)| list)
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(retained) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let bad = || PatchError::BadRequest(BAD_RETAIN_KEYS.to_owned());
    let retained: HashSet<&str> = retained.as_array().ok_or_else(bad)?.iter().filter_map(Value::as_str).collect();
    let is_named = |key: &str| retained.contains(key) || key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER);
    if patch.iter().any(|(key, value)| !value.is_null() && !is_named(key)) {
        return Err(bad());
    }
    original.retain(|key, _| retained.contains(key.as_str()));
    Ok(())
}

/// Merges a list of the patch, if there is one, and puts the result into an order.
fn merge_in_order(
    original: &mut Object,
    patch: &mut Object,
    list: &str,
    order: Value,
    schema: PatchSchema,
) -> Result<(), PatchError> {
    let as_list = |value: Value| match value {
        Value::Array(items) => Ok(items),
        other => Err(wrong_type("[]interface {}", &other)),
    };
    let order = as_list(order)?;
    // What is there is taken out, and put back by the last line.
    let old = original.remove(list).map(as_list).transpose()?;
    let new = patch.remove(list).map(as_list).transpose()?;
    let field = schema.field(list);
    let key = merge_key(field);
    check_order(new.as_deref().unwrap_or_default(), &order, key)?;
    let (before, types) = (old.clone().unwrap_or_default(), new.clone().unwrap_or_default());
    let merged = match (old, new) {
        (None, None) => return Ok(()),
        (Some(old), None) => old,
        (None, Some(new)) => new.into_iter().filter_map(without_directives).collect(),
        (Some(old), Some(new)) => merge_lists(old, new, field, false)?,
    };
    check_items(&before, &types)?;
    let ordered = in_order(merged, &order, &before, key)?;
    original.insert(list.to_owned(), Value::Array(ordered));
    Ok(())
}

/// The items of a patch must come in the order's order, and be named by it.
fn check_order(items: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    if items.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in items {
        match (key, item) {
            (Some(_), Value::Object(map)) if map.contains_key(PATCH) => continue,
            (Some(_), Value::Object(_)) | (None, _) => {}
            (Some(_), other) => return Err(wrong_type("map[string]interface {}", other)),
        }
        let mut is_found = false;
        for place in rest.by_ref() {
            is_found = match key {
                None => item == place,
                Some(key) => key_of(item, key)? == key_of(place, key)?,
            };
            if is_found {
                break;
            }
        }
        if !is_found {
            let (items, order) = (Value::Array(items.to_vec()), Value::Array(order.to_vec()));
            return Err(PatchError::failed(format!(
                "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
                go::plain(&items),
                go::plain(&order)
            )));
        }
    }
    Ok(())
}

fn merge_key(field: PatchField) -> Option<&'static str> {
    match field.list {
        ListStrategy::MergeByKey(key) => Some(key),
        ListStrategy::MergeAsSet | ListStrategy::Replace => None,
    }
}

fn merge_lists(
    original: Vec<Value>,
    patch: Vec<Value>,
    field: PatchField,
    is_deletion: bool,
) -> Result<Vec<Value>, PatchError> {
    if field.list == ListStrategy::Replace && !is_deletion {
        return Ok(patch);
    }
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    check_items(&original, &patch)?;
    if !original.iter().chain(&patch).any(Value::is_object) {
        return merge_plain(original, &patch, is_deletion);
    }
    let Some(key) = merge_key(field) else {
        return Err(PatchError::failed("cannot merge lists without merge key for struct".to_owned()));
    };
    let (original, patch) = apply_item_directives(original, patch, key)?;
    let (before, order) = (original.clone(), patch.clone());
    let merged = merge_items(original, patch, key, field.schema)?;
    in_order(merged, &order, &before, Some(key))
}

fn merge_plain(original: Vec<Value>, patch: &[Value], is_deletion: bool) -> Result<Vec<Value>, PatchError> {
    if is_deletion {
        let removed: HashSet<Identity<'_>> = patch.iter().map(Identity::of).collect();
        return Ok(original.into_iter().filter(|item| !removed.contains(&Identity::of(item))).collect());
    }
    let mut seen: HashSet<Identity<'_>> = HashSet::new();
    let merged: Vec<Value> =
        original.iter().chain(patch).filter(|item| seen.insert(Identity::of(item))).cloned().collect();
    in_order(merged, patch, &original, None)
}

/// The items that are left of both lists once the directives among the patch's are followed.
fn apply_item_directives(
    original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut items = Vec::with_capacity(patch.len());
    let mut deleted: HashSet<Identity<'static>> = HashSet::new();
    let mut is_replaced = false;
    for item in patch {
        let Some(directive) = item.get(PATCH) else {
            items.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => drop(deleted.insert(Identity::owned(key_of(&item, key)?))),
            // Others are still looked at: they may be wrong.
            Some("replace") => is_replaced = true,
            Some("merge") => {
                return Err(PatchError::failed("merging lists cannot yet be specified in the patch".to_owned()));
            }
            _ => return Err(unknown_directive(item.as_object().unwrap_or(&Object::new()))),
        }
    }
    if is_replaced {
        return Ok((items, Vec::new()));
    }
    let is_deleted = |item: &Value| item.get(key).is_some_and(|value| deleted.contains(&Identity::of(value)));
    Ok((original.into_iter().filter(|item| !is_deleted(item)).collect(), items))
}

fn merge_items(
    mut merged: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
    schema: PatchSchema,
) -> Result<Vec<Value>, PatchError> {
    let mut places: HashMap<Identity<'static>, usize> = HashMap::with_capacity(merged.len() + patch.len());
    for (place, item) in merged.iter().enumerate() {
        if let Some(value) = item.get(key) {
            places.entry(Identity::owned(value)).or_insert(place);
        }
    }
    for item in patch {
        let value = key_of(&item, key)?;
        let Some(place) = places.get(&Identity::of(value)).copied() else {
            places.insert(Identity::owned(value), merged.len());
            merged.push(item);
            continue;
        };
        if let (Value::Object(old), Value::Object(new)) = (merged[place].take(), item) {
            merged[place] = Value::Object(merge_objects(old, new, schema)?);
        }
    }
    Ok(merged)
}

/// Puts the items that an order names into that order; the others, which only the server has, keep the one that they had,
/// and come before the first named item that they came before.
fn in_order(items: Vec<Value>, order: &[Value], before: &[Value], key: Option<&str>) -> Result<Vec<Value>, PatchError> {
    if let Some(key) = key {
        order.iter().chain(before).try_for_each(|item| key_of(item, key).map(drop))?;
    }
    let (order, before) = (ranks(order, key), ranks(before, key));
    let mut named = Vec::new();
    let mut others = Vec::new();
    for item in items {
        let identity = Identity::of(match key {
            Some(key) => key_of(&item, key)?,
            None => &item,
        });
        let was = before.get(&identity).copied();
        match order.get(&identity).copied() {
            Some(rank) => named.push((rank, was, item)),
            None => others.push((was, item)),
        }
    }
    named.sort_by_key(|(rank, ..)| *rank);
    others.sort_by_key(|(was, _)| *was);
    let mut ordered = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some((_, named_was, _)), Some((other_was, _))) = (named.peek(), others.peek()) {
        let other_is_first = matches!((other_was, named_was), (Some(other), Some(named)) if other < named);
        ordered.extend(if other_is_first {
            others.next().map(|(_, item)| item)
        } else {
            named.next().map(|(_, _, item)| item)
        });
    }
    ordered.extend(named.map(|(_, _, item)| item));
    ordered.extend(others.map(|(_, item)| item));
    Ok(ordered)
}

/// Where each item is first.
fn ranks<'v>(items: &'v [Value], key: Option<&str>) -> HashMap<Identity<'v>, usize> {
    let mut ranks = HashMap::with_capacity(items.len());
    for (rank, item) in items.iter().enumerate() {
        let identity = key.map_or(Some(item), |key| item.get(key));
        if let Some(identity) = identity {
            ranks.entry(Identity::of(identity)).or_insert(rank);
        }
    }
    ranks
}

/// The merge key's value. A list or an object is no key: nothing can be compared with it.
fn key_of<'v>(item: &'v Value, key: &str) -> Result<&'v Value, PatchError> {
    let Value::Object(map) = item else { return Err(wrong_type("map[string]interface {}", item)) };
    match map.get(key) {
        Some(Value::Array(_) | Value::Object(_)) | None => {
            Err(PatchError::failed(format!("map: {} does not contain declared merge key: {key}", go::plain(item))))
        }
        Some(value) => Ok(value),
    }
}

/// All items of two lists must be of one type, and no lists.
fn check_items(original: &[Value], patch: &[Value]) -> Result<(), PatchError> {
    let mut items = original.iter().chain(patch);
    let Some(first) = items.next() else {
        return Err(PatchError::failed("no elements in any of the given slices".to_owned()));
    };
    if first.is_array() {
        return Err(PatchError::Unprocessable(LISTS_OF_LISTS.to_owned()));
    }
    let kind = go::type_name(first);
    if items.any(|item| go::type_name(item) != kind) {
        let lists = [original, patch].map(|list| go::plain(&Value::Array(list.to_vec()))).join(" ");
        return Err(PatchError::failed(format!("list element types are not identical: [{lists}]")));
    }
    Ok(())
}

fn unknown_directive(patch: &Object) -> PatchError {
    let word = match patch.get(PATCH) {
        Some(Value::String(word)) => word.clone(),
        Some(Value::Null) | None => "%!s(<nil>)".to_owned(),
        Some(other) => format!("%!s({}={})", go::type_name(other), go::plain(other)),
    };
    PatchError::failed(format!("unknown patch type: {word} in map: {}", go::plain(&Value::Object(patch.clone()))))
}

fn wrong_type(expected: &str, actual: &Value) -> PatchError {
    let actual = if actual.is_null() { "%!s(<nil>)" } else { go::type_name(actual) };
    PatchError::failed(format!("expected a {expected}, but received a {actual}"))
}

/// A value that is new loses its nulls, also within lists.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let map = map.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(map.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        plain => plain,
    }
}

/// An object that is new and carries a directive is none at all.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            let kept = map.into_iter().filter_map(|(key, value)| Some((key, without_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        plain => Some(plain),
    }
}
