//! How a row and the bookkeeping look on disk, format 1.
//!
//! A row is one version of one object, little endian:
//!
//! ```text
//! kind u8 | time_ms u64 | created u64 | previous u64 | resource, namespace, name: [len u16, UTF-8]
//! | fields u16, each [name len u16, UTF-8][value len u32, UTF-8] | bytes [len u32, data] | crc32 u32 of all before
//! ```
//!
//! The revision is the row's key in the engine. `previous` is 0 when the object did not exist before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::{ChangeKind, IndexFields, Key, Object, Revision};

const KIND_PUT: u8 = 1;
const KIND_DELETE: u8 = 2;

/// A decoded row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub kind: ChangeKind,
    /// Unix time of the change, to know when it leaves the window.
    pub time_ms: u64,
    /// The version that this one replaced.
    pub previous: Option<Revision>,
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
    pub horizons: BTreeMap<String, u64>,
    /// Resources that have taken lazy writes, so that their watchers may have seen what a crash loses.
    pub lazy: BTreeSet<String>,
    /// Revisions that crashes may have taken: first and last of each gap. They concern lazy resources only.
    pub gaps: Vec<(u64, u64)>,
}

/// Writes a row. Lengths fit: the writer refuses longer names before it comes here.
pub(crate) fn encode_row(kind: ChangeKind, time_ms: u64, previous: Option<Revision>, object: &Object) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + object.bytes.len());
    out.push(match kind {
        ChangeKind::Put => KIND_PUT,
        ChangeKind::Delete => KIND_DELETE,
    });
    out.extend_from_slice(&time_ms.to_le_bytes());
    out.extend_from_slice(&object.created.0.to_le_bytes());
    out.extend_from_slice(&previous.map_or(0, |revision| revision.0).to_le_bytes());
    for text in [&object.key.resource, &object.key.namespace, &object.key.name] {
        put_short(&mut out, text);
    }
    out.extend_from_slice(&(object.index.len() as u16).to_le_bytes());
    for (field, value) in &object.index {
        put_short(&mut out, field);
        put_long(&mut out, value.as_bytes());
    }
    put_long(&mut out, &object.bytes);
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// Whether the row format can hold this object; the limits are far above what Kubernetes allows.
pub(crate) fn fits(key: &Key, bytes: &Bytes, index: &IndexFields) -> bool {
    let short = |text: &str| text.len() <= usize::from(u16::MAX);
    let long = |len: usize| u32::try_from(len).is_ok();
    [&key.resource, &key.namespace, &key.name].into_iter().all(|text| short(text))
        && index.len() <= usize::from(u16::MAX)
        && index.iter().all(|(field, value)| short(field) && long(value.len()))
        && long(bytes.len())
}

/// Reads a row, or says what is wrong with it.
pub(crate) fn decode_row(revision: Revision, row: &[u8]) -> Result<Row, &'static str> {
    let (body, crc) = row.split_last_chunk::<4>().ok_or("the row is too short")?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err("the checksum does not match");
    }
    let mut rest = Reader(body);
    let kind = match rest.take(1)?[0] {
        KIND_PUT => ChangeKind::Put,
        KIND_DELETE => ChangeKind::Delete,
        _ => return Err("the kind of change is not known"),
    };
    let time_ms = rest.u64()?;
    let created = Revision(rest.u64()?);
    let previous = Some(rest.u64()?).filter(|revision| *revision != 0).map(Revision);
    let key = Key { resource: rest.short()?.into(), namespace: rest.short()?.into(), name: rest.short()?.into() };
    let fields = rest.u16()?;
    let mut index = Vec::new();
    for _ in 0..fields {
        let field: Arc<str> = rest.short()?.into();
        let value = std::str::from_utf8(rest.long()?).map_err(|_| NOT_UTF8)?;
        index.push((field, value.into()));
    }
    let bytes = Bytes::copy_from_slice(rest.long()?);
    if !rest.0.is_empty() {
        return Err("the row is too long");
    }
    Ok(Row { kind, time_ms, previous, object: Object { key, revision, created, bytes, index: index.into() } })
}

const NOT_UTF8: &str = "a name is not UTF-8";

fn put_short(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

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
        Ok(self.take(N)?.try_into().expect("take answers as many bytes as asked"))
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
}

#[cfg(test)]
mod tests;
