mod properties;

use std::collections::BTreeMap;

use machinery_schema::Budget;
use serde_json::{Value, json};

use super::*;
use crate::tests::openapi::{Kind, data};

#[derive(Default)]
struct Count {
    equal: usize,
    differing: Vec<String>,
}

/// Runs recorded writes of a topic on objects alone: each begins from what the server had answered before.
fn replay(topic: &str) -> Count {
    let text = data(&format!("recorded/{topic}.jsonl.gz"));
    let mut count = Count::default();
    let mut stored: BTreeMap<(String, String), Value> = BTreeMap::new();
    for line in text.lines() {
        let step: Value = serde_json::from_str(line).expect("a case is JSON");
        let name = format!("{topic}/{}/{}", step["case"].as_str().unwrap_or_default(), step["step"]);
        check_step(&step, &name, &mut stored, &mut count);
    }
    count
}

fn check_step(step: &Value, name: &str, stored: &mut BTreeMap<(String, String), Value>, count: &mut Count) {
    let request = &step["request"];
    let (method, path) = (request["method"].as_str().unwrap_or_default(), request["path"].as_str().unwrap_or_default());
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let status = step["response"]["status"].as_u64().unwrap_or_default();
    let answer = &step["response"]["body"];
    let case = step["case"].as_str().unwrap_or_default().to_owned();
    let object_path = |object: &Value, path: &str| {
        let named = format!("/{}", object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default());
        if path.ends_with(&named) { path.to_owned() } else { format!("{path}{named}") }
    };
    let is_apply = method == "PATCH"
        && request.pointer("/headers/Content-Type").and_then(Value::as_str) == Some("application/apply-patch+yaml");
    let (base, subresource) = match path.rsplit_once('/') {
        Some((base, "status")) => (base.to_owned(), "status"),
        _ => (path.to_owned(), ""),
    };
    let is_dry = query.contains("dryRun");
    let parameter = |sought: &str| {
        let found = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == sought);
        found.map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    if is_apply
        && request.get("body").is_some()
        && !parameter("fieldManager").is_empty()
        && !query.contains("fieldManager=xx")
    {
        check_apply(step, name, &base, subresource, stored, count, &parameter);
    } else if matches!(method, "POST" | "PUT" | "PATCH") && status < 300 && answer.pointer("/metadata/uid").is_some() {
        check_update(step, name, &object_path(answer, &base), subresource, stored, count, &parameter);
    }
    if status < 300
        && !is_dry
        && matches!(method, "POST" | "PUT" | "PATCH" | "GET")
        && answer.pointer("/metadata/uid").is_some()
        && answer["kind"] != "Scale"
    {
        stored.insert((case.clone(), object_path(answer, &base)), answer.clone());
    }
    if method == "DELETE" {
        stored.remove(&(case, base));
    }
}

fn check_apply(
    step: &Value,
    name: &str,
    path: &str,
    subresource: &str,
    stored: &BTreeMap<(String, String), Value>,
    count: &mut Count,
    parameter: &dyn Fn(&str) -> String,
) {
    let config = &step["request"]["body"];
    let answer = &step["response"]["body"];
    let status = step["response"]["status"].as_u64().unwrap_or_default();
    let case = step["case"].as_str().unwrap_or_default().to_owned();
    let live = stored.get(&(case, path.to_owned()));
    let sample = if status < 300 { answer } else { live.unwrap_or(config) };
    let version = json!({"apiVersion": sample["apiVersion"], "kind": sample["kind"]});
    let Some(kind) = Kind::of(&version, subresource) else { return };
    let (live, managed) = match live {
        Some(live) => {
            let mut live = live.clone();
            live["apiVersion"] = sample["apiVersion"].clone();
            let managed = Managed::decode(live.pointer("/metadata/managedFields")).expect("the server's own");
            live["metadata"].as_object_mut().expect("metadata").remove("managedFields");
            (live, managed)
        }
        None => (kind.empty_object(), Managed::default()),
    };
    let outcome = kind.manager(subresource).apply(
        &live,
        &managed,
        config,
        &parameter("fieldManager"),
        parameter("force") == "true",
        "2026-11-26T00:00:00Z",
        &mut Budget::of_request(),
    );
    match outcome {
        Ok(applied) if status < 300 => compare_managed(name, &applied.managed, answer, count),
        // What follows the apply itself may reject it still.
        Ok(_)
            if !answer["message"].as_str().unwrap_or_default().starts_with("Apply failed")
                && !answer["message"].as_str().unwrap_or_default().starts_with("failed to") => {}
        Ok(_) => count.differing.push(format!("{name}: applied, but should be {}", answer["message"])),
        Err(error) => {
            let mut ours: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
            let mut theirs: Vec<String> =
                answer["message"].as_str().unwrap_or_default().lines().map(str::to_owned).collect();
            ours.sort();
            theirs.sort();
            if ours == theirs {
                count.equal += 1;
            } else {
                count.differing.push(format!("{name}: {error}\n      not {}", answer["message"]));
            }
        }
    }
}

fn check_update(
    step: &Value,
    name: &str,
    path: &str,
    subresource: &str,
    stored: &BTreeMap<(String, String), Value>,
    count: &mut Count,
    parameter: &dyn Fn(&str) -> String,
) {
    let answer = &step["response"]["body"];
    let case = step["case"].as_str().unwrap_or_default().to_owned();
    let Some(kind) = Kind::of(answer, subresource) else { return };
    let (live, managed) = match stored.get(&(case, path.to_owned())) {
        Some(live) => {
            let mut live = live.clone();
            live["apiVersion"] = answer["apiVersion"].clone();
            let managed = Managed::decode(live.pointer("/metadata/managedFields")).expect("the server's own");
            live["metadata"].as_object_mut().expect("metadata").remove("managedFields");
            (live, managed)
        }
        None => (kind.empty_object(), Managed::default()),
    };
    let mut new = answer.clone();
    let metadata = new["metadata"].as_object_mut().expect("metadata");
    match step.pointer("/request/body/metadata/managedFields") {
        Some(sent) => drop(metadata.insert("managedFields".to_owned(), sent.clone())),
        None => drop(metadata.remove("managedFields")),
    }
    let manager = match parameter("fieldManager") {
        manager if manager.is_empty() => {
            let agent = step.pointer("/request/headers/User-Agent").and_then(Value::as_str);
            manager_of_user_agent(agent.unwrap_or("kube-cases/1.0"))
        }
        manager => manager,
    };
    let managed = kind
        .manager(subresource)
        .update(&live, &managed, &mut new, &manager, "2026-11-26T00:00:00Z", &mut Budget::of_request())
        .expect("recorded objects are small");
    compare_managed(name, &managed, answer, count);
}

fn compare_managed(name: &str, managed: &Managed, answer: &Value, count: &mut Count) {
    let strip = |entries: Option<&Value>| -> Vec<Value> {
        let mut entries = entries.and_then(Value::as_array).cloned().unwrap_or_default();
        for entry in &mut entries {
            entry.as_object_mut().expect("an entry").remove("time");
        }
        entries.sort_by_key(ToString::to_string);
        entries
    };
    let (ours, theirs) = (strip(managed.to_value().as_ref()), strip(answer.pointer("/metadata/managedFields")));
    if ours == theirs {
        count.equal += 1;
        return;
    }
    let mut text = format!("{name}:");
    for entry in ours.iter().filter(|entry| !theirs.contains(entry)) {
        text.push_str(&format!("\n   ours   {entry}"));
    }
    for entry in theirs.iter().filter(|entry| !ours.contains(entry)) {
        text.push_str(&format!("\n   theirs {entry}"));
    }
    count.differing.push(text);
}

/// Runs a topic; `but` names steps whose answer says more than objects do.
fn check_topic(topic: &str, at_least: usize, but: &[&str]) {
    let count = replay(topic);
    let others: Vec<&String> = count
        .differing
        .iter()
        .filter(|line| !but.iter().any(|but| line.starts_with(&format!("{topic}/{but}"))))
        .collect();
    assert!(others.is_empty(), "{others:#?}");
    assert!(count.equal >= at_least, "only {} steps of {topic} were tried", count.equal);
}

#[test]
fn recorded_applies_give_the_same_owners_and_conflicts() {
    // `lists-by-key` begins with YAML, which only the server reads; `versions` needs the conversion between versions.
    check_topic("apply", 260, &["lists-by-key/1:", "lists-by-key/2:", "versions/"]);
}

#[test]
fn recorded_patches_give_the_same_owners() {
    // What the server fills in after the owners are known (addresses of services, tolerations), and `scale`.
    check_topic("patch", 39, &["json-patch-lists/1:", "strategic-services/1:", "kubectl-verbs/8:", "kubectl-verbs/9:"]);
}

#[test]
fn the_owner_of_a_scale_is_split_from_that_of_its_workload() {
    let path = vec![crate::PathElement::field("spec"), crate::PathElement::field("replicas")];
    let replicas = |version: &str| (version == "apps/v1").then(|| path.clone());
    let entry = |operation: &str, fields: Value| {
        json!([{"manager": "m", "operation": operation, "apiVersion": "apps/v1", "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": fields}])
    };
    let fields = json!({"f:spec": {"f:replicas": {}, "f:selector": {}}});
    let scale_entry = |api_version: &str, subresource: &str, operation: &str| {
        let mut entry = json!({"manager": "m", "operation": operation, "apiVersion": api_version,
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}}});
        if !subresource.is_empty() {
            entry["subresource"] = subresource.into();
        }
        entry
    };
    // Who applies keeps its own while nobody takes it.
    let applied = Managed::decode(Some(&entry("Apply", fields.clone()))).expect("it is whole");
    let scale = applied.to_scale(&replicas);
    let mut expected = scale_entry("autoscaling/v1", "", "Apply");
    expected["time"] = "2026-01-01T00:00:00Z".into();
    assert_eq!(scale.to_value(), Some(json!([expected])));
    assert_eq!(applied.with_scale(&scale, "apps/v1", &replicas), applied);
    // Another took the number through the scale.
    let taken = Managed::decode(Some(&json!([scale_entry("autoscaling/v1", "scale", "Update")]))).expect("it is whole");
    let split = applied.with_scale(&taken, "apps/v1", &replicas);
    let mut rest = entry("Apply", json!({"f:spec": {"f:selector": {}}}));
    rest.as_array_mut().expect("a list").push(scale_entry("apps/v1", "scale", "Update"));
    assert_eq!(split.to_value(), Some(rest));
    // Nobody owns it any more.
    let left = applied.with_scale(&Managed::default(), "apps/v1", &replicas);
    assert_eq!(left.to_value(), Some(entry("Apply", json!({"f:spec": {"f:selector": {}}}))));
}
