//! What a device service is in this house: a driver behind one trait, and a manager that does all the rest.
//!
//! A [`Driver`] knows one protocol: it opens a [`DeviceSession`] and moves raw values. The [`DeviceManager`] owns the
//! devices: it keeps their sessions open, reads what is due, turns raw values into EdgeX v3 events, notices that a
//! device is gone and tries again later, and serves commands.
//!
//! ```text
//! one timer ──due──▶ [queue of a device] ──▶ its task: session, transforms, on-change ──▶ [queue] intake
//!                          ▲ read, write
//! ```
//!
//! Every device has a task and a bounded queue of its own: calls to one device never overlap, and a device that is slow
//! or unreachable delays no other.

mod driver;
mod manager;
mod readings;
mod task;
mod transform;

pub use driver::{BoxFuture, DeviceSession, Driver, DriverError, ResourceError, SessionError, WriteFailure};
pub use manager::{AddDeviceError, DeviceManager, ManagerOptions};
pub use readings::Outcome;
pub use task::{CommandError, DeviceReport, OperatingState};
pub use transform::{TransformError, from_write, to_reading};

#[cfg(test)]
mod tests;
