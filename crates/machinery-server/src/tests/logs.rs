use std::io;
use std::sync::Mutex;

use futures::future::BoxFuture;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;

use super::*;
use crate::{AsyncReadWrite, NodeAddress};

/// A kubelet at the other end of a pipe: answers every request with what it was asked for.
#[derive(Default)]
struct Echo(Mutex<Vec<NodeAddress>>);

impl NodeDialer for Echo {
    fn dial<'a>(&'a self, node: &'a NodeAddress) -> BoxFuture<'a, io::Result<Box<dyn AsyncReadWrite>>> {
        self.0.lock().unwrap().push(node.clone());
        Box::pin(async {
            let (ours, theirs) = tokio::io::duplex(4096);
            let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
                let mut response = Response::new(Body::from(request.uri().to_string()));
                if request.uri().path().ends_with("/broken") {
                    *response.status_mut() = http::StatusCode::NOT_FOUND;
                }
                Ok::<_, std::convert::Infallible>(response)
            });
            tokio::spawn(async move {
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service).await;
            });
            Ok(Box::new(ours) as Box<dyn AsyncReadWrite>)
        })
    }
}

async fn with_pods(hub: &Hub) {
    let addresses = json!([{"type": "Hostname", "address": "gw-1.lan"}, {"type": "InternalIP", "address": "10.0.0.7"}]);
    let node = json!({"metadata": {"name": "gw-1"}, "status": {
        "addresses": addresses, "daemonEndpoints": {"kubeletEndpoint": {"Port": 10999}}}});
    hub.create("/api/v1/nodes", node).await;
    hub.create(PODS, pod("web", "gw-1")).await;
    let mut two = pod("two", "gw-1");
    two["spec"]["containers"] =
        json!([{"name": "good", "image": "file:///a"}, {"name": "broken", "image": "file:///b"}]);
    hub.create(PODS, two).await;
    hub.create(PODS, pod("unbound", "")).await;
}

#[tokio::test]
async fn a_log_comes_from_the_kubelet_of_the_pods_node() {
    let dialer = Arc::new(Echo::default());
    let hub = Hub::start_with(dialer.clone()).await;
    with_pods(&hub).await;
    let log =
        hub.get(&format!("{PODS}/web/log?follow=true&tailLines=5&sinceTime=2026-01-01T00%3A00%3A00Z&other=x")).await;
    assert_eq!(log.body, "/containerLogs/default/web/main?follow=true&tailLines=5&sinceTime=2026-01-01T00%3A00%3A00Z");
    let dialed = dialer.0.lock().unwrap().clone();
    assert_eq!(dialed, [NodeAddress { name: "gw-1".into(), host: "10.0.0.7".into(), port: 10999 }]);
    let good = hub.get(&format!("{PODS}/two/log?container=good")).await;
    assert_eq!(good.body, "/containerLogs/default/two/good");
    for (path, part) in [
        ("two/log", "a container name must be specified for pod two, choose one of: [good broken]"),
        ("two/log?container=none", "container none is not valid for pod two"),
        ("two/log?container=broken", "/containerLogs/default/two/broken"),
    ] {
        hub.get(&format!("{PODS}/{path}")).await.check(400, "BadRequest", part);
    }
    assert_eq!(hub.get(&format!("{PODS}/unbound/log")).await.code, 204, "it has written nothing anywhere");
    hub.get(&format!("{PODS}/unbound/exec")).await.check(400, "BadRequest", "does not have a host assigned");
}

/// A kubelet that writes a log as fast as it is taken, and counts what was.
#[derive(Default)]
struct Endless(Arc<std::sync::atomic::AtomicUsize>);

/// Of the pipe between the two, which is full whenever nobody takes anything. A fast sender makes readers read more at once.
const PIPE_BYTES: usize = 1 << 20;

impl NodeDialer for Endless {
    fn dial<'a>(&'a self, _: &'a NodeAddress) -> BoxFuture<'a, io::Result<Box<dyn AsyncReadWrite>>> {
        let taken = self.0.clone();
        Box::pin(async move {
            let (ours, mut theirs) = tokio::io::duplex(PIPE_BYTES);
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let _ = theirs.read(&mut [0; 4096]).await;
                let _ = theirs.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await;
                while let Ok(bytes @ 1..) = theirs.write(&[b'x'; 65536]).await {
                    taken.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
                }
            });
            Ok(Box::new(ours) as Box<dyn AsyncReadWrite>)
        })
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_keeps_little_and_is_counted() {
    let dialer = Arc::new(Endless::default());
    let hub = Hub::start_with(dialer.clone()).await;
    with_pods(&hub).await;
    let request = Request::get(format!("{PODS}/web/log?follow=true")).body(String::new()).unwrap();
    let mut log = hub.raw(Some(&Identity::controllers()), request).await;
    assert_eq!(log.status(), 200);
    let held = || hub.server.0.outgoing.bytes_held();
    assert_eq!(held(), crate::verbs::log::LOG_BYTES_KEPT as u64);
    let mut read = 0;
    for _ in 0..32 {
        read += log.body_mut().frame().await.unwrap().unwrap().into_data().unwrap().len();
        // Time does not advance as long as anybody has something to do.
        tokio::time::pause();
        tokio::time::sleep(Duration::from_millis(1)).await;
        tokio::time::resume();
        let kept = dialer.0.load(std::sync::atomic::Ordering::Relaxed) - read - PIPE_BYTES;
        assert!(kept <= crate::verbs::log::LOG_BYTES_KEPT, "{kept} bytes are kept");
    }
    drop(log);
    assert_eq!(held(), 0);
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_is_named() {
    let hub = Hub::start().await;
    with_pods(&hub).await;
    let answer = hub.get(&format!("{PODS}/web/log")).await;
    answer.check(503, "ServiceUnavailable", r#"the kubelet of node "gw-1" at 10.0.0.7:10999 cannot be reached"#);
}

#[tokio::test]
async fn only_what_takes_an_upgrade_is_connected_to() {
    let hub = Hub::start_with(Arc::new(Echo::default())).await;
    with_pods(&hub).await;
    let connect = async |path: &str| hub.call("CONNECT", path, Value::Null).await.code;
    assert_eq!(connect(&format!("{PODS}/web/log")).await, 200);
    for path in [format!("{PODS}/web"), "/api/v1/nodes/gw-1".to_owned(), PODS.to_owned()] {
        assert_eq!(connect(&path).await, 405, "{path}");
    }
}
