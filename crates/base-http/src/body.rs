//! What a handler answers with.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures::{Stream, StreamExt};
use hyper::body::{Frame, SizeHint};

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What is handed on in one piece, as HTTP/2 does. A peer has made progress when it has taken one: on a slow link that many
/// requests share, larger ones would take too long.
const FRAME_BYTES: usize = 16 * 1024;

/// The same for a peer that takes them fast: each costs both ends a wake-up, which is more than its bytes do.
pub(crate) const FAST_FRAME_BYTES: usize = 64 * 1024;

/// A piece up to this size waits whole for a peer that takes only the beginning of its last frame.
const SHARED_BYTES_MAX: usize = 64 * 1024;

/// The body of an answer: nothing, some pieces of shared bytes, or a stream.
pub struct Body {
    kind: Kind,
    guards: Guards,
    is_fast: bool,
}

/// What is dropped when a body has been sent or given up.
pub(crate) type Guards = Vec<Box<dyn Send + Sync>>;

enum Kind {
    /// Pieces are sent one after the other, without being copied together.
    Pieces { pieces: VecDeque<Bytes>, left: u64 },
    Stream {
        stream: Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>,
        /// What is left of the last item.
        rest: Bytes,
    },
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self::pieces(VecDeque::new())
    }

    /// Pieces that together are the body; its length is known to the client.
    pub fn pieces(pieces: impl Into<VecDeque<Bytes>>) -> Self {
        let pieces: VecDeque<Bytes> = pieces.into();
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Kind::Pieces { pieces, left }.into()
    }

    /// A body that comes as it is made; an error in it cuts the connection, so that nobody takes the part for the whole.
    pub fn stream<S, E>(stream: S) -> Self
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        Kind::Stream { stream: Box::pin(stream.map(|item| item.map_err(Into::into))), rest: Bytes::new() }.into()
    }

    /// The same body, which keeps `guard` until its last byte has left or it is given up: what counts it against a budget.
    #[must_use]
    pub fn holding(mut self, guard: impl Send + Sync + 'static) -> Self {
        self.guards.push(Box::new(guard));
        self
    }

    /// Whether frames may be large, because the peer takes them fast.
    pub(crate) fn set_fast(&mut self, is_fast: bool) {
        self.is_fast = is_fast;
    }

    /// What it holds, for whoever sends it.
    pub(crate) fn take_guards(&mut self) -> Guards {
        std::mem::take(&mut self.guards)
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self { kind, guards: Vec::new(), is_fast: false }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            Kind::Pieces { left, .. } => write!(formatter, "Body({left} bytes)"),
            Kind::Stream { .. } => formatter.write_str("Body(stream)"),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::pieces([bytes])
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

/// The next frame of a piece. Of a large one it is a copy, so that a peer that never takes the last frame does not keep all.
fn take_frame(piece: &mut Bytes, is_fast: bool) -> Bytes {
    let bytes_max = if is_fast { FAST_FRAME_BYTES } else { FRAME_BYTES };
    if piece.len() <= SHARED_BYTES_MAX {
        return piece.split_to(piece.len().min(bytes_max));
    }
    let frame = Bytes::copy_from_slice(&piece[..bytes_max]);
    piece.advance(bytes_max);
    frame
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let is_fast = self.is_fast;
        match &mut self.kind {
            Kind::Pieces { pieces, left } => loop {
                match pieces.pop_front() {
                    None => return Poll::Ready(None),
                    Some(piece) if piece.is_empty() => {}
                    Some(mut piece) => {
                        let frame = take_frame(&mut piece, is_fast);
                        if !piece.is_empty() {
                            pieces.push_front(piece);
                        }
                        *left -= frame.len() as u64;
                        return Poll::Ready(Some(Ok(Frame::data(frame))));
                    }
                }
            },
            Kind::Stream { stream, rest } => {
                if rest.is_empty() {
                    match ready!(stream.poll_next_unpin(context)) {
                        Some(Ok(item)) => *rest = item,
                        Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                        None => return Poll::Ready(None),
                    }
                }
                Poll::Ready(Some(Ok(Frame::data(take_frame(rest, is_fast)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.kind, Kind::Pieces { left: 0, .. })
    }

    fn size_hint(&self) -> SizeHint {
        match self.kind {
            Kind::Pieces { left, .. } => SizeHint::with_exact(left),
            Kind::Stream { .. } => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_large_piece_is_handed_on_in_frames_of_which_the_first_do_not_keep_it() {
        let large = SHARED_BYTES_MAX + FRAME_BYTES + 3;
        let piece: Bytes = (0..large).map(|number| (number % 251) as u8).collect::<Vec<_>>().into();
        let streamed = [Ok::<_, std::io::Error>(piece.clone()), Ok(Bytes::from_static(b"end"))];
        let bodies =
            [Body::pieces([piece.clone(), Bytes::from_static(b"end")]), Body::stream(futures::stream::iter(streamed))];
        assert_eq!(hyper::body::Body::size_hint(&bodies[0]).exact(), Some(piece.len() as u64 + 3));
        for mut body in bodies {
            let (mut lengths, mut bytes, mut shared) = (Vec::new(), Vec::new(), 0);
            while let Some(frame) = body.frame().await {
                let data = frame.unwrap().into_data().unwrap();
                lengths.push(data.len());
                bytes.extend_from_slice(&data);
                shared += usize::from(piece.as_ptr_range().contains(&data.as_ptr()));
            }
            assert_eq!(bytes, [&piece[..], b"end"].concat());
            assert!(lengths.iter().all(|length| *length <= FRAME_BYTES), "{lengths:?}");
            assert_eq!((lengths.len(), shared), (7, SHARED_BYTES_MAX / FRAME_BYTES), "{lengths:?}");
        }
    }
    #[tokio::test]
    async fn a_peer_that_takes_frames_fast_gets_them_as_large_as_pieces_are() {
        let mut body = Body::pieces(vec![Bytes::from(vec![0; SHARED_BYTES_MAX]); 2]);
        let mut lengths = Vec::new();
        while let Some(frame) = body.frame().await {
            lengths.push(frame.unwrap().into_data().unwrap().len());
            body.set_fast(lengths.len() == 2);
        }
        assert_eq!(lengths[..4], [FRAME_BYTES, FRAME_BYTES, SHARED_BYTES_MAX - 2 * FRAME_BYTES, FRAME_BYTES]);
    }
}
