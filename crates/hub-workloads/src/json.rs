//! JSON of objects: what changes one into another, and how messages show it.

use serde_json::{Map, Value};

/// The merge patch that makes `new` of `old`; `None` when they are the same. Maps are compared field by field, so that a key
/// that is not in `new` is taken out; anything else is replaced as a whole.
pub(crate) fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    match (old, new) {
        (old, new) if old == new => None,
        (Value::Object(old), Value::Object(new)) => {
            let mut patch = Map::new();
            for key in old.keys().filter(|key| !new.contains_key(*key)) {
                patch.insert(key.clone(), Value::Null);
            }
            for (key, new) in new {
                match old.get(key).filter(|old| !old.is_null()) {
                    Some(old) => drop(merge_patch(old, new).map(|changed| patch.insert(key.clone(), changed))),
                    None => drop(patch.insert(key.clone(), new.clone())),
                }
            }
            Some(patch.into())
        }
        (_, new) => Some(new.clone()),
    }
}

/// A `metav1.LabelSelector` (JSON) as Go prints it, for messages that are upstream's.
pub(crate) fn shown_selector(selector: &Value) -> String {
    if selector.is_null() {
        return "nil".to_owned();
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let labels: String = labels.map(|(key, value)| format!("{key}: {},", text(value))).collect();
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten().map(|one| {
        let values: Vec<String> = one["values"].as_array().into_iter().flatten().map(text).collect();
        let values = values.join(" ");
        format!(
            "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
            text(&one["key"]),
            text(&one["operator"])
        )
    });
    let expressions: String = expressions.collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_selector_is_shown_as_upstream_shows_it() {
        let selector = json!({
            "matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}],
        });
        let expected = "&LabelSelector{MatchLabels:map[string]string{app: web,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:tier,Operator:In,Values:[a b],},},}";
        assert_eq!(shown_selector(&selector), expected);
        assert_eq!(shown_selector(&Value::Null), "nil");
    }

    #[test]
    fn a_patch_takes_out_what_is_not_there_any_more() {
        for (old, new, patch) in [
            (json!({"a": 1}), json!({"a": 1}), None),
            (json!({"a": 1, "b": 2}), json!({"a": 1}), Some(json!({"b": null}))),
            (json!({"m": {"x": 1, "y": 2}}), json!({"m": {"x": 3}}), Some(json!({"m": {"x": 3, "y": null}}))),
            (json!({"l": [1, 2]}), json!({"l": [2]}), Some(json!({"l": [2]}))),
            (json!(null), json!({"a": 1}), Some(json!({"a": 1}))),
            (json!({"m": null}), json!({"m": {"x": 1}}), Some(json!({"m": {"x": 1}}))),
        ] {
            assert_eq!(merge_patch(&old, &new), patch, "{old} to {new}");
        }
    }
}
