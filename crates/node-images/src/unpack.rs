//! Unpacks a layer into a directory as overlayfs wants it.
//!
//! The archive is hostile until shown otherwise. Every path is resolved by the kernel within the directory (`openat2` with
//! `RESOLVE_IN_ROOT`): a link of the image to `/run` leads to the image's `/run`, and nothing leads out. `..` in a name or
//! in the target of a hard link is rejected, an absolute one begins at the image's root. What comes out is counted: a layer
//! that unpacks to more than it may is rejected while it does so.
//!
//! Whiteouts become what overlayfs understands: `.wh.NAME` a character device 0:0 called `NAME`, `.wh..wh..opq` the attribute
//! `trusted.overlay.opaque` of its directory. A whiteout says something of the layers below only: a name that the same layer
//! has too stays, and if it is a directory, it is made opaque.
//!
//! Of extended attributes, `user.*` and `security.capability` are kept. Others are the node's business: `trusted.overlay.*`
//! would let an image steer overlayfs, labels of a security module belong to the machine.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::Digest;
use crate::decode::Decoder;
use crate::digest::{Hasher, Hashing};
use crate::tar::{self, Entry, Kind, TarError};

/// Content is copied in pieces of this size; pieces of zeros become holes.
const COPY_BYTES: usize = 128 << 10;
/// Times of directories are set at the end, when nothing is created in them any more. Beyond this, they are set early. Each
/// has a hundred bytes beside its name.
const DIRECTORY_NAMES_BYTES_MAX: usize = 16 << 20;
/// Header, padding, and headers of extensions: what an entry takes of an archive beside its content.
const ENTRY_BYTES: u64 = 4096;
/// Directories within directories, those of the node included.
const DEPTH_MAX: usize = 256;
/// A chain of compressed zeros costs time, not disk: after the last entry only this much is read for the digest.
const TRAILER_BYTES_MAX: u64 = 64 << 20;

/// Of directories that the archive has not listed.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);
const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
/// Of aufs, which stored its own bookkeeping in layers.
const WHITEOUT_META: &[u8] = b".wh..wh.";
pub(crate) const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";

/// What is done with device nodes of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Devices {
    /// They are created. A container's device cgroup decides what can be opened, and nobody else can enter the store.
    #[default]
    Created,
    /// The image is rejected.
    Rejected,
}

/// What one layer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerLimits {
    /// Bytes of content of all files, holes included, and a few for each entry.
    pub bytes_max: u64,
    /// Files, directories, links and whiteouts.
    pub entries_max: u64,
    /// Device nodes.
    pub devices: Devices,
}

/// Why a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive cannot be read.
    #[error("failed to read it after entry `{after}`")]
    Archive {
        /// The last entry that was read.
        after: String,
        /// What is wrong.
        #[source]
        source: TarError,
    },
    /// An entry may not be as it is.
    #[error("entry `{entry}` {reason}")]
    Entry {
        /// The path in the archive.
        entry: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An entry cannot be created.
    #[error("failed to create entry `{entry}`")]
    Create {
        /// The path in the archive.
        entry: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// More comes out than may.
    #[error("it is larger than it may be: {limit}")]
    TooLarge {
        /// Which limit.
        limit: &'static str,
    },
    /// Its content is not what the image's configuration says.
    #[error("its content has the digest {found}, the image's configuration says {expected}")]
    DiffId {
        /// Of what came out.
        found: Digest,
        /// What was to come out.
        expected: Digest,
    },
    /// The blob is not the one that the manifest names.
    #[error("its blob has the digest {found}, the manifest says {expected}")]
    Blob {
        /// Of what was read.
        found: Digest,
        /// What was to be read.
        expected: Digest,
    },
}

impl UnpackError {
    /// Whether the disk is full: an outage of the node, and nothing that is wrong with the image.
    pub fn is_disk_full(&self) -> bool {
        let source = match self {
            Self::Create { source, .. } => source,
            Self::Archive { source: TarError::Read(source), .. } => source,
            _ => return false,
        };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of content of all files.
    pub bytes: u64,
    /// Files, directories, links and whiteouts.
    pub entries: u64,
}

/// Unpacks the blob of a layer into the empty directory `target`, and checks both digests: `blob` of what is read, `diff_id`
/// of what comes out. On an error, part of it is there.
pub(crate) fn unpack(
    reader: impl Read,
    target: &Path,
    blob: Option<&Digest>,
    diff_id: &Digest,
    limits: &LayerLimits,
) -> Result<Unpacked, UnpackError> {
    let archive = |source: io::Error| UnpackError::Archive { after: String::new(), source: source.into() };
    let raw = Hashing::new(reader, blob.map_or_else(Hasher::sha256, Hasher::like));
    let decoder = Decoder::new(raw).map_err(archive)?;
    let archive_bytes_max = limits.bytes_max.saturating_add(limits.entries_max.saturating_mul(ENTRY_BYTES));
    let decoder = Bounded { inner: decoder, left: archive_bytes_max };
    let mut tar = tar::Reader::new(Hashing::new(decoder, Hasher::like(diff_id)));
    let mut layer = Layer::new(target, limits)?;
    let mut after = String::new();
    loop {
        let entry = tar.next(tar::skip_by_reading);
        let Some(entry) = entry.map_err(|source| UnpackError::Archive { after: after.clone(), source })? else { break };
        after = String::from_utf8_lossy(&entry.path).into_owned();
        layer.add(&entry, &mut tar)?;
    }
    let unpacked = layer.finish()?;
    let failed = |source: io::Error| UnpackError::Archive { after: after.clone(), source: source.into() };
    // Padding after the end belongs to the digests.
    let mut content = tar.into_inner();
    read_trailer(&mut content).map_err(failed)?;
    let (found, decoder) = content.finish_with();
    if found != *diff_id {
        return Err(UnpackError::DiffId { found, expected: diff_id.clone() });
    }
    let mut decoder = decoder.inner;
    read_trailer(decoder.get_mut()).map_err(failed)?;
    let (found, _) = decoder.into_inner().finish_with();
    match blob {
        Some(expected) if found != *expected => Err(UnpackError::Blob { found, expected: expected.clone() }),
        _ => Ok(unpacked),
    }
}

/// What comes out of a decompressor, up to a limit: extensions without an end are entries that never come.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let left = self.left.checked_sub(read as u64);
        self.left =
            left.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the archive is larger than it may be"))?;
        Ok(read)
    }
}

fn read_trailer(reader: &mut impl Read) -> io::Result<()> {
    let read = io::copy(&mut reader.take(TRAILER_BYTES_MAX + 1), &mut io::sink())?;
    if read <= TRAILER_BYTES_MAX {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "more than 64 MiB follow the end of the archive"))
}

/// A layer while it is unpacked.
struct Layer<'a> {
    root: OwnedFd,
    limits: &'a LayerLimits,
    unpacked: Unpacked,
    /// The directory of the last entry: most entries are in the same one as the entry before.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Times that directories shall have at the end.
    times: BTreeMap<PathBuf, (i64, u32)>,
    times_bytes: usize,
    buffer: Vec<u8>,
}

impl<'a> Layer<'a> {
    fn new(target: &Path, limits: &'a LayerLimits) -> Result<Self, UnpackError> {
        let root = rustix::fs::open(target, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| UnpackError::Create { entry: ".".to_owned(), source: errno.into() })?;
        let buffer = vec![0; COPY_BYTES];
        Ok(Self {
            root,
            limits,
            unpacked: Unpacked::default(),
            parent: None,
            times: BTreeMap::new(),
            times_bytes: 0,
            buffer,
        })
    }

    fn add<R: Read>(&mut self, entry: &Entry, tar: &mut tar::Reader<R>) -> Result<(), UnpackError> {
        self.count(entry)?;
        let rejected = |reason| UnpackError::Entry { entry: shown(&entry.path), reason };
        let path = relative(&entry.path).map_err(rejected)?;
        let failed = |source| not_created(&entry.path, source);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            // The root of the image: it is there, and takes its owner, mode and times from the archive.
            return match entry.kind {
                Kind::Directory => self.set_directory(None, &path, entry).map_err(failed),
                _ => Err(rejected("is the root and no directory")),
            };
        };
        if let Some(hidden) = parent.iter().find(|part| part.as_bytes().starts_with(WHITEOUT)) {
            return match hidden.as_bytes().starts_with(WHITEOUT_META) {
                true => Ok(()),
                false => Err(rejected("lies beneath a whiteout")),
            };
        }
        if matches!(entry.kind, Kind::Character | Kind::Block) && self.limits.devices == Devices::Rejected {
            return Err(rejected("is a device node, which this node does not take from images"));
        }
        let dir = self.take_parent(parent).map_err(failed)?;
        let added = match name.as_bytes().strip_prefix(WHITEOUT) {
            Some(hidden) => self.hide(&dir, name, OsStr::from_bytes(hidden)).map_err(|error| match error {
                Errno::INVAL => rejected("is a whiteout of nothing"),
                error => failed(error.into()),
            }),
            None => self.create(&dir, name, &path, entry, tar),
        };
        self.parent = Some((parent.to_owned(), dir));
        added
    }

    fn count(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        self.unpacked.entries += 1;
        self.unpacked.bytes = self.unpacked.bytes.saturating_add(if entry.sparse.is_some() { 0 } else { entry.size });
        for (_, length) in entry.sparse.iter().flatten() {
            self.unpacked.bytes = self.unpacked.bytes.saturating_add(*length);
        }
        if self.unpacked.entries > self.limits.entries_max {
            return Err(UnpackError::TooLarge { limit: "the number of its entries" });
        }
        if self.unpacked.bytes > self.limits.bytes_max {
            return Err(UnpackError::TooLarge { limit: "the bytes that it unpacks to" });
        }
        Ok(())
    }

    fn take_parent(&mut self, path: &Path) -> io::Result<OwnedFd> {
        match self.parent.take() {
            Some((cached, dir)) if cached == path => Ok(dir),
            _ => {
                let dir = self.open_or_create_dir(path)?;
                check_depth(dir.as_fd()).map(|()| dir)
            }
        }
    }

    /// Opens a directory of the image; those that the archive has not listed are created.
    fn open_or_create_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        match open_dir(self.root.as_fd(), path) {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            other => return Ok(other?),
        }
        let mut dir = open_dir(self.root.as_fd(), Path::new(""))?;
        let mut above = PathBuf::new();
        for part in path.components() {
            above.push(part);
            dir = match open_dir(self.root.as_fd(), &above) {
                Err(Errno::NOENT | Errno::NOTDIR) => make_unlisted_dir(dir.as_fd(), part.as_os_str())?,
                other => other?,
            };
        }
        Ok(dir)
    }

    /// Hides a name of the layers below.
    fn hide(&self, dir: &OwnedFd, name: &OsStr, hidden: &OsStr) -> Result<(), Errno> {
        if name.as_bytes() == WHITEOUT_OPAQUE {
            return make_opaque(dir.as_fd());
        }
        if name.as_bytes().starts_with(WHITEOUT_META) {
            return Ok(());
        }
        if matches!(hidden.as_bytes(), b"" | b"." | b"..") {
            return Err(Errno::INVAL);
        }
        match rustix::fs::mknodat(dir, hidden, FileType::CharacterDevice, Mode::empty(), 0) {
            Err(Errno::EXIST) => match open_plain_dir(dir.as_fd(), hidden) {
                Ok(found) => make_opaque(found.as_fd()),
                Err(_) => Ok(()),
            },
            other => other,
        }
    }

    fn create<R: Read>(
        &mut self,
        dir: &OwnedFd,
        name: &OsStr,
        path: &Path,
        entry: &Entry,
        tar: &mut tar::Reader<R>,
    ) -> Result<(), UnpackError> {
        let failed = |source| not_created(&entry.path, source);
        let rejected = |reason| UnpackError::Entry { entry: shown(&entry.path), reason };
        match entry.kind {
            Kind::Directory => {
                make_dir(dir.as_fd(), name).map_err(failed)?;
                self.set_directory(Some((dir, name)), path, entry).map_err(failed)
            }
            Kind::File => self.write_file(dir, name, entry, tar),
            Kind::HardLink => {
                let target =
                    relative(&entry.link).map_err(|_| rejected("is a hard link that leads out of the image"))?;
                let (Some(parent), Some(file)) = (target.parent(), target.file_name()) else {
                    return Err(rejected("is a hard link to the root"));
                };
                let source = open_dir(self.root.as_fd(), parent).map_err(|errno| failed(errno.into()))?;
                // The same file by the same name: removing it first would lose it.
                if is_same(&source, file, dir, name) {
                    return Ok(());
                }
                let link = || rustix::fs::linkat(&source, file, dir, name, AtFlags::empty());
                replacing(dir, name, link).map_err(failed)
            }
            Kind::Symlink if entry.link.is_empty() => Err(rejected("is a link to nothing")),
            Kind::Symlink => {
                replacing(dir, name, || rustix::fs::symlinkat(entry.link.as_slice(), dir, name)).map_err(failed)?;
                set_node(dir, name, entry).map_err(failed)
            }
            Kind::Character | Kind::Block | Kind::Fifo => {
                let kind = match entry.kind {
                    Kind::Character => FileType::CharacterDevice,
                    Kind::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = rustix::fs::makedev(entry.device.0, entry.device.1);
                let make = || rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device);
                replacing(dir, name, make).map_err(failed)?;
                set_node(dir, name, entry).map_err(failed)
            }
        }
    }

    fn write_file<R: Read>(
        &mut self,
        dir: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        tar: &mut tar::Reader<R>,
    ) -> Result<(), UnpackError> {
        let failed = |source| not_created(&entry.path, source);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(replacing(dir, name, open).map_err(failed)?);
        let whole = [(0, entry.size)];
        for (offset, length) in entry.sparse.as_deref().unwrap_or(&whole) {
            copy_piece(tar, &file, &mut self.buffer, (*offset, *length), &entry.path)?;
        }
        // Holes have not been written, the one at the end least of all.
        let length = file.metadata().map_err(failed)?.len();
        if length != entry.size {
            file.set_len(entry.size).map_err(failed)?;
        }
        set_attributes(file.as_fd(), entry).map_err(failed)?;
        rustix::fs::futimens(&file, &timestamps(entry.mtime)).map_err(|errno| failed(errno.into()))
    }

    /// Sets what a directory is beside its name; its times come at the end.
    fn set_directory(&mut self, at: Option<(&OwnedFd, &OsStr)>, path: &Path, entry: &Entry) -> io::Result<()> {
        let opened = at.map(|(dir, name)| open_plain_dir(dir.as_fd(), name)).transpose()?;
        set_attributes(opened.as_ref().unwrap_or(&self.root).as_fd(), entry)?;
        if self.times_bytes > DIRECTORY_NAMES_BYTES_MAX {
            self.set_times()?;
        }
        self.times_bytes += path.as_os_str().len() + 100;
        self.times.insert(path.to_owned(), entry.mtime);
        Ok(())
    }

    fn set_times(&mut self) -> io::Result<()> {
        self.times_bytes = 0;
        for (path, mtime) in std::mem::take(&mut self.times) {
            match open_dir(self.root.as_fd(), &path) {
                Ok(dir) => rustix::fs::futimens(&dir, &timestamps(mtime))?,
                // A later entry has replaced it by something else.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Unpacked, UnpackError> {
        self.set_times().map_err(|source| UnpackError::Create { entry: ".".to_owned(), source })?;
        Ok(self.unpacked)
    }
}

/// Copies one piece of content to its offset. Zeros are left out, so that they become holes.
fn copy_piece<R: Read>(
    tar: &mut tar::Reader<R>,
    file: &File,
    buffer: &mut [u8],
    (offset, length): (u64, u64),
    path: &[u8],
) -> Result<(), UnpackError> {
    let archive = |source: io::Error| UnpackError::Archive { after: shown(path), source: source.into() };
    let mut done = 0;
    while done < length {
        let piece = usize::try_from(length - done).unwrap_or(usize::MAX).min(buffer.len());
        let mut filled = 0;
        while filled < piece {
            match tar.read_data(&mut buffer[filled..piece]).map_err(archive)? {
                0 => return Err(archive(io::Error::from(io::ErrorKind::UnexpectedEof))),
                read => filled += read,
            }
        }
        // Short files keep their zeros: a hole saves nothing there.
        let is_hole = filled == buffer.len() && buffer.iter().all(|byte| *byte == 0);
        if !is_hole {
            file.write_all_at(&buffer[..filled], offset + done).map_err(|source| not_created(path, source))?;
        }
        done += filled as u64;
    }
    Ok(())
}

/// A path of the archive, relative to the root of the image.
fn relative(path: &[u8]) -> Result<PathBuf, &'static str> {
    let mut relative = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(path)).components() {
        match component {
            Component::Normal(part) => relative.push(part),
            Component::ParentDir => return Err("has `..` in its path"),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(relative)
}

/// Some refusals of the kernel say more about the entry than about the disk.
fn not_created(path: &[u8], source: io::Error) -> UnpackError {
    let entry = shown(path);
    let reason = match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) => "leads through too many links",
        Some(Errno::NOTDIR) => "lies beneath something that is no directory",
        Some(Errno::NAMETOOLONG) => "has a part of more than 255 bytes, or more than 256 parts",
        _ => return UnpackError::Create { entry, source },
    };
    UnpackError::Entry { entry, reason }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Opens a directory by its path in the image; links are followed within the image.
fn open_dir(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // Somebody renames something on this file system just now.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Opens the directory `name` in `dir`, which is no link.
fn open_plain_dir(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// Creates and opens a directory that the archive has not listed, as root's, whatever the umask and a setgid directory above.
/// Only a whiteout is replaced: beneath a file, or a link that leads nowhere, there can be nothing.
fn make_unlisted_dir(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let found = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    if found.is_ok_and(|found| !is_whiteout(&found)) {
        return Err(Errno::NOTDIR.into());
    }
    make_dir(dir, name)?;
    let made = open_plain_dir(dir, name)?;
    rustix::fs::fchown(&made, Some(Uid::ROOT), Some(Gid::ROOT))?;
    rustix::fs::fchmod(&made, DIRECTORY_MODE)?;
    Ok(made)
}

fn is_whiteout(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice && found.st_rdev == 0
}

/// A path of 4,095 bytes has at most 2,048 parts, but through links directories can be nested without an end, and whoever
/// deletes or walks them needs a descriptor and a piece of stack for each level. The kernel knows where a descriptor leads.
fn check_depth(dir: BorrowedFd<'_>) -> io::Result<()> {
    let path = rustix::fs::readlink(format!("/proc/self/fd/{}", dir.as_raw_fd()), Vec::new())?;
    if path.as_bytes().iter().filter(|byte| **byte == b'/').count() <= DEPTH_MAX {
        return Ok(());
    }
    Err(Errno::NAMETOOLONG.into())
}

/// Creates a directory unless there is one. What else has the name is replaced; in a whiteout's place it is opaque, for what
/// the layers below have by this name is hidden.
fn make_dir(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::mkdirat(dir, name, DIRECTORY_MODE) {
        Ok(()) => return Ok(()),
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let found = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(found.st_mode).is_dir() {
        return Ok(());
    }
    rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
    rustix::fs::mkdirat(dir, name, DIRECTORY_MODE)?;
    if is_whiteout(&found) {
        make_opaque(open_plain_dir(dir, name)?.as_fd())?;
    }
    Ok(())
}

fn make_opaque(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::fs::fsetxattr(dir, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty())
}

/// Creates something by `create`; what has the name already is removed first, a directory with all that is in it.
fn replacing<T>(dir: &OwnedFd, name: &OsStr, create: impl Fn() -> Result<T, Errno>) -> io::Result<T> {
    match create() {
        Err(Errno::EXIST) => {}
        other => return Ok(other?),
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => std::fs::remove_dir_all(by_descriptor(dir.as_fd(), name))?,
        other => other?,
    }
    Ok(create()?)
}

/// A path through a descriptor, for functions that take paths only. The last part is not followed by those that use it.
fn by_descriptor(dir: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    let mut path = OsString::from(format!("/proc/self/fd/{}/", dir.as_raw_fd()));
    path.push(name);
    path.into()
}

fn is_same(dir: &OwnedFd, name: &OsStr, other_dir: &OwnedFd, other: &OsStr) -> bool {
    let stat = |dir, name: &OsStr| rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    match (stat(dir, name), stat(other_dir, other)) {
        (Ok(one), Ok(two)) => (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino),
        _ => false,
    }
}

/// Owner, mode and attributes of a file or directory, in this order: a change of owner clears setuid and capabilities.
fn set_attributes(file: BorrowedFd<'_>, entry: &Entry) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::fchown(file, Some(uid), Some(gid))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_kept(name)) {
        match rustix::fs::fsetxattr(file, name.as_str(), value, XattrFlags::empty()) {
            // The file system has none of this kind; the file is of use without.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether an extended attribute is one of those that are taken from and given to archives.
pub(crate) fn is_kept(name: &str) -> bool {
    name == "security.capability" || name.starts_with("user.") && !name.starts_with("user.overlay.")
}

/// Owner, mode and times of what is not opened: links and devices.
fn set_node(dir: &OwnedFd, name: &OsStr, entry: &Entry) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if entry.kind != Kind::Symlink {
        // It was created a moment ago, in a directory that only this process can write to: it is no link.
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
    }
    Ok(rustix::fs::utimensat(dir, name, &timestamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn timestamps((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
pub(crate) mod tests;
