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

use machinery_schema::{ListStrategy, PatchField, PatchSchema};
use serde_json::{Map, Value};

use crate::{PatchError, check_depth};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch to an object of the kind that `schema` describes.
///
/// ```
/// use serde_json::json;
/// let registry = machinery_schema::Registry::builtin();
/// let schema = registry.resource("", "v1", "pods").and_then(|pods| pods.patch_schema()).expect("pods are built in");
/// let pod = json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}});
/// let patch = json!({"spec": {"containers": [{"name": "b", "image": "z"}]}});
/// let patched = machinery_merge::strategic_merge(&pod, &patch, &schema).expect("the patch fits");
/// assert_eq!(patched["spec"]["containers"], json!([{"name": "a", "image": "x"}, {"name": "b", "image": "z"}]));
/// ```
///
/// # Errors
/// [`PatchError::Malformed`] for a patch that is no object, a list item without its merge key, or a directive that
/// makes no sense where it stands; [`PatchError::TooLarge`] when the patch nests too deep.
pub fn strategic_merge(document: &Value, patch: &Value, schema: &PatchSchema) -> Result<Value, PatchError> {
    check_depth(patch)?;
    let Value::Object(patch) = patch else {
        return Err(PatchError::malformed("", "a strategic merge patch is an object"));
    };
    let mut merged = document.as_object().cloned().unwrap_or_default();
    merge_object(&mut merged, patch, *schema, &mut String::new())?;
    Ok(Value::Object(merged))
}

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
            let before = items.clone();
            sort_by_order(items, &before, order, schema.field(list).list, path)?;
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
            let before = match target {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            };
            let mut items = match field.list {
                ListStrategy::Replace => return Ok(Value::Array(patch.clone())),
                ListStrategy::MergeAsSet => merge_set(before.clone(), patch),
                ListStrategy::MergeByKey(key) => merge_by_key(before.clone(), patch, key, field.schema, path)?,
            };
            if let Some(order) = order {
                sort_by_order(&mut items, &before, order, field.list, path)?;
            }
            Ok(Value::Array(items))
        }
        plain => Ok(plain.clone()),
    }
}

fn merge_set(mut items: Vec<Value>, patch: &[Value]) -> Vec<Value> {
    for value in patch {
        if !items.contains(value) {
            items.push(value.clone());
        }
    }
    items
}

fn merge_by_key(
    mut items: Vec<Value>,
    patch: &[Value],
    key: &str,
    schema: PatchSchema,
    path: &mut String,
) -> Result<Vec<Value>, PatchError> {
    let mut entries = Vec::with_capacity(patch.len());
    let mut replaces = false;
    for (position, item) in patch.iter().enumerate() {
        let place = format!("{path}[{position}]");
        let Value::Object(item) = item else {
            return Err(PatchError::malformed(place, format!("must be an object with the merge key {key:?}")));
        };
        let directive = directive(item, &place)?;
        if directive == Directive::Replace && !item.contains_key(key) {
            replaces = true;
            continue;
        }
        let Some(value) = item.get(key).filter(|value| !value.is_null()) else {
            return Err(PatchError::malformed(place, format!("does not contain declared merge key: {key}")));
        };
        entries.push((directive, value, item, place));
    }
    if replaces {
        items.clear();
    }
    for (directive, value, item, mut place) in entries {
        if directive == Directive::Delete {
            items.retain(|old| old.get(key) != Some(value));
            continue;
        }
        match items.iter_mut().find(|old| old.get(key) == Some(value)) {
            Some(Value::Object(old)) => merge_object(old, item, schema, &mut place)?,
            _ => {
                let mut new = Map::new();
                merge_object(&mut new, item, schema, &mut place)?;
                items.push(Value::Object(new));
            }
        }
    }
    Ok(items)
}

/// Puts the items that the order names into that order; the others, which only the server knows, stay as near as they
/// can to where they were.
fn sort_by_order(
    items: &mut Vec<Value>,
    before: &[Value],
    order: &Value,
    strategy: ListStrategy,
    path: &str,
) -> Result<(), PatchError> {
    let Value::Array(order) = order else {
        return Err(PatchError::malformed(format!("{path}.{SET_ORDER}"), "must be a list"));
    };
    let identity = |item: &Value| -> Option<Value> {
        match strategy {
            ListStrategy::MergeByKey(key) => item.get(key).cloned(),
            ListStrategy::MergeAsSet => Some(item.clone()),
            ListStrategy::Replace => None,
        }
    };
    let ordered: Vec<Option<Value>> = order.iter().map(&identity).collect();
    let was: Vec<Option<Value>> = before.iter().map(&identity).collect();
    let rank = |item: &Value, list: &[Option<Value>]| {
        let identity = identity(item)?;
        list.iter().position(|other| other.as_ref() == Some(&identity))
    };
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        std::mem::take(items).into_iter().partition(|item| rank(item, &ordered).is_some());
    named.sort_by_key(|item| rank(item, &ordered));
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(next_named), Some(next_other)) = (named.peek(), others.peek()) {
        let other_was_first = match (rank(next_other, &was), rank(next_named, &was)) {
            (Some(other), Some(named)) => other < named,
            _ => false,
        };
        items.extend(if other_was_first { others.next() } else { named.next() });
    }
    items.extend(named);
    items.extend(others);
    Ok(())
}

fn delete_values(target: &mut Map<String, Value>, list: &str, values: &Value, path: &str) -> Result<(), PatchError> {
    let Value::Array(values) = values else {
        return Err(PatchError::malformed(format!("{path}.{DELETE_FROM}{list}"), "must be a list of values"));
    };
    if let Some(Value::Array(items)) = target.get_mut(list) {
        items.retain(|item| !values.contains(item));
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
    let is_kept = |key: &str| retained.iter().any(|kept| kept.as_str() == Some(key));
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
