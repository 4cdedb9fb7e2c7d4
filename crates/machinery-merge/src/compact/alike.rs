//! Owners of many objects as JSON, at the cost of copying where they are alike.
//!
//! The pods of one template have the same owners but for the time, and their text is as long as the pods: to make it anew for
//! each was half of what a list cost. So entries are remembered by their bytes, without the time, next to their text. What
//! an entry means depends on the texts that those before it have numbered, so these belong to it.
//!
//! An entry of which there is no other (a kubelet's names the addresses of the pod) must not push out one that all have. New
//! ones are therefore put into the middle, and only those that are met again come to the front.

use super::{ReadCompactError, Reader, SECONDS_MAX, TimePlace, time_text};

/// Entries that are remembered: a namespace has few templates, and every entry is compared with each of these.
pub(super) const KEPT_MAX: usize = 16;

/// An entry with more than this is not remembered, which bounds all of them together at a quarter of a megabyte.
const ENTRY_BYTES_MAX: usize = 16 * 1024;

/// What [`compact_to_json`](super::compact_to_json) does, for one object after the other.
///
/// ```
/// use machinery_merge::{AlikeToJson, Managed, compact_to_json};
/// let mut alike = AlikeToJson::default();
/// for second in 10..20 {
///     let fields = serde_json::json!([{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1",
///         "time": format!("2026-11-26T12:00:{second}Z"), "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:a": {}}}}]);
///     let compact = Managed::decode(Some(&fields)).expect("the entry is whole").to_compact();
///     let mut text = String::new();
///     alike.write(&compact, |part| text.push_str(part))?;
///     assert_eq!(text, compact_to_json(&compact)?);
/// }
/// # Ok::<(), machinery_merge::ReadCompactError>(())
/// ```
#[derive(Default)]
pub struct AlikeToJson {
    /// Of an entry that was not met before.
    text: String,
    pub(super) kept: Vec<Entry>,
}

/// An entry as it was met.
pub(super) struct Entry {
    /// Texts that had got their numbers before it.
    numbered: Vec<Box<str>>,
    bytes: Box<[u8]>,
    time: Option<TimePlace>,
    pub(super) text: Box<str>,
    /// Where in its bytes the texts are that get their numbers with it: offset and length.
    numbers: Vec<(usize, usize)>,
}

impl AlikeToJson {
    /// Writes `metadata.managedFields` of the next object, in parts.
    ///
    /// # Errors
    /// As [`Managed::from_compact`](crate::Managed::from_compact); some parts may have been written.
    pub fn write(&mut self, compact: &[u8], mut out: impl FnMut(&str)) -> Result<(), ReadCompactError> {
        let mut reader = Reader::new(compact)?;
        out("[");
        for number in 0..reader.count()? {
            if number > 0 {
                out(",");
            }
            self.entry(&mut reader, &mut out)?;
        }
        reader.end()?;
        out("]");
        Ok(())
    }

    fn entry(&mut self, reader: &mut Reader<'_>, out: &mut impl FnMut(&str)) -> Result<(), ReadCompactError> {
        let found = self.kept.iter().position(|entry| entry.begins(reader));
        if let Some(at) = found {
            self.kept[..=at].rotate_right(1);
            return self.kept[0].write(reader, out);
        }
        let (rest, numbered) = (reader.rest, reader.new.len());
        self.text.clear();
        let time = reader.entry_json(&mut self.text)?;
        let text = self.text.as_str();
        out(text);
        let bytes = &rest[..rest.len() - reader.rest.len()];
        let (before, with_it) = reader.new.split_at(numbered);
        let numbered_bytes: usize = before.iter().map(|text| text.len() + size_of::<Box<str>>()).sum();
        if text.len() + bytes.len() + numbered_bytes <= ENTRY_BYTES_MAX {
            let offset = |text: &str| text.as_ptr() as usize - bytes.as_ptr() as usize;
            let entry = Entry {
                numbered: before.iter().map(|text| Box::from(*text)).collect(),
                bytes: bytes.into(),
                time,
                text: text.into(),
                numbers: with_it.iter().map(|text| (offset(text), text.len())).collect(),
            };
            self.kept.truncate(KEPT_MAX - 1);
            self.kept.insert(self.kept.len() / 2, entry);
        }
        Ok(())
    }
}

impl Entry {
    /// Whether what is to be read next is this entry, at whatever time.
    fn begins(&self, reader: &Reader<'_>) -> bool {
        let Some(bytes) = reader.rest.get(..self.bytes.len()) else { return false };
        let is_alike = match self.time {
            None => *bytes == *self.bytes,
            Some(TimePlace { at, len, .. }) => {
                bytes[..at] == self.bytes[..at]
                    && bytes[at + len..] == self.bytes[at + len..]
                    // A number of another length would move what follows it.
                    && bytes[at..at + len].iter().zip(&self.bytes[at..]).all(|(one, other)| (one ^ other) & 0x80 == 0)
            }
        };
        is_alike
            && self.numbered.len() == reader.new.len()
            && self.numbered.iter().zip(&reader.new).all(|(one, other)| **one == **other)
    }

    /// Writes the text of an entry that begins as this one, and reads over it.
    fn write(&self, reader: &mut Reader<'_>, out: &mut impl FnMut(&str)) -> Result<(), ReadCompactError> {
        let (bytes, rest) = reader.rest.split_at(self.bytes.len());
        match self.time {
            None => out(&self.text),
            Some(TimePlace { at, text_at, .. }) => {
                reader.rest = &bytes[at..];
                let time = time_text(reader.number()?.min(SECONDS_MAX));
                out(&self.text[..text_at]);
                out(&time);
                out(&self.text[text_at + time.len()..]);
            }
        }
        reader.rest = rest;
        for (at, len) in &self.numbers {
            reader.new.push(std::str::from_utf8(&bytes[*at..at + len]).map_err(|_| ReadCompactError::Damaged)?);
        }
        Ok(())
    }
}
