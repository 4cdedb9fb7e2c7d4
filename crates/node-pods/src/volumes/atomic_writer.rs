//! Replaces the files of a directory all at once.
//!
//! What a reader sees are links through `..data`, itself a link to the directory of the present version; one rename moves
//! all of them to the next version. The layout is Kubernetes' own, and programs watch for it:
//!
//! ```text
//! .volumes/volume/app.conf -> ..data/app.conf
//! .volumes/volume/..data   -> ..1f3a9c2b7d1e0a44
//! .volumes/volume/..1f3a9c2b7d1e0a44/app.conf
//! .volumes/.volume.version    the name of the present version
//! ```
//!
//! A container once could write to such a volume, and through one it does not mount read-only it still might: nothing that
//! is found there is believed. Each step is taken from a descriptor and follows no link, which version is present is kept
//! outside of the volume, and removed are only names that are of a version's form and directories of this file system.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;

/// A file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub bytes: Vec<u8>,
    pub mode: u32,
    /// Whose it is, where permitted; else the kubelet's own.
    pub owner: Option<u32>,
}

/// Files by their path in the volume; no path is absolute, leads upwards or begins with `..`.
pub(crate) type Content = BTreeMap<String, File>;

const DATA: &str = "..data";

/// A link that becomes another one.
const NEXT: &str = "..data_tmp";

/// What of a version's name follows `..`.
const VERSION_DIGITS: usize = 16;

/// Deeper than any path that the API takes for a file of a volume.
const DEPTH_MAX: usize = 256;

/// What the pod's group may always do with its files, as in Kubernetes.
const GROUP_MODE: u32 = 0o440;

/// A directory's permissions: not through the umask, since the container may run as another user.
const DIR_MODE: u32 = 0o755;

/// Makes `content` the content of `dir`; does nothing when it is already. `group` becomes the files' group where permitted.
pub(crate) fn write(dir: &Path, content: &Content, group: Option<u32>) -> io::Result<()> {
    let content = &for_group(content, group);
    let root = open_dir(CWD, dir)?;
    let (root, record) = (root.as_fd(), record_path(dir)?);
    let present = read_record(&record);
    if let Some(present) = &present
        && is_link_to(root, DATA, present)
        && open_dir(root, Path::new(present)).and_then(|version| is_same(version.as_fd(), content)).unwrap_or(false)
    {
        return link_all(root, content);
    }
    let version = format!("..{}", &uuid::Uuid::new_v4().simple().to_string()[..VERSION_DIGITS]);
    fill(root, &version, content, group)?;
    put_link(root, DATA, &version)?;
    write_record(&record, &version)?;
    link_all(root, content)?;
    // The version before, and those that a killed kubelet left.
    let device = rustix::fs::fstat(root)?.st_dev;
    for name in names(root)?.into_iter().filter(|name| is_version(name) && *name != version) {
        remove_dir(root, Path::new(&name), device, 0)?;
    }
    Ok(())
}

fn for_group(content: &Content, group: Option<u32>) -> Content {
    let mut content = content.clone();
    if group.is_some() {
        content.values_mut().for_each(|file| file.mode |= GROUP_MODE);
    }
    content
}

/// Where the name of the present version is kept: beside the volume, whose own name cannot begin with a point.
fn record_path(dir: &Path) -> io::Result<PathBuf> {
    let name = dir.file_name().ok_or_else(|| io::Error::other("the volume's directory has no name"))?;
    Ok(dir.with_file_name(format!(".{}.version", name.to_string_lossy())))
}

fn read_record(path: &Path) -> Option<String> {
    let mut name = String::new();
    std::fs::File::open(path).ok()?.take(64).read_to_string(&mut name).ok()?;
    is_version(&name).then_some(name)
}

/// Not synced: after a power cut the content is written once more.
fn write_record(path: &Path, version: &str) -> io::Result<()> {
    let draft = path.with_extension("version-tmp");
    std::fs::write(&draft, version)?;
    std::fs::rename(&draft, path)
}

fn is_version(name: &str) -> bool {
    let digits = name.strip_prefix("..").unwrap_or_default();
    digits.len() == VERSION_DIGITS && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Writes a version, which nobody sees yet.
fn fill(root: BorrowedFd<'_>, version: &str, content: &Content, group: Option<u32>) -> io::Result<()> {
    let make_dir = |parent: BorrowedFd<'_>, name: &Path| -> io::Result<OwnedFd> {
        rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
        let dir = open_dir(parent, name)?;
        // Where it is not permitted, the mode decides alone.
        let is_groups = group.is_some() && rustix::fs::fchown(&dir, None, group.map(Gid::from_raw)).is_ok();
        let mode = if is_groups { DIR_MODE | 0o2000 } else { DIR_MODE };
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode))?;
        Ok(dir)
    };
    let version = make_dir(root, Path::new(version))?;
    for (path, file) in content {
        let path = Path::new(path);
        let mut parent = version.try_clone()?;
        for part in path.parent().into_iter().flat_map(Path::components) {
            let part = Path::new(part.as_os_str());
            parent = match open_dir(parent.as_fd(), part) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => make_dir(parent.as_fd(), part)?,
                opened => opened?,
            };
        }
        let name = path.file_name().ok_or_else(|| io::Error::other("a file of the volume has no name"))?;
        // Nobody else's from the first byte on: what it holds may be secret.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut open = std::fs::File::from(rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))?);
        open.write_all(&file.bytes)?;
        if file.owner.is_some() || group.is_some() {
            let _ = rustix::fs::fchown(&open, file.owner.map(Uid::from_raw), group.map(Gid::from_raw));
        }
        // After the owner, whose change takes some bits away.
        rustix::fs::fchmod(&open, Mode::from_raw_mode(file.mode))?;
    }
    Ok(())
}

/// Whether a version is the same to a reader. Owners are left out: giving a file away may not be permitted.
fn is_same(version: BorrowedFd<'_>, content: &Content) -> io::Result<bool> {
    let mut found = 0;
    let mut dirs = vec![(version.try_clone_to_owned()?, String::new())];
    while let Some((dir, above)) = dirs.pop() {
        for name in names(dir.as_fd())? {
            let path = format!("{above}{name}");
            let kind = FileType::from_raw_mode(stat(dir.as_fd(), &name)?.st_mode);
            if kind.is_dir() && above.matches('/').count() < DEPTH_MAX {
                dirs.push((open_dir(dir.as_fd(), Path::new(&name))?, format!("{path}/")));
                continue;
            }
            let Some(expected) = content.get(&path).filter(|_| kind.is_file()) else { return Ok(false) };
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = std::fs::File::from(rustix::fs::openat(&dir, &*name, flags, Mode::empty())?);
            let mode = rustix::fs::fstat(&file)?.st_mode & 0o777;
            let mut bytes = Vec::new();
            file.take(expected.bytes.len() as u64 + 1).read_to_end(&mut bytes)?;
            if bytes != expected.bytes || mode != expected.mode {
                return Ok(false);
            }
            found += 1;
        }
    }
    Ok(found == content.len())
}

/// Makes the visible links those of `content`.
fn link_all(root: BorrowedFd<'_>, content: &Content) -> io::Result<()> {
    let visible: BTreeSet<&str> = content.keys().map(|path| path.split('/').next().unwrap_or(path)).collect();
    for name in &visible {
        let target = format!("{DATA}/{name}");
        if !is_link_to(root, name, &target) {
            put_link(root, name, &target)?;
        }
    }
    for name in names(root)? {
        if !name.starts_with("..") && !visible.contains(&*name) && is_link_to(root, &name, &format!("{DATA}/{name}")) {
            rustix::fs::unlinkat(root, &*name, AtFlags::empty())?;
        }
    }
    Ok(())
}

/// Makes `name` a link to `target`, in one step. What else has that name is replaced; a directory, which cannot be, is kept
/// under a name that means nothing to readers.
fn put_link(root: BorrowedFd<'_>, name: &str, target: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(root, NEXT, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(Errno::ISDIR) => set_aside(root, NEXT)?,
        Err(error) => return Err(error.into()),
    }
    rustix::fs::symlinkat(target, root, NEXT)?;
    match rustix::fs::renameat(root, NEXT, root, name) {
        Err(Errno::ISDIR) => {
            set_aside(root, name)?;
            Ok(rustix::fs::renameat(root, NEXT, root, name)?)
        }
        renamed => Ok(renamed?),
    }
}

fn set_aside(root: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let aside = format!("..not-ours-{}", uuid::Uuid::new_v4().simple());
    Ok(rustix::fs::renameat_with(root, name, root, &*aside, RenameFlags::NOREPLACE)?)
}

/// Removes a directory of ours with all that is in it, and nothing that is mounted there.
fn remove_dir(parent: BorrowedFd<'_>, name: &Path, device: u64, depth: usize) -> io::Result<()> {
    let dir = match open_dir(parent, name) {
        // A link or a file has a version's name: it is not ours.
        Err(error) if depth == 0 && [Errno::LOOP, Errno::NOTDIR].iter().any(|e| is(&error, *e)) => return Ok(()),
        opened => opened?,
    };
    if rustix::fs::fstat(&dir)?.st_dev != device || depth > DEPTH_MAX {
        return Err(io::Error::other(format!("{} is another file system, or too deep", name.display())));
    }
    for entry in names(dir.as_fd())? {
        match rustix::fs::unlinkat(&dir, &*entry, AtFlags::empty()) {
            Err(Errno::ISDIR) => remove_dir(dir.as_fd(), Path::new(&entry), device, depth + 1)?,
            removed => removed?,
        }
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn open_dir(parent: impl AsFd, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

fn stat(dir: BorrowedFd<'_>, name: &str) -> io::Result<rustix::fs::Stat> {
    Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn is_link_to(dir: BorrowedFd<'_>, name: &str, target: &str) -> bool {
    rustix::fs::readlinkat(dir, name, Vec::new()).is_ok_and(|found| found.to_bytes() == target.as_bytes())
}

/// Names that are no text are nobody's of ours, and are left out.
fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        match name.into_string() {
            Ok(name) if name != "." && name != ".." => names.push(name),
            _ => {}
        }
    }
    Ok(names)
}
