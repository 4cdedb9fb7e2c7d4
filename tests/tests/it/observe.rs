//! What an operator sees: what each role reports, and its page of metrics.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testkit::program::run;
use testkit::wait::eventually;
use testkit::wire::figure;

use crate::common::{PATIENCE, Up, make_gateway, root, stored_readings, wait_pods};

/// What a role answers on its socket.
fn on_socket(socket: &Path, path: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a head")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    ensure!(!path.starts_with("/metrics") || head.contains("application/openmetrics-text"), "{head}");
    Ok(body.to_owned())
}

#[test]
fn every_role_shows_its_figures_and_they_are_what_was_done() -> Result<()> {
    let example = root().join("examples/first-light");
    let Some(up) = Up::start(&["--example", &example.to_string_lossy()])? else { return Ok(()) };
    make_gateway(&up.kubectl, "box")?;
    for app in ["app=heartbeat", "app=greeter", "app=hello", "app=ask"] {
        wait_pods(&up.kubectl, app, 1)?;
    }
    let stored = eventually("readings of the host at the hub", PATIENCE, || {
        let found = stored_readings(&up.kubectl, "box", "host", "CpuUsage").map_err(|error| error.to_string())?;
        if found.len() >= 3 { Ok(found.len()) } else { Err(format!("{} readings", found.len())) }
    })?;
    let sockets = up.program.data_dir().join("run");

    let hub = up.kubectl.ok(&["get", "--raw", "/metrics"])?;
    ensure!(hub.contains("selvedge_build_info{role=\"hub\""), "{hub}");
    // Namespaces are there, a DaemonSet was rolled out, and nothing fails.
    for controller in ["namespaces", "daemonsets", "assignments"] {
        ensure!(figure(&hub, &format!("selvedge_controller_runs_total{{name=\"{controller}\"}}"))? > 0.0, "{hub}");
        ensure!(figure(&hub, &format!("selvedge_controller_synced{{name=\"{controller}\"}}"))? == 1.0, "{hub}");
    }
    ensure!(figure(&hub, "selvedge_telemetry_events")? >= stored as f64);

    let node = on_socket(&sockets.join("node.sock"), "/metrics")?;
    ensure!(node.contains("selvedge_build_info{role=\"node\""), "{node}");
    ensure!(figure(&node, "selvedge_node_pods{phase=\"Running\"}")? == 4.0, "{node}");
    ensure!(figure(&node, "selvedge_node_pods_ready")? == 4.0, "{node}");
    ensure!(figure(&node, "selvedge_node_pod_restarts")? == 0.0, "{node}");
    ensure!(figure(&node, "selvedge_node_connected")? == 1.0, "{node}");
    ensure!(figure(&node, "selvedge_node_connections_total")? >= 1.0, "{node}");
    ensure!(figure(&node, "kubelet_pod_worker_duration_seconds_count")? >= 4.0, "{node}");

    // What it shows is at most a second old, and an acknowledgement is on its way when the hub has the readings.
    let made = "selvedge_edge_events_total{kind=\"Device\",name=\"default/host\"}";
    let acknowledged = "selvedge_edge_export_acknowledged_offset{name=\"default/everything\"}";
    let edge = eventually("the edge's figures", PATIENCE, || {
        let page = on_socket(&sockets.join("edge.sock"), "/metrics").map_err(|error| error.to_string())?;
        let shown = |name: &str| figure(&page, name).map_err(|error| error.to_string());
        let (made, acknowledged) = (shown(made)?, shown(acknowledged)?);
        if made.min(acknowledged) >= stored as f64 {
            Ok(page)
        } else {
            Err(format!("{made} events, {acknowledged} acknowledged, {stored} stored"))
        }
    })?;
    ensure!(edge.contains("selvedge_build_info{role=\"edge\""), "{edge}");
    ensure!(figure(&edge, "selvedge_edge_errors_total{kind=\"Rule\",name=\"default/cpu-average\"}")? == 0.0);
    ensure!(figure(&edge, acknowledged)? <= figure(&edge, "selvedge_edge_journal_next_offset")?, "{edge}");
    Ok(())
}

#[test]
fn the_status_names_each_controller_that_is_not_well() -> Result<()> {
    let Some(up) = Up::start(&[])? else { return Ok(()) };
    let raw = up.kubectl.raw("/statusz/controllers")?;
    ensure!(raw["version"] == 1, "{raw}");
    let names: Vec<&str> =
        raw["controllers"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect();
    ensure!(names.contains(&"daemonsets") && names.contains(&"garbage") && names.is_sorted(), "{names:?}");
    // For administrators only: messages of errors name objects.
    let rejection = up.kubectl.refused(&["get", "--raw", "/statusz/controllers", "--as", "bob"])?;
    ensure!(rejection.contains("bob") && rejection.contains("orbidden"), "{rejection}");

    let data_dir = up.program.data_dir().to_string_lossy().into_owned();
    eventually("controllers that are well", PATIENCE, || {
        let printed = run(["status", "--data-dir", &data_dir]).and_then(|outcome| outcome.ok());
        let text = printed.map_err(|error| error.to_string())?;
        if text.contains("CONTROLLERS: all ") { Ok(()) } else { Err(text) }
    })?;
    let json = run(["status", "-o", "json", "--data-dir", &data_dir])?.ok()?;
    let status: Value = serde_json::from_str(&json)?;
    let listed = status["hub"]["controllers"].as_array().context("a list")?;
    ensure!(listed.len() == names.len() && listed.iter().all(|one| one["synced"] == true), "{json}");
    ensure!(listed.iter().any(|one| one["lastRun"].is_string() && one["lastDurationSeconds"].is_number()), "{json}");
    Ok(())
}
