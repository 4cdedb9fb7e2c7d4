//! Removal of directories that anybody may have filled.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

/// Removes a directory and all that is below it, however deep: a few descriptors and kilobytes are open at any time, where a
/// removal that descends needs some of each for every level. Links are not followed.
///
/// A directory that is not empty is moved up before it is emptied, to a name of its own in `path`: a removal that is cut off has left
/// less, and the next one continues.
///
/// # Errors
/// When `path` is not there or no directory, or the file system refuses: something is mounted below, or the disk is read-only.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let top = open_directory(rustix::fs::CWD, path)?;
    let mut moved = 0;
    each_name(&top, |name| {
        if !remove_entry(&top, name)? {
            let dir = open_directory(&top, name)?;
            each_name(&dir, |inner| match remove_entry(&dir, inner)? {
                true => Ok(()),
                false => move_up(dir.as_fd(), inner, top.as_fd(), &mut moved),
            })?;
            rustix::fs::unlinkat(&top, name, AtFlags::REMOVEDIR)?;
        }
        Ok(())
    })?;
    std::fs::remove_dir(path)
}

fn open_directory(dir: impl AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, path, flags, Mode::empty())?)
}

/// Calls for every name in a directory until none is left: what is called removes it.
fn each_name(dir: &OwnedFd, mut remove: impl FnMut(&CStr) -> io::Result<()>) -> io::Result<()> {
    loop {
        let mut is_empty = true;
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                is_empty = false;
                remove(name)?;
            }
        }
        if is_empty {
            return Ok(());
        }
    }
}

/// Removes what is no directory, or an empty one; `false` when something is in it.
fn remove_entry(dir: &OwnedFd, name: &CStr) -> io::Result<bool> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        // Of a directory Linux says the one, POSIX the other.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(true),
        removed => return Ok(removed.map(|()| true)?),
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn move_up(dir: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        match rustix::fs::renameat(dir, name, top, format!(".removed-{moved}")) {
            // Somebody else's, or of a removal that was cut off. An empty directory is replaced.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            renamed => return Ok(renamed?),
        }
    }
}
