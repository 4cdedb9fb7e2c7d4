//! When two answers are equal: all but what differs from run to run.
//!
//! Both sides are brought into a form in which everything that varies is a placeholder (`<uid>`, `<time>`, …) and what has no
//! order is sorted; what is left is compared to the letter, and each place that differs is reported.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use jiff::Timestamp;
use regex_lite::{Captures, Regex};
use serde_json::{Map, Value};

use crate::Answer;

/// Times of a run are within this of its `Date`; times that a request gave are further away.
const NEAR_SECONDS: i64 = 7200;

/// A run of one letter that is longer is written as its count.
const RUN_MAX: usize = 1000;

/// Headers that must be equal, beside the media type and warnings.
const HEADERS: &[&str] = &["location", "retry-after", "allow", "www-authenticate"];

fn regex(expression: &str) -> Regex {
    Regex::new(expression).expect("an expression")
}

/// Set by `SELVEDGE_REPLAY_WITHOUT=managedFields`: to see what else differs.
static WITHOUT_MANAGED_FIELDS: LazyLock<bool> =
    LazyLock::new(|| std::env::var_os("SELVEDGE_REPLAY_WITHOUT").is_some_and(|names| names == "managedFields"));

static UUID: LazyLock<Regex> = LazyLock::new(|| regex("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"));
static REVISION: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"(current: |precondition \(|record \(|UID in object meta: |resourceVersion=|resourceVersion: "|resourceVersion\\?":\\?")[1-9][0-9]*"#,
    )
});
static TIME: LazyLock<Regex> =
    LazyLock::new(|| regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z"));
static AGE: LazyLock<Regex> = LazyLock::new(|| regex("^([0-9]+[ydhms]){1,2}$"));
static NUMBER: LazyLock<Regex> = LazyLock::new(|| regex("^[1-9][0-9]*$"));
static ACCESS_VOLUME: LazyLock<Regex> = LazyLock::new(|| regex("(kube-api-access-)[a-z0-9]{5}"));
static DIGEST: LazyLock<Regex> = LazyLock::new(|| regex("X509SHA256=[0-9a-f]+"));
static ADDRESS: LazyLock<Regex> = LazyLock::new(|| regex(r"^10\.96\.[0-9]+\.[0-9]+$"));
static TOKEN: LazyLock<Regex> = LazyLock::new(|| regex(r"^[\w-]+\.[\w-]+\.[\w-]+$"));

/// What of a case says what varies.
#[derive(Clone, Copy)]
pub(crate) struct Varying<'a> {
    /// All that its requests say.
    pub(crate) asked: &'a str,
    /// Its namespace.
    pub(crate) namespace: &'a str,
}

/// One place where a recorded answer and one of now differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where, such as `spec.containers[0].image`.
    pub place: String,
    /// What was recorded; `None` when nothing is there.
    pub expected: Option<String>,
    /// What is there now.
    pub given: Option<String>,
}

/// How an answer compares with the recorded one.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Recorded status.
    pub status_expected: u16,
    /// Status of now.
    pub status_given: u16,
    /// Headers that differ.
    pub headers: Vec<Difference>,
    /// Places of the body that differ.
    pub body: Vec<Difference>,
}

impl Comparison {
    /// Whether the status codes are equal.
    pub fn is_status_equal(&self) -> bool {
        self.status_expected == self.status_given
    }

    /// Whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.is_status_equal() && self.headers.is_empty() && self.body.is_empty()
    }
}

/// Compares a recorded answer with one of now.
pub(crate) fn compare(recorded: &Value, answer: &Answer, varying: &Varying<'_>) -> Comparison {
    let mut comparison = Comparison {
        status_expected: recorded["status"].as_u64().and_then(|status| status.try_into().ok()).unwrap_or_default(),
        status_given: answer.status,
        headers: headers(&recorded["headers"], answer, varying),
        body: Vec::new(),
    };
    let date = recorded["headers"]["date"].as_str().and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
    let now = Timestamp::now();
    let then = Known { date: date.map_or(now, |date| date.timestamp()), varying };
    let now = Known { date: now, varying };
    let differences = &mut comparison.body;
    let one_event = recorded.get("body").filter(|body| is_event(body)).map(std::slice::from_ref);
    if let Some(events) = recorded["events"].as_array().map(Vec::as_slice).or(one_event) {
        let given: Vec<Value> = answer.text().lines().map(json_or_text).collect();
        unequal("events", &then.events(events), &now.events(&given), differences);
    } else if let Some(body) = recorded.get("body") {
        unequal("", &then.value(body), &now.value(&json_or_text(&answer.text())), differences);
    } else if recorded.get("base64").is_none() {
        let expected = then.text(recorded["text"].as_str().unwrap_or_default());
        let is_stream = !answer.text().is_empty() && answer.text().lines().all(|line| is_event(&json_or_text(line)));
        let given: Vec<Value> = answer.text().lines().map(json_or_text).collect();
        let is_silent = expected.is_empty() && is_stream && now.events(&given) == Value::Array(Vec::new());
        let given = if is_silent { String::new() } else { now.text(&answer.text()) };
        unequal_texts(&expected, &given, differences);
    }
    comparison
}

/// Whether a body is the only event of a watch.
fn is_event(body: &Value) -> bool {
    body.as_object().is_some_and(|members| {
        let is_object = members.get("object").is_some_and(Value::is_object);
        members.len() == 2 && is_object && members.get("type").is_some_and(Value::is_string)
    })
}

fn json_or_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(format!("(no JSON) {text}")))
}

fn headers(recorded: &Value, answer: &Answer, varying: &Varying<'_>) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut check = |name: &str, expected: Vec<String>, given: Vec<String>| {
        if expected != given {
            let joined = |all: Vec<String>| (!all.is_empty()).then(|| all.join("\n"));
            differences.push(Difference {
                place: format!("header {name}"),
                expected: joined(expected),
                given: joined(given),
            });
        }
    };
    let now = Known { date: Timestamp::now(), varying };
    let recorded_values = |name: &str| -> Vec<String> {
        let all = recorded[name].as_array().map_or_else(|| vec![&recorded[name]], |all| all.iter().collect());
        all.into_iter().filter_map(|one| one.as_str().map(|text| now.text(text))).collect()
    };
    let given_values = |name: &str| -> Vec<String> {
        answer.headers.get_all(name).iter().filter_map(|one| one.to_str().ok()).map(|text| now.text(text)).collect()
    };
    let media = |all: Vec<String>| all.iter().map(|text| text.replace(' ', "").to_lowercase()).collect();
    check("content-type", media(recorded_values("content-type")), media(given_values("content-type")));
    let sorted = |mut all: Vec<String>| {
        all.sort();
        all
    };
    check("warning", sorted(recorded_values("warning")), sorted(given_values("warning")));
    for name in HEADERS {
        check(name, recorded_values(name), given_values(name));
    }
    // Its value is a digest of what varies; that there is one is the promise.
    let is_there = |all: Vec<String>| all.into_iter().map(|_| "<etag>".to_owned()).collect::<Vec<_>>();
    check("etag", is_there(recorded_values("etag")), is_there(given_values("etag")));
    differences
}

/// Brings values into the form in which they are compared.
struct Known<'a> {
    date: Timestamp,
    varying: &'a Varying<'a>,
}

impl Known<'_> {
    fn events(&self, events: &[Value]) -> Value {
        let is_kept =
            |event: &&Value| event["type"] != "BOOKMARK" || event.to_string().contains("k8s.io/initial-events-end");
        events.iter().filter(is_kept).map(|event| self.value(event)).collect()
    }

    fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::Object(members) => self.object(members),
            other => other.clone(),
        }
    }

    fn object(&self, members: &Map<String, Value>) -> Value {
        let mut kept = Map::new();
        let is_of_case =
            members.get("groupVersion").is_some_and(|one| one.to_string().contains(self.varying.namespace));
        for (name, value) in members {
            let known = match (name.as_str(), value) {
                ("managedFields", _) if *WITHOUT_MANAGED_FIELDS => continue,
                ("resourceVersion", Value::String(text)) if NUMBER.is_match(text) => "<revision>".into(),
                ("continue", Value::String(text)) if !text.is_empty() => "<continue>".into(),
                ("token", Value::String(text)) if TOKEN.is_match(text) => "<jwt>".into(),
                ("expirationTimestamp", Value::String(_)) => "<time>".into(),
                ("clusterIP", Value::String(_)) => self.address(value),
                ("clusterIPs", Value::Array(all)) => all.iter().map(|one| self.address(one)).collect(),
                ("nodePort" | "healthCheckNodePort", Value::Number(port)) => {
                    if self.varying.asked.contains(&port.to_string()) { value.clone() } else { "<port>".into() }
                }
                ("cells", Value::Array(cells)) => cells.iter().map(|cell| self.cell(cell)).collect(),
                ("managedFields" | "causes" | "resourceRules", Value::Array(all)) => {
                    let mut all: Vec<Value> = all.iter().map(|one| self.value(one)).collect();
                    all.sort_by_cached_key(Value::to_string);
                    Value::Array(all)
                }
                ("groups" | "items", Value::Array(all)) => {
                    all.iter().filter(|one| !is_group_of_others(one)).map(|one| self.value(one)).collect()
                }
                ("resources", Value::Array(all)) if is_of_case => all.iter().map(|one| self.resource(one)).collect(),
                (_, value) => self.value(value),
            };
            kept.insert(self.text(name), known);
        }
        // Five letters that the server chose.
        if let (Some(Value::String(prefix)), Some(Value::String(name))) = (kept.get("generateName"), kept.get("name"))
            && name.len() == prefix.len() + 5
            && name.starts_with(prefix)
        {
            let name = format!("{prefix}<name>");
            kept.insert("name".to_owned(), name.into());
        }
        // Several mistakes come in no order, and so do several conflicts.
        if kept.get("reason").is_some_and(|reason| reason == "Invalid" || reason == "Conflict")
            && let Some(Value::String(message)) = kept.get("message")
        {
            let parts: BTreeSet<&str> = message.split([',', '[', ']', '\n']).map(str::trim).collect();
            let parts = Value::from(parts.into_iter().collect::<Vec<_>>());
            kept.insert("message".to_owned(), parts);
        }
        Value::Object(kept)
    }

    /// A resource of the case's own definitions: its hash is one of the group's name.
    fn resource(&self, resource: &Value) -> Value {
        let mut resource = self.value(resource);
        if let Some(hash) = resource.get_mut("storageVersionHash") {
            *hash = "<hash>".into();
        }
        resource
    }

    /// An address that the server chose.
    fn address(&self, value: &Value) -> Value {
        match value.as_str() {
            Some(text) if ADDRESS.is_match(text) && !self.varying.asked.contains(text) => "<address>".into(),
            _ => self.value(value),
        }
    }

    fn cell(&self, cell: &Value) -> Value {
        match cell.as_str() {
            Some(text) if AGE.is_match(text) => "<age>".into(),
            _ => self.address(cell),
        }
    }

    fn text(&self, text: &str) -> String {
        let text = UUID.replace_all(text, "<uid>");
        let text = TIME.replace_all(&text, |found: &Captures<'_>| {
            let time = &found[0];
            let is_near = time
                .parse::<Timestamp>()
                .is_ok_and(|time| (time.as_second() - self.date.as_second()).abs() < NEAR_SECONDS);
            // Whether it has fractions is part of its form.
            match (is_near, time.contains('.')) {
                (true, false) => "<time>".to_owned(),
                (true, true) => "<time.fraction>".to_owned(),
                _ => time.to_owned(),
            }
        });
        let text = REVISION.replace_all(&text, "$1<revision>");
        let text = ACCESS_VOLUME.replace_all(&text, "$1<name>");
        let text = DIGEST.replace_all(&text, "X509SHA256=<digest>");
        let text = text.replace("kubernetes-admin", "<admin>").replace("selvedge-admin", "<admin>");
        shorten_runs(text)
    }
}

fn is_group_of_others(group: &Value) -> bool {
    let name = group["name"].as_str().or_else(|| group["metadata"]["name"].as_str()).unwrap_or_default();
    name.starts_with("kt-") && name.ends_with(".example.com") && group.get("versions").is_some()
}

/// Long runs of one letter as `<x*COUNT>`.
fn shorten_runs(text: String) -> String {
    if text.len() <= RUN_MAX {
        return text;
    }
    let mut short = String::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let mut count = 1;
        while letters.next_if_eq(&letter).is_some() {
            count += 1;
        }
        if count > RUN_MAX {
            short.push_str(&format!("<{letter}*{count}>"));
        } else {
            short.extend(std::iter::repeat_n(letter, count));
        }
    }
    short
}

/// Collects the places where two values differ.
fn unequal(place: &str, recorded: &Value, given: &Value, differences: &mut Vec<Difference>) {
    let mut differ = |place: String, expected: Option<&Value>, given: Option<&Value>| {
        let text = |value: &Value| value.to_string();
        differences.push(Difference { place, expected: expected.map(text), given: given.map(text) });
    };
    match (recorded, given) {
        (Value::Object(left), Value::Object(right)) => {
            let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            for name in names {
                let place = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
                match (left.get(name), right.get(name)) {
                    (Some(left), Some(right)) => unequal(&place, left, right, differences),
                    (left, right) => {
                        let text = |value: &Value| value.to_string();
                        differences.push(Difference { place, expected: left.map(text), given: right.map(text) });
                    }
                }
            }
        }
        (Value::Array(left), Value::Array(right)) => {
            for index in 0..left.len().max(right.len()) {
                let place = format!("{place}[{index}]");
                match (left.get(index), right.get(index)) {
                    (Some(left), Some(right)) => unequal(&place, left, right, differences),
                    (left, right) => {
                        let text = |value: &Value| value.to_string();
                        differences.push(Difference { place, expected: left.map(text), given: right.map(text) });
                    }
                }
            }
        }
        _ if recorded == given => {}
        _ => differ(place.to_owned(), Some(recorded), Some(given)),
    }
}

fn unequal_texts(recorded: &str, given: &str, differences: &mut Vec<Difference>) {
    if recorded == given {
        return;
    }
    let (left, right): (Vec<&str>, Vec<&str>) = (recorded.split('\n').collect(), given.split('\n').collect());
    for line in 0..left.len().max(right.len()) {
        let (left, right) = (left.get(line), right.get(line));
        if left != right {
            differences.push(Difference {
                place: format!("line {}", line + 1),
                expected: left.map(|text| format!("{text:?}")),
                given: right.map(|text| format!("{text:?}")),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const VARYING: Varying<'_> = Varying { asked: "10.96.0.99 30080", namespace: "kt-1" };

    /// The places that differ between what was recorded and what is given now.
    fn check(recorded: Value, given: Value, places: &[&str]) {
        let then = Known { date: "2026-11-25T21:59:18Z".parse().unwrap(), varying: &VARYING };
        let now = Known { date: "2027-01-01T00:00:00Z".parse().unwrap(), varying: &VARYING };
        let mut differences = Vec::new();
        unequal("", &then.value(&recorded), &now.value(&given), &mut differences);
        let found: Vec<&str> = differences.iter().map(|one| one.place.as_str()).collect();
        assert_eq!(found, places, "{differences:?}");
    }

    #[test]
    fn what_varies_is_set_aside_and_nothing_else() {
        let object = |uid: &str, revision: &str, time: &str| {
            json!({"metadata": {"uid": uid, "resourceVersion": revision, "creationTimestamp": time,
                "managedFields": [{"fieldsV1": {format!("k:{{\"uid\":\"{uid}\"}}"): {}}}]}})
        };
        let (one, two) = ("2ac1ed97-218c-4505-971a-8d986db2cce3", "00000000-0000-0000-0000-000000000000");
        let recorded = object(one, "224", "2026-11-25T21:59:18Z");
        check(recorded.clone(), object(two, "7", "2027-01-01T00:00:09Z"), &[]);
        check(recorded.clone(), object(two, "0", "2027-01-01T00:00:09Z"), &["metadata.resourceVersion"]);
        check(recorded.clone(), object(two, "7", "2020-01-01T00:00:00Z"), &["metadata.creationTimestamp"]);
        check(recorded, object(two, "7", "2027-01-01T00:00:09.000000Z"), &["metadata.creationTimestamp"]);
        check(json!({"a": 1}), json!({"a": 1, "b": null}), &["b"]);
        check(json!({"a": [1]}), json!({"a": [1, 2]}), &["a[1]"]);
        check(json!({"name": "p-abcde", "generateName": "p-"}), json!({"name": "p-12345", "generateName": "p-"}), &[]);
        let invalid = |message: &str| json!({"reason": "Invalid", "message": message});
        check(invalid("x: [a: one, b: two]"), invalid("x: [b: two, a: one]"), &[]);
        check(invalid("x: [a: one, b: two]"), invalid("x: [a: one, b: 2]"), &["message[2]"]);
    }

    #[test]
    fn what_was_asked_for_does_not_vary() {
        let service = |address: &str, port: u16| json!({"clusterIP": address, "ports": [{"nodePort": port}]});
        check(service("10.96.4.1", 31000), service("10.96.7.8", 32000), &[]);
        check(service("10.96.0.99", 30080), service("10.96.7.8", 30080), &["clusterIP"]);
        check(service("10.96.4.1", 30080), service("10.96.7.8", 30081), &["ports[0].nodePort"]);
        // A quantity is no age.
        check(json!({"cpu": "10m", "cells": ["10m"]}), json!({"cpu": "20m", "cells": ["20m"]}), &["cpu"]);
    }

    #[test]
    fn groups_of_other_cases_are_left_out() {
        let groups = |name: &str| json!({"groups": [{"name": "apps", "versions": []}, {"name": name, "versions": []}]});
        check(groups("kt-2.example.com"), groups("kt-3.example.com"), &[]);
        check(groups("batch"), groups("kt-3.example.com"), &["groups[1]"]);
        check(json!({"a": "x".repeat(1001)}), json!({"a": "<x*1001>"}), &[]);
    }
}
