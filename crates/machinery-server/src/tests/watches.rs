use serde_json::{Value, json};

use super::*;

#[tokio::test]
async fn a_watch_shows_what_was_there_and_then_what_happens() {
    let hub = Hub::start().await;
    hub.create(CONFIG_MAPS, config_map("a", json!({}), json!({}))).await;
    let mut watch = hub.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    assert_eq!(watch.shown().await, "ADDED a");
    hub.create(CONFIG_MAPS, config_map("b", json!({}), json!({}))).await;
    hub.patch(&format!("{CONFIG_MAPS}/b"), "merge-patch", json!({"data": {"k": "v"}})).await;
    hub.call("DELETE", &format!("{CONFIG_MAPS}/b"), Value::Null).await;
    hub.create("/api/v1/namespaces/kube-system/configmaps", config_map("other", json!({}), json!({}))).await;
    hub.create(CONFIG_MAPS, config_map("c", json!({}), json!({}))).await;
    for shown in ["ADDED b", "MODIFIED b", "DELETED b", "ADDED c"] {
        assert_eq!(watch.shown().await, shown);
    }
    hub.shutdown.cancel();
    assert_eq!(watch.shown().await, "end");
}

#[tokio::test]
async fn a_watch_continues_where_a_list_ended() {
    let hub = Hub::start().await;
    hub.create(CONFIG_MAPS, config_map("a", json!({}), json!({}))).await;
    let list = hub.get(CONFIG_MAPS).await.body;
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    hub.create(CONFIG_MAPS, config_map("b", json!({}), json!({}))).await;
    let mut watch = hub.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={revision}")).await;
    assert_eq!(watch.shown().await, "ADDED b");
    let hub = hub.restart();
    let mut watch = hub.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={revision}")).await;
    assert_eq!(watch.shown().await, "ADDED b");
}

#[tokio::test]
async fn what_leaves_a_selection_is_deleted_and_what_enters_it_is_added() {
    let hub = Hub::start().await;
    for selector in ["labelSelector=on%3Dyes", "labelSelector=on+in+(yes,sure)"] {
        let mut watch = hub.watch(&format!("{CONFIG_MAPS}?watch=1&{selector}")).await;
        hub.create(CONFIG_MAPS, config_map("a", json!({"on": "no"}), json!({}))).await;
        let a = format!("{CONFIG_MAPS}/a");
        for on in ["yes", "no", "yes"] {
            hub.patch(&a, "merge-patch", json!({"metadata": {"labels": {"on": on}}})).await;
        }
        hub.call("DELETE", &a, Value::Null).await;
        let mut revisions = Vec::new();
        for shown in ["ADDED", "DELETED", "ADDED", "DELETED"] {
            let event = watch.next().await.unwrap();
            assert_eq!((&event["type"], &event["object"]["metadata"]["labels"]["on"]), (&json!(shown), &json!("yes")));
            revisions.push(event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap());
        }
        assert!(revisions.is_sorted_by(|a, b| a < b), "{revisions:?}");
    }
}

#[tokio::test]
async fn a_node_sees_its_own_pods_only() {
    let hub = Hub::start().await;
    let mut watch = hub.watch("/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dgw-1&resourceVersion=0").await;
    hub.create(PODS, pod("other", "gw-2")).await;
    hub.create(PODS, pod("own", "gw-1")).await;
    assert_eq!(watch.shown().await, "ADDED own");
}

#[tokio::test]
async fn a_streamed_list_ends_with_a_bookmark() {
    let hub = Hub::start().await;
    hub.create(CONFIG_MAPS, config_map("a", json!({}), json!({}))).await;
    let path = format!(
        "{CONFIG_MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut watch = hub.watch(&path).await;
    assert_eq!(watch.shown().await, "ADDED a");
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    hub.create(CONFIG_MAPS, config_map("b", json!({}), json!({}))).await;
    assert_eq!(watch.shown().await, "ADDED b");
}

#[tokio::test]
async fn a_watch_ends_in_time_with_a_last_bookmark() {
    let hub = Hub::start().await;
    let current = hub.get(CONFIG_MAPS).await.body["metadata"]["resourceVersion"].clone();
    let mut watch = hub.watch(&format!("{CONFIG_MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=1")).await;
    let initial = watch.next().await.unwrap();
    assert!(
        initial.to_string().contains("initial-events-end"),
        "a watch that begins anywhere is one with a list: {initial}"
    );
    let last = watch.next().await.unwrap();
    assert_eq!((&last["type"], &last["object"]["metadata"]["resourceVersion"]), (&json!("BOOKMARK"), &current));
    assert_eq!(watch.shown().await, "end");
    let mut watch = hub.watch(&format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1")).await;
    assert_eq!(watch.shown().await, "end");
}

#[tokio::test]
async fn who_resumes_from_far_behind_gets_a_bookmark() {
    let hub = Hub::start().await;
    hub.create(PODS, pod("own", "gw-1")).await;
    let revision = |list: &Value| list["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    let start = revision(&hub.get(PODS).await.body);
    hub.call("DELETE", &format!("{PODS}/own?gracePeriodSeconds=0"), Value::Null).await;
    hub.create(CONFIG_MAPS, config_map("a", json!({}), json!({}))).await;
    for number in 0..1000 {
        hub.patch(&format!("{CONFIG_MAPS}/a"), "merge-patch", json!({"data": {"number": number.to_string()}})).await;
    }
    let current = revision(&hub.get(PODS).await.body);
    let path = "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dgw-1&allowWatchBookmarks=true&timeoutSeconds=1";
    let mut watch = hub.watch(&format!("{path}&resourceVersion={start}")).await;
    assert_eq!(watch.shown().await, "MODIFIED own");
    assert_eq!(watch.shown().await, "DELETED own");
    let mark = watch.next().await.unwrap();
    assert_eq!((&mark["type"], revision(&mark["object"])), (&json!("BOOKMARK"), current));
    // The first bookmark of a watcher that is not behind is the last one of its time.
    let mut watch = hub.watch(&format!("{path}&resourceVersion={current}")).await;
    assert_eq!(watch.next().await.unwrap()["type"], "BOOKMARK");
    assert_eq!(watch.shown().await, "end");
}

#[tokio::test]
async fn a_watch_from_a_revision_that_is_not_known_says_410_in_its_stream() {
    let hub = Hub::start().await;
    let mut watch = hub.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=99999999")).await;
    let error = watch.next().await.unwrap();
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(error["object"]["reason"], "Expired");
    assert_eq!(watch.shown().await, "end");
}

#[tokio::test]
async fn a_table_is_watched_with_its_columns_once() {
    let hub = Hub::start().await;
    hub.create(CONFIG_MAPS, config_map("a", json!({}), json!({}))).await;
    hub.create(CONFIG_MAPS, config_map("b", json!({}), json!({}))).await;
    let request = http::Request::get(format!("{CONFIG_MAPS}?watch=1"))
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(String::new())
        .unwrap();
    let response = hub.raw(Some(&Identity::controllers()), request).await;
    let mut watch = Lines { body: response.into_body(), rest: Vec::new(), lines: VecDeque::new() };
    for (name, has_columns) in [("a", true), ("b", false)] {
        let event = watch.next().await.unwrap();
        assert_eq!(event["object"]["rows"][0]["cells"][0], name);
        // Go has no empty list there, but none.
        assert_eq!(
            (event["object"]["columnDefinitions"].is_array(), event["object"].get("columnDefinitions").is_some()),
            (has_columns, true)
        );
    }
}

/// Puts pods of another node into the store, faster than through the API.
async fn with_many_pods(hub: &Hub, count: usize) {
    let pods = hub.server.registry().resource("", "v1", "pods").unwrap().storage_key.clone();
    let put = |number: usize| machinery_store::Op::Put {
        key: machinery_store::Key::new(&pods, "default", &format!("p{number:05}")),
        expect: machinery_store::Expect::Absent,
        encode: Box::new(move |revision| {
            machinery_store::Encoded {
            bytes: format!(
                r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"resourceVersion":"{revision}","name":"p{number:05}"}}}}"#
            )
            .into(),
            managed: None,
            index: [("spec.nodeName".to_owned(), "gw-2")].into_iter().collect(),
        }
        }),
    };
    for start in (0..count).step_by(1000) {
        let ops = (start..count.min(start + 1000)).map(put).collect();
        hub.server.0.store.commit(ops, machinery_store::Durability::Lazy).await.unwrap();
    }
}

#[tokio::test]
async fn a_watch_of_few_objects_costs_what_they_do() {
    let hub = Hub::start().await;
    with_many_pods(&hub, 50_000).await;
    hub.create(PODS, pod("own", "gw-1")).await;
    let conditions: Vec<String> = (0..1000).map(|number| format!("!a{number}")).collect();
    let labels = conditions.join(",");
    for fields in ["spec.nodeName%3Dgw-1", "metadata.name%3Down", "metadata.name%3Down,metadata.namespace%3Ddefault"] {
        let began = std::time::Instant::now();
        let mut watch = hub.watch(&format!("/api/v1/pods?watch=1&fieldSelector={fields}&labelSelector={labels}")).await;
        assert_eq!(watch.shown().await, "ADDED own");
        let list = hub.get(&format!("/api/v1/pods?fieldSelector={fields}&labelSelector={labels}")).await;
        assert_eq!(list.names(), ["own"]);
        // With every condition asked of every pod it takes a second.
        assert!(began.elapsed() < Duration::from_millis(250), "{fields}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn only_administrators_ask_with_a_thousand_conditions() {
    let hub = Hub::start().await;
    let node = Identity::new("system:node:gw-1", [crate::GROUP_NODES]);
    let absent = |count: usize| (0..count).map(|number| format!("!a{number}")).collect::<Vec<_>>().join(",");
    let among = |count: usize| {
        let values: Vec<String> = (0..count).map(|number| format!("b{number}")).collect();
        format!("a+notin+({})", values.join(","))
    };
    for (selector, code) in [(absent(64), 200), (absent(65), 400), (among(64), 200), (among(65), 400)] {
        for verb in ["", "&watch=1&timeoutSeconds=1"] {
            let path = format!("/api/v1/nodes?labelSelector={selector}{verb}");
            assert_eq!(hub.send(&node, "GET", &path, "application/json", "").await.code, code, "{path}");
            assert_eq!(hub.get(&path).await.code, 200, "{path}");
        }
    }
}

fn watch_request(path: &str, accept: &str) -> Request<crate::server::RequestBody> {
    Request::get(path).header("accept", accept).body(crate::server::boxed(String::new())).unwrap()
}

const OWN_NODE: &str = "/api/v1/nodes?watch=1&fieldSelector=metadata.name%3Dgw-1";

#[tokio::test]
async fn a_large_object_is_sent_as_the_store_has_it() {
    let hub = Hub::start().await;
    for (bytes, is_shared) in [(100, false), (32 * 1024, true)] {
        let name = format!("c{bytes}");
        hub.create(CONFIG_MAPS, config_map(&name, json!({}), json!({"k": "x".repeat(bytes)}))).await;
        let path = format!("{CONFIG_MAPS}?watch=1&fieldSelector=metadata.name%3D{name}");
        let mut watch = hub.server.handle(watch_request(&path, "*/*"), Some(&Identity::controllers())).await;
        let info = hub.server.registry().resource("", "v1", "configmaps").unwrap().clone();
        for kind in ["ADDED", "MODIFIED"] {
            let key = machinery_store::Key::new(&info.storage_key, "default", &name);
            let stored = hub.server.0.store.get(&key).unwrap().bytes.clone();
            let (mut line, mut shared) = (Vec::new(), 0);
            while line.last() != Some(&b'\n') {
                let frame = watch.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
                shared += if stored.as_ptr_range().contains(&frame.as_ptr()) { frame.len() } else { 0 };
                line.extend_from_slice(&frame);
            }
            let event: Value = serde_json::from_slice(&line).unwrap();
            assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!(kind), &json!(name)));
            // All but the beginning, after which the owners come.
            let shared_min = if is_shared { stored.len() - 128 } else { 0 };
            assert!((shared_min..=stored.len()).contains(&shared) && (shared > 0) == is_shared, "{name}: {shared}");
            hub.patch(&format!("{CONFIG_MAPS}/{name}"), "merge-patch", json!({"metadata": {"labels": {"a": "b"}}}))
                .await;
        }
    }
}

#[tokio::test]
async fn watches_that_nobody_reads_hold_a_bounded_amount() {
    let hub = Hub::start().await;
    let own = Identity::new("system:node:gw-1", [crate::GROUP_NODES]);
    let node = json!({"metadata": {"name": "gw-1", "annotations": {"a": "x".repeat(200_000)}}});
    let created = hub.create("/api/v1/nodes", node).await;
    let mut revision = created["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let meta = "g=meta.k8s.io;v=v1";
    for accept in ["*/*".to_owned(), format!("*/*;as=PartialObjectMetadata;{meta}"), format!("*/*;as=Table;{meta}")] {
        // Those that begin with what there is.
        let mut unread = Vec::new();
        let mut refused = 0;
        for _ in 0..200 {
            let mut response = hub.server.handle(watch_request(OWN_NODE, &accept), Some(&own)).await;
            let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
            refused += usize::from(response.status() == 429 || first.starts_with(br#"{"type":"ERROR""#));
            unread.push((first, response));
        }
        let held = hub.server.0.outgoing.bytes_held();
        assert!((4 << 20..=8 << 20).contains(&held), "{accept}: {held} bytes");
        assert!((100..200).contains(&refused), "{accept}: {refused} of 200 are refused");
        drop(unread);
        // Those that are open when there is something new.
        let mut open = Vec::new();
        for _ in 0..200 {
            let request = watch_request(&format!("{OWN_NODE}&resourceVersion={revision}"), &accept);
            open.push(hub.server.handle(request, Some(&own)).await.into_body());
        }
        let changed = hub
            .patch(
                "/api/v1/nodes/gw-1",
                "merge-patch",
                json!({"metadata": {"labels": {"a": accept.len().to_string()}}}),
            )
            .await;
        assert_eq!(changed.code, 200, "{}", changed.body);
        revision = changed.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let mut ended = 0;
        for body in &mut open {
            let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
            if first.starts_with(br#"{"type":"ERROR""#) {
                ended += 1;
                let error: Value = serde_json::from_slice(&first).unwrap();
                assert_eq!(error["object"]["code"], 410);
                assert!(body.frame().await.is_none(), "the watch has ended");
            }
        }
        let held = hub.server.0.outgoing.bytes_held();
        assert!((4 << 20..=8 << 20).contains(&held), "{accept}: {held} bytes");
        assert!((100..200).contains(&ended), "{accept}: {ended} of 200 end");
        drop(open);
        // A watch on the pool ends when it notices.
        let end = std::time::Instant::now() + PATIENCE;
        while hub.server.0.outgoing.bytes_held() > 0 {
            assert!(std::time::Instant::now() < end, "{accept}: what they held is given back");
            tokio::task::yield_now().await;
        }
    }
}

/// Nodes of 10 MiB in all, one who reads them, and how it asks for them as a stream.
async fn many_nodes(hub: &Hub) -> (Identity, String) {
    for number in 0..40 {
        let annotations = json!({"a": "x".repeat(250_000)});
        hub.create("/api/v1/nodes", json!({"metadata": {"name": format!("n{number}"), "annotations": annotations}}))
            .await;
    }
    let streamed = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    (Identity::new("system:node:n1", [crate::GROUP_NODES]), format!("/api/v1/nodes?{streamed}"))
}

/// Reads a stream until the bookmark that ends what was there; whether it came.
async fn is_whole(watch: &mut http::Response<base_http::Body>) -> bool {
    let mut end = Vec::new();
    while let Some(frame) = watch.body_mut().frame().await {
        end.drain(..end.len().saturating_sub(64));
        end.extend_from_slice(&frame.unwrap().into_data().unwrap());
        if end.windows(18).any(|part| part == b"initial-events-end") {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn a_streamed_list_may_be_larger_than_what_may_wait() {
    let hub = Hub::start().await;
    let (reader, path) = many_nodes(&hub).await;
    for accept in ["*/*", "*/*;as=Table;g=meta.k8s.io;v=v1", "application/vnd.kubernetes.protobuf;stream=watch"] {
        // One that nobody reads keeps no other from beginning.
        let unread = hub.server.handle(watch_request(&path, accept), Some(&reader)).await;
        let mut watch = hub.server.handle(watch_request(&path, accept), Some(&reader)).await;
        assert_eq!((unread.status(), watch.status()), (http::StatusCode::OK, http::StatusCode::OK), "{accept}");
        assert!(is_whole(&mut watch).await, "{accept}");
        assert!(hub.server.0.outgoing.bytes_held() <= 8 << 20, "{accept}");
        drop((unread, watch));
        let end = std::time::Instant::now() + PATIENCE;
        while hub.server.0.outgoing.bytes_held() > 0 {
            assert!(std::time::Instant::now() < end, "{accept}: what they held is given back");
            tokio::task::yield_now().await;
        }
    }
}
