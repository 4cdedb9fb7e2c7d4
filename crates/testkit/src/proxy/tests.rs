//! Each action does what its name says, seen by a client of HTTP/2 before a server that only knows three paths.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base_pki::{Ca, IssueRequest, San, Usage};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use super::{Action, Client, Proxy, Rule};
use crate::wait::eventually;
use crate::wire::{Access, Connection, HUB_NAME, Identity};

/// Far above what loopback needs, far below what a hanging request takes.
const PATIENCE: Duration = Duration::from_secs(20);
const LIST: &str = "/list";
const WATCH: &str = "/watch";
const LARGE: &str = "/large";
const LARGE_BYTES: usize = 200_000;

/// A server with a CA, its proxy, and what the server has seen.
struct Site {
    runtime: Runtime,
    proxy: Proxy,
    ca: Ca,
    seen: Arc<Mutex<Vec<String>>>,
}

async fn respond(
    seen: Arc<Mutex<Vec<String>>>,
    common_name: Option<String>,
    request: Request<Incoming>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    let path = request.uri().path().to_owned();
    let who = common_name.unwrap_or_else(|| {
        let bearer = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        bearer.unwrap_or("nobody").to_owned()
    });
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    seen.lock().push(format!("{who} {path} {}", String::from_utf8_lossy(&body)));
    let first = match path.as_str() {
        LIST => Bytes::from_static(br#"{"items":[1,2,3]}"#),
        WATCH => Bytes::from_static(b"{\"first\":1}\n"),
        _ => Bytes::from(vec![b'x'; LARGE_BYTES]),
    };
    let rest = if path == WATCH { stream::pending().boxed() } else { stream::empty().boxed() };
    let frames = stream::iter([Ok(Frame::data(first))]).chain(rest);
    let response = Response::new(StreamBody::new(frames).boxed_unsync());
    Ok(response)
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, seen: Arc<Mutex<Vec<String>>>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, seen) = (acceptor.clone(), seen.clone());
        tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let name = shown.and_then(|der| base_pki::common_name(&base_pki::certificate_pem(der)).ok());
            let service = hyper::service::service_fn(move |request| respond(seen.clone(), name.clone(), request));
            let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(tls), service)
                .await;
        });
    }
}

fn issue(ca: &Ca, name: &str, usage: Usage) -> Result<Identity> {
    let sans = if usage == Usage::Server { vec![San::from(HUB_NAME)] } else { Vec::new() };
    let validity = Duration::from_secs(3600);
    let issued = ca.sign(&IssueRequest { cn: name.to_owned(), orgs: Vec::new(), sans, usage, validity })?;
    Ok(Identity { cert_pem: issued.cert_pem, key_pem: issued.key_pem })
}

impl Site {
    fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let ca = Ca::create("test")?;
        let server = issue(&ca, "server", Usage::Server)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(base_pki::certificates(ca.cert_pem())?.remove(0))?;
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .allow_unauthenticated()
            .build()?;
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(base_pki::certificates(&server.cert_pem)?, base_pki::private_key(&server.key_pem)?)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?.to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        runtime.spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), seen.clone()));
        let proxy = Proxy::start(&address, &ca, Client::Given(issue(&ca, "system:node:n1", Usage::Client)?))?;
        Ok(Self { runtime, proxy, ca, seen })
    }

    /// A connection through the proxy of a client that has a certificate.
    fn connect(&self) -> Result<Connection> {
        let own = issue(&self.ca, "whoever", Usage::Client)?;
        let access = Access::certificate(&self.proxy.address(), self.ca.cert_pem(), &own)?;
        self.runtime.block_on(access.connect())
    }

    fn get(&self, connection: &Connection, path: &str) -> Result<(u16, String)> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, connection.get(path)).await })??;
        Ok((answer.status, answer.text()))
    }

    /// What comes of a request when this is done with it.
    fn under(&self, path: &str, action: Action) -> Result<(u16, String)> {
        self.proxy.clear();
        self.proxy.rule(Rule::new("GET", path).then(action));
        self.get(&self.connect()?, path)
    }
}

#[test]
fn what_no_rule_matches_passes_as_the_node_and_is_recorded() -> Result<()> {
    let site = Site::start()?;
    let connection = site.connect()?;
    site.proxy.rule(Rule::new("POST|PUT", "^/list$").then(Action::status(500, "no")));
    site.proxy.rule(Rule::new("GET", "^/lis$").then(Action::status(500, "no")));
    ensure!(site.get(&connection, "/list?limit=3")? == (200, r#"{"items":[1,2,3]}"#.to_owned()));
    let body = serde_json::json!({"a": 1});
    site.runtime.block_on(connection.patch(LARGE, "application/json", &body))?.ok()?;
    let seen = site.seen.lock().clone();
    ensure!(seen == ["system:node:n1 /list ", "system:node:n1 /large {\"a\":1}"], "{seen:?}");
    let passed = eventually("two requests with an end", PATIENCE, || {
        let passed = site.proxy.requests();
        if passed.iter().filter(|one| one.end.is_some()).count() == 2 { Ok(passed) } else { Err(format!("{passed:?}")) }
    })?;
    let summary: Vec<_> = passed.iter().map(|one| (one.method.as_str(), one.path.as_str(), one.status)).collect();
    ensure!(summary == [("GET", "/list?limit=3", Some(200)), ("PATCH", LARGE, Some(200))], "{summary:?}");
    ensure!((passed[0].answer_bytes, passed[1].answer_bytes) == (17, LARGE_BYTES as u64), "{passed:?}");
    ensure!(passed[1].request_bytes == 7 && passed[0].connection == 1, "{passed:?}");
    let (to_hub, to_node) = site.proxy.bytes();
    ensure!(to_hub > 500 && to_node > LARGE_BYTES as u64, "{to_hub} {to_node}");
    Ok(())
}

#[test]
fn a_client_without_a_certificate_is_passed_on_without_one_and_with_its_token() -> Result<()> {
    let site = Site::start()?;
    let access = Access::bearer(&site.proxy.address(), site.ca.cert_pem(), "secret")?;
    site.runtime.block_on(async { access.connect().await?.get(LIST).await?.ok() })?;
    ensure!(*site.seen.lock() == ["Bearer secret /list "], "{:?}", site.seen.lock());
    Ok(())
}

#[test]
fn a_rule_acts_so_often_after_so_many_and_the_next_one_follows() -> Result<()> {
    let site = Site::start()?;
    let connection = site.connect()?;
    let first = site.proxy.rule(Rule::new("GET", "list").skip(1).times(2).then(Action::status(500, "first")));
    let second = site.proxy.rule(Rule::new("GET", "list").skip(1).times(1).then(Action::json("second")));
    let mut came = Vec::new();
    for _ in 0..5 {
        came.push(site.get(&connection, LIST)?.1);
    }
    let honest = r#"{"items":[1,2,3]}"#;
    ensure!(came == [honest, "first", "first", "second", honest], "{came:?}");
    ensure!((site.proxy.acted(first), site.proxy.acted(second)) == (2, 1));
    let always = site.proxy.rule(Rule::new("GET", "list").then(Action::json("[]")));
    ensure!(site.get(&connection, LIST)?.1 == "[]");
    site.proxy.remove(always);
    ensure!(site.get(&connection, LIST)?.1 == honest);
    Ok(())
}

#[test]
fn answers_are_replaced_edited_and_truncated() -> Result<()> {
    let site = Site::start()?;
    let (status, text) = site.under(LIST, Action::status(418, "short"))?;
    ensure!((status, text.as_str()) == (418, "short"));
    ensure!(site.seen.lock().is_empty(), "the hub sees nothing of it");
    let edit = Action::edit(|list| list["items"] = "none".into());
    ensure!(site.under(LIST, edit)?.1 == r#"{"items":"none"}"#);
    let upper = Action::ReplaceBody(Arc::new(|body| body.to_ascii_uppercase()));
    ensure!(site.under(LIST, upper)?.1 == r#"{"ITEMS":[1,2,3]}"#);
    ensure!(site.under(LIST, Action::Truncate(5))? == (200, "{\"ite".to_owned()));
    ensure!(site.under(LARGE, Action::Truncate(100_000))?.1.len() == 100_000);
    Ok(())
}

#[test]
fn requests_are_delayed_hung_aborted_lost_and_cut() -> Result<()> {
    let site = Site::start()?;
    let start = Instant::now();
    site.under(LIST, Action::Delay(Duration::from_millis(300)))?;
    ensure!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    ensure!(site.seen.lock().len() == 1, "it is passed on");

    site.proxy.clear();
    site.proxy.rule(Rule::new("GET", LIST).times(1).then(Action::Hang));
    let connection = site.connect()?;
    let hung = site
        .runtime
        .block_on(async { tokio::time::timeout(Duration::from_millis(300), connection.get(LIST)).await.is_err() });
    ensure!(hung, "nobody answers");
    ensure!(site.get(&connection, LIST)?.0 == 200, "the connection is as good as before");
    ensure!(site.seen.lock().len() == 2, "the one that hung has not reached the hub");

    site.proxy.rule(Rule::new("GET", LIST).times(1).then(Action::Abort));
    ensure!(site.get(&connection, LIST).is_err(), "the stream is reset");
    ensure!(site.seen.lock().len() == 2 && site.get(&connection, LIST)?.0 == 200);

    site.proxy.rule(Rule::new("GET", LIST).times(1).then(Action::LoseAnswer));
    ensure!(site.get(&connection, LIST).is_err(), "the stream is reset");
    ensure!(site.seen.lock().len() == 4 && site.get(&connection, LIST)?.0 == 200, "the hub has acted on it");

    let cut = site.proxy.rule(Rule::new("GET", LARGE).times(1).then(Action::CutAfter(1000)));
    ensure!(site.get(&connection, LARGE).is_err(), "what is cut is no answer");
    let passed = site.proxy.requests().into_iter().find(|one| one.rule == Some(cut)).context("the cut request")?;
    ensure!(passed.answer_bytes == 1000 && site.get(&connection, LARGE)?.1.len() == LARGE_BYTES, "{passed:?}");

    site.proxy.rule(Rule::new("GET", LIST).times(1).then(Action::AbortConnection));
    ensure!(site.get(&connection, LIST).is_err());
    eventually("a closed connection", PATIENCE, || if connection.is_closed() { Ok(()) } else { Err("open") })?;
    ensure!(site.get(&site.connect()?, LIST)?.0 == 200, "the next one is as good as any");
    Ok(())
}

#[test]
fn an_injected_line_comes_before_what_the_hub_says() -> Result<()> {
    let site = Site::start()?;
    site.proxy.rule(Rule::new("GET", WATCH).then(Action::InjectWatchLine(Bytes::from_static(b"[]\n"))));
    let connection = site.connect()?;
    let lines = site.runtime.block_on(async {
        let mut lines = connection.watch(WATCH).await?;
        anyhow::Ok([lines.next().await?, lines.next().await?])
    })?;
    ensure!(lines == [Some(Bytes::from_static(b"[]\n")), Some(Bytes::from_static(b"{\"first\":1}\n"))], "{lines:?}");
    Ok(())
}

#[test]
fn an_answer_and_a_line_are_as_slow_as_they_are_set() -> Result<()> {
    let site = Site::start()?;
    let start = Instant::now();
    ensure!(site.under(LARGE, Action::Throttle(400_000))?.1.len() == LARGE_BYTES);
    let took = start.elapsed().as_secs_f64();
    ensure!((0.4..3.0).contains(&took), "200 kB at 400 kB/s took {took} s");

    // The whole line: both streams of it share what there is.
    site.proxy.clear();
    site.proxy.set_bandwidth(Some(200_000));
    let connection = site.connect()?;
    let start = Instant::now();
    site.runtime.block_on(async {
        let (one, other) = tokio::join!(connection.get(LARGE), connection.get(LARGE));
        ensure!(one?.body.len() == LARGE_BYTES && other?.body.len() == LARGE_BYTES);
        Ok(())
    })?;
    let took = start.elapsed().as_secs_f64();
    ensure!((1.8..6.0).contains(&took), "400 kB at 200 kB/s took {took} s");

    // Who sends feels it: nothing between it and the line takes more than a few segments.
    let start = Instant::now();
    let body = Bytes::from(vec![b'x'; 100_000]);
    site.runtime.block_on(connection.send(Method::POST, LIST, &[], body))?.ok()?;
    let took = start.elapsed().as_secs_f64();
    ensure!((0.4..3.0).contains(&took), "100 kB at 200 kB/s took {took} s");
    site.proxy.set_bandwidth(None);
    let start = Instant::now();
    site.get(&connection, LARGE)?;
    ensure!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    Ok(())
}

#[test]
fn a_frozen_line_keeps_what_it_was_given_until_it_thaws() -> Result<()> {
    let site = Site::start()?;
    let connection = site.connect()?;
    let thaw = |connection: &Connection| -> Result<()> {
        site.runtime.block_on(async {
            let request = connection.get(LIST);
            tokio::pin!(request);
            let early = tokio::time::timeout(Duration::from_millis(300), &mut request).await;
            ensure!(early.is_err(), "nothing passes a frozen line");
            ensure!(!connection.is_closed(), "it stays open");
            site.proxy.thaw();
            ensure!(tokio::time::timeout(PATIENCE, request).await??.status == 200);
            Ok(())
        })
    };
    site.proxy.freeze();
    thaw(&connection)?;
    // By a rule: this connection, not the other.
    let other = site.connect()?;
    site.proxy.rule(Rule::new("GET", LIST).times(1).then(Action::Freeze));
    let frozen = site
        .runtime
        .block_on(async { tokio::time::timeout(Duration::from_millis(300), connection.get(LIST)).await.is_err() });
    ensure!(frozen && site.get(&other, LIST)?.0 == 200);
    thaw(&connection)
}

#[test]
fn connections_are_reset_refused_counted_and_passed_on_to_another_hub() -> Result<()> {
    let site = Site::start()?;
    let connection = site.connect()?;
    ensure!(site.get(&connection, LIST)?.0 == 200);
    site.proxy.set_away(true);
    eventually("a closed connection", PATIENCE, || if connection.is_closed() { Ok(()) } else { Err("open") })?;
    ensure!(site.connect().is_err(), "nobody is there");
    site.proxy.set_away(false);
    let connection = site.connect()?;
    ensure!(site.get(&connection, LIST)?.0 == 200 && site.proxy.connections() == 3);
    site.proxy.reset_connections();
    eventually("a closed connection", PATIENCE, || if connection.is_closed() { Ok(()) } else { Err("open") })?;
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    site.proxy.set_hub(&closed);
    ensure!(site.connect().is_err(), "where the hub is away, the proxy is away");
    Ok(())
}

#[test]
fn a_tunnel_carries_what_it_does_not_understand() -> Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = Proxy::tunnel(&listener.local_addr()?.to_string())?;
        let mut near = TcpStream::connect(proxy.address()).await?;
        near.write_all(b"hello").await?;
        let (mut far, _) = listener.accept().await?;
        let mut read = [0; 5];
        far.read_exact(&mut read).await?;
        far.write_all(b"and back").await?;
        drop(far);
        let mut answer = String::new();
        near.read_to_string(&mut answer).await?;
        ensure!(&read == b"hello" && answer == "and back");
        ensure!(proxy.bytes() == (5, 8) && proxy.connections() == 1, "{:?}", proxy.bytes());
        Ok(())
    })
}

/// Runs where `cargo xtask install kube-apiserver` has built one.
#[test]
fn it_works_before_a_kube_apiserver() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(server) = crate::apiserver::KubeApiserver::start(dir.path())? else { return Ok(()) };
    let (address, ca_pem, admin) = crate::wire::read_kubeconfig(&server.kubeconfig())?;
    let proxy = Proxy::start(&address, &server.ca()?, Client::Given(admin.clone()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let access = Access::certificate(&proxy.address(), &ca_pem, &admin)?;
    runtime.block_on(async {
        let connection = access.connect().await?;
        let list = connection.get("/api/v1/namespaces").await?.ok()?.json();
        ensure!(list["kind"] == "NamespaceList", "{list}");
        let version = list["metadata"]["resourceVersion"].as_str().context("a revision")?;
        let mut lines = connection.watch(&format!("/api/v1/namespaces?watch=1&resourceVersion={version}")).await?;
        let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "proxied"}});
        connection.post("/api/v1/namespaces", &namespace).await?.ok()?;
        let line = tokio::time::timeout(PATIENCE, lines.next()).await??.context("an event")?;
        ensure!(line.starts_with(b"{\"type\":\"ADDED\""), "{line:?}");
        proxy.rule(Rule::new("GET", "namespaces$").then(Action::json("{}")));
        ensure!(connection.get("/api/v1/namespaces").await?.text() == "{}");
        Ok(())
    })
}
