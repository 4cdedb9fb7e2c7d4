//! One batch: checking what a node sent, and the form in which it is kept.
//!
//! ```text
//! version u8 · head length u32 (little-endian) · head as JSON · event lines as they came
//! ```
//!
//! Version 1 knew no resources, and no names left out; version 2 is written. Both are read.

use std::borrow::Cow;
use std::collections::BTreeSet;

use api_edge::edgex::API_VERSION;
use api_edge::telemetry::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, BATCH_RECORDS_MAX, BatchHeader, OFFSET_MAX};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::event;

/// First version of a stored batch.
const VERSION_1: u8 = 1;

/// Version of a stored batch written by this code.
const VERSION: u8 = 2;

/// Longest device or resource name: EdgeX has no limit, an index needs one.
const NAME_BYTES_MAX: usize = 512;

/// Most bytes in the name of an export: a Kubernetes namespace and name.
const EXPORT_BYTES_MAX: usize = 63 + 1 + 253;

/// Most bytes in the name of a journal's epoch; ours have 32.
const EPOCH_BYTES_MAX: usize = 64;

/// Names of devices, and names of resources, that the head of one batch lists. A gateway has fewer; a batch with more is
/// stored all the same, and found by reading it.
const NAMES_MAX: usize = 256;

/// Bytes that those names may have together.
const NAMES_BYTES_MAX: usize = 16 * 1024;

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

/// Names of one sort in a batch: all of them, or word that there are more than a head lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NameList {
    pub(crate) names: BTreeSet<String>,
    /// There are further names.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) and_others: bool,
}

impl NameList {
    /// Whether `name` may be among them.
    pub(crate) fn may_hold(&self, name: &str) -> bool {
        self.and_others || self.names.contains(name)
    }

    fn bytes(&self) -> usize {
        self.names.iter().map(String::len).sum()
    }
}

/// Collects a [`NameList`] while events are looked at.
#[derive(Default)]
struct Naming {
    list: NameList,
    bytes: usize,
}

impl Naming {
    fn add(&mut self, name: Cow<'_, str>) {
        if self.list.names.contains(&*name) {
            return;
        }
        if self.list.names.len() >= NAMES_MAX || self.bytes + name.len() > NAMES_BYTES_MAX {
            self.list.and_others = true;
            return;
        }
        self.bytes += name.len();
        self.list.names.insert(name.into_owned());
    }
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
    pub(crate) devices: NameList,
    pub(crate) resources: NameList,
}

/// The head of version 1.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadV1 {
    node: String,
    export: String,
    epoch: String,
    from: u64,
    to: u64,
    #[serde(default)]
    lost: u64,
    events: usize,
    span: Option<(i64, i64)>,
    devices: BTreeSet<String>,
}

impl From<HeadV1> for Head {
    fn from(old: HeadV1) -> Self {
        let HeadV1 { node, export, epoch, from, to, lost, events, span, devices } = old;
        let mut listed = NameList { names: devices, and_others: false };
        if listed.names.len() > NAMES_MAX || listed.bytes() > NAMES_BYTES_MAX {
            listed = NameList { names: BTreeSet::new(), and_others: true };
        }
        let resources = NameList { names: BTreeSet::new(), and_others: true };
        Self { node, export, epoch, from, to, lost, events, span, devices: listed, resources }
    }
}

/// As much of a reading as is looked at when it comes in.
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
        devices: NameList::default(),
        resources: NameList::default(),
    };
    let (mut devices, mut resources) = (Naming::default(), Naming::default());
    for (number, line) in event_lines(lines) {
        let mut are_names_good = true;
        let event = event::read(line, |reading: ReadingLine<'_>| {
            are_names_good &= is_name_good(&reading.resource_name);
            if are_names_good {
                head.widen(reading.origin);
                resources.add(reading.resource_name);
            }
        });
        let event = event.map_err(|error| malformed(number, error.to_string()))?;
        let Some(origin) = event.origin else { return Err(malformed(number, "missing field `origin`")) };
        if event.api_version.is_some_and(|version| version != API_VERSION) {
            return Err(malformed(number, format!("apiVersion is not `{API_VERSION}`")));
        }
        if !are_names_good || !is_name_good(&event.device_name) {
            return Err(malformed(
                number,
                format!("a device or resource name is empty or longer than {NAME_BYTES_MAX} bytes"),
            ));
        }
        head.events += 1;
        if head.events > header.events {
            break;
        }
        head.widen(origin);
        devices.add(event.device_name);
    }
    if head.events != header.events {
        return Err(malformed(
            1,
            format!("the header promises {} events, the body has {}", header.events, event_lines(lines).count()),
        ));
    }
    (head.devices, head.resources) = (devices.list, resources.list);
    Ok(head)
}

fn is_name_good(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX
}

fn check_header(header: &BatchHeader) -> Result<(), BatchError> {
    if header.version != 1 {
        return Err(malformed(1, format!("version {} is not known; this hub takes 1", header.version)));
    }
    if header.export.is_empty() || header.export.len() > EXPORT_BYTES_MAX {
        return Err(malformed(1, format!("export must have 1 to {EXPORT_BYTES_MAX} bytes")));
    }
    if header.epoch.is_empty() || header.epoch.len() > EPOCH_BYTES_MAX {
        return Err(malformed(1, format!("epoch must have 1 to {EPOCH_BYTES_MAX} bytes")));
    }
    if header.events > BATCH_EVENTS_MAX {
        return Err(malformed(1, format!("{} events are more than {BATCH_EVENTS_MAX}", header.events)));
    }
    if header.to > OFFSET_MAX {
        return Err(malformed(1, format!("`to` is {}; no journal numbers beyond {OFFSET_MAX}", header.to)));
    }
    let records = header.to.checked_sub(header.from).filter(|records| *records > 0);
    let Some(records) = records else {
        return Err(malformed(1, format!("`to` ({}) must be larger than `from` ({})", header.to, header.from)));
    };
    if records > BATCH_RECORDS_MAX {
        return Err(malformed(1, format!("`from` to `to` are {records} records, more than {BATCH_RECORDS_MAX}")));
    }
    if header.events as u64 > records || header.lost > records - header.events as u64 {
        return Err(malformed(1, "events and lost together are more than the records from `from` to `to`"));
    }
    Ok(())
}

/// The lines that are not empty, with their numbers in the body; the header has been line 1.
pub(crate) fn event_lines(lines: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    (2..).zip(lines.split(|byte| *byte == b'\n')).filter(|(_, line)| !line.trim_ascii().is_empty())
}

/// As much of a reading as says whether a query asks for it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadingName<'a> {
    #[serde(borrow)]
    resource_name: Cow<'a, str>,
}

/// How many readings an event has, when none of them is of the device and the resource that are asked for. Finding that out
/// costs a third of reading the event.
pub(crate) fn foreign_readings(line: &[u8], device: Option<&str>, resource: Option<&str>) -> Option<usize> {
    if device.is_none() && resource.is_none() {
        return None;
    }
    let (mut readings, mut has_resource) = (0, false);
    let event = event::read(line, |reading: ReadingName<'_>| {
        readings += 1;
        has_resource |= resource.is_some_and(|resource| resource == reading.resource_name);
    });
    let event = event.ok()?;
    let is_other_device = device.is_some_and(|device| device != event.device_name);
    (is_other_device || (resource.is_some() && !has_resource)).then_some(readings)
}

impl Head {
    fn widen(&mut self, origin: i64) {
        let (first, last) = self.span.unwrap_or((origin, origin));
        self.span = Some((first.min(origin), last.max(origin)));
    }

    /// What precedes the lines in the journal.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let head = serde_json::to_vec(self).expect("a batch head holds text and numbers only");
        let mut bytes = Vec::with_capacity(5 + head.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&(head.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&head);
        bytes
    }

    /// Whether a record is a batch, of whichever version.
    pub(crate) fn is_batch(record: &[u8]) -> bool {
        matches!(record.first(), Some(&(VERSION_1 | VERSION)))
    }

    /// Splits a stored batch; `None` for a record of another version or form.
    pub(crate) fn decode(record: &Bytes) -> Option<(Self, Bytes)> {
        let (&version, rest) = record.split_first()?;
        let (len, rest) = rest.split_first_chunk()?;
        let len = u32::from_le_bytes(*len) as usize;
        let text = rest.get(..len)?;
        let head = match version {
            VERSION_1 => Self::from(serde_json::from_slice::<HeadV1>(text).ok()?),
            VERSION => serde_json::from_slice(text).ok()?,
            _ => return None,
        };
        Some((head, record.slice(5 + len..)))
    }

    /// Brings numbers within their bounds and says whether it had to: before there were any, a batch could claim to have
    /// lost more records than there are numbers.
    pub(crate) fn clamp(&mut self) -> bool {
        let records = self.to.saturating_sub(self.from);
        let lost_max = records.saturating_sub(self.events as u64).min(BATCH_RECORDS_MAX);
        let is_implausible = self.to > OFFSET_MAX || records > BATCH_RECORDS_MAX || self.lost > lost_max;
        self.lost = self.lost.min(lost_max);
        if is_implausible && records > BATCH_RECORDS_MAX {
            // Nothing of such a header deserves belief.
            self.lost = 0;
        }
        is_implausible
    }
}
