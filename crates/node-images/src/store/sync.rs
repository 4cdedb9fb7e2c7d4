//! Brings an unpacked layer to disk before it gets its name.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, OFlags};

/// `FUSE_SUPER_MAGIC`. The kernel reports no `syncfs` to a file system in user space.
const FUSE: i64 = 0x6573_5546;

/// Waits until all that is in `dir` is on disk.
pub(super) fn sync_tree(dir: &Path) -> io::Result<()> {
    let root = File::open(dir)?;
    if rustix::fs::fstatfs(&root)?.f_type as i64 == FUSE {
        return sync_each(root);
    }
    Ok(rustix::fs::syncfs(&root)?)
}

/// Syncs files and directories one by one. No deeper than the unpacker lets a layer be.
fn sync_each(dir: File) -> io::Result<()> {
    let mut entries = Dir::read_from(&dir)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let found = rustix::fs::statat(&dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => {
                sync_each(File::from(rustix::fs::openat(&dir, name, flags | OFlags::DIRECTORY, Mode::empty())?))?;
            }
            FileType::RegularFile => {
                File::from(rustix::fs::openat(&dir, name, flags, Mode::empty())?).sync_all()?;
            }
            // Links and devices are their names, which the directory's sync brings to disk.
            _ => {}
        }
    }
    dir.sync_all()
}
