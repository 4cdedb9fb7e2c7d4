//! A whole system in one test: the built program, other people's clients and servers, waiting with a deadline.
//!
//! - [`program`]: starts `selvedge` roles on folders and ports of their own, kills them, starts them again.
//! - [`kubectl`]: the real kubectl.
//! - [`modbus`]: a Modbus device played by pymodbus.
//! - [`process`]: memory and command lines, as the kernel tells them.
//! - [`forgetful`]: a disk that forgets what was not synced, and fills up on demand.
//! - [`fixture`]: files of former formats.
//! - [`wait`]: `eventually`, which tells the last state seen when its deadline passes.

pub mod fixture;
pub mod forgetful;
pub mod kubectl;
pub mod modbus;
pub mod process;
pub mod program;
pub mod wait;
