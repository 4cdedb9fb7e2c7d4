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
const FRAME_BYTES_MAX: usize = 16 * 1024;

/// A piece up to this size waits whole for a peer that takes only the beginning of its last frame.
const SHARED_BYTES_MAX: usize = 64 * 1024;

/// The body of an answer: nothing, some pieces of shared bytes, or a stream.
pub struct Body {
    kind: Kind,
    guards: Guards,
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

    /// What it holds, for whoever sends it.
    pub(crate) fn take_guards(&mut self) -> Guards {
        std::mem::take(&mut self.guards)
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self { kind, guards: Vec::new() }
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
fn take_frame(piece: &mut Bytes) -> Bytes {
    if piece.len() <= SHARED_BYTES_MAX {
        return piece.split_to(piece.len().min(FRAME_BYTES_MAX));
    }
    let frame = Bytes::copy_from_slice(&piece[..FRAME_BYTES_MAX]);
    piece.advance(FRAME_BYTES_MAX);
    frame
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.kind {
            Kind::Pieces { pieces, left } => loop {
                match pieces.pop_front() {
                    None => return Poll::Ready(None),
                    Some(piece) if piece.is_empty() => {}
                    Some(mut piece) => {
                        let frame = take_frame(&mut piece);
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
                Poll::Ready(Some(Ok(Frame::data(take_frame(rest)))))
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
        let large = SHARED_BYTES_MAX + FRAME_BYTES_MAX + 3;
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
            assert!(lengths.iter().all(|length| *length <= FRAME_BYTES_MAX), "{lengths:?}");
            assert_eq!((lengths.len(), shared), (7, SHARED_BYTES_MAX / FRAME_BYTES_MAX), "{lengths:?}");
        }
    }
}
