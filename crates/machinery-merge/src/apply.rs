//! Who owns which fields of an object, and what an applied configuration makes of it: server-side apply.
//!
//! ```text
//! create, update, patch:  live, new ──▶ FieldManager::update ──▶ Managed (of the new object)
//! apply:       live, configuration ──▶ FieldManager::apply  ──▶ object, Managed   or conflicts
//! ```
//!
//! An object's owners are kept as [`Managed`]: one [`FieldSet`] for each manager, by what it does (`Apply` or `Update`), at
//! which version and through which subresource. A writer that updates owns what it changed, and takes it from all others. A
//! writer that applies owns what its configuration names; what it named before and no longer does is removed, unless
//! somebody else owns it too. To change what another owns is a conflict, unless it is forced.
//!
//! The object and its owners are handed in apart, because they are stored apart: `metadata.managedFields` of a live object
//! is not looked at.

mod cap;
mod conflict;
mod last_applied;
mod managed;
mod manager;
mod scale;
mod updater;

pub(crate) use managed::seconds;

pub use conflict::{Conflict, Conflicts};
pub use managed::{DecodeManagedError, Managed, ManagerId, Operation, VersionedSet};
pub use manager::{Applied, ApplyError, ApplyKind, FieldManager, MANAGER_BYTES_MAX, manager_of_user_agent};
pub use scale::ReplicasPath;

#[cfg(test)]
mod tests;
