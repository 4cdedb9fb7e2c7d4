//! Backups of a hub: one file with its objects at one revision and the keys without which they are of no use.
//!
//! - **Where is it?** The file as bytes: `archive`. Written: [`Writer`]. Read and checked: [`check`], by `read`. A hub made of it:
//!   [`restore`].
//! - **May I touch it?** The file is a format: somebody needs it on the worst day of a year. A new form is a new [`FORMAT`], and a
//!   fixture of each is read by a test. The rows in it are `machinery-store`'s.
//! - **How do I try it?** `cargo test -p hub-backup`; `selvedge hub backup --to FILE`, then `tar tvf FILE`.
//! - **What breaks?** A backup that cannot be read is found when it is made, because what was written is read back before it gets its
//!   name, and at the latest before the first file of a restored hub has its name.
//!
//! # The file
//!
//! A tar of plain files, in this order, so that it can be written to a pipe and read from one, with one part in memory:
//!
//! ```text
//! selvedge-backup.json   format, program, time, the hub's CA, revision and epoch: `Head`
//! pki/ca.crt …           the six files of `KeyFile`: both authorities, the key of tokens, the key of Secrets
//! rows-000001 …          objects, about 1 MiB each: rows as `machinery_store::Backup` gives them
//! manifest.json          length and SHA-256 of each part before it
//! manifest.sha256        SHA-256 of the manifest, as `sha256sum` writes it
//! ```
//!
//! The manifest is last, because nobody knows it before, and because its absence shows that a file was truncated. Nothing in the file
//! is a path that is followed: a part has one of the names above, at its place, or the file is no backup. Every byte is covered by a
//! sum, or has one value that it may have.
//!
//! Not in it: readings, the audit log, settings, the administrator's certificate (a start makes another).
//!
//! # What a restored hub leaves out
//!
//! It is [another life](machinery_store::Life) of the state. Two kinds of objects would lie in it, and are left out:
//!
//! - Leases of nodes. A node knows a hub again by the uid and revision of its Lease; with a new one it takes the hub for one that may
//!   have forgotten pods, and keeps those that are missing on hold.
//! - Join tokens. One that was used up after the backup could be used again.

mod archive;
mod read;
mod restore;
mod write;

use jiff::Timestamp;
use machinery_store::BackupHead;
use serde::{Deserialize, Serialize};

pub use crate::read::{Contents, ReadBackupError, check};
pub use crate::restore::{RestoreHubError, RestoredHub, restore, staging_of};
pub use crate::write::{WriteBackupError, Writer};

/// The format that this program writes; it reads this one and all before.
pub const FORMAT: u32 = 1;

/// Resources whose rows are sealed with [`KeyFile::Secrets`].
pub const SEALED_RESOURCES: [&str; 1] = ["/secrets"];

/// Bytes of rows in one part, and one row more.
pub const ROWS_BYTES: usize = 1 << 20;

/// A part with rows: one row alone may have 64 MiB and its names.
const ROWS_BYTES_MAX: usize = 72 << 20;
/// A head, a certificate, a key.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// Some 100 GiB of rows.
const PARTS_MAX: usize = 100_000;
/// With all those parts.
const MANIFEST_BYTES_MAX: usize = 16 << 20;

const HEAD_NAME: &str = "selvedge-backup.json";
const MANIFEST_NAME: &str = "manifest.json";
const MANIFEST_SUM_NAME: &str = "manifest.sha256";

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the program that wrote it.
    pub program: String,
    /// When it was made.
    pub time: Timestamp,
    /// Which hub it is of: SHA-256 of its CA, as in join tokens.
    pub ca_sha256: String,
    /// Revision, epoch, objects.
    pub store: BackupHead,
}

/// A file of a hub's directory that is in a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFile {
    /// Certificate of the hub's CA.
    Ca,
    /// Its key.
    CaKey,
    /// Certificate of the CA of nodes' serving certificates.
    NodeServingCa,
    /// Its key.
    NodeServingCaKey,
    /// Signs tokens of service accounts.
    Tokens,
    /// Wraps the key that seals Secrets.
    Secrets,
}

impl KeyFile {
    /// All of them, as they come in a backup.
    pub const ALL: [Self; 6] =
        [Self::Ca, Self::CaKey, Self::NodeServingCa, Self::NodeServingCaKey, Self::Tokens, Self::Secrets];

    /// Its path in the hub's directory and in a backup.
    pub fn path(self) -> &'static str {
        match self {
            Self::Ca => "pki/ca.crt",
            Self::CaKey => "pki/ca.key",
            Self::NodeServingCa => "pki/node-serving-ca.crt",
            Self::NodeServingCaKey => "pki/node-serving-ca.key",
            Self::Tokens => "tokens.key",
            Self::Secrets => "secrets.key",
        }
    }
}

/// Length and sum of every part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    name: String,
    bytes: u64,
    sha256: String,
}

impl Part {
    fn of(name: &str, bytes: &[u8]) -> Self {
        Self { name: name.to_owned(), bytes: bytes.len() as u64, sha256: sha256(bytes) }
    }
}

fn rows_name(number: usize) -> String {
    format!("rows-{number:06}")
}

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What `manifest.sha256` holds.
fn manifest_sum(manifest: &[u8]) -> String {
    format!("{}  {MANIFEST_NAME}\n", sha256(manifest))
}
