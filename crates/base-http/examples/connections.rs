//! What an idle connection costs in memory: `cargo run --release -p base-http --example connections [CONNECTIONS]`.
//!
//! This process serves TLS and HTTP/2; a second one, the same program, opens connections with a certificate and then streams on
//! them, which get one event each and then nothing, as a kubelet's watches do. Resident memory is what the system has given
//! (RSS); the heap in use is what was allocated and not freed, by glibc's own count.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base_http::{Address, Body, Limits, Listener, Peer, ServerTls, client_config, serve};
use base_pki::{Ca, IssueRequest, Usage};
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_util::sync::CancellationToken;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

const CONNECTIONS_DEFAULT: usize = 1000;
fn main() -> Result<(), AnyError> {
    let arguments: Vec<String> = std::env::args().collect();
    // As the hub: two threads for I/O.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match arguments.get(1).map(String::as_str) {
        Some("client") => runtime.block_on(client(&arguments[2], &arguments[3], arguments[4].parse()?)),
        Some(count) => runtime.block_on(server(count.parse()?)),
        None => runtime.block_on(server(CONNECTIONS_DEFAULT)),
    }
}

async fn watch(_: Request<hyper::body::Incoming>, _: Peer) -> Response<Body> {
    let (events, received) = tokio::sync::mpsc::channel::<Bytes>(4);
    // The event is as long as that of a small object.
    events.send(Bytes::from(vec![b'x'; 1000])).await.expect("the receiver is at hand");
    let stream = futures::stream::unfold((received, events), |(mut received, events)| async move {
        Some((Ok::<_, std::io::Error>(received.recv().await?), (received, events)))
    });
    Response::new(Body::stream(stream))
}

async fn server(count: usize) -> Result<(), AnyError> {
    let ca = Ca::create("ca")?;
    let issue = |cn: &str, usage| {
        let validity = Duration::from_secs(3600);
        ca.sign(&IssueRequest { cn: cn.into(), orgs: vec![], sans: vec!["localhost".into()], usage, validity })
    };
    let served = issue("localhost", Usage::Server)?;
    let node = issue("system:node:gw-1", Usage::Client)?;
    let tls = ServerTls::new(&served.cert_pem, &served.key_pem, Some(ca.cert_pem()))?;
    // Silent connections are what is measured first: they may stay.
    let first_request_timeout = Duration::from_secs(600);
    let limits = Limits { connections_max: count + 16, first_request_timeout, ..Limits::default() };
    let listener = Listener::bind("test", Address::Tcp("127.0.0.1:0".parse()?))?.with_tls(tls).with_limits(limits);
    let address = listener.address().to_string();
    let serving = serve(listener, watch, CancellationToken::new());

    let mut child = Command::new(std::env::current_exe()?)
        .args([
            "client",
            &address,
            &format!("{}\n{}\n{}", ca.cert_pem(), node.cert_pem, node.key_pem),
            &count.to_string(),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut commands = child.stdin.take().expect("stdin is piped");
    let mut done = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let mut step = |what: &str, memory: &Memory| -> Result<(), AnyError> {
        writeln!(commands, "{what}")?;
        let mut line = String::new();
        done.read_line(&mut line)?;
        // Whatever is under way, such as the last acknowledgement, is done by then.
        std::thread::sleep(Duration::from_millis(500));
        memory.report(what, count);
        Ok(())
    };
    let memory = Memory::now();
    println!("{count} connections; per connection beyond an empty server:");
    for what in ["silent", "1 stream", "2 streams", "3 streams", "closed"] {
        tokio::task::block_in_place(|| step(what, &memory))?;
    }
    drop(commands);
    child.wait()?;
    serving.abort();
    Ok(())
}

struct Memory {
    rss: u64,
    heap: u64,
}

impl Memory {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let kib: u64 = line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default();
        Self { rss: kib * 1024, heap: heap_in_use() }
    }

    fn report(&self, what: &str, count: usize) {
        let now = Self::now();
        let per = |now: u64, before: u64| now.saturating_sub(before) as f64 / count as f64 / 1024.0;
        println!(
            "{what:>10}: resident {:6.1} KiB, heap in use {:6.1} KiB",
            per(now.rss, self.rss),
            per(now.heap, self.heap)
        );
    }
}

#[cfg(target_env = "gnu")]
fn heap_in_use() -> u64 {
    // SAFETY: reads glibc's counters; it takes no argument and has no precondition.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}

#[cfg(not(target_env = "gnu"))]
fn heap_in_use() -> u64 {
    0
}

async fn client(address: &str, identity: &str, count: usize) -> Result<(), AnyError> {
    // Three PEM blocks: CA, certificate, key.
    let blocks: Vec<String> = identity.split("-----BEGIN").skip(1).map(|block| format!("-----BEGIN{block}")).collect();
    let (ca, certificate, key) = (&blocks[0], &blocks[1], &blocks[2]);
    let mut config = client_config(ca, Some((certificate, key)))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut clients = Vec::new();
    let mut bodies = Vec::new();
    let mut connections = tokio::task::JoinSet::new();
    for line in std::io::stdin().lock().lines() {
        match line?.as_str() {
            "silent" => {
                for _ in 0..count {
                    let stream = tokio::net::TcpStream::connect(address).await?;
                    let stream = connector.connect("localhost".try_into()?, stream).await?;
                    let (client, connection) = hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(
                        TokioExecutor::new(),
                        TokioIo::new(stream),
                    )
                    .await?;
                    connections.spawn(connection);
                    clients.push(client);
                }
            }
            "closed" => {
                bodies.clear();
                clients.clear();
                while connections.join_next().await.is_some() {}
            }
            _ => {
                let opened = futures::stream::iter(clients.iter_mut()).then(async |client| {
                    let request =
                        Request::get("https://localhost/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dgw-1");
                    let request = request
                        .header("user-agent", "selvedge/0.1.0")
                        .header("accept", "application/json")
                        .body(Empty::new())?;
                    let mut body = client.send_request(request).await?.into_body();
                    body.frame().await.ok_or("no event")??;
                    Ok::<_, AnyError>(body)
                });
                let opened: Vec<_> = opened.collect().await;
                for body in opened {
                    bodies.push(body?);
                }
            }
        }
        println!("done");
        std::io::stdout().flush()?;
    }
    Ok(())
}
