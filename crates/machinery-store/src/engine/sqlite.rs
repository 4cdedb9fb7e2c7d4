//! The engine on SQLite: one table of rows in a file with a write-ahead log, locked by this process alone.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OptionalExtension};

use super::{Batch, Engine, EngineError, RowVisitor};

mod log;

pub(crate) use log::LogFault;

/// The index holds every object already, so the engine's own cache only serves the tree's inner pages.
const CACHE_KIB: i64 = 1024;

/// A burst may grow the log; afterwards it is truncated to this. It is copied into the file whenever it has 4 MB, so it
/// grows by one commit group more at most.
const LOG_BYTES: i64 = 8 << 20;

/// Pages that are given back in one step, so that the step needs little space in the log: 1 MiB.
const GIVE_BACK_PAGES: u32 = 256;

/// Both tables hold what the store encoded; SQLite knows nothing of it but the revision.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS rows (revision INTEGER PRIMARY KEY, row BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS meta (only_row INTEGER PRIMARY KEY CHECK (only_row = 0), meta BLOB NOT NULL);";

/// One SQLite file. After a failure of the disk it is opened again, so that nothing cached outlives what was lost.
pub(crate) struct SqliteEngine {
    path: PathBuf,
    connection: Option<Connection>,
    log_fault: Option<LogFault>,
}

impl SqliteEngine {
    /// Opens or creates `path`; after a crash the log is replayed.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let mut engine = Self::connected(path)?;
        // A store on a full disk must still open, so an existing one is not written to.
        if !engine.has_tables()? {
            engine.connection()?.execute_batch(TABLES)?;
        }
        Ok(engine)
    }

    /// Opens what an earlier start has made; `None` when it is not there any more.
    pub fn open_existing(path: &Path) -> Result<Option<Self>, EngineError> {
        // Before SQLite looks: it takes a file of no bytes for a new one, and removes the log beside it.
        match fs::metadata(path) {
            Ok(metadata) if metadata.len() > 0 => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(EngineError::Io(error.to_string())),
        }
        let mut engine = Self::connected(path)?;
        Ok(engine.has_tables()?.then_some(engine))
    }

    fn connected(path: &Path) -> Result<Self, EngineError> {
        for path in [path, &log_of(path)] {
            keep_private(path, path.extension().is_some_and(|extension| extension == "sqlite"))?;
        }
        let log = log_of(path);
        let log_fault =
            log::fault(&log).map_err(|error| EngineError::Io(format!("failed to read {}: {error}", log.display())))?;
        let mut engine = Self { path: path.to_path_buf(), connection: None, log_fault };
        engine.connection()?;
        Ok(engine)
    }

    fn has_tables(&mut self) -> Result<bool, EngineError> {
        let tables: i64 = self.connection()?.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        Ok(tables >= 2)
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
            let mut remove_range = transaction.prepare_cached("DELETE FROM rows WHERE revision BETWEEN ? AND ?")?;
            for range in &batch.uncertain {
                remove_range.execute([sql_integer(*range.start())?, sql_integer(*range.end())?])?;
            }
            let mut remove = transaction.prepare_cached("DELETE FROM rows WHERE revision = ?")?;
            let mut put = transaction.prepare_cached("INSERT INTO rows (revision, row) VALUES (?, ?)")?;
            for (revision, row) in &batch.puts {
                put.execute((sql_integer(*revision)?, row))?;
            }
            let mut rewrite = transaction.prepare_cached("UPDATE rows SET row = ?2 WHERE revision = ?1")?;
            for (revision, row) in &batch.rewrites {
                rewrite.execute((sql_integer(*revision)?, row))?;
            }
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
            // A negative revision is no row of ours; as the largest number it is reported as damaged.
            if !visitor(u64::try_from(revision).unwrap_or(u64::MAX), bytes) {
                break;
            }
        }
        Ok(())
    }

    fn row(&mut self, revision: u64) -> Result<Option<Vec<u8>>, EngineError> {
        let mut select = self.connection()?.prepare_cached("SELECT row FROM rows WHERE revision = ?")?;
        Ok(select.query_row([sql_integer(revision)?], |row| row.get(0)).optional()?)
    }

    fn meta(&mut self) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.connection()?.query_row("SELECT meta FROM meta", [], |row| row.get(0)).optional()?)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        self.try_commit(batch).inspect_err(|error| {
            // A full disk rolls the transaction back and SQLite continues; anything else is read again from the disk.
            if !matches!(error, EngineError::Full) {
                self.connection = None;
            }
        })
    }

    fn give_back(&mut self) -> Result<(), EngineError> {
        let connection = self.connection()?;
        loop {
            let before = free_pages(connection)?;
            if before == 0 {
                break;
            }
            let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({GIVE_BACK_PAGES})"))?;
            let mut steps = vacuum.query([])?;
            while steps.next()?.is_some() {}
            drop(steps);
            drop(vacuum);
            truncate_log(connection)?;
            // A file of before has no map of its pages and stays as large as it is; its free pages are used again.
            if free_pages(connection)? >= before {
                break;
            }
        }
        truncate_log(connection)
    }

    fn scrub(&mut self) -> Result<(), EngineError> {
        let connection = self.connection()?;
        connection.execute_batch("VACUUM")?;
        truncate_log(connection)
    }

    fn log_fault(&self) -> Option<LogFault> {
        self.log_fault
    }

    fn disk_bytes(&self) -> u64 {
        let log = log_of(&self.path);
        [&self.path, &log].into_iter().map(|path| fs::metadata(path).map_or(0, |metadata| metadata.len())).sum()
    }
}

fn log_of(path: &Path) -> PathBuf {
    path.with_extension("sqlite-wal")
}

/// Makes a file readable for its owner alone, whatever the umask. SQLite gives its log the mode of the file.
fn keep_private(path: &Path, creates: bool) -> Result<(), EngineError> {
    let opened = File::options().append(true).create(creates).mode(0o600).open(path);
    match opened.and_then(|file| file.set_permissions(Permissions::from_mode(0o600))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !creates => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(EngineError::Full),
        Err(error) => Err(EngineError::Io(format!("failed to make {} private: {error}", path.display()))),
        Ok(()) => Ok(()),
    }
}

fn free_pages(connection: &Connection) -> Result<i64, EngineError> {
    Ok(connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?)
}

/// Copies the log into the file and leaves it empty.
fn truncate_log(connection: &Connection) -> Result<(), EngineError> {
    Ok(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
}

fn connect(path: &Path) -> Result<Connection, EngineError> {
    let connection = Connection::open(path)?;
    // Exclusive first: the log then needs no shared memory, and a second process is rejected.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    // Before anything is written: a new file keeps a map of its pages, so that it can become smaller. Only a new one is
    // set so: SQLite would write the setting into one that has it, and on a full disk it must open without a write.
    if connection.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0))? == 0 {
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    // What is removed is overwritten, so that a Secret does not stay in free pages.
    connection.pragma_update(None, "secure_delete", "ON")?;
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

#[cfg(test)]
mod tests;
