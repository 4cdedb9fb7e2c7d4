//! Other index fields for objects that are stored.
//!
//! A later program extracts fields that the rows of an earlier one do not have, and finds nothing by them. Only those who
//! know the rules can extract them, so they hand the fields in ([`Store::reindex`](crate::Store::reindex)); here they are
//! put into the index and into the rows. An object stays at its revision and its row keeps its place and its time, so
//! nobody who watches or lists sees that anything happened.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::codec;
use crate::engine::{Engine, EngineError};
use crate::error::CommitError;
use crate::queue::Reindex;
use crate::types::{ChangeKind, Object};
use crate::writer::Writer;

impl<E: Engine> Writer<E> {
    pub(crate) fn reindex(&mut self, request: Reindex) {
        let Reindex { fields, version, answer, .. } = request;
        let index = self.shared.read();
        let objects: Vec<Arc<Object>> = fields
            .into_iter()
            .filter_map(|(key, revision, fields)| {
                let object = index.get(&key).filter(|object| object.revision == revision)?;
                Some(Arc::new(Object { index: fields, ..Object::clone(object) }))
            })
            .collect();
        drop(index);
        // Shown first, whatever the disk says: on a full disk objects are found by their fields as well.
        let mut index = self.shared.write();
        for object in &objects {
            index.kind_mut(&object.key.resource).restore(ChangeKind::Put, object);
        }
        drop(index);
        let result = self.rewrite(&objects, version).map_err(|error| match error {
            EngineError::Full => CommitError::Full,
            EngineError::Io(reason) => CommitError::Io(reason),
        });
        // A caller that does not wait any more has dropped its end.
        let _ = answer.send(result);
    }

    fn rewrite(&mut self, objects: &[Arc<Object>], version: Option<u32>) -> Result<(), EngineError> {
        if self.reserve.is_used() {
            // The space that is left is for deletions.
            return Err(EngineError::Full);
        }
        // What waits goes first: a row that is not on the disk cannot be rewritten there.
        self.flush(&mut [])?;
        let cipher = self.cipher.clone();
        let mut rewrites = Vec::with_capacity(objects.len());
        for object in objects {
            let revision = object.revision;
            let Some(row) = self.engine.row(revision.0)? else { continue };
            let damaged =
                |reason: String| EngineError::Io(format!("the row of {} cannot be rewritten: {reason}", object.key));
            let row =
                codec::decode_row(revision, &row, cipher.as_deref()).map_err(|error| damaged(error.to_string()))?;
            let row = codec::encode_row(row.kind, row.time_ms, row.previous, object, cipher.as_deref())
                .map_err(|error| damaged(error.to_string()))?;
            rewrites.push((revision.0, row));
        }
        let recorded = self.meta.index_version;
        self.pending.rewrites = rewrites;
        if let Some(version) = version {
            self.meta.index_version = version;
            self.meta_due = true;
        }
        let result = self.flush(&mut []);
        if result.is_err() {
            // Not with the next flush: that one must not record a version that only some rows have.
            self.pending.rewrites.clear();
            self.meta.index_version = recorded;
        }
        self.shared.index_version.store(self.meta.index_version, Ordering::Relaxed);
        result
    }
}
