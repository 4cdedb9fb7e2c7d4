//! Large answers, made piece by piece while they are sent.
//!
//! A list of 50,000 objects is never whole in memory: its pieces are encoded on the work pool, at most [`PIECES_AHEAD`] of
//! them before the client has taken them, and others get their turn between two pieces. Where the client takes gzip, a
//! long answer is compressed on the way, as kube-apiserver does: these lists travel over radio links.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base_http::{Body, BoxError};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Response, header};
use tokio::sync::mpsc;

use crate::flow::Entry;
use crate::outgoing::BytesKept;
use crate::server::Inner;
use crate::status;
use crate::work::Workers;

/// Pieces of this size suit sockets and TLS records.
pub(crate) const PIECE_BYTES: usize = 64 * 1024;

/// Pieces that wait for a slow client.
const PIECES_AHEAD: usize = 2;

/// What a list of large objects may be counted as: more would keep an identity from having two of them.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// A client that takes no piece for so long has left, or means ill.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(60);

/// Answers from this size on are compressed; below, the link's latency outweighs its rate. As kube-apiserver.
const GZIP_BYTES_MIN: usize = 128 * 1024;

/// An answer made of pieces, which are taken from the iterator as the client reads. `bytes_about` is what they may come
/// to, and decides on compression; `largest` is about the largest of what a piece may end with; `turn` counts against its
/// identity until the last piece is taken.
pub(crate) fn respond<I>(
    server: &Arc<Inner>,
    headers: &HeaderMap,
    bytes_about: usize,
    largest: usize,
    turn: Option<Arc<Entry>>,
    mut pieces: I,
) -> Response<Body>
where
    I: Iterator<Item = Bytes> + Send + 'static,
{
    if bytes_about <= PIECE_BYTES {
        return status::ok(Body::pieces(pieces.collect::<Vec<_>>()));
    }
    let is_gzip = bytes_about >= GZIP_BYTES_MIN && accepts_gzip(headers);
    let (sender, receiver) = mpsc::channel::<Bytes>(PIECES_AHEAD);
    let is_whole = Arc::new(AtomicBool::new(false));
    let done = is_whole.clone();
    server.work.spawn(&Workers::of(turn.as_ref()), async move {
        let _turn = turn;
        let mut gzip = is_gzip.then(Gzip::new);
        loop {
            let piece = pieces.next();
            let is_last = piece.is_none();
            let piece = match (&mut gzip, piece) {
                (Some(gzip), Some(piece)) => gzip.push(&piece),
                (Some(gzip), None) => gzip.finish(),
                (None, piece) => piece.unwrap_or_default(),
            };
            if !piece.is_empty() && !matches!(sender.send_timeout(piece, STALL_MAX).await, Ok(())) {
                return;
            }
            if is_last {
                done.store(true, Ordering::Release);
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    let pieces = futures::stream::unfold(receiver, move |mut receiver| {
        let is_whole = is_whole.clone();
        async move {
            match receiver.recv().await {
                Some(piece) => Some((Ok(piece), receiver)),
                // Half a list must not pass for a whole one.
                None if !is_whole.load(Ordering::Acquire) => {
                    Some((Err(BoxError::from("the answer was not taken in time")), receiver))
                }
                None => None,
            }
        }
    });
    let mut response = status::ok(Body::stream(pieces));
    // Those ahead, one on its way, and what is made of the next.
    let kept = (PIECE_BYTES + largest) * (PIECES_AHEAD + 2);
    response.extensions_mut().insert(BytesKept(kept.min(KEPT_BYTES_MAX)));
    if is_gzip {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

/// Whether the client takes gzip; `identity` is what it gets otherwise.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING);
    let mut codings = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
    codings.any(|coding| {
        let (name, parameter) = coding.split_once(';').unwrap_or((coding, ""));
        name.trim().eq_ignore_ascii_case("gzip") && !matches!(parameter.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
    })
}

struct Gzip(GzEncoder<Vec<u8>>);

impl Gzip {
    fn new() -> Self {
        // The cheapest level: most of what it saves at a fraction of the work.
        Self(GzEncoder::new(Vec::new(), Compression::fast()))
    }

    fn push(&mut self, piece: &[u8]) -> Bytes {
        self.0.write_all(piece).expect("writing into memory does not fail");
        let made = self.0.get_mut();
        if made.len() < PIECE_BYTES / 2 { Bytes::new() } else { std::mem::take(made).into() }
    }

    fn finish(&mut self) -> Bytes {
        self.0.try_finish().expect("writing into memory does not fail");
        std::mem::take(self.0.get_mut()).into()
    }
}
