//! Strategic merge in its naive form: each item is compared with each. Slow and easy to believe; the real one must agree.

use machinery_kinds::{ListStrategy, PatchField, PatchSchema};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::strategic_cases::schema;
use crate::strategic_merge;

/// `None` where a patch is rejected.
fn naive(target: &mut Map<String, Value>, patch: &Map<String, Value>, schema: PatchSchema) -> Option<()> {
    match directive(patch)? {
        "delete" => {
            target.clear();
            return Some(());
        }
        "replace" => target.clear(),
        _ => {}
    }
    if let Some(retained) = patch.get("$retainKeys") {
        let retained = retained.as_array()?;
        let is_kept = |key: &String| retained.contains(&Value::String(key.clone()));
        if patch.iter().any(|(key, value)| !key.starts_with('$') && !value.is_null() && !is_kept(key)) {
            return None;
        }
        target.retain(|key, _| is_kept(key));
    }
    for (key, values) in patch {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            let values = values.as_array()?;
            if let Some(Value::Array(items)) = target.get_mut(list) {
                items.retain(|item| !values.contains(item));
            }
        }
    }
    let is_directive = |key: &str| {
        key == "$patch" || key == "$retainKeys" || key.contains("List/") || key.starts_with("$setElementOrder/")
    };
    for (key, value) in patch.iter().filter(|(key, _)| !is_directive(key)) {
        let old = target.remove(key);
        if !value.is_null() {
            let order = patch.get(&format!("$setElementOrder/{key}"));
            target.insert(key.clone(), naive_value(old, value, schema.field(key), order)?);
        }
    }
    for (key, order) in patch {
        if let Some(list) = key.strip_prefix("$setElementOrder/").filter(|list| !patch.contains_key(*list))
            && let Some(Value::Array(items)) = target.get_mut(list)
        {
            let before = items.clone();
            naive_order(items, &before, order, schema.field(list).list)?;
        }
    }
    Some(())
}

fn naive_value(old: Option<Value>, patch: &Value, field: PatchField, order: Option<&Value>) -> Option<Value> {
    match patch {
        Value::Object(patch) => {
            let mut map = old.and_then(|old| old.as_object().cloned()).unwrap_or_default();
            naive(&mut map, patch, field.schema)?;
            Some(Value::Object(map))
        }
        Value::Array(patch) => {
            let before = old.and_then(|old| old.as_array().cloned()).unwrap_or_default();
            let mut items = before.clone();
            match field.list {
                ListStrategy::Replace => return Some(Value::Array(patch.clone())),
                ListStrategy::MergeAsSet => {
                    for value in patch {
                        if !items.contains(value) {
                            items.push(value.clone());
                        }
                    }
                }
                ListStrategy::MergeByKey(key) => naive_items(&mut items, patch, key, field.schema)?,
            }
            if let Some(order) = order {
                naive_order(&mut items, &before, order, field.list)?;
            }
            Some(Value::Array(items))
        }
        plain => Some(plain.clone()),
    }
}

fn naive_items(items: &mut Vec<Value>, patch: &[Value], key: &str, schema: PatchSchema) -> Option<()> {
    let is_replacement = |item: &Map<String, Value>| directive(item) == Some("replace") && !item.contains_key(key);
    for item in patch {
        let item = item.as_object()?;
        directive(item)?;
        if is_replacement(item) {
            items.clear();
        } else if matches!(item.get(key)?, Value::Null | Value::Array(_) | Value::Object(_)) {
            return None;
        }
    }
    for item in patch.iter().filter_map(Value::as_object).filter(|item| !is_replacement(item)) {
        let value = item.get(key)?;
        if directive(item)? == "delete" {
            items.retain(|old| old.get(key) != Some(value));
            continue;
        }
        match items.iter_mut().find(|old| old.get(key) == Some(value)) {
            Some(Value::Object(old)) => naive(old, item, schema)?,
            _ => {
                let mut new = Map::new();
                naive(&mut new, item, schema)?;
                items.push(Value::Object(new));
            }
        }
    }
    Some(())
}

fn naive_order(items: &mut Vec<Value>, before: &[Value], order: &Value, strategy: ListStrategy) -> Option<()> {
    let order = order.as_array()?;
    let identity = |item: &Value| match strategy {
        ListStrategy::MergeByKey(key) => item.get(key).cloned(),
        ListStrategy::MergeAsSet => Some(item.clone()),
        ListStrategy::Replace => None,
    };
    let rank = |item: &Value, list: &[Value]| {
        let own = identity(item)?;
        list.iter().position(|other| identity(other).as_ref() == Some(&own))
    };
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        std::mem::take(items).into_iter().partition(|item| rank(item, order).is_some());
    named.sort_by_key(|item| rank(item, order));
    while let (Some(next_named), Some(next_other)) = (named.first(), others.first()) {
        let other_first = matches!((rank(next_other, before), rank(next_named, before)), (Some(a), Some(b)) if a < b);
        items.push(if other_first { others.remove(0) } else { named.remove(0) });
    }
    items.extend(named);
    items.extend(others);
    Some(())
}

fn directive(patch: &Map<String, Value>) -> Option<&str> {
    match patch.get("$patch") {
        None => Some("merge"),
        Some(word) => word.as_str().filter(|word| ["merge", "replace", "delete"].contains(word)),
    }
}

/// Names of few letters, so that lists hold some twice and patches meet what is there.
fn name() -> impl Strategy<Value = Value> {
    prop_oneof![8 => "[a-d]".prop_map(Value::from), 1 => (0..3u8).prop_map(Value::from)]
}

fn container(is_patch: bool) -> impl Strategy<Value = Value> {
    let word = if is_patch {
        prop_oneof![6 => Just(""), 1 => Just("delete"), 1 => Just("replace")]
    } else {
        prop_oneof![6 => Just(""), 0 => Just(""), 0 => Just("")]
    };
    let named = prop_oneof![12 => name().prop_map(Some), 1 => Just(None)];
    (named, word, prop::option::of("[xy]"), prop::collection::vec(name(), 0..3)).prop_map(|(name, word, image, env)| {
        let mut item = json!({"env": env.into_iter().map(|name| json!({ "name": name })).collect::<Vec<_>>()});
        if let Some(name) = name {
            item["name"] = name;
        }
        if !word.is_empty() {
            item["$patch"] = word.into();
        }
        if let Some(image) = image {
            item["image"] = image.into();
        }
        item
    })
}

fn pod(is_patch: bool) -> impl Strategy<Value = Value> {
    let order = prop::collection::vec(name().prop_map(|name| json!({ "name": name })), 0..6);
    let names = || prop::collection::vec(name(), 0..6);
    let further = (prop::option::of(order), prop::option::of(names()), prop::option::of(names()));
    (prop::collection::vec(container(is_patch), 0..6), names(), any::<bool>(), further).prop_map(
        move |(containers, finalizers, has_list, (order, deleted, set_order))| {
            let mut pod = json!({"spec": {}, "metadata": {}});
            if has_list || !is_patch {
                pod["spec"]["containers"] = containers.into();
                pod["metadata"]["finalizers"] = finalizers.into();
            }
            if is_patch {
                let directives = [
                    ("spec", "$setElementOrder/containers", order),
                    ("metadata", "$deleteFromPrimitiveList/finalizers", deleted),
                    ("metadata", "$setElementOrder/finalizers", set_order),
                ];
                for (place, key, value) in directives {
                    if let Some(value) = value {
                        pod[place][key] = value.into();
                    }
                }
            }
            pod
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn the_merge_agrees_with_its_naive_form(document in pod(false), patch in pod(true)) {
        let schema = schema("", "pods");
        let mut expected = document.as_object().cloned().unwrap_or_default();
        let expected = naive(&mut expected, patch.as_object().expect("a patch is an object"), schema).map(|()| Value::Object(expected));
        prop_assert_eq!(strategic_merge(&document, &patch, &schema).ok(), expected);
    }
}
