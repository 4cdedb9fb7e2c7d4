//! The core of the edge plane: what a valid device is, and the one way that events take.
//!
//! ```text
//! devices ─┐                                    ┌─▶ rules
//!          ├─▶ [queue] intake ─▶ journal ─▶ bus ┼─▶ watchers
//! rules ───┘         (one write per batch)      └─  exports read the journal themselves
//! ```
//!
//! - [`metadata`]: the checks that EdgeX's core-metadata makes on profiles and devices.
//! - [`Intake`]: takes events from those who make them, writes each once, then shows it to everyone.
//! - [`journal`]: how much is kept, and the last readings from it.

mod intake;
pub mod journal;
pub mod metadata;

pub use intake::{Intake, IntakeReport, spawn_intake};

#[cfg(test)]
mod tests;
