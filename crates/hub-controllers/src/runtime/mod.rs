//! What every controller runs on.
//!
//! ```text
//! Reader ──first list, then changes──▶ observe ──keys──▶ Queue ──one key at a time──▶ reconcile ──▶ Writer ──▶ API
//!   ▲                                                     ▲  back-off, requeue after      │
//!   └──────────────── get, by_field ──────────────────────┴───────────────────────────────┘
//! ```
//!
//! - [`Reader`]: the objects of the API, encoded and shared. [`StoreReader`] looks into the store of the embedded API;
//!   [`Reflector`] keeps one watch per kind of a real cluster.
//! - [`queue::Queue`]: keys that are due. One key never runs twice at a time; a key that comes often runs once.
//! - [`Expectations`]: what a key has written and the reader does not show yet.
//! - [`StatusRegistry`]: what each controller did last, for `selvedge status` and `/metrics`.
//! - [`controller::spawn`]: ties these together for one [`Reconciler`].
//!
//! A reconciler is level-triggered: it reads what should be and what is, and takes idempotent steps. A change only says
//! which key to look at.

pub(crate) mod batch;
pub(crate) mod controller;
pub(crate) mod expectations;
pub(crate) mod queue;
mod reader;
mod reflector;
mod status;
mod store_reader;

pub(crate) use controller::{Next, Reconciler};
pub(crate) use expectations::Expectations;
pub(crate) use queue::Queue;
pub use reader::{Change, CustomEvent, Event, Field, ObjectRef, ReadObjectError, Reader, Subscription};
pub use reflector::Reflector;
pub use status::{ControllerError, ControllerStatus, StatusRegistry};
pub use store_reader::StoreReader;
