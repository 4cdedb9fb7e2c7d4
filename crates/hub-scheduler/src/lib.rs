//! The hub's scheduler: which node a pod runs on.
//!
//! **Where is it?** A core that decides and knows neither clock nor API, and a thin shell around it.
//!
//! ```text
//! Reader ──changes──▶ scheduler ──▶ cluster (what is where)      ──▶ decide: filters, then scores ──▶ bind
//!                        │            queue (who waits, for what)         │ none suits
//!                        └─────────────────── hints (whom it helps) ◀─────┴──▶ preempt ──▶ delete victims
//! ```
//!
//! | module | what |
//! | --- | --- |
//! | [`pod`], [`node`], [`volumes`] | what pods demand and what nodes and volumes offer, read once from JSON |
//! | [`terms`] | selectors, taints, tolerations |
//! | [`census`] | pods counted by what affinity and spreading ask for |
//! | [`cluster`] | the snapshot that decisions read, changed bit by bit |
//! | [`filters`], [`scores`] | upstream's default plugins as plain functions |
//! | [`decide`] | one decision |
//! | [`preempt`] | whose place a pod takes |
//! | [`message`] | why a pod waits, in upstream's words |
//! | [`queue`], [`hints`] | who waits, and which change helps whom |
//! | `scheduler` | the one task that owns all of it, and what it writes; `metrics`: what it counts |
//!
//! **May I touch it?** Yes: what is decided is compared with a naive implementation that is written from the definitions
//! (`tests/naive.rs`), over random clusters. A rule that changes changes there too.
//!
//! **How do I try it?** `cargo test -p hub-scheduler`; `SEED=42` repeats a run of the comparison.
//! `cargo run -p hub-scheduler --example scheduler-figures` prints how fast it is.
//!
//! **What breaks?** With the scheduler stopped, pods wait and nothing else changes. It keeps nothing: after a restart it reads
//! everything anew, and what it wrote before is not written again.

pub mod census;
pub mod cluster;
pub mod decide;
pub mod filters;
pub mod hints;
pub mod message;
mod metrics;
pub mod node;
mod observe;
pub mod pod;
pub mod preempt;
pub mod queue;
mod scheduler;
pub mod scores;
pub mod terms;
#[cfg(test)]
mod testing;
pub mod volumes;
mod writes;

pub use scheduler::{READ, start};
