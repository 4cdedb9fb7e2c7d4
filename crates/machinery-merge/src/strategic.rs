//! Strategic merge patch: a merge patch that knows which lists are sets and which are maps in disguise.
//!
//! | directive | where | what it does |
//! |---|---|---|
//! | `$patch: replace` | in an object, or as an item of a list | the patch replaces instead of merging |
//! | `$patch: delete` | in an object, or in an item that names its key | empties the object, removes the item |
//! | `$patch: merge` | anywhere | nothing: merging is what happens anyway |
//! | `$retainKeys: [k, …]` | in an object | removes every other key |
//! | `$deleteFromPrimitiveList/f: [v, …]` | beside list `f` | removes plain values |
//! | `$setElementOrder/f: […]` | beside list `f` | orders the merged list |
//!
//! Both lists come from the network, so nothing here compares each item with each: items are found in hash maps, an order
//! is a sort. A list of n items under a patch of m costs O((n + m) log(n + m)); `tests/reference.rs` keeps the naive
//! form, which is easier to believe, and compares.

use std::collections::{HashMap, HashSet};

use machinery_schema::{Budget, ListStrategy, PatchField, PatchSchema};
use serde_json::{Map, Value};

use crate::{PatchError, identity::Identity, walk};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

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
/// [`PatchError::Malformed`] for a patch that is no object, a list item without its merge key, or a directive that
/// makes no sense where it is; [`PatchError::TooDeep`] when the patch nests too deep.
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
    let Value::Object(patch) = patch else {
        return Err(PatchError::malformed("", "a strategic merge patch is an object"));
    };
    let mut merged = document.as_object().cloned().unwrap_or_default();
    merge_object(&mut merged, patch, *schema, &mut String::new())?;
    Ok(Value::Object(merged))
}

/// `path` is where `target` is, for messages, and is left as it was.
fn merge_object(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    schema: PatchSchema,
    path: &mut String,
) -> Result<(), PatchError> {
    match directive(patch, path)? {
        Directive::Merge => {}
        Directive::Delete => {
            target.clear();
            return Ok(());
        }
        Directive::Replace => target.clear(),
    }
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        retain_keys(target, patch, retained, path)?;
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_FROM) {
            // The list itself may be patched too; values leave before others come.
            delete_values(target, list, value, path)?;
        }
    }
    for (key, value) in patch {
        if key == PATCH || key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER) {
            continue;
        }
        if value.is_null() {
            target.remove(key);
            continue;
        }
        let mark = enter(path, key);
        let order = patch.get(&format!("{SET_ORDER}{key}"));
        let field = schema.field(key);
        let merged = merge_value(target.remove(key), value, field, order, path)?;
        target.insert(key.clone(), merged);
        path.truncate(mark);
    }
    for (key, order) in patch {
        // An order may come without changes to the list.
        if let Some(list) = key.strip_prefix(SET_ORDER)
            && !patch.contains_key(list)
            && let Some(Value::Array(items)) = target.get_mut(list)
        {
            let strategy = schema.field(list).list;
            let before = ranks(items, strategy);
            sort_by_order(items, &before, order, strategy, path)?;
        }
    }
    Ok(())
}

fn merge_value(
    target: Option<Value>,
    patch: &Value,
    field: PatchField,
    order: Option<&Value>,
    path: &mut String,
) -> Result<Value, PatchError> {
    match patch {
        Value::Object(patch) => {
            // Into something that is no object, or nothing, the patch goes as into an empty object: directives and
            // nulls in it must not be stored.
            let mut map = match target {
                Some(Value::Object(map)) => map,
                _ => Map::new(),
            };
            merge_object(&mut map, patch, field.schema, path)?;
            Ok(Value::Object(map))
        }
        Value::Array(patch) => {
            let items = match target {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            };
            // Where the items were before anything is merged decides where those go that the order does not name.
            let before = order.map(|_| ranks(&items, field.list));
            let mut items = match field.list {
                ListStrategy::Replace => return Ok(Value::Array(patch.clone())),
                ListStrategy::MergeAsSet => merge_set(items, patch),
                ListStrategy::MergeByKey(key) => merge_by_key(items, patch, key, field.schema, path)?,
            };
            if let (Some(order), Some(before)) = (order, before) {
                sort_by_order(&mut items, &before, order, field.list, path)?;
            }
            Ok(Value::Array(items))
        }
        plain => Ok(plain.clone()),
    }
}

fn merge_set(mut items: Vec<Value>, patch: &[Value]) -> Vec<Value> {
    let mut present: HashSet<Identity<'_>> = items.iter().map(Identity::of).collect();
    let added: Vec<Value> = patch.iter().filter(|value| present.insert(Identity::of(value))).cloned().collect();
    drop(present);
    items.extend(added);
    items
}

fn merge_by_key(
    mut items: Vec<Value>,
    patch: &[Value],
    key: &str,
    schema: PatchSchema,
    path: &mut String,
) -> Result<Vec<Value>, PatchError> {
    let mark = path.len();
    let mut entries = Vec::with_capacity(patch.len());
    // Only items with one of these keys are of interest. A sound list has one item a key; of a list that was stored
    // without its schema's rules the first is merged, and all are deleted.
    let mut keys: HashMap<Identity<'_>, usize> = HashMap::with_capacity(patch.len());
    for (position, item) in patch.iter().enumerate() {
        enter_item(path, position);
        let Value::Object(item) = item else {
            return Err(PatchError::malformed(&**path, format!("must be an object with the merge key {key:?}")));
        };
        let directive = directive(item, path)?;
        match item.get(key) {
            None if directive == Directive::Replace => items.clear(),
            None | Some(Value::Null) => {
                return Err(PatchError::malformed(&**path, format!("does not contain declared merge key: {key}")));
            }
            Some(Value::Array(_) | Value::Object(_)) => {
                return Err(PatchError::malformed(&**path, format!("the merge key {key:?} must be a plain value")));
            }
            Some(value) => {
                let count = keys.len();
                let number = *keys.entry(Identity::of(value)).or_insert(count);
                entries.push((position, directive, number, item));
            }
        }
        path.truncate(mark);
    }
    let mut places: Vec<Vec<usize>> = vec![Vec::new(); keys.len()];
    for (position, item) in items.iter().enumerate() {
        if let Some(number) = item.get(key).and_then(|value| keys.get(&Identity::of(value))) {
            places[*number].push(position);
        }
    }
    let mut slots: Vec<Option<Value>> = items.into_iter().map(Some).collect();
    for (position, directive, number, item) in entries {
        let places = &mut places[number];
        if directive == Directive::Delete {
            places.drain(..).for_each(|place| slots[place] = None);
            continue;
        }
        enter_item(path, position);
        match places.first().and_then(|place| slots[*place].as_mut()) {
            Some(Value::Object(old)) => merge_object(old, item, schema, path)?,
            _ => {
                let mut new = Map::new();
                merge_object(&mut new, item, schema, path)?;
                places.push(slots.len());
                slots.push(Some(Value::Object(new)));
            }
        }
        path.truncate(mark);
    }
    Ok(slots.into_iter().flatten().collect())
}

/// Where each item is, by what makes it itself.
fn ranks(items: &[Value], strategy: ListStrategy) -> HashMap<Identity<'static>, usize> {
    let mut ranks = HashMap::new();
    for (rank, item) in items.iter().enumerate() {
        if let Some(identity) = identity(item, strategy) {
            ranks.entry(Identity::owned(identity)).or_insert(rank);
        }
    }
    ranks
}

fn identity(item: &Value, strategy: ListStrategy) -> Option<&Value> {
    match strategy {
        ListStrategy::MergeByKey(key) => item.get(key),
        ListStrategy::MergeAsSet => Some(item),
        ListStrategy::Replace => None,
    }
}

/// Puts the items that the order names into that order; the others, which only the server knows, stay as near as they
/// can to where they were.
fn sort_by_order(
    items: &mut Vec<Value>,
    before: &HashMap<Identity<'static>, usize>,
    order: &Value,
    strategy: ListStrategy,
    path: &str,
) -> Result<(), PatchError> {
    let Value::Array(order) = order else {
        return Err(PatchError::malformed(format!("{path}.{SET_ORDER}"), "must be a list"));
    };
    let order = ranks(order, strategy);
    let mut named = Vec::new();
    let mut others = Vec::new();
    for item in std::mem::take(items) {
        let identity = identity(&item, strategy).map(Identity::of);
        let was = identity.as_ref().and_then(|identity| before.get(identity)).copied();
        let rank = identity.as_ref().and_then(|identity| order.get(identity)).copied();
        match rank {
            Some(rank) => named.push((rank, was, item)),
            None => others.push((was, item)),
        }
    }
    named.sort_by_key(|(rank, ..)| *rank);
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some((_, named_was, _)), Some((other_was, _))) = (named.peek(), others.peek()) {
        let other_was_first = matches!((other_was, named_was), (Some(other), Some(named)) if other < named);
        items.extend(if other_was_first {
            others.next().map(|(_, item)| item)
        } else {
            named.next().map(|(_, _, item)| item)
        });
    }
    items.extend(named.map(|(_, _, item)| item));
    items.extend(others.map(|(_, item)| item));
    Ok(())
}

fn delete_values(target: &mut Map<String, Value>, list: &str, values: &Value, path: &str) -> Result<(), PatchError> {
    let Value::Array(values) = values else {
        return Err(PatchError::malformed(format!("{path}.{DELETE_FROM}{list}"), "must be a list of values"));
    };
    if let Some(Value::Array(items)) = target.get_mut(list) {
        let values: HashSet<Identity<'_>> = values.iter().map(Identity::of).collect();
        items.retain(|item| !values.contains(&Identity::of(item)));
    }
    Ok(())
}

fn retain_keys(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    retained: &Value,
    path: &str,
) -> Result<(), PatchError> {
    let place = || format!("{path}.{RETAIN_KEYS}");
    let Value::Array(retained) = retained else {
        return Err(PatchError::malformed(place(), "must be a list of keys"));
    };
    let retained: HashSet<&str> = retained.iter().filter_map(Value::as_str).collect();
    let is_kept = |key: &str| retained.contains(key);
    let stray = patch.iter().find(|(key, value)| !key.starts_with('$') && !value.is_null() && !is_kept(key));
    if let Some((stray, _)) = stray {
        return Err(PatchError::malformed(place(), format!("does not name {stray:?}, which the patch sets")));
    }
    target.retain(|key, _| is_kept(key));
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &Map<String, Value>, path: &str) -> Result<Directive, PatchError> {
    let Some(word) = patch.get(PATCH) else { return Ok(Directive::Merge) };
    match word.as_str() {
        Some("merge") => Ok(Directive::Merge),
        Some("replace") => Ok(Directive::Replace),
        Some("delete") => Ok(Directive::Delete),
        _ => Err(PatchError::malformed(format!("{path}.{PATCH}"), format!("{word} is none of merge, replace, delete"))),
    }
}

/// Appends a key to a path; the returned length takes it off again by `truncate`.
fn enter(path: &mut String, key: &str) -> usize {
    let mark = path.len();
    if mark > 0 {
        path.push('.');
    }
    path.push_str(key);
    mark
}

fn enter_item(path: &mut String, position: usize) {
    path.push('[');
    path.push_str(&position.to_string());
    path.push(']');
}
