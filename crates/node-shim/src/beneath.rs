//! Opens what lies beneath a directory that somebody else can write to.
//!
//! A path that was checked and is then used by its name may be another one meanwhile: a container swaps a directory for a
//! link, and the node mounts or creates whatever the link leads to (CVE-2017-1002101, CVE-2021-25741). Here every step is
//! taken from a descriptor, by `openat2`, which the kernel has resolve in one go and which never leaves the directory.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// Whose links are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// None: a container can write to the directory.
    Rejected,
    /// All that stay beneath: only the node writes to the directory, as to a ConfigMap's.
    Followed,
}

/// Opens a directory or file by its path, to look at and to mount, not to read.
pub fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens `path` beneath `root`, to look at and to mount. The error says what is wrong with `path`.
pub fn open(root: BorrowedFd<'_>, path: &Path, links: Links) -> Result<OwnedFd, String> {
    check(path)?;
    open_at(root, path, links).map_err(|error| explain(root, path, error))
}

/// As [`open`], following no link, and with what is missing created as directories that have the mode of `root`.
pub fn open_or_create(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, String> {
    create(root, path, |_, _| Ok(()))
}

/// As [`open_or_create`], but the last part is created as a file.
pub fn open_or_create_file(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, String> {
    check(path)?;
    match open_at(root, path, Links::Rejected) {
        Err(Errno::NOENT) => {}
        other => return other.map_err(|error| explain(root, path, error)),
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.map(|parent| open_or_create(root, parent)).transpose()?;
    let parent = parent.as_ref().map_or(root, AsFd::as_fd);
    let name = Path::new(path.file_name().ok_or("it names no file")?);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(error) => return Err(format!("failed to create {}: {error}", path.display())),
    }
    open_at(parent, name, Links::Rejected).map_err(|error| explain(root, path, error))
}

/// Opens a directory again, to be read and handed on.
pub fn reopen_directory(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Whether a descriptor is of a directory.
pub fn is_dir(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode).is_dir())
}

/// `between` is called before each step with the part that is taken: it is where a test is the other container.
fn create(
    root: BorrowedFd<'_>,
    path: &Path,
    mut between: impl FnMut(BorrowedFd<'_>, &Path) -> io::Result<()>,
) -> Result<OwnedFd, String> {
    check(path)?;
    match open_at(root, path, Links::Rejected) {
        Err(Errno::NOENT) => {}
        other => return other.map_err(|error| explain(root, path, error)),
    }
    let failed = |error: io::Error| format!("failed to create {}: {error}", path.display());
    // As in Kubernetes: who may write to the volume may write to its sub path.
    let mode = Mode::from_raw_mode(rustix::fs::fstat(root).map_err(|error| failed(error.into()))?.st_mode);
    let mut dir: Option<OwnedFd> = None;
    for part in path.components().map(|part| Path::new(part.as_os_str())) {
        let here = dir.as_ref().map_or(root, AsFd::as_fd);
        between(here, part).map_err(failed)?;
        let next = match open_at(here, part, Links::Rejected) {
            Err(Errno::NOENT) => create_dir(here, part, mode),
            other => other,
        };
        dir = Some(next.map_err(|error| explain(root, path, error))?);
    }
    dir.ok_or_else(|| "it is empty".to_owned())
}

fn create_dir(parent: BorrowedFd<'_>, name: &Path, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let is_ours = match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => true,
        // Another container of the pod was faster.
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error),
    };
    let dir = open_at(parent, name, Links::Rejected)?;
    if is_ours {
        // Not through the umask, and through a descriptor: by its name it might be something else by now. A container that
        // has put its own directory there gets that one opened up, which it could have done itself.
        let open = rustix::fs::openat(&dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::fs::fchmod(&open, mode & Mode::from_raw_mode(0o3777))?;
    }
    Ok(dir)
}

fn open_at(root: BorrowedFd<'_>, path: &Path, links: Links) -> rustix::io::Result<OwnedFd> {
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    if links == Links::Rejected {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    let mut tries_left = 16;
    loop {
        match rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Something was renamed while the kernel looked, so it cannot say whether the path stays beneath.
            Err(Errno::AGAIN) if tries_left > 0 => tries_left -= 1,
            other => return other,
        }
    }
}

/// The API rejects such paths; what is written here does not rely on it.
fn check(path: &Path) -> Result<(), String> {
    let is_plain = !path.as_os_str().is_empty() && path.components().all(|part| matches!(part, Component::Normal(_)));
    if is_plain { Ok(()) } else { Err("it must be a relative path without `..`".to_owned()) }
}

fn explain(root: BorrowedFd<'_>, path: &Path, error: Errno) -> String {
    match error {
        Errno::LOOP => match first_link(root, path) {
            Some(link) => format!("`{}` is a symbolic link, and a container may have made it", link.display()),
            None => "it passed through a symbolic link, and a container may have made it".to_owned(),
        },
        Errno::XDEV => "a link in it leads out of the volume".to_owned(),
        Errno::NOSYS => "the kernel has no openat2 (Linux 5.6), without which it cannot be opened safely".to_owned(),
        error => io::Error::from(error).to_string(),
    }
}

/// For people only: it may be another one by now.
fn first_link<'a>(root: BorrowedFd<'_>, path: &'a Path) -> Option<&'a Path> {
    let mut above: Vec<&Path> = path.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
    above.reverse();
    above.into_iter().find(|part| {
        let (parent, name) = (part.parent().unwrap_or(Path::new("")), part.file_name().unwrap_or_default());
        let dir = if parent.as_os_str().is_empty() { None } else { open_at(root, parent, Links::Rejected).ok() };
        let dir = dir.as_ref().map_or(root, AsFd::as_fd);
        rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_symlink())
    })
}

#[cfg(test)]
mod tests;
