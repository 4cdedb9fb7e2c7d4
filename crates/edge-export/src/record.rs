//! How an event stands in the journal: a version, the device's name, the event as EdgeX JSON.
//!
//! ```text
//! version u8 = 1 · name length u16 (little-endian) · name · JSON
//! ```
//!
//! The name stands apart so that an export filters without parsing JSON, and the JSON goes out byte for byte as it was
//! written.

use api_edge::edgex::Event;
use bytes::Bytes;

/// Version written by this code.
const VERSION: u8 = 1;

/// Why a journal record is no event.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A newer program wrote it.
    #[error("the record has version {0}, this program knows {VERSION}")]
    Newer(u8),
    /// It ends too early, or the name is not UTF-8.
    #[error("the record is too short or its device name is not UTF-8")]
    Malformed,
    /// The event cannot be read or written as JSON.
    #[error("failed to read the record's event")]
    Json(#[from] serde_json::Error),
}

/// A journal record that holds an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    name: Bytes,
    json: Bytes,
}

impl EventRecord {
    /// The record of `event`, to be appended to the journal.
    ///
    /// Fails only for a device name of more than 65,535 bytes, or a value that JSON cannot hold.
    pub fn encode(event: &Event) -> Result<Vec<u8>, RecordError> {
        let name = event.device_name.as_bytes();
        let name_len = u16::try_from(name.len()).map_err(|_| RecordError::Malformed)?;
        let mut record = Vec::with_capacity(3 + name.len() + 256 * (1 + event.readings.len()));
        record.push(VERSION);
        record.extend_from_slice(&name_len.to_le_bytes());
        record.extend_from_slice(name);
        serde_json::to_writer(&mut record, event)?;
        Ok(record)
    }

    /// Splits a record; the JSON is not looked at.
    pub fn decode(record: &Bytes) -> Result<Self, RecordError> {
        let (&version, rest) = record.split_first().ok_or(RecordError::Malformed)?;
        if version != VERSION {
            return Err(RecordError::Newer(version));
        }
        let (name_len, rest) = rest.split_first_chunk().ok_or(RecordError::Malformed)?;
        let name_len = usize::from(u16::from_le_bytes(*name_len));
        let name = rest.get(..name_len).ok_or(RecordError::Malformed)?;
        std::str::from_utf8(name).map_err(|_| RecordError::Malformed)?;
        Ok(Self { name: record.slice(3..3 + name_len), json: record.slice(3 + name_len..) })
    }

    /// Name of the event's device.
    pub fn device_name(&self) -> &str {
        std::str::from_utf8(&self.name).expect("decode has checked that the name is UTF-8")
    }

    /// The event as JSON, as it goes onto the wire.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// The event.
    pub fn event(&self) -> Result<Event, RecordError> {
        Ok(serde_json::from_slice(&self.json)?)
    }
}
