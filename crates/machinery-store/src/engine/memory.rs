//! An engine without a disk.

use std::collections::BTreeMap;

use super::{Batch, Engine, EngineError, RowVisitor};

/// Rows in a map. The objects are in the store's index as well; here is what a disk would have.
#[derive(Debug, Default)]
pub(crate) struct MemoryEngine {
    rows: BTreeMap<u64, Vec<u8>>,
    meta: Option<Vec<u8>>,
}

impl MemoryEngine {
    /// With rows that are there already.
    pub fn new(rows: BTreeMap<u64, Vec<u8>>, meta: Vec<u8>) -> Self {
        Self { rows, meta: Some(meta) }
    }
}

impl Engine for MemoryEngine {
    fn visit(&mut self, row: RowVisitor<'_>) -> Result<(), EngineError> {
        for (revision, bytes) in &self.rows {
            if !row(*revision, bytes) {
                break;
            }
        }
        Ok(())
    }

    fn row(&mut self, revision: u64) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.rows.get(&revision).cloned())
    }

    fn meta(&mut self) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.meta.clone())
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        for range in &batch.uncertain {
            range.clone().for_each(|revision| drop(self.rows.remove(&revision)));
        }
        self.rows.extend(batch.puts.iter().chain(&batch.rewrites).cloned());
        for revision in &batch.removes {
            self.rows.remove(revision);
        }
        if let Some(meta) = &batch.meta {
            self.meta = Some(meta.clone());
        }
        Ok(())
    }

    fn give_back(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    fn scrub(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}
