//! What holds for every document.

use machinery_kinds::{ListStrategy, PatchSchema};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::{json_patch, merge_diff, merge_patch, strategic_merge};

/// Small documents; no nulls, which a merge patch cannot write.
fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i16>().prop_map(Value::from),
        "[a-z/~]{0,4}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-c/~]{1,2}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// Any JSON, directives and operations among it.
fn hostile() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i8>().prop_map(Value::from),
        "(replace|delete|merge|add|/0|/a|[a-c])".prop_map(Value::from)
    ];
    let key = "(spec|containers|name|env|metadata|finalizers|\\$patch|\\$retainKeys|\\$setElementOrder/containers|\\$deleteFromPrimitiveList/finalizers|op|path|from|value)";
    leaf.prop_recursive(5, 32, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// The strategic patch that makes `to` out of `from`, as `kubectl apply` computes it. Items have one key each.
fn strategic_diff(from: &Map<String, Value>, to: &Map<String, Value>, schema: PatchSchema) -> Map<String, Value> {
    let mut patch = Map::new();
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, new) in to.iter().filter(|(key, new)| from.get(*key) != Some(*new)) {
        let field = schema.field(key);
        match (from.get(key), new, field.list) {
            (Some(Value::Object(old)), Value::Object(new), _) => {
                patch.insert(key.clone(), Value::Object(strategic_diff(old, new, field.schema)));
            }
            (Some(Value::Array(old)), Value::Array(new), ListStrategy::MergeByKey(merge_key)) if !old.is_empty() => {
                let find = |items: &[Value], item: &Value| {
                    items.iter().find(|other| other[merge_key] == item[merge_key]).and_then(Value::as_object).cloned()
                };
                let mut items: Vec<Value> = Vec::new();
                for item in new {
                    let Some(old) = find(old, item) else {
                        items.push(item.clone());
                        continue;
                    };
                    let mut change = strategic_diff(&old, item.as_object().expect("an item"), field.schema);
                    if !change.is_empty() {
                        change.insert(merge_key.to_owned(), item[merge_key].clone());
                        items.push(Value::Object(change));
                    }
                }
                let removed = old.iter().filter(|item| find(new, item).is_none());
                items.extend(removed.map(|item| json!({merge_key: item[merge_key], "$patch": "delete"})));
                patch.insert(key.clone(), items.into());
                let order: Vec<Value> = new.iter().map(|item| json!({merge_key: item[merge_key]})).collect();
                patch.insert(format!("$setElementOrder/{key}"), order.into());
            }
            (Some(Value::Array(old)), Value::Array(new), ListStrategy::MergeAsSet) if !old.is_empty() => {
                let without = |items: &[Value], others: &[Value]| -> Vec<Value> {
                    items.iter().filter(|item| !others.contains(item)).cloned().collect()
                };
                patch.insert(key.clone(), without(new, old).into());
                patch.insert(format!("$deleteFromPrimitiveList/{key}"), without(old, new).into());
                patch.insert(format!("$setElementOrder/{key}"), new.clone().into());
            }
            _ => drop(patch.insert(key.clone(), new.clone())),
        }
    }
    patch
}

/// Pods with lists of both sorts, whose items differ in their keys.
pub(crate) fn pod() -> impl Strategy<Value = Value> {
    let names = || {
        prop::collection::btree_set("[a-e]", 0..5)
            .prop_map(|names| names.into_iter().collect::<Vec<_>>())
            .prop_shuffle()
    };
    let env = move || {
        names().prop_map(|names| names.into_iter().map(|name| json!({"name": name, "value": "1"})).collect::<Vec<_>>())
    };
    let container = move |name: String| {
        (prop::option::of("[xy]"), env(), prop::collection::vec("[pq]", 0..3)).prop_map(move |(image, env, args)| {
            let mut item = json!({"name": name, "env": env, "args": args});
            if let Some(image) = image {
                item["image"] = image.into();
            }
            item
        })
    };
    let containers = names().prop_flat_map(move |names| names.into_iter().map(container).collect::<Vec<_>>());
    (containers, names(), prop::option::of("[hi]")).prop_map(|(containers, finalizers, hostname)| {
        let mut pod = json!({"metadata": {"finalizers": finalizers}, "spec": {"containers": containers}});
        if let Some(hostname) = hostname {
            pod["spec"]["hostname"] = hostname.into();
        }
        pod
    })
}

proptest! {
    #[test]
    fn a_strategic_patch_from_one_pod_to_another_leads_there(from in pod(), to in pod()) {
        let schema = super::strategic_cases::schema("", "pods");
        let patch = strategic_diff(from.as_object().expect("a pod"), to.as_object().expect("a pod"), schema);
        let patch = Value::Object(patch);
        let patched = strategic_merge(&from, &patch, &schema);
        // A list of which all items leave stays as an empty one under the same order.
        prop_assert_eq!(patched, Ok(to), "{}", patch);
    }

    #[test]
    fn the_difference_as_a_merge_patch_leads_there(from in document(), to in document()) {
        prop_assume!(to.is_object());
        prop_assert_eq!(merge_patch(&from, &merge_diff(&from, &to)), Ok(to));
    }

    #[test]
    fn a_merge_patch_twice_is_a_merge_patch_once(document in document(), patch in hostile()) {
        // A patch that is a plain value is none; nulls in lists are taken, and removed the next time.
        prop_assume!(patch.is_object() && !patch.to_string().contains("[null"));
        let once = merge_patch(&document, &patch).expect("small patches are taken");
        let twice = merge_patch(&once, &patch).expect("small patches are taken");
        prop_assert_eq!(merge_patch(&twice, &patch), Ok(twice));
    }

    #[test]
    fn remove_undoes_add(map in prop::collection::btree_map("[a-c/~]{1,2}", document(), 0..4), value in document()) {
        let document: Value = map.into_iter().collect();
        let patch = json!([{"op": "add", "path": "/new~1key", "value": value}, {"op": "remove", "path": "/new~1key"}]);
        prop_assert_eq!(json_patch(&document, &patch), Ok(document));
    }

    #[test]
    fn patches_never_panic(document in hostile(), patch in hostile()) {
        let _ = json_patch(&document, &patch);
        let _ = strategic_merge(&document, &patch, &super::strategic_cases::schema("", "pods"));
    }
}
