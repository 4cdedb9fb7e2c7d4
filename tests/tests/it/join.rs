//! A node joins by token, keeps what it learned, and refuses a hub that is not the token's.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use testkit::kubectl::Kubectl;
use testkit::program::Selvedge;
use testkit::wait::eventually;

use crate::common::{
    Fleet, PATIENCE, condition, example_manifest, is_full, make_gateway, node_is_ready, root, token, wait_pods,
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
    let mut misled = Selvedge::start(
        &fleet.dir.path().join("misled"),
        &["node", "--hub", &url, "--token", &parts.join("."), "--node-name", "misled"],
    )?;
    let status = misled.wait(PATIENCE)?;
    let log = misled.log();
    assert!(!status.success() && log.contains("is not the one that the token was made on"), "{log}");
    let refusal = fleet.kubectl.refused(&["get", "node", "misled"])?;
    assert!(refusal.contains("NotFound"), "{refusal}");
    assert!(fleet.kubectl.ok(&["get", "csr", "-o", "name"])?.lines().all(|name| !name.contains("misled")));
    Ok(())
}

#[test]
fn a_second_box_under_a_live_name_is_rejected_and_the_first_one_stays() -> Result<()> {
    let Some(fleet) = Fleet::start()? else { return Ok(()) };
    let hub_dir = fleet.dir.path().join("hub");
    let url = format!("https://{}", fleet.hub_address);
    let join = |dir: &str, token: &str| {
        Selvedge::start(
            &fleet.dir.path().join(dir),
            &["node", "--hub", &url, "--token", token, "--node-name", "edge-1"],
        )
    };
    let mut second = join("second", &token(&hub_dir)?)?;
    let status = second.wait(PATIENCE)?;
    let log = second.log();
    assert!(!status.success() && log.contains("another box is joined as node \"edge-1\""), "{log}");
    assert!(log.contains("--node-name") && log.contains("kubectl delete node edge-1"), "{log}");
    node_is_ready(&fleet.kubectl, "edge-1")?;
    let identity = fleet.kubectl.json(&["nodeidentity", "edge-1"])?;
    assert_eq!(identity["spec"]["generation"], 1, "{identity}");
    Ok(())
}

#[test]
fn a_deleted_node_is_shut_out_at_once_and_joins_again_with_a_new_token() -> Result<()> {
    let Some(mut fleet) = Fleet::start()? else { return Ok(()) };
    let stolen = as_node(&fleet)?;
    assert!(stolen.ok(&["get", "node", "edge-1", "-o", "name"])?.contains("edge-1"));
    let lease = ["lease", "edge-1", "-n", "kube-node-lease"];
    eventually("a lease that its node owns", PATIENCE, || {
        let lease = fleet.kubectl.json(&lease).map_err(|error| error.to_string())?;
        let owner = &lease["metadata"]["ownerReferences"][0];
        if owner["kind"] == "Node" && owner["name"] == "edge-1" { Ok(()) } else { Err(lease["metadata"].to_string()) }
    })?;
    fleet.kubectl.ok(&["delete", "node", "edge-1"])?;
    let refusal = stolen.refused(&["get", "--raw", "/api/v1/nodes/edge-1"])?;
    assert!(refusal.contains("Unauthorized") || refusal.contains("deleted"), "{refusal}");
    eventually("no lease of a deleted node", PATIENCE, || match fleet.kubectl.json(&lease) {
        Ok(lease) => Err(lease.to_string()),
        Err(error) if error.to_string().contains("NotFound") => Ok(()),
        Err(error) => Err(error.to_string()),
    })?;
    eventually("a revoked identity", PATIENCE, || {
        let identity = fleet.kubectl.json(&["nodeidentity", "edge-1"]).map_err(|error| error.to_string())?;
        if identity["spec"]["state"] == "Revoked" { Ok(()) } else { Err(identity["spec"].to_string()) }
    })?;
    // It does not come back by itself, …
    let refusal = fleet.kubectl.refused(&["get", "node", "edge-1"])?;
    assert!(refusal.contains("NotFound"), "{refusal}");
    // … and does when it is given a token, on the data directory that it has.
    let token = token(&fleet.dir.path().join("hub"))?;
    fleet.node.kill();
    fleet.node.change_args(|args| {
        let at = args.iter().position(|arg| arg == "--token").expect("the first start had a token");
        args[at + 1] = token;
    });
    fleet.node.start_again("ephemeral")?;
    node_is_ready(&fleet.kubectl, "edge-1")?;
    let refusal = stolen.refused(&["get", "--raw", "/api/v1/nodes/edge-1"])?;
    assert!(refusal.contains("Unauthorized") || refusal.contains("another key"), "{refusal}");
    Ok(())
}

/// `tests/data/hub-dir-v1.md` says how the directory was made.
#[test]
fn the_data_directory_of_an_older_hub_is_taken_over_and_made_private() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir()?;
    let data_dir = dir.path().join("data");
    std::fs::create_dir(&data_dir)?;
    let packed = root().join("tests/data/hub-dir-v1.tar.gz");
    let unpacked = std::process::Command::new("tar").arg("-xzf").arg(packed).arg("-C").arg(&data_dir).status()?;
    assert!(unpacked.success());
    let Some(kubectl) = Kubectl::newest(&data_dir.join("kubeconfig")) else { return Ok(()) };
    let mut hub = Selvedge::start(&data_dir, &["hub"])?;
    let kept = eventually("the object of the older hub", PATIENCE, || {
        kubectl.json(&["configmap", "kept"]).map_err(|error| error.to_string())
    })?;
    assert_eq!(kept["data"]["from"], "v1", "{kept}");
    // Only now: the port that the older hub recorded may be another program's.
    let address = hub.address("hub-api")?;

    // A node that trusts its CA stays joined: the certificate that the older hub gave it is good.
    let read = |name: &str| std::fs::read_to_string(data_dir.join("hub/pki").join(name));
    let ca = base_pki::Ca::load(&read("ca.crt")?, &read("ca.key")?)?;
    let issue = |cn: &str| {
        ca.sign(&base_pki::IssueRequest {
            cn: cn.to_owned(),
            orgs: vec!["system:nodes".to_owned()],
            sans: Vec::new(),
            usage: base_pki::Usage::Client,
            validity: Duration::from_secs(3600),
        })
    };
    let as_node = |name: &str| -> Result<Kubectl> {
        let issued = issue(&format!("system:node:{name}"))?;
        let path = dir.path().join(format!("{name}.kubeconfig"));
        let url = format!("https://{address}");
        std::fs::write(&path, base_pki::kubeconfig(&url, ca.cert_pem(), &issued.cert_pem, &issued.key_pem))?;
        Kubectl::newest(&path).context("there was one a moment ago")
    };
    assert!(as_node("gw-1")?.ok(&["get", "--raw", "/api/v1/nodes/gw-1"])?.contains("gw-1"));
    // One that is no node of that hub is not.
    as_node("gw-2")?.refused(&["get", "--raw", "/api/v1/nodes/gw-2"])?;

    let mut open = Vec::new();
    let mut dirs = vec![data_dir.clone()];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(&next)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            // kubectl's own cache lies beside the kubeconfig that it was given.
            if entry.file_name() == "kubeconfig.kubectl-cache" {
                continue;
            }
            if kind.is_dir() {
                dirs.push(entry.path());
            }
            if (kind.is_dir() || kind.is_file()) && entry.metadata()?.permissions().mode() & 0o077 != 0 {
                // Public halves of keys and ports are written anew as such; nobody gets to them past the directory.
                open.push(entry.path());
            }
        }
    }
    open.retain(|path| path.extension().is_none_or(|extension| extension != "crt") && !path.ends_with("ports.json"));
    assert!(open.is_empty(), "{open:?}");
    assert_eq!(std::fs::metadata(&data_dir)?.permissions().mode() & 0o777, 0o700);
    Ok(())
}

/// kubectl with what a thief finds on the gateway.
fn as_node(fleet: &Fleet) -> Result<Kubectl> {
    let identity = std::fs::read_to_string(fleet.dir.path().join("node/node/pki/identity.json"))?;
    let identity: serde_json::Value = serde_json::from_str(&identity)?;
    let dir = fleet.dir.path().join("thief");
    std::fs::create_dir(&dir)?;
    for (name, field) in [("ca.pem", "caPem"), ("cert.pem", "certPem"), ("key.pem", "keyPem")] {
        std::fs::write(dir.join(name), identity[field].as_str().context("PEM")?)?;
    }
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: 'https://{}', certificate-authority: ca.pem}}}}]\n\
         users: [{{name: u, user: {{client-certificate: cert.pem, client-key: key.pem}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
        fleet.hub_address.replace("0.0.0.0", "127.0.0.1")
    );
    std::fs::write(dir.join("kubeconfig"), kubeconfig)?;
    Kubectl::newest(&dir.join("kubeconfig")).context("there was one a moment ago")
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
    let uid = thief.ok(&["get", "node", "edge-1", "-o", "jsonpath={.metadata.uid}"])?;
    let mirror = |volumes: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: m-edge-1\n  annotations: {{kubernetes.io/config.mirror: x}}\n  \
             ownerReferences: [{{apiVersion: v1, kind: Node, name: edge-1, uid: {uid}, controller: true}}]\n\
             spec:\n  nodeName: edge-1\n  containers: [{{name: a, image: 'file:///bin/true'}}]\n{volumes}"
        )
    };
    let create = |manifest: String| {
        let file = fleet.dir.path().join("mirror.yaml");
        std::fs::write(&file, manifest)?;
        thief.run(&["create", "--validate=false", "-f", &file.to_string_lossy()])
    };
    let refusal = create(mirror("  volumes: [{name: v, secret: {secretName: other}}]\n"))?.refused()?;
    assert!(refusal.contains("may not reference secrets"), "{refusal}");
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

/// A machine that slept keeps its connections: nothing shows the node that it was away.
#[test]
fn a_node_that_slept_is_ready_when_it_wakes() -> Result<()> {
    if !is_full() {
        println!("takes a minute; runs at full size (`cargo xtask test --all`)");
        return Ok(());
    }
    let Some(fleet) = Fleet::start()? else { return Ok(()) };
    fleet.kubectl.apply(&example_manifest("50-workloads.yaml", "edge-1")?)?.ok()?;
    make_gateway(&fleet.kubectl, "edge-1")?;
    wait_pods(&fleet.kubectl, "app=greeter", 1)?;
    fleet.node.freeze();
    let marked = is_out_of_reach(&fleet);
    let counted = eventually("a pod that is not counted", PATIENCE, || {
        let set = fleet.kubectl.json(&["ds", "greeter"]).map_err(|error| error.to_string())?;
        if set["status"]["numberReady"] == 0 { Ok(()) } else { Err(set["status"].to_string()) }
    });
    fleet.node.thaw();
    marked?;
    counted?;
    node_is_ready(&fleet.kubectl, "edge-1")?;
    // Its kubelet believed that the hub had what it sent last.
    wait_pods(&fleet.kubectl, "app=greeter", 1).map(|_| ())
}

#[test]
fn a_mirror_pod_that_a_person_deletes_comes_back() -> Result<()> {
    let Some(fleet) = Fleet::start()? else { return Ok(()) };
    for file in ["10-profile.yaml", "20-device.yaml"] {
        fleet.kubectl.apply(&example_manifest(file, "edge-1")?)?.ok()?;
    }
    let mirror = || -> std::result::Result<Value, String> {
        let pods = fleet.kubectl.json(&["pods", "-A"]).map_err(|error| error.to_string())?;
        let pod = pods["items"].as_array().into_iter().flatten().find(|pod| pod["metadata"]["name"] == MIRROR).cloned();
        let pod = pod.ok_or_else(|| format!("no {MIRROR} among {}", pods["items"]))?;
        let is_ready = condition(&pod, "Ready").is_some_and(|ready| ready["status"] == "True");
        if is_ready { Ok(pod) } else { Err(pod["status"].to_string()) }
    };
    let before = eventually("the edge plane's mirror pod", PATIENCE, mirror)?;
    let namespace = before["metadata"]["namespace"].as_str().context("a pod has a namespace")?;
    // This waits until it is deleted.
    fleet.kubectl.ok(&["delete", "pod", MIRROR, "-n", namespace, "--timeout=30s"])?;
    eventually("another mirror pod", PATIENCE, || {
        let after = mirror()?;
        if after["metadata"]["uid"] == before["metadata"]["uid"] { Err(after["metadata"].to_string()) } else { Ok(()) }
    })
}

const MIRROR: &str = "selvedge-edge-edge-1";

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
    // Nobody counts on what nobody hears of, …
    eventually("a pod that is not ready, and is not counted", PATIENCE, || {
        let pods = fleet.kubectl.json(&["pods", "-l", "app=greeter"]).map_err(|error| error.to_string())?;
        let set = fleet.kubectl.json(&["ds", "greeter"]).map_err(|error| error.to_string())?;
        let ready = condition(&pods["items"][0], "Ready").unwrap_or_default();
        let is_so = ready["status"] == "False" && set["status"]["numberReady"] == 0;
        if is_so { Ok(()) } else { Err(format!("{ready} {}", set["status"])) }
    })?;
    // … and nothing is evicted.
    let during = fleet.kubectl.json(&["pods", "-l", "app=greeter"])?;
    assert_eq!(during["items"][0]["metadata"]["uid"], before[0]["metadata"]["uid"]);
    assert!(during["items"][0]["metadata"]["deletionTimestamp"].is_null(), "{during}");
    fleet.node.start_again("ephemeral")?;
    node_is_ready(&fleet.kubectl, "edge-1")?;
    eventually("a node without the taint", PATIENCE, || {
        let node = fleet.kubectl.json(&["node", "edge-1"]).map_err(|error| error.to_string())?;
        // A box whose disk is nearly full has a taint of its own.
        let is_unreachable = |taint: &Value| taint["key"] == "node.kubernetes.io/unreachable";
        let taints = node["spec"]["taints"].as_array();
        if !taints.is_some_and(|taints| taints.iter().any(is_unreachable)) {
            Ok(())
        } else {
            Err(node["spec"].to_string())
        }
    })?;
    let after = wait_pods(&fleet.kubectl, "app=greeter", 1)?;
    assert_eq!(after[0]["metadata"]["uid"], before[0]["metadata"]["uid"]);
    Ok(())
}
