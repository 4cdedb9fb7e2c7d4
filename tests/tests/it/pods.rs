//! Pods survive what happens to gateways: a killed node, a killed hub, both.

use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::Value;
use testkit::process;
use testkit::wait::eventually;

use crate::common::{Fleet, PATIENCE, Up, example_manifest, kill_with_pods, make_gateway, wait_condition, wait_pods};

/// Start time and restart count of a pod's container.
fn life(pod: &Value) -> (Value, Value) {
    let status = &pod["status"]["containerStatuses"][0];
    (status["state"]["running"]["startedAt"].clone(), status["restartCount"].clone())
}

#[test]
fn pods_are_adopted_when_the_node_alone_is_killed() -> Result<()> {
    let Some(mut fleet) = Fleet::start()? else { return Ok(()) };
    make_gateway(&fleet.kubectl, "edge-1")?;
    fleet.kubectl.apply(&example_manifest("50-workloads.yaml", "edge-1")?)?.ok()?;
    let heartbeat = life(&wait_pods(&fleet.kubectl, "app=heartbeat", 1)?[0]);
    let greeter = life(&wait_pods(&fleet.kubectl, "app=greeter", 1)?[0]);
    for _ in 0..if crate::common::is_full() { 20 } else { 3 } {
        fleet.node.kill();
        fleet.node.start_again("ephemeral")?;
        fleet.node.address("node-kubelet")?;
        assert_eq!(life(&wait_pods(&fleet.kubectl, "app=heartbeat", 1)?[0]), heartbeat);
        assert_eq!(life(&wait_pods(&fleet.kubectl, "app=greeter", 1)?[0]), greeter);
    }
    let mine = fleet.dir.path().to_string_lossy().into_owned();
    let mut started: Vec<String> = process::find(|words| words.get(1).is_some_and(|word| word == "shim"))
        .into_iter()
        .filter_map(|(_, words)| words.get(2).filter(|dir| dir.contains(&mine)).cloned())
        .collect();
    started.sort();
    // A shim and the first process of its container bear the same name.
    started.dedup();
    let greeters = started.iter().filter(|dir| dir.contains("_greeter_")).count();
    let heartbeats = started.iter().filter(|dir| dir.contains("_heartbeat_")).count();
    assert_eq!((greeters, heartbeats), (1, 1), "{started:?}");
    Ok(())
}

#[test]
fn everything_is_back_with_no_hub_after_node_and_pods_were_killed() -> Result<()> {
    let Some(mut fleet) = Fleet::start()? else { return Ok(()) };
    make_gateway(&fleet.kubectl, "edge-1")?;
    for file in ["10-profile.yaml", "20-device.yaml", "30-rule.yaml", "40-export.yaml", "50-workloads.yaml"] {
        fleet.kubectl.apply(&example_manifest(file, "edge-1")?)?.ok()?;
    }
    wait_pods(&fleet.kubectl, "app=greeter", 1)?;
    wait_condition(&fleet.kubectl, &["rule", "cpu-average"], "Ready", "True")?;
    wait_condition(&fleet.kubectl, &["device", "host"], "Ready", "True")?;
    fleet.hub.kill();
    kill_with_pods(&mut fleet.node)?;
    let start = Instant::now();
    fleet.node.start_again("ephemeral")?;
    let status = eventually("pods, devices and rules without a hub", PATIENCE, || {
        let data_dir = fleet.node.data_dir().to_string_lossy().into_owned();
        let printed = testkit::program::run(["status", "-o", "json", "--data-dir", &data_dir])
            .and_then(|outcome| outcome.ok())
            .map_err(|error| error.to_string())?;
        let status: Value = serde_json::from_str(&printed).map_err(|error| error.to_string())?;
        let pods = status["node"]["pods"].as_array().cloned().unwrap_or_default();
        let ready_pods = pods
            .iter()
            .filter(|pod| pod["ready"] == true && pod["pod"].as_str().is_some_and(|name| name.starts_with("default/")))
            .count();
        let entries = status["edge"]["entries"].as_array().cloned().unwrap_or_default();
        let ready = |kind: &str| entries.iter().any(|entry| entry["kind"] == kind && entry["ready"] == true);
        if ready_pods == 2 && ready("Device") && ready("Rule") { Ok(status) } else { Err(printed) }
    })?;
    println!("pods, devices and rules were back {} ms after the start, with no hub", start.elapsed().as_millis());
    assert_eq!(status["node"]["connected"], false, "{status}");
    // The hub comes back and sees the same pods, not new ones.
    fleet.hub_again()?;
    wait_pods(&fleet.kubectl, "app=greeter", 1)?;
    Ok(())
}

#[test]
fn configuration_secrets_and_probes_reach_the_container() -> Result<()> {
    let Some(up) = Up::start(&[])? else { return Ok(()) };
    up.kubectl.ok(&["create", "secret", "generic", "key", "--from-literal=pin=1234"])?;
    up.kubectl.ok(&["create", "configmap", "settings", "--from-literal=colour=green"])?;
    up.kubectl.apply(r#"
apiVersion: v1
kind: Pod
metadata: { name: reader }
spec:
  nodeName: box
  runtimeClassName: selvedge-process
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
    - name: reader
      image: file:///bin/sh
      args: ["-c", "cat /etc/selvedge-test/settings/colour /etc/selvedge-test/key/pin; echo; echo $PIN $colour $X_pin; echo scratch > /etc/selvedge-test/scratch/file; cat /etc/selvedge-test/scratch/file; exit 3"]
      env:
        - { name: PIN, valueFrom: { secretKeyRef: { name: key, key: pin } } }
      envFrom:
        - { prefix: "", configMapRef: { name: settings } }
        - { prefix: "X_", secretRef: { name: key } }
      volumeMounts:
        - { name: settings, mountPath: /etc/selvedge-test/settings }
        - { name: key, mountPath: /etc/selvedge-test/key }
        - { name: scratch, mountPath: /etc/selvedge-test/scratch }
  volumes:
    - { name: settings, configMap: { name: settings } }
    - { name: key, secret: { secretName: key } }
    - { name: scratch, emptyDir: {} }
"#)?.ok()?;
    let pod = eventually("the pod's end", PATIENCE, || {
        let pod = up.kubectl.json(&["pod", "reader"]).map_err(|error| error.to_string())?;
        if pod["status"]["phase"] == "Failed" { Ok(pod) } else { Err(pod["status"].to_string()) }
    })?;
    let state = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((state["exitCode"].as_i64(), state["reason"].as_str()), (Some(3), Some("Error")), "{pod}");
    // A node that has just joined may still wait for its serving certificate.
    let log =
        eventually("the log", PATIENCE, || up.kubectl.ok(&["logs", "reader"]).map_err(|error| error.to_string()))?;
    assert_eq!(log, "green1234\n1234 green 1234\nscratch\n", "{log}");
    Ok(())
}

#[test]
fn a_failing_liveness_probe_restarts_the_container_and_back_off_holds_it() -> Result<()> {
    let Some(up) = Up::start(&[])? else { return Ok(()) };
    up.kubectl
        .apply(
            r#"
apiVersion: v1
kind: Pod
metadata: { name: sick }
spec:
  nodeName: box
  runtimeClassName: selvedge-process
  terminationGracePeriodSeconds: 1
  containers:
    - name: sick
      image: file:///bin/sleep
      args: ["3600"]
      livenessProbe: { exec: { command: [/bin/false] }, periodSeconds: 1, failureThreshold: 1 }
---
apiVersion: v1
kind: Pod
metadata: { name: quitter }
spec:
  nodeName: box
  runtimeClassName: selvedge-process
  containers:
    - { name: quitter, image: "file:///bin/false" }
"#,
        )?
        .ok()?;
    eventually("a restart", PATIENCE, || {
        let pod = up.kubectl.json(&["pod", "sick"]).map_err(|error| error.to_string())?;
        let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_i64();
        if restarts >= Some(1) { Ok(()) } else { Err(pod["status"].to_string()) }
    })?;
    eventually("CrashLoopBackOff", PATIENCE, || {
        let pods = up.kubectl.ok(&["get", "pod", "quitter"]).map_err(|error| error.to_string())?;
        if pods.contains("CrashLoopBackOff") { Ok(()) } else { Err(pods) }
    })?;
    eventually("events of both", PATIENCE, || {
        let events = up.kubectl.ok(&["get", "events"]).map_err(|error| error.to_string())?;
        if events.contains("Unhealthy") && events.contains("BackOff") { Ok(()) } else { Err(events) }
    })?;
    up.kubectl.ok(&["delete", "pod", "sick", "quitter", "--timeout=60s"]).context("deletion waits for the node")?;
    Ok(())
}

#[test]
fn a_debug_container_that_no_node_runs_says_so() -> Result<()> {
    let Some(up) = Up::start(&[])? else { return Ok(()) };
    up.kubectl
        .apply(
            r#"
apiVersion: v1
kind: Pod
metadata: { name: patient }
spec:
  nodeName: box
  runtimeClassName: selvedge-process
  terminationGracePeriodSeconds: 1
  containers:
    - { name: main, image: "file:///bin/sh", args: ["-c", "echo here; exec sleep 3600"] }
"#,
        )?
        .ok()?;
    eventually("the log", PATIENCE, || match up.kubectl.ok(&["logs", "patient"]) {
        Ok(log) if log == "here\n" => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    up.kubectl.ok(&["debug", "patient", "--image=busybox", "--attach=false", "-c", "look"])?;
    let why = "ephemeral containers are run in pods of images only";
    eventually("a container that waits", PATIENCE, || {
        let pod = up.kubectl.json(&["pod", "patient"]).map_err(|error| error.to_string())?;
        let look = &pod["status"]["ephemeralContainerStatuses"][0];
        let waiting = &look["state"]["waiting"];
        let is_said = waiting["message"].as_str().is_some_and(|message| message.contains(why));
        let is_ready = pod["status"]["containerStatuses"][0]["ready"] == true;
        if look["name"] == "look" && waiting["reason"] == "NotSupported" && is_said && is_ready {
            Ok(())
        } else {
            Err(pod["status"].to_string())
        }
    })?;
    eventually("an event", PATIENCE, || {
        let events = up.kubectl.ok(&["get", "events"]).map_err(|error| error.to_string())?;
        let said: Vec<&str> = events.lines().filter(|line| line.contains(why)).collect();
        if said.len() == 1 { Ok(()) } else { Err(events) }
    })?;
    // As of any container that waits: what the others wrote is shown all the same.
    let said = up.kubectl.run(&["logs", "patient", "--all-containers"])?;
    let words = "container \"look\" in pod \"patient\" is waiting to start: NotSupported";
    anyhow::ensure!(said.stderr.contains(words), "{said:?}");
    let said = up.kubectl.run(&["logs", "patient", "--all-containers", "--ignore-errors"])?;
    anyhow::ensure!(said.code == 0 && said.stdout.contains("here"), "{said:?}");
    Ok(())
}
