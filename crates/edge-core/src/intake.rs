//! The one way that events take: queue → journal → bus.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base_journal::{AppendError, Journal};
use edge_bus::{Bus, Made, Message};
use edge_export::EventRecord;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

/// Events that wait for the journal; when it is full, devices and rules are held up.
const WAITING_MAX: usize = 1024;

/// Events written with one sync of the disk.
const BATCH_MAX: usize = 512;

/// How long the first event of a batch waits for others. One sync per reading would wear a small box's flash out; with
/// this, there are at most a hundred in a second, and a reading is on disk some 10 ms after it was made.
const GATHER_PERIOD: Duration = Duration::from_millis(10);

/// Segments given up for one batch when the disk is full. More would empty the journal while somebody else fills the disk.
const SEGMENTS_DROPPED_MAX: usize = 2;

/// How the intake fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IntakeReport {
    /// Events written to the journal since start.
    pub events: u64,
    /// Events that could not be written since start. Rules have seen them all the same.
    pub events_dropped: u64,
    /// Older records given up to make room on a full disk.
    pub records_given_up: u64,
    /// Why events are not written now, with the next step; `None` while all is well.
    pub trouble: Option<String>,
}

/// A running intake.
pub struct Intake {
    /// Where events go; waiting for room in it is the back-pressure on devices.
    pub events: mpsc::Sender<Made>,
    report: Arc<Mutex<IntakeReport>>,
    task: JoinHandle<()>,
}

impl Intake {
    /// How it fares.
    pub fn report(&self) -> IntakeReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until every event that was handed in is written. All other senders must be gone.
    pub async fn drain(self) {
        drop(self.events);
        if let Err(error) = self.task.await {
            error!(%error, "The intake of events ended with a panic.");
        }
    }
}

/// Starts the intake. Every event is written to `journal` and made durable, and published on `bus` then, in the order in
/// which it came. Must be called within a tokio runtime.
///
/// When the disk is full, the oldest records go first; if that does not help, new events are counted as dropped and still
/// published, so that rules go on working. Writing begins again by itself when there is room.
pub fn spawn_intake(journal: Journal, bus: Bus) -> Intake {
    let (events, events_rx) = mpsc::channel(WAITING_MAX);
    let report = Arc::new(Mutex::new(IntakeReport::default()));
    let task = tokio::spawn(run_intake(journal, bus, events_rx, report.clone()));
    Intake { events, report, task }
}

async fn run_intake(journal: Journal, bus: Bus, mut events: mpsc::Receiver<Made>, report: Arc<Mutex<IntakeReport>>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while events.recv_many(&mut batch, BATCH_MAX).await > 0 {
        if batch.len() < BATCH_MAX {
            tokio::time::sleep(GATHER_PERIOD).await;
            while batch.len() < BATCH_MAX
                && let Ok(made) = events.try_recv()
            {
                batch.push(made);
            }
        }
        let records = encode(&batch, journal.record_bytes_max(), &report);
        let count = records.len() as u64;
        let writing = journal.clone();
        let written = match tokio::task::spawn_blocking(move || write(&writing, &records)).await {
            Ok(written) => written,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        note(&report, count, written);
        for Made { event, maker } in batch.drain(..) {
            bus.publish(Message { event: Arc::new(event), maker }).await;
        }
    }
}

fn encode(batch: &[Made], bytes_max: usize, report: &Mutex<IntakeReport>) -> Vec<Vec<u8>> {
    let mut records = Vec::with_capacity(batch.len());
    for made in batch {
        // One event that does not fit must not take the others of its batch with it.
        let problem = match EventRecord::encode(&made.event) {
            Ok(record) if record.len() <= bytes_max => {
                records.push(record);
                continue;
            }
            Ok(record) => format!("it has {} bytes, and the journal takes {bytes_max}", record.len()),
            Err(error) => error.to_string(),
        };
        warn!(device = %made.event.device_name, source = %made.event.source_name, %problem, "An event cannot be written and is left out.");
        report.lock().unwrap_or_else(PoisonError::into_inner).events_dropped += 1;
    }
    records
}

struct Written {
    given_up: u64,
    result: Result<(), AppendError>,
}

fn write(journal: &Journal, records: &[Vec<u8>]) -> Written {
    let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
    if records.is_empty() {
        return Written { given_up: 0, result: Ok(()) };
    }
    let first = journal.first();
    let mut tries_left = SEGMENTS_DROPPED_MAX;
    loop {
        let result = journal.append_and_commit(&records).map(|_| ());
        let may_try_again = match &result {
            Err(AppendError::Full { .. }) => tries_left > 0 && journal.drop_oldest(),
            Err(AppendError::Lost { .. }) => tries_left > 0,
            _ => false,
        };
        if !may_try_again {
            let given_up = if tries_left < SEGMENTS_DROPPED_MAX { journal.first().saturating_sub(first) } else { 0 };
            return Written { given_up, result };
        }
        tries_left -= 1;
    }
}

fn note(report: &Mutex<IntakeReport>, count: u64, written: Written) {
    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
    report.records_given_up += written.given_up;
    let had_trouble = report.trouble.is_some();
    match written.result {
        Ok(()) => {
            report.events += count;
            report.trouble = None;
            if had_trouble {
                info!(dropped = report.events_dropped, "Events are written to the journal again.");
            }
        }
        Err(error) => {
            report.events_dropped += count;
            if !had_trouble {
                error!(%error, "Events cannot be written to the journal; new ones are dropped and counted.");
            }
            report.trouble = Some(format!("{error}; {} events dropped so far", report.events_dropped));
        }
    }
    if written.given_up > 0 {
        warn!(records = written.given_up, "The disk is full; the oldest records were given up.");
    }
}
