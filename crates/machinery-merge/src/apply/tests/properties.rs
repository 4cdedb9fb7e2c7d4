//! What holds whatever two managers apply.

use machinery_schema::Budget;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::apply::{Applied, ApplyError, Managed};
use crate::tests::{openapi::Kind, properties::pod};
use crate::{ApplyKind as _, PathElement};

fn pods() -> Kind {
    Kind::of(&json!({"apiVersion": "v1", "kind": "Pod"}), "").expect("pods are published")
}

/// A pod as a configuration: items of its lists differ in their keys already. Nothing in it is empty: a list or map with
/// nothing in it is nobody's.
fn config() -> impl Strategy<Value = Value> {
    pod().prop_map(|pod| {
        let mut pod = without_nothing(&pod);
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["name"] = "p".into();
        pod
    })
}

fn apply(live: Option<&Applied>, config: &Value, manager: &str, force: bool) -> Result<Applied, ApplyError> {
    let kind = pods();
    let (empty, nobody) = (kind.empty_object(), Managed::default());
    let (object, managed) = live.map_or((&empty, &nobody), |live| (&live.object, &live.managed));
    // What was stored has an identity; without one it would be created anew.
    let mut object = without_nulls(object);
    if live.is_some() {
        object["metadata"]["uid"] = "u".into();
    }
    let now = "2026-11-26T00:00:00Z";
    kind.manager("").apply(&object, managed, config, manager, force, now, &mut Budget::of_request())
}

fn without_nothing(value: &Value) -> Value {
    let says = |value: &Value| match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), without_nothing(value)))
            .filter(|(_, value)| says(value))
            .collect(),
        Value::Array(items) => items.iter().map(without_nothing).filter(says).collect(),
        plain => plain.clone(),
    }
}

/// As an object is decoded after it was merged.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), without_nulls(value)))
            .collect(),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        plain => plain.clone(),
    }
}

/// Whether an object says all that a configuration does: its values, and the items of its lists by their names.
fn says_all(object: &Value, config: &Value) -> bool {
    match (object, config) {
        (Value::Object(object), Value::Object(config)) => {
            config.iter().all(|(key, value)| object.get(key).is_some_and(|there| says_all(there, value)))
        }
        (Value::Array(object), Value::Array(config)) if config.iter().all(Value::is_object) => {
            config.iter().all(|item| object.iter().any(|there| there["name"] == item["name"] && says_all(there, item)))
        }
        // Lists of arguments are one value, finalizers are a set.
        (Value::Array(object), Value::Array(config)) => config.iter().all(|value| object.contains(value)),
        (object, config) => object == config,
    }
}

proptest! {
    #[test]
    fn to_apply_twice_is_to_apply_once(config in config(), before in config()) {
        let first = apply(None, &before, "other", false).expect("nobody owns anything");
        let once = apply(Some(&first), &config, "one", true).expect("it is forced");
        let twice = apply(Some(&once), &config, "one", false).expect("it changes nothing");
        let (mut once_object, twice_object) = (without_nulls(&once.object), without_nulls(&twice.object));
        once_object["metadata"]["uid"] = "u".into();
        prop_assert_eq!(once_object, twice_object);
        prop_assert!(once.managed.is_same_but_for_times(&twice.managed));
    }

    #[test]
    fn what_one_manager_applies_survives_another(ours in config(), theirs in config(), later in config()) {
        let first = apply(None, &ours, "one", false).expect("nobody owns anything");
        prop_assert!(says_all(&first.object, &ours));
        let Ok(second) = apply(Some(&first), &theirs, "two", false) else { return Ok(()) };
        prop_assert!(says_all(&second.object, &ours), "{} lost some of {}", second.object, ours);
        prop_assert!(says_all(&second.object, &theirs));
        // And back: whatever the first does next, what the second applied stays, or it is a conflict.
        let Ok(third) = apply(Some(&second), &later, "one", false) else { return Ok(()) };
        prop_assert!(says_all(&third.object, &theirs), "{} lost some of {}", third.object, theirs);
        prop_assert!(says_all(&third.object, &later));
    }

    #[test]
    fn what_nobody_applies_any_more_is_removed(ours in config()) {
        let first = apply(None, &ours, "one", false).expect("nobody owns anything");
        let nothing = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
        let left = without_nulls(&apply(Some(&first), &nothing, "one", false).expect("it is the owner").object);
        prop_assert!(left["spec"].get("containers").is_none(), "{}", left);
        prop_assert!(left["metadata"].get("finalizers").is_none(), "{}", left);
    }

    #[test]
    fn owners_survive_their_way_to_the_disk(ours in config(), theirs in config()) {
        let first = apply(None, &ours, "one", false).expect("nobody owns anything");
        let both = apply(Some(&first), &theirs, "two", true).expect("it is forced");
        let compact = both.managed.to_compact();
        let read = Managed::from_compact(&compact).expect("it was just written");
        prop_assert!(read.is_same_but_for_times(&both.managed));
        prop_assert_eq!(Managed::decode(both.managed.to_value().as_ref()).expect("it is whole"), read);
        let has_name = both.managed.iter().all(|(_, set, _)| !set.set.has(&[PathElement::field("metadata"), PathElement::field("name")]));
        prop_assert!(has_name, "nobody owns a name");
    }
}
