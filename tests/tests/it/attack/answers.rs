//! Wrong answers that can be driven from outside.

use super::memory::{batch, export_everything, send_batch};
use super::*;

/// Stored values of a device of a node.
fn stored(target: &Target, node: &str) -> Result<Vec<String>> {
    let answer = target.get(&format!("/telemetry/v1/readings?node={node}&limit=10000"))?;
    let readings = answer["readings"].as_array().cloned().unwrap_or_default();
    Ok(readings.iter().filter_map(|one| one["reading"]["value"].as_str().map(str::to_owned)).collect())
}

fn device(_: u64) -> String {
    "d".to_owned()
}

#[test]
fn a_pod_of_a_node_that_is_not_there_is_collected() -> Result<()> {
    let target = Target::start()?;
    target.node("gw-1")?;
    target.create(PODS, &pod("nowhere", "nowhere"))?;
    target.create(PODS, &pod("bare", "gw-1"))?;
    target.as_admin(Method::DELETE, "/api/v1/nodes/gw-1", &Value::Null)?.ok()?;
    // Upstream's collector takes them after 40 s, with a period of 20 s.
    testkit::wait::eventually("both pods collected", Duration::from_secs(120), || {
        let list = target.get(PODS).map_err(|error| format!("{error:#}"))?;
        let left = list["items"].as_array().map_or(0, Vec::len);
        if left == 0 { Ok(()) } else { Err(format!("{left} pods")) }
    })
}

#[test]
fn a_batch_is_recognised_however_many_epochs_came_between() -> Result<()> {
    let target = Target::start()?;
    let node = target.node("gw-1")?;
    export_everything(&target, "gw-1")?;
    let first = batch("default/everything", "first", 0, 1, device, "y0");
    target.runtime.block_on(async {
        send_batch(&node, first.clone()).await?.ok()?;
        for epoch in 0..8 {
            send_batch(&node, batch("default/everything", &format!("other-{epoch}"), 0, 1, device, "z")).await?;
        }
        send_batch(&node, first).await
    })?;
    let times = stored(&target, "gw-1")?.iter().filter(|value| *value == "y0").count();
    ensure!(times == 1, "y0 is stored {times} times");
    Ok(())
}

#[test]
fn other_data_for_the_same_range_is_not_dropped_in_silence() -> Result<()> {
    let target = Target::start()?;
    let node = target.node("gw-1")?;
    export_everything(&target, "gw-1")?;
    let answer = target.runtime.block_on(async {
        send_batch(&node, batch("default/everything", "e", 0, 2, device, "mine")).await?.ok()?;
        send_batch(&node, batch("default/everything", "e", 0, 2, device, "the other box's")).await
    })?;
    ensure!(answer.status == 409, "{}: {}", answer.status, answer.text());
    Ok(())
}

#[test]
fn a_batch_does_not_count_beyond_reason() -> Result<()> {
    let mut target = Target::start()?;
    let node = target.node("gw-1")?;
    export_everything(&target, "gw-1")?;
    target.runtime.block_on(async {
        for (from, to, lost) in [(0_u64, 1_u64, u64::MAX - 1), (0, u64::MAX, 0), (u64::MAX - 1, u64::MAX, u64::MAX)] {
            for epoch in ["a", "b"] {
                let header = json!({
                    "version": 1, "export": "default/everything", "epoch": epoch, "from": from, "to": to, "lost": lost, "events": 0,
                });
                let answer = send_batch(&node, format!("{header}\n").into()).await?;
                ensure!((400..500).contains(&answer.status), "{header}: {}: {}", answer.status, answer.text());
            }
        }
        Ok(())
    })?;
    target.hub.kill();
    crate::common::start_on_its_port(&mut target.hub, target.dir.path(), &target.address)?;
    target.rests()
}

#[test]
fn one_chatty_node_does_not_push_anothers_readings_out() -> Result<()> {
    hollow::lift_descriptor_limit();
    let mut target = Target::start()?;
    let config = target.dir.path().join("small.yaml");
    std::fs::write(&config, "telemetryBytesMax: 67108864\n")?;
    let config = config.to_string_lossy().into_owned();
    target.hub.kill();
    std::fs::write(
        target.dir.path().join("hub.yaml"),
        format!("listen: {}\ntelemetryBytesMax: 67108864\n", target.address),
    )?;
    let both = target.dir.path().join("hub.yaml").to_string_lossy().into_owned();
    drop(config);
    target.hub.change_args(|args| args.extend(["--config".to_owned(), both]));
    target.hub.start_again("default")?;
    target.hub.address("hub-api")?;
    let (quiet, chatty) = (target.node("gw-2")?, target.node("gw-1")?);
    export_everything(&target, "gw-1")?;
    export_everything(&target, "gw-2")?;
    target.runtime.block_on(async {
        send_batch(&quiet, batch("default/everything", "q", 0, 10, device, "quiet")).await?.ok()?;
        let large = "x".repeat(30_000);
        for number in 0..40 {
            let answer = send_batch(&chatty, batch("default/everything", "c", number * 90, 90, device, &large)).await?;
            ensure!(answer.status < 500 || answer.status == 507, "{}", answer.status);
        }
        Ok(())
    })?;
    let left = stored(&target, "gw-2")?.len();
    ensure!(left == 10, "{left} of the quiet node's 10 readings are left");
    Ok(())
}

#[test]
fn a_namespace_says_what_it_waits_for() -> Result<()> {
    let target = Target::start()?;
    target.create(
        "/api/v1/namespaces",
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "held"}}),
    )?;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "finalizers": ["x.io/wait"]}});
    target.create("/api/v1/namespaces/held/configmaps", &map)?;
    target.as_admin(Method::DELETE, "/api/v1/namespaces/held", &Value::Null)?.ok()?;
    testkit::wait::eventually("conditions that name the finalizer", Duration::from_secs(20), || {
        let namespace = target.get("/api/v1/namespaces/held").map_err(|error| format!("{error:#}"))?;
        let conditions = namespace["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let says = |kind: &str, what: &str| {
            conditions.iter().any(|one| {
                one["type"] == kind
                    && one["status"] == "True"
                    && one["message"].as_str().is_some_and(|text| text.contains(what))
            })
        };
        if says("NamespaceFinalizersRemaining", "x.io/wait") && says("NamespaceContentRemaining", "configmaps") {
            Ok(())
        } else {
            Err(namespace["status"].to_string())
        }
    })
}

#[test]
fn reads_are_answered_as_upstream_answers_them() -> Result<()> {
    let target = Target::start()?;
    let maps = "/api/v1/namespaces/default/configmaps";
    target.create(maps, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "x".repeat(200_000)}}))?;
    target.runtime.block_on(async {
        let admin = target.admin.connect().await?;
        let gzip = [("accept", wire::JSON), ("accept-encoding", "gzip")];
        let packed = admin.send(Method::GET, maps, &gzip, Bytes::new()).await?;
        ensure!(
            packed.headers.get("content-encoding").is_some_and(|value| value == "gzip"),
            "a large list is not compressed"
        );
        ensure!(packed.body.len() < 20_000, "{} bytes", packed.body.len());
        let metrics = admin.get("/metrics").await?;
        ensure!(metrics.status == 200 && metrics.text().contains("# TYPE"), "/metrics: {}", metrics.status);
        Ok(())
    })
}

#[test]
fn nobody_without_an_identity_sees_more_than_the_open_paths() -> Result<()> {
    let target = Target::start()?;
    let anonymous = Access::anonymous(&target.address, &target.ca)?;
    target.runtime.block_on(async {
        let connection = anonymous.connect().await?;
        for path in ["/livez", "/readyz", "/healthz", "/version"] {
            ensure!(connection.get(path).await?.status == 200, "{path} is open");
        }
        for path in
            ["/api", "/apis", "/api/v1/pods", "/openapi/v3", "/metrics", "/telemetry/v1/readings", "/debug/pprof"]
        {
            let status = connection.get(path).await?.status;
            ensure!(matches!(status, 401 | 403 | 404), "{path}: {status}");
        }
        Ok(())
    })
}

#[test]
fn a_head_has_no_body() -> Result<()> {
    let target = Target::start()?;
    // Upstream serves HEAD for what is no resource, and knows no such act on a resource.
    for (path, status) in [("/version", 200), ("/livez", 200), ("/api/v1/namespaces/default", 405)] {
        let head = target.as_admin(Method::HEAD, path, &Value::Null)?;
        ensure!(head.status == status && head.body.is_empty(), "HEAD {path}: {} {}", head.status, head.text());
    }
    Ok(())
}

/// A watch is of a collection, with a field selector if it is of one object: on a path with a name upstream's
/// RequestInfo leaves the verb at "get" and the route reads no `watch`, so clients get the object, and once.
#[test]
fn a_watch_of_a_named_object_is_a_get_as_upstream() -> Result<()> {
    let target = Target::start()?;
    let object = target.get("/api/v1/namespaces/default?watch=1")?;
    ensure!(object["kind"] == "Namespace" && object["metadata"]["name"] == "default", "{object}");
    target.runtime.block_on(async {
        let admin = target.admin.connect().await?;
        let path = "/api/v1/namespaces?watch=1&timeoutSeconds=5&fieldSelector=metadata.name%3Ddefault";
        let mut watch = admin.watch(path).await?;
        let first = tokio::time::timeout(Duration::from_secs(5), watch.next()).await??.context("no event came")?;
        let event: Value = serde_json::from_slice(&first)?;
        ensure!(event["type"] == "ADDED" && event["object"]["metadata"]["name"] == "default", "{event}");
        Ok(())
    })
}
