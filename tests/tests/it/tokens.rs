//! Tokens of pods' service accounts: a program finds its own, is known by it, and has it with no hub in sight.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use testkit::wait::eventually;
use testkit::wire;

use crate::common::{Fleet, PATIENCE, kill_with_pods, root};

const API_ACCESS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Pods of plain processes that copy what they find to `out/NAME`, and run on.
fn readers(names: &[&str], out: &Path, spec: &str) -> String {
    let reader = |name: &&str| {
        let out = out.join(name);
        format!(
            r#"
---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, labels: {{ app: reader }} }}
spec:
  nodeName: edge-1
  runtimeClassName: selvedge-process
  terminationGracePeriodSeconds: 1
  {spec}
  containers:
    - name: reader
      image: file:///bin/sh
      args: ["-c", "cp {API_ACCESS}/* {out}; touch {out}/done; exec sleep 3600"]
      volumeMounts: [{{ name: out, mountPath: {out} }}]
  volumes: [{{ name: out, hostPath: {{ path: {out}, type: DirectoryOrCreate }} }}]
"#,
            out = out.display()
        )
    };
    names.iter().map(reader).collect()
}

fn read_when_done(out: &Path, file: &str) -> Result<Option<String>> {
    eventually(&format!("the end of the copying to {}", out.display()), PATIENCE, || {
        match out.join("done").exists() {
            true => Ok(()),
            false => Err("not yet"),
        }
    })?;
    Ok(std::fs::read_to_string(out.join(file)).ok())
}

/// What a token says of itself.
fn claims(token: &str) -> Result<Value> {
    let part = token.split('.').nth(1).context("a token has three parts")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
}

/// Whom the hub takes the bearer of a token for.
fn who_is(address: &str, ca: &str, token: &str) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let connection = wire::Access::bearer(address, ca, token)?.connect().await?;
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let answer = connection.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await?.ok()?;
        Ok(answer.json()["status"]["userInfo"].clone())
    })
}

/// The program itself, its shims and what they hold: nothing of the node is left, as after a power cut. Volumes in memory are
/// empty then.
fn cut_power(fleet: &mut Fleet) -> Result<()> {
    kill_with_pods(&mut fleet.node)?;
    for pod in std::fs::read_dir(fleet.node.data_dir().join("node/pods"))? {
        for volume in std::fs::read_dir(pod?.path().join(".volumes")).into_iter().flatten() {
            let path = volume?.path();
            let name = CString::new(path.to_string_lossy().into_owned())?;
            // SAFETY: the path is a C string that lives through the call. What is no mount is left as it is.
            unsafe { libc::umount2(name.as_ptr(), libc::MNT_DETACH) };
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kube-api-access-")) {
                std::fs::remove_dir_all(path)?;
            }
        }
    }
    Ok(())
}

#[test]
fn every_process_finds_its_own_token_and_the_hub_knows_it_by_that() -> Result<()> {
    let Some(mut fleet) = Fleet::start()? else { return Ok(()) };
    let out = fleet.dir.path().join("out");
    let place = |name: &str| -> PathBuf { out.join(name) };
    let begun = Instant::now();
    fleet.kubectl.apply(&readers(&["first", "second"], &out, ""))?.ok()?;
    let tokens = ["first", "second"].map(|name| read_when_done(&place(name), "token"));
    println!("two pods had copied their tokens {} ms after they were applied", begun.elapsed().as_millis());
    let [first, second] = tokens;
    let (first, second) = (first?.context("first has a token")?, second?.context("second has a token")?);
    for (name, token) in [("first", &first), ("second", &second)] {
        assert_eq!(claims(token)?["kubernetes.io"]["pod"]["name"], name);
        let pod = fleet.kubectl.json(&["pod", name])?;
        assert_eq!(claims(token)?["kubernetes.io"]["pod"]["uid"], pod["metadata"]["uid"]);
        assert_eq!(read_when_done(&place(name), "namespace")?.as_deref(), Some("default"));
    }
    let ca = read_when_done(&place("first"), "ca.crt")?.context("the CA is there")?;
    let user = who_is(&fleet.hub_address, &ca, &first)?;
    assert_eq!(user["username"], "system:serviceaccount:default:default", "{user}");
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["first"]), "{user}");

    // Who wants none gets none.
    let no_token = "automountServiceAccountToken: false";
    fleet.kubectl.apply(&readers(&["without"], &out, no_token))?.ok()?;
    assert_eq!(read_when_done(&place("without"), "token")?, None);
    let pod = fleet.kubectl.json(&["pod", "without"])?;
    assert_eq!(pod["spec"]["volumes"].as_array().map(Vec::len), Some(1), "{pod}");

    // A token ends with its pod.
    fleet.kubectl.ok(&["delete", "pod", "second"])?;
    eventually("the end of the token", PATIENCE, || match who_is(&fleet.hub_address, &ca, &second) {
        Ok(user) => Err(user.to_string()),
        Err(_) => Ok(()),
    })?;

    // A node that is restarted has it with no hub in sight, and so has one that was cut off its power.
    fleet.hub.kill();
    fleet.node.kill();
    fleet.node.start_again("ephemeral")?;
    fleet.node.address("node-kubelet")?;
    cut_power(&mut fleet)?;
    for name in ["first", "without"] {
        std::fs::remove_dir_all(place(name))?;
    }
    let begun = Instant::now();
    fleet.node.start_again("ephemeral")?;
    assert_eq!(read_when_done(&place("first"), "token")?.as_ref(), Some(&first));
    assert_eq!(read_when_done(&place("first"), "ca.crt")?.as_ref(), Some(&ca));
    read_when_done(&place("without"), "token")?;
    println!("pods were back {} ms after the start, with no hub", begun.elapsed().as_millis());
    // The dial to the hub alone may take longer than this; nobody waits for it.
    ensure!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    fleet.hub_again()?;
    eventually("the hub knows the token still", PATIENCE, || {
        who_is(&fleet.hub_address, &ca, &first).map_err(|error| error.to_string())
    })?;
    Ok(())
}

#[test]
fn a_program_in_a_pod_finds_the_hub_by_itself() -> Result<()> {
    let Some(python) = std::env::var_os("SELVEDGE_PYTHON").map(PathBuf::from) else {
        testkit::skip("no Python client; `cargo xtask test` installs it unless --no-install is given");
        return Ok(());
    };
    let Some(fleet) = Fleet::start()? else { return Ok(()) };
    let (out, script) = (fleet.dir.path().join("out"), root().join("tests/clients/python/in_cluster.py"));
    let program = |name: &str, env: &str| {
        format!(
            r#"
---
apiVersion: v1
kind: Pod
metadata: {{ name: {name} }}
spec:
  nodeName: edge-1
  runtimeClassName: selvedge-process
  enableServiceLinks: false
  terminationGracePeriodSeconds: 1
  containers:
    - name: program
      image: file:///bin/sh
      args: ["-c", "{python} {script} > {out}/answer 2>&1; echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT > {out}/hub; touch {out}/done; exec sleep 3600"]
      env: [{env}]
      volumeMounts: [{{ name: out, mountPath: {out} }}]
  volumes: [{{ name: out, hostPath: {{ path: {out}, type: DirectoryOrCreate }} }}]
"#,
            out = out.join(name).display(),
            python = python.display(),
            script = script.display(),
        )
    };
    let own = "{ name: KUBERNETES_SERVICE_HOST, value: other.invalid }";
    fleet.kubectl.apply(&format!("{}{}", program("finds", ""), program("knows-better", own)))?.ok()?;
    let found = |name: &str, file: &str| read_when_done(&out.join(name), file);
    let answer = found("finds", "answer")?.context("the program has ended")?;
    ensure!(answer == "system:serviceaccount:default:default\n", "{answer}");
    ensure!(found("finds", "hub")?.as_deref() == Some(&*format!("{}\n", fleet.hub_address)));
    let other = found("knows-better", "hub")?.context("the program has ended")?;
    ensure!(other.starts_with("other.invalid:"), "{other}");
    Ok(())
}

/// What a node's kubelet answers to a bearer token: the status, and the text.
fn ask_kubelet(address: &str, ca: &Path, path: &str, token: Option<&str>) -> Result<(u16, String)> {
    let mut curl = std::process::Command::new("curl");
    curl.args(["-s", "--max-time", "20", "-w", "\n%{http_code}", "--cacert"]).arg(ca);
    if let Some(token) = token {
        curl.args(["-H", &format!("Authorization: Bearer {token}")]);
    }
    let said = String::from_utf8(curl.arg(format!("https://{address}{path}")).output()?.stdout)?;
    let (text, code) = said.rsplit_once('\n').context("an answer has a status")?;
    Ok((code.parse()?, text.to_owned()))
}

#[test]
fn a_kubelet_serves_whom_the_rules_of_the_cluster_let_in() -> Result<()> {
    let Some(mut fleet) = Fleet::start()? else { return Ok(()) };
    let address = fleet.node.address("node-kubelet")?;
    let ca = fleet.hub.data_dir().join("hub/pki/node-serving-ca.crt");
    let rules = [
        &["create", "serviceaccount", "scraper"][..],
        &["create", "clusterrole", "scraper", "--verb=get", "--resource=nodes/metrics"],
        &["create", "clusterrolebinding", "scraper", "--clusterrole=scraper", "--serviceaccount=default:scraper"],
    ];
    for rule in rules {
        fleet.kubectl.ok(rule)?;
    }
    let token = fleet.kubectl.ok(&["create", "token", "scraper"])?;
    let ask = |path: &str, token: Option<&str>| ask_kubelet(&address, &ca, path, token);
    // With a certificate of its own at first, with the hub's soon.
    let page = eventually("the metrics", PATIENCE, || match ask("/metrics", Some(token.trim())) {
        Ok((200, page)) => Ok(page),
        other => Err(format!("{other:?}")),
    })?;
    assert!(page.contains("kubelet_node_name{node=\"edge-1\"} 1"), "{page}");
    for (path, token, expected, phrase) in [
        ("/pods", Some(token.trim()), 403, "system:serviceaccount:default:scraper"),
        ("/containerLogs/default/p/c", Some(token.trim()), 403, "nodes/proxy of edge-1"),
        ("/metrics/resource", Some(token.trim()), 200, "pod_cpu_usage_seconds_total"),
        ("/stats/summary", Some(token.trim()), 403, "nodes/stats of edge-1"),
        ("/metrics", None, 401, "a client certificate or a bearer token"),
        ("/metrics", Some("made.up.token"), 401, "does not know this token"),
        ("/healthz", None, 200, "ok"),
    ] {
        let (code, text) = ask(path, token)?;
        ensure!(code == expected && text.contains(phrase), "{path} {expected}: {code} {text}");
    }
    // With no hub in sight a caller that is known is served, and any other one learns why not.
    fleet.hub.kill();
    let (code, text) = ask("/metrics", Some(token.trim()))?;
    ensure!(code == 200, "{code} {text}");
    let (code, text) = ask("/metrics", Some("another.made.up.token"))?;
    ensure!(code == 503 && text.contains("the hub cannot be asked"), "{code} {text}");
    Ok(())
}
