//! No client makes the hub keep more than its share.

use super::*;

/// Something that JSON cannot shorten and that no table of words can share.
fn filler(bytes: usize) -> String {
    "x".repeat(bytes)
}

/// Patches the status of a node's own mirror pod, `count` times with 2.9 MB.
async fn patch_large_statuses(thief: &Access, count: usize) -> Result<()> {
    let connection = thief.connect().await?;
    connection.post(PODS, &mirror_pod(&connection, "m-gw-1", "gw-1").await?).await?.ok()?;
    let mut taken = 0;
    for number in 0..count {
        let patch = json!({"status": {"message": format!("{number}{}", filler(2_900_000))}});
        let answer = connection.patch(&format!("{PODS}/m-gw-1/status"), wire::STRATEGIC, &patch).await?;
        ensure!(answer.status < 500, "{}: {}", answer.status, answer.text());
        taken += usize::from(answer.status == 200);
    }
    println!("{taken} of {count} large statuses were taken");
    Ok(())
}

#[test]
fn a_watch_that_does_not_read_pins_nothing() -> Result<()> {
    let mut target = Target::start()?;
    let thief = target.node("gw-1")?;
    let count = sized(80, 250);
    let held = target.under_attack(async {
        let watching = thief.connect().await?;
        let path = "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dgw-1";
        let watch = watching.begin(Method::GET, path, &[("accept", wire::JSON)]).await?;
        patch_large_statuses(&thief, count).await?;
        Ok((watching, watch))
    })?;
    // At rest while the watch is still open.
    let rest = target.rests();
    drop(held);
    rest
}

#[test]
fn large_changes_in_a_short_time_are_not_kept() -> Result<()> {
    let mut target = Target::start()?;
    let thief = target.node("gw-1")?;
    let count = sized(80, 250);
    target.under_attack(patch_large_statuses(&thief, count))?;
    ensure!(target.rss_mib() <= 400, "{} MiB right after", target.rss_mib());
    target.rests()
}

#[test]
fn watches_that_resume_share_what_they_are_sent() -> Result<()> {
    let mut target = Target::start()?;
    let maps = "/api/v1/namespaces/default/configmaps";
    let before =
        target.create(maps, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large"}}))?;
    let since = before["metadata"]["resourceVersion"].as_str().context("a revision")?.to_owned();
    let admin = target.admin.clone();
    let held = target.under_attack(async {
        let connection = admin.connect().await?;
        for number in 0..60 {
            let patch = json!({"data": {"a": format!("{number}{}", filler(1_000_000))}});
            connection.patch(&format!("{maps}/large"), wire::MERGE, &patch).await?.ok()?;
        }
        let mut held = Vec::new();
        for _ in 0..15 {
            let connection = admin.connect().await?;
            let path = format!("{maps}?watch=1&resourceVersion={since}");
            let watch = connection.begin(Method::GET, &path, &[("accept", wire::JSON)]).await?;
            held.push((connection, watch));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(held)
    })?;
    let rest = target.rests();
    drop(held);
    rest
}

#[test]
fn names_that_were_deleted_leave_nothing_behind() -> Result<()> {
    let mut target = Target::start()?;
    let maps = "/api/v1/namespaces/default/configmaps";
    target.create(maps, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "labelled"}}))?;
    let admin = target.admin.clone();
    let rounds = sized(60, 160);
    target.under_attack(async {
        let connection = admin.connect().await?;
        for round in 0..rounds {
            let labels: serde_json::Map<String, Value> =
                (0..7000).map(|number| (format!("r{round}-{number:055}"), "v".into())).collect();
            let put = |labels: Value| {
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "labelled", "labels": labels}})
            };
            let answer =
                connection.write(Method::PUT, &format!("{maps}/labelled"), wire::JSON, &put(Value::Object(labels))).await?;
            ensure!(answer.status < 500, "{}", answer.status);
            connection.write(Method::PUT, &format!("{maps}/labelled"), wire::JSON, &put(json!({}))).await?.ok()?;
        }
        Ok(())
    })?;
    target.rests()
}

/// A batch of `events` events that begins at `from`, each with one reading of a device that `device` names.
pub(super) fn batch(
    export: &str,
    epoch: &str,
    from: u64,
    events: u64,
    device: impl Fn(u64) -> String,
    value: &str,
) -> Bytes {
    let header = json!({
        "version": 1, "export": export, "epoch": epoch, "from": from, "to": from + events, "lost": 0, "events": events,
    });
    let mut text = header.to_string() + "\n";
    for number in 0..events {
        let device = device(number);
        let id = format!("{:08x}-0000-4000-8000-{:012x}", fastrand::u32(..), from + number);
        let event = json!({
            "apiVersion": "v3", "id": id, "deviceName": device, "profileName": "p", "sourceName": "s",
            "origin": 1_700_000_000_000_000_000_u64 + from + number, "tags": {},
            "readings": [{
                "id": id, "origin": 1_700_000_000_000_000_000_u64 + from + number, "deviceName": device,
                "resourceName": "r", "profileName": "p", "valueType": "String", "value": value,
            }],
        });
        text += &event.to_string();
        text.push('\n');
    }
    text.into()
}

/// Sends a batch as a node.
pub(super) async fn send_batch(node: &Access, batch: Bytes) -> Result<wire::Answer> {
    let headers = [("content-type", "application/vnd.selvedge.batch.v1+ndjson"), ("accept", wire::JSON)];
    node.connect().await?.send(Method::POST, "/telemetry/v1/batches", &headers, batch).await
}

/// The export that an honest node has, resolved into its assignment.
pub(super) fn export_everything(target: &Target, node: &str) -> Result<()> {
    let export = json!({
        "apiVersion": "edge.selvedge.dev/v1alpha1", "kind": "Export", "metadata": {"name": "everything"},
        "spec": {"to": {"hub": {}}, "batchPeriod": "1s"},
    });
    target.as_admin(Method::POST, "/apis/edge.selvedge.dev/v1alpha1/namespaces/default/exports", &export)?;
    testkit::wait::eventually("the export in the node's assignment", Duration::from_secs(20), || {
        let list =
            target.get("/apis/edge.selvedge.dev/v1alpha1/nodeassignments").map_err(|error| format!("{error:#}"))?;
        let all = list["items"].as_array().cloned().unwrap_or_default();
        let is_there =
            all.iter().any(|one| one["spec"]["nodeName"] == node && one["spec"].to_string().contains("everything"));
        if is_there { Ok(()) } else { Err(list.to_string()) }
    })
}

#[test]
fn device_names_of_one_node_are_not_kept_for_ever() -> Result<()> {
    let mut target = Target::start()?;
    let thief = target.node("gw-1")?;
    export_everything(&target, "gw-1")?;
    let rounds = sized(20_u64, 60);
    target.under_attack(async {
        for round in 0..rounds {
            let name = |number: u64| format!("d{round}-{number}-{}", "n".repeat(480));
            // 4 MiB a batch at most: 7,000 names need several.
            for part in 0..4 {
                let from = (round * 4 + part) * 1700;
                let batch = batch("default/everything", "e", from, 1700, |number| name(part * 1700 + number), "1");
                let answer = send_batch(&thief, batch).await?;
                ensure!(answer.status < 500, "{}: {}", answer.status, answer.text());
            }
        }
        Ok(())
    })?;
    target.rests()?;
    // Exports that nobody has declared are not remembered.
    let taken = target.under_attack(async {
        let mut taken = 0;
        for number in 0..200 {
            let answer =
                send_batch(&thief, batch(&format!("default/x{number}"), "e", 0, 1, |_| "d".to_owned(), "1")).await?;
            taken += usize::from(answer.status == 200);
        }
        Ok(taken)
    })?;
    ensure!(taken <= 64, "{taken} exports that no assignment names were taken");
    Ok(())
}

#[test]
fn whole_tables_are_streamed_not_built() -> Result<()> {
    let mut target = Target::start()?;
    let count = sized(8000, 50_000);
    let admin = target.admin.clone();
    target.runtime.block_on(async {
        let creators = (0..32).map(|worker| {
            let admin = admin.clone();
            async move {
                let connection = admin.connect().await?;
                for number in (worker..count).step_by(32) {
                    connection.post(PODS, &pod(&format!("p-{number}"), &format!("n-{}", number % 1000))).await?.ok()?;
                }
                anyhow::Ok(())
            }
        });
        futures::future::try_join_all(creators).await
    })?;
    let before = target.rss_mib();
    for accept in [wire::TABLE, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"] {
        let peak = Arc::new(AtomicU64::new(0));
        let pid = target.hub.pid();
        target.under_attack(async {
            let first = admin.connect().await?;
            let second = admin.connect().await?;
            let headers = [("accept", accept)];
            let lists = async {
                tokio::try_join!(
                    first.send(Method::GET, "/api/v1/pods", &headers, Bytes::new()),
                    second.send(Method::GET, "/api/v1/pods", &headers, Bytes::new()),
                )
            };
            let watch = async {
                loop {
                    let now = process::memory(pid).map_or(0, |memory| memory.rss_kib / 1024);
                    peak.fetch_max(now, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let (one, other) = tokio::select! { both = lists => both?, () = watch => unreachable!("it has no end") };
            for answer in [one.ok()?, other.ok()?] {
                let items = answer.json();
                let rows = items["rows"].as_array().or(items["items"].as_array()).map_or(0, Vec::len);
                ensure!(rows == count, "{rows} of {count} rows");
            }
            Ok(())
        })?;
        let peak = peak.load(Ordering::Relaxed);
        println!("{accept}: {before} MiB before, {peak} MiB at most");
        ensure!(peak < before + 100, "{accept}: {before} MiB before, {peak} MiB at most");
    }
    // The pods themselves stay, at 3.5 KB each.
    target.rests_below(REST_MIB_MAX.max(before) + count as u64 * 7 / 2048)
}

#[test]
fn warnings_are_few_whatever_was_wrong() -> Result<()> {
    let mut target = Target::start()?;
    let admin = target.admin.clone();
    let unknown: serde_json::Map<String, Value> = (0..40_000).map(|number| (format!("u{number}"), 1.into())).collect();
    let mut map = Value::Object(unknown);
    map["apiVersion"] = "v1".into();
    map["kind"] = "ConfigMap".into();
    map["metadata"] = json!({"name": "odd"});
    let answer = target.under_attack(async {
        let path = "/api/v1/namespaces/default/configmaps?fieldValidation=Warn";
        admin.connect().await?.post(path, &map).await
    })?;
    let warnings: Vec<usize> = answer.headers.get_all("warning").iter().map(|value| value.len()).collect();
    ensure!(answer.status == 201 || (400..500).contains(&answer.status), "{}", answer.status);
    // Python's client gives up beyond 100 headers of all kinds, Kubernetes stops at 4 KiB.
    ensure!(warnings.len() < 90 && warnings.iter().sum::<usize>() <= 8192, "{} warnings", warnings.len());
    target.rests()
}

#[test]
fn a_node_that_orphans_scans_nobody_elses_objects() -> Result<()> {
    let mut target = Target::start()?;
    let thief = target.node("gw-1")?;
    target.under_attack(async {
        let connection = thief.connect().await?;
        for number in 0..20 {
            let name = format!("m{number}-gw-1");
            connection.post(PODS, &mirror_pod(&connection, &name, "gw-1").await?).await?.ok()?;
            let options = json!({"propagationPolicy": "Orphan", "gracePeriodSeconds": 0});
            let answer = connection.write(Method::DELETE, &format!("{PODS}/{name}"), wire::JSON, &options).await?;
            ensure!(answer.status < 500, "{}: {}", answer.status, answer.text());
        }
        Ok(())
    })?;
    target.rests()
}
