//! The engine on SQLite: one table of rows in a file with a write-ahead log, held by this process alone.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OptionalExtension};

use super::{Batch, Engine, EngineError, RowVisitor};

/// The index holds every object already, so the engine's own cache only serves the tree's inner pages.
const CACHE_KIB: i64 = 1024;

/// A burst may grow the log; afterwards it goes back to this.
const LOG_BYTES: i64 = 8 << 20;

/// Both tables hold what the store encoded; SQLite knows nothing of it but the revision.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS rows (revision INTEGER PRIMARY KEY, row BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS meta (only_row INTEGER PRIMARY KEY CHECK (only_row = 0), meta BLOB NOT NULL);";

/// One SQLite file. After a failure of the disk it is opened again, so that nothing cached outlives what was lost.
pub(crate) struct SqliteEngine {
    path: PathBuf,
    connection: Option<Connection>,
}

impl SqliteEngine {
    /// Opens or creates `path`; after a crash the log is replayed.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let mut engine = Self { path: path.to_path_buf(), connection: None };
        let connection = engine.connection()?;
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        // A store on a full disk must still open, so an existing one is not written to.
        if tables < 2 {
            connection.execute_batch(TABLES)?;
        }
        Ok(engine)
    }

    fn connection(&mut self) -> Result<&mut Connection, EngineError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.path)?,
        };
        Ok(self.connection.insert(connection))
    }

    fn try_commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        let transaction = self.connection()?.transaction()?;
        {
            let mut put = transaction.prepare_cached("INSERT INTO rows (revision, row) VALUES (?, ?)")?;
            for (revision, row) in &batch.puts {
                put.execute((sql_integer(*revision)?, row))?;
            }
            let mut remove = transaction.prepare_cached("DELETE FROM rows WHERE revision = ?")?;
            for revision in &batch.removes {
                remove.execute([sql_integer(*revision)?])?;
            }
            if let Some(meta) = &batch.meta {
                transaction.execute("REPLACE INTO meta (only_row, meta) VALUES (0, ?)", [meta])?;
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Engine for SqliteEngine {
    fn visit(&mut self, visitor: RowVisitor<'_>) -> Result<(), EngineError> {
        let mut select = self.connection()?.prepare("SELECT revision, row FROM rows ORDER BY revision")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let revision: i64 = row.get(0)?;
            let bytes = row.get_ref(1)?.as_blob().map_err(|error| EngineError::Io(error.to_string()))?;
            // A negative revision is no row of ours; as the largest number it is told as damaged.
            if !visitor(u64::try_from(revision).unwrap_or(u64::MAX), bytes) {
                break;
            }
        }
        Ok(())
    }

    fn meta(&mut self) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.connection()?.query_row("SELECT meta FROM meta", [], |row| row.get(0)).optional()?)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        self.try_commit(batch).inspect_err(|error| {
            // A full disk rolls the transaction back and SQLite goes on; anything else is read again from the disk.
            if !matches!(error, EngineError::Full) {
                self.connection = None;
            }
        })
    }

    fn disk_bytes(&self) -> u64 {
        let log = self.path.with_extension("sqlite-wal");
        [&self.path, &log].into_iter().map(|path| fs::metadata(path).map_or(0, |metadata| metadata.len())).sum()
    }
}

fn connect(path: &Path) -> Result<Connection, EngineError> {
    let connection = Connection::open(path)?;
    // Exclusive first: the log then needs no shared memory, and a second process is refused.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Full: a commit is on the disk when it returns.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    Ok(connection)
}

fn sql_integer(revision: u64) -> Result<i64, EngineError> {
    i64::try_from(revision).map_err(|_| EngineError::Io("revisions are used up".into()))
}

impl From<rusqlite::Error> for EngineError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseBusy) => Self::Io("another process has the store open".into()),
            _ => Self::Io(error.to_string()),
        }
    }
}
