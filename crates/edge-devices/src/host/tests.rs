use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use api_edge::edgex::{Device, DeviceProfile, DeviceResource, Value};
use edge_device_sdk::{DeviceSession, Driver};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::config::SOURCES;
use super::driver::{CpuTimes, network};
use super::*;

const STAT: &str =
    "cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 50 0 25 400 25 0 0 0 0 0\ncpu1 50 0 25 400 25 0 0 0 0 0\nintr 1\n";

const NET: &str = "Inter-|   Receive                      |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    2000      20    2    0    0     0          0         0     3000      30    3    0    0     0       0          0
 wlan0:7       70    0    0    0     0          0         0     9      90    0    0    0     0       0          0
";

/// A small machine made of files.
fn machine() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in [
        ("proc/stat", STAT),
        ("proc/loadavg", "0.74 1.38 1.40 2/94 25235\n"),
        ("proc/uptime", "2266.83 2221.37\n"),
        (
            "proc/meminfo",
            "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 250 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n",
        ),
        ("proc/net/dev", NET),
        ("proc/sys/kernel/hostname", "box-7\n"),
        ("proc/sys/kernel/osrelease", "6.1.0\n"),
        ("sys/class/thermal/thermal_zone0/type", "acpitz\n"),
        ("sys/class/thermal/thermal_zone0/temp", "41500\n"),
        ("sys/class/thermal/thermal_zone10/type", "cpu-thermal\n"),
        ("sys/class/thermal/thermal_zone10/temp", "-5000\n"),
    ] {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn resource(attributes: Json, value_type: &str) -> DeviceResource {
    serde_json::from_value(json!({
        "name": "r", "attributes": attributes, "properties": {"valueType": value_type, "readWrite": "R"},
    }))
    .unwrap()
}

async fn session(root: &Path) -> Box<dyn DeviceSession> {
    let driver = HostDriver::with_roots(root.join("proc"), root.join("sys"));
    driver.open(&Device::default(), &DeviceProfile::default()).await.unwrap()
}

async fn check_read(session: &mut dyn DeviceSession, attributes: Json, expected: Result<Value, &str>) {
    let resource = resource(attributes, "Float64");
    let value = session.read(&[&resource]).await.unwrap().remove(0);
    assert_eq!(value.map_err(|error| error.problem), expected.map_err(str::to_owned));
}

#[tokio::test]
async fn every_sensor_reads_what_the_kernel_tells() {
    let machine = machine();
    let mut session = session(machine.path()).await;
    for (attributes, expected) in [
        (json!({"source": "cpu.count"}), Value::Uint(2)),
        (json!({"source": "load.5"}), Value::Float(1.38)),
        (json!({"source": "processes.running"}), Value::Uint(2)),
        (json!({"source": "processes.total"}), Value::Uint(94)),
        (json!({"source": "memory.total"}), Value::Uint(1_024_000)),
        (json!({"source": "memory.available"}), Value::Uint(256_000)),
        (json!({"source": "memory.used"}), Value::Uint(768_000)),
        (json!({"source": "memory.usage"}), Value::Float(75.0)),
        (json!({"source": "swap.used"}), Value::Uint(6144)),
        (json!({"source": "network.received-bytes"}), Value::Uint(2007)),
        (json!({"source": "network.sent-packets", "interface": "eth0"}), Value::Uint(30)),
        (json!({"source": "network.received-errors", "interface": "eth0"}), Value::Uint(2)),
        (json!({"source": "uptime"}), Value::Float(2266.83)),
        (json!({"source": "thermal.temperature"}), Value::Float(41.5)),
        (json!({"source": "thermal.temperature", "zone": "cpu-thermal"}), Value::Float(-5.0)),
        (json!({"source": "thermal.temperature", "zone": "thermal_zone10"}), Value::Float(-5.0)),
        (json!({"source": "system.hostname"}), Value::String("box-7".into())),
        (json!({"source": "system.kernel"}), Value::String("6.1.0".into())),
    ] {
        check_read(&mut *session, attributes, Ok(expected)).await;
    }
}

#[tokio::test]
async fn processor_shares_are_of_the_time_since_the_last_reading() {
    let machine = machine();
    let mut session = session(machine.path()).await;
    fs::write(machine.path().join("proc/stat"), "cpu  130 0 60 850 60 0 0 0 0 0\n").unwrap();
    check_read(&mut *session, json!({"source": "cpu.usage"}), Ok(Value::Float(40.0))).await;
    fs::write(machine.path().join("proc/stat"), "cpu  130 0 60 950 60 0 0 0 0 0\n").unwrap();
    check_read(&mut *session, json!({"source": "cpu.usage"}), Ok(Value::Float(0.0))).await;
}

#[tokio::test]
async fn a_missing_sensor_harms_no_other() {
    let machine = machine();
    let mut session = session(machine.path()).await;
    let gone = resource(json!({"source": "thermal.temperature", "zone": "gpu"}), "Float64");
    let there = resource(json!({"source": "cpu.count"}), "Uint8");
    let values = session.read(&[&gone, &there]).await.unwrap();
    let problem = &values[0].as_ref().unwrap_err().problem;
    assert!(problem.contains("`gpu`") && problem.contains("thermal_zone0 (acpitz)"), "{problem}");
    assert_eq!(values[1], Ok(Value::Uint(2)));
    fs::remove_dir_all(machine.path().join("sys")).unwrap();
    let none = format!("this machine has no temperature sensor in {}/sys/class/thermal", machine.path().display());
    check_read(&mut *session, json!({"source": "thermal.temperature"}), Err(&none)).await;
    let unknown = "there is no network interface `eth7`; this machine has lo, eth0, wlan0";
    check_read(&mut *session, json!({"source": "network.sent-bytes", "interface": "eth7"}), Err(unknown)).await;
}

fn check_profile(attributes: Json, value_type: &str, expected: &str) {
    let profile = DeviceProfile {
        name: "p".into(),
        device_resources: vec![resource(attributes, value_type)],
        ..Default::default()
    };
    let result = HostDriver::new().validate(&Device::default(), &profile);
    let text = result.map_or_else(|error| error.to_string(), |()| "ok".to_owned());
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn a_wrong_profile_is_refused_with_profile_resource_and_attribute() {
    check_profile(json!({"source": "cpu.usage"}), "Float64", "ok");
    check_profile(json!({"source": "disk.usage", "path": "/srv"}), "Uint8", "ok");
    let at = "profile `p`, resource `r`, ";
    check_profile(json!({}), "Float64", &format!("{at}attributes.source: is missing"));
    check_profile(json!({"source": "cpu.usge"}), "Float64", &format!("{at}attributes.source: `cpu.usge` is unknown"));
    check_profile(json!({"source": "disk.used", "pth": "/"}), "Float64", &format!("{at}attributes.pth: is unknown"));
    check_profile(
        json!({"source": "disk.used", "path": 1}),
        "Float64",
        &format!("{at}attributes.path: `1` is not text"),
    );
    check_profile(json!({"source": "cpu.usage"}), "String", &format!("{at}properties.valueType: String does not suit"));
    check_profile(json!({"source": "system.kernel"}), "Int8", &format!("{at}properties.valueType: Int8 does not suit"));
}

#[test]
fn every_listed_source_is_known() {
    for source in SOURCES {
        let attributes = BTreeMap::from([("source".to_owned(), json!(source))]);
        assert!(Sensor::parse(&attributes).is_ok(), "{source}");
    }
}

#[tokio::test]
async fn this_very_machine_can_be_read() {
    let driver = HostDriver::new();
    let mut session = driver.open(&Device::default(), &DeviceProfile::default()).await.unwrap();
    for source in SOURCES.iter().filter(|source| !source.starts_with("thermal")) {
        let resource = resource(json!({"source": source}), "Float64");
        let value = session.read(&[&resource]).await.unwrap().remove(0);
        assert!(value.is_ok(), "{source}: {value:?}");
    }
}

proptest! {
    #[test]
    fn kernel_texts_never_panic(text in "(cpu|lo:|[ 0-9:a-z\n])*", column in 0..20usize) {
        let _ = CpuTimes::parse(&text);
        drop(network(&text, None, column));
        drop(network(&text, Some("lo"), column));
    }
}
