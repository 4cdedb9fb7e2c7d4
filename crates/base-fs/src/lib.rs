//! Files that survive a power cut: atomic writes, locks on directories, private modes, format versions.
//!
//! - [`write_private`] and [`write_public`] replace a file as a whole: after a power cut it holds the old bytes or the new
//!   ones, and when they return, the new ones. [`write_if_changed`] spares the disk a write that changes nothing.
//! - [`DirLock`] keeps a second process from a directory, until it is dropped or its process dies.
//! - [`create_private_dir_all`] makes directories that only their owner may enter, whatever the umask.
//! - [`Format`] marks a directory with the version of what is in it; a newer one is rejected untouched.
//! - [`read_bounded`] reads a file only up to a size, [`free_space`] says how much a disk still takes.
//! - [`remove_tree`] removes directories however deep somebody made them.
//! - [`unmap_untouched_files`] gives back the memory of code that was only needed once.
//!
//! Everything is synchronous; async callers use their runtime's pool for blocking work. Keys, tokens, configuration, status
//! files and locks of every plane go through here; logs and databases have formats of their own (`base-journal`,
//! `machinery-store`). Try it with `cargo test -p base-fs`, as root with FUSE to include the power cuts. What breaks when it
//! breaks is what a node or hub remembers across a power cut.

mod atomic;
mod dirs;
mod format;
mod lock;
mod mapped;
mod read;
mod tree;

pub use atomic::{Access, WriteFileError, write_atomic, write_if_changed, write_private, write_public};
pub use dirs::{DirError, Space, create_private_dir_all, free_space, make_dir_private, sync_dir};
pub use format::{Format, FormatError, VERSION_FILE};
pub use lock::DirLock;
pub use mapped::unmap_untouched_files;
pub use read::{ReadFileError, read_bounded};
pub use tree::remove_tree;

#[cfg(test)]
mod tests;
