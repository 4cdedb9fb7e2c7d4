//! The index fields of an object, packed into one piece of memory.
//!
//! A server holds hundreds of thousands of objects with five to ten fields each. As names and values of their own they would
//! cost as much again as the objects; and sharing the names between objects means a table of names that an enemy can fill
//! with label keys. So each object has its own, in one allocation: name and value in turn, each behind its length.

use std::fmt;

/// Field names and values that the server extracted from an object, so that selectors need not decode it.
///
/// They are kept on disk beside the object; a field may occur more than once.
///
/// ```
/// # use machinery_store::IndexFields;
/// let fields: IndexFields = [("spec.nodeName", "gw-1"), ("refs", "a"), ("refs", "b")].into_iter().collect();
/// assert_eq!(fields.get("refs"), Some("a"));
/// assert!(fields.has("refs", "b"));
/// assert_eq!(fields.iter().count(), 3);
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct IndexFields {
    packed: Box<[u8]>,
}

impl IndexFields {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    /// The first value of a field.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.raw().find(|raw| raw.name == field.as_bytes()).map(|raw| text(raw.value))
    }

    /// Whether the field has this value, be it one of several.
    pub fn has(&self, field: &str, value: &str) -> bool {
        self.raw().any(|raw| raw.name == field.as_bytes() && raw.value == value.as_bytes())
    }

    /// Names and values, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.raw().map(|raw| (text(raw.name), text(raw.value)))
    }

    /// Names and values as they are packed, with the place of each; see [`value_at`](Self::value_at).
    pub(crate) fn raw(&self) -> Raw<'_> {
        Raw { packed: &self.packed, at: 0 }
    }

    /// The value of the field at a place that [`raw`](Self::raw) gave.
    pub(crate) fn value_at(&self, at: u32) -> &[u8] {
        Raw { packed: &self.packed, at: at as usize }.next().map_or(&[], |raw| raw.value)
    }

    /// As they are on disk.
    pub(crate) fn packed(&self) -> &[u8] {
        &self.packed
    }

    /// From what was read from a disk; `None` when it is not what [`packed`](Self::packed) gives.
    pub(crate) fn from_packed(packed: &[u8]) -> Option<Self> {
        let mut raw = Raw { packed, at: 0 };
        for field in raw.by_ref() {
            std::str::from_utf8(field.name).ok()?;
            std::str::from_utf8(field.value).ok()?;
        }
        (raw.at == packed.len()).then(|| Self { packed: packed.into() })
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for IndexFields {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        let mut packed = Vec::new();
        for (name, value) in fields {
            for text in [name.as_ref(), value.as_ref()] {
                put_len(&mut packed, text.len());
                packed.extend_from_slice(text.as_bytes());
            }
        }
        Self { packed: packed.into() }
    }
}

impl fmt::Debug for IndexFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// One field as it is packed.
pub(crate) struct RawField<'a> {
    /// Where it is.
    pub at: u32,
    pub name: &'a [u8],
    pub value: &'a [u8],
}

/// Walks packed fields; it ends at the first that is not whole.
pub(crate) struct Raw<'a> {
    packed: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Raw<'a> {
    type Item = RawField<'a>;

    fn next(&mut self) -> Option<RawField<'a>> {
        let mut rest = self.packed.get(self.at..)?;
        let at = u32::try_from(self.at).ok()?;
        let name = take(&mut rest)?;
        let value = take(&mut rest)?;
        self.at = self.packed.len() - rest.len();
        Some(RawField { at, name, value })
    }
}

/// Lengths are numbers of seven bits a byte, the lowest first; the highest bit says that more follow.
fn put_len(out: &mut Vec<u8>, mut len: usize) {
    while len >= 0x80 {
        out.push((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut len = 0_usize;
    // Four bytes hold more than an object may have.
    for shift in [0, 7, 14, 21] {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        len |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let (text, tail) = rest.split_at_checked(len)?;
            *rest = tail;
            return Some(text);
        }
    }
    None
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("fields are packed from text, and checked when read from a disk")
}

#[cfg(test)]
mod tests;
