//! What everyone types first: workloads with kubectl, over a hub and a node that runs their containers.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::kubectl::Kubectl;
use testkit::wait::eventually;

use crate::common::{Fleet, PATIENCE};

pub(crate) const FIRST: &str = "example.com/box:1";
pub(crate) const SECOND: &str = "example.com/box:2";

/// A fleet whose node has two images, whose containers say which they are of.
pub(crate) fn fleet() -> Result<Option<Fleet>> {
    Fleet::with_images(&[FIRST, SECOND].map(|name| {
        let command = format!("trap 'exit 0' TERM; echo I am {name}; sleep 1000000 & wait");
        (name.to_owned(), json!({"Env": ["PATH=/bin"], "Cmd": ["/bin/sh", "-c", command]}))
    }))
}

pub(crate) fn says(kubectl: &Kubectl, args: &[&str], expected: &str) -> Result<()> {
    let said = kubectl.ok(args)?;
    ensure!(said.contains(expected), "kubectl {args:?}: {said}");
    Ok(())
}

/// Waits until `kubectl` prints it.
pub(crate) fn comes_to_say(kubectl: &Kubectl, args: &[&str], expected: &str) -> Result<()> {
    eventually(&format!("{expected:?} of kubectl {args:?}"), PATIENCE, || {
        let said = kubectl.ok(args).map_err(|error| error.to_string())?;
        if said.contains(expected) { Ok(()) } else { Err(said) }
    })
}

fn pods(kubectl: &Kubectl, label: &str) -> Result<Vec<Value>> {
    let mut pods = kubectl.json(&["pods", "-l", label])?["items"].as_array().cloned().unwrap_or_default();
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    Ok(pods)
}

#[test]
fn a_deployment_is_created_scaled_updated_undone_exposed_and_drained() -> Result<()> {
    let Some(fleet) = fleet()? else { return Ok(()) };
    for (version, program) in Kubectl::installed() {
        let kubectl = Kubectl::new(program, &fleet.dir.path().join("hub/kubeconfig"));
        let name = format!("web-{}", version.replace('.', "-"));
        let deployment = format!("deployment/{name}");
        let label = format!("app={name}");
        says(&kubectl, &["create", "deployment", &name, &format!("--image={FIRST}"), "--replicas=2"], "created")?;
        says(&kubectl, &["rollout", "status", &deployment, "--timeout=60s"], "successfully rolled out")?;
        says(&kubectl, &["logs", &deployment], "I am example.com/box:1")?;
        says(&kubectl, &["scale", &deployment, "--replicas=3"], "scaled")?;
        says(
            &kubectl,
            &["wait", &deployment, "--for=jsonpath={.status.readyReplicas}=3", "--timeout=60s"],
            "condition met",
        )?;

        says(&kubectl, &["set", "image", &deployment, &format!("box={SECOND}")], "image updated")?;
        says(&kubectl, &["rollout", "status", &deployment, "--timeout=60s"], "successfully rolled out")?;
        ensure!(pods(&kubectl, &label)?.iter().all(|pod| pod["spec"]["containers"][0]["image"] == SECOND));
        says(&kubectl, &["rollout", "history", &deployment], "2         <none>")?;
        says(&kubectl, &["rollout", "undo", &deployment], "rolled back")?;
        says(&kubectl, &["rollout", "status", &deployment, "--timeout=60s"], "successfully rolled out")?;
        ensure!(pods(&kubectl, &label)?.iter().all(|pod| pod["spec"]["containers"][0]["image"] == FIRST));
        says(&kubectl, &["rollout", "restart", &deployment], "restarted")?;
        says(&kubectl, &["rollout", "status", &deployment, "--timeout=60s"], "successfully rolled out")?;
        says(&kubectl, &["describe", &deployment], "ScalingReplicaSet")?;

        says(&kubectl, &["expose", &deployment, "--port=80"], "exposed")?;
        // This node has no network of pods, so that nobody is reached there.
        comes_to_say(
            &kubectl,
            &["get", "endpointslices", "-l", &format!("kubernetes.io/service-name={name}")],
            "IPv4",
        )?;
        says(&kubectl, &["autoscale", &deployment, "--min=2", "--max=4", "--cpu-percent=80"], "autoscaled")?;
        comes_to_say(&kubectl, &["describe", "hpa", &name], "SucceededGetScale")?;
        kubectl.ok(&["delete", "hpa", &name])?;

        says(
            &kubectl,
            &["create", "poddisruptionbudget", &name, &format!("--selector={label}"), "--min-available=3"],
            "created",
        )?;
        comes_to_say(&kubectl, &["get", "pdb", &name, "-o", "jsonpath={.status.currentHealthy}"], "3")?;
        kubectl.ok(&["cordon", "edge-1"])?;
        let drained = kubectl.run(&["drain", "edge-1", "--pod-selector", &label, "--timeout=2s"])?;
        let drained = drained.stdout + &drained.stderr;
        ensure!(drained.contains("would violate the pod's disruption budget"), "{drained}");
        kubectl.ok(&["delete", "pdb", &name])?;
        says(&kubectl, &["drain", "edge-1", "--pod-selector", &label, "--timeout=60s"], "drained")?;
        // Nobody takes them now, and they say so.
        comes_to_say(
            &kubectl,
            &["describe", "pods", "-l", &label, "--show-events"],
            "0/1 nodes are available: 1 node(s) were unschedulable",
        )?;
        kubectl.ok(&["uncordon", "edge-1"])?;
        says(&kubectl, &["rollout", "status", &deployment, "--timeout=60s"], "successfully rolled out")?;
        says(&kubectl, &["delete", &deployment, "--cascade=foreground", "--timeout=60s"], "deleted")?;
        ensure!(pods(&kubectl, &label)?.is_empty());
        kubectl.ok(&["delete", "service", &name])?;
    }
    Ok(())
}

#[test]
fn jobs_run_to_their_end_and_cron_jobs_start_them() -> Result<()> {
    let Some(fleet) = fleet()? else { return Ok(()) };
    let kubectl = &fleet.kubectl;
    says(kubectl, &["create", "job", "once", &format!("--image={FIRST}"), "--", "echo", "done"], "created")?;
    says(kubectl, &["wait", "job/once", "--for=condition=complete", "--timeout=60s"], "condition met")?;
    says(kubectl, &["logs", "job/once"], "done")?;
    says(kubectl, &["get", "jobs"], "1/1")?;
    says(
        kubectl,
        &["create", "cronjob", "often", &format!("--image={FIRST}"), "--schedule=* * * * *", "--", "echo", "tick"],
        "created",
    )?;
    says(kubectl, &["create", "job", "by-hand", "--from=cronjob/often"], "created")?;
    says(kubectl, &["wait", "job/by-hand", "--for=condition=complete", "--timeout=60s"], "condition met")?;
    says(kubectl, &["describe", "cronjob", "often"], "Schedule:                      * * * * *")?;
    kubectl.ok(&["delete", "cronjob", "often"])?;

    let set = format!(
        r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {{ name: db }}
spec:
  replicas: 2
  serviceName: db
  selector: {{ matchLabels: {{ app: db }} }}
  template:
    metadata: {{ labels: {{ app: db }} }}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{{ name: main, image: "{FIRST}" }}]
"#
    );
    kubectl.apply(&set)?.ok()?;
    says(kubectl, &["rollout", "status", "statefulset/db", "--timeout=60s"], "partitioned roll out complete")?;
    let mut names: Vec<Value> = pods(kubectl, "app=db")?.iter().map(|pod| pod["metadata"]["name"].clone()).collect();
    names.sort_by_key(ToString::to_string);
    ensure!(names == ["db-0", "db-1"], "{names:?}");
    kubectl.ok(&["delete", "statefulset", "db", "--cascade=foreground", "--timeout=60s"])?;
    Ok(())
}
