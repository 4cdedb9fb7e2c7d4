use std::io::Read as _;

use serde_json::json;

use super::*;
use crate::tests::openapi::data;

/// All owners that were recorded.
fn recorded() -> Vec<Value> {
    fn find(value: &Value, found: &mut Vec<Value>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    if key == "managedFields" && value.is_array() {
                        found.push(value.clone())
                    } else {
                        find(value, found)
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| find(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for topic in ["apply", "create", "patch", "subresources"] {
        for line in data(&format!("recorded/{topic}.jsonl.gz")).lines() {
            let step: Value = serde_json::from_str(line).expect("a case is JSON");
            find(&step["response"], &mut found);
        }
    }
    found
}

#[test]
fn recorded_owners_come_back_as_they_were_in_a_sixth_of_their_bytes() {
    let (mut plain_bytes, mut compact_bytes, mut count) = (0, 0, 0);
    for entries in recorded() {
        let Ok(managed) = Managed::decode(Some(&entries)) else { continue };
        if managed.is_empty() {
            continue;
        }
        let compact = managed.to_compact();
        assert_eq!(Managed::from_compact(&compact), Ok(managed.clone()), "{entries}");
        let json = compact_to_json(&compact).expect("it was just written");
        assert_eq!(Some(&json), managed.to_json().as_ref());
        plain_bytes += json.len();
        compact_bytes += compact.len();
        count += 1;
    }
    assert!(count > 500, "only {count} objects were tried");
    assert!(compact_bytes * 6 < plain_bytes, "{count} objects: {plain_bytes} bytes became {compact_bytes}");
}

fn text_of(alike: &mut AlikeToJson, compact: &[u8]) -> Result<String, ReadCompactError> {
    let mut text = String::new();
    alike.write(compact, |part| text.push_str(part)).map(|()| text)
}

#[test]
fn owners_of_many_objects_read_as_each_alone() {
    // In turns and at other times, so that most entries are met again, and after texts that were numbered otherwise.
    let mut all: Vec<Value> = recorded();
    let later = |mut entries: Value| {
        for (at, entry) in entries.as_array_mut().into_iter().flatten().enumerate() {
            entry["time"] = format!("20{}-01-02T03:04:05Z", 10 + at).into();
        }
        entries
    };
    all.extend(recorded().into_iter().map(later));
    all.extend(recorded().into_iter().map(|mut entries| {
        entries.as_array_mut().into_iter().for_each(|entries| entries.reverse());
        entries
    }));
    let all: Vec<_> =
        all.iter().filter_map(|entries| Managed::decode(Some(entries)).ok()).map(|one| one.to_compact()).collect();
    let mut alike = AlikeToJson::default();
    for compact in all.iter().flat_map(|compact| [compact, compact]) {
        assert_eq!(text_of(&mut alike, compact), compact_to_json(compact));
        for len in [compact.len() / 2, compact.len() - 1] {
            assert!(text_of(&mut alike, &compact[..len]).is_err(), "{len} of {} bytes", compact.len());
        }
    }
    assert!(all.len() > 1500, "only {} objects were tried", all.len());
}

#[test]
fn an_entry_that_all_have_is_remembered_among_others_that_one_has() {
    let pod = |number: usize| {
        let ip = format!("k:{{\"ip\":\"10.0.0.{number}\"}}");
        json!([
            {"manager": "controller", "operation": "Update", "apiVersion": "v1", "time": "2026-11-26T12:00:00Z",
             "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": {"f:our.example/own": {}}}}},
            {"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "time": "2026-11-26T12:00:01Z",
             "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {"f:podIPs": {ip: {}}}}, "subresource": "status"},
        ])
    };
    let mut alike = AlikeToJson::default();
    for number in 0..100 {
        let compact = Managed::decode(Some(&pod(number))).expect("the entries are whole").to_compact();
        assert_eq!(text_of(&mut alike, &compact), compact_to_json(&compact));
    }
    assert!(alike.kept[0].text.contains("our.example/own"), "what all have has come to the front");
    assert_eq!(alike.kept.len(), alike::KEPT_MAX);
}

#[test]
fn the_owners_of_a_pod_take_less_than_a_kilobyte() {
    let largest = recorded()
        .iter()
        .filter_map(|entries| Managed::decode(Some(entries)).ok())
        .map(|managed| managed.to_compact().len())
        .max();
    assert!(largest.is_some_and(|bytes| bytes < 1024), "{largest:?} bytes");
}

/// What version 1 wrote must be readable for good: the names and their order are part of the format.
#[test]
fn owners_in_format_1_are_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/compact/fixture-v1.bin");
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).expect("the fixture is there");
    let managed = Managed::from_compact(&bytes).expect("format 1 is known");
    assert_eq!(managed, Managed::decode(Some(&fixture())).expect("the entries are whole"));
    assert_eq!(managed.to_compact(), bytes, "version 1 is written as ever");
}

fn fixture() -> Value {
    json!([
        {"manager": "kubectl", "operation": "Apply", "apiVersion": "apps/v1", "time": "2026-11-26T12:00:00Z",
         "fieldsType": "FieldsV1", "fieldsV1": {
             "f:metadata": {"f:labels": {"f:our.example/own": {}, "f:app": {}}},
             "f:spec": {"f:template": {"f:spec": {"f:containers": {
                 "k:{\"name\":\"some-name\"}": {".": {}, "f:name": {}, "f:image": {},
                     "f:ports": {"k:{\"containerPort\":8080,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}}},
        {"manager": "some-name", "operation": "Update", "apiVersion": "example.com/v1beta1", "time": "2026-11-26T12:00:00.5+01:00",
         "fieldsType": "FieldsV1", "subresource": "status", "fieldsV1": {
             "f:metadata": {"f:finalizers": {".": {}, "v:\"a.b/c\"": {}, "v:-3": {}, "v:true": {}, "v:1.5": {}, "v:null": {}}},
             "f:list": {"i:7": {"f:our.example/own": {}}}}},
    ])
}

#[test]
#[ignore = "writes the fixture; only when a new version of the format is added"]
fn write_the_fixture() {
    let managed = Managed::decode(Some(&fixture())).expect("the entries are whole");
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/compact/fixture-v1.bin"), managed.to_compact())
        .expect("the fixture can be written");
}

#[test]
fn damaged_owners_are_refused_and_never_run_away() {
    let compact = Managed::decode(Some(&fixture())).expect("the entries are whole").to_compact();
    for len in 0..compact.len() {
        assert!(Managed::from_compact(&compact[..len]).is_err(), "{len} of {} bytes", compact.len());
        assert!(compact_to_json(&compact[..len]).is_err(), "{len} of {} bytes", compact.len());
    }
    assert_eq!(Managed::from_compact(&[9]), Err(ReadCompactError::Version(9)));
    // A set within a set within a set, each one byte: deeper than anything real.
    let mut deep = vec![VERSION, 1, 0, 1, 1];
    deep.extend((0..100_000).flat_map(|_| [1_u8, 1 << 2 | 1]));
    assert_eq!(Managed::from_compact(&deep), Err(ReadCompactError::Damaged));
    assert_eq!(compact_to_json(&deep), Err(ReadCompactError::Damaged));
}

#[test]
fn times_are_kept_to_the_letter() {
    for time in ["1970-01-01T00:00:01Z", "2000-02-29T23:59:59Z", "2026-12-31T00:00:00Z", "2100-03-01T01:02:03Z"] {
        let seconds = whole_seconds(time).unwrap_or_else(|| panic!("{time}"));
        assert_eq!(time_text(seconds), time);
    }
    assert_eq!(whole_seconds("2026-02-30T00:00:00Z"), None);
    assert_eq!(whole_seconds("2026-02-03T00:00:00+00:00"), None);
}
