//! A whole system in one test: the built program, other people's clients and servers, waiting with a deadline.
//!
//! - [`program`]: starts `selvedge` roles on folders and ports of their own, kills them, starts them again.
//! - [`kubectl`]: the real kubectl.
//! - [`modbus`]: a Modbus device played by pymodbus.
//! - [`process`]: memory and command lines, as the kernel tells them.
//! - [`forgetful`]: a disk that forgets what was not synced, and fills up on demand.
//! - [`wire`]: the API as bytes on a connection, for clients that no library would let us be.
//! - [`hollow`]: thousands of nodes without containers, in a process of their own.
//! - [`fixture`]: files of former formats.
//! - [`wait`]: `eventually`, which tells the last state seen when its deadline passes.

pub mod fixture;
pub mod forgetful;
pub mod hollow;
pub mod kubectl;
pub mod modbus;
pub mod process;
pub mod program;
pub mod wait;
pub mod wire;

/// Says why a test cannot run here. Where tests must not pass by absence (`CI=true`), that is its failure.
///
/// # Panics
/// In continuous integration.
pub fn skip(reason: &str) {
    assert!(std::env::var("CI").ok().as_deref() != Some("true"), "a test that cannot run is a failure in CI: {reason}");
    eprintln!("skipped: {reason}");
}
