//! Values on the wire, and the definitions of our kinds.

pub(crate) mod schema;

use crate::edgex::{Event, Reading, Value, ValueType};

#[test]
fn floats_are_written_as_go_writes_them() {
    for (value, text) in [(123.4, "1.234e+02"), (0.0, "0e+00"), (-5e-10, "-5e-10"), (1e100, "1e+100")] {
        assert_eq!(Value::Float(value).to_edgex(ValueType::Float64).unwrap(), text);
    }
    assert_eq!(Value::Float(f64::from(0.1f32)).to_edgex(ValueType::Float32).unwrap(), "1e-01");
}

#[test]
fn a_reading_survives_the_wire() {
    for (value_type, value, text) in [
        (ValueType::Bool, Value::Bool(true), r#""value":"true""#),
        (ValueType::Int16, Value::Int(-7), r#""value":"-7""#),
        (ValueType::Uint64, Value::Uint(u64::MAX), r#""value":"18446744073709551615""#),
        (ValueType::Float64, Value::Float(21.5), r#""value":"2.15e+01""#),
        (ValueType::String, Value::String("a \"b\"".into()), r#""value":"a \"b\"""#),
        (ValueType::Int8Array, Value::Array(vec![Value::Int(1), Value::Int(-2)]), r#""value":"[1, -2]""#),
        (ValueType::Binary, Value::Binary(vec![1, 2, 3]), r#""binaryValue":"AQID""#),
        (ValueType::Object, Value::Object(serde_json::json!({"a": 1})), r#""objectValue":{"a":1}"#),
    ] {
        let reading = Reading {
            id: "i".into(),
            origin: 5,
            device_name: "d".into(),
            resource_name: "r".into(),
            profile_name: "p".into(),
            value_type,
            units: None,
            media_type: None,
            value: value.clone(),
        };
        let json = serde_json::to_string(&reading).unwrap();
        assert!(json.contains(text), "{json}");
        assert_eq!(serde_json::from_str::<Reading>(&json).unwrap(), reading);
    }
}

#[test]
fn an_event_of_another_version_is_refused() {
    let error = serde_json::from_str::<Event>(
        r#"{"apiVersion":"v9","id":"","deviceName":"d","profileName":"p","sourceName":"s","origin":1,"readings":[]}"#,
    );
    assert!(error.unwrap_err().to_string().contains("v9"));
}

#[test]
fn every_crd_is_structural_and_named_after_its_plural() {
    for crd in crate::crds::all() {
        let name = crd["metadata"]["name"].as_str().unwrap();
        let plural = crd["spec"]["names"]["plural"].as_str().unwrap();
        assert_eq!(name, format!("{plural}.{}", crate::GROUP));
        assert_eq!(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["type"], "object");
    }
}

#[test]
fn a_report_fits_into_what_the_hub_takes_whatever_its_messages_say() {
    use crate::resources::*;
    let condition = |r#type: &str| api_kube::Condition {
        observed_generation: Some(i64::MAX),
        last_transition_time: Some(jiff::Timestamp::UNIX_EPOCH.into()),
        ..api_kube::Condition::new(r#type, false, "AReasonAsLongAsAny", "\u{e9}".repeat(4096))
    };
    let entry = EntryStatus {
        kind: "Device".to_owned(),
        namespace: "n".repeat(63),
        name: "d".repeat(253),
        generation: i64::MAX,
        conditions: ["Accepted", "Applied", "Ready"].map(condition).to_vec(),
    };
    for entries in [1, ASSIGNMENT_PART_ENTRIES_MAX] {
        let mut status = NodeAssignmentStatus { observed_generation: 1, entries: vec![entry.clone(); entries] };
        status.truncate_messages();
        let bytes = serde_json::to_vec(&status).unwrap().len();
        assert!(bytes <= ASSIGNMENT_STATUS_BYTES_MAX, "{entries}: {bytes}");
        let message = &status.entries[0].conditions[2].message;
        assert!(message.len() <= REPORT_MESSAGE_BYTES_MAX && message.len() > 100, "{}", message.len());
    }
}

/// `SELVEDGE_BLESS=1 cargo test -p api-edge` writes the file anew.
#[test]
fn the_manifests_for_other_clusters_are_our_kinds() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/stock-cluster/10-kinds.yaml");
    // Whose key is which node is the hub's own record.
    let definitions = crate::crds::all().into_iter().filter(|one| one["spec"]["names"]["kind"] != "NodeIdentity");
    let documents: Vec<String> = definitions.map(|one| machinery_schema::yaml::to_yaml(&one)).collect();
    let head = "# Our kinds, written by `SELVEDGE_BLESS=1 cargo test -p api-edge`.\n";
    let text = format!("{head}{}", documents.join("---\n"));
    if std::env::var_os("SELVEDGE_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "{}", path.display());
}
