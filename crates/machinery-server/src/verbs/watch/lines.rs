//! What a watch sends: lines, of which large objects are not copied into any.
//!
//! Whoever opens many watches of a large object and reads none would otherwise have it in memory once for each of them.

use std::collections::VecDeque;

use base_http::BodyPermit;
use bytes::{Bytes, BytesMut};

use crate::object::managed_place;

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
        self.push_with(kind, object, None);
    }

    /// An object with its `managedFields`, which are JSON already and no part of it.
    pub(super) fn push_with(&mut self, kind: &str, object: &Bytes, managed: Option<&str>) {
        const WORDS: [&[u8]; 3] = [br#"{"type":""#, br#"","object":"#, b"}\n"];
        self.open.reserve(if object.len() >= SHARED_BYTES_MIN { 0 } else { object.len() } + 40);
        self.put(WORDS[0]);
        self.put(kind.as_bytes());
        self.put(WORDS[1]);
        let mut rest = object.clone();
        if let Some((at, before, after)) = managed.and_then(|_| managed_place(object)) {
            self.put(&rest.split_to(at));
            self.put(before);
            self.put(managed.unwrap_or_default().as_bytes());
            self.put(after);
        }
        if object.len() >= SHARED_BYTES_MIN {
            self.bytes += rest.len();
            self.pieces.push_back(self.open.split().freeze());
            self.pieces.push_back(rest);
        } else {
            self.put(&rest);
        }
        self.put(WORDS[2]);
    }

    /// An event in another form than a line of JSON.
    pub(super) fn push_frame(&mut self, frame: &[u8]) {
        self.put(frame);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.open.extend_from_slice(bytes);
    }

    /// To be sent, and counted for as long.
    pub(super) fn held(self, held: Option<BodyPermit>) -> Sent {
        Sent { pieces: self.pieces, last: self.open.freeze(), held }
    }
}

impl Sent {
    /// One event in another form than a line of JSON.
    pub(super) fn frame(frame: &[u8]) -> Self {
        let mut lines = Lines::default();
        lines.push_frame(frame);
        lines.held(None)
    }

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
