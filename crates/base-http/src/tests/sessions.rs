//! Sessions: made once, dropped with their connection, and closed from outside.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::{Close, ConnectionHandle, Connections, Handler, RejectReason, Rejected, serve_with};

#[derive(Default)]
struct Seen {
    made: AtomicUsize,
    dropped: AtomicUsize,
    /// Held by a test to stop sessions from being made.
    gate: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
    /// Whether users are rejected, unless they were looked up before that.
    revoked: AtomicBool,
    looked_before: AtomicBool,
}

struct Users {
    seen: Arc<Seen>,
    max: usize,
}

struct Session {
    user: String,
    connection: ConnectionHandle,
    seen: Arc<Seen>,
    requests: Mutex<usize>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.seen.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl Handler for Users {
    type Session = Session;

    async fn on_connect(&self, peer: &Peer, connection: &ConnectionHandle) -> Result<Session, Rejected> {
        self.seen.waiting.fetch_add(1, Ordering::SeqCst);
        drop(self.seen.gate.lock().await);
        let Some(certificate) = &peer.client_cert else { return Err(Rejected("show a certificate".into())) };
        if self.seen.revoked.load(Ordering::SeqCst) && !self.seen.looked_before.swap(false, Ordering::SeqCst) {
            return Err(Rejected("it is revoked".into()));
        }
        let user = base_pki::client_identity(certificate).unwrap().user;
        connection.mark_authenticated();
        connection.count_under(&user, self.max);
        self.seen.made.fetch_add(1, Ordering::SeqCst);
        Ok(Session { user, connection: connection.clone(), seen: self.seen.clone(), requests: Mutex::default() })
    }

    async fn call(&self, request: Request<hyper::body::Incoming>, session: &Session) -> Response<Body> {
        *session.requests.lock().unwrap() += 1;
        match request.uri().path() {
            "/stream" => Response::new(Body::stream(futures::stream::pending::<std::io::Result<Bytes>>())),
            "/until-closing" => {
                session.connection.closing().await;
                Response::new(Body::from("finished"))
            }
            "/panic" => panic!("as the test wants"),
            "/panic-in-body" => Response::new(Body::stream(futures::stream::once(async {
                if true {
                    panic!("as the test wants");
                }
                Ok::<_, std::io::Error>(Bytes::new())
            }))),
            _ => Response::new(Body::from(format!("{} {}", session.user, session.requests.lock().unwrap()))),
        }
    }
}

struct Running {
    site: Site,
    addr: SocketAddr,
    seen: Arc<Seen>,
    connections: Connections<Session>,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

fn start(max: usize) -> Running {
    start_with(max, Limits { drain_grace: Duration::from_millis(500), ..Limits::default() })
}

fn start_with(max: usize, limits: Limits) -> Running {
    let site = Site::new();
    let (listener, addr) = site.listener(limits);
    let (connections, shutdown, seen) = (Connections::new(), CancellationToken::new(), Arc::<Seen>::default());
    let serving = serve_with(listener, Users { seen: seen.clone(), max }, connections.clone(), shutdown.clone());
    Running { site, addr, seen, connections, shutdown, serving }
}

impl Running {
    async fn stop(self) {
        self.shutdown.cancel();
        soon("the drain", self.serving).await.unwrap();
        assert_eq!(self.seen.made.load(Ordering::SeqCst), self.seen.dropped.load(Ordering::SeqCst));
        assert!(self.connections.is_empty());
        assert_eq!(self.connections.stats().open(), 0);
    }
}

#[tokio::test]
async fn a_session_is_made_once_per_connection_and_dropped_with_it() {
    let running = start(8);
    let (mut client, connection) = running.site.http2(running.addr, true).await;
    for number in 1..=3 {
        assert_eq!(text(client.send_request(get("/")).await.unwrap()).await, format!("gw-1 {number}"));
    }
    let live = running.connections.list();
    assert_eq!((live.len(), live[0].0.requests(), live[0].0.requests_open()), (1, 3, 0));
    assert!(live[0].0.bytes_received() > 500 && live[0].0.bytes_sent() > 500, "handshake and requests are counted");
    assert!(live[0].0.peer().client_cert.is_some() && live[0].0.is_authenticated() && !live[0].0.is_closing());
    drop((live, client));
    soon("the connection ends", connection).await.unwrap().unwrap();
    eventually("the session is dropped", || running.seen.dropped.load(Ordering::SeqCst) == 1).await;
    eventually("its entry is removed", || running.connections.is_empty()).await;
    assert_eq!(running.seen.made.load(Ordering::SeqCst), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_rejected_connection_is_closed() {
    let running = start(8);
    let (mut client, _connection) = running.site.http2(running.addr, false).await;
    assert!(soon("it is closed", client.send_request(get("/"))).await.is_err());
    assert_eq!(running.connections.stats().rejected_total(RejectReason::Handler), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_revoked_identity_loses_its_connections_at_once() {
    let running = start(8);
    let (mut client, connection) = running.site.http2(running.addr, true).await;
    let mut stream = client.send_request(get("/stream")).await.unwrap().into_body();
    let revoke = |user| running.connections.close_where(Close::AtOnce, |_, session| session.user == user);
    assert_eq!(revoke("gw-2"), 0);
    text(client.send_request(get("/")).await.unwrap()).await;
    assert_eq!(revoke("gw-1"), 1);
    assert!(soon("the stream is cut", stream.frame()).await.is_none_or(|frame| frame.is_err()));
    // Cut without a word.
    let _ = soon("the connection is closed", connection).await.unwrap();
    eventually("the session is dropped", || running.seen.dropped.load(Ordering::SeqCst) == 1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_graceful_close_finishes_what_is_open() {
    let running = start(8);
    let (mut client, connection) = running.site.http2(running.addr, true).await;
    let open = tokio::spawn(client.send_request(get("/until-closing")));
    eventually("the request is open", || {
        running.connections.list().first().is_some_and(|(handle, _)| handle.requests_open() == 1)
    })
    .await;
    assert_eq!(running.connections.close_where(Close::Gracefully, |_, _| true), 1);
    assert_eq!(text(soon("the answer", open).await.unwrap().unwrap()).await, "finished");
    soon("the connection ends", connection).await.unwrap().unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_session_that_is_made_during_a_revocation_does_not_slip_through() {
    let running = start(8);
    let gate = running.seen.gate.lock().await;
    let (mut client, connection) = running.site.http2(running.addr, true).await;
    eventually("the session waits", || running.seen.waiting.load(Ordering::SeqCst) == 1).await;
    // First what a session is made from, then the sweep that finds the connections of before.
    running.seen.revoked.store(true, Ordering::SeqCst);
    assert_eq!(running.connections.close_where(Close::AtOnce, |_, _| true), 0);
    // The first look was before the revocation.
    running.seen.looked_before.store(true, Ordering::SeqCst);
    drop(gate);
    assert!(soon("it is closed", client.send_request(get("/stream"))).await.is_err());
    // Closed by GOAWAY, or with the socket.
    let _ = soon("the connection is closed", connection).await.unwrap();
    assert_eq!(running.connections.stats().rejected_total(RejectReason::Handler), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_session_that_is_made_while_others_are_revoked_lives() {
    let running = start(8);
    let gate = running.seen.gate.lock().await;
    let (mut client, connection) = running.site.http2(running.addr, true).await;
    eventually("the session waits", || running.seen.waiting.load(Ordering::SeqCst) == 1).await;
    assert_eq!(running.connections.close_where(Close::AtOnce, |_, session| session.user == "gw-2"), 0);
    drop(gate);
    for number in 1..=2 {
        let answer = soon("an answer", client.send_request(get("/"))).await.expect("nobody has closed it");
        assert_eq!(text(answer).await, format!("gw-1 {number}"));
    }
    assert_eq!(running.seen.made.load(Ordering::SeqCst), 2, "the one of before the revocation is not used");
    assert!(!connection.is_finished() && running.connections.len() == 1);
    drop(client);
    soon("the connection ends", connection).await.unwrap().unwrap();
    running.stop().await;
}

#[tokio::test]
async fn an_identity_has_so_many_connections_and_the_newest_are_kept() {
    let running = start(3);
    let mut clients = Vec::new();
    for _ in 0..2 {
        let (mut client, connection) = running.site.http2(running.addr, true).await;
        let stream = client.send_request(get("/stream")).await.unwrap();
        clients.push((client, connection, Some(stream)));
    }
    for _ in 0..3 {
        let (mut client, connection) = running.site.http2(running.addr, true).await;
        text(client.send_request(get("/")).await.unwrap()).await;
        clients.push((client, connection, None));
    }
    eventually("two gave way", || clients.iter().filter(|(_, task, _)| task.is_finished()).count() == 2).await;
    let ended: Vec<bool> = clients.iter().map(|(_, task, _)| task.is_finished()).collect();
    assert_eq!(ended, [false, false, true, true, false], "the oldest idle ones go, not those that are in use");
    assert_eq!(running.connections.stats().rejected_total(RejectReason::Identity), 2);
    drop(clients);
    running.stop().await;
}

#[tokio::test]
async fn those_that_give_way_leave_long_before_the_grace_of_a_drain() {
    let running = start_with(3, Limits { drain_grace: Duration::from_secs(3600), ..Limits::default() });
    let mut idle = Vec::new();
    for _ in 0..6 {
        let mut stream = running.site.tls(running.addr, true, "h2").await.unwrap();
        // The preface and empty SETTINGS. It never answers what a graceful close waits for.
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        idle.push(stream);
    }
    let rejected = || running.connections.stats().rejected_total(RejectReason::Identity);
    eventually("three are too many", || rejected() == 3).await;
    eventually("those without a request have ended", || running.connections.len() == 3).await;
    let mut clients = Vec::new();
    for number in 4..24 {
        let (mut client, connection) = running.site.http2(running.addr, true).await;
        let stream = soon("a stream", client.send_request(get("/stream"))).await.unwrap();
        clients.push((client, connection, stream));
        // Those that have a moment left to finish are no more than those that stay.
        eventually("as many as may be", || running.connections.len() <= 6).await;
        assert_eq!(rejected(), number);
    }
    eventually("the moment has passed", || running.connections.len() == 3).await;
    eventually("so it has for their clients", || clients.iter().filter(|client| !client.1.is_finished()).count() == 3)
        .await;
    assert!(clients[17..].iter().all(|client| !client.1.is_finished()), "the newest stay");
    drop((clients, idle));
    running.stop().await;
}

#[tokio::test]
async fn a_panic_costs_its_request_and_no_other() {
    let running = start(8);
    let (mut client, _connection) = running.site.http2(running.addr, true).await;
    let mut stream = client.send_request(get("/stream")).await.unwrap().into_body();
    let panicked = client.send_request(get("/panic")).await.unwrap();
    assert_eq!(panicked.status(), 500);
    let cut = match client.send_request(get("/panic-in-body")).await {
        Ok(response) => response.into_body().collect().await.map(drop),
        // The stream may be reset before the head of its response was sent.
        Err(error) => Err(error),
    };
    assert!(cut.is_err(), "half a body is not taken for the whole");
    assert_eq!(text(client.send_request(get("/")).await.unwrap()).await, "gw-1 4");
    assert!(futures::FutureExt::now_or_never(stream.frame()).is_none(), "the other stream continues");

    let stream = running.site.tls(running.addr, true, "http/1.1").await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = |path: &str| Request::get(path).header("host", "localhost").body(Full::default()).unwrap();
    let panicked = client.send_request(request("/panic")).await.unwrap();
    assert_eq!(panicked.status(), 500);
    text(panicked).await;
    assert_eq!(text(client.send_request(request("/")).await.unwrap()).await, "gw-1 2");
    assert_eq!(running.connections.stats().panics_total(), 3);
    running.stop().await;
}

#[tokio::test]
async fn draining_ends_streams_after_their_grace() {
    let running = start(8);
    let (mut client, connection) = running.site.http2(running.addr, true).await;
    let mut stream = client.send_request(get("/stream")).await.unwrap().into_body();
    running.stop().await;
    assert!(soon("the stream is cut", stream.frame()).await.is_none_or(|frame| frame.is_err()));
    // Cut after GOAWAY.
    let _ = soon("the connection is closed", connection).await.unwrap();
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_dead_peer() {
    use tokio::io::AsyncReadExt as _;
    let site = Site::new();
    let limits = Limits { drain_grace: Duration::from_secs(3600), ..Limits::default() };
    let (listener, addr) = site.listener(limits);
    let shutdown = CancellationToken::new();
    let task = serve(
        listener,
        |_: Request<hyper::body::Incoming>, _: Peer| async { Response::new(Body::empty()) },
        shutdown.clone(),
    );
    let mut silent = site.tls(addr, true, "h2").await.unwrap();
    silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // Its settings: the connection is served. From here on this peer answers nothing.
    silent.read_exact(&mut [0; 9]).await.unwrap();
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(60), task).await.expect("the drain ends").unwrap();
}
