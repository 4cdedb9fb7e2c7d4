//! How requests are served: bounds, turns, large answers.

use std::io::Read as _;

use super::*;
use crate::protobuf::tests::{envelope, field};

async fn with_pods(hub: &Hub, count: usize) {
    for number in 0..count {
        let pod = json!({
            "metadata": {"name": format!("p{number:04}"), "annotations": {"note": "x".repeat(1500)}},
            "spec": {"nodeName": "gw-1", "runtimeClassName": "selvedge-process",
                     "containers": [{"name": "c", "image": "file:///bin/true"}]},
        });
        hub.create("/api/v1/namespaces/default/pods", pod).await;
    }
}

#[tokio::test]
async fn a_watch_may_ask_for_any_time_and_gets_an_hour_at_most() {
    let hub = Hub::start().await;
    for seconds in ["9223372036854775807", "-5", "3600", "1"] {
        let path = format!("/api/v1/namespaces?watch=1&timeoutSeconds={seconds}");
        let request = Request::get(path).body(String::new()).unwrap();
        let response = hub.raw(Some(&Identity::controllers()), request).await;
        assert_eq!(response.status(), 200, "{seconds}");
    }
    let answer = hub.get("/api/v1/namespaces?watch=1&timeoutSeconds=9223372036854775808").await;
    assert_eq!(answer.code, 400, "{}", answer.body);
}

#[tokio::test]
async fn a_long_list_is_sent_in_pieces_and_is_whole() {
    let hub = Hub::start().await;
    with_pods(&hub, 120).await;
    let path = "/api/v1/namespaces/default/pods";
    let names = |items: &Value, pointer: &str| -> Vec<String> {
        items.as_array().unwrap().iter().map(|item| crate::object::text_at(item, pointer).to_owned()).collect()
    };
    let expected: Vec<String> = (0..120).map(|number| format!("p{number:04}")).collect();
    let plain = hub.get(path).await.body;
    assert_eq!(names(&plain["items"], "/metadata/name"), expected);
    let table = hub.get_as(path, "application/json;as=Table;v=v1;g=meta.k8s.io").await.body;
    assert_eq!(names(&table["rows"], "/object/metadata/name"), expected);
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["metadata"]["resourceVersion"], plain["metadata"]["resourceVersion"]);
    let partial = hub.get_as(path, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await.body;
    assert_eq!(names(&partial["items"], "/metadata/name"), expected);
    assert_eq!(partial["items"][7]["kind"], "PartialObjectMetadata");
    assert!(partial["items"][7].get("spec").is_none());
}

#[tokio::test]
async fn a_long_list_is_compressed_for_those_who_take_it() {
    let hub = Hub::start().await;
    with_pods(&hub, 120).await;
    let fetch = async |encoding: &str| {
        let request = Request::get("/api/v1/pods").header("accept-encoding", encoding).body(String::new()).unwrap();
        let response = hub.raw(Some(&Identity::controllers()), request).await;
        let coding = response.headers().get("content-encoding").map(|value| value.to_str().unwrap().to_owned());
        (coding, response.into_body().collect().await.unwrap().to_bytes())
    };
    let (coding, plain) = fetch("identity").await;
    assert_eq!(coding, None);
    let (coding, packed) = fetch("deflate, gzip").await;
    assert_eq!(coding.as_deref(), Some("gzip"));
    assert!(packed.len() < plain.len() / 10, "{} of {}", packed.len(), plain.len());
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain);
    assert_eq!(fetch("gzip;q=0").await.0, None);
}

#[tokio::test]
async fn warnings_stay_below_what_clients_take() {
    let hub = Hub::start().await;
    let mut object = json!({"metadata": {"name": "many"}});
    for number in 0..40_000 {
        object[format!("unknown{number}")] = 1.into();
    }
    let answer = hub.call("POST", "/api/v1/namespaces/default/configmaps", object).await;
    assert_eq!(answer.code, 201);
    let bytes: usize = answer.warnings.iter().map(String::len).sum();
    assert!((1..100).contains(&answer.warnings.len()), "{} warnings", answer.warnings.len());
    assert!(bytes <= 6 * 1024, "{bytes} bytes of warnings");
    assert!(answer.warnings[0].contains("unknown"), "{}", answer.warnings[0]);
}

#[tokio::test]
async fn bodies_that_do_not_come_hold_up_their_own_identity_only() {
    let hub = Hub::start().await;
    let token = Identity::new("system:bootstrap:abcdef", [crate::GROUP_BOOTSTRAPPERS]);
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let stalled = || {
        let request = Request::post(path).header("content-type", "application/json");
        let body = http_body_util::StreamBody::new(futures::stream::pending::<
            Result<hyper::body::Frame<Bytes>, std::convert::Infallible>,
        >());
        request.body(crate::server::boxed(body)).unwrap()
    };
    let mut held = Vec::new();
    for _ in 0..600 {
        let mut request = Box::pin(hub.server.handle(stalled(), Some(&token)));
        if futures::poll!(&mut request).is_pending() {
            held.push(request);
        }
    }
    assert!(held.len() < 600, "one identity has no bound on what is on its way");
    let answer = hub.get("/api/v1/namespaces").await;
    assert_eq!(answer.code, 200);
    let other = Identity::new("system:node:gw-1", [crate::GROUP_NODES]);
    let answer = hub.send(&other, "GET", "/api/v1/namespaces", "application/json", "").await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    let refused = super::answer(hub.server.handle(stalled(), Some(&token)).await).await;
    assert_eq!(refused.code, 429, "{}", refused.body);
}

#[tokio::test]
async fn writes_that_came_before_their_answers_were_too_many_are_refused_when_their_turn_comes() {
    let hub = Hub::start().await;
    let token = Identity::new("system:bootstrap:abcdef", [crate::GROUP_BOOTSTRAPPERS]);
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review =
        json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "name": "x".repeat(60_000)}}});
    let review = Bytes::from(review.to_string());
    let mut begun = Vec::new();
    for _ in 0..300 {
        let (send, receive) = tokio::sync::oneshot::channel::<Bytes>();
        let body = futures::stream::once(async move { receive.await.map(hyper::body::Frame::data) });
        let request = Request::post(path).header("content-type", "application/json");
        let request = request.body(crate::server::boxed(http_body_util::StreamBody::new(body))).unwrap();
        let (server, token) = (hub.server.clone(), token.clone());
        let mut answer = Box::pin(async move { server.handle(request, Some(&token)).await });
        assert!(futures::poll!(&mut answer).is_pending(), "its head has come, its body not");
        begun.push((send, answer));
    }
    let mut unread = Vec::new();
    for (send, answer) in begun {
        send.send(review.clone()).unwrap();
        unread.push(answer.await);
    }
    let counts = |code: u16| unread.iter().filter(|answer| answer.status() == code).count();
    assert_eq!((counts(201) + counts(429), counts(201) > 100), (300, true), "{} and {}", counts(201), counts(429));
    let held = hub.server.0.outgoing.bytes_held();
    assert!(held <= (8 << 20) + 100_000, "{held} B are held for one that takes nothing");
}

#[tokio::test]
async fn responses_that_nobody_takes_hold_up_their_own_identity_only() {
    let hub = Hub::start().await;
    with_pods(&hub, 120).await;
    let slow = Identity::new("system:bootstrap:abcdef", [crate::GROUP_MASTERS.replace("masters", "authenticated")]);
    let get = |path: &str| Request::get(path).body(crate::server::boxed(String::new())).unwrap();
    for path in ["/openapi/v3/api/v1", "/version", "/api"] {
        let mut unread = Vec::new();
        let mut taken = 0;
        for _ in 0..1100 {
            let response = hub.server.handle(get(path), Some(&slow)).await;
            taken += usize::from(response.status() == 200);
            unread.push(response);
        }
        assert!((1..=1024).contains(&taken), "{taken} of {path}");
        let last = unread.last().expect("there are many").extensions().get::<crate::outgoing::Overrun>();
        assert!(last.is_some(), "those that were refused wait to be taken as well, and the connection ends");
        assert!(hub.server.0.outgoing.bytes_held() <= 8 << 20, "{path}: {} B", hub.server.0.outgoing.bytes_held());
        assert_eq!(hub.get("/openapi/v3/api/v1").await.code, 200, "others are served");
        drop(unread);
        assert_eq!(hub.server.0.outgoing.bytes_held(), 0, "{path}");
        assert_eq!(hub.server.handle(get(path), Some(&slow)).await.status(), 200, "{path} after they were dropped");
    }
}

#[tokio::test]
async fn everybody_reads_the_same_copy_of_a_document() {
    let hub = Hub::start().await;
    let mut first = Vec::new();
    for _ in 0..2 {
        let request = Request::get("/openapi/v3/apis/apps/v1").body(String::new()).unwrap();
        let mut response = hub.raw(Some(&Identity::controllers()), request).await;
        assert_eq!(response.status(), 200);
        first.push(hyper::body::Body::size_hint(response.body()).exact());
        drop(response.body_mut().frame().await);
    }
    assert_eq!(first[0], first[1]);
    assert_eq!(hub.server.0.documents.len(), 1);
}

#[tokio::test]
async fn the_document_of_all_kinds_is_negotiated_tagged_and_compressed() {
    const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let hub = Hub::start().await;
    let fetch = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = hub.raw(Some(&Identity::controllers()), request.body(String::new()).unwrap()).await;
        let (head, body) = response.into_parts();
        let header = move |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        (head.status.as_u16(), header, body.collect().await.unwrap().to_bytes())
    };
    let v2 = "/openapi/v2";
    let (code, header, plain) = fetch(v2, &[]).await;
    assert_eq!((code, header("content-type").as_deref()), (200, Some("application/json")));
    assert_eq!(header("content-length"), Some(plain.len().to_string()));
    assert!(header("last-modified").is_some_and(|time| time.ends_with(" GMT")));
    let document: Value = serde_json::from_slice(&plain).unwrap();
    assert_eq!(document["swagger"], "2.0");
    assert!(document["definitions"]["io.k8s.api.core.v1.Pod"]["properties"]["spec"].is_object());
    let (tag, time) = (header("etag").unwrap(), header("last-modified").unwrap());
    let (_, header, packed) = fetch(v2, &[("accept-encoding", "gzip"), ("accept", "text/html, */*;q=0.1")]).await;
    assert_eq!(header("content-encoding").as_deref(), Some("gzip"));
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain);
    let (_, header, protobuf) = fetch(v2, &[("accept", PROTOBUF)]).await;
    assert_eq!(header("content-type").as_deref(), Some(PROTOBUF.replace('@', ".").as_str()));
    assert_eq!(header("etag"), Some(tag.clone()), "both forms are of one document");
    assert!(protobuf.starts_with(b"\x0a\x032.0"));
    assert_eq!(fetch(v2, &[("if-none-match", &tag)]).await.0, 304);
    assert_eq!(fetch(v2, &[("if-modified-since", &time)]).await.0, 304);
    assert_eq!(fetch(v2, &[("accept", "text/plain")]).await.0, 406);
    hub.create(CRDS, super::objects::gadget_crd()).await;
    let (_, header, changed) = fetch(v2, &[("if-none-match", &tag)]).await;
    assert_ne!(header("etag"), Some(tag));
    let document: Value = serde_json::from_slice(&changed).unwrap();
    assert!(document["definitions"]["org.example.v1.Gadget"]["properties"]["spec"].is_object());

    let (_, header, _) = fetch("/openapi/v3/apis/apps/v1?hash=1", &[]).await;
    let url = header("location").expect("the address of the document as it is");
    let (code, header, _) = fetch(&url, &[]).await;
    assert_eq!((code, header("cache-control").as_deref()), (200, Some("public, immutable")));
    assert!(header("expires").is_some());
    assert_eq!(fetch("/openapi/v3/apis/apps/v1", &[("accept", "text/plain")]).await.0, 406);
    assert_eq!(fetch("/openapi/v3/apis/apps", &[]).await.0, 200);
}

#[tokio::test]
async fn a_review_is_small_and_counted() {
    let hub = Hub::start().await;
    let token = Identity::new("system:bootstrap:abcdef", [crate::GROUP_BOOTSTRAPPERS]);
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let large = json!({"spec": {}, "padding": "x".repeat(100_000)}).to_string();
    let answer = hub.send(&token, "POST", path, "application/json", &large).await;
    assert_eq!(answer.code, 413, "{}", answer.body);
    let answer = hub.send(&token, "POST", path, "application/json", "{}").await;
    assert_eq!(answer.body["status"]["userInfo"]["username"], "system:bootstrap:abcdef");
}

#[tokio::test]
async fn figures_are_shown_to_administrators() {
    let hub = Hub::start().await;
    hub.get("/api/v1/namespaces").await;
    let fetch = async |identity: &Identity| {
        let response = hub.raw(Some(identity), Request::get("/metrics").body(String::new()).unwrap()).await;
        let status = response.status().as_u16();
        (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    };
    let (status, page) = fetch(&Identity::controllers()).await;
    assert_eq!(status, 200);
    for line in [
        r#"apiserver_request_total{verb="list",resource="namespaces",code="200"} 1"#,
        r#"apiserver_request_total{verb="create",resource="namespaces",code="201"} 3"#,
        "selvedge_store_objects 3.0",
        "selvedge_store_managed_fields_bytes ",
        "apiserver_current_inflight_requests 1.0",
    ] {
        assert!(page.contains(line), "{line} is not in:\n{page}");
    }
    assert!(page.ends_with("# EOF\n"));
    let node = Identity::new("system:node:gw-1", [crate::GROUP_NODES]);
    assert_eq!(fetch(&node).await.0, 403);
}

#[tokio::test]
async fn creates_succeed_while_their_namespace_is_written_and_fail_once_it_is_being_deleted() {
    let hub = Hub::start().await;
    hub.create("/api/v1/namespaces", json!({"metadata": {"name": "shop"}})).await;
    let path = "/api/v1/namespaces/shop/configmaps";
    let creates = (0..40).map(|number| hub.call("POST", path, config_map(&format!("c{number}"), json!({}), json!({}))));
    let labels = (0..40).map(|number| {
        hub.patch("/api/v1/namespaces/shop", "merge-patch", json!({"metadata": {"labels": {"n": number.to_string()}}}))
    });
    let (created, labelled) = futures::join!(futures::future::join_all(creates), futures::future::join_all(labels));
    assert!(
        created.iter().all(|answer| answer.code == 201),
        "{:?}",
        created.iter().map(|one| one.code).collect::<Vec<_>>()
    );
    // A patch that meets others too often ends in a conflict, as upstream; what it must not do is fail a create.
    assert!(labelled.iter().all(|answer| matches!(answer.code, 200 | 409)));
    assert_eq!(hub.call("DELETE", "/api/v1/namespaces/shop", Value::Null).await.code, 200);
    let refused = hub.call("POST", path, config_map("late", json!({}), json!({}))).await;
    assert_eq!((refused.code, &refused.body["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")));
}

/// Bodies of which so many bytes come at once, and then nothing.
fn stalled(method: &str, path: &str, bytes: usize) -> Request<crate::server::RequestBody> {
    let first = Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(Bytes::from(vec![b' '; bytes])));
    let body = futures::StreamExt::chain(futures::stream::iter([first]), futures::stream::pending());
    let request = Request::builder().method(method).uri(path).header("content-type", "application/merge-patch+json");
    request.body(crate::server::boxed(http_body_util::StreamBody::new(body))).unwrap()
}

#[tokio::test]
async fn bodies_of_nodes_that_do_not_come_leave_space_for_everybodys_leases() {
    let hub = Hub::start().await;
    let node = |name: &str| Identity::new(format!("system:node:{name}"), [crate::GROUP_NODES]);
    let mut held = Vec::new();
    for (name, bytes) in [("gw-1", 767 * 1024), ("gw-2", 767 * 1024), ("gw-3", 1)] {
        let node = node(name);
        let before = hub.server.0.bodies.bytes_held();
        for _ in 0..500 {
            let server = hub.server.clone();
            let node = node.clone();
            let mut request =
                Box::pin(async move { server.handle(stalled("PATCH", "/api/v1/nodes/any", bytes), Some(&node)).await });
            if futures::poll!(&mut request).is_pending() {
                held.push(request);
            }
        }
        let of_node = hub.server.0.bodies.bytes_held() - before;
        assert!(of_node <= 2 << 20, "{name} holds {of_node} bytes");
    }
    assert!(held.len() >= 500, "small ones are read, {}", held.len());
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    for name in ["gw-1", "gw-4"] {
        let lease = json!({"metadata": {"name": name}, "spec": {"holderIdentity": name, "leaseDurationSeconds": 40}});
        let answer = hub.send(&node(name), "POST", leases, "application/json", &lease.to_string()).await;
        assert_eq!(answer.code, 201, "{name}: {}", answer.body);
        let padded = json!({"metadata": {"annotations": {"a": "x".repeat(9 * 1024)}}});
        let path = format!("{leases}/{name}");
        let answer = hub.send(&node(name), "PATCH", &path, "application/merge-patch+json", &padded.to_string()).await;
        assert_eq!(answer.code, 413, "{name}: {}", answer.body);
    }
    let other = json!({"metadata": {"labels": {"a": "b"}}}).to_string();
    let answer = hub.send(&node("gw-4"), "PATCH", "/api/v1/nodes/gw-4", "application/merge-patch+json", &other).await;
    assert_eq!(answer.code, 404, "other nodes still write: {}", answer.body);
}

#[tokio::test]
async fn a_small_body_comes_within_ten_seconds() {
    let hub = Hub::start().await;
    let node = Identity::new("system:node:gw-1", [crate::GROUP_NODES]);
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/gw-1";
    tokio::time::pause();
    for (path, bytes, seconds) in
        [(lease, 8000, 10), ("/api/v1/nodes/gw-1", 1, 10), ("/api/v1/nodes/gw-1", 320 << 10, 30)]
    {
        let began = tokio::time::Instant::now();
        let answer = answer(hub.server.handle(stalled("PATCH", path, bytes), Some(&node)).await).await;
        assert_eq!(answer.code, 504, "{}", answer.body);
        assert_eq!(began.elapsed().as_secs(), seconds, "{path} with {bytes} bytes");
    }
}

/// Keeps threads busy with the nodes that some identities write, until it is opened.
#[derive(Default)]
struct Gate {
    is_open: std::sync::Mutex<bool>,
    changed: std::sync::Condvar,
}

impl Gate {
    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl crate::Admission for Gate {
    fn validate(&self, request: &crate::AdmissionRequest<'_>, _: &Value) -> Result<(), crate::AdmissionError> {
        if request.identity.user.contains("busy") && request.target().1 == "nodes" {
            let is_open = self.is_open.lock().unwrap();
            drop(self.changed.wait_while(is_open, |is_open| !*is_open).unwrap());
        }
        Ok(())
    }
}

#[tokio::test]
async fn an_identity_keeps_few_threads_busy_and_none_of_leases_and_administrators() {
    let gate = Arc::new(Gate::default());
    let hub = Hub::admitting(gate.clone());
    hub.create("/api/v1/namespaces", json!({"metadata": {"name": "kube-node-lease"}})).await;
    hub.create("/api/v1/nodes", json!({"metadata": {"name": "gw-1"}})).await;
    let identity = |name: &str| Identity::new(format!("system:node:{name}"), [crate::GROUP_NODES]);
    let write = |name: &str, number: usize| {
        let (server, identity) = (hub.server.clone(), identity(name));
        let node = json!({"metadata": {"name": format!("{name}-{number}")}}).to_string();
        let request = Request::post("/api/v1/nodes").header("content-type", "application/json");
        let request = request.body(crate::server::boxed(node)).unwrap();
        tokio::spawn(async move { server.handle(request, Some(&identity)).await.status() })
    };
    let in_flight = async |count: usize| {
        let end = std::time::Instant::now() + PATIENCE;
        while hub.server.0.flow.usage().in_flight < count {
            assert!(std::time::Instant::now() < end, "{:?}", hub.server.0.flow.usage());
            tokio::task::yield_now().await;
        }
    };
    let mut busy: Vec<_> = (0..40).map(|number| write("busy-1", number)).collect();
    in_flight(40).await;
    let other = tokio::time::timeout(PATIENCE, write("gw-2", 0)).await.expect("another node's write has a thread");
    assert_eq!(other.unwrap(), 201);
    // Enough identities can keep all shared threads busy.
    for number in 2..=16 {
        busy.push(write(&format!("busy-{number}"), 0));
    }
    in_flight(55).await;
    let lease = json!({"metadata": {"name": "busy-1"}, "spec": {"holderIdentity": "busy-1"}}).to_string();
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let answer = hub.send(&identity("busy-1"), "POST", leases, "application/json", &lease).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    assert_eq!(hub.get("/api/v1/nodes/gw-1").await.code, 200);
    let mut own = hub.server.in_process(Identity::controllers());
    let request = Request::get("/api/v1/nodes/gw-1").body(Full::new(Bytes::new())).unwrap();
    let answer = tokio::time::timeout(PATIENCE, tower::Service::call(&mut own, request)).await;
    assert_eq!(answer.expect("callers in process have threads").unwrap().status(), 200);
    gate.open();
    for write in busy {
        assert_eq!(write.await.unwrap(), 201);
    }
}

/// Counts how often a change of a node is computed.
#[derive(Default)]
struct Computed(std::sync::atomic::AtomicUsize);

impl crate::Admission for Computed {
    fn validate(&self, request: &crate::AdmissionRequest<'_>, _: &Value) -> Result<(), crate::AdmissionError> {
        if request.operation == crate::Operation::Update {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_node_that_changes_an_object_many_times_at_once_computes_each_change_once() {
    let computed = Arc::new(Computed::default());
    let hub = Hub::admitting(computed.clone());
    hub.create("/api/v1/nodes", json!({"metadata": {"name": "gw-1"}})).await;
    let node = Identity::new("system:node:gw-1", [crate::GROUP_NODES]);
    let patches: Vec<String> =
        (0..64).map(|number| json!({"metadata": {"labels": {"n": number.to_string()}}}).to_string()).collect();
    let media = "application/merge-patch+json";
    let changes = patches.iter().map(|patch| hub.send(&node, "PATCH", "/api/v1/nodes/gw-1", media, patch));
    let answers = futures::future::join_all(changes).await;
    assert!(answers.iter().all(|answer| answer.code == 200), "none of them conflicts");
    assert_eq!(computed.0.load(std::sync::atomic::Ordering::Relaxed), 64);
    assert_eq!(hub.get("/api/v1/nodes/gw-1").await.body["metadata"]["labels"]["n"], "63");
}

#[tokio::test]
async fn a_body_of_a_node_has_a_bounded_number_of_values() {
    let hub = Hub::start().await;
    hub.create("/api/v1/nodes", json!({"metadata": {"name": "gw-1"}})).await;
    let node = Identity::new("system:node:gw-1", [crate::GROUP_NODES]);
    let images = |count: usize| format!(r#"{{"status":{{"images":[{}]}}}}"#, vec!["{}"; count].join(","));
    let media = "application/merge-patch+json";
    let path = "/api/v1/nodes/gw-1/status";
    assert_eq!(hub.send(&node, "PATCH", path, media, &images(4_000)).await.code, 200);
    let many = images(20_000);
    let answer = hub.send(&node, "PATCH", path, media, &many).await;
    answer.check(413, "RequestEntityTooLarge", "more than 16384 values");
    // Of one text a value is made, whatever is in it.
    let text = json!({"status": {"images": [{"names": ["{,".repeat(50_000)]}]}}).to_string();
    assert_eq!(hub.send(&node, "PATCH", path, media, &text).await.code, 200);
    // YAML is counted as it is decoded.
    let lines = format!("metadata: {{name: gw-1}}\nstatus:\n  images:\n{}", "  - {}\n".repeat(40_000));
    hub.send(&node, "PUT", path, "application/yaml", &lines).await.check(400, "BadRequest", "budget");
    let administrator = Identity::new("selvedge-admin", [crate::GROUP_MASTERS]);
    assert_eq!(hub.send(&administrator, "PATCH", path, media, &many).await.code, 200);
    let answer = hub.send(&administrator, "PATCH", path, media, &images(140_000)).await;
    answer.check(413, "RequestEntityTooLarge", "more than 262144 values");
}

#[tokio::test]
async fn a_protobuf_body_is_taken_for_as_many_values_as_it_has() {
    const STATUS: &str = "/api/v1/nodes/gw-1/status";
    let hub = Hub::start().await;
    hub.create("/api/v1/nodes", json!({"metadata": {"name": "gw-1"}})).await;
    let administrator = Identity::new("selvedge-admin", [crate::GROUP_MASTERS]);
    let node = Identity::new("system:node:gw-1", [crate::GROUP_NODES]);
    let config_map = |data: Vec<u8>| {
        envelope("v1", "ConfigMap", &[field(1, &field(2, b"model-")), field(2, &field(1, b"a")), data].concat())
    };
    let of_text = |bytes: usize| config_map(field(2, &[field(1, b"b"), field(2, &vec![b'x'; bytes])].concat()));
    let of_entries = |count: usize| config_map(field(2, &field(1, b"b")).repeat(count));
    for (who, method, path, body, code, part) in [
        // As `kubectl create configmap --from-file` sends a model.
        (&administrator, "POST", CONFIG_MAPS, of_text(900 << 10), 201, "model-"),
        (&administrator, "POST", CONFIG_MAPS, of_entries(20_000), 201, "model-"),
        (&administrator, "POST", CONFIG_MAPS, of_entries(270_000), 413, "more than 262144 values"),
        (&node, "PUT", STATUS, of_entries(20_000), 413, "more than 16384 values"),
        // Of one text, and decoded: it is the kind that is wrong.
        (&node, "PUT", STATUS, of_text(600 << 10), 400, "cannot be handled as a Node"),
    ] {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/vnd.kubernetes.protobuf").body(body).unwrap();
        let answer = answer(hub.raw(Some(who), request).await).await;
        assert_eq!(answer.code, code, "{}", answer.body);
        assert!(answer.body.to_string().contains(part), "{}", answer.body);
    }
}

#[tokio::test]
async fn a_caller_in_process_is_the_manager_that_it_says_it_is() {
    let hub = Hub::start().await;
    for (name, agent) in [("a", None), ("b", Some("kube-controller-manager"))] {
        let mut caller = hub.server.in_process(Identity::controllers());
        if let Some(agent) = agent {
            caller = caller.with_user_agent(agent);
        }
        let map = config_map(name, json!({}), json!({"k": "v"})).to_string();
        let request = Request::post(CONFIG_MAPS).body(Full::new(Bytes::from(map))).unwrap();
        assert_eq!(tower::Service::call(&mut caller, request).await.unwrap().status(), 201);
        let map = hub.get(&format!("{CONFIG_MAPS}/{name}")).await.body;
        assert_eq!(map["metadata"]["managedFields"][0]["manager"], agent.unwrap_or("unknown"));
    }
}
