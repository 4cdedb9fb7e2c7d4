//! Extended headers: records of `LENGTH KEY=VALUE\n`.

use super::{TarError, sparse};

/// What Linux stores in one attribute.
const ATTRIBUTE_BYTES_MAX: usize = 64 << 10;
/// More than any file has; global headers add up.
const ATTRIBUTES_MAX: usize = 128;

/// What extended headers say of an entry; what they leave out is in its header.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
    pub(super) sparse_version: Option<(u32, u32)>,
    pub(super) sparse_name: Option<Vec<u8>>,
    pub(super) sparse_size: Option<u64>,
    pub(super) sparse_map: Vec<(u64, u64)>,
}

impl Pax {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds the records of one extended header.
    pub(super) fn extend(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        let mut rest = bytes;
        // The last block may be filled with zeros that the size counts.
        while rest.first().is_some_and(|byte| *byte != 0) {
            let record;
            (record, rest) = split_record(rest).ok_or(TarError::Format("an extended header is broken"))?;
            let equals = record.iter().position(|byte| *byte == b'=');
            let equals = equals.ok_or(TarError::Format("an extended header is broken"))?;
            self.set(&record[..equals], &record[equals + 1..])?;
        }
        Ok(())
    }

    /// These records where an entry's own say nothing.
    pub(super) fn overlaid(&self, local: Self) -> Self {
        if self.is_empty() {
            return local;
        }
        let mut xattrs = self.xattrs.clone();
        xattrs.retain(|(key, _)| local.xattrs.iter().all(|(other, _)| other != key));
        xattrs.extend(local.xattrs);
        Self {
            path: local.path.or_else(|| self.path.clone()),
            link: local.link.or_else(|| self.link.clone()),
            size: local.size.or(self.size),
            uid: local.uid.or(self.uid),
            gid: local.gid.or(self.gid),
            mtime: local.mtime.or(self.mtime),
            xattrs,
            // A map of holes is one file's.
            sparse_version: local.sparse_version,
            sparse_name: local.sparse_name,
            sparse_size: local.sparse_size,
            sparse_map: local.sparse_map,
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        // An empty value takes back what an earlier record said.
        let text = Some(value.to_vec()).filter(|value| !value.is_empty());
        match key {
            b"path" => self.path = text,
            b"linkpath" => self.link = text,
            b"size" => self.size = optional(value)?,
            b"uid" => self.uid = optional(value)?.map(to_id).transpose()?,
            b"gid" => self.gid = optional(value)?.map(to_id).transpose()?,
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(time(value)?) },
            b"GNU.sparse.major" => self.sparse_version.get_or_insert_default().0 = decimal(value)? as u32,
            b"GNU.sparse.minor" => self.sparse_version.get_or_insert_default().1 = decimal(value)? as u32,
            b"GNU.sparse.name" => self.sparse_name = text,
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse_size = Some(decimal(value)?),
            b"GNU.sparse.offset" if self.sparse_map.len() >= sparse::PIECES_MAX => {
                return Err(TarError::Limit("a sparse file has too many pieces"));
            }
            b"GNU.sparse.offset" => self.sparse_map.push((decimal(value)?, 0)),
            b"GNU.sparse.numbytes" => {
                let last = self.sparse_map.last_mut().ok_or(TarError::Format("a sparse file's map is broken"))?;
                last.1 = decimal(value)?;
            }
            b"GNU.sparse.map" => self.sparse_map = map(value)?,
            _ => self.set_xattr(key, value)?,
        }
        Ok(())
    }

    fn set_xattr(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let name = key.strip_prefix(b"SCHILY.xattr.").and_then(|name| std::str::from_utf8(name).ok());
        if let Some(name) = name {
            self.xattrs.retain(|(key, _)| key != name);
            if value.len() > ATTRIBUTE_BYTES_MAX || self.xattrs.len() >= ATTRIBUTES_MAX {
                return Err(TarError::Limit(
                    "an extended attribute has more than 64 KiB, or a file more than 128 of them",
                ));
            }
            self.xattrs.push((name.to_owned(), value.to_vec()));
        }
        Ok(())
    }
}

/// The first record without its length and newline, and what follows it.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space]).ok()?).ok()?;
    let record = bytes.get(space + 1..length)?;
    Some((record.strip_suffix(b"\n")?, &bytes[length..]))
}

fn map(value: &[u8]) -> Result<Vec<(u64, u64)>, TarError> {
    let numbers = value.split(|byte| *byte == b',').filter(|part| !part.is_empty());
    let numbers: Vec<u64> = numbers.map(decimal).collect::<Result<_, _>>()?;
    if !numbers.len().is_multiple_of(2) {
        return Err(TarError::Format("a sparse file's map is broken"));
    }
    Ok(numbers.chunks_exact(2).map(|piece| (piece[0], piece[1])).collect())
}

fn optional(value: &[u8]) -> Result<Option<u64>, TarError> {
    if value.is_empty() { Ok(None) } else { decimal(value).map(Some) }
}

fn to_id(value: u64) -> Result<u32, TarError> {
    u32::try_from(value).ok().filter(|id| *id != u32::MAX).ok_or(TarError::Format("an owner is out of range"))
}

pub(super) fn decimal(digits: &[u8]) -> Result<u64, TarError> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let number = if is_number { std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()) } else { None };
    number.ok_or(TarError::Format("a number of an extended header is none"))
}

/// Seconds with a fraction, negative before 1970.
fn time(value: &[u8]) -> Result<(i64, u32), TarError> {
    let (is_negative, value) = value.strip_prefix(b"-").map_or((false, value), |rest| (true, rest));
    let (whole, fraction) = match value.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &[][..]),
    };
    let seconds = i64::try_from(decimal(whole)?).map_err(|_| TarError::Format("a time is out of range"))?;
    let mut nanos = 0;
    for at in 0..9 {
        let digit = fraction.get(at).copied().unwrap_or(b'0');
        if !digit.is_ascii_digit() {
            return Err(TarError::Format("a number of an extended header is none"));
        }
        nanos = nanos * 10 + u32::from(digit - b'0');
    }
    Ok(match (is_negative, nanos) {
        (false, nanos) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        // Nanoseconds count upwards from the second before.
        (true, nanos) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}
