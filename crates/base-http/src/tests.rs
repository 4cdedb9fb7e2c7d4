use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use base_pki::{Ca, IssueRequest, San, Usage};
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::{Address, BindError, Body, Limits, Listener, Peer, Ports, ServerTls, client_config, serve};

const ANY: &str = "127.0.0.1:0";

fn bind() -> Listener {
    Listener::bind("test", Address::Tcp(ANY.parse().unwrap())).unwrap()
}

fn tcp(listener: &Listener) -> SocketAddr {
    match listener.address() {
        Address::Tcp(addr) => *addr,
        Address::Unix(_) => unreachable!("bound as TCP"),
    }
}

fn issue(ca: &Ca, cn: &str, usage: Usage) -> base_pki::Issued {
    let sans = vec![San::from("localhost"), San::from("127.0.0.1")];
    ca.sign(&IssueRequest { cn: cn.into(), orgs: vec![], sans, usage, validity: Duration::from_secs(3600) }).unwrap()
}

async fn hello(_: Request<hyper::body::Incoming>, peer: Peer) -> Response<Body> {
    let user = peer
        .client_cert
        .map_or_else(|| "nobody".to_owned(), |certificate| base_pki::client_identity(&certificate).unwrap().user);
    Response::new(Body::from(format!("hello {user}")))
}

async fn get1<S>(stream: S) -> String
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/").header("host", "localhost").body(Full::<Bytes>::default()).unwrap();
    text(client.send_request(request).await.unwrap()).await
}

async fn text(response: Response<hyper::body::Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn tls_get(
    listener_tls: &Ca,
    addr: SocketAddr,
    identity: Option<(&str, &str)>,
    alpn: &str,
) -> Result<String, String> {
    let mut config = client_config(listener_tls.cert_pem(), identity).unwrap();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect("localhost".try_into().unwrap(), TcpStream::connect(addr).await.unwrap())
        .await
        .map_err(|error| error.to_string())?;
    if alpn == "http/1.1" {
        return Ok(get1(stream).await);
    }
    let (mut client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let request = Request::get("https://localhost/").version(Version::HTTP_2).body(Full::<Bytes>::default()).unwrap();
    Ok(text(client.send_request(request).await.map_err(|error| error.to_string())?).await)
}

#[tokio::test]
async fn plain_tcp_and_unix_sockets_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.sock");
    // Left by a process that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let shutdown = CancellationToken::new();
    let listener = bind();
    let addr = tcp(&listener);
    let unix = Listener::bind("unix", Address::Unix(path.clone())).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let tasks = [serve(listener, hello, shutdown.clone()), serve(unix, hello, shutdown.clone())];
    assert_eq!(get1(TcpStream::connect(addr).await.unwrap()).await, "hello nobody");
    assert_eq!(get1(UnixStream::connect(&path).await.unwrap()).await, "hello nobody");
    assert!(matches!(Listener::bind("again", Address::Unix(path.clone())), Err(BindError::InUse { .. })));
    shutdown.cancel();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(!path.exists());
}

#[tokio::test]
async fn tls_reports_who_calls_over_both_protocols() {
    let (ca, other_ca) = (Ca::create("ca").unwrap(), Ca::create("other").unwrap());
    let server = issue(&ca, "hub", Usage::Server);
    let tls = ServerTls::new(&server.cert_pem, &server.key_pem, Some(ca.cert_pem())).unwrap();
    let listener = bind().with_tls(tls.clone());
    let addr = tcp(&listener);
    let shutdown = CancellationToken::new();
    let task = serve(listener, hello, shutdown.clone());
    let client = issue(&ca, "gw-1", Usage::Client);
    let foreign = issue(&other_ca, "gw-1", Usage::Client);
    let wrong_usage = issue(&ca, "gw-1", Usage::Server);
    for alpn in ["h2", "http/1.1"] {
        assert_eq!(tls_get(&ca, addr, None, alpn).await.unwrap(), "hello nobody");
        let identity = Some((client.cert_pem.as_str(), client.key_pem.as_str()));
        assert_eq!(tls_get(&ca, addr, identity, alpn).await.unwrap(), "hello gw-1");
    }
    for bad in [&foreign, &wrong_usage] {
        let identity = Some((bad.cert_pem.as_str(), bad.key_pem.as_str()));
        assert!(tls_get(&ca, addr, identity, "h2").await.is_err());
    }

    let renewed = issue(&other_ca, "hub", Usage::Server);
    tls.replace(&renewed.cert_pem, &renewed.key_pem).unwrap();
    assert!(tls_get(&ca, addr, None, "h2").await.is_err());
    assert_eq!(tls_get(&other_ca, addr, None, "h2").await.unwrap(), "hello nobody");
    shutdown.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn draining_finishes_open_requests_and_takes_no_new_ones() {
    let listener = bind();
    let addr = tcp(&listener);
    let shutdown = CancellationToken::new();
    let (started, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (started_in, finish_in) = (started.clone(), finish.clone());
    let task = serve(
        listener,
        move |_: Request<hyper::body::Incoming>, _: Peer| {
            let (started, finish) = (started_in.clone(), finish_in.clone());
            async move {
                started.notify_one();
                finish.notified().await;
                Response::new(Body::from("done"))
            }
        },
        shutdown.clone(),
    );
    let open = tokio::spawn(async move { get1(TcpStream::connect(addr).await.unwrap()).await });
    started.notified().await;
    shutdown.cancel();
    finish.notify_one();
    assert_eq!(open.await.unwrap(), "done");
    task.await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err());
}

#[test]
fn a_port_in_use_is_named_with_the_listener_and_the_setting() {
    let first = bind();
    let error = Listener::bind("hub-api", first.address().clone()).err().unwrap().to_string();
    for part in [&first.address().to_string(), "hub-api", "in use", "--ports ephemeral"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn ports_are_recorded_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path();
    assert_eq!(Ports::read(data_dir).unwrap(), Ports::default());
    Ports::record(data_dir, "hub-api", &Address::Tcp("127.0.0.1:6443".parse().unwrap())).unwrap();
    Ports::record(data_dir, "node", &Address::Unix("/run/node.sock".into())).unwrap();
    let text = std::fs::read_to_string(Ports::path(data_dir)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        json,
        serde_json::json!({"version": 1, "listeners": {"hub-api": "127.0.0.1:6443", "node": "unix:/run/node.sock"}})
    );
    Ports::forget(data_dir, &["node"]).unwrap();
    assert_eq!(Ports::read(data_dir).unwrap().listeners.len(), 1);
    std::fs::write(Ports::path(data_dir), r#"{"version": 2, "listeners": {}}"#).unwrap();
    assert!(Ports::record(data_dir, "hub-api", &Address::Unix("/x".into())).is_err());
}

mod handshakes;
mod hostile;
mod sessions;
mod upgrades;

/// A TLS listener with a CA, and clients of it.
struct Site {
    ca: Ca,
    client: base_pki::Issued,
    tls: ServerTls,
}

type Http2 = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

impl Site {
    fn new() -> Self {
        let ca = Ca::create("ca").unwrap();
        let server = issue(&ca, "hub", Usage::Server);
        let tls = ServerTls::new(&server.cert_pem, &server.key_pem, Some(ca.cert_pem())).unwrap();
        Self { client: issue(&ca, "gw-1", Usage::Client), ca, tls }
    }

    fn listener(&self, limits: Limits) -> (Listener, SocketAddr) {
        let listener = bind().with_tls(self.tls.clone()).with_limits(limits);
        let addr = tcp(&listener);
        (listener, addr)
    }

    async fn tls(&self, addr: SocketAddr, with_certificate: bool, alpn: &str) -> std::io::Result<TlsStream<TcpStream>> {
        self.tls_as(addr, with_certificate.then_some(&self.client), alpn).await
    }

    async fn tls_as(
        &self,
        addr: SocketAddr,
        client: Option<&base_pki::Issued>,
        alpn: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        self.tls_over(TcpStream::connect(addr).await?, client, alpn).await
    }

    async fn tls_over(
        &self,
        stream: TcpStream,
        client: Option<&base_pki::Issued>,
        alpn: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let identity = client.map(|client| (client.cert_pem.as_str(), client.key_pem.as_str()));
        let mut config = client_config(self.ca.cert_pem(), identity).unwrap();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await
    }

    /// An HTTP/2 connection that answers pings; the task ends with it.
    async fn http2(&self, addr: SocketAddr, with_certificate: bool) -> (Http2, JoinHandle<hyper::Result<()>>) {
        self.http2_as(addr, with_certificate.then_some(&self.client)).await
    }

    async fn http2_as(
        &self,
        addr: SocketAddr,
        client: Option<&base_pki::Issued>,
    ) -> (Http2, JoinHandle<hyper::Result<()>>) {
        let stream = self.tls_as(addr, client, "h2").await.unwrap();
        let (client, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(hyper_util::rt::TokioTimer::new())
            .keep_alive_interval(Duration::from_millis(50))
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        (client, tokio::spawn(connection))
    }
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("https://localhost{path}")).body(Full::default()).unwrap()
}

/// Waits for something that is due, with an end for when it is not.
async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(what, looking).await;
}
