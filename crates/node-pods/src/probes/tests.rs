use super::*;

fn tracker(success: u32, failure: u32) -> Tracker {
    Tracker::new(&Probe { success_threshold: Some(success), failure_threshold: Some(failure), ..Probe::default() })
}

fn check(success: u32, failure: u32, tries: &[(bool, Option<bool>)]) {
    let mut tracker = tracker(success, failure);
    for (position, (ok, expected)) in tries.iter().enumerate() {
        assert_eq!(tracker.note(*ok), *expected, "try {position} of {tries:?}");
    }
}

#[test]
fn a_verdict_needs_its_threshold_in_a_row() {
    check(1, 3, &[(true, Some(true)), (true, None), (false, None), (false, None), (false, Some(false)), (false, None)]);
    check(1, 3, &[(false, None), (false, None), (true, Some(true)), (false, None), (true, None)]);
    check(2, 1, &[(false, Some(false)), (true, None), (true, Some(true))]);
}

#[tokio::test]
async fn a_socket_that_listens_answers_a_tcp_probe() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert!(connect(None, None, port).await.is_ok());
    drop(listener);
    let Failure::Failed(text) = connect(None, None, port).await.unwrap_err() else { panic!("it was tried") };
    assert!(text.contains("dial 127.0.0.1"), "{text}");
}

#[tokio::test]
async fn a_network_that_is_away_is_no_fault_of_the_program() {
    // No route leads to the addresses that are kept for documentation from a machine without an uplink; with one, nobody answers.
    let unreachable = std::io::Error::from_raw_os_error(rustix::io::Errno::NETUNREACH.raw_os_error());
    assert!(is_of_the_node(&unreachable));
    assert!(!is_of_the_node(&std::io::Error::from_raw_os_error(rustix::io::Errno::CONNREFUSED.raw_os_error())));
    let named = connect(Some("no-such-host.invalid"), None, 80).await;
    assert!(matches!(named, Err(Failure::NotTried(_))), "{named:?}");
}

#[tokio::test]
async fn an_http_probe_judges_by_the_status() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    for (status, ok) in [("200 OK", true), ("302 Found", true), ("404 Not Found", false), ("500 Oops", false)] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.unwrap();
        });
        let probe = HttpProbe { path: "/healthz".into(), port: PortRef::Number(port), ..HttpProbe::default() };
        let result = http_get(&probe, &Container::default(), None).await;
        assert_eq!(result.is_ok(), ok, "{status}: {result:?}");
        server.await.unwrap();
    }
}

#[tokio::test]
async fn headers_of_the_probe_stand_in_for_the_usual_ones() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 1024];
        let bytes = stream.read(&mut request).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        String::from_utf8(request[..bytes].to_vec()).unwrap().to_lowercase()
    });
    let probe: HttpProbe = serde_json::from_value(serde_json::json!({
        "path": "/", "port": port, "httpHeaders": [{"name": "Host", "value": "shop.example"}, {"name": "X-A", "value": "1"}],
    }))
    .unwrap();
    http_get(&probe, &Container::default(), None).await.unwrap();
    let request = server.await.unwrap();
    assert_eq!(request.matches("\r\nhost:").count(), 1, "{request}");
    assert!(request.contains("host: shop.example") && request.contains("x-a: 1") && request.contains("kube-probe"));
}
