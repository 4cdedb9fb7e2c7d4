//! What an export does next, decided without I/O: time, records and answers are handed in.
//!
//! The batch being filled covers `[from, position)` of the journal: `from` is where the receiver stands, `position` goes
//! forward record by record. Records that the filter leaves out widen the range without adding a line; records that
//! are gone are counted in it. Only an answer moves `from`.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use api_edge::go_duration;
use api_edge::resources::ExportSpec;
use api_edge::telemetry::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, BatchAnswer, BatchHeader, OFFSET_MAX};
use base_journal::{Chunk, Record};
use base_retry::{Backoff, BackoffLaw, Jitter};
use bytes::Bytes;

use crate::record::EventRecord;
use crate::transport::SendError;

/// A batch is cut at this size: small enough to get through a 2G link before it drops.
const BATCH_BYTES: usize = 512 * 1024;

/// Read this much of the journal at once.
const READ_BYTES: usize = 256 * 1024;

/// An export whose filter lets nothing through tells the receiver after so many records how far it has come, so that
/// the journal may give their room back.
const SILENT_RECORDS_MAX: u64 = 10_000;

/// After failures: a random time below a bound that doubles each time, so that a fleet does not come back all at once.
const BACKOFF: BackoffLaw =
    BackoffLaw::new(Duration::from_millis(500), Duration::from_secs(30)).with_jitter(Jitter::Full);

/// What one export does.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// `namespace/name`.
    pub name: String,
    /// Only events of these devices; empty: all.
    pub devices: BTreeSet<String>,
    /// Events in a batch at most, 1 to [`BATCH_EVENTS_MAX`].
    pub batch_events: usize,
    /// Bytes of event lines in a batch at most; one larger event still goes, alone.
    pub batch_bytes: usize,
    /// How long an event may wait for others.
    pub batch_period: Duration,
    /// After failures.
    pub backoff: BackoffLaw,
    /// Of the random numbers for waiting.
    pub seed: u64,
}

/// A setting of an `Export` that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportOptionsError {
    /// `batchEvents` is out of range.
    #[error("spec.batchEvents is {0}; it must be from 1 to {BATCH_EVENTS_MAX}")]
    BatchEvents(usize),
    /// `batchPeriod` is no duration.
    #[error("spec.batchPeriod `{text}` is not a duration such as `500ms` or `10s`: {why}")]
    BatchPeriod {
        /// As written.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// No receiver is set.
    #[error("spec.to names no receiver; set spec.to.hub: {{}}")]
    NoTarget,
}

impl ExportOptions {
    /// An export of everything with default settings.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            devices: BTreeSet::new(),
            batch_events: 500,
            batch_bytes: BATCH_BYTES,
            batch_period: Duration::from_secs(1),
            backoff: BACKOFF,
            seed: 0,
        }
    }

    /// What the `Export` object `name` (`namespace/name`) asks for.
    pub fn from_spec(name: impl Into<String>, spec: &ExportSpec) -> Result<Self, ExportOptionsError> {
        if !(1..=BATCH_EVENTS_MAX).contains(&spec.batch_events) {
            return Err(ExportOptionsError::BatchEvents(spec.batch_events));
        }
        if spec.to.hub.is_none() {
            return Err(ExportOptionsError::NoTarget);
        }
        let batch_period = go_duration::parse(&spec.batch_period).map_err(|error| ExportOptionsError::BatchPeriod {
            text: spec.batch_period.clone(),
            why: error.to_string(),
        })?;
        let devices = spec.devices.iter().cloned().collect();
        Ok(Self { devices, batch_events: spec.batch_events, batch_period, ..Self::new(name) })
    }
}

/// What the export wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Want {
    /// Read the journal from `from` and call [`ExportCore::take`].
    Read {
        /// Offset.
        from: u64,
        /// How much.
        bytes_max: usize,
    },
    /// Send this and call [`ExportCore::answer`].
    Send(BatchHeader, Vec<Bytes>),
    /// Nothing before this time, whatever comes.
    Wait(Instant),
    /// Nothing until the journal has records from `from` on, or this time is reached.
    More {
        /// Offset.
        from: u64,
        /// When the batch goes as it is.
        until: Option<Instant>,
    },
}

/// What to do after an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// Store the cursor here.
    pub cursor: Option<u64>,
    /// Make the journal go on numbering at the cursor, if it is not there yet: the receiver has seen these offsets.
    pub is_ahead: bool,
}

/// Counts of an export since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events that the receiver has confirmed.
    pub sent: u64,
    /// Batches that the receiver has confirmed.
    pub batches: u64,
    /// Records that were gone before they could be sent.
    pub lost: u64,
    /// Events that the receiver will not take.
    pub refused: u64,
}

/// One export's state.
#[derive(Debug)]
pub struct ExportCore {
    options: ExportOptions,
    epoch: String,
    from: u64,
    position: u64,
    lines: Vec<Bytes>,
    line_bytes: usize,
    lost: u64,
    /// When the first line, or the first lost record, came into the batch.
    begun: Option<Instant>,
    /// Read but not looked at yet.
    ahead: VecDeque<Record>,
    /// Where the records in `ahead` end.
    ahead_end: u64,
    /// The last read found nothing more.
    is_drained: bool,
    /// Smaller than the option while looking for the event that makes the receiver refuse a batch.
    events_max: usize,
    backoff: Backoff,
    retry_at: Option<Instant>,
    counts: Counts,
    last_error: Option<String>,
}

impl ExportCore {
    /// An export of the journal `epoch`, going on at `cursor`.
    pub fn new(options: ExportOptions, epoch: impl Into<String>, cursor: u64) -> Self {
        Self {
            events_max: options.batch_events,
            backoff: Backoff::with_seed(options.backoff, options.seed),
            options,
            epoch: epoch.into(),
            from: cursor,
            position: cursor,
            lines: Vec::new(),
            line_bytes: 0,
            lost: 0,
            begun: None,
            ahead: VecDeque::new(),
            ahead_end: cursor,
            is_drained: false,
            retry_at: None,
            counts: Counts::default(),
            last_error: None,
        }
    }

    /// Where the receiver stands, as far as known.
    pub fn cursor(&self) -> u64 {
        self.from
    }

    /// Counts since the start.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Why the last batch was not taken; `None` once one was.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// What to do next. Asking twice gives the same answer.
    pub fn want(&mut self, now: Instant) -> Want {
        if let Some(until) = self.retry_at.filter(|until| now < *until) {
            return Want::Wait(until);
        }
        self.fill(now);
        let due = self.begun.map(|begun| begun + self.options.batch_period);
        if self.is_full() || due.is_some_and(|due| now >= due) {
            return Want::Send(self.header(), self.lines.clone());
        }
        if self.is_drained {
            return Want::More { from: self.position, until: due };
        }
        Want::Read { from: self.position, bytes_max: READ_BYTES }
    }

    /// The link to the receiver is there again: what waits for the end of a pause is sent within the shortest one.
    pub fn link_restored(&mut self, now: Instant) {
        if let Some(until) = self.retry_at {
            self.backoff.reset();
            self.retry_at = Some(until.min(now + self.backoff.next_delay()));
        }
    }

    /// The journal has more records than the last read found.
    pub fn more_came(&mut self) {
        self.is_drained = false;
    }

    /// Hands in what was read from where [`Want::Read`] said.
    pub fn take(&mut self, chunk: Chunk) {
        self.is_drained = chunk.next == self.position;
        self.ahead_end = chunk.next;
        self.ahead = chunk.records.into();
    }

    /// Hands in the answer to the batch of the last [`Want::Send`].
    pub fn answer(&mut self, answer: Result<BatchAnswer, SendError>, now: Instant) -> Confirmed {
        let answer = match answer {
            // No journal gives such an offset, so the receiver cannot have seen it; the batch is sent again, after a pause.
            Ok(BatchAnswer { next, .. }) | Err(SendError::Elsewhere(BatchAnswer { next, .. })) if next > OFFSET_MAX => {
                Err(SendError::Unreachable(format!("it names offset {next}, which no journal gives")))
            }
            other => other,
        };
        match answer {
            Ok(answer) => {
                self.counts.sent += self.lines.len() as u64;
                self.counts.batches += 1;
                self.counts.lost += self.lost;
                self.events_max = self.options.batch_events;
                self.backoff.reset();
                self.retry_at = None;
                self.last_error = None;
                self.stand_at(answer)
            }
            Err(SendError::Elsewhere(answer)) => {
                // Going there at once is right, but a receiver that contradicts itself must not be asked in a tight loop.
                self.failed(SendError::Elsewhere(answer.clone()).to_string(), now);
                self.stand_at(answer)
            }
            Err(SendError::Refused(why)) => {
                self.refused(&why);
                self.failed(SendError::Refused(why).to_string(), now);
                Confirmed::default()
            }
            Err(error) => {
                self.failed(error.to_string(), now);
                Confirmed::default()
            }
        }
    }

    fn failed(&mut self, why: String, now: Instant) {
        self.retry_at = Some(now + self.backoff.next_delay());
        self.last_error = Some(why);
    }

    /// Halves the batch until the event that the receiver will not take stands alone, then leaves that one out.
    fn refused(&mut self, why: &str) {
        if self.lines.len() > 1 {
            self.events_max = self.lines.len() / 2;
            self.restart_at(self.from);
        } else if self.lines.pop().is_some() {
            tracing::error!(export = %self.options.name, from = self.from, to = self.position, why,
                "The receiver refuses an event; it is left out.");
            // Full at once: what is confirmed moves past the event before anything joins the batch, else the next refusal
            // would come back to it.
            self.line_bytes = self.options.batch_bytes;
            self.lost += 1;
            self.counts.refused += 1;
            self.events_max = self.options.batch_events;
        }
    }

    /// Goes on where the receiver stands.
    fn stand_at(&mut self, answer: BatchAnswer) -> Confirmed {
        if answer.epoch != self.epoch {
            // It speaks of another journal; nothing can be learned from its offset.
            return Confirmed::default();
        }
        if answer.next == self.position {
            self.from = answer.next;
            self.clear_batch();
            return Confirmed { cursor: Some(self.from), is_ahead: false };
        }
        if answer.next < self.from {
            tracing::warn!(export = %self.options.name, from = self.from, next = answer.next,
                "The receiver stands further back; sending again what it lacks.");
        }
        let is_ahead = answer.next > self.position;
        self.restart_at(answer.next);
        Confirmed { cursor: Some(self.from), is_ahead }
    }

    fn restart_at(&mut self, from: u64) {
        self.from = from;
        self.position = from;
        self.ahead.clear();
        self.ahead_end = from;
        self.is_drained = false;
        self.clear_batch();
    }

    fn clear_batch(&mut self) {
        self.lines.clear();
        self.line_bytes = 0;
        self.lost = 0;
        self.begun = None;
    }

    /// Moves records from `ahead` into the batch until it is full.
    fn fill(&mut self, now: Instant) {
        while !self.is_full() {
            let Some(record) = self.ahead.front() else {
                // What a read leaves out at its end is gone as well.
                self.pass_lost(self.ahead_end, now);
                return;
            };
            let offset = record.offset;
            let event = EventRecord::decode(&record.payload);
            match event {
                Ok(event) if !self.is_wanted(event.device_name()) => {
                    self.pass_lost(offset, now);
                }
                Ok(event) => {
                    let bytes = event.json().len() + 1;
                    if !self.lines.is_empty() && self.line_bytes + bytes > self.options.batch_bytes {
                        // Full in bytes; `is_full` sees that by the mark that no further line fits.
                        self.line_bytes = self.options.batch_bytes;
                        return;
                    }
                    self.pass_lost(offset, now);
                    self.line_bytes += bytes;
                    self.lines.push(event.json().clone());
                    self.begun.get_or_insert(now);
                }
                Err(error) => {
                    tracing::error!(export = %self.options.name, offset, %error, "A journal record cannot be sent.");
                    self.pass_lost(offset + 1, now);
                }
            }
            self.position = offset + 1;
            self.ahead.pop_front();
        }
    }

    /// Counts what lies between the position and `to` as lost.
    fn pass_lost(&mut self, to: u64, now: Instant) {
        if to > self.position {
            self.lost += to - self.position;
            self.position = to;
            self.begun.get_or_insert(now);
        }
    }

    fn is_wanted(&self, device: &str) -> bool {
        self.options.devices.is_empty() || self.options.devices.contains(device)
    }

    fn is_full(&self) -> bool {
        self.lines.len() >= self.events_max.clamp(1, BATCH_EVENTS_MAX)
            || self.line_bytes >= self.options.batch_bytes.min(BATCH_BYTES_MAX)
            || self.position - self.from >= SILENT_RECORDS_MAX
    }

    fn header(&self) -> BatchHeader {
        BatchHeader {
            version: 1,
            export: self.options.name.clone(),
            epoch: self.epoch.clone(),
            from: self.from,
            to: self.position,
            lost: self.lost,
            events: self.lines.len(),
        }
    }
}
