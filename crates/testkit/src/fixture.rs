//! Files of former formats, which every later program must read.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

/// A copy of a directory with all that is in it: whoever opens a fixture may write to it.
///
/// # Panics
/// When the directory is not there or cannot be copied.
pub fn copy_of(from: &Path) -> TempDir {
    let to = tempfile::tempdir().expect("a temporary directory");
    copy(from, to.path());
    to
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&target).expect("a directory");
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}
