//! Reading a backup: every part at its place, each with its sum, and the keys and rows such that a hub can be made of them.

use std::io::{self, Read};
use std::sync::Arc;

use machinery_store::{CipherError, EnvelopeCipher, KEY_LEN, RestoreError, RowCipher, check_rows};
use serde::Deserialize;

use crate::archive::{Archive, ArchiveError, Entry};
use crate::restore::RestoreHubError;
use crate::{
    FORMAT, HEAD_NAME, Head, KeyFile, MANIFEST_BYTES_MAX, MANIFEST_NAME, MANIFEST_SUM_NAME, Manifest, PARTS_MAX, Part,
    ROWS_BYTES_MAX, SEALED_RESOURCES, SMALL_BYTES_MAX,
};

/// Why a file is no backup that a hub can be made of.
#[derive(Debug, thiserror::Error)]
pub enum ReadBackupError {
    /// The file or pipe.
    #[error("failed to read the backup")]
    Read(#[source] io::Error),
    /// It does not begin as one.
    #[error("it is no backup of a hub: a backup begins with {HEAD_NAME}")]
    NotABackup,
    /// A later program wrote it.
    #[error("it has format {found} of selvedge {program}, this program knows up to {known}; use the newer program")]
    Newer {
        /// The format found.
        found: u32,
        /// The newest format this program reads.
        known: u32,
        /// The version of the program that wrote it.
        program: String,
    },
    /// It is not whole.
    #[error("it ends early, after {at} bytes: it was not written or copied to its end")]
    EndsEarly {
        /// So many bytes are there.
        at: u64,
    },
    /// Something in it is not what was written.
    #[error("it is damaged before byte {at}: {what}")]
    Damaged {
        /// So many bytes were read.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// A key or certificate in it is of no use.
    #[error("{name} in it is of no use: {what}")]
    Key {
        /// Which file.
        name: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// The rows in it.
    #[error("its objects cannot be read")]
    Rows(#[source] RestoreError),
}

/// What is done with a backup while it is read. Nothing of it is known to be whole before the end.
pub(crate) trait Sink {
    fn key(&mut self, file: KeyFile, bytes: &[u8]) -> Result<(), RestoreHubError>;
    /// After the keys and before the first rows.
    fn begin(&mut self, head: &Head, cipher: &Arc<dyn RowCipher>) -> Result<(), RestoreHubError>;
    /// These may be rows of another program's or a damaged disk: they have their sum only at the end.
    fn rows(&mut self, rows: &[u8]) -> Result<(), RestoreHubError>;
}

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// What it says of itself.
    pub head: Head,
    /// Its length.
    pub bytes: u64,
}

/// Reads a whole backup and says what it holds: every sum, every key and every row was looked at, and sealed rows were opened.
///
/// # Errors
/// For the first thing that keeps a hub from being made of it.
pub fn check(input: impl Read) -> Result<Contents, ReadBackupError> {
    struct Check(Option<(Head, Arc<dyn RowCipher>)>);
    impl Sink for Check {
        fn key(&mut self, _: KeyFile, _: &[u8]) -> Result<(), RestoreHubError> {
            Ok(())
        }
        fn begin(&mut self, head: &Head, cipher: &Arc<dyn RowCipher>) -> Result<(), RestoreHubError> {
            cipher.unlock(head.store.cipher.as_deref()).map_err(secrets_error)?;
            self.0 = Some((head.clone(), cipher.clone()));
            Ok(())
        }
        fn rows(&mut self, rows: &[u8]) -> Result<(), RestoreHubError> {
            let (head, cipher) = self.0.as_ref().expect("rows come after the beginning");
            check_rows(&head.store, rows, Some(&**cipher)).map_err(ReadBackupError::Rows)?;
            Ok(())
        }
    }
    read(input, &mut Check(None)).map_err(|error| match error {
        RestoreHubError::Read(error) => error,
        other => unreachable!("a check writes nothing: {other}"),
    })
}

fn secrets_error(error: CipherError) -> ReadBackupError {
    ReadBackupError::Key { name: KeyFile::Secrets.path(), what: error.to_string() }
}

/// Reads a whole backup into a sink. What the sink has got is right when this returns.
pub(crate) fn read(input: impl Read, sink: &mut impl Sink) -> Result<Contents, RestoreHubError> {
    let mut parts = Parts { archive: Archive::new(input), seen: Vec::new() };
    let head = parts.head()?;
    let mut keys: [Vec<u8>; KeyFile::ALL.len()] = Default::default();
    for (file, bytes) in KeyFile::ALL.into_iter().zip(&mut keys) {
        *bytes = parts.part(file.path(), SMALL_BYTES_MAX)?;
    }
    let cipher = check_keys(&head, &keys)?;
    for (file, bytes) in KeyFile::ALL.into_iter().zip(&keys) {
        sink.key(file, bytes)?;
    }
    sink.begin(&head, &cipher)?;
    let mut objects = 0;
    let manifest = loop {
        let entry = parts.rows_or_manifest()?;
        if entry.name == MANIFEST_NAME {
            break entry.bytes;
        }
        objects += count_rows(&entry.bytes);
        let taken = sink.rows(&entry.bytes);
        parts.seen.push(Part::of(&entry.name, &entry.bytes));
        taken?;
    };
    parts.finish(&manifest)?;
    let expected = head.store.objects;
    if objects != expected {
        return Err(ReadBackupError::Rows(RestoreError::Count { expected, found: objects }).into());
    }
    Ok(Contents { head, bytes: parts.archive.at() })
}

/// How many rows a piece has, by their lengths alone.
fn count_rows(mut rows: &[u8]) -> u64 {
    let mut count = 0;
    while let Some((len, rest)) = rows.get(8..).and_then(|rest| rest.split_first_chunk::<4>()) {
        count += 1;
        rows = rest.get(u32::from_le_bytes(*len) as usize..).unwrap_or_default();
    }
    count
}

/// Whether a hub could start with these keys, and whether they are those of the head; the cipher of its Secrets.
fn check_keys(head: &Head, keys: &[Vec<u8>; KeyFile::ALL.len()]) -> Result<Arc<dyn RowCipher>, ReadBackupError> {
    let of_no_use = |file: KeyFile, what: String| ReadBackupError::Key { name: file.path(), what };
    let [ca, ca_key, serving, serving_key, tokens, secrets] = keys;
    for (file, cert, key) in [(KeyFile::Ca, ca, ca_key), (KeyFile::NodeServingCa, serving, serving_key)] {
        let (cert, key) = (String::from_utf8_lossy(cert), String::from_utf8_lossy(key));
        base_pki::Ca::load(&cert, &key).map_err(|error| of_no_use(file, error.to_string()))?;
    }
    let fingerprint = base_pki::ca_fingerprint(&String::from_utf8_lossy(ca));
    let fingerprint = fingerprint.map_err(|error| of_no_use(KeyFile::Ca, error.to_string()))?;
    if fingerprint != head.ca_sha256 {
        return Err(of_no_use(KeyFile::Ca, "it is of another hub than the backup says".to_owned()));
    }
    hub_pki::check_token_key(tokens).map_err(|what| of_no_use(KeyFile::Tokens, what))?;
    let key: Result<&[u8; KEY_LEN], _> = secrets.as_slice().try_into();
    let key = key.map_err(|_| of_no_use(KeyFile::Secrets, "a key has 32 bytes".to_owned()))?;
    Ok(Arc::new(EnvelopeCipher::new(key, SEALED_RESOURCES)))
}

/// The parts of a backup in their order.
struct Parts<R> {
    archive: Archive<R>,
    seen: Vec<Part>,
}

impl<R: Read> Parts<R> {
    fn head(&mut self) -> Result<Head, ReadBackupError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
            #[serde(default)]
            program: String,
        }
        let entry = match self.next(|name| (name == HEAD_NAME).then_some(SMALL_BYTES_MAX)) {
            // Whatever else it may be.
            Err(ReadBackupError::Damaged { .. }) => return Err(ReadBackupError::NotABackup),
            entry => entry?,
        };
        let unreadable = |error: serde_json::Error| self.damaged(format!("{HEAD_NAME}: {error}"));
        // What a newer program wrote besides need not be understood to be named.
        let version: Version = serde_json::from_slice(&entry.bytes).map_err(unreadable)?;
        if version.format > FORMAT {
            let program = version.program.chars().filter(|char| char.is_ascii_graphic()).take(64).collect();
            return Err(ReadBackupError::Newer { found: version.format, known: FORMAT, program });
        }
        let head: Head = serde_json::from_slice(&entry.bytes).map_err(unreadable)?;
        head.store.check().map_err(ReadBackupError::Rows)?;
        self.seen.push(Part::of(&entry.name, &entry.bytes));
        Ok(head)
    }

    /// The part that must come now.
    fn part(&mut self, name: &str, bytes_max: usize) -> Result<Vec<u8>, ReadBackupError> {
        let entry = self.next(|found| (found == name).then_some(bytes_max))?;
        self.seen.push(Part::of(name, &entry.bytes));
        Ok(entry.bytes)
    }

    fn rows_or_manifest(&mut self) -> Result<Entry, ReadBackupError> {
        let has_space = self.seen.len() < PARTS_MAX;
        let rows = crate::rows_name(self.seen.len() - KeyFile::ALL.len());
        self.next(|name| match name {
            MANIFEST_NAME => Some(MANIFEST_BYTES_MAX),
            name => (has_space && *name == rows).then_some(ROWS_BYTES_MAX),
        })
    }

    /// Whether the manifest is that of what was seen, and the last.
    fn finish(&mut self, bytes: &[u8]) -> Result<(), ReadBackupError> {
        let sum = self.next(|name| (name == MANIFEST_SUM_NAME).then_some(SMALL_BYTES_MAX))?;
        if sum.bytes != crate::manifest_sum(bytes).as_bytes() {
            return Err(self.damaged(format!("{MANIFEST_NAME} has not the sum that {MANIFEST_SUM_NAME} says")));
        }
        let manifest: Manifest =
            serde_json::from_slice(bytes).map_err(|error| self.damaged(format!("{MANIFEST_NAME}: {error}")))?;
        let differs = manifest.parts.iter().zip(&self.seen).find(|(written, seen)| written != seen);
        if let Some((_, seen)) = differs {
            return Err(self.damaged(format!("`{}` is not what was written", seen.name)));
        }
        if manifest.parts.len() != self.seen.len() {
            let (written, seen) = (manifest.parts.len(), self.seen.len());
            return Err(self.damaged(format!("{written} parts were written, and there are {seen}")));
        }
        match self.archive.next(|_| None) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => unreachable!("no name is expected after the last"),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn next(&mut self, bytes_max: impl Fn(&str) -> Option<usize>) -> Result<Entry, ReadBackupError> {
        match self.archive.next(bytes_max) {
            Ok(Some(entry)) => Ok(entry),
            Ok(None) => Err(self.damaged("its end comes before its manifest".to_owned())),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn damaged(&self, what: String) -> ReadBackupError {
        ReadBackupError::Damaged { at: self.archive.at(), what }
    }

    fn failed(&self, error: ArchiveError) -> ReadBackupError {
        match error {
            ArchiveError::Io(error) => ReadBackupError::Read(error),
            ArchiveError::EndsEarly => ReadBackupError::EndsEarly { at: self.archive.at() },
            ArchiveError::Damaged(what) => self.damaged(what),
        }
    }
}
