//! How a row and the bookkeeping look on disk, formats 1 and 2.
//!
//! A row is one version of one object, little endian. The first byte says what happened and the format of the row, so
//! that rows of both formats may be in one store; only those of format 2 are written.
//!
//! ```text
//! format 2: header | payload | crc32 u32 of all before
//!   header: kind u8 (3 put, 4 delete) | flags u8 | time_ms u64 | created u64 | previous u64
//!           | resource, namespace, name: [len u16, UTF-8]
//!   payload: index fields [len u32, packed as in `fields`] | managed [len u32, data] if flag 2 | bytes: the rest;
//!            with flag 1 it is sealed: what a cipher made of it, with header and revision as associated data
//!
//! format 1: kind u8 (1 put, 2 delete) | time_ms u64 | created u64 | previous u64
//!           | resource, namespace, name: [len u16, UTF-8]
//!           | fields u16, each [name len u16, UTF-8][value len u32, UTF-8] | bytes [len u32, data] | crc32 u32
//! ```
//!
//! The revision is the row's key in the engine. `previous` is 0 when the object did not exist before.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cipher::{CipherError, RowCipher};
use crate::fields::IndexFields;
use crate::types::{ChangeKind, Key, Life, Object, Revision};

const KIND_PUT_1: u8 = 1;
const KIND_DELETE_1: u8 = 2;
const KIND_PUT: u8 = 3;
const KIND_DELETE: u8 = 4;

const FLAG_SEALED: u8 = 1;
const FLAG_MANAGED: u8 = 2;

/// A decoded row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub kind: ChangeKind,
    /// Unix time of the change, to know when it leaves the window.
    pub time_ms: u64,
    /// The version that this one replaced.
    pub previous: Option<Revision>,
    pub is_sealed: bool,
    pub object: Object,
}

/// What the store keeps beside its rows. JSON: it is small, seldom written, and may grow keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// No revision up to here may be given again, even if no row shows it.
    pub reserved: u64,
    /// The last revision given before a clean close; absent while the store is open and lazy writes may be lost.
    pub closed_at: Option<u64>,
    /// Per resource, the newest change that left the window: a watch from before it is expired.
    #[serde(rename = "horizons")]
    pub compacted: BTreeMap<String, u64>,
    /// Resources that have taken lazy writes, so that their watchers may have seen what a crash loses.
    pub lazy: BTreeSet<String>,
    /// Revisions that crashes may have taken: first and last of each gap. They concern lazy resources only.
    pub gaps: Vec<(u64, u64)>,
    /// Revisions that a damaged log may have taken from any resource: first and last of each gap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<(u64, u64)>,
    /// What the cipher wants kept: the data key, wrapped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cipher: Option<Vec<u8>>,
    /// Nothing that should be sealed is in the files unsealed, not even in space that is free.
    #[serde(default)]
    pub is_scrubbed: bool,
    /// The rules by which the index fields of the rows were extracted; 0 is what programs wrote that did not count them.
    #[serde(default)]
    pub index_version: u32,
    /// Which life of the state this is. Programs that had none wrote none: the first start that misses it begins one.
    #[serde(default)]
    pub life: Life,
}

/// Why a row cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RowError {
    #[error("{0}")]
    Damaged(&'static str),
    #[error("it is sealed, and no cipher is given")]
    Sealed,
    #[error("{0}")]
    Cipher(#[from] CipherError),
}

impl From<&'static str> for RowError {
    fn from(reason: &'static str) -> Self {
        Self::Damaged(reason)
    }
}

/// Writes a row. Lengths fit: the writer rejects what does not before it comes here.
pub(crate) fn encode_row(
    kind: ChangeKind,
    time_ms: u64,
    previous: Option<Revision>,
    object: &Object,
    cipher: Option<&dyn RowCipher>,
) -> Result<Vec<u8>, CipherError> {
    let cipher = cipher.filter(|cipher| cipher.seals(&object.key.resource));
    let mut out = Vec::with_capacity(128 + object.payload_bytes());
    out.push(match kind {
        ChangeKind::Put => KIND_PUT,
        ChangeKind::Delete => KIND_DELETE,
    });
    let sealed = if cipher.is_some() { FLAG_SEALED } else { 0 };
    out.push(sealed | if object.managed.is_some() { FLAG_MANAGED } else { 0 });
    out.extend_from_slice(&time_ms.to_le_bytes());
    out.extend_from_slice(&object.created.0.to_le_bytes());
    out.extend_from_slice(&previous.map_or(0, |revision| revision.0).to_le_bytes());
    for text in [&object.key.resource, &object.key.namespace, &object.key.name] {
        out.extend_from_slice(&(text.len() as u16).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    let header = out.len();
    put_long(&mut out, object.index.packed());
    if let Some(managed) = &object.managed {
        put_long(&mut out, managed);
    }
    out.extend_from_slice(&object.bytes);
    if let Some(cipher) = cipher {
        let associated = associated(&out[..header], object.revision);
        let sealed = cipher.seal(&object.key.resource, &associated, &out[header..])?;
        out.truncate(header);
        out.extend_from_slice(&sealed);
    }
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    Ok(out)
}

/// What a sealed payload belongs to: it cannot be moved to another object, another revision or another time.
fn associated(header: &[u8], revision: Revision) -> Vec<u8> {
    [header, &revision.0.to_le_bytes()].concat()
}

/// An object with all its parts; the limit is far above what Kubernetes allows.
const OBJECT_BYTES_MAX: usize = 64 << 20;

/// Whether the row format can hold this object.
pub(crate) fn fits(object: &Object) -> bool {
    let key = &object.key;
    [&key.resource, &key.namespace, &key.name].into_iter().all(|text| text.len() <= usize::from(u16::MAX))
        && object.payload_bytes() <= OBJECT_BYTES_MAX
}

/// Reads a row, or says what is wrong with it.
pub(crate) fn decode_row(revision: Revision, row: &[u8], cipher: Option<&dyn RowCipher>) -> Result<Row, RowError> {
    let (body, crc) = row.split_last_chunk::<4>().ok_or("the row is too short")?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err("the checksum does not match".into());
    }
    let mut rest = Reader(body);
    let (kind, is_first) = match rest.take(1)?[0] {
        KIND_PUT => (ChangeKind::Put, false),
        KIND_DELETE => (ChangeKind::Delete, false),
        KIND_PUT_1 => (ChangeKind::Put, true),
        KIND_DELETE_1 => (ChangeKind::Delete, true),
        _ => return Err("the kind of change is not known".into()),
    };
    let flags = if is_first { 0 } else { rest.take(1)?[0] };
    if flags & !(FLAG_MANAGED | FLAG_SEALED) != 0 {
        return Err("its flags are not known".into());
    }
    let time_ms = rest.u64()?;
    let created = Revision(rest.u64()?);
    let previous = Some(rest.u64()?).filter(|revision| *revision != 0).map(Revision);
    let key = Key { resource: rest.short()?.into(), namespace: rest.short()?.into(), name: rest.short()?.into() };
    let opened;
    if flags & FLAG_SEALED != 0 {
        let header = &body[..body.len() - rest.0.len()];
        let cipher = cipher.ok_or(RowError::Sealed)?;
        opened = cipher.open(&key.resource, &associated(header, revision), rest.0)?;
        rest = Reader(&opened);
    }
    let is_sealed = flags & FLAG_SEALED != 0;
    let (index, managed, bytes) = if is_first {
        let index = rest.fields_1()?;
        let bytes = rest.long()?;
        if !rest.0.is_empty() {
            return Err("the row is too long".into());
        }
        (index, None, bytes)
    } else {
        let index = IndexFields::from_packed(rest.long()?).ok_or("its index fields are damaged")?;
        let managed = if flags & FLAG_MANAGED != 0 { Some(Bytes::copy_from_slice(rest.long()?)) } else { None };
        (index, managed, rest.0)
    };
    let bytes = Bytes::copy_from_slice(bytes);
    Ok(Row { kind, time_ms, previous, is_sealed, object: Object { key, revision, created, bytes, managed, index } })
}

const NOT_UTF8: &str = "a name is not UTF-8";

fn put_long(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// What is left to read of a row.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], &'static str> {
        let (head, tail) = self.0.split_at_checked(len).ok_or("the row ends early")?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        Ok(self.take(N)?.try_into().expect("take returns as many bytes as it was given"))
    }

    fn u16(&mut self) -> Result<u16, &'static str> {
        self.array().map(u16::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        self.array().map(u64::from_le_bytes)
    }

    fn short(&mut self) -> Result<&'a str, &'static str> {
        let len = self.u16()?;
        std::str::from_utf8(self.take(len.into())?).map_err(|_| NOT_UTF8)
    }

    fn long(&mut self) -> Result<&'a [u8], &'static str> {
        let len = u32::from_le_bytes(self.array()?);
        self.take(len as usize)
    }

    /// Index fields as format 1 has them.
    fn fields_1(&mut self) -> Result<IndexFields, &'static str> {
        let mut fields = Vec::new();
        for _ in 0..self.u16()? {
            let name = self.short()?;
            fields.push((name, std::str::from_utf8(self.long()?).map_err(|_| NOT_UTF8)?));
        }
        Ok(fields.into_iter().collect())
    }
}

#[cfg(test)]
mod tests;
