//! Versioned objects and watches: what the Kubernetes API is served from. Knows nothing of HTTP or JSON.
//!
//! **Where is it?** [`Store`] is the API. Writes are decided by one thread (`writer`, which opens with the whole story);
//! what readers see is in `index`, one `kind` per resource with its `objects` (two persistent trees, `tree`) and its window
//! of changes (`history`). `open`, `codec`, `engine` and `cipher` are the disk, `watch` and `snapshot` the two ways to read.
//!
//! **May I touch it?** Behind [`Store`] everything may change but the rows on disk: a new form of row is a new format with a
//! fixture (`tests/it/format.rs`). What must hold is in the table of promises in `writer`. New index fields cost nothing
//! here: name them in [`StoreOptions::indexed_fields`], and raise [`StoreOptions::index_version`] for rows that lack them.
//!
//! **How do I try it?** The example below; `cargo test -p machinery-store`, where `SEED=42` repeats a run and
//! `SELVEDGE_TEST_SIZE=full` makes the models and power cuts long; `cargo run --release -p machinery-store --example
//! measure` for bytes an object, writes a second, time of a list by field, time of a start.
//!
//! **What breaks?** A store is for one process, locked; an old copy of its directory gives revisions twice, a restored backup
//! ([`Store::backup`], [`StoreRestore`]) does not. A
//! closure of an [`Op`] that panics ends the writer, and with it the store. A watcher that does not read lags and lists
//! again. A full disk takes deletions only ([`Usage::full`]); a disk that fails rejects writes and is tried again every
//! second.
//!
//! All objects live in memory as encoded bytes, shared by the index, lists and watchers. The writer decides every write in
//! order, puts all that wait into one flush to the engine, and only then shows and answers them:
//!
//! ```text
//! commit ─▶ queue ─▶ writer: check, encode ─▶ engine (one fsync) ─▶ index + window ─▶ answer, wake watchers
//!                                                                       ▲
//!                                             get, range, watch ────────┘
//! ```
//!
//! On disk every object version is one row under its revision. A superseded version stays until the change that
//! superseded it leaves the watch cache window (ten minutes), so the rows are the history as well: a watch resumes after a
//! restart, and a list can be continued at the revision where it began.
//!
//! **Invariant:** what is on disk is always a prefix of the history. Lazy writes are shown before the disk has them, but
//! the disk never has a later change without them; what a crash can take from them lies in a gap that is recorded, and a
//! revision of a gap is never given again.
//!
//! ```
//! # use machinery_store::*;
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! # let dir = tempfile::tempdir().unwrap();
//! let store = Store::open(dir.path(), StoreOptions::default())?;
//! let mut watch = store.watch("/configmaps", store.current())?;
//! let key = Key::new("/configmaps", "default", "greeting");
//! let create = Op::Put {
//!     key: key.clone(),
//!     expect: Expect::Absent,
//!     encode: Box::new(|revision| Encoded { bytes: format!("hello at {revision}").into(), ..Encoded::default() }),
//! };
//! let revisions = store.commit(vec![create], Durability::Group).await?;
//! assert_eq!(store.get(&key).expect("it was just written").revision, revisions[0]);
//! assert_eq!(watch.next().await?.changes[0].object.key, key);
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

mod backup;
mod cipher;
mod codec;
mod engine;
mod error;
mod fields;
mod history;
mod index;
mod kind;
mod names;
mod objects;
mod open;
mod queue;
mod reindex;
mod reserve;
mod snapshot;
mod store;
mod tree;
mod types;
mod watch;
mod writer;

pub use crate::backup::{Backup, BackupHead, FORMAT_OF_ROWS, RestoreError, StoreRestore, begins_after, check_rows};
pub use crate::cipher::{CipherError, EnvelopeCipher, KEY_LEN, RowCipher};
pub use crate::engine::EngineError;
pub use crate::error::{CommitError, Expired, OpenStoreError, WatchEnded};
pub use crate::fields::IndexFields;
pub use crate::snapshot::Snapshot;
pub use crate::store::{Store, StoreOptions};
pub use crate::types::{
    Change, ChangeKind, Durability, Encode, EncodeFinal, Encoded, Expect, Key, Life, Object, Op, Range, Restored,
    Revision, Usage,
};
pub use crate::watch::{Batch, Watch};
