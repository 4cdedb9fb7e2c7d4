//! The engine on redb: one copy-on-write B-tree file.

use std::fs;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::{Batch, Engine, EngineError, RowVisitor};

const ROWS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rows");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const META_KEY: &str = "meta";

/// The index holds every object already, so the engine's own cache only serves the tree's inner pages.
const CACHE_BYTES: usize = 2 << 20;

/// One redb file, opened again after each failure because redb refuses work after one.
pub(crate) struct RedbEngine {
    path: PathBuf,
    database: Option<Database>,
}

impl RedbEngine {
    /// Opens or creates `path`; repairs it after a crash.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let mut engine = Self { path: path.to_path_buf(), database: None };
        // A store on a full disk must still open, so an existing one is not written to.
        let found = engine.database()?.begin_read()?.open_table(META);
        match found {
            Ok(_) => {}
            Err(TableError::TableDoesNotExist(_)) => {
                let transaction = engine.database()?.begin_write()?;
                transaction.open_table(ROWS)?;
                transaction.open_table(META)?;
                transaction.commit()?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(engine)
    }

    fn database(&mut self) -> Result<&Database, EngineError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => Database::builder().set_cache_size(CACHE_BYTES).create(&self.path)?,
        };
        Ok(self.database.insert(database))
    }

    fn try_commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        let transaction = self.database()?.begin_write()?;
        {
            let mut rows = transaction.open_table(ROWS)?;
            for (revision, row) in &batch.puts {
                rows.insert(revision, row.as_slice())?;
            }
            for revision in &batch.removes {
                rows.remove(revision)?;
            }
            if let Some(meta) = &batch.meta {
                transaction.open_table(META)?.insert(META_KEY, meta.as_slice())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

impl Engine for RedbEngine {
    fn visit(&mut self, visitor: RowVisitor<'_>) -> Result<(), EngineError> {
        let rows = self.database()?.begin_read()?.open_table(ROWS)?;
        for row in rows.iter()? {
            let (revision, bytes) = row?;
            if !visitor(revision.value(), bytes.value()) {
                break;
            }
        }
        Ok(())
    }

    fn meta(&mut self) -> Result<Option<Vec<u8>>, EngineError> {
        let meta = self.database()?.begin_read()?.open_table(META)?;
        Ok(meta.get(META_KEY)?.map(|bytes| bytes.value().to_vec()))
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        self.try_commit(batch).inspect_err(|_| self.database = None)
    }

    fn disk_bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }
}

macro_rules! engine_error_from {
    ($($error:ty),*) => {$(
        impl From<$error> for EngineError {
            fn from(error: $error) -> Self {
                match redb::Error::from(error) {
                    redb::Error::Io(error) => error.into(),
                    other => Self::Io(other.to_string()),
                }
            }
        }
    )*};
}

engine_error_from!(
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError
);
