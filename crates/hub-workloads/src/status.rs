//! Conditions of workloads: how one is set without writing what is there already.

use hub_runtime::events::seconds;
use jiff::Timestamp;
use serde_json::{Value, json};

/// A condition by its type.
pub(crate) fn find<'v>(conditions: &'v [Value], r#type: &str) -> Option<&'v Value> {
    conditions.iter().find(|one| one["type"] == r#type)
}

/// What a condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Says<'a> {
    pub r#type: &'a str,
    pub status: &'a str,
    pub reason: &'a str,
    pub message: &'a str,
}

/// Whether a condition carries `lastUpdateTime`, which only Deployments' do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Updated {
    Noted,
    Absent,
}

/// Sets a condition as upstream's controllers do: one with the same status and reason stays as it is, its words included; the
/// transition is noted when the status changes; a condition that changes moves to the end.
pub(crate) fn set(conditions: &mut Vec<Value>, says: Says<'_>, updated: Updated, now: Timestamp) {
    let Says { r#type, status, reason, message } = says;
    let mut since = Value::from(seconds(now));
    if let Some(held) = find(conditions, r#type) {
        if held["status"] == status && held["reason"] == reason {
            return;
        }
        if held["status"] == status {
            since = held["lastTransitionTime"].clone();
        }
    }
    remove(conditions, r#type);
    let mut condition = json!({"type": r#type, "status": status});
    if updated == Updated::Noted {
        condition["lastUpdateTime"] = seconds(now).into();
    }
    condition["lastTransitionTime"] = since;
    condition["reason"] = reason.into();
    condition["message"] = message.into();
    conditions.push(condition);
}

/// Takes a condition out.
pub(crate) fn remove(conditions: &mut Vec<Value>, r#type: &str) {
    conditions.retain(|one| one["type"] != r#type);
}

/// Takes a condition out, unless it says what `kept` says.
pub(crate) fn remove_unless_same(conditions: &mut Vec<Value>, r#type: &str, kept: Option<&Value>) {
    let is_kept =
        |one: &Value| kept.is_some_and(|kept| one["status"] == kept["status"] && one["reason"] == kept["reason"]);
    conditions.retain(|one| one["type"] != r#type || is_kept(one));
}

/// Whether two lists of conditions or whole statuses say the same. An absent number is zero, as the API leaves zeros out,
/// and what is `null` is absent.
pub(crate) fn is_same(one: &Value, other: &Value) -> bool {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
            names.into_iter().all(|name| {
                let field = |fields: &serde_json::Map<String, Value>| fields.get(name).cloned().unwrap_or_default();
                let (one, other) = (field(one), field(other));
                (is_empty(&one) && is_empty(&other)) || is_same(&one, &other)
            })
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    const READY: Says<'static> = Says { r#type: "Available", status: "True", reason: "A", message: "a" };

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let mut conditions = Vec::new();
        set(&mut conditions, READY, Updated::Noted, at(1));
        set(&mut conditions, Says { r#type: "Other", ..READY }, Updated::Absent, at(1));
        assert!(conditions[1]["lastUpdateTime"].is_null());
        let before = conditions.clone();
        set(&mut conditions, Says { message: "b", ..READY }, Updated::Noted, at(2));
        assert_eq!(conditions, before, "the same status and reason");
        set(&mut conditions, Says { reason: "B", ..READY }, Updated::Noted, at(3));
        let moved = conditions.last().unwrap();
        assert_eq!(
            (&moved["lastTransitionTime"], &moved["lastUpdateTime"]),
            (&json!("1970-01-01T00:00:01Z"), &json!("1970-01-01T00:00:03Z"))
        );
        set(&mut conditions, Says { status: "False", ..READY }, Updated::Noted, at(4));
        assert_eq!(find(&conditions, "Available").unwrap()["lastTransitionTime"], "1970-01-01T00:00:04Z");
        remove(&mut conditions, "Available");
        assert_eq!(conditions.len(), 1);
    }

    #[test]
    fn what_the_api_leaves_out_is_not_a_difference() {
        let check =
            |one: Value, other: Value, expected: bool| assert_eq!(is_same(&one, &other), expected, "{one} {other}");
        check(json!({"replicas": 0, "conditions": []}), json!({}), true);
        check(json!({"replicas": 1}), json!({}), false);
        check(json!({"conditions": [{"type": "A"}]}), json!({"conditions": [{"type": "A"}]}), true);
        check(json!({"conditions": [{"type": "A"}]}), json!({"conditions": []}), false);
    }
}
