//! Readings travel device → bus → rule → journal → hub: unchanged, once, in order, whatever happens to the hub.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use testkit::modbus::ModbusDevice;
use testkit::wait::eventually;

use crate::common::{Fleet, PATIENCE, Up, is_full, root, stored_readings, wait_condition};

/// A press with two counters and a thermometer, read every 100 ms; a rule averages the second counter.
fn manifests(node: &str, port: u16) -> String {
    format!(
        r#"
apiVersion: edge.selvedge.dev/v1alpha1
kind: DeviceProfile
metadata: {{ name: press }}
spec:
  deviceResources:
    - name: Count
      attributes: {{ primaryTable: HOLDING_REGISTERS, startingAddress: 0 }}
      properties: {{ valueType: Uint16, readWrite: R }}
    - name: Wobble
      attributes: {{ primaryTable: HOLDING_REGISTERS, startingAddress: 1 }}
      properties: {{ valueType: Uint16, readWrite: R }}
    - name: Celsius
      attributes: {{ primaryTable: HOLDING_REGISTERS, startingAddress: 2 }}
      properties: {{ valueType: Float32, readWrite: R, units: C }}
  deviceCommands:
    - name: All
      readWrite: R
      resourceOperations: [{{ deviceResource: Count }}, {{ deviceResource: Wobble }}, {{ deviceResource: Celsius }}]
---
apiVersion: edge.selvedge.dev/v1alpha1
kind: Device
metadata: {{ name: press-4, namespace: default }}
spec:
  nodeName: {node}
  name: Press-4
  profileName: press
  serviceName: modbus
  protocols: {{ modbus-tcp: {{ Address: 127.0.0.1, Port: "{port}", UnitID: "1", Timeout: "60" }} }}
  autoEvents: [{{ interval: 100ms, sourceName: All }}]
---
apiVersion: edge.selvedge.dev/v1alpha1
kind: Stream
metadata: {{ name: presses, namespace: default }}
spec: {{ sql: 'CREATE STREAM presses () WITH (TYPE="edgex", FORMAT="json")' }}
---
apiVersion: edge.selvedge.dev/v1alpha1
kind: Rule
metadata: {{ name: wobble, namespace: default }}
spec:
  sql: >
    SELECT avg(Wobble) AS Mean, sum(Wobble) AS Total, count(Wobble) AS N, min(Count) AS First, max(Count) AS Last
    FROM presses WHERE meta(deviceName) = "Press-4" GROUP BY TUMBLINGWINDOW(ss, 2)
  actions: [{{ edgex: {{ deviceName: wobble }} }}]
---
apiVersion: edge.selvedge.dev/v1alpha1
kind: Export
metadata: {{ name: all, namespace: default }}
spec: {{ to: {{ hub: {{}} }}, batchPeriod: 200ms }}
"#
    )
}

fn device(dir: &std::path::Path) -> Result<Option<ModbusDevice>> {
    ModbusDevice::start(dir, &root().join("tests/fixtures/modbus_server.py"))
}

fn values(kubectl: &testkit::kubectl::Kubectl, node: &str, device: &str, resource: &str) -> Result<Vec<String>> {
    stored_readings(kubectl, node, device, resource)?
        .iter()
        .map(|stored| Ok(stored["reading"]["value"].as_str().context("a value")?.to_owned()))
        .collect()
}

#[test]
fn modbus_values_arrive_unchanged_and_the_average_is_the_servers_own() -> Result<()> {
    let Some(up) = Up::start(&[])? else { return Ok(()) };
    let Some(press) = device(up.dir.path())? else { return Ok(()) };
    up.kubectl.apply(&manifests("box", press.port))?.ok()?;
    wait_condition(&up.kubectl, &["device", "press-4"], "Ready", "True")?;
    wait_condition(&up.kubectl, &["rule", "wobble"], "Ready", "True")?;
    let windows = eventually("three windows and forty readings at the hub", PATIENCE, || {
        let arrived = |device, resource| {
            values(&up.kubectl, "box", device, resource).map(|found| found.len()).map_err(|error| error.to_string())
        };
        match (arrived("wobble", "Mean")?, arrived("Press-4", "Count")?) {
            (windows @ 3.., 41..) => Ok(windows),
            (windows, readings) => Err(format!("{windows} windows, {readings} readings")),
        }
    })?;

    // Each value given away is one reading at the hub, in the same order, unchanged.
    let counts = values(&up.kubectl, "box", "Press-4", "Count")?;
    let log: BTreeMap<u16, Vec<u16>> =
        press.answered()?.into_iter().map(|answer| (answer.registers[0], answer.registers)).collect();
    let wobbles = values(&up.kubectl, "box", "Press-4", "Wobble")?;
    let celsius = values(&up.kubectl, "box", "Press-4", "Celsius")?;
    assert!(celsius.len() >= counts.len(), "{} {}", counts.len(), celsius.len());
    for (index, count) in counts.iter().enumerate() {
        let registers = &log[&count.parse::<u16>()?];
        assert_eq!(wobbles[index].parse::<u16>()?, registers[1]);
        let sent = f32::from_bits(u32::from(registers[2]) << 16 | u32::from(registers[3]));
        assert_eq!(celsius[index].parse::<f32>()?, sent);
        if index > 0 {
            assert_eq!(count.parse::<u16>()?, counts[index - 1].parse::<u16>()? + 1, "a reading is missing or twice");
        }
    }

    // Each window's average is that of the values in the server's log between its first and its last.
    let column = |name: &str| values(&up.kubectl, "box", "wobble", name);
    let (means, totals, numbers) = (column("Mean")?, column("Total")?, column("N")?);
    let (firsts, lasts) = (column("First")?, column("Last")?);
    for window in 0..windows {
        let (first, last): (u16, u16) = (firsts[window].parse()?, lasts[window].parse()?);
        let given: Vec<u64> = (first..=last).map(|count| u64::from(log[&count][1])).collect();
        assert_eq!(numbers[window].parse::<usize>()?, given.len());
        assert_eq!(totals[window].parse::<f64>()? as u64, given.iter().sum::<u64>());
        let mean = given.iter().sum::<u64>() as f64 / given.len() as f64;
        // eKuiper averages integers to an integer.
        let said: f64 = means[window].parse()?;
        assert!((said - mean).abs() < 1.0, "{said} is not {mean}");
    }
    Ok(())
}

#[test]
fn every_reading_arrives_once_and_in_order_over_a_dead_hub() -> Result<()> {
    let Some(mut fleet) = Fleet::start()? else { return Ok(()) };
    let Some(press) = device(fleet.dir.path())? else { return Ok(()) };
    fleet.kubectl.apply(&manifests("edge-1", press.port))?.ok()?;
    wait_condition(&fleet.kubectl, &["device", "press-4"], "Ready", "True")?;
    eventually("first readings at the hub", PATIENCE, || {
        let found = values(&fleet.kubectl, "edge-1", "Press-4", "Count").map_err(|error| error.to_string())?;
        if found.len() > 10 { Ok(()) } else { Err(format!("{} readings", found.len())) }
    })?;
    let dead = Duration::from_secs(if is_full() { 60 } else { 10 });
    fleet.hub.kill();
    let before = press.answered()?.len();
    let expected = before + (dead.as_millis() / 100) as usize - 10;
    eventually("readings while the hub is dead", dead + PATIENCE, || {
        let now = press.answered().map_err(|error| error.to_string())?.len();
        if now >= expected { Ok(()) } else { Err(format!("{now} of {expected}")) }
    })?;
    fleet.hub_again()?;
    let last = press.answered()?.last().context("an answer")?.registers[0];
    let counts = eventually("all readings at the hub", PATIENCE, || {
        let found = values(&fleet.kubectl, "edge-1", "Press-4", "Count").map_err(|error| error.to_string())?;
        let newest = found.last().and_then(|count| count.parse::<u16>().ok()).unwrap_or_default();
        if newest >= last { Ok(found) } else { Err(format!("newest is {newest} of {last}")) }
    })?;
    for pair in counts.windows(2) {
        assert_eq!(pair[1].parse::<u16>()?, pair[0].parse::<u16>()? + 1, "a reading is missing, twice or out of order");
    }
    println!("{} readings over a hub that was dead for {dead:?}: each once, in order", counts.len());
    let ids = stored_readings(&fleet.kubectl, "edge-1", "Press-4", "Count")?;
    let unique: std::collections::BTreeSet<String> = ids.iter().map(|one| one["eventId"].to_string()).collect();
    assert_eq!(unique.len(), ids.len());
    Ok(())
}
