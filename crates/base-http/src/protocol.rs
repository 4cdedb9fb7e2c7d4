//! One connection from its handshake to its end, over either version of HTTP.
//!
//! A connection is one task: it drives hyper, and beside it waits for three things only: that somebody closes the connection,
//! that a limit may be due ([`Shared::verdict`]), or that the time for open requests is over. Requests of HTTP/2 are tasks of
//! their own; each future is boxed, so that a request which has been answered leaves nothing of its handler's state
//! behind while a watch streams on for hours.

use std::any::Any;
use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, Version, header};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

use crate::admission::{Seat, Standing};
use crate::body::Guards;
use crate::connection::{GOAWAY_GRACE, Io, OpenRequest, Shared, Stream, Verdict, phase};
use crate::connections::Registered;
use crate::{
    Body, BoxError, Close, ConnectionHandle, ConnectionStats, Connections, Handler, Peer, RejectReason, Rejected,
};

/// What a client may send of one request's body before the handler reads it.
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;

/// The same for all requests of a connection: what a client can make us keep without any handler knowing.
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;

/// A head of HTTP/1.1, and what else hyper gathers of a connection before it passes it on, in either direction. A client may
/// send so much of a head and stop; hyper would keep 408 KiB of it. kubectl's are below 16 KiB.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// The same for HTTP/2, where as many heads as streams may be open; counted as RFC 9113 says, and reported to the client.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;

/// What may wait to be sent on one stream: a watch that nobody reads pins this much and no more.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// How often a session is made while connections are closed from outside. That lasts microseconds each, so the second time
/// is the last as a rule.
const SESSION_TRIES: usize = 16;

/// What the connections of one listener have in common.
pub(crate) struct Server<H: Handler> {
    pub(crate) handler: Arc<H>,
    pub(crate) connections: Connections<H::Session>,
    pub(crate) tls: Option<TlsAcceptor>,
    /// Requests and tunnels of HTTP/2 connections.
    pub(crate) tasks: TaskTracker,
}

impl<H: Handler> Server<H> {
    /// Serves a connection to its end.
    pub(crate) async fn connection(self: Arc<Self>, stream: Stream, seat: Seat) {
        let shared = &seat.shared;
        let limits = &shared.admission.limits;
        if let Stream::Tcp(stream) = &stream
            && let Err(error) = keep_alive(stream, limits.keep_alive)
        {
            debug!(addr = ?shared.addr, %error, "Failed to set TCP options; serving without them.");
        }
        let io = Io::new(stream, shared.clone());
        let Some(tls) = &self.tls else {
            let peer = Peer { addr: shared.addr, client_cert: None, is_certificate_expected: false };
            return Box::pin(self.settled(io, peer, false, &seat)).await;
        };
        // Boxed: the state of a handshake is several kilobytes that nothing needs later.
        let Some(stream) = Box::pin(handshake(tls, io, shared)).await else { return };
        let session = stream.get_ref().1;
        let client_cert = session.peer_certificates().and_then(|chain| chain.first());
        let peer = Peer {
            addr: shared.addr,
            client_cert: client_cert.map(|certificate| Arc::new(certificate.clone().into_owned())),
            is_certificate_expected: shared.admission.asks_certificates,
        };
        let is_http2 = session.alpn_protocol() == Some(b"h2");
        // Boxed once: every future that it moves through would otherwise keep its size.
        Box::pin(self.settled(Box::new(stream), peer, is_http2, &seat)).await;
    }

    /// The handshake is done: makes the session, serves requests.
    async fn settled<S>(&self, stream: S, peer: Peer, is_http2: bool, seat: &Seat)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shared = &seat.shared;
        let admission = &shared.admission;
        // Whether a certificate is accepted is known with the session; until then the connection is among the handshakes.
        let standing = match (peer.is_certificate_expected, &peer.client_cert) {
            (false, _) => Some(Standing::Known),
            (true, None) => Some(Standing::Anonymous),
            (true, Some(_)) => None,
        };
        if let Some(standing) = standing
            && let Err(reason) = seat.settle(standing)
        {
            return debug!(addr = ?shared.addr, reason = reason.as_str(), "Closed a connection without a certificate.");
        }
        let peer = shared.peer.get_or_init(|| peer);
        let handle = ConnectionHandle(shared.clone());
        let deadline = after(shared.opened, admission.limits.handshake_timeout);
        let made = match timeout_at(deadline, Box::pin(self.make_session(peer, &handle))).await {
            Ok(made) => made,
            Err(_) => Err(Rejected("its session took too long to make".to_owned())),
        };
        let (session, _registered) = match made {
            Ok(made) => made,
            Err(rejected) => {
                admission.stats.reject(RejectReason::Handler);
                return debug!(addr = ?shared.addr, %rejected, "Rejected a connection.");
            }
        };
        let standing = standing.unwrap_or(match shared.is_authenticated() {
            true => Standing::Known,
            false => Standing::Unaccepted,
        });
        if standing != Standing::Anonymous
            && let Err(reason) = seat.settle(standing)
        {
            return debug!(addr = ?shared.addr, reason = reason.as_str(), "Closed a connection whose certificate is not accepted.");
        }
        let active = Arc::new(Active {
            handler: self.handler.clone(),
            session,
            shared: shared.clone(),
            stats: admission.stats.clone(),
        });
        let service = service_fn(move |request| active.clone().answer(request));
        if is_http2 {
            let limits = &admission.limits;
            let streams_max = match standing {
                Standing::Known => limits.streams_max,
                Standing::Anonymous | Standing::Unaccepted => limits.anonymous_streams_max.min(limits.streams_max),
            };
            let connection =
                hyper::server::conn::http2::Builder::new(Tasks { tasks: self.tasks.clone(), shared: shared.clone() })
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(streams_max)
                    .keep_alive_interval(admission.limits.keep_alive)
                    .keep_alive_timeout(admission.limits.keep_alive)
                    .initial_stream_window_size(STREAM_WINDOW_BYTES)
                    .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                    .max_send_buf_size(SEND_BUFFER_BYTES)
                    .max_header_list_size(HEADER_LIST_BYTES_MAX)
                    .enable_connect_protocol()
                    .serve_connection(TokioIo::new(stream), service);
            supervise(Box::pin(connection), |connection| connection.graceful_shutdown(), shared).await;
        } else {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(admission.limits.head_timeout)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            supervise(Box::pin(connection), |connection| connection.graceful_shutdown(), shared).await;
            upgraded(shared).await;
        }
    }
}

impl<H: Handler> Server<H> {
    /// Makes the session of a connection and registers it. When connections are closed from outside in between, the session
    /// may have been made from what was good before, so it is made anew; a fleet in which every second some node joins or is
    /// revoked must not lose connections that have nothing to do with it.
    async fn make_session(
        &self,
        peer: &Peer,
        handle: &ConnectionHandle,
    ) -> Result<(Arc<H::Session>, Registered<H::Session>), Rejected> {
        for _ in 0..SESSION_TRIES {
            let sweeps = self.connections.sweeps();
            handle.0.forget_authentication();
            let session = Arc::new(self.handler.on_connect(peer, handle).await?);
            if let Some(registered) = self.connections.add(handle, &session, sweeps) {
                return Ok((session, registered));
            }
        }
        Err(Rejected("connections were closed from outside again and again while its session was made".to_owned()))
    }
}

/// A moment of which no setting can make an overflow.
fn after(start: Instant, time: Duration) -> Instant {
    start.checked_add(time).unwrap_or(start)
}

async fn handshake(tls: &TlsAcceptor, io: Io, shared: &Shared) -> Option<TlsStream<Io>> {
    let deadline = after(shared.opened, shared.admission.limits.handshake_timeout);
    let done = timeout_at(deadline, tls.accept(io)).await;
    shared.admission.stats.handshake(matches!(done, Ok(Ok(_))));
    match done {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => debug!(addr = ?shared.addr, %error, "A TLS handshake failed."),
        Err(_) => debug!(addr = ?shared.addr, "A TLS handshake took too long."),
    }
    None
}

/// Drives a connection until it ends, is closed, or a limit ends it.
async fn supervise<C>(mut connection: Pin<Box<C>>, shut_down: impl Fn(Pin<&mut C>), shared: &Shared)
where
    C: Future<Output = hyper::Result<()>>,
{
    let first_look = match shared.verdict() {
        Verdict::LookAgain(at) => at,
        _ => Instant::now(),
    };
    let mut timer = std::pin::pin!(tokio::time::sleep_until(first_look));
    let mut closing = std::pin::pin!(shared.reached(phase::CLOSING));
    loop {
        tokio::select! {
            ended = connection.as_mut() => return note_end(shared, ended),
            () = closing.as_mut() => break,
            () = timer.as_mut() => match shared.verdict() {
                Verdict::LookAgain(at) => timer.as_mut().reset(at),
                due => {
                    note_due(shared, due);
                    shared.close_soon();
                    break;
                }
            },
        }
    }
    shut_down(connection.as_mut());
    let end = after(Instant::now(), shared.grace());
    loop {
        timer.as_mut().reset(after(Instant::now(), GOAWAY_GRACE).min(end));
        tokio::select! {
            ended = connection.as_mut() => return note_end(shared, ended),
            () = shared.reached(phase::CLOSED) => return,
            () = timer.as_mut() => {}
        }
        // Who has no request open and does not leave has no use of a drain's time: a peer that is dead answers no GOAWAY.
        if !shared.is_in_use() || Instant::now() >= end {
            return debug!(addr = ?shared.addr, "Closed a connection whose peer did not.");
        }
    }
}

/// After an upgrade the handler holds the socket. This waits until it is dropped, so that the connection is counted and can be
/// closed as long as it is there.
async fn upgraded(shared: &Shared) {
    tokio::select! {
        () = shared.reached(phase::ENDED) => return,
        () = shared.reached(phase::CLOSING) => {}
    }
    if tokio::time::timeout(shared.grace(), shared.reached(phase::CLOSED)).await.is_err() {
        shared.close(Close::AtOnce);
    }
}

fn note_due(shared: &Shared, due: Verdict) {
    let stats = &shared.admission.stats;
    match due {
        Verdict::NoRequest => stats.reject(RejectReason::NoRequest),
        Verdict::Unauthenticated => stats.reject(RejectReason::Unauthenticated),
        Verdict::Idle => stats.idle(),
        Verdict::LookAgain(_) => {}
    }
    debug!(addr = ?shared.addr, ?due, "Closing a connection.");
}

fn note_end(shared: &Shared, ended: hyper::Result<()>) {
    if let Err(error) = ended {
        debug!(addr = ?shared.addr, %error, "A connection ended early.");
    }
}

/// What answers the requests of one connection.
struct Active<H: Handler> {
    handler: Arc<H>,
    session: Arc<H::Session>,
    shared: Arc<Shared>,
    stats: Arc<ConnectionStats>,
}

impl<H: Handler> Active<H> {
    fn answer(self: Arc<Self>, request: Request<Incoming>) -> BoxFuture<'static, Result<Response<Served>, Infallible>> {
        Box::pin(async move {
            let open = OpenRequest::new(&self.shared);
            self.stats.request();
            let (method, uri, version) = (request.method().clone(), request.uri().clone(), request.version());
            let called = AssertUnwindSafe(self.handler.call(request, &self.session)).catch_unwind().await;
            let response = called.unwrap_or_else(|panic| {
                self.stats.panic();
                error!(%method, path = uri.path(), panic = panic_text(&*panic), "A request handler panicked; it was answered with 500.");
                internal_error()
            });
            let is_tunnel = method == Method::CONNECT && response.status().is_success();
            if is_tunnel || response.status() == StatusCode::SWITCHING_PROTOCOLS {
                self.shared.mark_upgraded();
            }
            // With HTTP/1.1 hyper knows this; with HTTP/2 it would send the body, which is a protocol error.
            let response = if method == Method::HEAD { without_body(response) } else { response };
            Ok(response.map(|body| Served::new(body, version, self.stats.clone(), open)))
        })
    }
}

/// What HEAD is answered with: the head that GET would have.
fn without_body(mut response: Response<Body>) -> Response<Body> {
    let length = hyper::body::Body::size_hint(response.body()).exact();
    *response.body_mut() = Body::empty();
    if let Some(length) = length {
        response.headers_mut().entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    response
}

fn internal_error() -> Response<Body> {
    let mut response = Response::new(Body::from("internal error; the server's log has it\n"));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("not a text")
}

/// How fast a peer takes a body is judged by so many bytes.
const PACE_BYTES: usize = 64 * 1024;

/// Who takes them within this time takes a large frame long before [`Limits::write_timeout`](crate::Limits::write_timeout), even
/// when its link becomes a hundred times slower in the middle of it.
const PACE_FAST: Duration = Duration::from_millis(250);

/// A frame of HTTP/2 above this is followed by its last byte as a frame of its own; one below is no more than its stream costs.
const WHOLE_FRAME_BYTES_MAX: usize = 1024;

/// A response's body on its way out: the request counts as open until it is sent, and a panic in it costs this response only.
///
/// With HTTP/2, hyper's part ends when it has passed on the last frame, of which the stream's window has let a byte through; the
/// rest waits in the connection for as long as the peer likes. So a large frame's last byte is passed on alone: it has its turn when
/// the window has taken all before it, and until then the response is open, and reset if that takes too long.
struct Served {
    body: Body,
    stats: Arc<ConnectionStats>,
    /// What counts it, which the frames hold as well: those that are not cut may still wait when hyper's part has ended.
    held: Arc<Guards>,
    is_cut: bool,
    /// The last byte of a frame.
    rest: Option<Bytes>,
    pace: Pace,
    _open: OpenRequest,
}

/// How fast a peer takes a body. What it has taken lately says how large the next frame may be.
struct Pace {
    since: Instant,
    bytes: usize,
    /// What the connection takes whether the peer does or not.
    ahead: usize,
}

impl Pace {
    fn new() -> Self {
        Self { since: Instant::now(), bytes: 0, ahead: SEND_BUFFER_BYTES }
    }

    /// A frame is asked for, and all before it have been taken. Says whether the peer takes them fast.
    fn is_fast(&mut self, now: Instant) -> Option<bool> {
        if self.bytes < self.ahead + PACE_BYTES {
            return None;
        }
        let is_fast = now.duration_since(self.since) <= PACE_FAST;
        *self = Self { since: now, bytes: 0, ahead: 0 };
        Some(is_fast)
    }
}

/// A frame that holds what its response does.
struct HeldFrame {
    bytes: Bytes,
    _held: Arc<Guards>,
}

impl AsRef<[u8]> for HeldFrame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Served {
    fn new(mut body: Body, version: Version, stats: Arc<ConnectionStats>, open: OpenRequest) -> Self {
        let held = Arc::new(body.take_guards());
        Self { body, stats, held, is_cut: version == Version::HTTP_2, rest: None, pace: Pace::new(), _open: open }
    }

    fn passed_on(&mut self, mut bytes: Bytes) -> Bytes {
        self.pace.bytes += bytes.len();
        if self.is_cut && bytes.len() > WHOLE_FRAME_BYTES_MAX {
            // A copy, or it would keep all of them.
            self.rest = Some(Bytes::copy_from_slice(&bytes[bytes.len() - 1..]));
            bytes.truncate(bytes.len() - 1);
        }
        Bytes::from_owner(HeldFrame { bytes, _held: self.held.clone() })
    }
}

impl hyper::body::Body for Served {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(rest) = self.rest.take() {
            LAST_FRAME.set(Some(LastFrame::Given));
            return Poll::Ready(Some(Ok(Frame::data(rest))));
        }
        if let Some(is_fast) = self.pace.is_fast(Instant::now()) {
            self.body.set_fast(is_fast);
        }
        let body = AssertUnwindSafe(|| Pin::new(&mut self.body).poll_frame(context));
        let polled = std::panic::catch_unwind(body).unwrap_or_else(|panic| {
            self.stats.panic();
            error!(panic = panic_text(&*panic), "A response's body panicked; it was cut.");
            // What has panicked is not polled again.
            self.body = Body::empty();
            Poll::Ready(Some(Err("the response's body panicked".into())))
        });
        LAST_FRAME.set(Some(if polled.is_ready() { LastFrame::Given } else { LastFrame::Awaited }));
        polled.map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| self.passed_on(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How a response's body was left when it was polled last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastFrame {
    /// hyper has it, and asks for the next one as soon as the peer's windows have space for it.
    Given,
    /// hyper waits for it.
    Awaited,
}

thread_local! {
    /// Of the stream that is being polled on this thread. Its body is inside of hyper's future, and nothing else passes
    /// between the two.
    static LAST_FRAME: Cell<Option<LastFrame>> = const { Cell::new(None) };
}

/// Runs the streams of an HTTP/2 connection as tasks that draining waits for, and resets those whose peer takes nothing of
/// what it has requested: it may read the socket and answer pings, and never open the stream's window.
#[derive(Clone)]
struct Tasks {
    tasks: TaskTracker,
    shared: Arc<Shared>,
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.tasks.spawn(Progressing { stream: Box::pin(future), stalled: None, shared: self.shared.clone() });
    }
}

/// One stream, for as long as its peer takes something of it from time to time.
struct Progressing<F> {
    stream: Pin<Box<F>>,
    /// Runs while a frame waits for the peer.
    stalled: Option<Pin<Box<Sleep>>>,
    shared: Arc<Shared>,
}

impl<F: Future<Output = ()>> Future for Progressing<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        LAST_FRAME.set(None);
        if self.stream.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        match LAST_FRAME.take() {
            Some(LastFrame::Given) => {
                // Progress: the peer has taken the frames before this one.
                let until = after(Instant::now(), self.shared.admission.limits.write_timeout);
                match &mut self.stalled {
                    Some(stalled) => stalled.as_mut().reset(until),
                    none => *none = Some(Box::pin(tokio::time::sleep_until(until))),
                }
            }
            Some(LastFrame::Awaited) => self.stalled = None,
            None => {}
        }
        let Some(stalled) = &mut self.stalled else { return Poll::Pending };
        if stalled.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.shared.admission.stats.reject(RejectReason::Stalled);
        debug!(addr = ?self.shared.addr, "Reset a request whose response nobody takes.");
        // Dropped with what it holds; hyper resets the stream.
        Poll::Ready(())
    }
}

/// Small messages leave at once, and a peer behind a dead link is noticed even when only it should speak: one that answers
/// nothing for `interval` is asked, and is given up after as long again.
///
/// # Errors
/// When the system does not take an option of the socket.
pub fn keep_alive(stream: &TcpStream, interval: Duration) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, interval)?;
    sockopt::set_tcp_keepintvl(stream, (interval / 3).max(Duration::from_secs(1)))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}
