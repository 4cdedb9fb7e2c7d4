//! Each mistake gives one clear error that names the place and the next step, and harms nothing else.

use anyhow::{Context as _, Result};
use testkit::program::{Selvedge, run};
use testkit::wait::eventually;

use crate::common::{PATIENCE, Up, condition, example_manifest, wait_condition};

/// Checks that a manifest is refused with all of the texts.
fn check_refused(up: &Up, manifest: &str, texts: &[&str]) -> Result<()> {
    let refusal = up.kubectl.apply(manifest)?.refused()?;
    for text in texts {
        assert!(refusal.contains(text), "no `{text}` in: {refusal}");
    }
    Ok(())
}

#[test]
fn wrong_manifests_are_refused_by_name() -> Result<()> {
    let Some(up) = Up::start(&[])? else { return Ok(()) };
    let profile = example_manifest("10-profile.yaml", "box")?;
    check_refused(&up, &profile.replace("manufacturer:", "manufacturers:"), &["unknown field \"spec.manufacturers\""])?;
    check_refused(
        &up,
        &profile.replace("valueType: Uint64", "valueType: Unsigned"),
        &["spec.deviceResources[1].properties.valueType", "Unsigned", "Uint64"],
    )?;
    check_refused(
        &up,
        &profile.replace("manufacturer: Selvedge", "manufacturer: 7"),
        &["spec.manufacturer", "string"],
    )?;
    let pod = |spec: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{ name: p }}\nspec: {spec}");
    // What no node runs is stored, as in Kubernetes, and says so itself.
    up.kubectl.apply(&pod("{ nodeSelector: { site: hall-9 }, containers: [{ name: a, image: busybox }] }"))?.ok()?;
    eventually("a pod that says why it waits", PATIENCE, || {
        let stored = up.kubectl.json(&["pod", "p"]).map_err(|error| error.to_string())?;
        let placed = condition(&stored, "PodScheduled").unwrap_or_default();
        let why = placed["message"].as_str().unwrap_or_default();
        let is_so = why.starts_with("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.");
        if is_so { Ok(()) } else { Err(stored["status"].to_string()) }
    })?;
    up.kubectl.ok(&["delete", "pod", "p"])?;
    check_refused(
        &up,
        &pod("{ runtimeClassName: selvedge-process, containers: [{ name: a, image: 'file:///bin/true', imagee: x }] }"),
        &["unknown field \"spec.containers[0].imagee\""],
    )?;
    check_refused(&up, &pod("{ runtimeClassName: selvedge-process, containers: [] }"), &["spec.containers"])?;
    assert_eq!(up.kubectl.ok(&["get", "pods,deviceprofiles", "-o", "name"])?, "");
    Ok(())
}

#[test]
fn a_rule_that_does_not_parse_says_where() -> Result<()> {
    let Some(up) = Up::start(&[])? else { return Ok(()) };
    let good = example_manifest("30-rule.yaml", "box")?;
    up.kubectl.apply(&good)?.ok()?;
    up.kubectl
        .apply("apiVersion: edge.selvedge.dev/v1alpha1\nkind: Rule\nmetadata: { name: broken }\nspec: { sql: \"SELECT a\\nFORM readings\" }")?
        .ok()?;
    let accepted = wait_condition(&up.kubectl, &["rule", "broken"], "Accepted", "False")?;
    let message = accepted["message"].as_str().context("a message")?;
    assert!(message.contains("line 2") && message.contains("column 1") && message.contains("FROM"), "{message}");
    // Its neighbour is unharmed.
    wait_condition(&up.kubectl, &["rule", "cpu-average"], "Ready", "True")?;
    Ok(())
}

#[test]
fn a_device_that_is_not_there_harms_no_other() -> Result<()> {
    let Some(up) = Up::start(&[])? else { return Ok(()) };
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    up.kubectl.apply(&example_manifest("10-profile.yaml", "box")?)?.ok()?;
    up.kubectl.apply(&example_manifest("20-device.yaml", "box")?)?.ok()?;
    up.kubectl
        .apply(&format!(
            r#"
apiVersion: edge.selvedge.dev/v1alpha1
kind: DeviceProfile
metadata: {{ name: meter }}
spec:
  deviceResources:
    - name: Power
      attributes: {{ primaryTable: HOLDING_REGISTERS, startingAddress: 0 }}
      properties: {{ valueType: Uint16, readWrite: R }}
---
apiVersion: edge.selvedge.dev/v1alpha1
kind: Device
metadata: {{ name: meter, namespace: default }}
spec:
  nodeName: box
  profileName: meter
  serviceName: modbus
  protocols: {{ modbus-tcp: {{ Address: 127.0.0.1, Port: "{nobody}", UnitID: "1" }} }}
  autoEvents: [{{ interval: 1s, sourceName: Power }}]
"#
        ))?
        .ok()?;
    eventually("the device's address in its Ready condition", PATIENCE, || {
        let ready =
            wait_condition(&up.kubectl, &["device", "meter"], "Ready", "False").map_err(|error| error.to_string())?;
        let message = ready["message"].as_str().unwrap_or_default();
        if message.contains(&format!("127.0.0.1:{nobody}")) { Ok(()) } else { Err(message.to_owned()) }
    })?;
    wait_condition(&up.kubectl, &["device", "host"], "Ready", "True")?;
    Ok(())
}

#[test]
fn settings_are_checked_before_anything_is_done() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data_dir = dir.path().join("data");
    let config = dir.path().join("hub.yaml");
    std::fs::write(&config, "listn: 127.0.0.1:0\ntelemetryBytesMax: many\n")?;
    let args = |extra: &[&str]| -> Vec<String> {
        let mut all = vec!["hub".to_owned(), "--config".to_owned(), config.to_string_lossy().into_owned()];
        all.extend(["--data-dir".to_owned(), data_dir.to_string_lossy().into_owned()]);
        all.extend(extra.iter().map(|arg| (*arg).to_owned()));
        all
    };
    for extra in [&["--check-config"][..], &[]] {
        let outcome = run(args(extra))?;
        assert_eq!(outcome.code, 2, "{outcome:?}");
        let refusal = outcome.refused()?;
        assert!(
            refusal.contains("listn") && refusal.contains("listen") && refusal.contains("telemetryBytesMax"),
            "{refusal}"
        );
    }
    assert!(!data_dir.exists(), "a refused start left something behind");
    std::fs::write(&config, "listen: 127.0.0.1:0\n")?;
    run(args(&["--check-config"]))?.ok()?;
    Ok(())
}

#[test]
fn a_port_in_use_is_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?;
    let config = dir.path().join("hub.yaml");
    std::fs::write(&config, format!("listen: {address}\n"))?;
    let config = config.to_string_lossy().into_owned();
    let mut hub = Selvedge::start_on(&dir.path().join("data"), &["hub", "--config", &config], "default")?;
    let status = hub.wait(PATIENCE)?;
    let log = hub.log();
    assert!(!status.success() && log.contains(&address.to_string()) && log.contains("listen"), "{log}");
    Ok(())
}

#[test]
fn two_programs_do_not_share_a_data_directory() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data_dir = dir.path().join("data");
    let mut first = Selvedge::start(&data_dir, &["hub"])?;
    first.address("hub-api")?;
    let mut second = Selvedge::start(&data_dir, &["hub"])?;
    let status = second.wait(PATIENCE)?;
    assert!(!status.success() && second.log().contains("another selvedge hub runs on"), "{}", second.log());
    assert!(first.is_running());
    // The second's drop must not reset what the first uses.
    std::mem::forget(second);
    Ok(())
}

#[test]
fn a_full_disk_refuses_writes_and_harms_nothing() -> Result<()> {
    let Some(disk) = SmallDisk::mount(48 * 1024 * 1024)? else { return Ok(()) };
    let data_dir = disk.path().join("data");
    let Some(kubectl) = testkit::kubectl::Kubectl::newest(&data_dir.join("kubeconfig")) else { return Ok(()) };
    let mut hub = Selvedge::start(&data_dir, &["hub"])?;
    hub.address("hub-api")?;
    eventually("a hub that takes writes", PATIENCE, || {
        kubectl.ok(&["create", "configmap", "before"]).map_err(|error| error.to_string())
    })?;
    let ballast = disk.path().join("ballast");
    fill(&ballast)?;
    // The longest argument that a command may have is 128 KiB.
    let value = "x".repeat(100_000);
    let mut refusal = None;
    for number in 0..400 {
        let outcome =
            kubectl.run(&["create", "configmap", &format!("c{number}"), &format!("--from-literal=a={value}")])?;
        if outcome.code != 0 {
            refusal = Some(outcome.refused()?);
            break;
        }
    }
    let refusal = refusal.context("400 objects of 100 KB fitted on a full disk")?;
    assert!(refusal.contains("disk") || refusal.contains("space"), "{refusal}");
    assert!(hub.is_running());
    kubectl.ok(&["get", "configmap", "before"])?;
    // It starts on the full disk as well: deleting something needs a hub that runs.
    hub.kill();
    let starts = |log: &str| log.matches("The hub serves the Kubernetes API").count();
    let before = starts(&hub.log());
    hub.start_again("ephemeral")?;
    eventually("a hub on a full disk", PATIENCE, || {
        let log = hub.log();
        if starts(&log) > before { Ok(()) } else { Err(log) }
    })?;
    assert!(hub.is_running());
    hub.kill();
    std::fs::remove_file(&ballast)?;
    hub.start_again("ephemeral")?;
    eventually("writes again", PATIENCE, || {
        kubectl.ok(&["create", "configmap", "after"]).map_err(|error| error.to_string())
    })?;
    drop(hub);
    Ok(())
}

/// What the edge plane of a data directory reports of itself.
fn edge_report(data_dir: &std::path::Path) -> Result<serde_json::Value, String> {
    let printed = run(["status", "-o", "json", "--data-dir", &data_dir.to_string_lossy()])
        .and_then(|outcome| outcome.ok())
        .map_err(|error| error.to_string())?;
    let status: serde_json::Value = serde_json::from_str(&printed).map_err(|error| error.to_string())?;
    if status["edge"].is_object() { Ok(status["edge"].clone()) } else { Err(printed) }
}

fn rows_of_the_rule(report: &serde_json::Value) -> u64 {
    let entries = report["entries"].as_array().cloned().unwrap_or_default();
    entries.iter().find(|entry| entry["kind"] == "Rule").and_then(|entry| entry["events"].as_u64()).unwrap_or(0)
}

#[test]
fn a_full_disk_at_the_edge_is_reported_and_rules_continue() -> Result<()> {
    let Some(disk) = SmallDisk::mount(24 * 1024 * 1024)? else { return Ok(()) };
    let data_dir = disk.path().join("data");
    let config = data_dir.join("edge/config");
    std::fs::create_dir_all(&config)?;
    std::fs::write(config.join("10-profile.yaml"), example_manifest("10-profile.yaml", "box")?)?;
    let device = example_manifest("20-device.yaml", "box")?.replace("interval: 1s", "interval: 20ms");
    std::fs::write(config.join("20-device.yaml"), device)?;
    let rule = r#"
apiVersion: edge.selvedge.dev/v1alpha1
kind: Stream
metadata: { name: readings }
spec: { sql: 'CREATE STREAM readings () WITH (TYPE="edgex", FORMAT="json")' }
---
apiVersion: edge.selvedge.dev/v1alpha1
kind: Rule
metadata: { name: all }
spec: { sql: SELECT * FROM readings, actions: [{ nop: {} }] }
"#;
    std::fs::write(config.join("30-rule.yaml"), rule)?;
    let mut edge = Selvedge::start(&data_dir, &["edge"])?;
    eventually("events in the journal", PATIENCE, || {
        let report = edge_report(&data_dir)?;
        if report["journal"]["next"].as_u64() >= Some(10) { Ok(()) } else { Err(report.to_string()) }
    })?;
    let ballast = disk.path().join("ballast");
    let full = eventually("the full disk among the errors", PATIENCE, || {
        // The journal may hold space that it has not used yet, and gives old events up before it drops new ones.
        fill(&ballast).map_err(|error| error.to_string())?;
        let report = edge_report(&data_dir)?;
        let errors = report["lastErrors"].to_string();
        if errors.contains("disk") && errors.contains("dropped") { Ok(report) } else { Err(report.to_string()) }
    })?;
    eventually("a rule that continues", PATIENCE, || {
        let report = edge_report(&data_dir)?;
        if rows_of_the_rule(&report) > rows_of_the_rule(&full) + 10 { Ok(()) } else { Err(report.to_string()) }
    })?;
    std::fs::remove_file(&ballast)?;
    let again = eventually("events in the journal again", PATIENCE, || {
        let report = edge_report(&data_dir)?;
        let is_well = report["lastErrors"].as_array().is_some_and(Vec::is_empty);
        let is_longer = report["journal"]["next"].as_u64() > full["journal"]["next"].as_u64();
        if is_well && is_longer { Ok(report) } else { Err(report.to_string()) }
    })?;
    // What is in the journal is whole: the next start finds it.
    edge.kill();
    edge.start_again("default")?;
    eventually("the journal after a restart", PATIENCE, || {
        let report = edge_report(&data_dir)?;
        if report["journal"]["next"].as_u64() >= again["journal"]["next"].as_u64() {
            Ok(())
        } else {
            Err(report.to_string())
        }
    })?;
    Ok(())
}

/// A file system of a fixed size, so that filling it harms nobody.
pub struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` after a printed reason where mounting is not allowed.
    pub fn mount(bytes: u64) -> Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(dir.path())
            .output()?;
        if !mounted.status.success() {
            testkit::skip(&format!(
                "a small disk cannot be mounted: {}",
                String::from_utf8_lossy(&mounted.stderr).trim()
            ));
            return Ok(None);
        }
        Ok(Some(Self { dir }))
    }

    pub fn path(&self) -> &std::path::Path {
        self.dir.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

/// Writes until nothing more fits; what is there stays.
pub fn fill(path: &std::path::Path) -> Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::File::options().create(true).append(true).open(path)?;
    for size in [1 << 20, 1 << 12, 1] {
        let block = vec![0u8; size];
        while file.write_all(&block).is_ok() {}
    }
    Ok(())
}
