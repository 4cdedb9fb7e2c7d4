//! One batch: checking what a node sent, and the form in which it is kept.
//!
//! ```text
//! version u8 = 1 · head length u32 (little-endian) · head as JSON · event lines as they came
//! ```

use std::borrow::Cow;
use std::collections::BTreeSet;

use api_edge::edgex::API_VERSION;
use api_edge::telemetry::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, BatchHeader};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Version of a stored batch written by this code.
const VERSION: u8 = 1;

/// Longest device or resource name: EdgeX has no limit, an index needs one.
const NAME_BYTES_MAX: usize = 512;

/// Most bytes in the name of an export: a Kubernetes namespace and name.
const EXPORT_BYTES_MAX: usize = 63 + 1 + 253;

/// What is wrong with a batch; it will never be taken as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The body is larger than the hub reads.
    #[error("the batch has {bytes} bytes, more than {BATCH_BYTES_MAX}; send smaller batches")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A line does not parse, or says what cannot be.
    #[error("line {line} of the batch: {why}")]
    Malformed {
        /// From 1, the header's line.
        line: usize,
        /// What is wrong.
        why: String,
    },
}

fn malformed(line: usize, why: impl Into<String>) -> BatchError {
    BatchError::Malformed { line, why: why.into() }
}

/// Separates the header line from the event lines.
pub(crate) fn split_header(body: &Bytes) -> Result<(BatchHeader, Bytes), BatchError> {
    if body.len() > BATCH_BYTES_MAX {
        return Err(BatchError::TooLarge { bytes: body.len() });
    }
    let end = body.iter().position(|byte| *byte == b'\n').unwrap_or(body.len());
    let header = serde_json::from_slice(&body[..end]).map_err(|error| malformed(1, error.to_string()))?;
    Ok((header, body.slice((end + 1).min(body.len())..)))
}

/// What is kept of a batch beside its lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Head {
    pub(crate) node: String,
    pub(crate) export: String,
    pub(crate) epoch: String,
    pub(crate) from: u64,
    pub(crate) to: u64,
    #[serde(default)]
    pub(crate) lost: u64,
    pub(crate) events: usize,
    /// Origins of the oldest and the newest reading, in nanoseconds since 1970; none in a batch without readings.
    pub(crate) span: Option<(i64, i64)>,
    pub(crate) devices: BTreeSet<String>,
}

/// As much of an event as is looked at when it comes in.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventLine<'a> {
    #[serde(borrow, default)]
    api_version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    device_name: Cow<'a, str>,
    origin: i64,
    #[serde(borrow)]
    readings: Vec<ReadingLine<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadingLine<'a> {
    #[serde(borrow)]
    resource_name: Cow<'a, str>,
    origin: i64,
}

/// Checks header and lines, and sums up what is in them.
pub(crate) fn check(node: &str, header: &BatchHeader, lines: &[u8]) -> Result<Head, BatchError> {
    check_header(header)?;
    let mut head = Head {
        node: node.to_owned(),
        export: header.export.clone(),
        epoch: header.epoch.clone(),
        from: header.from,
        to: header.to,
        lost: header.lost,
        events: 0,
        span: None,
        devices: BTreeSet::new(),
    };
    for (number, line) in event_lines(lines) {
        let event: EventLine = serde_json::from_slice(line).map_err(|error| malformed(number, error.to_string()))?;
        if event.api_version.as_deref().is_some_and(|version| version != API_VERSION) {
            return Err(malformed(number, format!("apiVersion is not `{API_VERSION}`")));
        }
        let names = event.readings.iter().map(|reading| &reading.resource_name).chain([&event.device_name]);
        if names.into_iter().any(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
            return Err(malformed(
                number,
                format!("a device or resource name is empty or longer than {NAME_BYTES_MAX} bytes"),
            ));
        }
        head.events += 1;
        if head.events > header.events {
            break;
        }
        for origin in event.readings.iter().map(|reading| reading.origin).chain([event.origin]) {
            head.widen(origin);
        }
        if !head.devices.contains(&*event.device_name) {
            head.devices.insert(event.device_name.into_owned());
        }
    }
    if head.events != header.events {
        return Err(malformed(
            1,
            format!("the header promises {} events, the body has {}", header.events, event_lines(lines).count()),
        ));
    }
    Ok(head)
}

fn check_header(header: &BatchHeader) -> Result<(), BatchError> {
    if header.version != 1 {
        return Err(malformed(1, format!("version {} is not known; this hub takes 1", header.version)));
    }
    if header.export.is_empty() || header.export.len() > EXPORT_BYTES_MAX {
        return Err(malformed(1, format!("export must have 1 to {EXPORT_BYTES_MAX} bytes")));
    }
    if header.epoch.is_empty() || header.epoch.len() > 64 {
        return Err(malformed(1, "epoch must have 1 to 64 bytes"));
    }
    if header.events > BATCH_EVENTS_MAX {
        return Err(malformed(1, format!("{} events are more than {BATCH_EVENTS_MAX}", header.events)));
    }
    let records = header.to.checked_sub(header.from).filter(|records| *records > 0);
    let Some(records) = records else {
        return Err(malformed(1, format!("`to` ({}) must be larger than `from` ({})", header.to, header.from)));
    };
    if header.events as u64 > records || header.lost > records - header.events as u64 {
        return Err(malformed(1, "events and lost together are more than the records from `from` to `to`"));
    }
    Ok(())
}

/// The lines that are not empty, with their numbers in the body; the header has been line 1.
pub(crate) fn event_lines(lines: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    (2..).zip(lines.split(|byte| *byte == b'\n')).filter(|(_, line)| !line.trim_ascii().is_empty())
}

impl Head {
    fn widen(&mut self, origin: i64) {
        let (first, last) = self.span.unwrap_or((origin, origin));
        self.span = Some((first.min(origin), last.max(origin)));
    }

    /// What stands before the lines in the journal.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let head = serde_json::to_vec(self).expect("a batch head holds text and numbers only");
        let mut bytes = Vec::with_capacity(5 + head.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&(head.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&head);
        bytes
    }

    /// Splits a stored batch; `None` for a record of another version or form.
    pub(crate) fn decode(record: &Bytes) -> Option<(Self, Bytes)> {
        let (&version, rest) = record.split_first()?;
        let (len, rest) = rest.split_first_chunk()?;
        let len = u32::from_le_bytes(*len) as usize;
        if version != VERSION {
            return None;
        }
        let head = serde_json::from_slice(rest.get(..len)?).ok()?;
        Some((head, record.slice(5 + len..)))
    }
}
