//! What a handler answers with.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use futures::{Stream, StreamExt};
use hyper::body::{Frame, SizeHint};

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What is handed on in one piece: what waits for a peer's windows after its request is done.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// The body of an answer: nothing, some pieces of shared bytes, or a stream.
pub struct Body(Kind);

enum Kind {
    /// Pieces are sent one after the other, without being copied together.
    Pieces {
        pieces: VecDeque<Bytes>,
        left: u64,
    },
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>),
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
        Self(Kind::Pieces { pieces, left })
    }

    /// A body that comes as it is made; an error in it cuts the connection, so that nobody takes the part for the whole.
    pub fn stream<S, E>(stream: S) -> Self
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        Self(Kind::Stream(Box::pin(stream.map(|item| item.map_err(Into::into)))))
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Kind::Pieces { left, .. } => write!(formatter, "Body({left} bytes)"),
            Kind::Stream(_) => formatter.write_str("Body(stream)"),
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

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Pieces { pieces, left } => loop {
                match pieces.pop_front() {
                    None => return Poll::Ready(None),
                    Some(piece) if piece.is_empty() => {}
                    Some(mut piece) => {
                        if piece.len() > FRAME_BYTES_MAX {
                            // Copied, so that a peer that takes none of the last frame does not keep the whole piece.
                            let head = Bytes::copy_from_slice(&piece[..FRAME_BYTES_MAX]);
                            piece.advance(FRAME_BYTES_MAX);
                            pieces.push_front(piece);
                            piece = head;
                        }
                        *left -= piece.len() as u64;
                        return Poll::Ready(Some(Ok(Frame::data(piece))));
                    }
                }
            },
            Kind::Stream(stream) => stream.poll_next_unpin(context).map(|next| next.map(|item| item.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Pieces { left: 0, .. })
    }

    fn size_hint(&self) -> SizeHint {
        match self.0 {
            Kind::Pieces { left, .. } => SizeHint::with_exact(left),
            Kind::Stream(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_large_piece_is_handed_on_in_frames_that_do_not_keep_it() {
        let piece: Bytes = (0..FRAME_BYTES_MAX * 2 + 3).map(|number| (number % 251) as u8).collect::<Vec<_>>().into();
        let mut body = Body::pieces([piece.clone(), Bytes::from_static(b"end")]);
        assert_eq!(hyper::body::Body::size_hint(&body).exact(), Some(piece.len() as u64 + 3));
        let mut lengths = Vec::new();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            lengths.push(data.len());
            bytes.extend_from_slice(&data);
            if lengths.len() == 1 {
                assert!(!piece.as_ptr_range().contains(&data.as_ptr()), "it is a copy");
            }
        }
        assert_eq!(lengths, [FRAME_BYTES_MAX, FRAME_BYTES_MAX, 3, 3]);
        assert_eq!(bytes, [&piece[..], b"end"].concat());
        assert!(hyper::body::Body::is_end_stream(&body));
    }
}
