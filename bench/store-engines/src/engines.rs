//! The three engines behind what the store asks of one: an ordered map from revision to row with durable batches.

use std::path::Path;

use anyhow::Result;

/// What is compared. All use a small cache, because the store keeps every object in memory itself.
pub trait Engine: Send + Sync {
    /// Puts and removes rows; durable when it returns.
    fn commit(&self, puts: &[(u64, Vec<u8>)], removes: &[u64]) -> Result<()>;

    /// Walks all rows as one snapshot.
    fn visit(&self, row: &mut dyn FnMut(u64, &[u8])) -> Result<()>;
}

/// Names of the engines that are built in.
pub const NAMES: &[&str] = &[
    #[cfg(feature = "fjall")]
    "fjall",
    #[cfg(feature = "redb")]
    "redb",
    #[cfg(feature = "sqlite")]
    "sqlite",
];

/// Opens or creates an engine's files in a folder.
pub fn open(name: &str, dir: &Path) -> Result<Box<dyn Engine>> {
    let engine: Box<dyn Engine> = match name {
        #[cfg(feature = "fjall")]
        "fjall" => Box::new(with_fjall::Rows::open(dir)?),
        #[cfg(feature = "redb")]
        "redb" => Box::new(with_redb::Rows::open(dir)?),
        #[cfg(feature = "sqlite")]
        "sqlite" => Box::new(with_sqlite::Rows::open(dir)?),
        other => anyhow::bail!("there is no engine named {other} in this build ({})", dir.display()),
    };
    // Not every engine syncs the name of a new file; the store does it for them.
    std::fs::File::open(dir)?.sync_all()?;
    Ok(engine)
}

#[cfg(feature = "fjall")]
mod with_fjall {
    use super::{Engine, Path, Result};
    use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

    pub struct Rows {
        database: Database,
        rows: Keyspace,
    }

    impl Rows {
        pub fn open(dir: &Path) -> Result<Self> {
            let database = Database::builder(dir.join("fjall")).cache_size(2 << 20).worker_threads(1).open()?;
            let rows = database.keyspace("rows", || KeyspaceCreateOptions::default().max_memtable_size(4 << 20))?;
            Ok(Self { database, rows })
        }
    }

    impl Engine for Rows {
        fn commit(&self, puts: &[(u64, Vec<u8>)], removes: &[u64]) -> Result<()> {
            let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
            for (revision, row) in puts {
                batch.insert(&self.rows, revision.to_be_bytes(), row.as_slice());
            }
            for revision in removes {
                batch.remove(&self.rows, revision.to_be_bytes());
            }
            Ok(batch.commit()?)
        }

        fn visit(&self, row: &mut dyn FnMut(u64, &[u8])) -> Result<()> {
            for entry in self.database.snapshot().iter(&self.rows) {
                let (key, value) = entry.into_inner()?;
                row(u64::from_be_bytes(key.as_ref().try_into()?), &value);
            }
            Ok(())
        }
    }
}

#[cfg(feature = "redb")]
mod with_redb {
    use super::{Engine, Path, Result};
    use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

    const ROWS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rows");

    pub struct Rows(Database);

    impl Rows {
        pub fn open(dir: &Path) -> Result<Self> {
            let database = Database::builder().set_cache_size(2 << 20).create(dir.join("rows.redb"))?;
            let transaction = database.begin_write()?;
            transaction.open_table(ROWS)?;
            transaction.commit()?;
            Ok(Self(database))
        }
    }

    impl Engine for Rows {
        fn commit(&self, puts: &[(u64, Vec<u8>)], removes: &[u64]) -> Result<()> {
            let transaction = self.0.begin_write()?;
            {
                let mut rows = transaction.open_table(ROWS)?;
                for (revision, row) in puts {
                    rows.insert(revision, row.as_slice())?;
                }
                for revision in removes {
                    rows.remove(revision)?;
                }
            }
            Ok(transaction.commit()?)
        }

        fn visit(&self, row: &mut dyn FnMut(u64, &[u8])) -> Result<()> {
            let rows = self.0.begin_read()?.open_table(ROWS)?;
            for entry in rows.iter()? {
                let (revision, bytes) = entry?;
                row(revision.value(), bytes.value());
            }
            Ok(())
        }
    }
}

#[cfg(feature = "sqlite")]
mod with_sqlite {
    use super::{Engine, Path, Result};
    use rusqlite::Connection;
    use std::path::PathBuf;
    use std::sync::Mutex;

    /// A connection that writes; a list opens one of its own unless the file is held exclusively.
    pub struct Rows {
        path: PathBuf,
        writer: Mutex<Connection>,
        exclusive: bool,
    }

    fn connect(path: &Path, exclusive: bool) -> Result<Connection> {
        let connection = Connection::open(path)?;
        if exclusive {
            connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        }
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "cache_size", -2048)?;
        Ok(connection)
    }

    impl Rows {
        pub fn open(dir: &Path) -> Result<Self> {
            let path = dir.join("rows.sqlite");
            // The forgetful disk has no memory maps, which a shared WAL needs.
            let exclusive = std::env::var_os("SQLITE_EXCLUSIVE").is_some();
            let writer = connect(&path, exclusive)?;
            writer.execute("CREATE TABLE IF NOT EXISTS rows (revision INTEGER PRIMARY KEY, row BLOB NOT NULL)", [])?;
            Ok(Self { path, writer: Mutex::new(writer), exclusive })
        }
    }

    impl Engine for Rows {
        fn commit(&self, puts: &[(u64, Vec<u8>)], removes: &[u64]) -> Result<()> {
            let mut writer = self.writer.lock().expect("no panic happens while it is locked");
            let transaction = writer.transaction()?;
            {
                let mut put = transaction.prepare_cached("INSERT INTO rows (revision, row) VALUES (?, ?)")?;
                for (revision, row) in puts {
                    put.execute((*revision as i64, row))?;
                }
                let mut remove = transaction.prepare_cached("DELETE FROM rows WHERE revision = ?")?;
                for revision in removes {
                    remove.execute([*revision as i64])?;
                }
            }
            Ok(transaction.commit()?)
        }

        fn visit(&self, row: &mut dyn FnMut(u64, &[u8])) -> Result<()> {
            let own;
            let writer;
            let connection = if self.exclusive {
                writer = self.writer.lock().expect("no panic happens while it is locked");
                &*writer
            } else {
                own = connect(&self.path, false)?;
                &own
            };
            let mut select = connection.prepare("SELECT revision, row FROM rows ORDER BY revision")?;
            let mut found = select.query([])?;
            while let Some(entry) = found.next()? {
                row(entry.get::<_, i64>(0)? as u64, entry.get_ref(1)?.as_blob()?);
            }
            Ok(())
        }
    }
}
