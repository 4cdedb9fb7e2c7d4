//! Connections from outside: which of them count for whom.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use base_http::{Address, Connections, Limits, Listener, RejectReason, ServerTls, client_config};
use base_pki::{Ca, IssueRequest, Issued, San, Usage};
use base64::Engine as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::*;
use crate::{AuthRequest, AuthenticateError, Authenticator, CertificateAuthenticator, Session};

const TOKEN: &str = "Bearer abcdef.0123456789abcdef";

type Client = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

/// Accepts certificates while the test lets it.
#[derive(Default)]
struct Nodes(AtomicBool);

impl Authenticator for Arc<Nodes> {
    fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Option<Identity>, AuthenticateError> {
        let identity = CertificateAuthenticator.authenticate(request)?;
        if identity.is_some() && !self.0.load(Ordering::SeqCst) {
            return Err(AuthenticateError::new("the node was deleted"));
        }
        Ok(identity)
    }
}

/// A hub that listens, with one token.
struct Listening {
    ca: Ca,
    node: Issued,
    nodes: Arc<Nodes>,
    addr: SocketAddr,
    connections: Connections<Session>,
    shutdown: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Listening {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shutdown = CancellationToken::new();
        let nodes = Arc::<Nodes>::default();
        let mut config = ServerConfig::new(Store::open(dir.path(), store_options()).unwrap());
        config.authorizers.push(Arc::new(SomeRules));
        config.authenticators[0] = Arc::new(nodes.clone());
        let server = Server::new(ServerConfig { shutdown: shutdown.clone(), ..config }).unwrap();
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        for (path, object) in [
            ("/api/v1/namespaces", json!({"metadata": {"name": "kube-system"}})),
            (
                "/api/v1/namespaces/kube-system/secrets",
                json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token", "data": {
                    "token-id": encode("abcdef"), "token-secret": encode("0123456789abcdef"),
                    "expiration": encode("2999-01-01T00:00:00Z"), "usage-bootstrap-authentication": encode("true"),
                }}),
            ),
        ] {
            let request = Request::post(path).header("content-type", "application/json");
            let request = request.body(crate::server::boxed(object.to_string())).unwrap();
            assert_eq!(server.handle(request, Some(&Identity::controllers())).await.status(), 201, "{path}");
        }
        let ca = Ca::create("ca").unwrap();
        let issue = |cn: &str, orgs: Vec<String>, usage| {
            let request = IssueRequest {
                cn: cn.into(),
                orgs,
                sans: vec![San::from("localhost")],
                usage,
                validity: Duration::from_secs(3600),
            };
            ca.sign(&request).unwrap()
        };
        let hub = issue("hub", vec![], Usage::Server);
        let node = issue("system:node:gw-1", vec![crate::GROUP_NODES.to_owned()], Usage::Client);
        let tls = ServerTls::new(&hub.cert_pem, &hub.key_pem, Some(ca.cert_pem())).unwrap();
        let listener = Listener::bind("test", Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let limits = Limits { anonymous_max: 1024, ..Limits::default() };
        let listener = listener.with_tls(tls).with_limits(limits);
        let Address::Tcp(addr) = *listener.address() else { unreachable!("bound as TCP") };
        let connections = Connections::new();
        base_http::serve_with(listener, server, connections.clone(), shutdown.clone());
        Self { ca, node, nodes, addr, connections, shutdown, _dir: dir }
    }

    async fn connect(&self, node: Option<&Issued>) -> (Client, tokio::task::JoinHandle<hyper::Result<()>>) {
        let identity = node.map(|node| (node.cert_pem.as_str(), node.key_pem.as_str()));
        let mut config = client_config(self.ca.cert_pem(), identity).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        let (client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        (client, tokio::spawn(connection))
    }
}

async fn status(client: &mut Client, path: &str, token: Option<&str>) -> u16 {
    let mut request = Request::get(format!("https://localhost{path}"));
    if let Some(token) = token {
        request = request.header("authorization", token);
    }
    let request = client.send_request(request.body(Full::default()).unwrap());
    tokio::time::timeout(PATIENCE, request).await.expect("the server answers").unwrap().status().as_u16()
}

#[tokio::test]
async fn who_holds_a_token_has_a_quarter_of_the_places_for_those_without_a_certificate() {
    let hub = Listening::start().await;
    let mut clients = Vec::new();
    for _ in 0..300 {
        let (mut client, connection) = hub.connect(None).await;
        // Twice: a connection counts once.
        for _ in 0..2 {
            assert_eq!(status(&mut client, "/api/v1/namespaces", Some(TOKEN)).await, 403);
        }
        clients.push((client, connection));
    }
    let stats = hub.connections.stats();
    assert_eq!(stats.rejected_total(RejectReason::Identity), 300 - 256);
    let all_ended = clients.drain(..300 - 256).map(|(_, connection)| connection);
    // How they end does not matter.
    let _ = tokio::time::timeout(PATIENCE, futures::future::join_all(all_ended)).await.expect("the oldest are closed");
    assert!(stats.anonymous() <= 256, "{}", stats.anonymous());
    assert!(clients.iter().all(|(_, connection)| !connection.is_finished()), "the newest stay");
    // A false token proves nothing, and takes nobody's place.
    let (mut client, _connection) = hub.connect(None).await;
    assert_eq!(status(&mut client, "/api/v1/namespaces", Some("Bearer abcdef.0123456789abcdee")).await, 401);
    assert_eq!(stats.rejected_total(RejectReason::Identity), 300 - 256);
}

#[tokio::test]
async fn connections_of_a_deleted_node_are_few_and_one_that_is_back_gets_a_nodes() {
    let hub = Listening::start().await;
    let mut clients = Vec::new();
    for _ in 0..80 {
        let (mut client, connection) = hub.connect(Some(&hub.node)).await;
        assert_eq!(status(&mut client, "/api/v1/namespaces", None).await, 401);
        clients.push((client, connection));
    }
    let stats = hub.connections.stats();
    assert_eq!(stats.rejected_total(RejectReason::Unaccepted), 80 - 64);
    assert_eq!(stats.rejected_total(RejectReason::Identity), 0);
    hub.nodes.0.store(true, Ordering::SeqCst);
    let (mut client, connection) = clients.pop().unwrap();
    assert_eq!(status(&mut client, "/api/v1/namespaces", None).await, 200);
    // With GOAWAY, so that the client opens another one, which has the limits of a node.
    let _ = tokio::time::timeout(PATIENCE, connection).await.expect("it is closed").unwrap();
    let (mut client, _connection) = hub.connect(Some(&hub.node)).await;
    assert_eq!(status(&mut client, "/api/v1/namespaces", None).await, 200);
}

#[tokio::test]
async fn a_certificate_that_expires_is_good_on_no_connection() {
    let hub = Listening::start().await;
    hub.nodes.0.store(true, Ordering::SeqCst);
    let (mut client, connection) = hub.connect(Some(&hub.node)).await;
    assert_eq!(status(&mut client, "/version", None).await, 200);
    let now = jiff::Timestamp::now();
    let later = now + jiff::SignedDuration::from_hours(2);
    let der = base_pki::certificates(&hub.node.cert_pem).unwrap().remove(0);
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), store_options()).unwrap();
    let at = |now| {
        let headers = http::HeaderMap::new();
        CertificateAuthenticator.authenticate(&AuthRequest {
            client_cert: Some(&der),
            headers: &headers,
            store: &store,
            now,
            audiences: None,
        })
    };
    assert_eq!(at(now).unwrap().unwrap().user, "system:node:gw-1");
    let refused = at(later).unwrap_err().reason;
    assert!(refused.starts_with("the client certificate expired at 20"), "{refused}");
    // What streams on the connection ends as well.
    assert_eq!(Server::close_expired(&hub.connections, now), 0);
    assert_eq!(status(&mut client, "/version", None).await, 200);
    assert_eq!(Server::close_expired(&hub.connections, later), 1);
    let _ = tokio::time::timeout(PATIENCE, connection).await.expect("it is closed").unwrap();
}
