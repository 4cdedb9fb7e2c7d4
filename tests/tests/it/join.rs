//! A node joins by token, keeps what it learned, and refuses a hub that is not the token's.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use testkit::kubectl::Kubectl;
use testkit::program::Selvedge;
use testkit::wait::eventually;

use crate::common::{
    Fleet, PATIENCE, condition, example_manifest, is_full, make_gateway, node_is_ready, token, wait_pods,
};

#[test]
fn a_labelled_node_runs_the_gateways_pods_and_stops_them_with_the_label() -> Result<()> {
    let Some(mut fleet) = Fleet::start()? else { return Ok(()) };
    fleet.kubectl.apply(&example_manifest("50-workloads.yaml", "edge-1")?)?.ok()?;
    // Without the label nothing may start: the DaemonSets have seen the node when they count it out.
    eventually("DaemonSets that want no node", PATIENCE, || {
        let sets = fleet.kubectl.json(&["ds"]).map_err(|error| error.to_string())?;
        let status = |index: usize| sets["items"][index]["status"]["observedGeneration"].clone();
        if status(0) == 1 && status(1) == 1 { Ok(()) } else { Err(sets.to_string()) }
    })?;
    assert_eq!(fleet.kubectl.ok(&["get", "pods", "-o", "name"])?, "");
    make_gateway(&fleet.kubectl, "edge-1")?;
    wait_pods(&fleet.kubectl, "app=heartbeat", 1)?;
    wait_pods(&fleet.kubectl, "app=greeter", 1)?;
    fleet.kubectl.ok(&["label", "node", "edge-1", "selvedge.dev/role-"])?;
    wait_pods(&fleet.kubectl, "app=heartbeat", 0)?;
    wait_pods(&fleet.kubectl, "app=greeter", 0)?;

    // A node that has joined starts again without its token.
    fleet.node.kill();
    fleet.node.change_args(|args| {
        let at = args.iter().position(|arg| arg == "--token").expect("the first start had a token");
        args.drain(at..at + 2);
        // Nor does it need its name or its hub.
        let at = args.iter().position(|arg| arg == "--hub").expect("the first start had a hub");
        args.drain(at..at + 2);
        let at = args.iter().position(|arg| arg == "--node-name").expect("the first start had a name");
        args.drain(at..at + 2);
    });
    fleet.node.start_again("ephemeral")?;
    make_gateway(&fleet.kubectl, "edge-1")?;
    wait_pods(&fleet.kubectl, "app=greeter", 1)?;
    Ok(())
}

#[test]
fn a_second_node_joins_beside_the_first() -> Result<()> {
    let Some(fleet) = Fleet::start()? else { return Ok(()) };
    let token = token(&fleet.dir.path().join("hub"))?;
    let url = format!("https://{}", fleet.hub_address);
    let _second = Selvedge::start(
        &fleet.dir.path().join("second"),
        &["node", "--hub", &url, "--token", &token, "--node-name", "edge-2"],
    )?;
    node_is_ready(&fleet.kubectl, "edge-2")?;
    // One certificate to show the hub, one to show those who ask the node.
    eventually("the second node's serving certificate", PATIENCE, || {
        let list = fleet.kubectl.json(&["csr"]).map_err(|error| error.to_string())?;
        let requests: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
        let own = requests.iter().filter(|request| request["spec"]["username"] == "system:node:edge-2");
        let states: Vec<bool> = own.map(|request| request["status"]["certificate"].is_string()).collect();
        if states == [true] { Ok(()) } else { Err(format!("{states:?} of {} requests", requests.len())) }
    })
}

#[test]
fn a_wrong_ca_in_the_token_is_refused() -> Result<()> {
    let Some(fleet) = Fleet::start()? else { return Ok(()) };
    let token = token(&fleet.dir.path().join("hub"))?;
    let mut parts: Vec<&str> = token.split('.').collect();
    let wrong = "0".repeat(64);
    parts[1] = &wrong;
    let url = format!("https://{}", fleet.hub_address);
    let mut stranger = Selvedge::start(
        &fleet.dir.path().join("stranger"),
        &["node", "--hub", &url, "--token", &parts.join("."), "--node-name", "stranger"],
    )?;
    let status = stranger.wait(PATIENCE)?;
    let log = stranger.log();
    assert!(!status.success() && log.contains("is not the one that the token was made on"), "{log}");
    let refusal = fleet.kubectl.refused(&["get", "node", "stranger"])?;
    assert!(refusal.contains("NotFound"), "{refusal}");
    assert!(fleet.kubectl.ok(&["get", "csr", "-o", "name"])?.lines().all(|name| !name.contains("stranger")));
    Ok(())
}

/// kubectl with what a thief finds on the gateway.
fn as_node(fleet: &Fleet) -> Result<Kubectl> {
    let identity = std::fs::read_to_string(fleet.dir.path().join("node/node/pki/identity.json"))?;
    let identity: serde_json::Value = serde_json::from_str(&identity)?;
    let folder = fleet.dir.path().join("thief");
    std::fs::create_dir(&folder)?;
    for (name, field) in [("ca.pem", "caPem"), ("cert.pem", "certPem"), ("key.pem", "keyPem")] {
        std::fs::write(folder.join(name), identity[field].as_str().context("PEM")?)?;
    }
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: 'https://{}', certificate-authority: ca.pem}}}}]\n\
         users: [{{name: u, user: {{client-certificate: cert.pem, client-key: key.pem}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
        fleet.hub_address.replace("0.0.0.0", "127.0.0.1")
    );
    std::fs::write(folder.join("kubeconfig"), kubeconfig)?;
    Kubectl::newest(&folder.join("kubeconfig")).context("there was one a moment ago")
}

#[test]
fn a_stolen_gateway_gives_away_itself_and_nothing_else() -> Result<()> {
    let Some(fleet) = Fleet::start()? else { return Ok(()) };
    fleet.kubectl.ok(&["create", "secret", "generic", "other", "--from-literal=k=v"])?;
    fleet.kubectl.ok(&["label", "node", "edge-1", "node-restriction.kubernetes.io/zone=a"])?;
    let thief = as_node(&fleet)?;
    assert!(thief.ok(&["get", "node", "edge-1", "-o", "name"])?.contains("node/edge-1"));
    for act in [
        &["get", "secrets", "-A"][..],
        &["get", "secret", "other"],
        &["get", "configmaps", "-A"],
        &["get", "nodes"],
        &["get", "pods", "-A"],
        &["delete", "node", "edge-1"],
        &["taint", "node", "edge-1", "a=b:NoSchedule"],
        &["label", "node", "edge-1", "node-restriction.kubernetes.io/zone=b", "--overwrite"],
        &["create", "configmap", "mine"],
        &["get", "--raw", "/telemetry/v1/readings"],
    ] {
        let refusal = thief.refused(act)?;
        assert!(refusal.to_lowercase().contains("forbidden"), "{act:?}: {refusal}");
    }
    // A mirror pod that names a Secret would be a key to it.
    let mirror = |volumes: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: m\n  annotations: {{kubernetes.io/config.mirror: x}}\n\
             spec:\n  nodeName: edge-1\n  containers: [{{name: a, image: 'file:///bin/true'}}]\n{volumes}"
        )
    };
    let create = |manifest: String| {
        let file = fleet.dir.path().join("mirror.yaml");
        std::fs::write(&file, manifest)?;
        thief.run(&["create", "--validate=false", "-f", &file.to_string_lossy()])
    };
    let refusal = create(mirror("  volumes: [{name: v, secret: {secretName: other}}]\n"))?.refused()?;
    assert!(refusal.contains("refer to secrets or config maps"), "{refusal}");
    create(mirror(""))?.ok()?;
    Ok(())
}

fn is_out_of_reach(fleet: &Fleet) -> Result<()> {
    let taint = "node.kubernetes.io/unreachable";
    eventually("a node marked as out of reach", SILENCE, || {
        let node = fleet.kubectl.json(&["node", "edge-1"]).map_err(|error| error.to_string())?;
        let ready = condition(&node, "Ready").unwrap_or_default();
        let is_tainted =
            node["spec"]["taints"].as_array().is_some_and(|taints| taints.iter().any(|one| one["key"] == taint));
        if ready["status"] == "Unknown" && is_tainted { Ok(()) } else { Err(format!("{ready} {}", node["spec"])) }
    })
}

/// A machine that slept keeps its connections: nothing tells the node that it was away.
#[test]
fn a_node_that_slept_is_ready_when_it_wakes() -> Result<()> {
    if !is_full() {
        eprintln!("skipped: takes a minute; runs with `cargo xtask test --all`");
        return Ok(());
    }
    let Some(fleet) = Fleet::start()? else { return Ok(()) };
    fleet.node.freeze();
    let marked = is_out_of_reach(&fleet);
    fleet.node.thaw();
    marked?;
    node_is_ready(&fleet.kubectl, "edge-1")
}

/// Longer than the 40 s of silence after which a node counts as out of reach.
const SILENCE: Duration = Duration::from_secs(90);

#[test]
fn a_silent_node_is_marked_its_pods_stay_and_it_is_well_again_when_it_is_back() -> Result<()> {
    let Some(mut fleet) = Fleet::start()? else { return Ok(()) };
    fleet.kubectl.apply(&example_manifest("50-workloads.yaml", "edge-1")?)?.ok()?;
    make_gateway(&fleet.kubectl, "edge-1")?;
    let before = wait_pods(&fleet.kubectl, "app=greeter", 1)?;
    fleet.node.kill();
    is_out_of_reach(&fleet)?;
    let during = fleet.kubectl.json(&["pods", "-l", "app=greeter"])?;
    assert_eq!(during["items"][0]["metadata"]["uid"], before[0]["metadata"]["uid"]);
    assert!(during["items"][0]["metadata"]["deletionTimestamp"].is_null(), "{during}");
    fleet.node.start_again("ephemeral")?;
    node_is_ready(&fleet.kubectl, "edge-1")?;
    eventually("a node without the taint", PATIENCE, || {
        let node = fleet.kubectl.json(&["node", "edge-1"]).map_err(|error| error.to_string())?;
        if node["spec"]["taints"].as_array().is_none_or(Vec::is_empty) { Ok(()) } else { Err(node["spec"].to_string()) }
    })?;
    let after = wait_pods(&fleet.kubectl, "app=greeter", 1)?;
    assert_eq!(after[0]["metadata"]["uid"], before[0]["metadata"]["uid"]);
    Ok(())
}
