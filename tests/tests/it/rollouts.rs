//! Rollouts at the edge's terms, over a hub and a node: the owner of a box holds updates, a canary comes first, and a pod becomes
//! what it is on its node.

use anyhow::{Result, ensure};
use testkit::program::run;
use testkit::wait::eventually;

use crate::common::{Fleet, PATIENCE};
use crate::workloads::{FIRST, SECOND, comes_to_say, fleet, says};

/// The image of the one pod of `web` that nobody has deleted.
fn image(fleet: &Fleet) -> Result<String> {
    let mut images = fleet.kubectl.json(&["pods", "-l", "app=web"])?["items"].as_array().cloned().unwrap_or_default();
    images.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let images: Vec<&str> = images.iter().filter_map(|pod| pod["spec"]["containers"][0]["image"].as_str()).collect();
    ensure!(images.len() == 1, "{images:?}");
    Ok(images[0].to_owned())
}

#[test]
fn the_owner_of_a_box_holds_updates_until_they_are_released() -> Result<()> {
    let Some(fleet) = fleet()? else { return Ok(()) };
    let kubectl = &fleet.kubectl;
    says(kubectl, &["create", "deployment", "web", &format!("--image={FIRST}")], "created")?;
    says(kubectl, &["rollout", "status", "deployment/web", "--timeout=60s"], "successfully rolled out")?;
    let data_dir = fleet.node.data_dir().to_string_lossy().into_owned();
    let wrong = run(["node", "hold-updates", "--for", "soon", "--data-dir", &data_dir])?.refused()?;
    ensure!(wrong.contains("--for"), "{wrong}");
    let nothing = run(["node", "hold-updates", "--for", "0s", "--data-dir", &data_dir])?.refused()?;
    ensure!(nothing.contains("release-updates"), "{nothing}");
    let held = run(["node", "hold-updates", "--data-dir", &data_dir])?.ok()?;
    ensure!(held.contains("release-updates"), "{held}");
    let annotation = "jsonpath={.metadata.annotations.selvedge\\.dev/hold-updates}";
    comes_to_say(kubectl, &["get", "node", "edge-1", "-o", annotation], "true")?;

    says(kubectl, &["set", "image", "deployment/web", &format!("box={SECOND}")], "updated")?;
    let skipped = "jsonpath={.status.conditions[?(@.type==\"NodesSkipped\")].message}";
    comes_to_say(kubectl, &["get", "deployment", "web", "-o", skipped], "edge-1")?;
    let progress = "jsonpath={.status.conditions[?(@.type==\"Progressing\")].reason}";
    comes_to_say(kubectl, &["get", "deployment", "web", "-o", progress], "NodesSkipped")?;
    ensure!(image(&fleet)? == FIRST, "the pod was updated against its owner's word");

    let released = run(["node", "release-updates", "--data-dir", &data_dir])?.ok()?;
    ensure!(released.contains("released"), "{released}");
    says(kubectl, &["rollout", "status", "deployment/web", "--timeout=60s"], "successfully rolled out")?;
    ensure!(image(&fleet)? == SECOND, "the pod is not updated");
    let condition = kubectl.ok(&["get", "deployment", "web", "-o", skipped])?;
    ensure!(condition.is_empty(), "{condition}");
    let again = run(["node", "release-updates", "--data-dir", &data_dir])?.ok()?;
    ensure!(again.contains("not held"), "{again}");
    Ok(())
}

#[test]
fn a_template_that_fails_on_the_canary_is_put_back() -> Result<()> {
    let Some(fleet) = fleet()? else { return Ok(()) };
    let kubectl = &fleet.kubectl;
    says(kubectl, &["label", "node", "edge-1", "site=pilot"], "labeled")?;
    says(kubectl, &["create", "deployment", "web", &format!("--image={FIRST}")], "created")?;
    says(kubectl, &["rollout", "status", "deployment/web", "--timeout=60s"], "successfully rolled out")?;
    let marks = ["selvedge.dev/canary=site=pilot", "selvedge.dev/canary-wait=2s"];
    says(kubectl, &["annotate", "deployment", "web", marks[0], marks[1]], "annotated")?;
    let reason = "jsonpath={.status.conditions[?(@.type==\"Canary\")].reason}";

    says(kubectl, &["set", "image", "deployment/web", &format!("box={SECOND}")], "updated")?;
    comes_to_say(kubectl, &["get", "deployment", "web", "-o", reason], "Passed")?;
    says(kubectl, &["rollout", "status", "deployment/web", "--timeout=60s"], "successfully rolled out")?;
    ensure!(image(&fleet)? == SECOND, "the pod is not updated");

    // It ends at once, is restarted, and that is a failure.
    let broken =
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"box","command":["/bin/sh","-c","exit 3"]}]}}}}"#;
    says(kubectl, &["patch", "deployment", "web", "-p", broken], "patched")?;
    comes_to_say(kubectl, &["get", "deployment", "web", "-o", reason], "RolledBack")?;
    let message = "jsonpath={.status.conditions[?(@.type==\"Canary\")].message}";
    says(kubectl, &["get", "deployment", "web", "-o", message], "container box was restarted (exit code 3)")?;
    says(kubectl, &["rollout", "status", "deployment/web", "--timeout=60s"], "successfully rolled out")?;
    eventually("the former pod alone", PATIENCE, || image(&fleet).map_err(|error| error.to_string()).map(|_| ()))?;
    let command = "jsonpath={.spec.template.spec.containers[0].command}";
    let command = kubectl.ok(&["get", "deployment", "web", "-o", command])?;
    ensure!(command.is_empty(), "{command} is the template that failed");
    Ok(())
}

#[test]
fn a_pod_becomes_what_it_is_on_its_node() -> Result<()> {
    let Some(fleet) = fleet()? else { return Ok(()) };
    let kubectl = &fleet.kubectl;
    says(kubectl, &["label", "node", "edge-1", "accelerator=orin"], "labeled")?;
    let variants = serde_json::json!([
        {"name": "jetson", "nodeSelector": {"accelerator": "orin"},
         "containers": [{"name": "box", "image": SECOND, "env": [{"name": "DEVICE", "value": "cuda"}]}]},
    ]);
    let with = |variants: &str| {
        serde_json::json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}, "annotations": {"selvedge.dev/variants": variants}},
                    "spec": {"containers": [{"name": "box", "image": FIRST}]},
                },
            },
        })
    };
    let path = fleet.dir.path().join("web.json");
    let file = path.to_string_lossy().into_owned();
    std::fs::write(&path, with(&variants.to_string().replace("\"env\"", "\"environment\"")).to_string())?;
    let refused = kubectl.run(&["apply", "-f", &file])?.refused()?;
    ensure!(refused.contains("environment"), "{refused}");
    std::fs::write(&path, with(&variants.to_string()).to_string())?;
    says(kubectl, &["apply", "-f", &file], "created")?;
    says(kubectl, &["rollout", "status", "deployment/web", "--timeout=60s"], "successfully rolled out")?;
    ensure!(image(&fleet)? == SECOND, "it is what the template says");
    comes_to_say(kubectl, &["logs", "deployment/web"], &format!("I am {SECOND}"))?;
    let variant = "jsonpath={.items[0].metadata.annotations.selvedge\\.dev/variant}";
    says(kubectl, &["get", "pods", "-l", "app=web", "-o", variant], "jetson")?;
    let environment = "jsonpath={.items[0].spec.containers[0].env[?(@.name==\"DEVICE\")].value}";
    says(kubectl, &["get", "pods", "-l", "app=web", "-o", environment], "cuda")
}
