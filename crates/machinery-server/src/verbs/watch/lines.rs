//! What a watch sends: lines, of which large objects are not copied into any.
//!
//! Whoever opens many watches of a large object and reads none would otherwise have it in memory once for each of them.

use std::collections::VecDeque;

use base_http::BodyPermit;
use bytes::{Bytes, BytesMut};

/// Objects from this size on are sent as the very bytes that the store has.
const SHARED_BYTES_MIN: usize = 16 * 1024;

/// Lines in the making.
#[derive(Default)]
pub(super) struct Lines {
    pieces: VecDeque<Bytes>,
    /// What comes after the pieces, and grows.
    open: BytesMut,
    bytes: usize,
}

/// Lines on their way to the client.
#[derive(Default)]
pub(super) struct Sent {
    pieces: VecDeque<Bytes>,
    last: Bytes,
    /// Counts them until the client has taken them.
    held: Option<BodyPermit>,
}

impl Lines {
    /// Bytes of all of them.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, kind: &str, object: &Bytes) {
        const WORDS: [&[u8]; 3] = [br#"{"type":""#, br#"","object":"#, b"}\n"];
        self.bytes += WORDS.iter().map(|word| word.len()).sum::<usize>() + kind.len() + object.len();
        let is_shared = object.len() >= SHARED_BYTES_MIN;
        self.open.reserve(if is_shared { 0 } else { object.len() } + 40);
        self.open.extend_from_slice(WORDS[0]);
        self.open.extend_from_slice(kind.as_bytes());
        self.open.extend_from_slice(WORDS[1]);
        if is_shared {
            self.pieces.push_back(self.open.split().freeze());
            self.pieces.push_back(object.clone());
        } else {
            self.open.extend_from_slice(object);
        }
        self.open.extend_from_slice(WORDS[2]);
    }

    /// To be sent, and counted for as long.
    pub(super) fn held(self, held: Option<BodyPermit>) -> Sent {
        Sent { pieces: self.pieces, last: self.open.freeze(), held }
    }
}

impl Sent {
    /// One line.
    pub(super) fn line(kind: &str, object: String) -> Self {
        let mut lines = Lines::default();
        lines.push(kind, &object.into());
        lines.held(None)
    }

    /// The next piece. After the last one, what was held is given back: the client has taken them all.
    pub(super) fn next_piece(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front().unwrap_or_else(|| std::mem::take(&mut self.last));
        if piece.is_empty() {
            self.held = None;
            return None;
        }
        Some(piece)
    }
}
