//! A stolen node gives away itself and nothing else; a leaked token lets one node in and nothing else.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::*;

const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// Requests a serving certificate with names of the caller's choice; the chain when it was signed within a while.
async fn serving_certificate(node: &Access, name: &str, sans: &[base_pki::San]) -> Result<Option<String>> {
    let key = base_pki::KeyPair::generate()?;
    let csr = base_pki::make_csr(&key, &format!("system:node:{name}"), &["system:nodes".to_owned()], sans)?;
    let request = format!("serving-{}", name.replace('.', "-"));
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": request},
        "spec": {
            "request": BASE64.encode(&csr), "signerName": "kubernetes.io/kubelet-serving",
            "usages": ["digital signature", "server auth"],
        },
    });
    let connection = node.connect().await?;
    if connection.post(CSRS, &object).await?.status != 201 {
        return Ok(None);
    }
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(5) {
        let csr = connection.get(&format!("{CSRS}/{request}")).await?.ok()?.json();
        if let Some(encoded) = csr["status"]["certificate"].as_str() {
            return Ok(Some(String::from_utf8(BASE64.decode(encoded)?)?));
        }
        if csr["status"]["conditions"].as_array().is_some_and(|all| all.iter().any(|one| one["type"] != "Approved")) {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(None)
}

#[test]
fn an_open_watch_ends_when_its_node_is_revoked() -> Result<()> {
    let mut target = Target::start()?;
    let (stolen, honest) = (target.node("gw-1")?, target.node("gw-2")?);
    let admin = target.admin.clone();
    target.under_attack(async {
        let admin = admin.connect().await?;
        let of_node = |node: &str| format!("/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3D{node}");
        let (thief, gateway) = (stolen.connect().await?, honest.connect().await?);
        let mut of_thief = thief.watch(&of_node("gw-1")).await?;
        let mut of_gateway = gateway.watch(&of_node("gw-2")).await?;
        let revoked = json!({"spec": {"state": "Revoked", "reason": "stolen"}});
        let identity = "/apis/edge.selvedge.dev/v1alpha1/nodeidentities/gw-1";
        admin.patch(identity, "application/merge-patch+json", &revoked).await?.ok()?;
        let end = tokio::time::timeout(Duration::from_secs(10), of_thief.next()).await.context("it continues")?;
        ensure!(!matches!(end, Ok(Some(_))), "{end:?}");
        // What happens to its pods afterwards it does not learn, and a new connection is answered with 401.
        admin.post(PODS, &pod("p-1", "gw-1")).await?.ok()?;
        let again = stolen.connect().await?.get("/api/v1/nodes/gw-1").await?;
        ensure!(again.status == 401, "{}: {}", again.status, again.text());
        // The other's connection is the one of before.
        admin.post(PODS, &pod("p-2", "gw-2")).await?.ok()?;
        let event = tokio::time::timeout(Duration::from_secs(10), of_gateway.next()).await??.context("it has ended")?;
        let event: Value = serde_json::from_slice(&event)?;
        ensure!(event["object"]["metadata"]["name"] == "p-2", "{event}");
        Ok(())
    })
}

#[test]
fn no_node_gets_a_certificate_that_administrators_trust() -> Result<()> {
    let target = Target::start()?;
    let thief = target.node("gw-1")?;
    for address in ["127.0.0.1", "10.0.0.1", "192.168.1.1"] {
        let sans = [base_pki::San::Ip(address.parse()?)];
        let signed = target.runtime.block_on(serving_certificate(&thief, "gw-1", &sans))?;
        if let Some(chain) = signed {
            ensure!(
                !wire::is_trusted_server(&target.ca, &chain, address)?,
                "a node can play {address} to whoever has a kubeconfig"
            );
        }
        target.as_admin(Method::DELETE, &format!("{CSRS}/serving-gw-1"), &Value::Null)?;
    }
    // Nor by being named like the hub; and an honest node whose name only begins like that gets its own.
    for name in ["localhost", "kubernetes", "kubernetes.default.svc"] {
        ensure!(target.identity(name).is_err(), "a node may be called {name}");
    }
    let honest = target.node("kubernetes-edge-1")?;
    let sans = [base_pki::San::Dns("kubernetes-edge-1".to_owned())];
    let chain = target.runtime.block_on(serving_certificate(&honest, "kubernetes-edge-1", &sans))?;
    ensure!(chain.is_some(), "an honest node has no serving certificate");
    Ok(())
}

fn profile_and_devices(target: &Target, node: &str, count: usize) -> Result<()> {
    let edge = "/apis/edge.selvedge.dev/v1alpha1";
    let resource = json!({
        "name": "r", "attributes": {"primaryTable": "HOLDING_REGISTERS", "startingAddress": 0},
        "properties": {"valueType": "Int16", "readWrite": "R"},
    });
    let profile = json!({
        "apiVersion": "edge.selvedge.dev/v1alpha1", "kind": "DeviceProfile", "metadata": {"name": "meter"},
        "spec": {"deviceResources": [resource]},
    });
    target.as_admin(Method::POST, &format!("{edge}/deviceprofiles"), &profile)?;
    for number in 0..count {
        let device = json!({
            "apiVersion": "edge.selvedge.dev/v1alpha1", "kind": "Device",
            "metadata": {"name": format!("{}-{number}", node.replace('.', "-"))},
            "spec": {
                "nodeName": node, "profileName": "meter", "serviceName": "modbus",
                "protocols": {"modbus-tcp": {
                    "Address": "127.0.0.1", "Port": "15020", "UnitID": "1", "Password": format!("secret-{}", "x".repeat(9000)),
                }},
            },
        });
        target.create(&format!("{edge}/namespaces/default/devices"), &device)?;
    }
    Ok(())
}

fn assignments_of(target: &Target, node: &str) -> Result<Vec<Value>> {
    let list = target.get("/apis/edge.selvedge.dev/v1alpha1/nodeassignments")?;
    let all = list["items"].as_array().cloned().unwrap_or_default();
    Ok(all.into_iter().filter(|one| one["spec"]["nodeName"] == node).collect())
}

#[test]
fn a_nodes_assignment_is_its_own_whatever_others_are_called() -> Result<()> {
    let target = Target::start()?;
    target.node("victim")?;
    profile_and_devices(&target, "victim", 40)?;
    let parts = testkit::wait::eventually("an assignment in two parts", Duration::from_secs(30), || {
        let parts = assignments_of(&target, "victim").map_err(|error| format!("{error:#}"))?;
        let entries: usize = parts.iter().map(|part| part["spec"]["entries"].as_array().map_or(0, Vec::len)).sum();
        if parts.len() >= 2 && entries >= 40 {
            Ok(parts)
        } else {
            Err(format!("{} parts, {entries} entries", parts.len()))
        }
    })?;
    // Such a name may be rejected, which ends the story.
    for part in &parts {
        let name = part["metadata"]["name"].as_str().context("a name")?;
        if name == "victim" {
            continue;
        }
        let Ok(thief) = target.node(name) else { continue };
        let path = format!("/apis/edge.selvedge.dev/v1alpha1/nodeassignments/{name}");
        let answer = target.runtime.block_on(async { thief.connect().await?.get(&path).await })?;
        ensure!(answer.status == 403, "{name} reads the victim's assignment: {}", answer.status);
        profile_and_devices(&target, name, 1)?;
    }
    testkit::wait::eventually("the victim's whole assignment", Duration::from_secs(10), || {
        let left = assignments_of(&target, "victim").map_err(|error| format!("{error:#}"))?;
        let entries: usize = left.iter().map(|part| part["spec"]["entries"].as_array().map_or(0, Vec::len)).sum();
        if entries >= 40 { Ok(()) } else { Err(format!("{entries} entries")) }
    })
}

#[test]
fn a_slow_body_does_not_outlive_its_authorisation() -> Result<()> {
    let mut target = Target::start()?;
    let thief = target.node("gw-1")?;
    target.node("gw-2")?;
    let admin = target.admin.clone();
    let (deleted, patched) = target.under_attack(async {
        let connection = thief.connect().await?;
        let delete = [("content-type", wire::JSON), ("accept", wire::JSON)];
        let patch = [("content-type", wire::STRATEGIC), ("accept", wire::JSON)];
        let mut deletion = connection.begin(Method::DELETE, &format!("{PODS}/victim"), &delete).await?;
        deletion.push(&b"{"[..])?;
        let mut status = connection.begin(Method::PATCH, &format!("{PODS}/victim2/status"), &patch).await?;
        status.push(&b"{"[..])?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let people = admin.connect().await?;
        for name in ["victim", "victim2"] {
            people.post(PODS, &pod(name, "gw-2")).await?.ok()?;
        }
        let deleted = deletion.finish(&b"\"gracePeriodSeconds\":0}"[..]).await?;
        let patched = status.finish(&b"\"status\":{\"phase\":\"Failed\",\"message\":\"written by gw-1\"}}"[..]).await?;
        Ok((deleted.status, patched.status))
    })?;
    ensure!(deleted >= 400 && patched >= 400, "{deleted} and {patched}");
    ensure!(
        target.get(&format!("{PODS}/victim"))?["metadata"]["deletionTimestamp"].is_null(),
        "victim is being deleted"
    );
    ensure!(target.get(&format!("{PODS}/victim2"))?["status"]["message"].is_null(), "victim2 was written");
    Ok(())
}

#[test]
fn a_node_gives_itself_no_label_that_draws_work() -> Result<()> {
    let target = Target::start()?;
    let thief = target.node("gw-1")?;
    let patch = json!({"metadata": {"labels": {"selvedge.dev/role": "payment-gateway"}}});
    let answer = target
        .runtime
        .block_on(async { thief.connect().await?.patch("/api/v1/nodes/gw-1", wire::MERGE, &patch).await })?;
    ensure!(answer.status == 403 || answer.status == 422, "{}: {}", answer.status, answer.text());
    ensure!(target.get("/api/v1/nodes/gw-1")?["metadata"]["labels"]["selvedge.dev/role"].is_null(), "it has the label");
    Ok(())
}

#[test]
fn a_token_takes_no_node_over_and_a_deleted_node_is_out_at_once() -> Result<()> {
    let target = Target::start()?;
    let identity = target.identity("gw-2")?;
    let node = Access::certificate(&target.address, &target.ca, &identity)?;
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gw-2"}, "spec": {}});
    let mut open = target.runtime.block_on(async {
        let open = node.connect().await?;
        open.post("/api/v1/nodes", &object).await?.ok()?;
        anyhow::Ok(open)
    })?;
    // Any other token, while gw-2 exists.
    let token = target.token()?;
    let taken = target.runtime.block_on(async {
        tokio::time::timeout(
            Duration::from_secs(5),
            hollow::request_certificate(&target.address, &target.ca, &token, "gw-2"),
        )
        .await
    });
    ensure!(!matches!(taken, Ok(Ok(_))), "a fresh token has become gw-2");
    target.as_admin(Method::DELETE, "/api/v1/nodes/gw-2", &Value::Null)?.ok()?;
    target.runtime.block_on(async {
        // The open connection is closed or useless, and a new one is of no use either.
        let is_closed = tokio::time::timeout(Duration::from_secs(5), open.closed()).await.is_ok();
        if !is_closed {
            let answer = open.post("/api/v1/nodes", &object).await;
            ensure!(!answer.is_ok_and(|answer| answer.status == 201), "the deleted node has made itself again");
            anyhow::bail!("the connection of a deleted node stays open");
        }
        if let Ok(connection) = node.connect().await {
            let answer = connection.post("/api/v1/nodes", &object).await;
            ensure!(!answer.is_ok_and(|answer| answer.status == 201), "the deleted node has made itself again");
        }
        Ok(())
    })?;
    ensure!(target.status_of("/api/v1/nodes/gw-2")? == 404, "gw-2 is back");
    Ok(())
}

/// Every file below `dir`.
fn files(dir: &Path, found: &mut Vec<std::path::PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
fn other_users_of_the_machine_read_nothing_and_disks_hold_no_secret_in_clear() -> Result<()> {
    let mut target = Target::start()?;
    let marker = "a-secret-that-nobody-else-would-write";
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": marker},
    });
    target.create("/api/v1/namespaces/default/secrets", &secret)?;
    let token = target.token()?;
    let hub_dir = target.dir.path().join("hub");
    let mode = std::fs::metadata(&hub_dir)?.permissions().mode() & 0o777;
    ensure!(mode & 0o077 == 0, "the data directory has mode {mode:o}");
    let check = |when: &str| -> Result<()> {
        let mut all = Vec::new();
        files(&hub_dir, &mut all)?;
        let encoded = BASE64.encode(marker);
        for path in &all {
            let bytes = std::fs::read(path).unwrap_or_default();
            for text in [
                marker.as_bytes(),
                encoded.as_bytes(),
                token.secret.as_bytes(),
                BASE64.encode(&token.secret).as_bytes(),
            ] {
                let is_there = bytes.windows(text.len()).any(|window| window == text);
                ensure!(!is_there, "{when}: {} holds a secret in clear", path.display());
            }
        }
        Ok(())
    };
    check("running")?;
    target.as_admin(Method::DELETE, "/api/v1/namespaces/default/secrets/s", &Value::Null)?.ok()?;
    target.hub.kill();
    check("deleted and killed")
}

#[test]
fn impersonation_is_never_the_caller() -> Result<()> {
    let target = Target::start()?;
    target.create(
        "/api/v1/namespaces/default/configmaps",
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}),
    )?;
    let thief = target.node("gw-1")?;
    target.runtime.block_on(async {
        let admin = target.admin.connect().await?;
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let headers = [("content-type", wire::JSON), ("accept", wire::JSON), ("impersonate-user", "bob")];
        let answer = admin.send(Method::POST, path, &headers, review.clone().into()).await?;
        let name = answer.json()["status"]["userInfo"]["username"].as_str().unwrap_or_default().to_owned();
        ensure!(answer.status >= 400 || name == "bob", "{}: {name}", answer.status);
        for header in ["impersonate-user", "impersonate-group", "impersonate-uid", "impersonate-extra-scopes"] {
            let path = "/api/v1/namespaces/default/configmaps/x";
            let answer = admin.send(Method::DELETE, path, &[(header, "bob")], Bytes::new()).await?;
            ensure!((400..500).contains(&answer.status), "{header}: deleted as bob: {}", answer.status);
        }
        // Nor may a node become somebody else.
        let headers =
            [("accept", wire::JSON), ("impersonate-user", "selvedge-admin"), ("impersonate-group", "system:masters")];
        let answer = thief.connect().await?.send(Method::GET, "/api/v1/secrets", &headers, Bytes::new()).await?;
        ensure!((400..500).contains(&answer.status), "a node as the administrator: {}", answer.status);
        Ok(())
    })?;
    ensure!(target.status_of("/api/v1/namespaces/default/configmaps/x")? == 200, "x was deleted");
    Ok(())
}

#[test]
fn pending_requests_of_one_token_delay_no_other_join() -> Result<()> {
    let mut target = Target::start()?;
    let thief = target.bootstrapper()?;
    let key = base_pki::KeyPair::generate()?;
    let csr = BASE64.encode(base_pki::make_csr(&key, "mallory", &[], &[])?);
    let request = |name: String, request: &str| {
        json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
            "spec": {"request": request, "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]},
        })
    };
    let count = sized(2000, 20_000);
    let taken = target.under_attack(async {
        let connection = thief.connect().await?;
        let huge = request("huge".to_owned(), &"QUFB".repeat(500_000));
        let answer = connection.post(CSRS, &huge).await?;
        ensure!((400..500).contains(&answer.status), "a request of 2 MB: {}", answer.status);
        let mut taken = 0;
        for number in 0..count {
            let answer = connection.post(CSRS, &request(format!("many-{number}"), &csr)).await?;
            if answer.status == 201 {
                taken += 1;
            }
        }
        Ok(taken)
    })?;
    println!("{taken} of {count} requests were taken");
    ensure!(taken < count, "a token may fill the hub with requests");
    let begin = Instant::now();
    target.node("gw-9")?;
    println!("a join takes {:?}", begin.elapsed());
    ensure!(begin.elapsed() < Duration::from_secs(5), "a join takes {:?}", begin.elapsed());
    target.rests()
}

#[test]
fn a_node_holds_no_finalizer_and_lends_no_service_account() -> Result<()> {
    let target = Target::start()?;
    let thief = target.node("gw-1")?;
    target.runtime.block_on(async {
        let connection = thief.connect().await?;
        let patch = json!({"metadata": {"finalizers": ["x.io/mine"]}});
        let answer = connection.patch("/api/v1/nodes/gw-1", wire::MERGE, &patch).await?;
        ensure!((400..500).contains(&answer.status), "a finalizer on itself: {}", answer.status);
        let mirror = mirror_pod(&connection, "m-gw-1", "gw-1").await?;
        let mut other = mirror.clone();
        other["spec"]["serviceAccountName"] = "admin".into();
        let answer = connection.post(PODS, &other).await?;
        ensure!((400..500).contains(&answer.status), "a mirror pod with a service account: {}", answer.status);
        let mut other = mirror.clone();
        other["metadata"]["ownerReferences"] = Value::Null;
        let answer = connection.post(PODS, &other).await?;
        ensure!(answer.status == 403, "a mirror pod that a workload may adopt: {}", answer.status);
        connection.post(PODS, &mirror).await?.ok()?;
        Ok(())
    })?;
    target.as_admin(Method::DELETE, "/api/v1/nodes/gw-1", &Value::Null)?.ok()?;
    ensure!(target.status_of("/api/v1/nodes/gw-1")? == 404, "the node is still there");
    Ok(())
}
