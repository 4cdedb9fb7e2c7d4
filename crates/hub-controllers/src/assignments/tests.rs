//! Tests of `assignments`: its decisions, as data.

use super::*;

fn objects(list: &[Value]) -> Objects {
    let entry = |object: &Value| {
        let (namespace, name) = key(object);
        ((namespace.to_owned(), name.to_owned()), Arc::new(object.clone()))
    };
    Arc::new(list.iter().map(entry).collect())
}

fn node(name: &str, site: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"site": site}}})
}

fn device(name: &str, edgex_name: &str, created: &str) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": name, "uid": name, "generation": 1, "creationTimestamp": created},
        "spec": {"nodeName": "gw-1", "profileName": "host", "name": edgex_name},
    })
}

fn rule(name: &str, selector: Value) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": name, "uid": name, "generation": 2},
        "spec": {"nodeSelector": selector, "sql": "SELECT 1 FROM s"},
    })
}

fn fleet(devices: &[Value], rules: &[Value]) -> Fleet {
    Fleet {
        nodes: objects(&[node("gw-1", "a"), node("gw-2", "b")]),
        profiles: objects(&[json!({"metadata": {"name": "host", "generation": 1}, "spec": {}})]),
        devices: objects(devices),
        spread: [(Kind::Stream, objects(&[])), (Kind::Rule, objects(rules)), (Kind::Export, objects(&[]))],
    }
}

/// `kind/name` of what each node should run.
fn check(fleet: &Fleet, expected: &[(&str, &[&str])], problems: &[(&str, &str)]) {
    let resolved = resolve(fleet);
    let given: Vec<(&str, Vec<String>)> = resolved
        .by_node
        .iter()
        .map(|(node, entries)| {
            (node.as_str(), entries.iter().map(|entry| format!("{}/{}", entry.kind, entry.name)).collect())
        })
        .collect();
    let expected: Vec<(&str, Vec<String>)> = expected
        .iter()
        .map(|(node, entries)| (*node, entries.iter().map(|entry| (*entry).to_owned()).collect()))
        .collect();
    assert_eq!(given, expected);
    let found: Vec<(&str, &str)> =
        resolved.problems.iter().map(|((_, _, name), problem)| (name.as_str(), problem.reason)).collect();
    assert_eq!(found, problems);
}

#[test]
fn a_device_brings_its_profile_once() {
    let two = [device("d1", "One", "2026-01-01T00:00:00Z"), device("d2", "Two", "2026-01-01T00:00:00Z")];
    check(&fleet(&two, &[]), &[("gw-1", &["DeviceProfile/host", "Device/d1", "Device/d2"])], &[]);
}

#[test]
fn a_selector_spreads_a_rule() {
    let rules = [rule("all", json!({})), rule("only-b", json!({"site": "b"})), rule("none", json!({"site": "c"}))];
    check(
        &fleet(&[], &rules),
        &[("gw-1", &["Rule/all"]), ("gw-2", &["Rule/all", "Rule/only-b"])],
        &[("none", "NoMatchingNode")],
    );
}

#[test]
fn of_two_devices_of_one_name_the_older_stays() {
    let two = [device("a-younger", "Press", "2026-01-02T00:00:00Z"), device("older", "Press", "2026-01-01T00:00:00Z")];
    check(&fleet(&two, &[]), &[("gw-1", &["DeviceProfile/host", "Device/older"])], &[("a-younger", "NameClash")]);
}

#[test]
fn a_device_without_profile_or_node_says_so() {
    let mut lost = device("lost", "", "2026-01-01T00:00:00Z");
    lost["spec"]["nodeName"] = json!("gw-9");
    let mut odd = device("odd", "", "2026-01-01T00:00:00Z");
    odd["spec"]["profileName"] = json!("hots");
    check(&fleet(&[lost, odd], &[]), &[], &[("lost", "NodeNotFound"), ("odd", "ProfileNotFound")]);
}

#[test]
fn what_is_on_its_way_out_is_not_assigned() {
    let mut leaving = rule("leaving", json!({}));
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    check(&fleet(&[], &[leaving]), &[], &[]);
}

#[test]
fn a_large_assignment_comes_in_parts() {
    let entry = |at: usize| AssignmentEntry {
        name: format!("r{at}"),
        spec: json!({"sql": "x".repeat(60 * 1024)}),
        ..AssignmentEntry::default()
    };
    let entries: Vec<AssignmentEntry> = (0..10).map(entry).collect();
    let parts = parts("gw-1", &entries);
    assert!(parts.len() > 1);
    assert_eq!(parts.iter().flat_map(|part| part.entries.clone()).collect::<Vec<_>>(), entries);
    for (at, part) in parts.iter().enumerate() {
        assert_eq!((part.part as usize, part.parts as usize), (at, parts.len()));
        assert!(serde_json::to_vec(part).unwrap().len() <= ASSIGNMENT_PART_BYTES_MAX);
    }
    assert_eq!((part_name("gw-1", 0), part_name("gw-1", 2)), ("gw-1".to_owned(), "gw-1.part-2".to_owned()));
    assert_eq!(super::parts("gw-1", &[]).len(), 1);
}
