//! What holds for every document.

use proptest::prelude::*;
use serde_json::{Value, json};

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

proptest! {
    #[test]
    fn the_difference_as_a_merge_patch_leads_there(from in document(), to in document()) {
        prop_assert_eq!(merge_patch(&from, &merge_diff(&from, &to)), Ok(to));
    }

    #[test]
    fn a_merge_patch_twice_is_a_merge_patch_once(document in document(), patch in hostile()) {
        let once = merge_patch(&document, &patch).expect("small patches are taken");
        prop_assert_eq!(merge_patch(&once, &patch), Ok(once));
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

    #[test]
    fn no_directive_is_ever_stored(patch in hostile()) {
        let schema = super::strategic_cases::schema("", "pods");
        if let Ok(merged) = strategic_merge(&json!({}), &json!({"spec": {"securityContext": patch}}), &schema) {
            let text = merged["spec"]["securityContext"].as_object().map(|map| map.keys().cloned().collect::<String>());
            prop_assert!(!text.unwrap_or_default().contains('$'));
        }
    }
}
