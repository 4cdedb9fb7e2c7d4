use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api_edge::edgex::{
    AdminState, AutoEvent, Device, DeviceCommand, DeviceProfile, DeviceResource, ReadWrite, ResourceOperation,
    ResourceProperties, Value, ValueType,
};
use edge_bus::{Made, Maker};
use proptest::prelude::*;
use serde_json::json;
use tokio::sync::mpsc;

use super::*;
use crate::transform::plain_properties;

// Transformations.

fn properties(value_type: ValueType, change: impl FnOnce(&mut ResourceProperties)) -> ResourceProperties {
    let mut properties = plain_properties(value_type);
    change(&mut properties);
    properties
}

fn check_read(value_type: ValueType, change: impl FnOnce(&mut ResourceProperties), raw: Value, expected: &str) {
    let properties = properties(value_type, change);
    let text = match to_reading(raw, &properties) {
        Ok(value) => value.to_edgex(value_type).unwrap_or_else(|| format!("{value:?}")),
        Err(error) => error.to_string(),
    };
    assert_eq!(text, expected);
}

#[test]
fn transformations_run_in_edgex_order() {
    use Value::{Float, Int, Uint};
    use ValueType::{Bool, Float32, Float64, Int16, Int64, Uint8, Uint16, Uint64};
    check_read(Uint16, |_| (), Uint(7), "7");
    check_read(Uint8, |p| p.mask = Some(0xf0), Uint(0xab), "160");
    check_read(Uint8, |p| (p.mask, p.shift) = (Some(0xf0), Some(-4)), Uint(0xab), "10");
    check_read(Uint16, |p| p.shift = Some(8), Uint(1), "256");
    check_read(Uint8, |p| p.shift = Some(-200), Uint(255), "0");
    // Signed numbers have no mask and no shift in EdgeX.
    check_read(Int16, |p| (p.mask, p.shift) = (Some(1), Some(1)), Int(-7), "-7");
    check_read(Float64, |p| p.base = Some(10.0), Int(2), "1e+02");
    check_read(Float32, |p| p.scale = Some(0.1), Int(215), "2.15e+01");
    check_read(Float32, |p| (p.scale, p.offset) = (Some(0.5), Some(-40.0)), Uint(100), "1e+01");
    check_read(Int16, |p| (p.base, p.scale, p.offset) = (Some(2.0), Some(3.0), Some(1.0)), Int(4), "49");
    check_read(Int16, |p| p.scale = Some(0.1), Int(-29), "-2");
    check_read(Uint64, |p| p.offset = Some(1.0), Uint(u64::MAX - 1), "18446744073709551615");
    check_read(Int64, |p| p.scale = Some(-1.0), Int(i64::MAX), "-9223372036854775807");
    check_read(Bool, |p| p.scale = Some(1.0), Uint(1), "true");
    check_read(Float64, |_| (), Float(0.5), "5e-01");
}

#[test]
fn a_result_that_does_not_fit_is_an_error_that_names_the_step() {
    use ValueType::{Bool, Float32, Int8, Uint8};
    let fits = "which does not fit";
    check_read(
        Uint8,
        |p| p.shift = Some(4),
        Value::Uint(255),
        &format!("shift of 255 gives 4080, {fits} Uint8 (overflow)"),
    );
    check_read(
        Uint8,
        |p| p.scale = Some(2.0),
        Value::Uint(200),
        &format!("scale of 200 gives 400, {fits} Uint8 (overflow)"),
    );
    check_read(
        Int8,
        |p| p.offset = Some(1.0),
        Value::Int(127),
        &format!("offset of 127 gives 128, {fits} Int8 (overflow)"),
    );
    check_read(Int8, |_| (), Value::Float(f64::NAN), &format!("conversion of NaN gives NaN, {fits} Int8 (overflow)"));
    check_read(
        Float32,
        |p| p.base = Some(10.0),
        Value::Int(39),
        &format!("base of 39 gives {}, {fits} Float32 (overflow)", 10f64.powf(39.0)),
    );
    check_read(Bool, |_| (), Value::Uint(2), "`2` is not a Bool");
}

#[test]
fn an_assertion_that_does_not_hold_is_an_error() {
    check_read(ValueType::Bool, |p| p.assertion = Some("true".into()), Value::Bool(true), "true");
    check_read(ValueType::Float64, |p| p.assertion = Some("21.5".into()), Value::Float(21.5), "2.15e+01");
    let expected = "read `2`, but the profile asserts `1`";
    check_read(ValueType::Uint8, |p| p.assertion = Some("1".into()), Value::Uint(2), expected);
}

fn check_write(value_type: ValueType, change: impl FnOnce(&mut ResourceProperties), value: Value, expected: Value) {
    assert_eq!(from_write(value, &properties(value_type, change)).unwrap(), expected);
}

#[test]
fn a_write_undoes_what_a_read_does() {
    check_write(ValueType::Int16, |p| p.scale = Some(0.1), Value::Int(21), Value::Int(210));
    check_write(ValueType::Int16, |p| p.offset = Some(-40.0), Value::Int(0), Value::Int(40));
    check_write(ValueType::Uint8, |p| (p.mask, p.shift) = (Some(0xf0), Some(-4)), Value::Uint(10), Value::Uint(0xa0));
    check_write(ValueType::Float64, |p| p.base = Some(10.0), Value::Float(100.0), Value::Float(2.0));
    assert!(from_write(Value::Uint(255), &properties(ValueType::Uint8, |p| p.scale = Some(0.5))).is_err());
}

proptest! {
    #[test]
    fn reading_what_was_written_gives_the_value_back(
        value in any::<i32>(),
        scale in prop_oneof![Just(1.0), Just(0.1), Just(0.01), Just(10.0), Just(2.0)],
        offset in -1000..1000i32,
    ) {
        let properties = properties(ValueType::Float64, |p| (p.scale, p.offset) = (Some(scale), Some(offset.into())));
        let raw = from_write(Value::Float(value.into()), &properties).unwrap();
        let Value::Float(back) = to_reading(raw, &properties).unwrap() else { panic!("not a float") };
        prop_assert!((back - f64::from(value)).abs() <= 1e-6 * (1.0 + f64::from(value).abs()));
    }

    #[test]
    fn no_reading_is_ever_out_of_the_range_of_its_type(
        raw in any::<i64>(),
        type_index in 0..ValueType::ALL.len(),
        mask in proptest::option::of(any::<u64>()),
        shift in proptest::option::of(-70..70i64),
        base in proptest::option::of(-4.0..4.0f64),
        scale in proptest::option::of(any::<f64>()),
        offset in proptest::option::of(any::<f64>()),
    ) {
        let value_type = ValueType::ALL[type_index];
        let properties = properties(value_type, |p| {
            (p.mask, p.shift, p.base, p.scale, p.offset) = (mask, shift, base, scale, offset);
        });
        if let Ok(value) = to_reading(Value::Int(raw), &properties) {
            match (&value, value_type.integer_range()) {
                (Value::Int(value), Some((low, high))) => prop_assert!((low..=high).contains(&i128::from(*value))),
                (Value::Uint(value), Some((low, high))) => prop_assert!((low..=high).contains(&i128::from(*value))),
                (Value::Float(value), None) => prop_assert!(value.is_finite()),
                (Value::Bool(_), None) => prop_assert_eq!(value_type, ValueType::Bool),
                other => prop_assert!(false, "{:?}", other),
            }
        }
        // The inverse never panics either.
        drop(from_write(Value::Int(raw), &properties));
    }
}

// A manager with a driver made of memory.

/// A field of devices that the tests change under the manager's hands.
#[derive(Default)]
struct Field {
    /// Devices that do not answer.
    away: Mutex<Vec<String>>,
    /// How long a read takes.
    slow: Mutex<BTreeMap<String, Duration>>,
    value: AtomicI64,
    opened: AtomicU32,
    written: Mutex<Vec<(String, Value)>>,
}

struct FakeDriver(Arc<Field>);

struct FakeSession {
    field: Arc<Field>,
    device: String,
}

impl Driver for FakeDriver {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn validate(&self, _: &Device, _: &DeviceProfile) -> Result<(), DriverError> {
        Ok(())
    }

    fn open<'a>(
        &'a self,
        device: &'a Device,
        _: &'a DeviceProfile,
    ) -> BoxFuture<'a, Result<Box<dyn DeviceSession>, DriverError>> {
        Box::pin(async move {
            self.0.opened.fetch_add(1, Ordering::Relaxed);
            if self.0.away.lock().unwrap().contains(&device.name) {
                return Err(DriverError::Unreachable {
                    address: "fake:1".into(),
                    problem: "connection refused".into(),
                    next_step: "switch it on".into(),
                });
            }
            Ok(Box::new(FakeSession { field: self.0.clone(), device: device.name.clone() }) as Box<dyn DeviceSession>)
        })
    }
}

impl DeviceSession for FakeSession {
    fn read<'a>(
        &'a mut self,
        resources: &'a [&'a DeviceResource],
    ) -> BoxFuture<'a, Result<Vec<Result<Value, ResourceError>>, SessionError>> {
        Box::pin(async move {
            let pause = self.field.slow.lock().unwrap().get(&self.device).copied().unwrap_or_default();
            tokio::time::sleep(pause).await;
            if self.field.away.lock().unwrap().contains(&self.device) {
                return Err(SessionError { address: "fake:1".into(), problem: "connection reset".into() });
            }
            Ok(resources
                .iter()
                .map(|resource| match resource.name.as_str() {
                    "broken" => Err(ResourceError::new("broken", "no such sensor")),
                    _ => Ok(Value::Int(self.field.value.load(Ordering::Relaxed))),
                })
                .collect())
        })
    }

    fn write<'a>(&'a mut self, values: &'a [(&'a DeviceResource, Value)]) -> BoxFuture<'a, Result<(), WriteFailure>> {
        Box::pin(async move {
            let mut written = self.field.written.lock().unwrap();
            written.extend(values.iter().map(|(resource, value)| (resource.name.clone(), value.clone())));
            Ok(())
        })
    }
}

fn resource(name: &str, change: impl FnOnce(&mut ResourceProperties)) -> DeviceResource {
    DeviceResource {
        name: name.into(),
        description: String::new(),
        is_hidden: false,
        tags: BTreeMap::new(),
        attributes: BTreeMap::new(),
        properties: properties(ValueType::Int32, change),
    }
}

fn profile() -> DeviceProfile {
    let mappings = BTreeMap::from([("1".to_owned(), "ON".to_owned()), ("0".to_owned(), "OFF".to_owned())]);
    let operation = |name: &str| ResourceOperation { device_resource: name.into(), ..Default::default() };
    DeviceProfile {
        name: "p".into(),
        device_resources: vec![
            resource("level", |p| p.units = Some("mm".into())),
            resource("broken", |_| ()),
            resource("target", |p| {
                (p.read_write, p.minimum, p.maximum, p.scale) = (ReadWrite::RW, Some(0.0), Some(100.0), Some(2.0));
                p.default_value = Some("50".into());
            }),
            resource("reset", |p| p.read_write = ReadWrite::W),
        ],
        device_commands: vec![
            DeviceCommand {
                name: "all".into(),
                resource_operations: vec![operation("level"), operation("broken")],
                ..Default::default()
            },
            DeviceCommand {
                name: "switch".into(),
                read_write: ReadWrite::RW,
                resource_operations: vec![ResourceOperation {
                    device_resource: "target".into(),
                    mappings,
                    ..Default::default()
                }],
                ..Default::default()
            },
        ],
        ..Default::default()
    }
}

fn device(name: &str, autos: &[(&str, &str)]) -> Device {
    Device {
        name: name.into(),
        service_name: "fake".into(),
        profile_name: "p".into(),
        auto_events: autos
            .iter()
            .map(|(interval, source)| AutoEvent {
                interval: (*interval).into(),
                source_name: (*source).into(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

fn start() -> (Arc<Field>, DeviceManager, mpsc::Receiver<Made>) {
    let field = Arc::new(Field::default());
    let (produced, events) = mpsc::channel(64);
    let start = tokio::time::Instant::now();
    let clock = Arc::new(move || start.elapsed().as_nanos() as i64);
    let options = ManagerOptions { clock, ..Default::default() };
    (field.clone(), DeviceManager::new(vec![Arc::new(FakeDriver(field))], produced, options), events)
}

async fn report(manager: &DeviceManager, device: &str, until: impl Fn(&DeviceReport) -> bool) -> DeviceReport {
    let mut changes = manager.changes();
    loop {
        let report = manager.reports().into_iter().find(|report| report.name == device).expect("the device is there");
        if until(&report) {
            return report;
        }
        tokio::time::timeout(Duration::from_secs(600), changes.changed())
            .await
            .unwrap_or_else(|_| panic!("last seen: {report:?}"))
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn auto_events_keep_their_times_however_long_a_read_takes() {
    let (field, manager, mut events) = start();
    field.slow.lock().unwrap().insert("d".into(), Duration::from_millis(70));
    manager.add(device("d", &[("100ms", "level")]), profile()).await.unwrap();
    let mut origins = Vec::new();
    for _ in 0..50 {
        origins.push(events.recv().await.unwrap().event.origin / 1_000_000);
    }
    let expected: Vec<i64> = (0..50).map(|n| n * 100 + 70).collect();
    // The timer wheel of the runtime counts whole milliseconds.
    let is_near = origins.iter().zip(&expected).all(|(origin, expected)| (origin - expected).abs() <= 2);
    assert!(is_near, "{origins:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_device_delays_no_other_and_collects_no_backlog() {
    let (field, manager, mut events) = start();
    field.slow.lock().unwrap().insert("slow".into(), Duration::from_secs(5));
    manager.add(device("slow", &[("100ms", "level")]), profile()).await.unwrap();
    manager.add(device("quick", &[("100ms", "level")]), profile()).await.unwrap();
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    while counts.values().sum::<u32>() < 102 {
        *counts.entry(events.recv().await.unwrap().event.device_name).or_default() += 1;
    }
    assert!(counts["quick"] >= 99, "{counts:?}");
    let slow = report(&manager, "slow", |_| true).await;
    assert!(slow.auto_events_skipped >= 80, "{slow:?}");
}

#[tokio::test(start_paused = true)]
async fn an_event_carries_what_edgex_says() {
    let (field, manager, mut events) = start();
    field.value.store(7, Ordering::Relaxed);
    manager.add(device("d", &[("1s", "all")]), profile()).await.unwrap();
    let Made { event, maker } = events.recv().await.unwrap();
    assert_eq!(maker, Maker::Device("fake".into()));
    assert_eq!((event.device_name.as_str(), event.source_name.as_str()), ("d", "all"));
    assert_eq!(event.readings.len(), 1, "the broken resource harms no other");
    let reading = &event.readings[0];
    assert_eq!((reading.resource_name.as_str(), &reading.value), ("level", &Value::Int(7)));
    assert_eq!((reading.units.as_deref(), reading.origin), (Some("mm"), event.origin));
    assert_ne!(reading.id, event.id);
    let report = report(&manager, "d", |report| !report.failing_resources.is_empty()).await;
    assert_eq!(report.failing_resources["broken"], "no such sensor");
    assert_eq!((report.state, report.resources_read), (OperatingState::Up, 1));
}

#[tokio::test(start_paused = true)]
async fn on_change_sends_only_news_beyond_the_threshold() {
    let (field, manager, mut events) = start();
    let mut sensor = device("d", &[("1s", "level")]);
    sensor.auto_events[0].on_change = true;
    sensor.auto_events[0].on_change_threshold = Some(2.0);
    manager.add(sensor, profile()).await.unwrap();
    let mut seen = Vec::new();
    for value in [10, 11, 12, 13, 13, 10] {
        field.value.store(value, Ordering::Relaxed);
        if let Ok(Some(produced)) = tokio::time::timeout(Duration::from_millis(1000), events.recv()).await {
            seen.push(produced.event.readings[0].value.clone());
            tokio::time::sleep_until(tokio::time::Instant::now() + Duration::from_millis(500)).await;
        }
    }
    assert_eq!(seen, [Value::Int(10), Value::Int(13), Value::Int(10)]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_away_is_down_and_comes_back() {
    let (field, manager, mut events) = start();
    field.away.lock().unwrap().push("d".into());
    manager.add(device("d", &[("1s", "level")]), profile()).await.unwrap();
    manager.add(device("other", &[("1s", "level")]), profile()).await.unwrap();
    let down = report(&manager, "d", |report| report.state == OperatingState::Down).await;
    assert_eq!(down.unreachable.as_deref(), Some("cannot reach fake:1: connection refused; switch it on"));
    assert_eq!(events.recv().await.unwrap().event.device_name, "other");
    let error = manager.read("d", "level").await.unwrap_err();
    assert!(matches!(error, CommandError::Down { .. }), "{error}");
    // Ten minutes of silence cost some fifteen attempts, not six hundred.
    let drain = tokio::spawn(async move {
        while let Some(produced) = events.recv().await {
            if produced.event.device_name == "d" {
                return;
            }
        }
    });
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!((8..=24).contains(&field.opened.load(Ordering::Relaxed)), "{:?}", field.opened);
    field.away.lock().unwrap().clear();
    report(&manager, "d", |report| report.state == OperatingState::Up).await;
    tokio::time::timeout(Duration::from_secs(2), drain).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_lost_answer_is_no_outage_but_three_are() {
    let (field, manager, mut events) = start();
    manager.add(device("d", &[("1s", "level")]), profile()).await.unwrap();
    events.recv().await.unwrap();
    field.away.lock().unwrap().push("d".into());
    let down = report(&manager, "d", |report| report.state == OperatingState::Down).await;
    assert!(down.unreachable.unwrap().contains("fake:1"));
    field.away.lock().unwrap().clear();
    events.recv().await.unwrap();
    assert_eq!(report(&manager, "d", |_| true).await.state, OperatingState::Up);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_connects_and_never_answers_is_down() {
    let (field, manager, mut events) = start();
    field.slow.lock().unwrap().insert("d".into(), Duration::from_secs(3600));
    manager.add(device("d", &[("1s", "level")]), profile()).await.unwrap();
    let down = report(&manager, "d", |report| report.state == OperatingState::Down).await;
    assert!(down.unreachable.unwrap().contains("no answer within"));
    // It stays down, however often it takes a connection, and is not asked more and more.
    let mut changes = manager.changes();
    let opened = field.opened.load(Ordering::Relaxed);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(600);
    while let Ok(Ok(())) = tokio::time::timeout_at(deadline, changes.changed()).await {
        assert_eq!(report(&manager, "d", |_| true).await.state, OperatingState::Down);
    }
    assert!((4..=40).contains(&(field.opened.load(Ordering::Relaxed) - opened)), "{:?}", field.opened);
    field.slow.lock().unwrap().clear();
    events.recv().await.unwrap();
    report(&manager, "d", |report| report.state == OperatingState::Up).await;
}

async fn check_command(
    manager: &DeviceManager,
    source: &str,
    settings: &[(&str, serde_json::Value)],
    expected: Result<(), &str>,
) {
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let result = manager.write("d", source, settings).await;
    assert_eq!(result.map_err(|error| error.to_string()), expected.map_err(str::to_owned));
}

#[tokio::test(start_paused = true)]
async fn commands_check_what_they_are_given() {
    let (field, manager, _events) = start();
    manager.add(device("d", &[]), profile()).await.unwrap();
    report(&manager, "d", |report| report.state == OperatingState::Up).await;
    check_command(&manager, "target", &[("target", json!("80"))], Ok(())).await;
    check_command(&manager, "target", &[("target", json!(20))], Ok(())).await;
    check_command(&manager, "target", &[], Ok(())).await;
    check_command(&manager, "switch", &[("target", json!("ON"))], Ok(())).await;
    assert_eq!(
        field.written.lock().unwrap().iter().map(|(_, value)| value.clone()).collect::<Vec<_>>(),
        [Value::Int(40), Value::Int(10), Value::Int(25), Value::Int(1)]
    );
    let range = Err("resource `target`: 101 is outside 0 to 100");
    check_command(&manager, "target", &[("target", json!(101))], range).await;
    let kind = Err("resource `target`: `much` is not a Int32");
    check_command(&manager, "target", &[("target", json!("much"))], kind).await;
    check_command(&manager, "level", &[], Err("`level` of device `d` may not be written")).await;
    check_command(&manager, "target", &[("tarjet", json!(1))], Err("`target` has no resource `tarjet`")).await;
    let missing = Err("resource `reset` needs a value: none is given, and the profile has no defaultValue");
    check_command(&manager, "reset", &[], missing).await;
    let unknown = Err("profile `p` of device `d` has no resource or command `nothing`");
    check_command(&manager, "nothing", &[], unknown).await;
    let unreadable = manager.read("d", "reset").await.unwrap_err().to_string();
    assert_eq!(unreadable, "`reset` of device `d` may not be read");
    assert!(matches!(manager.read("e", "level").await, Err(CommandError::UnknownDevice { .. })));
    assert_eq!(manager.read("d", "level").await.unwrap().event.unwrap().readings.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_locked_device_has_no_traffic() {
    let (field, manager, mut events) = start();
    let mut locked = device("d", &[("1s", "level")]);
    locked.admin_state = AdminState::Locked;
    manager.add(locked, profile()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(60), events.recv()).await.is_err());
    assert!(matches!(manager.read("d", "level").await, Err(CommandError::Locked { .. })));
    assert_eq!(field.opened.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_removed_device_is_read_no_more_and_may_come_again() {
    let (_field, manager, mut events) = start();
    manager.add(device("d", &[("1s", "level")]), profile()).await.unwrap();
    events.recv().await.unwrap();
    assert!(matches!(manager.add(device("d", &[]), profile()).await, Err(AddDeviceError::NameTaken { .. })));
    assert!(manager.remove("d").await);
    assert!(!manager.remove("d").await);
    assert!(tokio::time::timeout(Duration::from_secs(60), events.recv()).await.is_err());
    manager.add(device("d", &[("1s", "level")]), profile()).await.unwrap();
    events.recv().await.unwrap();
}

async fn check_add(change: impl FnOnce(&mut Device), expected: &str) {
    let (_field, manager, _events) = start();
    let mut wrong = device("d", &[("1s", "level")]);
    change(&mut wrong);
    assert_eq!(manager.add(wrong, profile()).await.unwrap_err().to_string(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_cannot_work_is_refused_with_the_place() {
    check_add(|d| d.service_name = "mdbus".into(), "device `d`: there is no driver `mdbus`; built in are fake").await;
    check_add(
        |d| d.auto_events[0].interval = "1us".into(),
        "device `d`, autoEvents[0]: interval `1us` is shorter than 1ms",
    )
    .await;
    let missing = "device `d`, autoEvents[0]: profile `p` has no resource or command `levle`";
    check_add(|d| d.auto_events[0].source_name = "levle".into(), missing).await;
    check_add(|d| d.auto_events[0].source_name = "reset".into(), "device `d`, autoEvents[0]: `reset` may not be read")
        .await;
}
