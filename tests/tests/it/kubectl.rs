//! kubectl works with the hub as it does with any Kubernetes.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result};
use testkit::kubectl::Kubectl;
use testkit::wait::eventually;

use crate::common::{PATIENCE, Up, example_manifest, make_gateway, wait_pods};

#[test]
fn every_kubectl_drives_the_example() -> Result<()> {
    let Some(up) = Up::start(&[])? else { return Ok(()) };
    let kubeconfig = up.program.data_dir().join("kubeconfig");
    make_gateway(&up.kubectl, "box")?;
    std::fs::create_dir_all(up.dir.path().join("manifests"))?;
    for (version, program) in Kubectl::installed() {
        let kubectl = Kubectl::new(program, &kubeconfig);
        drive(&up, &kubectl).with_context(|| format!("kubectl {version}"))?;
    }
    Ok(())
}

fn drive(up: &Up, kubectl: &Kubectl) -> Result<()> {
    let dir = up.dir.path().join("manifests");
    for file in ["10-profile.yaml", "20-device.yaml", "30-rule.yaml", "40-export.yaml", "50-workloads.yaml"] {
        std::fs::write(dir.join(file), example_manifest(file, "box")?)?;
    }
    let manifests = dir.to_string_lossy().into_owned();

    let first = kubectl.ok(&["apply", "-f", &manifests])?;
    assert!(first.contains("rule.edge.selvedge.dev/cpu-average created"), "{first}");
    assert!(first.contains("daemonset.apps/heartbeat created"), "{first}");
    let second = kubectl.ok(&["apply", "-f", &manifests])?;
    assert_eq!(second.lines().count(), first.lines().count());
    assert!(second.lines().all(|line| line.ends_with(" unchanged")), "{second}");

    kubectl.ok(&["wait", "--for=condition=Applied", "rule/cpu-average", "--timeout=60s"])?;
    wait_pods(kubectl, "app=heartbeat", 1)?;
    let pods = wait_pods(kubectl, "app=greeter", 1)?;

    let wide = kubectl.ok(&["get", "nodes,pods,ds", "-o", "wide"])?;
    for word in ["INTERNAL-IP", "CONTAINER-RUNTIME", "NODE SELECTOR", "Running", "node/box", "daemonset.apps/greeter"] {
        assert!(wide.contains(word), "no {word} in:\n{wide}");
    }
    let described = kubectl.ok(&["describe", "node", "box"])?;
    for word in ["selvedge.dev/role=gateway", "Ready", "KubeletReady", "Non-terminated Pods", "greeter-", "Capacity:"] {
        assert!(described.contains(word), "no {word} in:\n{described}");
    }
    let greeter = pods[0]["metadata"]["name"].as_str().context("a pod has a name")?;
    eventually("what the node uses", PATIENCE, || match kubectl.ok(&["top", "node", "box"]) {
        Ok(top) if top.contains("MEMORY(bytes)") && top.contains("Mi") => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    // What a pod uses is counted by its control group.
    if std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self")?) == 0 {
        eventually("what the pod uses", PATIENCE, || match kubectl.ok(&["top", "pod", greeter]) {
            Ok(top) if top.contains(greeter) => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
    }
    let described = kubectl.ok(&["describe", "pod", greeter])?;
    assert!(described.contains("Started"), "no events in:\n{described}");
    eventually("greeting in the log", PATIENCE, || {
        let log = kubectl.ok(&["logs", greeter]).map_err(|error| error.to_string())?;
        if log.starts_with("good morning, gateway\n") { Ok(()) } else { Err(log) }
    })?;
    eventually("heartbeat in the log", PATIENCE, || {
        let log = kubectl.ok(&["logs", "-l", "app=heartbeat", "--tail=1", "--timestamps"]);
        let log = log.map_err(|error| error.to_string())?;
        if log.contains("Z heartbeat ") { Ok(()) } else { Err(log) }
    })?;

    let rules = kubectl.ok(&["get", "rules,devices,streams,exports"])?;
    for word in ["DESIRED", "READY", "rule.edge.selvedge.dev/cpu-average", "device.edge.selvedge.dev/host"] {
        assert!(rules.contains(word), "no {word} in:\n{rules}");
    }
    kubectl.ok(&["get", "edge"])?;
    let explained = kubectl.ok(&["explain", "device.spec"])?;
    assert!(
        explained.contains("profileName") && explained.contains("metadata.name of its DeviceProfile"),
        "{explained}"
    );
    let explained = kubectl.ok(&["explain", "pod.spec.containers"])?;
    assert!(explained.contains("readinessProbe"), "{explained}");

    watch_sees_a_change(kubectl)?;
    patch_kinds(kubectl)?;

    // What was applied by the client is taken over by the server, without a conflict.
    let applied = kubectl.ok(&["apply", "--server-side", "-f", &manifests])?;
    assert!(applied.contains("serverside-applied"), "{applied}");

    for not_yet in [&["exec", greeter, "--", "true"][..], &["attach", greeter], &["port-forward", greeter, "0:80"]] {
        let refusal = kubectl.refused(not_yet)?;
        assert!(refusal.contains("is not served by this version"), "{not_yet:?}: {refusal}");
    }

    let deleted = kubectl.ok(&["delete", "-f", &manifests, "--timeout=60s"])?;
    assert!(deleted.contains("daemonset.apps \"greeter\" deleted"), "{deleted}");
    eventually("no pods left", PATIENCE, || {
        let left = kubectl.ok(&["get", "pods", "-o", "name"]).map_err(|error| error.to_string())?;
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
}

fn watch_sees_a_change(kubectl: &Kubectl) -> Result<()> {
    kubectl.ok(&["create", "configmap", "watched", "--from-literal=a=1"])?;
    let mut watch = kubectl
        .command(&["get", "configmap", "watched", "-w", "-o", "jsonpath={.data.a}{\"\\n\"}"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().context("its output is a pipe")?).lines();
    assert_eq!(lines.next().context("a first line")??, "1");
    kubectl.ok(&["patch", "configmap", "watched", "--type=merge", "-p", r#"{"data":{"a":"2"}}"#])?;
    assert_eq!(lines.next().context("a second line")??, "2");
    watch.kill()?;
    watch.wait()?;
    kubectl.ok(&["delete", "configmap", "watched"])?;
    Ok(())
}

fn patch_kinds(kubectl: &Kubectl) -> Result<()> {
    kubectl.ok(&["create", "configmap", "patched", "--from-literal=a=1"])?;
    for (kind, patch, data) in [
        ("json", r#"[{"op":"replace","path":"/data/a","value":"2"}]"#, "2"),
        ("merge", r#"{"data":{"a":"3"}}"#, "3"),
        ("strategic", r#"{"data":{"a":"4"}}"#, "4"),
    ] {
        kubectl.ok(&["patch", "configmap", "patched", "--type", kind, "-p", patch])?;
        assert_eq!(kubectl.json(&["configmap", "patched"])?["data"]["a"], data);
    }
    let failed = kubectl.refused(&[
        "patch",
        "configmap",
        "patched",
        "--type=json",
        "-p",
        r#"[{"op":"test","path":"/data/a","value":"9"}]"#,
    ])?;
    // As with a kube-apiserver: what failed is in the answer's message, which kubectl does not show.
    assert!(failed.contains("The request is invalid"), "{failed}");
    kubectl.ok(&["delete", "configmap", "patched"])?;
    Ok(())
}

#[test]
fn clients_without_identity_are_rejected_with_the_reason() -> Result<()> {
    let Some(mut up) = Up::start(&[])? else { return Ok(()) };
    let address = up.program.address("hub-api")?;
    let server = format!("https://{address}");
    let anonymous = up.dir.path().join("anonymous");
    std::fs::write(&anonymous, "apiVersion: v1\nkind: Config\n")?;
    let unknown = Kubectl::new(Kubectl::installed().pop().context("a kubectl")?.1, &anonymous);
    let refusal = unknown.refused(&[
        "--server",
        &server,
        "--insecure-skip-tls-verify",
        "--token",
        "aaaaaa.bbbbbbbbbbbbbbbb",
        "get",
        "pods",
    ])?;
    assert!(refusal.contains("Unauthorized") || refusal.contains("must be logged in"), "{refusal}");
    let health = up.kubectl.ok(&["get", "--raw", "/healthz"])?;
    assert_eq!(health, "ok");

    // The node's own certificate may not write another's objects.
    let identity = std::fs::read_to_string(up.program.data_dir().join("node/pki/identity.json"))?;
    let identity: serde_json::Value = serde_json::from_str(&identity)?;
    let pem = |field: &str| -> Result<String> {
        let path = up.dir.path().join(field);
        std::fs::write(&path, identity[field].as_str().with_context(|| format!("the identity has a {field}"))?)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let (cert, key) = (pem("certPem")?, pem("keyPem")?);
    let as_node = [
        "--server",
        server.as_str(),
        "--insecure-skip-tls-verify",
        "--client-certificate",
        &cert,
        "--client-key",
        &key,
    ];
    let mut own = as_node.to_vec();
    own.extend(["get", "node", "box"]);
    unknown.ok(&own)?;
    for denied in [
        vec!["create", "configmap", "mine"],
        vec!["get", "secrets", "-A"],
        vec!["label", "node", "other", "a=b"],
        vec!["delete", "namespace", "default"],
    ] {
        let mut args = as_node.to_vec();
        args.extend(denied.iter());
        let refusal = unknown.refused(&args)?;
        assert!(refusal.contains("Forbidden") || refusal.contains("forbidden"), "{denied:?}: {refusal}");
    }
    Ok(())
}
