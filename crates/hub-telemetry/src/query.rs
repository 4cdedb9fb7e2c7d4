//! Finding readings: the index names blocks, their batches are read and filtered, page by page.
//!
//! Readings come in the order in which they were stored, which for a device is the order in which its node read them, or
//! in the reverse of it. A page ends at a number of readings, of bytes to answer, or of bytes to search, so what is rare
//! in a full store costs some requests of a second or two, and not one that holds a thread for minutes.

use std::collections::HashSet;

use api_edge::edgex::{Event, Reading};
use api_edge::telemetry::StoredReading;
use base_journal::ReadError;
use bytes::Bytes;
use serde::Serialize;
use tracing::warn;

use crate::batch::{self, Head};
pub use crate::index::Order;
use crate::index::{Filter, Found};
use crate::pack::{self, Numbered, Special};
use crate::store::{Telemetry, lock};

/// Readings in a page when the query does not say.
const LIMIT_DEFAULT: usize = 1_000;

/// Most readings in a page.
const LIMIT_MAX: usize = 10_000;

/// A page ends when its readings came from events of so many bytes: what one request may cost in memory.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A page ends when so much was searched, a second or two of work, however little was found: a million readings fit, so
/// a rare one among them is found in the first page.
const SEARCH_BYTES_MAX: usize = 256 * 1024 * 1024;

const READ_BYTES: usize = 1024 * 1024;

/// Blocks that are looked up at a time.
const FIND_BLOCKS: usize = 32;

/// Which readings to find. Absent parts mean all.
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
    /// Which come first.
    pub order: Order,
    /// Readings in a page; 1,000 unless given, at most 10,000.
    pub limit: Option<usize>,
    /// [`ReadingsPage::next`] of the page before.
    pub after: Option<String>,
}

/// Some readings, and how to get the following ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReadingsPage {
    /// In the order in which they were stored, or the reverse of it.
    pub readings: Vec<StoredReading>,
    /// For [`ReadingsQuery::after`]; none at the end. A page may be empty and yet have a next one.
    pub next: Option<String>,
}

/// The newest reading of each resource of each device.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LatestReadings {
    /// The one stored last comes first.
    pub readings: Vec<StoredReading>,
    /// There is none beside them; false when the limit of readings, or of bytes to search, was reached first.
    pub complete: bool,
}

/// Why a query was not answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The token is none of ours.
    #[error("after `{0}` is not a token from an earlier answer in this order; leave it out to begin anew")]
    Token(String),
    /// The limit is out of range.
    #[error("limit is {0}; it must be from 1 to {LIMIT_MAX}")]
    Limit(usize),
    /// The disk failed.
    #[error("failed to read stored batches")]
    Read(#[from] ReadError),
}

/// A place between two readings: the batch to continue with, and how many of its readings were looked at. In reverse order
/// batches come from this one back, and readings are counted from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    number: u64,
    readings: usize,
}

impl Place {
    fn begin(order: Order) -> Self {
        let number = match order {
            Order::Oldest => 0,
            Order::Newest => u64::MAX,
        };
        Self { number, readings: 0 }
    }

    /// Tokens of the two orders differ, since one means nothing in the other.
    fn parse(text: &str, order: Order) -> Result<Self, QueryError> {
        let numbers = match order {
            Order::Oldest => Some(text),
            Order::Newest => text.strip_prefix('-'),
        };
        let parsed = numbers.and_then(|text| text.split_once('.')).and_then(|(number, readings)| {
            Some(Self { number: number.parse().ok()?, readings: readings.parse().ok()? })
        });
        parsed.ok_or_else(|| QueryError::Token(text.chars().take(64).collect()))
    }

    fn token(self, order: Order) -> String {
        let sign = if order == Order::Newest { "-" } else { "" };
        format!("{sign}{}.{}", self.number, self.readings)
    }
}

impl Telemetry {
    /// Finds readings, page by page.
    pub fn query(&self, query: &ReadingsQuery) -> Result<ReadingsPage, QueryError> {
        let order = query.order;
        let place = match query.after.as_deref() {
            Some(token) => Place::parse(token, order)?,
            None => Place::begin(order),
        };
        let mut page = Page::new(query, None)?;
        let next = self.search(order, place, &mut page)?;
        Ok(ReadingsPage { readings: page.readings, next: next.map(|place| place.token(order)) })
    }

    /// Finds the newest reading of each resource of each device of each node that the query wants; order and token of the
    /// query do not matter. Reads from the newest batch back, so what was sent lately is found at once.
    pub fn latest(&self, query: &ReadingsQuery) -> Result<LatestReadings, QueryError> {
        let is_one = query.node.is_some() && query.device.is_some() && query.resource.is_some();
        let query = ReadingsQuery { limit: if is_one { Some(1) } else { query.limit }, ..query.clone() };
        let mut page = Page::new(&query, Some(HashSet::new()))?;
        let next = self.search(Order::Newest, Place::begin(Order::Newest), &mut page)?;
        let complete = next.is_none() || (is_one && !page.readings.is_empty());
        Ok(LatestReadings { readings: page.readings, complete })
    }

    /// Fills a page from `place` on; answers where to continue, or none at the end.
    fn search(&self, order: Order, mut place: Place, page: &mut Page) -> Result<Option<Place>, QueryError> {
        let mut searched = 0;
        // A block that moves while it is looked up is looked up again; one that is not there the second time is damaged.
        let mut missed: Vec<Found> = Vec::new();
        'find: loop {
            let finding = lock(&self.inner.tables).index.find(order, place.number, &page.filter, FIND_BLOCKS);
            for found in finding.blocks {
                let Some(mut batches) = self.load(&found)? else {
                    if !missed.contains(&found) {
                        missed.push(found);
                        continue 'find;
                    }
                    continue;
                };
                if order == Order::Newest {
                    batches.reverse();
                }
                for Numbered { number, record } in batches {
                    let is_passed = match order {
                        Order::Oldest => number < place.number,
                        Order::Newest => number > place.number,
                    };
                    if is_passed {
                        continue;
                    }
                    let skip = if number == place.number { place.readings } else { 0 };
                    searched += record.len();
                    if let Some(readings) = page.take(&record, skip, order) {
                        return Ok(Some(Place { number, readings }));
                    }
                    place = match (order, number) {
                        (Order::Oldest, _) => Place { number: number + 1, readings: 0 },
                        (Order::Newest, 0) => return Ok(None),
                        (Order::Newest, _) => Place { number: number - 1, readings: 0 },
                    };
                    if searched >= SEARCH_BYTES_MAX {
                        return Ok(Some(place));
                    }
                }
            }
            let Some(resume) = finding.resume else { return Ok(None) };
            let is_further = match order {
                Order::Oldest => resume > place.number,
                Order::Newest => resume < place.number,
            };
            if is_further {
                place = Place { number: resume, readings: 0 };
            }
        }
    }

    /// The batches of a block in the order of their numbers; none when they are not there any more.
    fn load(&self, found: &Found) -> Result<Option<Vec<Numbered>>, ReadError> {
        let journal = &self.inner.journal;
        let numbers = &found.numbers;
        if let Some(offset) = found.pack {
            let record = journal.read(offset, 1)?.records.into_iter().next();
            return Ok(record.filter(|record| record.offset == offset).and_then(|record| {
                match pack::decode(&record.payload) {
                    Some(Special::Pack { from, batches, .. }) if from == numbers.start => Some(batches),
                    _ => None,
                }
            }));
        }
        let mut batches = Vec::new();
        let mut offset = numbers.start;
        while offset < numbers.end {
            let chunk = journal.read(offset, READ_BYTES)?;
            if chunk.next == offset {
                break;
            }
            let records = chunk.records.into_iter().filter(|record| numbers.contains(&record.offset));
            batches.extend(
                records
                    .filter(|record| Head::is_batch(&record.payload))
                    .map(|record| Numbered { number: record.offset, record: record.payload }),
            );
            offset = chunk.next;
        }
        // Its segment may have been dropped since it was looked up, and its batches may have moved.
        Ok((journal.first() <= numbers.start).then_some(batches))
    }
}

/// Node, device and resource of a reading.
type Series = (String, String, String);

struct Page<'q> {
    query: &'q ReadingsQuery,
    filter: Filter<'q>,
    limit: usize,
    readings: Vec<StoredReading>,
    /// Of the events that the readings came from.
    bytes: usize,
    /// When only the first reading of each counts: those that were met.
    seen: Option<HashSet<Series>>,
}

impl<'q> Page<'q> {
    fn new(query: &'q ReadingsQuery, seen: Option<HashSet<Series>>) -> Result<Self, QueryError> {
        let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(QueryError::Limit(limit));
        }
        let filter = Filter {
            node: query.node.as_deref(),
            device: query.device.as_deref(),
            resource: query.resource.as_deref(),
            from: query.from,
            to: query.to,
        };
        Ok(Self { query, filter, limit, readings: Vec::new(), bytes: 0, seen })
    }

    /// Takes what the query asks for of a stored batch, leaving out the first `skip` readings. When the page gets full, answers
    /// how many readings of the batch were looked at.
    fn take(&mut self, record: &Bytes, skip: usize, order: Order) -> Option<usize> {
        let (head, lines) = Head::decode(record)?;
        if !self.filter.meets_head(&head) {
            return None;
        }
        let mut lines: Vec<&[u8]> = batch::event_lines(&lines).map(|(_, line)| line).collect();
        if order == Order::Newest {
            lines.reverse();
        }
        let mut looked = 0;
        for line in lines {
            if let Some(readings) = batch::foreign_readings(line, self.filter.device, self.filter.resource) {
                looked += readings;
                continue;
            }
            let event: Event = match serde_json::from_slice(line) {
                Ok(event) => event,
                Err(error) => {
                    // It was taken in, because it could be indexed; readings that EdgeX would not understand show here.
                    warn!(node = %head.node, export = %head.export, %error, "A stored event does not parse.");
                    continue;
                }
            };
            let Event { id, mut readings, .. } = event;
            if order == Order::Newest {
                readings.reverse();
            }
            for reading in readings {
                looked += 1;
                if looked <= skip || !self.is_match(&head, &reading) {
                    continue;
                }
                if let Some(seen) = &mut self.seen {
                    seen.insert((head.node.clone(), reading.device_name.clone(), reading.resource_name.clone()));
                }
                self.bytes += line.len();
                self.readings.push(StoredReading { node: head.node.clone(), event_id: id.clone(), reading });
                // At once, not when one more is met: what is rare may be far from the next of its kind.
                if self.readings.len() >= self.limit || self.bytes >= PAGE_BYTES_MAX {
                    return Some(looked);
                }
            }
        }
        None
    }

    fn is_match(&self, head: &Head, reading: &Reading) -> bool {
        self.query.device.as_ref().is_none_or(|device| *device == reading.device_name)
            && self.query.resource.as_ref().is_none_or(|resource| *resource == reading.resource_name)
            && self.query.from.is_none_or(|from| reading.origin >= from)
            && self.query.to.is_none_or(|to| reading.origin < to)
            && self.seen.as_ref().is_none_or(|seen| {
                let series = (head.node.clone(), reading.device_name.clone(), reading.resource_name.clone());
                !seen.contains(&series)
            })
    }
}
