//! What clients without an identity can hold on to, and for how long.

use futures::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{ConnectionHandle, Connections, Handler, RejectReason, Rejected, serve_with};

/// A second is long on loopback, and short for a test.
fn limits() -> Limits {
    Limits {
        first_request_timeout: Duration::from_millis(500),
        anonymous_timeout: Duration::from_millis(900),
        ..Limits::default()
    }
}

/// A token whose connections are counted.
const COUNTED: &str = "Bearer counted";

/// Whose certificate is good no longer.
const DELETED: &str = "deleted";

/// Knows those with a certificate, and whoever shows a token.
pub(super) struct Tokens;

impl Handler for Tokens {
    type Session = ConnectionHandle;

    async fn on_connect(&self, peer: &Peer, connection: &ConnectionHandle) -> Result<ConnectionHandle, Rejected> {
        let user = peer.client_cert.as_ref().map(|certificate| base_pki::client_identity(certificate).unwrap().user);
        if user.is_some_and(|user| user != DELETED) {
            connection.mark_authenticated();
        }
        Ok(connection.clone())
    }

    async fn call(&self, request: Request<hyper::body::Incoming>, session: &ConnectionHandle) -> Response<Body> {
        if let Some(token) = request.headers().get("authorization") {
            session.mark_authenticated();
            if token == COUNTED {
                session.count_under("counted", 256);
            }
        }
        match request.uri().path() {
            "/stream" => {
                let body = Body::stream(futures::stream::pending::<std::io::Result<Bytes>>());
                Response::builder().header("requests-open", session.requests_open()).body(body).unwrap()
            }
            "/read" => {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                Response::new(Body::from(body.len().to_string()))
            }
            "/endless" => Response::new(Body::stream(futures::stream::repeat_with(|| {
                Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 64 * 1024]))
            }))),
            "/large" => Response::new(Body::from(vec![b'x'; 10_000])),
            "/ending" => {
                Response::new(Body::stream(futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![
                    b'x';
                    10_000
                ]))])))
            }
            _ => Response::new(Body::from("ok")),
        }
    }
}

fn with_token(path: &str) -> Request<Full<Bytes>> {
    let mut request = get(path);
    request.headers_mut().insert("authorization", "Bearer x".try_into().unwrap());
    request
}

pub(super) struct Running {
    pub(super) site: Site,
    pub(super) addr: SocketAddr,
    pub(super) connections: Connections<ConnectionHandle>,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl Running {
    pub(super) fn start(limits: Limits) -> Self {
        let site = Site::new();
        let (listener, addr) = site.listener(limits);
        let (connections, shutdown) = (Connections::new(), CancellationToken::new());
        let serving = serve_with(listener, Tokens, connections.clone(), shutdown.clone());
        Self { site, addr, connections, shutdown, serving }
    }

    pub(super) fn rejected(&self, reason: RejectReason) -> u64 {
        self.connections.stats().rejected_total(reason)
    }

    /// Whether somebody with a certificate gets an answer.
    pub(super) async fn serves_those_it_knows(&self) {
        let (mut client, _connection) = soon("a handshake", self.site.http2(self.addr, true)).await;
        assert_eq!(text(soon("an answer", client.send_request(get("/"))).await.unwrap()).await, "ok");
    }

    /// A client whose certificate is of this hub's CA and is not accepted.
    async fn deleted(&self) -> (Http2, JoinHandle<hyper::Result<()>>) {
        self.site.http2_as(self.addr, Some(&issue(&self.site.ca, DELETED, Usage::Client))).await
    }

    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        soon("the drain", self.serving).await.unwrap();
        assert_eq!(self.connections.stats().open(), 0);
        assert_eq!(self.connections.stats().anonymous(), 0);
        assert_eq!(self.connections.stats().handshaking(), 0);
        assert!(self.connections.is_empty());
    }
}

/// Ready when the peer has closed.
async fn closed(mut stream: impl tokio::io::AsyncRead + Unpin) {
    let mut rest = Vec::new();
    // How it closes does not matter.
    let _ = soon("the connection is closed", stream.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn silent_tcp_clients_keep_nobody_out_and_are_closed() {
    let limits = Limits { handshakes_max: 50, handshake_timeout: Duration::from_secs(6), ..limits() };
    let running = Running::start(limits);
    let mut silent = Vec::new();
    for _ in 0..60 {
        silent.push(TcpStream::connect(running.addr).await.unwrap());
    }
    running.serves_those_it_knows().await;
    assert!(running.rejected(RejectReason::Handshakes) > 0);
    for stream in silent {
        closed(stream).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn a_rush_of_honest_handshakes_is_served_though_it_exceeds_the_budget() {
    let running = Arc::new(Running::start(Limits { handshakes_max: 2, ..Limits::default() }));
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let running = running.clone();
            tokio::spawn(async move { running.serves_those_it_knows().await })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(running.rejected(RejectReason::Handshakes), 0);
    Arc::into_inner(running).unwrap().stop().await;
}

#[tokio::test]
async fn a_connection_whose_certificate_is_not_accepted_or_missing_has_few_streams() {
    for is_deleted in [true, false] {
        let running = Running::start(limits());
        let (mut client, connection) = match is_deleted {
            true => running.deleted().await,
            false => running.site.http2(running.addr, false).await,
        };
        // With the first response the client knows the server's settings, and keeps what they do not allow yet.
        drop(soon("a response", client.send_request(with_token("/stream"))).await.unwrap());
        let mut requests: futures::stream::FuturesUnordered<_> =
            (0..40).map(|_| client.send_request(with_token("/stream"))).collect();
        let mut held = std::collections::VecDeque::new();
        while let Some(response) = soon("a response", requests.next()).await {
            let response = response.unwrap();
            let open: u32 = response.headers()["requests-open"].to_str().unwrap().parse().unwrap();
            assert!(open <= 16, "{open} requests are open");
            held.push_back(response);
            if held.len() == 16 {
                held.pop_front();
            }
        }
        drop((held, requests, client, connection));
        running.stop().await;
    }
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed() {
    let running = Running::start(limits());
    let kinds = [(false, "h2"), (false, "http/1.1"), (true, "h2"), (true, "http/1.1")];
    futures::future::join_all(kinds.map(|(with_certificate, alpn)| {
        let running = &running;
        async move { closed(running.site.tls(running.addr, with_certificate, alpn).await.unwrap()).await }
    }))
    .await;
    // The HTTP/2 preface and pings are no request.
    let (client, connection) = running.site.http2(running.addr, false).await;
    // Closed by GOAWAY, or with the socket.
    let _ = soon("the connection is closed", connection).await.unwrap();
    drop(client);
    assert_eq!(running.rejected(RejectReason::NoRequest), 5);
    running.stop().await;
}

#[tokio::test]
async fn half_a_head_is_no_request() {
    let running = Running::start(limits());
    let mut stream = running.site.tls(running.addr, false, "http/1.1").await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: local").await.unwrap();
    closed(stream).await;
    running.stop().await;
}

#[tokio::test]
async fn without_an_authenticated_request_neither_requests_nor_pings_nor_streams_keep_a_connection() {
    let running = Running::start(limits());
    let (mut client, connection) = running.site.http2(running.addr, false).await;
    let mut stream = client.send_request(get("/stream")).await.unwrap().into_body();
    while let Ok(response) = client.send_request(get("/")).await {
        // May be cut in the middle.
        let _ = response.into_body().collect().await;
    }
    assert!(soon("the stream ends", stream.frame()).await.is_none_or(|frame| frame.is_err()));
    // Closed by GOAWAY, or with the socket.
    let _ = soon("the connection is closed", connection).await.unwrap();
    assert_eq!(running.rejected(RejectReason::Unauthenticated), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_token_holds_a_connection_while_it_is_used() {
    let running = Running::start(limits());
    let (mut client, connection) = running.site.http2(running.addr, false).await;
    // Beside it others come that are not used for as long as that.
    for _ in 0..2 {
        let (_other, mut unused) = running.site.http2(running.addr, false).await;
        while !unused.is_finished() {
            assert_eq!(text(client.send_request(with_token("/")).await.unwrap()).await, "ok");
            // A moment, or less.
            let _ = tokio::time::timeout(Duration::from_millis(20), &mut unused).await;
        }
    }
    assert!(!connection.is_finished());
    // A stream that was opened with the token counts as use.
    let stream = client.send_request(with_token("/stream")).await.unwrap();
    for _ in 0..2 {
        let (_other, unused) = running.site.http2(running.addr, false).await;
        // How it ends does not matter.
        let _ = soon("one that is not used ends", unused).await.unwrap();
    }
    assert!(!connection.is_finished());
    drop(stream);
    soon("the idle connection is closed", connection).await.unwrap().unwrap();
    assert_eq!(running.connections.stats().idle_closed_total(), 1);
    running.stop().await;
}

#[tokio::test]
async fn those_with_a_certificate_get_in_when_the_anonymous_are_too_many() {
    let running = Running::start(Limits { anonymous_max: 10, anonymous_loopback_max: 100, ..Limits::default() });
    let mut anonymous = Vec::new();
    for _ in 0..30 {
        let (mut client, connection) = running.site.http2(running.addr, false).await;
        assert_eq!(text(client.send_request(get("/")).await.unwrap()).await, "ok", "the newest gets in");
        anonymous.push((client, connection));
        running.serves_those_it_knows().await;
    }
    assert_eq!(running.connections.stats().anonymous(), 10);
    assert_eq!(running.rejected(RejectReason::Anonymous), 20);
    let closed = |range: std::ops::Range<usize>| anonymous[range].iter().all(|(_, task)| task.is_finished());
    eventually("the oldest are closed", || closed(0..20)).await;
    assert!(anonymous[20..].iter().all(|(_, task)| !task.is_finished()));
    drop(anonymous);
    running.stop().await;
}

#[tokio::test]
async fn who_has_authenticated_does_not_give_way_to_who_has_not() {
    let running = Running::start(Limits { anonymous_max: 10, anonymous_loopback_max: 3, ..Limits::default() });
    let mut known = Vec::new();
    for _ in 0..3 {
        let (mut client, connection) = running.site.http2(running.addr, false).await;
        text(client.send_request(with_token("/")).await.unwrap()).await;
        known.push((client, connection));
    }
    let (mut client, _connection) = running.site.http2(running.addr, false).await;
    assert!(soon("it is closed", client.send_request(get("/"))).await.is_err());
    assert_eq!(running.rejected(RejectReason::Address), 1);
    for (client, _) in &mut known {
        assert_eq!(text(client.send_request(with_token("/")).await.unwrap()).await, "ok");
    }
    drop(known);
    running.stop().await;
}

#[tokio::test]
async fn one_token_leaves_places_for_those_without_it() {
    let running = Running::start(Limits { anonymous_max: 16, ..Limits::default() });
    let mut known = Vec::new();
    for _ in 0..20 {
        let (mut client, connection) = running.site.http2(running.addr, false).await;
        let mut request = get("/stream");
        request.headers_mut().insert("authorization", COUNTED.try_into().unwrap());
        let stream = soon("a stream", client.send_request(request)).await.unwrap();
        known.push((client, connection, stream));
    }
    // Whatever was made of the number of tokens: one has a quarter of what there is, and those that give way end soon.
    eventually("the others gave way", || running.connections.stats().anonymous() == 4).await;
    assert_eq!(running.rejected(RejectReason::Identity), 16);
    assert_eq!(running.rejected(RejectReason::Anonymous), 0);
    let mut others = Vec::new();
    for _ in 0..12 {
        let (mut client, connection) = running.site.http2(running.addr, false).await;
        assert_eq!(text(client.send_request(with_token("/")).await.unwrap()).await, "ok");
        others.push((client, connection));
    }
    assert_eq!(running.rejected(RejectReason::Anonymous), 0);
    drop((known, others));
    running.stop().await;
}

#[tokio::test]
async fn beyond_the_total_a_connection_is_closed_at_once() {
    let running = Running::start(Limits { connections_max: 2, ..Limits::default() });
    let first = running.site.http2(running.addr, true).await;
    let _second = running.site.http2(running.addr, true).await;
    closed(TcpStream::connect(running.addr).await.unwrap()).await;
    assert_eq!(running.rejected(RejectReason::Total), 1);
    drop(first);
    eventually("its place is free", || running.connections.stats().open() < 2).await;
    running.serves_those_it_knows().await;
    running.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_an_open_stream_is_not() {
    let running = Running::start(Limits { idle_timeout: Duration::from_millis(300), ..Limits::default() });
    let (mut idle, idle_connection) = running.site.http2(running.addr, true).await;
    let (mut busy, busy_connection) = running.site.http2(running.addr, true).await;
    let stream = busy.send_request(get("/stream")).await.unwrap();
    text(idle.send_request(get("/")).await.unwrap()).await;
    soon("the idle one ends", idle_connection).await.unwrap().unwrap();
    assert!(!busy_connection.is_finished());
    drop(stream);
    soon("so does the other when it is idle", busy_connection).await.unwrap().unwrap();
    running.stop().await;
}

/// Takes nothing for longer than this.
const WRITE_TIMEOUT: Duration = Duration::from_millis(400);

fn impatient() -> Running {
    Running::start(Limits { write_timeout: WRITE_TIMEOUT, ..Limits::default() })
}

#[tokio::test]
async fn who_never_reads_a_response_loses_the_connection_with_what_waits_for_it() {
    let running = impatient();
    let mut clients = Vec::new();
    for number in 1..=3 {
        let mut stream = running.site.tls(running.addr, true, "http/1.1").await.unwrap();
        stream.write_all(b"GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        clients.push(stream);
        eventually("the HTTP/1.1 connection is closed", || running.rejected(RejectReason::Stalled) == number).await;
    }
    eventually("nothing is kept for them", || running.connections.is_empty()).await;
    // Whoever does not read the socket gains nothing by the other protocol, though its windows are as wide as may be.
    let mut stream = running.site.tls(running.addr, true, "h2").await.unwrap();
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let window = (1_u32 << 30).to_be_bytes();
    let path = [&b"\x82\x87\x01\x09localhost\x04\x08"[..], b"/endless"].concat();
    // SETTINGS with the window of streams, WINDOW_UPDATE for the connection, HEADERS of GET.
    for (kind, flags, id, payload) in
        [(4, 0, 0, &[&[0, 4][..], &window].concat()), (8, 0, 0, &window.to_vec()), (1, 5, 1, &path)]
    {
        sent.extend_from_slice(&raw_frame(kind, flags, id, payload));
    }
    stream.write_all(&sent).await.unwrap();
    eventually("the HTTP/2 connection is closed", || running.rejected(RejectReason::Stalled) > 3).await;
    eventually("nothing is kept for it", || running.connections.is_empty()).await;
    drop((stream, clients));
    running.stop().await;
}

/// A frame of HTTP/2.
fn raw_frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

#[tokio::test]
async fn a_response_is_open_until_its_last_frame_is_taken() {
    for (path, is_taken) in [(&b"/large"[..], true), (b"/ending", true), (b"/large", false), (b"/ending", false)] {
        let running = if is_taken { Running::start(Limits::default()) } else { impatient() };
        let mut stream = running.site.tls(running.addr, true, "h2").await.unwrap();
        let head = [&b"\x82\x87\x01\x09localhost\x04"[..], &[path.len() as u8], path].concat();
        let window = |bytes: u8| [0, 4, 0, 0, 0, bytes];
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&raw_frame(4, 0, 0, &window(1))).await.unwrap();
        stream.write_all(&raw_frame(1, 5, 1, &head)).await.unwrap();
        // DATA with the one byte that it may send.
        let (mut received, data) = (Vec::new(), raw_frame(0, 0, 1, b"x"));
        while !received.windows(data.len()).any(|bytes| bytes == data) {
            assert_ne!(soon("what the window lets through", stream.read_buf(&mut received)).await.unwrap(), 0);
        }
        // Whatever the server does with the rest, it has done before it answers the PING.
        let (ping, pong) = (raw_frame(6, 0, 0, b"12345678"), raw_frame(6, 1, 0, b"12345678"));
        stream.write_all(&ping).await.unwrap();
        while !received.ends_with(&pong) {
            assert_ne!(soon("the PING is answered", stream.read_buf(&mut received)).await.unwrap(), 0);
        }
        let (connection, _) = running.connections.list().pop().expect("the connection is open");
        assert_eq!(connection.requests_open(), 1, "{}", String::from_utf8_lossy(path));
        if is_taken {
            // WINDOW_UPDATE of the stream: the rest goes.
            stream.write_all(&raw_frame(8, 0, 1, &20_000_u32.to_be_bytes())).await.unwrap();
        }
        eventually("it is taken, or reset", || connection.requests_open() == 0).await;
        assert_eq!(running.rejected(RejectReason::Stalled), u64::from(!is_taken));
        drop(stream);
        running.stop().await;
    }
}

#[tokio::test]
async fn who_reads_the_socket_and_never_opens_a_window_loses_the_one_request() {
    let running = impatient();
    let (mut client, connection) = running.site.http2(running.addr, true).await;
    let response = client.send_request(get("/endless")).await.unwrap();
    let waiting = client.send_request(get("/stream")).await.unwrap();
    eventually("it is reset", || running.rejected(RejectReason::Stalled) == 1).await;
    let mut body = response.into_body();
    let end = loop {
        match soon("an end", body.frame()).await {
            Some(Ok(_)) => {}
            end => break end,
        }
    };
    assert!(end.is_some_and(|end| end.is_err()), "half a response is not taken for the whole");
    // One that has nothing to send waits for us, and not for its peer.
    assert_eq!(text(client.send_request(get("/")).await.unwrap()).await, "ok");
    let mut body = waiting.into_body();
    assert!(futures::FutureExt::now_or_never(body.frame()).is_none());
    assert_eq!(running.rejected(RejectReason::Stalled), 1);
    drop((client, body));
    soon("the connection ends", connection).await.unwrap().unwrap();
    running.stop().await;
}

/// Frames without requests, as many as somebody takes; ends when the connection does.
async fn flood(mut stream: TlsStream<TcpStream>) {
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // PRIORITY of a stream that is not open: nobody answers it.
    let frames = b"\0\0\x05\x02\0\0\0\0\x03\0\0\0\0\x10".repeat(1000);
    while stream.write_all(&sent).await.is_ok() && stream.flush().await.is_ok() {
        sent.clone_from(&frames);
    }
}

#[tokio::test]
async fn who_has_not_authenticated_sends_little_and_whoever_has_as_much_as_it_wants() {
    let running = Running::start(Limits::default());
    let streams = [running.site.tls(running.addr, false, "h2").await, running.site.tls(running.addr, true, "h2").await];
    let floods = streams.map(|stream| tokio::spawn(flood(stream.unwrap())));
    eventually("both have a session", || running.connections.len() == 2).await;
    let connections = running.connections.list();
    let of = |is_known: bool| {
        let mut handles = connections.iter().map(|(handle, _)| handle);
        handles.find(|handle| handle.is_authenticated() == is_known).expect("there is one of each")
    };
    eventually("the known one sends", || of(true).bytes_received() > 4 << 20).await;
    let (received, age) = (of(false).bytes_received(), of(false).age());
    assert!(received <= 72 * 1024 + 16 * 1024 * (age.as_millis() as u64) / 1000, "{received} bytes in {age:?}");
    floods.iter().for_each(JoinHandle::abort);
    drop(connections);
    running.stop().await;
}

#[tokio::test]
async fn what_a_request_brings_along_is_read_as_soon_as_it_shows_its_token() {
    let running = Running::start(Limits::default());
    let (mut client, connection) = running.site.http2(running.addr, false).await;
    let bytes = 3 << 20;
    let mut request = Request::post("https://localhost/read").body(Full::new(Bytes::from(vec![b'x'; bytes]))).unwrap();
    request.headers_mut().insert("authorization", "Bearer x".try_into().unwrap());
    let started = std::time::Instant::now();
    let answer = soon("an answer", client.send_request(request)).await.unwrap();
    assert_eq!(text(answer).await, bytes.to_string());
    assert!(started.elapsed() < Duration::from_secs(5), "as slow as somebody unknown: {:?}", started.elapsed());
    drop((client, connection));
    running.stop().await;
}

#[tokio::test]
async fn who_reads_slowly_is_waited_for() {
    let running = impatient();
    let (mut client, _connection) = running.site.http2(running.addr, true).await;
    let mut body = client.send_request(get("/endless")).await.unwrap().into_body();
    let started = std::time::Instant::now();
    while started.elapsed() < WRITE_TIMEOUT * 4 {
        // As much as lets the server continue.
        for _ in 0..16 {
            soon("a frame", body.frame()).await.expect("it is endless").unwrap();
        }
        // Its being slow is what is tested.
        tokio::time::sleep(WRITE_TIMEOUT / 4).await;
    }
    assert_eq!(running.rejected(RejectReason::Stalled), 0);
    drop((client, body));
    running.stop().await;
}

#[tokio::test]
async fn a_head_is_answered_without_a_body() {
    let running = Running::start(Limits::default());
    let head = |uri: &str| Request::head(uri).header("host", "localhost").body(Full::<Bytes>::default()).unwrap();
    let (mut client, _connection) = running.site.http2(running.addr, true).await;
    let stream = running.site.tls(running.addr, true, "http/1.1").await.unwrap();
    let (mut client1, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for path in ["/", "/stream", "/endless"] {
        let answers = [
            soon("an answer", client.send_request(head(&format!("https://localhost{path}")))).await.unwrap(),
            soon("an answer", client1.send_request(head(path))).await.unwrap(),
        ];
        for answer in answers {
            let length = answer.headers().get("content-length").map(|length| length.to_str().unwrap().to_owned());
            assert_eq!((answer.status().as_u16(), length.as_deref()), (200, (path == "/").then_some("2")), "{path}");
            assert_eq!(text(soon("the end", async { answer }).await).await, "");
        }
    }
    drop((client, client1));
    running.stop().await;
}

#[tokio::test]
async fn certificates_that_are_not_accepted_fill_no_budget_but_their_own() {
    let running = Running::start(Limits { connections_max: 12, unaccepted_max: 4, ..Limits::default() });
    let mut deleted = Vec::new();
    for _ in 0..20 {
        let (mut client, connection) = running.deleted().await;
        assert_eq!(text(client.send_request(get("/")).await.unwrap()).await, "ok", "the newest gets a message");
        deleted.push((client, connection));
        running.serves_those_it_knows().await;
    }
    assert_eq!(running.rejected(RejectReason::Unaccepted), 16);
    assert_eq!(running.rejected(RejectReason::Total), 0);
    eventually("the oldest are closed", || deleted[..16].iter().all(|(_, task)| task.is_finished())).await;
    assert!(deleted[16..].iter().all(|(_, task)| !task.is_finished()));
    drop(deleted);
    running.stop().await;
}

#[tokio::test]
async fn a_head_may_be_large_and_not_larger() {
    let running = Running::start(Limits::default());
    let head = |bytes: usize| format!("GET / HTTP/1.1\r\nhost: localhost\r\nx-large: {}", "x".repeat(bytes));
    let mut stream = running.site.tls(running.addr, true, "http/1.1").await.unwrap();
    stream.write_all(format!("{}\r\nconnection: close\r\n\r\n", head(30_000)).as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Never finished: what the server has taken of it is bounded, whoever sends it.
    for with_certificate in [true, false] {
        eventually("those of before have ended", || running.connections.is_empty()).await;
        let mut stream = running.site.tls(running.addr, with_certificate, "http/1.1").await.unwrap();
        eventually("a session", || running.connections.len() == 1).await;
        let (connection, _) = running.connections.list().remove(0);
        // It may be closed before all is written.
        let _ = stream.write_all(head(400_000).as_bytes()).await;
        closed(stream).await;
        eventually("it is closed", || running.connections.is_empty()).await;
        assert!(connection.bytes_received() < 100_000, "{} bytes were taken", connection.bytes_received());
        assert!(connection.age() < Duration::from_secs(8), "it was closed by its size, not by its time");
    }
    let (mut client, _connection) = running.site.http2(running.addr, true).await;
    for (bytes, status) in [(12_000, 200), (20_000, 431)] {
        let mut request = get("/");
        request.headers_mut().insert("x-large", "x".repeat(bytes).try_into().unwrap());
        // The client may know the limit already, and then refuses by itself.
        let Ok(answer) = soon("an answer", client.send_request(request)).await else {
            assert_eq!(status, 431);
            continue;
        };
        assert_eq!(answer.status().as_u16(), status, "{bytes} bytes");
    }
    drop(client);
    running.stop().await;
}
