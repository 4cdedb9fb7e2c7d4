//! When two answers are equal: all but what differs from run to run, and what this hub does not have on purpose or not yet.
//!
//! Not compared: `managedFields` (server-side apply is not served, and field managers belong to it), what an authenticator knows
//! besides (`extra`), and headers other than the media type and warnings.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use jiff::Timestamp;
use regex_lite::Regex;
use serde_json::{Map, Value};
use testkit::wire::Answer;

use super::at;

/// Times of a run are within this of its `Date`; times that a request gave are further away.
const NEAR_SECONDS: i64 = 7200;

static UUID: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").expect("an expression")
});
static REVISION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(current: |precondition \(|UID in object meta: |resourceVersion=)[0-9]+").expect("an expression")
});
static AGE: LazyLock<Regex> = LazyLock::new(|| Regex::new("^[0-9]+[smh]([0-9]+[smh])?$").expect("an expression"));
static NUMBER: LazyLock<Regex> = LazyLock::new(|| Regex::new("^[1-9][0-9]*$").expect("an expression"));
static GENERATED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("(kube-api-access-)[a-z0-9]{5}").expect("an expression"));

/// The first difference between a recorded answer and one of now.
pub fn difference(recorded: &Value, answer: &Answer) -> Option<String> {
    if recorded["status"].as_u64() != Some(answer.status.into()) {
        let text: String = answer.text().chars().take(300).collect();
        return Some(format!("status {} instead of {}: {text}", answer.status, recorded["status"]));
    }
    let headers = &recorded["headers"];
    let media = |text: &str| text.replace(' ', "").to_lowercase();
    let now = answer.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if media(headers["content-type"].as_str().unwrap_or_default()) != media(now) {
        return Some(format!("content-type {now} instead of {}", headers["content-type"]));
    }
    let warnings: BTreeSet<String> = headers["warning"]
        .as_array()
        .map_or_else(|| vec![&headers["warning"]], |all| all.iter().collect())
        .into_iter()
        .filter_map(|one| one.as_str().map(str::to_owned))
        .collect();
    let given = answer.headers.get_all("warning").iter().filter_map(|one| one.to_str().ok());
    let given: BTreeSet<String> = given.map(str::to_owned).collect();
    if warnings != given {
        return Some(format!("warnings {given:?} instead of {warnings:?}"));
    }
    let date = headers["date"].as_str().and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
    let then = date.map_or_else(Timestamp::now, |date| date.timestamp());
    let now = Timestamp::now();
    if let Some(events) = recorded["events"].as_array() {
        let given: Vec<Value> = answer.text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let known = |events: &[Value], date| -> Value {
            let is_kept =
                |event: &&Value| event["type"] != "BOOKMARK" || event.to_string().contains("k8s.io/initial-events-end");
            events.iter().filter(is_kept).map(|event| known(event, date)).collect()
        };
        return unequal("events", &known(events, then), &known(&given, now));
    }
    if let Some(body) = recorded.get("body") {
        return unequal("", &known(body, then), &known(&answer.json(), now));
    }
    let text = recorded["text"].as_str().unwrap_or_default();
    (text != answer.text())
        .then(|| format!("{:?} instead of {text:?}", answer.text().chars().take(300).collect::<String>()))
}

/// A value without what varies.
fn known(value: &Value, date: Timestamp) -> Value {
    match value {
        Value::String(text) => Value::String(known_text(text, date)),
        Value::Array(items) => items.iter().map(|item| known(item, date)).collect(),
        Value::Object(members) => known_object(members, date),
        other => other.clone(),
    }
}

fn known_object(members: &Map<String, Value>, date: Timestamp) -> Value {
    let mut kept = Map::new();
    for (name, value) in members {
        let value = match (name.as_str(), value) {
            ("managedFields" | "extra", _) => continue,
            ("resourceVersion", Value::String(text)) if NUMBER.is_match(text) => "<revision>".into(),
            ("continue", Value::String(text)) if !text.is_empty() => "<continue>".into(),
            ("expirationTimestamp" | "token", Value::String(_)) => "<varies>".into(),
            (_, value) => known(value, date),
        };
        kept.insert(name.clone(), value);
    }
    // Five letters that the server chose.
    if let (Some(Value::String(prefix)), Some(Value::String(name))) = (kept.get("generateName"), kept.get("name"))
        && name.len() == prefix.len() + 5
        && name.starts_with(prefix)
    {
        let name = format!("{prefix}<name>");
        kept.insert("name".to_owned(), name.into());
    }
    // Several mistakes come in no order.
    if kept.get("reason").is_some_and(|reason| reason == "Invalid")
        && let Some(Value::String(message)) = kept.get("message")
    {
        let parts: BTreeSet<&str> = message.split([',', '[', ']']).map(str::trim).collect();
        let parts = Value::from(parts.into_iter().collect::<Vec<_>>());
        kept.insert("message".to_owned(), parts);
    }
    if let Some(Value::Array(causes)) = kept.get_mut("causes") {
        causes.sort_by_key(Value::to_string);
    }
    Value::Object(kept)
}

fn known_text(text: &str, date: Timestamp) -> String {
    if let Ok(time) = text.parse::<Timestamp>()
        && (time.as_second() - date.as_second()).abs() < NEAR_SECONDS
    {
        return "<time>".to_owned();
    }
    if AGE.is_match(text) {
        return "<age>".to_owned();
    }
    let text = UUID.replace_all(text, "<uid>");
    let text = REVISION.replace_all(&text, "$1<revision>");
    let text = GENERATED.replace_all(&text, "$1<name>");
    text.replace("kubernetes-admin", "<admin>").replace("selvedge-admin", "<admin>")
}

/// Where two values differ first.
fn unequal(path: &str, recorded: &Value, given: &Value) -> Option<String> {
    match (recorded, given) {
        (Value::Object(left), Value::Object(right)) => {
            let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            names.into_iter().find_map(|name| match (left.get(name), right.get(name)) {
                (Some(left), Some(right)) => unequal(&format!("{path}.{name}"), left, right),
                (Some(left), None) => Some(format!("missing: {}", at(&format!("{path}.{name}"), left))),
                (None, Some(right)) => Some(format!("too much: {}", at(&format!("{path}.{name}"), right))),
                (None, None) => None,
            })
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            (0..left.len()).find_map(|index| unequal(&format!("{path}[{index}]"), &left[index], &right[index]))
        }
        _ if recorded == given => None,
        _ => Some(format!("{} instead of {}", at(path, given), recorded)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(recorded: Value, given: Value, expected: Option<&str>) {
        let then: Timestamp = "2026-11-25T21:59:18Z".parse().unwrap();
        let now: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
        let found = unequal("", &known(&recorded, then), &known(&given, now));
        assert_eq!(found.as_deref(), expected);
    }

    #[test]
    fn what_varies_is_set_aside_and_nothing_else() {
        let object = |uid: &str, revision: &str, time: &str| json!({"metadata": {"uid": uid, "resourceVersion": revision, "creationTimestamp": time, "managedFields": [revision]}});
        let (one, two) = ("2ac1ed97-218c-4505-971a-8d986db2cce3", "00000000-0000-0000-0000-000000000000");
        let recorded = object(one, "224", "2026-11-25T21:59:18Z");
        check(recorded.clone(), object(two, "7", "2027-01-01T00:00:09Z"), None);
        check(
            recorded.clone(),
            object(two, "0", "2027-01-01T00:00:09Z"),
            Some(r#".metadata.resourceVersion "0" instead of "<revision>""#),
        );
        check(
            recorded,
            object(two, "7", "2020-01-01T00:00:00Z"),
            Some(r#".metadata.creationTimestamp "2020-01-01T00:00:00Z" instead of "<time>""#),
        );
        check(json!({"a": 1}), json!({"a": 1, "b": null}), Some("too much: .b null"));
        check(json!({"a": [1]}), json!({"a": [1, 2]}), Some(".a [1,2] instead of [1]"));
        check(json!({"name": "p-abcde", "generateName": "p-"}), json!({"name": "p-12345", "generateName": "p-"}), None);
        let invalid = |message: &str| json!({"reason": "Invalid", "message": message});
        check(invalid("x: [a: one, b: two]"), invalid("x: [b: two, a: one]"), None);
        check(
            invalid("x: [a: one, b: two]"),
            invalid("x: [a: one, b: 2]"),
            Some(r#".message[2] "b: 2" instead of "b: two""#),
        );
    }
}
