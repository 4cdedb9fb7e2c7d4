//! One weak client must not end the hub, freeze it, or lock everybody out.

use super::*;

#[test]
fn no_timeout_of_a_watch_ends_the_hub() -> Result<()> {
    let mut target = Target::start()?;
    // A token may or may not watch at all; a node may watch its pods, whatever it asks for.
    let callers = [
        (
            target.bootstrapper()?,
            "/apis/certificates.k8s.io/v1/certificatesigningrequests?fieldSelector=metadata.name%3Dx",
            false,
        ),
        (target.node("gw-1")?, "/api/v1/pods?fieldSelector=spec.nodeName%3Dgw-1", true),
    ];
    target.under_attack(async {
        for (caller, path, may_watch) in callers {
            let connection = caller.connect().await?;
            for seconds in
                ["9223372036854775807", "18446744073709551615", "4294967296000", "-1", "99999999999999999999999", "0"]
            {
                for verb in ["&watch=1", ""] {
                    let path = format!("{path}{verb}&timeoutSeconds={seconds}");
                    let pending = connection.begin(Method::GET, &path, &[("accept", wire::JSON)]).await?;
                    // A watch that is taken stays open: its head is enough.
                    let mut pending = pending;
                    let _ = pending.push(Bytes::new());
                    let answered = tokio::time::timeout(Duration::from_secs(3), pending.head()).await;
                    if may_watch && seconds == "9223372036854775807" && !verb.is_empty() {
                        let (status, _) = answered.context("no answer to a legal timeout")??;
                        ensure!(status == 200, "timeoutSeconds={seconds}: {status}");
                    } else if let Ok(Ok((status, _))) = answered {
                        ensure!(status < 500, "timeoutSeconds={seconds}: {status}");
                    }
                }
            }
        }
        Ok(())
    })?;
    target.rests()
}

#[test]
fn a_patch_that_doubles_its_depth_is_rejected() -> Result<()> {
    let mut target = Target::start()?;
    let thief = target.node("gw-1")?;
    let mut operations = vec![json!({"op": "add", "path": "/metadata/z", "value": {"a": {}}})];
    let mut deepest = "/metadata/z/a".to_owned();
    for _ in 0..15 {
        let below = deepest.trim_start_matches("/metadata/z").to_owned();
        operations.push(json!({"op": "copy", "from": "/metadata/z", "path": format!("{deepest}/a")}));
        deepest = format!("{deepest}/a{below}");
    }
    let answer = target.under_attack(async {
        thief.connect().await?.patch("/api/v1/nodes/gw-1", wire::JSON_PATCH, &Value::Array(operations)).await
    })?;
    ensure!((400..500).contains(&answer.status), "{}: {}", answer.status, answer.text());
    // As deep by itself, in each content type that is parsed.
    for kind in
        [wire::JSON, wire::MERGE, wire::STRATEGIC, wire::JSON_PATCH, "application/apply-patch+yaml", "application/yaml"]
    {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let body = format!("{}1{}", open.repeat(200_000), close.repeat(200_000));
            let answer = target.under_attack(async {
                let headers = [("content-type", kind), ("accept", wire::JSON)];
                thief.connect().await?.send(Method::PATCH, "/api/v1/nodes/gw-1", &headers, body.into()).await
            })?;
            ensure!((400..500).contains(&answer.status), "{kind}: {}: {}", answer.status, answer.text());
        }
    }
    target.rests()
}

#[test]
fn patches_of_long_lists_freeze_nobody() -> Result<()> {
    let mut target = Target::start()?;
    let thief = target.node("gw-1")?;
    let count = sized(20_000, 60_000);
    let conditions: Vec<Value> = (0..count).map(|number| json!({"type": format!("a{number}")})).collect();
    let mut order: Vec<Value> = conditions.iter().rev().cloned().collect();
    order.truncate(count / 2);
    let plain = json!({"status": {"conditions": conditions}});
    let ordered = json!({"status": {"$setElementOrder/conditions": order, "conditions": conditions}});
    target.under_attack(async {
        let connection = thief.connect().await?;
        let patch = |body| connection.patch("/api/v1/nodes/gw-1/status", wire::STRATEGIC, body);
        let (first, second) = tokio::join!(patch(&plain), patch(&ordered));
        // Taken or rejected: what counts is that everybody else was served meanwhile.
        ensure!(first?.status < 500 && second?.status < 500, "a server error");
        Ok(())
    })?;
    target.rests()
}

#[test]
fn bodies_that_do_not_come_take_nobodys_place() -> Result<()> {
    let mut target = Target::start()?;
    let thief = target.node("gw-1")?;
    let honest = target.node("gw-2")?;
    let leaked = target.bootstrapper()?;
    let admin = target.admin.clone();
    target.under_attack(async {
        let attacker = open(&thief, 2).await?;
        let token = open(&leaked, 2).await?;
        let mut held = Vec::new();
        let headers = [("content-type", wire::STRATEGIC), ("accept", wire::JSON), ("content-length", "1000000")];
        let json = [("content-type", wire::JSON), ("accept", wire::JSON), ("content-length", "1000000")];
        let batch = [("content-type", "application/vnd.selvedge.batch.v1+ndjson"), ("content-length", "1000000")];
        let csrs = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
        for number in 0..256 {
            // A connection has a limit of streams of its own; a server may close one that goes too far.
            let mut hold = async |connection: &Connection, method, path, headers: &[(&str, &str)]| {
                let begun = tokio::time::timeout(Duration::from_millis(500), connection.begin(method, path, headers));
                if let Ok(Ok(mut pending)) = begun.await
                    && pending.push(&b"{"[..]).is_ok()
                {
                    held.push(pending);
                }
            };
            hold(&attacker[number % 2], Method::PATCH, "/api/v1/nodes/gw-1/status", &headers).await;
            hold(&token[number % 2], Method::POST, csrs, &json).await;
            if number < 32 {
                hold(&attacker[number % 2], Method::POST, "/telemetry/v1/batches", &batch).await;
            }
        }
        ensure!(!held.is_empty(), "nothing was held");
        for _ in 0..10 {
            let answer = admin.connect().await?.get("/api/v1/namespaces").await?;
            ensure!(answer.status == 200, "the administrator: {}: {}", answer.status, answer.text());
            let connection = honest.connect().await?;
            let answer = connection.patch("/api/v1/nodes/gw-2/status", wire::STRATEGIC, &json!({"status": {}})).await?;
            ensure!(answer.status == 200, "another node: {}: {}", answer.status, answer.text());
            let answer =
                connection.send(Method::POST, "/telemetry/v1/batches", &batch[..1], Bytes::from_static(b"x")).await?;
            ensure!(answer.status == 400, "another node's batch: {}: {}", answer.status, answer.text());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        drop(held);
        Ok(())
    })?;
    target.rests()
}

#[test]
fn silent_connections_lock_nobody_out() -> Result<()> {
    let mut target = Target::start()?;
    let anonymous = Access::anonymous(&target.address, &target.ca)?;
    let admin = target.admin.clone();
    target.under_attack(async {
        let mut silent = Vec::new();
        for _ in 0..3100 {
            // Handshakes may be rejected from some number on: that is one way to defend.
            match tokio::time::timeout(Duration::from_secs(2), anonymous.handshake()).await {
                Ok(Ok(stream)) => silent.push(stream),
                _ => break,
            }
        }
        println!("{} silent connections", silent.len());
        for _ in 0..5 {
            let served =
                tokio::time::timeout(LIVEZ_MAX, async { admin.connect().await?.get("/api/v1/nodes").await?.ok() });
            served.await.context("the administrator is locked out")??;
        }
        // And they do not stay for ever.
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut sample: Vec<_> = silent.iter_mut().step_by(97).collect();
        for stream in &mut sample {
            let mut byte = [0_u8; 256];
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = async {
                use tokio::io::AsyncReadExt as _;
                // The server's settings may come first; then the end.
                while stream.read(&mut byte).await.is_ok_and(|count| count > 0) {}
            };
            tokio::time::timeout(left, ended).await.context("a silent connection is still open after 30 s")?;
        }
        Ok(())
    })?;
    target.rests()
}

#[test]
fn reviews_are_counted_like_all_bodies() -> Result<()> {
    let mut target = Target::start()?;
    let thief = target.bootstrapper()?;
    let (count, pid) = (sized(200, 500), target.hub.pid());
    let peak = target.under_attack(async {
        let connections = open(&thief, 2).await?;
        let body = Bytes::from(vec![b' '; 2_900_000]);
        let mut held = Vec::new();
        let headers = [("content-type", wire::JSON), ("accept", wire::JSON)];
        for number in 0..count {
            let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
            let begun = tokio::time::timeout(
                Duration::from_millis(500),
                connections[number % 2].begin(Method::POST, path, &headers),
            );
            if let Ok(Ok(mut pending)) = begun.await
                && pending.push(body.clone()).is_ok()
            {
                held.push(pending);
            }
        }
        // Until the hub has taken in what it takes.
        let mut last = 0;
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = process::memory(pid).map_or(0, |memory| memory.rss_kib / 1024);
            if now <= last + 2 {
                break;
            }
            last = now;
        }
        Ok(held.len())
    })?;
    println!("{peak} bodies under way, {} MiB", target.rss_mib());
    ensure!(target.rss_mib() <= 400, "{} MiB while the bodies are held", target.rss_mib());
    target.rests()
}
