//! Two values as one: what the second sets, and what only the first has.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{Items, Typed, is_empty, list_items};
use crate::fields::PathElement;
use crate::schema::{ApplySchema, Form, ListType, MapType, field_of, form};

/// What `live` becomes under `config`: fields of maps and items of lists that are none's whole merge, the rest is replaced.
pub(crate) fn merge<S: ApplySchema>(live: Typed<'_, S>, config: Typed<'_, S>) -> Value {
    of_pair(Some(live.value), Some(config.value), Some(live.schema)).unwrap_or(Value::Null)
}

fn of_pair<S: ApplySchema>(live: Option<&Value>, config: Option<&Value>, schema: Option<S>) -> Option<Value> {
    let form = match config {
        None => form(schema, live),
        Some(_) => form(schema, config),
    };
    match (form, schema) {
        (Form::Map(MapType::Granular), Some(schema)) => {
            let (live_map, config_map) = (live.and_then(Value::as_object), config.and_then(Value::as_object));
            if is_empty(live_map.and(live)) && is_empty(config_map.and(config)) {
                return config.or(live).cloned();
            }
            Some(Value::Object(of_maps(live_map, config_map, schema))).filter(|merged| !is_empty(Some(merged)))
        }
        (Form::List(list @ (ListType::Set | ListType::Map)), Some(schema)) => {
            let (live_items, config_items) = (list_items(live), list_items(config));
            match Items::of(schema, list) {
                Some(named) if !(live_items.is_empty() && config_items.is_empty()) => {
                    let merged = of_items(live_items, config_items, &named);
                    Some(Value::Array(merged)).filter(|merged| !is_empty(Some(merged)))
                }
                _ => config.or(live).cloned(),
            }
        }
        _ => config.or(live).cloned(),
    }
}

fn of_maps<S: ApplySchema>(
    live: Option<&Map<String, Value>>,
    config: Option<&Map<String, Value>>,
    schema: S,
) -> Map<String, Value> {
    let empty = Map::new();
    let (live, config) = (live.unwrap_or(&empty), config.unwrap_or(&empty));
    let mut merged = Map::new();
    let added = config.iter().filter(|(key, _)| !live.contains_key(*key)).map(|(key, value)| (key, None, Some(value)));
    for (key, before, after) in live.iter().map(|(key, value)| (key, Some(value), config.get(key))).chain(added) {
        if let Some(value) = of_pair(before, after, field_of(schema, key)) {
            merged.insert(key.clone(), value);
        }
    }
    merged
}

/// Merges the items of two lists.
///
/// The order is the configuration's for items that it names, and the others stay where they were among them as far as that
/// can be: items of the live list come until the next one that the configuration has earlier or later.
fn of_items<S: ApplySchema>(live: &[Value], config: &[Value], named: &Items<S>) -> Vec<Value> {
    let item = Some(named.item());
    let live = with_elements(live, named);
    let config = with_elements(config, named);
    // Of an item that the live list has twice, neither is merged into.
    let mut live_values: BTreeMap<&PathElement, &Value> = BTreeMap::new();
    for (element, value) in &live {
        live_values.entry(element).and_modify(|value| *value = &Value::Null).or_insert(value);
    }
    let config_values: BTreeMap<&PathElement, &Value> =
        config.iter().map(|(element, value)| (element, *value)).collect();
    let both =
        |element: &PathElement| of_pair(live_values.get(element).copied(), config_values.get(element).copied(), item);

    let mut shared = config.iter().map(|(element, _)| element).filter(|element| live_values.contains_key(element));
    let mut next_shared = shared.next();
    let mut merged = Vec::with_capacity(live.len().max(config.len()));
    let mut done: BTreeSet<&PathElement> = BTreeSet::new();
    let (mut at_live, mut at_config) = (0, 0);
    while at_live < live.len() || at_config < config.len() {
        if let (Some((ours, _)), Some((theirs, _))) = (live.get(at_live), config.get(at_config)) {
            if ours == theirs {
                done.insert(ours);
                merged.extend(both(ours));
                at_live += 1;
                at_config += 1;
                next_shared = shared.next();
                continue;
            }
            if config_values.contains_key(ours) && next_shared.is_some_and(|next| next != ours) {
                // It is shared, but its turn is another one.
                at_live += 1;
                continue;
            }
        }
        if let Some((ours, value)) = live.get(at_live) {
            if !config_values.contains_key(ours) {
                merged.extend(of_pair(Some(value), None, item));
                at_live += 1;
                continue;
            }
            if done.contains(ours) {
                at_live += 1;
            }
        }
        if let Some((theirs, _)) = config.get(at_config) {
            done.insert(theirs);
            merged.extend(both(theirs));
            at_config += 1;
            if next_shared == Some(theirs) {
                next_shared = shared.next();
            }
        }
    }
    merged
}

fn with_elements<'v, S: ApplySchema>(items: &'v [Value], named: &Items<S>) -> Vec<(PathElement, &'v Value)> {
    items.iter().filter_map(|item| Some((named.element(item).ok()?, item))).collect()
}
