//! The watch cache window of one resource: its recent changes, oldest first.
//!
//! They are kept in chunks that are shared and copied on write, so a reader takes what it needs under a brief lock, a few
//! hundred references for the longest window, and goes through it without one.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::types::{Change, Revision};

/// A chunk is closed at this many changes or bytes, whichever comes first. A reader that holds one keeps no more than that
/// alive after the window has moved on.
const CHUNK_CHANGES_MAX: usize = 256;
const CHUNK_BYTES_MAX: usize = 256 << 10;

/// A change and when it happened.
#[derive(Clone)]
pub(crate) struct Logged {
    pub change: Arc<Change>,
    pub time_ms: u64,
}

/// Some changes in order.
pub(crate) type Chunk = Arc<VecDeque<Logged>>;

#[derive(Default)]
pub(crate) struct History {
    /// None is empty.
    chunks: VecDeque<Chunk>,
    len: usize,
    bytes: usize,
    /// Bytes of the last chunk.
    chunk_bytes: usize,
}

impl History {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn oldest(&self) -> Option<&Logged> {
        self.chunks.front()?.front()
    }

    /// The revision of the newest change.
    pub fn newest(&self) -> Option<Revision> {
        Some(self.chunks.back()?.back()?.change.revision)
    }

    pub fn push(&mut self, change: Arc<Change>, time_ms: u64) {
        let cost = change.kept_bytes();
        let is_closed = |chunk: &Chunk| chunk.len() >= CHUNK_CHANGES_MAX || self.chunk_bytes + cost > CHUNK_BYTES_MAX;
        if self.chunks.back().is_none_or(is_closed) {
            self.chunks.push_back(Chunk::default());
            self.chunk_bytes = 0;
        }
        self.len += 1;
        self.bytes += cost;
        self.chunk_bytes += cost;
        let chunk = self.chunks.back_mut().expect("one was added when there was none");
        Arc::make_mut(chunk).push_back(Logged { change, time_ms });
    }

    pub fn pop_oldest(&mut self) -> Option<Arc<Change>> {
        let chunk = self.chunks.front_mut()?;
        let oldest = Arc::make_mut(chunk).pop_front()?;
        if chunk.is_empty() {
            self.chunks.pop_front();
        }
        self.len -= 1;
        self.bytes -= oldest.change.kept_bytes();
        Some(oldest.change)
    }

    /// The changes after a revision, oldest first.
    pub fn after(&self, revision: Revision) -> impl Iterator<Item = &Arc<Change>> {
        self.chunks.range(self.chunk_after(revision)..).flat_map(move |chunk| after(chunk, revision))
    }

    /// At most `count` chunks with the changes after a revision, to be read with [`after`] without a lock. Whether they are
    /// all that there are.
    pub fn chunks_after(&self, revision: Revision, count: usize) -> (Vec<Chunk>, bool) {
        let mut chunks = self.chunks.range(self.chunk_after(revision)..);
        let taken = chunks.by_ref().take(count).cloned().collect();
        (taken, chunks.len() == 0)
    }

    fn chunk_after(&self, revision: Revision) -> usize {
        self.chunks.partition_point(|chunk| chunk.back().is_some_and(|newest| newest.change.revision <= revision))
    }
}

/// The changes of a chunk after a revision.
pub(crate) fn after(chunk: &Chunk, revision: Revision) -> impl Iterator<Item = &Arc<Change>> {
    let start = chunk.partition_point(|logged| logged.change.revision <= revision);
    chunk.range(start..).map(|logged| &logged.change)
}

#[cfg(test)]
mod tests;
