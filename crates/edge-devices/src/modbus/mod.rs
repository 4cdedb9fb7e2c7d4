//! Modbus TCP devices: `serviceName: modbus`, as EdgeX's device-modbus describes them.
//!
//! ```yaml
//! # Device
//! protocols:
//!   modbus-tcp: { Address: 192.0.2.7, Port: 502, UnitID: 1, Timeout: 5, IdleTimeout: 5 }   # times in seconds
//! # Profile
//! deviceResources:
//!   - name: RoomTemperature
//!     attributes: { primaryTable: INPUT_REGISTERS, startingAddress: 3, rawType: Int16 }
//!     properties: { valueType: Float32, scale: 0.1 }
//!   - name: Fault
//!     attributes: { primaryTable: HOLDING_REGISTERS, startingAddress: "10.15" }   # bit 15 of register 10
//!     properties: { valueType: Bool }
//! ```
//!
//! Addresses count from 0, as on the wire. Values of several registers are big-endian; `isByteSwap` swaps the bytes of each
//! register, `isWordSwap` turns the order of the registers around. Resources of one command that lie near each other are
//! read with one request.

mod codec;
mod config;
mod driver;
mod requests;

pub use config::{Endpoint, Point, Table};
pub use driver::ModbusDriver;

#[cfg(test)]
mod tests;
