//! Files that survive a power cut: atomic writes, directory locks, private modes.
