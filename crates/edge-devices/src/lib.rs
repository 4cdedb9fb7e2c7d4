//! The drivers: one module of one shape per protocol.
//!
//! - [`host`]: this machine's own processor, memory, disks, network and temperature sensors.
//! - [`modbus`]: Modbus TCP.
//!
//! Each has `config.rs` (what attributes and protocol properties mean, checked without I/O), `driver.rs` (the sessions)
//! and `tests.rs`. A driver moves raw values only; everything else is done by `edge-device-sdk`.

pub mod host;
pub mod modbus;

use std::sync::Arc;

use edge_device_sdk::Driver;

/// Every driver that is built in.
pub fn all() -> Vec<Arc<dyn Driver>> {
    vec![Arc::new(host::HostDriver::new()), Arc::new(modbus::ModbusDriver::new())]
}
