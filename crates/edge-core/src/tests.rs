use std::sync::Arc;

use api_edge::edgex::{Device, DeviceProfile, Event, Reading, Value, ValueType};
use base_journal::{Journal, JournalOptions};
use edge_bus::{Bus, Delivery, Filter, Made, Maker};
use serde_json::json;

use super::*;

fn made(device: &str, value: i64) -> Made {
    let reading = Reading {
        id: "r".into(),
        origin: value,
        device_name: device.into(),
        resource_name: "level".into(),
        profile_name: "p".into(),
        value_type: ValueType::Int64,
        units: None,
        media_type: None,
        value: Value::Int(value),
    };
    let event = Event {
        api_version: "v3".into(),
        id: "e".into(),
        device_name: device.into(),
        profile_name: "p".into(),
        source_name: "level".into(),
        origin: value,
        readings: vec![reading],
        tags: Default::default(),
    };
    Made { event, maker: Maker::Device(Arc::from("fake")) }
}

#[tokio::test]
async fn an_event_is_on_disk_before_anyone_sees_it() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), JournalOptions::default()).unwrap();
    let bus = Bus::new();
    let mut seen = bus.subscribe("test", 64, Delivery::Lossless, Filter::all());
    let intake = spawn_intake(journal.clone(), bus.clone());
    for value in 0..20 {
        intake.events.send(made(if value % 2 == 0 { "even" } else { "odd" }, value)).await.unwrap();
    }
    for value in 0..20 {
        let message = seen.recv().await;
        assert_eq!(message.event.origin, value);
        assert!(journal.next() > u64::try_from(value).unwrap());
    }
    let readings = journal::last_readings(&journal, Some("odd"), 3).unwrap();
    assert_eq!(readings.iter().map(|reading| reading.origin).collect::<Vec<_>>(), [19, 17, 15]);
    assert_eq!(journal::last_readings(&journal, None, 100).unwrap().len(), 20);
    assert_eq!(intake.report(), IntakeReport { events: 20, ..Default::default() });
    assert_eq!(journal::report(&journal).depth, 0);
    journal.set_cursor("export/a", 5).unwrap();
    assert_eq!(journal::report(&journal).depth, 15);
    intake.drain().await;
}

#[tokio::test]
async fn an_event_that_is_too_large_is_left_out_alone() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions { bytes_max: 1 << 20, segment_bytes: 1 << 17 };
    let journal = Journal::open(dir.path(), options).unwrap();
    let intake = spawn_intake(journal.clone(), Bus::new());
    let mut large = made("a", 1);
    large.event.readings[0].value = Value::String("x".repeat(1 << 20));
    for event in [made("a", 0), large, made("a", 2)] {
        intake.events.send(event).await.unwrap();
    }
    let wait = tokio::time::timeout(std::time::Duration::from_secs(30), async {
        while intake.report().events < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    wait.await.unwrap();
    assert_eq!(intake.report(), IntakeReport { events: 2, events_dropped: 1, ..Default::default() });
    intake.drain().await;
    let readings = journal::last_readings(&journal, None, 10).unwrap();
    assert_eq!(readings.iter().map(|reading| reading.origin).collect::<Vec<_>>(), [2, 0]);
}

fn check(profile: serde_json::Value, device: serde_json::Value, expected: &[&str]) {
    let mut base = json!({
        "name": "p",
        "deviceResources": [
            {"name": "level", "properties": {"valueType": "Int16", "readWrite": "R"}},
            {"name": "reset", "properties": {"valueType": "Bool", "readWrite": "W"}},
        ],
    });
    base.as_object_mut().unwrap().extend(profile.as_object().unwrap().clone());
    let profile: DeviceProfile = serde_json::from_value(base).unwrap();
    let mut base = json!({"name": "d", "profileName": "p", "serviceName": "host"});
    base.as_object_mut().unwrap().extend(device.as_object().unwrap().clone());
    let device: Device = serde_json::from_value(base).unwrap();
    let mut errors = metadata::check_profile(&profile);
    errors.extend(metadata::check_device(&device, &profile));
    assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
}

#[test]
fn profiles_and_devices_are_checked_as_edgex_does() {
    check(json!({}), json!({}), &[]);
    let command = |name: &str, access: &str| json!({"deviceCommands": [{"name": "c", "readWrite": access, "resourceOperations": [{"deviceResource": name}]}]});
    check(command("level", "R"), json!({"autoEvents": [{"interval": "1s", "sourceName": "c"}]}), &[]);
    let place = "deviceCommands[c].resourceOperations[0].deviceResource";
    check(command("levle", "R"), json!({}), &[&format!("{place}: there is no resource `levle`")]);
    let much = format!("{place}: resource `level` is R, so the command cannot be RW");
    check(command("level", "RW"), json!({}), &[&much]);
    let much = format!("{place}: resource `reset` is W, so the command cannot be R");
    check(command("reset", "R"), json!({}), &[&much]);
    check(
        json!({"deviceResources": []}),
        json!({}),
        &["deviceResources: is empty; a profile needs at least one resource"],
    );
    let twice = json!({"deviceResources": [
        {"name": "a", "properties": {"valueType": "Bool"}},
        {"name": "a", "properties": {"valueType": "Int8", "minimum": 2.0, "maximum": 1.0}},
    ]});
    check(
        twice,
        json!({}),
        &[
            "deviceResources[1].name: `a` is used twice",
            "deviceResources[a].properties.minimum: 2 is larger than the maximum 1",
        ],
    );
    check(
        json!({}),
        json!({"autoEvents": [{"interval": "500us", "sourceName": "levle"}, {"interval": "soon", "sourceName": "level"}]}),
        &[
            "autoEvents[0].interval: `500us` is shorter than 1ms",
            "autoEvents[0].sourceName: profile `p` has no resource or command `levle`",
            "autoEvents[1].interval: `soon` is not a duration: write a number and a unit (ns, us, ms, s, m, h), such as `10s` or `1h30m`",
        ],
    );
}
