//! A hub made of a backup: complete beside its place, and then renamed to it.
//!
//! | the power fails, or the process is killed | in the data directory | the next step |
//! | --- | --- | --- |
//! | before the rename | `hub.restoring`, of any content, and no `hub` | a restore begins anew; a hub does not start beside it |
//! | after it | `hub`, whole and synced | start it |

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use base_fs::{DirError, WriteFileError};
use hub_pki::OpenPkiError;
use machinery_store::{Life, Object, OpenStoreError, RestoreError, RowCipher, Store, StoreOptions, StoreRestore};

use crate::read::{ReadBackupError, Sink, read};
use crate::{Head, KeyFile};

/// Why no hub could be made of a backup. What was begun is removed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreHubError {
    /// The backup.
    #[error("the backup cannot be restored")]
    Read(#[from] ReadBackupError),
    /// A directory.
    #[error(transparent)]
    Directory(#[from] DirError),
    /// A file.
    #[error(transparent)]
    Write(#[from] WriteFileError),
    /// What an earlier restore left, or the last step.
    #[error("failed to {act} {}", path.display())]
    File {
        /// `remove`, `rename`.
        act: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The new store.
    #[error("failed to make the store of the restored hub")]
    Store(#[source] RestoreError),
    /// The hub that was made does not open.
    #[error("the restored store does not open")]
    OpenStore(#[source] OpenStoreError),
    /// The hub that was made has not the keys.
    #[error("the restored keys do not open")]
    OpenPki(#[from] OpenPkiError),
    /// The store that was made is not what it should be.
    #[error("the restored store holds {found} objects and not {expected}; nothing was put in its place")]
    Differs {
        /// What was written.
        expected: u64,
        /// What was read.
        found: u64,
    },
}

/// A hub that was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredHub {
    /// What the backup said of itself.
    pub head: Head,
    /// The life that begins.
    pub life: Life,
    /// Objects of the new hub.
    pub objects: u64,
    /// Join tokens that were left out.
    pub tokens: u64,
}

/// Where a hub is made before it is renamed to `hub_dir`.
pub fn staging_of(hub_dir: &Path) -> PathBuf {
    hub_dir.with_extension("restoring")
}

/// Makes the directory of a hub, which must not be there, of a backup. It is on the disk and has been opened once when this
/// returns; until then there is only [`staging_of`], which the next restore begins anew.
///
/// The caller holds the lock of the data directory.
///
/// # Errors
/// For the first thing that is wrong; nothing is left then.
pub fn restore(input: impl Read, hub_dir: &Path) -> Result<RestoredHub, RestoreHubError> {
    let staging = staging_of(hub_dir);
    remove(&staging)?;
    base_fs::create_private_dir_all(&staging.join("pki"))?;
    let restored = stage(input, &staging).and_then(|restored| {
        let failed = |source| RestoreHubError::File { act: "rename", path: staging.clone(), source };
        fs::rename(&staging, hub_dir).map_err(failed)?;
        Ok(restored)
    });
    match restored {
        Ok(restored) => {
            base_fs::sync_dir(hub_dir.parent().unwrap_or(Path::new("/")))?;
            Ok(restored)
        }
        Err(error) => {
            // That it stays is harmless, and the error of the restore is what matters.
            let _ = remove(&staging);
            Err(error)
        }
    }
}

fn remove(staging: &Path) -> Result<(), RestoreHubError> {
    match base_fs::remove_tree(staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RestoreHubError::File { act: "remove", path: staging.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

fn stage(input: impl Read, staging: &Path) -> Result<RestoredHub, RestoreHubError> {
    let mut sink = Staging { dir: staging, store: None, left_out: LeftOut::default() };
    let contents = read(input, &mut sink)?;
    let left_out = sink.left_out;
    let (store, cipher) = sink.store.expect("a backup that was read has a beginning");
    let life = store.finish().map_err(RestoreHubError::Store)?;
    // What the next start does, while there is still somebody to see it fail.
    hub_pki::Pki::open(&staging.join("pki"), SystemTime::now())?;
    hub_pki::token_key(&staging.join(KeyFile::Tokens.path()))?;
    let options = StoreOptions { cipher: Some(cipher), ..StoreOptions::default() };
    let opened = Store::open(&staging.join("store"), options).map_err(RestoreHubError::OpenStore)?;
    let found = opened.usage().objects as u64;
    opened.close();
    let expected = contents.head.store.objects - left_out.tokens - left_out.leases;
    if found != expected {
        return Err(RestoreHubError::Differs { expected, found });
    }
    base_fs::sync_dir(&staging.join("pki"))?;
    base_fs::sync_dir(staging)?;
    Ok(RestoredHub { head: contents.head, life, objects: found, tokens: left_out.tokens })
}

/// Objects that do not belong into another life.
#[derive(Default)]
struct LeftOut {
    leases: u64,
    tokens: u64,
}

impl LeftOut {
    fn keeps(&mut self, object: &Object) -> bool {
        let key = &object.key;
        match (&*key.resource, &*key.namespace) {
            ("coordination.k8s.io/leases", "kube-node-lease") => self.leases += 1,
            // By the name: whatever has one may be used as a token.
            ("/secrets", "kube-system") if key.name.starts_with("bootstrap-token-") => self.tokens += 1,
            _ => return true,
        }
        false
    }
}

/// Writes what is read below one directory.
struct Staging<'a> {
    dir: &'a Path,
    store: Option<(StoreRestore, Arc<dyn RowCipher>)>,
    left_out: LeftOut,
}

impl Sink for Staging<'_> {
    fn key(&mut self, file: KeyFile, bytes: &[u8]) -> Result<(), RestoreHubError> {
        Ok(base_fs::write_private(&self.dir.join(file.path()), bytes)?)
    }

    fn begin(&mut self, head: &Head, cipher: &Arc<dyn RowCipher>) -> Result<(), RestoreHubError> {
        let store = StoreRestore::create(&self.dir.join("store"), head.store.clone(), Some(cipher.clone()));
        self.store = Some((store.map_err(RestoreHubError::Store)?, cipher.clone()));
        Ok(())
    }

    fn rows(&mut self, rows: &[u8]) -> Result<(), RestoreHubError> {
        let (store, _) = self.store.as_mut().expect("rows come after the beginning");
        store.add(rows, &mut |object| self.left_out.keeps(object)).map_err(RestoreHubError::Store)
    }
}
