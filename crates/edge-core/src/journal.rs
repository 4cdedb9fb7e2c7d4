//! What the journal keeps, and what it can tell.

use api_edge::edgex::Reading;
use api_edge::status::JournalReport;
use base_journal::{Journal, ReadError};
use edge_export::EventRecord;

/// Bytes read at a time while looking for the last readings.
const READ_BYTES: usize = 256 * 1024;

/// Records looked at for one answer; older readings need core-data's index, which comes later.
const RECORDS_LOOKED_AT_MAX: u64 = 4096;

/// Most readings in one answer.
pub const READINGS_MAX: usize = 1000;

/// How deep the journal is: `depth` counts what the slowest cursor has not confirmed, 0 when there is no cursor.
pub fn report(journal: &Journal) -> JournalReport {
    let (first, next) = (journal.first(), journal.next());
    let slowest = journal.cursors().into_iter().map(|(_, offset)| offset).min();
    JournalReport {
        first,
        next,
        bytes: journal.bytes(),
        depth: slowest.map_or(0, |slowest| next.saturating_sub(slowest.max(first))),
    }
}

/// Gives back what every cursor has passed. Without a cursor everything stays, within the journal's byte cap.
pub fn trim(journal: &Journal) {
    if let Some(slowest) = journal.cursors().into_iter().map(|(_, offset)| offset).min() {
        journal.trim(slowest);
    }
}

/// The last readings, newest first, of one device or of all. Reads the disk.
///
/// # Errors
/// When the journal cannot be read.
pub fn last_readings(journal: &Journal, device: Option<&str>, limit: usize) -> Result<Vec<Reading>, ReadError> {
    let limit = limit.min(READINGS_MAX);
    let end = journal.next();
    let mut from = journal.first().max(end.saturating_sub(RECORDS_LOOKED_AT_MAX));
    let mut readings = std::collections::VecDeque::new();
    while from < end {
        let chunk = journal.read(from, READ_BYTES)?;
        if chunk.next == from {
            break;
        }
        from = chunk.next;
        for record in &chunk.records {
            let Ok(record) = EventRecord::decode(&record.payload) else { continue };
            if device.is_some_and(|device| device != record.device_name()) {
                continue;
            }
            // A record that is no event was written by a newer version; it is not ours to judge here.
            let Ok(event) = record.event() else { continue };
            for reading in event.readings {
                readings.push_front(reading);
                readings.truncate(limit);
            }
        }
    }
    Ok(readings.into())
}
