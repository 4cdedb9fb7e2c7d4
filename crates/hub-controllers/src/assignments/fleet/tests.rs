//! Tests of `fleet`: who runs what, and whom a change touches.

use std::borrow::Cow;

use api_edge::resources::EntryStatus;

use super::*;
use hub_runtime::views::Text;

fn labels<'a>(pairs: &[(&'a str, &'a str)]) -> Labels<'a> {
    let text = |text: &'a str| Text(Cow::Borrowed(text));
    Labels(pairs.iter().map(|(key, value)| (text(key), text(value))).collect())
}

fn id(kind: Kind, name: &str) -> ObjectId {
    (kind, "default".into(), name.into())
}

fn rule(generation: i64, selector: &[(&str, &str)]) -> Selected {
    let selector = selector.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    Selected { uid: "u".into(), generation, selector, bytes: 100 }
}

fn device(name: &str, created: i64) -> Device {
    Device {
        uid: name.into(),
        generation: 1,
        node: "gw-1".into(),
        profile: "host".into(),
        edgex_name: name.into(),
        created: Timestamp::from_second(created).unwrap(),
    }
}

/// Two nodes, `gw-1` on site `a` and `gw-2` on site `b`, and the profile `host`.
fn fleet() -> Fleet {
    let (mut fleet, mut touched) = (Fleet::default(), Touched::default());
    fleet.put_node("gw-1", &labels(&[("site", "a")]), &mut touched);
    fleet.put_node("gw-2", &labels(&[("site", "b")]), &mut touched);
    fleet.put_profile("host", 1, &mut touched);
    fleet
}

/// As the controller does when a selector is new.
fn put(fleet: &mut Fleet, name: &str, spec: Selected) -> Touched {
    let mut touched = Touched::default();
    if fleet.put_selected(&id(Kind::Rule, name), spec, &mut touched) {
        fleet.put_node("gw-1", &labels(&[("site", "a")]), &mut touched);
        fleet.put_node("gw-2", &labels(&[("site", "b")]), &mut touched);
    }
    touched
}

fn on(fleet: &Fleet, node: &str) -> Vec<String> {
    fleet.on_node(node).iter().map(|(kind, _, name)| format!("{}/{name}", kind.name())).collect()
}

fn problem(fleet: &Fleet, id: &ObjectId) -> Option<&'static str> {
    fleet.of_object(id).unwrap().problem.map(|problem| problem.reason)
}

fn touched_nodes(touched: &Touched) -> Vec<&str> {
    touched.nodes.iter().map(|node| &**node).collect()
}

#[test]
fn a_selector_finds_its_nodes() {
    let mut fleet = fleet();
    assert_eq!(touched_nodes(&put(&mut fleet, "all", rule(1, &[]))), ["gw-1", "gw-2"]);
    assert_eq!(touched_nodes(&put(&mut fleet, "only-b", rule(1, &[("site", "b")]))), ["gw-2"]);
    assert_eq!(touched_nodes(&put(&mut fleet, "none", rule(1, &[("site", "b"), ("x", "y")]))), [""; 0]);
    assert_eq!(on(&fleet, "gw-1"), ["Rule/all"]);
    assert_eq!(on(&fleet, "gw-2"), ["Rule/all", "Rule/only-b"]);
    assert_eq!(problem(&fleet, &id(Kind::Rule, "none")), Some("NoMatchingNode"));
    // The same again touches nobody; a new spec touches its nodes; a new selector moves it.
    assert_eq!(put(&mut fleet, "only-b", rule(1, &[("site", "b")])), Touched::default());
    assert_eq!(touched_nodes(&put(&mut fleet, "only-b", rule(2, &[("site", "b")]))), ["gw-2"]);
    assert_eq!(touched_nodes(&put(&mut fleet, "only-b", rule(3, &[("site", "a")]))), ["gw-1", "gw-2"]);
    assert_eq!((on(&fleet, "gw-1").len(), on(&fleet, "gw-2").len()), (2, 1));
    let mut touched = Touched::default();
    fleet.remove_object(&id(Kind::Rule, "only-b"), &mut touched);
    assert_eq!((touched_nodes(&touched), on(&fleet, "gw-1").len()), (vec!["gw-1"], 1));
}

#[test]
fn one_label_of_one_of_two_thousand_nodes_evaluates_that_node_alone() {
    let (mut fleet, mut touched) = (Fleet::default(), Touched::default());
    for index in 0..20 {
        let site = format!("site-{index}");
        fleet.put_selected(&id(Kind::Rule, &format!("r{index}")), rule(1, &[("site", site.as_str())]), &mut touched);
    }
    for node in 0..2000 {
        let site = format!("site-{}", node % 20);
        fleet.put_node(&format!("gw-{node}"), &labels(&[("site", site.as_str()), ("arch", "arm64")]), &mut touched);
    }
    let before = fleet.evaluations();
    let mut touched = Touched::default();
    fleet.put_node("gw-7", &labels(&[("site", "site-8"), ("arch", "arm64")]), &mut touched);
    assert_eq!(fleet.evaluations() - before, 1);
    assert_eq!(touched_nodes(&touched), ["gw-7"]);
    assert_eq!(touched.objects, [id(Kind::Rule, "r7"), id(Kind::Rule, "r8")].into());
    // A label that no selector speaks of touches nobody.
    let mut touched = Touched::default();
    fleet.put_node("gw-7", &labels(&[("site", "site-8"), ("note", "x")]), &mut touched);
    assert_eq!(touched, Touched::default());
}

#[test]
fn a_device_brings_its_profile_once_and_before_it() {
    let (mut fleet, mut touched) = (fleet(), Touched::default());
    fleet.put_device(&id(Kind::Device, "d2"), device("d2", 0), &mut touched);
    fleet.put_device(&id(Kind::Device, "d1"), device("d1", 0), &mut touched);
    put(&mut fleet, "all", rule(1, &[]));
    assert_eq!(on(&fleet, "gw-1"), ["DeviceProfile/host", "Device/d1", "Device/d2", "Rule/all"]);
}

#[test]
fn of_two_devices_of_one_name_the_older_stays() {
    let (mut fleet, mut touched) = (fleet(), Touched::default());
    let (younger, older) = (id(Kind::Device, "a-younger"), id(Kind::Device, "older"));
    let named = |created| Device { edgex_name: "Press".into(), ..device(&format!("u{created}"), created) };
    fleet.put_device(&younger, named(2), &mut touched);
    assert_eq!(problem(&fleet, &younger), None);
    fleet.put_device(&older, named(1), &mut touched);
    assert_eq!((problem(&fleet, &younger), problem(&fleet, &older)), (Some("NameClash"), None));
    let mut touched = Touched::default();
    fleet.remove_object(&older, &mut touched);
    assert_eq!(problem(&fleet, &younger), None);
    assert!(touched.objects.contains(&younger) && touched_nodes(&touched) == ["gw-1"]);
}

#[test]
fn a_device_without_profile_or_node_says_so_until_they_come() {
    let (mut fleet, mut touched) = (Fleet::default(), Touched::default());
    let one = id(Kind::Device, "one");
    fleet.put_device(&one, device("one", 0), &mut touched);
    assert_eq!(problem(&fleet, &one), Some("NodeNotFound"));
    fleet.put_node("gw-1", &labels(&[]), &mut touched);
    assert_eq!(problem(&fleet, &one), Some("ProfileNotFound"));
    let mut touched = Touched::default();
    fleet.put_profile("host", 1, &mut touched);
    assert_eq!((problem(&fleet, &one), touched_nodes(&touched)), (None, vec!["gw-1"]));
    let mut touched = Touched::default();
    fleet.put_profile("host", 2, &mut touched);
    assert_eq!(touched_nodes(&touched), ["gw-1"], "a node hears of its profiles' changes");
    fleet.remove_node("gw-1", &mut touched);
    assert_eq!(problem(&fleet, &one), Some("NodeNotFound"));
}

#[test]
fn a_report_counts_for_the_object_it_was_made_of() {
    let (mut fleet, mut touched) = (fleet(), Touched::default());
    let all = id(Kind::Rule, "all");
    // Reports may come before the object they are about: after a start everything comes in some order.
    let report = |generation| Report::of(&EntryStatus { generation, ..EntryStatus::default() }, true);
    fleet.put_report("gw-1", "gw-1", vec![("u".into(), all.clone(), report(1))], &mut touched);
    put(&mut fleet, "all", rule(1, &[]));
    let reported = |fleet: &Fleet| -> Vec<(String, bool)> {
        let standing = fleet.of_object(&id(Kind::Rule, "all")).unwrap();
        standing.nodes.iter().map(|(node, report)| ((*node).to_owned(), report.is_some())).collect()
    };
    assert_eq!(reported(&fleet), [("gw-1".to_owned(), true), ("gw-2".to_owned(), false)]);
    let mut touched = Touched::default();
    fleet.put_report("gw-1", "gw-1", vec![("u".into(), all.clone(), report(1))], &mut touched);
    assert_eq!(touched, Touched::default(), "the same again is no news");
    put(&mut fleet, "all", Selected { uid: "another".into(), ..rule(1, &[]) });
    assert_eq!(reported(&fleet), [("gw-1".to_owned(), false), ("gw-2".to_owned(), false)]);
    fleet.remove_report("gw-1", &mut touched);
    assert!(fleet.reports.is_empty() && fleet.reported.is_empty());
}

#[test]
fn an_object_that_moves_to_another_part_keeps_its_report() {
    let (mut fleet, mut touched) = (fleet(), Touched::default());
    let all = id(Kind::Rule, "all");
    put(&mut fleet, "all", rule(1, &[("site", "a")]));
    let entry = EntryStatus { generation: 1, ..EntryStatus::default() };
    let report = || vec![(Arc::from("u"), all.clone(), Report::of(&entry, true))];
    let is_reported = |fleet: &Fleet| fleet.of_object(&all).unwrap().nodes[0].1.is_some();
    for (from, to) in [("gw-1", "gw-1.part-1"), ("gw-1.part-1", "gw-1")] {
        fleet.put_report(from, "gw-1", report(), &mut touched);
        fleet.put_report(to, "gw-1", report(), &mut touched);
        fleet.put_report(from, "gw-1", Vec::new(), &mut touched);
        assert!(is_reported(&fleet), "from {from} to {to}");
    }
    // A part that is deleted takes nothing of another along, and the last one everything.
    fleet.put_report("gw-1.part-1", "gw-1", report(), &mut touched);
    fleet.remove_report("gw-1.part-1", &mut touched);
    assert!(is_reported(&fleet));
    // Another node's part is none of this one's.
    fleet.put_report("gw-2", "gw-2", report(), &mut touched);
    fleet.remove_report("gw-1", &mut touched);
    assert!(!is_reported(&fleet));
}

#[test]
fn a_node_out_of_reach_touches_the_objects_on_it_once() {
    let mut fleet = fleet();
    put(&mut fleet, "all", rule(1, &[]));
    put(&mut fleet, "only-b", rule(1, &[("site", "b")]));
    fleet.put_device(&id(Kind::Device, "d"), device("d", 1), &mut Touched::default());
    let mut set = |is_unreachable| {
        let mut touched = Touched::default();
        fleet.set_unreachable("gw-1", is_unreachable, &mut touched);
        assert!(touched.nodes.is_empty(), "no assignment differs");
        let objects = touched.objects.iter().map(|(_, _, name)| name.to_string()).collect::<Vec<_>>();
        let unreachable = fleet.of_object(&id(Kind::Rule, "all")).unwrap().unreachable.len();
        (objects, unreachable)
    };
    let on_it = vec!["d".to_owned(), "all".to_owned()];
    assert_eq!(set(true), (on_it.clone(), 1));
    assert_eq!(set(true), (vec![], 1));
    assert_eq!(set(false), (on_it, 0));
    assert_eq!(set(false), (vec![], 0));
}

#[test]
fn a_namespace_places_a_bounded_number_of_bytes_on_nodes() {
    let mut fleet = fleet();
    let large = |mib: usize, selector: &[(&str, &str)]| Selected { bytes: mib << 20, ..rule(1, selector) };
    put(&mut fleet, "a", large(20, &[]));
    assert_eq!(fleet.of_object(&id(Kind::Rule, "a")).unwrap().nodes.len(), 2);
    // 40 of 64 MiB are placed: the second is held back from the node for which there is no space.
    put(&mut fleet, "b", large(20, &[]));
    assert_eq!(problem(&fleet, &id(Kind::Rule, "b")), Some("NamespaceTooLarge"));
    assert_eq!(
        (on(&fleet, "gw-1"), on(&fleet, "gw-2")),
        (vec!["Rule/a".into(), "Rule/b".into()], vec!["Rule/a".into()])
    );
    // Another namespace has its own.
    let other: ObjectId = (Kind::Rule, "other".into(), "c".into());
    let mut touched = Touched::default();
    assert!(fleet.put_selected(&other, large(20, &[("site", "b")]), &mut touched));
    fleet.put_node("gw-2", &labels(&[("site", "b")]), &mut touched);
    assert_eq!(problem(&fleet, &other), None);
    // One that grows beyond the bound is placed anew, as far as it may be.
    assert!(!put(&mut fleet, "a", large(21, &[])).nodes.is_empty());
    assert_eq!(fleet.of_object(&id(Kind::Rule, "a")).unwrap().nodes.len(), 2);
    put(&mut fleet, "a", large(40, &[]));
    assert_eq!(problem(&fleet, &id(Kind::Rule, "a")), Some("NamespaceTooLarge"));
    // What is deleted makes space for what was held back.
    let mut touched = Touched::default();
    fleet.remove_object(&id(Kind::Rule, "a"), &mut touched);
    assert!(fleet.take_space_again());
    fleet.put_node("gw-1", &labels(&[("site", "a")]), &mut touched);
    fleet.put_node("gw-2", &labels(&[("site", "b")]), &mut touched);
    assert!(!fleet.take_space_again());
    assert_eq!(problem(&fleet, &id(Kind::Rule, "b")), None);
    assert_eq!(on(&fleet, "gw-2"), ["Rule/b", "Rule/c"]);
    assert!(touched.nodes.contains("gw-2") && touched.objects.contains(&id(Kind::Rule, "b")));
}
