//! Volumes as charts ask for them: a claim without a class, and a node's disk.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use testkit::wait::eventually;

use crate::common::{Fleet, PATIENCE};
use crate::workloads::{FIRST, comes_to_say, fleet, says};

/// A StatefulSet whose pod says what it finds in its volume, and leaves something there.
fn stateful_set(name: &str, storage: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {{ name: {name} }}
spec:
  replicas: 1
  serviceName: {name}
  selector: {{ matchLabels: {{ app: {name} }} }}
  volumeClaimTemplates:
  - metadata: {{ name: data }}
    spec: {{ accessModes: [ReadWriteOnce], resources: {{ requests: {{ storage: {storage} }} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {{ runAsUser: 1000 }}
      containers:
      - name: main
        image: "{FIRST}"
        command: [/bin/sh, -c, "echo found $(cat /data/kept); echo something > /data/kept; trap 'exit 0' TERM; sleep 1000000 & wait"]
        volumeMounts: [{{ name: data, mountPath: /data }}]
"#
    )
}

/// Where the volume of a claim is on the node, as the hub says.
fn directory(fleet: &Fleet, claim: &str) -> Result<(String, PathBuf)> {
    let volume = fleet.kubectl.ok(&["get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}"])?;
    let path = fleet.kubectl.ok(&["get", "pv", &volume, "-o", "jsonpath={.spec.local.path}"])?;
    Ok((volume, path.into()))
}

#[test]
fn a_stateful_set_keeps_its_data_until_its_claim_is_deleted() -> Result<()> {
    let Some(fleet) = fleet()? else { return Ok(()) };
    let kubectl = &fleet.kubectl;
    says(kubectl, &["get", "storageclass"], "local (default)")?;
    kubectl.apply(&stateful_set("db", "1Mi"))?.ok()?;
    says(kubectl, &["rollout", "status", "statefulset/db", "--timeout=60s"], "roll out complete")?;
    comes_to_say(kubectl, &["logs", "db-0"], "found")?;
    ensure!(!kubectl.ok(&["logs", "db-0"])?.contains("something"));
    says(kubectl, &["get", "pvc", "data-db-0"], "Bound")?;
    let (volume, path) = directory(&fleet, "data-db-0")?;
    ensure!(path == fleet.node.data_dir().join("node/volumes").join(&volume), "{}", path.display());
    ensure!(std::fs::read_to_string(path.join("kept"))? == "something\n");

    kubectl.ok(&["delete", "pod", "db-0"])?;
    says(kubectl, &["rollout", "status", "statefulset/db", "--timeout=60s"], "roll out complete")?;
    comes_to_say(kubectl, &["logs", "db-0"], "found something")?;

    // The set leaves its claims, and the claims their data.
    kubectl.ok(&["delete", "statefulset", "db", "--cascade=foreground", "--timeout=60s"])?;
    says(kubectl, &["get", "pvc", "data-db-0"], "Bound")?;
    ensure!(path.join("kept").exists());
    kubectl.ok(&["delete", "pvc", "data-db-0"])?;
    eventually("the removal of the volume's directory", PATIENCE, || match path.exists() {
        true => Err(kubectl.ok(&["get", "pv"]).unwrap_or_default()),
        false => Ok(()),
    })?;
    eventually("the end of the volume", PATIENCE, || {
        let left = kubectl.ok(&["get", "pv", "-o", "name"]).map_err(|error| error.to_string())?;
        if left.is_empty() { Ok(()) } else { Err(left) }
    })?;
    Ok(())
}

#[test]
fn a_volume_that_no_disk_can_hold_is_said() -> Result<()> {
    let Some(fleet) = fleet()? else { return Ok(()) };
    let kubectl = &fleet.kubectl;
    kubectl.apply(&stateful_set("huge", "1Pi"))?.ok()?;
    comes_to_say(kubectl, &["describe", "pod", "huge-0"], "1 node(s) did not have enough free storage")?;
    says(kubectl, &["describe", "pvc", "data-huge-0"], "waiting for pod huge-0 to be scheduled")?;
    Ok(())
}
