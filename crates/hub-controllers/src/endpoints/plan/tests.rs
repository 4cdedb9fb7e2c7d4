//! Tests of `plan`: which endpoints and slices there are, as data.

use std::collections::BTreeSet;

use super::*;

fn endpoint(name: &str) -> Endpoint {
    Endpoint {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        addresses: vec!["10.0.0.1".to_owned(), "fd00::1".to_owned()],
        node: "gw-1".to_owned(),
        is_ready: true,
        named_ports: vec![("web".to_owned(), "TCP".to_owned(), 8080)],
        ..Endpoint::default()
    }
}

fn ports(json: &'static str) -> Vec<PortView<'static>> {
    serde_json::from_str(json).unwrap()
}

const NAMED: &str = r#"[{"name": "http", "port": 80, "targetPort": "web"}]"#;

fn groups(endpoints: &[Endpoint]) -> Vec<Group> {
    group(endpoints, &ports(NAMED), &[Family::V4], false, false)
}

/// What is stored once a plan was carried out.
fn stored(plan: Plan) -> Vec<Slice> {
    let stored = plan.write.into_iter().map(|slice| Slice { revision: "1".to_owned(), is_changed: false, ..slice });
    stored.collect()
}

fn sizes(slices: &[Slice]) -> Vec<usize> {
    slices.iter().map(|slice| slice.endpoints.len()).collect()
}

#[test]
fn an_endpoint_says_whether_it_serves() {
    let check = |is_ready, is_terminating, publish, expected: [bool; 3]| {
        let endpoint = Endpoint { is_ready, is_terminating, ..endpoint("a") };
        let conditions = endpoint.to_json(Family::V4, publish).unwrap()["conditions"].clone();
        let [ready, serving, terminating] = expected;
        assert_eq!(conditions, json!({"ready": ready, "serving": serving, "terminating": terminating}));
    };
    check(true, false, false, [true, true, false]);
    check(false, false, false, [false, false, false]);
    check(true, true, false, [false, true, true]);
    check(false, true, true, [true, false, true]);
}

#[test]
fn a_port_is_found_by_its_name_in_the_pod() {
    let of = |json, endpoint: &Endpoint| Ports::of(&ports(json), endpoint).to_json();
    let a = endpoint("a");
    assert_eq!(of(NAMED, &a), json!([{"name": "http", "protocol": "TCP", "port": 8080}]));
    assert_eq!(of(r#"[{"port": 80}]"#, &a), json!([{"name": "", "protocol": "TCP", "port": 80}]));
    assert_eq!(of(r#"[{"port": 80, "targetPort": 81, "protocol": "UDP"}]"#, &a)[0]["port"], 81);
    assert_eq!(of(r#"[{"port": 80, "targetPort": "web", "protocol": "UDP"}]"#, &a), json!([]), "another protocol");
    assert_eq!(of(r#"[{"port": 80, "targetPort": 70000}]"#, &a), json!([]));
}

#[test]
fn pods_with_other_ports_are_in_other_slices() {
    let other = Endpoint { named_ports: vec![("web".to_owned(), "TCP".to_owned(), 9090)], ..endpoint("b") };
    let unknown = Endpoint { named_ports: Vec::new(), ..endpoint("c") };
    let groups = groups(&[endpoint("a"), other, unknown]);
    let plan = plan("web", &[], groups);
    assert_eq!(sizes(&plan.write), [1, 1], "and one that does not know the port is in none");
}

#[test]
fn each_family_has_its_slices() {
    let v4 = Endpoint { addresses: vec!["10.0.0.2".to_owned()], ..endpoint("b") };
    let groups = group(&[endpoint("a"), v4], &ports(NAMED), &[Family::V4, Family::V6], false, false);
    let plan = plan("web", &[], groups);
    let found: Vec<(Family, usize)> = plan.write.iter().map(|slice| (slice.family, slice.endpoints.len())).collect();
    assert_eq!(found, [(Family::V4, 2), (Family::V6, 1)]);
}

#[test]
fn nobody_is_one_empty_slice() {
    let first = plan("web", &[], groups(&[]));
    assert_eq!((sizes(&first.write), first.write[0].ports.to_json()), (vec![0], json!([])));
    let again = plan("web", &stored(first), groups(&[]));
    assert!(!again.write[0].is_changed && again.delete.is_empty());
    let somebody = plan("web", &stored(again), groups(&[endpoint("a")]));
    assert_eq!((sizes(&somebody.write), somebody.delete.len()), (vec![1], 1), "the placeholder is deleted");
}

#[test]
fn a_pod_that_changes_changes_its_slice_alone() {
    let mut endpoints: Vec<Endpoint> = (0..250).map(|number| endpoint(&format!("p-{number:03}"))).collect();
    let first = plan("web", &[], groups(&endpoints));
    assert_eq!(sizes(&first.write), [100, 100, 50]);
    let names: BTreeSet<&str> = first.write.iter().map(|slice| &*slice.name).collect();
    assert_eq!(names.len(), 3);
    let held = stored(first);

    endpoints[120].is_ready = false;
    let second = plan("web", &held, groups(&endpoints));
    assert_eq!(second.write.iter().map(|slice| slice.is_changed).collect::<Vec<_>>(), [false, true, false]);

    // One less, and one more, which takes its place.
    endpoints.remove(0);
    endpoints.push(endpoint("z"));
    let third = plan("web", &stored(second), groups(&endpoints));
    assert_eq!(third.write.iter().map(|slice| slice.is_changed).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(sizes(&third.write), [100, 100, 50]);
}

#[test]
fn slices_that_are_empty_are_deleted() {
    let endpoints: Vec<Endpoint> = (0..150).map(|number| endpoint(&format!("p-{number:03}"))).collect();
    let held = stored(plan("web", &[], groups(&endpoints)));
    let fewer = plan("web", &held, groups(&endpoints[100..]));
    assert_eq!((sizes(&fewer.write), fewer.delete.len()), (vec![50], 1));
    let none = plan("web", &stored(fewer), groups(&[]));
    assert_eq!((sizes(&none.write), none.delete.len()), (vec![0], 1), "another takes the place of the last");
}

#[test]
fn who_is_in_two_slices_is_in_one_then() {
    let held = stored(plan("web", &[], groups(&[endpoint("a")])));
    let mut twice = held.clone();
    twice.push(Slice { name: "web-other".to_owned(), ..held[0].clone() });
    let plan = plan("web", &twice, groups(&[endpoint("a")]));
    assert_eq!((sizes(&plan.write), plan.delete.len()), (vec![1], 1));
}

#[test]
fn an_endpoints_object_has_the_same_in_its_own_form() {
    let waiting = Endpoint { is_ready: false, hostname: Some("b".to_owned()), ..endpoint("b") };
    let leaving = Endpoint { is_terminating: true, ..endpoint("c") };
    let found = subsets(&[endpoint("a"), waiting, leaving], &ports(r#"[{"port": 80}]"#), false, false);
    let target = |name: &str| json!({"kind": "Pod", "namespace": "shop", "name": name, "uid": format!("uid-{name}")});
    let expected = json!([{
        "addresses": [{"ip": "10.0.0.1", "nodeName": "gw-1", "targetRef": target("a")}],
        "notReadyAddresses": [{"ip": "10.0.0.1", "hostname": "b", "nodeName": "gw-1", "targetRef": target("b")}],
        "ports": [{"protocol": "TCP", "port": 80}],
    }]);
    assert_eq!(Value::from(found), expected);
    assert!(subsets(&[endpoint("a")], &[], false, false).is_empty(), "nobody is reached where no port is");
    assert_eq!(subsets(&[endpoint("a")], &[], true, false).len(), 1);
}

#[test]
fn only_addresses_that_others_reach_are_endpoints() {
    for (address, expected) in [
        ("10.39.0.2", true),
        ("fd00::2", true),
        ("127.0.0.1", false),
        ("::1", false),
        ("169.254.1.1", false),
        ("fe80::1", false),
        ("0.0.0.0", false),
        ("224.0.0.1", false),
        ("nowhere", false),
        ("", false),
    ] {
        assert_eq!(is_reachable(address), expected, "{address}");
    }
}

#[test]
fn so_many_addresses_are_mirrored() {
    let addresses =
        |range: std::ops::Range<u32>| range.map(|at| json!({"ip": format!("10.0.0.{at}")})).collect::<Vec<_>>();
    let both = json!({"ip": "fd00::1", "nodeName": "gw-1", "hostname": "a"});
    let mut listed = addresses(1..4);
    listed.push(both.clone());
    // One address twice is one endpoint.
    listed.push(json!({"ip": "10.0.0.1"}));
    let subsets = json!([{"addresses": listed, "notReadyAddresses": addresses(4..6), "ports": [{"port": 80}]}]);
    let (groups, is_over) = mirrored(&subsets, 10);
    assert!(!is_over);
    assert_eq!(
        groups.iter().map(|group| (group.family, group.endpoints.len())).collect::<Vec<_>>(),
        [(Family::V4, 5), (Family::V6, 1)]
    );
    assert_eq!(groups[1].endpoints[0]["nodeName"], "gw-1");
    let (groups, is_over) = mirrored(&subsets, 3);
    assert!(is_over);
    assert_eq!(groups.iter().map(|group| group.endpoints.len()).sum::<usize>(), 3);
    assert!(mirrored(&Value::Null, 3).0.is_empty());
}
