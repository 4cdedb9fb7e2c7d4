//! Connections that stop being requests: upgrades of HTTP/1.1, extended CONNECT of HTTP/2.

use http::{Method, StatusCode};
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{Close, Connections, serve_with};

/// Accepts an upgrade to `echo`, or an extended CONNECT for it, and sends back what comes.
async fn echo(mut request: Request<hyper::body::Incoming>, _: Peer) -> Response<Body> {
    let status = match (request.method(), request.extensions().get::<Protocol>()) {
        (&Method::CONNECT, Some(protocol)) if protocol.as_str() == "echo" => StatusCode::OK,
        (&Method::GET, None) if request.headers().get("upgrade").is_some_and(|value| value == "echo") => {
            StatusCode::SWITCHING_PROTOCOLS
        }
        _ => return Response::new(Body::from("not upgraded")),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
        // Ends with the connection.
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert("connection", "upgrade".try_into().unwrap());
        response.headers_mut().insert("upgrade", "echo".try_into().unwrap());
    }
    response
}

struct Running {
    site: Site,
    addr: SocketAddr,
    connections: Connections<Peer>,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

fn start() -> Running {
    let site = Site::new();
    // Idle times are short: an upgraded connection is none. It is looked at when its first request is due.
    let limits = Limits {
        first_request_timeout: Duration::from_millis(300),
        drain_grace: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let (listener, addr) = site.listener(limits);
    let (connections, shutdown) = (Connections::new(), CancellationToken::new());
    let serving = serve_with(listener, echo, connections.clone(), shutdown.clone());
    Running { site, addr, connections, shutdown, serving }
}

impl Running {
    async fn upgrade(&self) -> TokioIo<Upgraded> {
        let stream = self.site.tls(self.addr, true, "http/1.1").await.unwrap();
        let (mut client, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let request = Request::get("/").header("host", "localhost").header("connection", "upgrade");
        let request = request.header("upgrade", "echo").body(Full::default()).unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        TokioIo::new(hyper::upgrade::on(response).await.unwrap())
    }

    async fn connect(&self) -> (TokioIo<Upgraded>, Http2) {
        let (mut client, _connection) = self.site.http2(self.addr, true).await;
        // The server's settings, which allow the protocol, come before its first answer.
        assert_eq!(text(client.send_request(get("/")).await.unwrap()).await, "not upgraded");
        let mut request = get("/");
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from_static("echo"));
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        (TokioIo::new(hyper::upgrade::on(response).await.unwrap()), client)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        soon("the drain", self.serving).await.unwrap();
        assert!(self.connections.is_empty());
        assert_eq!(self.connections.stats().open(), 0);
    }
}

async fn echoes(running: &Running, stream: &mut TokioIo<Upgraded>) {
    for round in 0..2 {
        let sent = format!("round {round}");
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut received = vec![0; sent.len()];
        soon("an echo", stream.read_exact(&mut received)).await.unwrap();
        assert_eq!(received, sent.as_bytes());
        // Meanwhile one that is idle is closed.
        let (mut client, connection) = running.site.http2(running.addr, true).await;
        assert_eq!(text(client.send_request(get("/")).await.unwrap()).await, "not upgraded");
        soon("an idle connection ends", connection).await.unwrap().unwrap();
    }
}

async fn ended(mut stream: TokioIo<Upgraded>) {
    let mut rest = Vec::new();
    // How it ends does not matter.
    let _ = soon("the tunnel ends", stream.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn an_upgraded_connection_lives_is_counted_and_can_be_closed() {
    let running = start();
    let mut stream = running.upgrade().await;
    echoes(&running, &mut stream).await;
    eventually("the others are closed", || (running.connections.len(), running.connections.stats().open()) == (1, 1))
        .await;
    assert_eq!(running.connections.close_where(Close::AtOnce, |_, _| true), 1);
    ended(stream).await;
    eventually("it is counted no more", || running.connections.stats().open() == 0).await;
    running.stop().await;
}

#[tokio::test]
async fn an_upgraded_connection_that_its_client_drops_is_counted_no_more() {
    let running = start();
    drop(running.upgrade().await);
    eventually("it is counted no more", || running.connections.stats().open() == 0).await;
    running.stop().await;
}

#[tokio::test]
async fn extended_connect_carries_a_tunnel_over_http2() {
    let running = start();
    let (mut stream, mut client) = running.connect().await;
    echoes(&running, &mut stream).await;
    assert_eq!(text(client.send_request(get("/")).await.unwrap()).await, "not upgraded", "beside other requests");
    assert_eq!(running.connections.close_where(Close::AtOnce, |_, _| true), 1);
    ended(stream).await;
    running.stop().await;
}

#[tokio::test]
async fn draining_ends_upgrades_and_tunnels() {
    let running = start();
    let (mut upgraded, (mut tunnel, _client)) = (running.upgrade().await, running.connect().await);
    echoes(&running, &mut upgraded).await;
    echoes(&running, &mut tunnel).await;
    running.stop().await;
    ended(upgraded).await;
    ended(tunnel).await;
}

#[tokio::test]
async fn aborting_ends_upgrades_and_tunnels_at_once() {
    let running = start();
    let (upgraded, (tunnel, _client)) = (running.upgrade().await, running.connect().await);
    running.serving.abort();
    ended(upgraded).await;
    ended(tunnel).await;
    eventually("nothing is open", || running.connections.stats().open() == 0).await;
}
