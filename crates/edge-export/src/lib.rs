//! Carries events from the node's journal to a receiver: loses nothing, sends nothing twice.
//!
//! An export is a cursor on the journal. Its core ([`core`]) decides in plain functions what to read, when a batch is
//! full, what an answer means and how long to wait after a failure; the loop ([`spawn_export`]) does the reading and
//! sending it asks for. The receiver remembers where it stands (see `api_edge::telemetry`), so a batch whose answer
//! was lost is recognised when it comes again, in whatever cut.
//!
//! `journal ──read──▶ filter ──▶ batch [from, to) ──send──▶ receiver ──next──▶ cursor`

pub mod core;
pub mod record;
mod run;
mod transport;

pub use self::core::{ExportOptions, ExportOptionsError};
pub use record::EventRecord;
pub use run::{ExportHandle, ExportStatus, cursor_name, spawn_export};
pub use transport::{BatchTransport, BoxFuture, SendError, encode_body};

#[cfg(test)]
mod tests;
