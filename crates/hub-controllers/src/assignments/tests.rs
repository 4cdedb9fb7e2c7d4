//! Tests of `assignments`: its decisions, as data.

use super::*;

#[test]
fn a_large_assignment_comes_in_parts() {
    let entry = |at: usize| AssignmentEntry {
        name: format!("r{at}"),
        spec: json!({"sql": "x".repeat(60 * 1024)}),
        ..AssignmentEntry::default()
    };
    let entries: Vec<AssignmentEntry> = (0..10).map(entry).collect();
    let parts = parts("gw-1", entries.clone());
    assert!(parts.len() > 1);
    assert_eq!(parts.iter().flat_map(|part| part.entries.clone()).collect::<Vec<_>>(), entries);
    for (at, part) in parts.iter().enumerate() {
        assert_eq!((part.part as usize, part.parts as usize), (at, parts.len()));
        assert!(serde_json::to_vec(part).unwrap().len() <= ASSIGNMENT_PART_BYTES_MAX);
    }
    assert_eq!((assignment_name("gw-1", 0), assignment_name("gw-1", 2)), ("gw-1".to_owned(), "gw-1.part-2".to_owned()));
    assert_eq!(super::parts("gw-1", Vec::new()).len(), 1);
    // What is reported of many small ones has to fit as well.
    let small = vec![AssignmentEntry::default(); ASSIGNMENT_PART_ENTRIES_MAX + 1];
    assert_eq!(super::parts("gw-1", small).iter().map(|part| part.entries.len()).collect::<Vec<_>>(), [400, 1]);
}

#[test]
fn a_part_reports_of_its_entries_only() {
    let object = json!({
        "metadata": {"name": "gw-1", "generation": 2},
        "spec": {"nodeName": "gw-1", "entries": [
            {"kind": "Rule", "namespace": "default", "name": "r", "uid": "u", "generation": 1, "spec": {"sql": ["deep"]}},
            {"kind": "DeviceProfile", "name": "host", "uid": "p"},
        ]},
        "status": {"observedGeneration": 2, "entries": [
            {"kind": "Rule", "namespace": "default", "name": "r", "generation": 1, "conditions": []},
            {"kind": "Rule", "namespace": "default", "name": "another", "generation": 1, "conditions": []},
        ]},
    });
    let bytes = serde_json::to_vec(&object).unwrap();
    let object = ObjectRef::watched("", "gw-1", 1, bytes.into());
    let (mut fleet, mut touched) = (Fleet::default(), Touched::default());
    Assignments::put_part(&mut fleet, &object, &mut touched);
    let rule: ObjectId = (Kind::Rule, "default".into(), "r".into());
    assert_eq!(touched.objects, [rule].into());
    assert_eq!(node_of_part(&object).as_deref(), Some("gw-1"));
}
