//! The machine we run on, as a device: `serviceName: host`.
//!
//! A resource says with its attribute `source` what it reads; the table of all sources is [`Sensor`]. The device needs
//! no `protocols`. Everything comes from `/proc`, `/sys` and `statvfs`; nothing is started and nothing is written.
//!
//! ```yaml
//! deviceResources:
//!   - name: cpu
//!     attributes: { source: cpu.usage }
//!     properties: { valueType: Float64, units: "%" }
//!   - name: root-free
//!     attributes: { source: disk.available, path: / }
//!     properties: { valueType: Uint64, units: B }
//! ```

mod config;
mod driver;

pub use config::Sensor;
pub use driver::HostDriver;

#[cfg(test)]
mod tests;
