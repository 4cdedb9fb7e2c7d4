//! Finding readings: the index names blocks, their batches are read and filtered, page by page.
//!
//! Readings come in the order in which they were stored, which for a device is the order in which its node read them.
//! A page ends at a number of readings, of bytes to answer, or of bytes to search, so a rare resource in a full store costs
//! many small requests and not one that holds the hub up.

use api_edge::edgex::{Event, Reading};
use api_edge::telemetry::StoredReading;
use base_journal::ReadError;
use bytes::Bytes;
use serde::Serialize;
use tracing::warn;

use crate::batch::{self, Head};
use crate::index::Filter;
use crate::store::{Telemetry, lock};

/// Readings in a page when the query does not say.
const LIMIT_DEFAULT: usize = 1_000;

/// Most readings in a page.
const LIMIT_MAX: usize = 10_000;

/// A page ends when its readings came from events of so many bytes: what one request may cost in memory.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A page ends when so much was searched: half a second of a slow disk.
const SEARCH_BYTES_MAX: usize = 32 * 1024 * 1024;

const READ_BYTES: usize = 1024 * 1024;

/// Which readings are wanted. Absent parts mean all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadingsQuery {
    /// Of this node.
    pub node: Option<String>,
    /// Of this device.
    pub device: Option<String>,
    /// Of this resource.
    pub resource: Option<String>,
    /// Of this time or later, in nanoseconds since 1970.
    pub from: Option<i64>,
    /// Before this time, in nanoseconds since 1970.
    pub to: Option<i64>,
    /// Readings in a page; 1,000 unless told, at most 10,000.
    pub limit: Option<usize>,
    /// [`ReadingsPage::next`] of the page before.
    pub after: Option<String>,
}

/// Some readings, and how to get the following ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReadingsPage {
    /// In the order in which they were stored.
    pub readings: Vec<StoredReading>,
    /// For [`ReadingsQuery::after`]; none at the end. A page may be empty and yet have a next one.
    pub next: Option<String>,
}

/// Why a query was not answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The token is none of ours.
    #[error("after `{0}` is not a token from an earlier answer; leave it out to begin anew")]
    Token(String),
    /// The limit is out of range.
    #[error("limit is {0}; it must be from 1 to {LIMIT_MAX}")]
    Limit(usize),
    /// The disk failed.
    #[error("failed to read stored batches")]
    Read(#[from] ReadError),
}

/// A place between two readings: a stored batch, and how many of its events were looked at with the readings of the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    offset: u64,
    readings: usize,
}

impl Place {
    fn parse(text: &str) -> Result<Self, QueryError> {
        let parsed = text.split_once('.').and_then(|(offset, readings)| {
            Some(Self { offset: offset.parse().ok()?, readings: readings.parse().ok()? })
        });
        parsed.ok_or_else(|| QueryError::Token(text.chars().take(64).collect()))
    }

    fn token(self) -> String {
        format!("{}.{}", self.offset, self.readings)
    }
}

impl Telemetry {
    /// Finds readings, oldest stored first.
    pub fn query(&self, query: &ReadingsQuery) -> Result<ReadingsPage, QueryError> {
        let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(QueryError::Limit(limit));
        }
        let mut place = query.after.as_deref().map(Place::parse).transpose()?.unwrap_or_default();
        let filter =
            Filter { node: query.node.as_deref(), device: query.device.as_deref(), from: query.from, to: query.to };
        let journal = &self.inner.journal;
        let mut page = Page { query, filter, limit, readings: Vec::new(), bytes: 0 };
        let mut searched = 0;
        loop {
            let found = lock(&self.inner.tables).index.find(place.offset, &page.filter);
            let Some((start, end)) = found else { return Ok(page.done(None)) };
            if start > place.offset {
                place = Place { offset: start, readings: 0 };
            }
            while end.is_none_or(|end| place.offset < end) {
                let chunk = journal.read(place.offset, READ_BYTES)?;
                if chunk.next == place.offset {
                    return Ok(page.done(None));
                }
                for record in chunk.records {
                    if record.offset > place.offset {
                        // What was here is gone.
                        place = Place { offset: record.offset, readings: 0 };
                    }
                    if end.is_some_and(|end| record.offset >= end) {
                        break;
                    }
                    searched += record.payload.len();
                    if let Some(readings) = page.take(&record.payload, place.readings) {
                        place.readings = readings;
                        return Ok(page.done(Some(place)));
                    }
                    place = Place { offset: record.offset + 1, readings: 0 };
                }
                let reached = end.map_or(chunk.next, |end| chunk.next.min(end));
                if place.offset < reached {
                    place = Place { offset: reached, readings: 0 };
                }
                if searched >= SEARCH_BYTES_MAX {
                    return Ok(page.done(Some(place)));
                }
            }
        }
    }
}

struct Page<'q> {
    query: &'q ReadingsQuery,
    filter: Filter<'q>,
    limit: usize,
    readings: Vec<StoredReading>,
    /// Of the events that the readings came from.
    bytes: usize,
}

impl Page<'_> {
    fn done(self, next: Option<Place>) -> ReadingsPage {
        ReadingsPage { readings: self.readings, next: next.map(Place::token) }
    }

    /// Takes what is wanted of a stored batch, leaving out its first `skip` readings. When the page gets full, answers
    /// how many readings of the batch were looked at.
    fn take(&mut self, record: &Bytes, skip: usize) -> Option<usize> {
        let (head, lines) = Head::decode(record)?;
        let is_other_node = self.filter.node.is_some_and(|node| node != head.node);
        let is_other_device = self.filter.device.is_some_and(|device| !head.devices.contains(device));
        if is_other_node || is_other_device || !self.filter.meets(head.span) {
            return None;
        }
        let mut seen = 0;
        for (_, line) in batch::event_lines(&lines) {
            let event: Event = match serde_json::from_slice(line) {
                Ok(event) => event,
                Err(error) => {
                    // It was taken in, because it could be indexed; readings that EdgeX would not understand are told here.
                    warn!(node = %head.node, export = %head.export, %error, "A stored event does not parse.");
                    continue;
                }
            };
            for reading in event.readings {
                seen += 1;
                if seen <= skip || !self.is_wanted(&reading) {
                    continue;
                }
                if self.readings.len() >= self.limit || self.bytes >= PAGE_BYTES_MAX {
                    return Some(seen - 1);
                }
                self.bytes += line.len();
                self.readings.push(StoredReading { node: head.node.clone(), event_id: event.id.clone(), reading });
            }
        }
        None
    }

    fn is_wanted(&self, reading: &Reading) -> bool {
        self.query.device.as_ref().is_none_or(|device| *device == reading.device_name)
            && self.query.resource.as_ref().is_none_or(|resource| *resource == reading.resource_name)
            && self.query.from.is_none_or(|from| reading.origin >= from)
            && self.query.to.is_none_or(|to| reading.origin < to)
    }
}
