//! A whole system in one test: the built program, other people's clients and servers, waiting with a deadline.
//!
//! ```text
//!            ┌ program   starts, kills, freezes the roles of the built program     ┐
//! a test ───▶┤ kubectl · modbus   other people's programs, in pinned versions       ├──▶ wait::eventually
//!            │ wire      the API as bytes, for clients that no library lets us be   │    (deadline, last state seen)
//!            │ proxy     between node and hub: slow, frozen, away, lying, by rule   │
//!            └ hollow    thousands of nodes without containers, on top of wire      ┘
//! image      images of containers from lists of entries, broken ones too
//! registry   serves images, and what registries do on bad days
//! vm         a virtual machine that can be cut off its power, rebooted, starved
//! forgetful  a disk that loses what was not synced · fixture  former formats · process  what the kernel counts · figures  of examples
//! ```
//!
//! - **Where is it?** Roles of the program, their directories, ports and logs: [`program`]. kubectl: [`kubectl`]. A Modbus device: [`modbus`].
//!   An attacker's connection: [`wire`]. A bad line, a hub that lies: [`proxy`]. A real kube-apiserver: [`apiserver`]. A fleet: [`hollow`]. A power cut, a full disk: [`forgetful`]; of a whole machine: [`vm`]. An image: [`image`], from a registry: [`registry`]. A data directory of an
//!   older version: [`fixture`]. Memory and CPU of a process: [`process`]. Waiting: [`wait`]. The suites that use it: `tests/tests/it`.
//! - **May I touch it?** Yes; nothing of it is shipped. What tests rely on must hold: a deadline on everything that is awaited, ports and
//!   directories of its own for each test, no traffic beyond loopback, and every process ended by its own id.
//! - **How do I try it?** `cargo test -p testkit` (the forgetful disk needs root and `/dev/fuse`); through it everything else:
//!   `cargo xtask test --black-box FILTER`.
//! - **What breaks?** Tests fail, or worse: pass without having looked. So what cannot run calls [`skip`], which is a failure in
//!   continuous integration, and [`wait::eventually`] names the last state that it saw.

pub mod apiserver;
pub mod disk;
pub mod figures;
pub mod fixture;
pub mod forgetful;
pub mod hollow;
pub mod image;
pub mod kubectl;
pub mod modbus;
pub mod process;
pub mod program;
pub mod proxy;
pub mod registry;
pub mod vm;
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
