//! A disk that forgets what was not synced: power cuts and full disks for tests, as a FUSE file system in memory.
//!
//! Every file is kept twice: as programs see it, and as the platter has it. `fsync` brings the platter up to date, for a
//! directory its names. [`ForgetfulDisk::cut`] lets the power fail; after [`ForgetfulDisk::power_on`] programs see what the
//! platter had. What it decides about the unsynced comes from the seed, so a failure can be repeated:
//!
//! - one cut in eight keeps all of it and two in eight none; in the others each 512-byte sector of each unsynced write
//!   is kept or lost on its own, whatever the order of the writes, and each change of length too;
//! - a directory is kept as it is now or goes back to its last sync as a whole, so a rename within it happened or did not;
//! - a new file's name is not kept by syncing the file: its directory has to be synced (ext4 is kinder, POSIX is not);
//! - handles from before the cut answer `EIO` for ever.
//!
//! Reads and writes pass the kernel's cache by, so memory maps of its files do not work. `chmod` is never forgotten.
//! Mounting needs root and `/dev/fuse`; a test that finds neither skips with [`ForgetfulDisk::mount_or_skip`].

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use tempfile::TempDir;

use self::disk::{Attributes, Disk};

mod disk;

/// What mounts of these disks are called.
const NAME: &str = "forgetful";

/// A mounted forgetful disk. Dropping it unmounts it; what it held is lost.
pub struct ForgetfulDisk {
    disk: Arc<Mutex<Disk>>,
    // Unmounted before its directory is removed: fields drop in order.
    _session: BackgroundSession,
    directory: TempDir,
}

impl ForgetfulDisk {
    /// Mounts an empty disk in a directory of its own.
    ///
    /// # Errors
    /// There is no `/dev/fuse`, or this user may not mount.
    pub fn mount() -> io::Result<Self> {
        sweep();
        let directory = tempfile::tempdir()?;
        let disk = Arc::new(Mutex::new(Disk::new()));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName(NAME.into()), MountOption::NoAtime];
        let session = fuser::spawn_mount(Shim(disk.clone()), directory.path(), &config)?;
        Ok(Self { disk, _session: session, directory })
    }

    /// Mounts a disk, or says why `test` is skipped.
    pub fn mount_or_skip(test: &str) -> Option<Self> {
        Self::mount().inspect_err(|error| crate::skip(&format!("{test}: no FUSE mount here: {error}"))).ok()
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Cuts the power: from now on everything answers `EIO`. The seed decides what survives of the unsynced.
    pub fn cut(&self, seed: u64) {
        lock(&self.disk).cut(seed);
    }

    /// Cuts the power just before the operation that follows the next `operations` ones. Writes, syncs and changes of
    /// directories count; reads do not.
    pub fn cut_in(&self, operations: u64, seed: u64) {
        lock(&self.disk).cut_in = Some((operations, seed));
    }

    /// Brings the power back. Without a cut before, nothing happens; a cut that was to come is called off.
    pub fn power_on(&self) {
        let mut disk = lock(&self.disk);
        disk.cut_in = None;
        disk.power_on();
    }

    /// Limits the space for new data; `None` is as much as memory holds. Overwriting in place needs no space.
    pub fn set_space_left(&self, bytes: Option<u64>) {
        lock(&self.disk).space_left = bytes;
    }

    /// Bytes that programs have written to it so far.
    pub fn bytes_written(&self) -> u64 {
        lock(&self.disk).bytes_written
    }

    /// Operations so far that a cut could have come before; see [`cut_in`](Self::cut_in).
    pub fn operations(&self) -> u64 {
        lock(&self.disk).operations
    }
}

/// Unmounts disks whose tests were killed: whoever looks at one gets `ENOTCONN`.
fn sweep() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let ours = mounts.lines().filter_map(|line| line.strip_prefix(NAME)?.split(' ').nth(1));
    for place in ours {
        let is_dead = |error: io::Error| error.kind() == io::ErrorKind::NotConnected;
        if std::fs::metadata(place).is_err_and(is_dead)
            && rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH).is_ok()
        {
            let _ = std::fs::remove_dir(place);
        }
    }
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().expect("the disk does not panic")
}

/// Nothing may be remembered by the kernel across a cut.
const REMEMBER: Duration = Duration::ZERO;
const FIRST_GENERATION: Generation = Generation(0);
/// Large enough for any test; only `df` looks at it.
const BLOCKS: u64 = 1 << 20;

/// Turns FUSE requests into calls of [`Disk`].
struct Shim(Arc<Mutex<Disk>>);

/// Answers the request with the value or the error.
macro_rules! reply {
    ($result:expr, $reply:ident, $value:pat => $answer:expr) => {
        match $result {
            Ok($value) => $answer,
            Err(errno) => $reply.error(Errno::from_i32(errno)),
        }
    };
}

impl Filesystem for Shim {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        reply!(lock(&self.0).lookup(parent.0, name), reply, found => reply.entry(&REMEMBER, &attr(&found), FIRST_GENERATION));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply!(lock(&self.0).attributes(ino.0), reply, found => reply.attr(&REMEMBER, &attr(&found)));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut disk = lock(&self.0);
        let result = size
            .map_or(Ok(()), |size| disk.resize(ino.0, size))
            .and_then(|()| mode.map_or(Ok(()), |mode| disk.set_mode(ino.0, mode as u16)))
            .and_then(|()| disk.attributes(ino.0));
        reply!(result, reply, found => reply.attr(&REMEMBER, &attr(&found)));
    }

    fn mknod(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: u32, reply: ReplyEntry) {
        self.make(parent, name, mode, false, reply);
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        self.make(parent, name, mode, true, reply);
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: i32, reply: ReplyCreate) {
        let mut disk = lock(&self.0);
        let result =
            disk.make(parent.0, name, mode as u16, false).and_then(|ino| Ok((disk.open(ino)?, disk.attributes(ino)?)));
        reply!(result, reply, (handle, found) => reply.created(
            &REMEMBER,
            &attr(&found),
            FIRST_GENERATION,
            FileHandle(handle),
            FopenFlags::FOPEN_DIRECT_IO,
        ));
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut disk = lock(&self.0);
        let result = disk.link(ino.0, parent.0, name).and_then(|()| disk.attributes(ino.0));
        reply!(result, reply, found => reply.entry(&REMEMBER, &attr(&found), FIRST_GENERATION));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply!(lock(&self.0).unlink(parent.0, name, false), reply, () => reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply!(lock(&self.0).unlink(parent.0, name, true), reply, () => reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            return reply.error(Errno::EINVAL);
        }
        let replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        let result = lock(&self.0).rename((parent.0, name), (new_parent.0, new_name), replace);
        reply!(result, reply, () => reply.ok());
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let result = lock(&self.0).open(ino.0);
        reply!(result, reply, handle => reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO));
    }

    fn read(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let disk = lock(&self.0);
        reply!(disk.read(handle.0, offset, len as usize), reply, bytes => reply.data(bytes));
    }

    fn write(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply!(lock(&self.0).write(handle.0, offset, bytes), reply, () => reply.written(bytes.len() as u32));
    }

    fn fallocate(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode & !libc::FALLOC_FL_KEEP_SIZE != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let result = lock(&self.0).fallocate(handle.0, offset, len, mode & libc::FALLOC_FL_KEEP_SIZE != 0);
        reply!(result, reply, () => reply.ok());
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        lock(&self.0).close(handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply!(lock(&self.0).sync(ino.0), reply, () => reply.ok());
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply!(lock(&self.0).sync(ino.0), reply, () => reply.ok());
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = match lock(&self.0).entries(ino.0) {
            Ok(entries) => entries,
            Err(errno) => return reply.error(Errno::from_i32(errno)),
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, (ino, is_directory, name)) in (1..).zip(entries).skip(start) {
            if reply.add(INodeNo(ino), next, kind(is_directory), name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let free = lock(&self.0).space_left.map_or(BLOCKS, |left| left / 4096);
        reply.statfs(BLOCKS, free, free, BLOCKS, BLOCKS, 4096, 255, 4096);
    }
}

impl Shim {
    fn make(&self, parent: INodeNo, name: &OsStr, mode: u32, is_directory: bool, reply: ReplyEntry) {
        let mut disk = lock(&self.0);
        let result = disk.make(parent.0, name, mode as u16, is_directory).and_then(|ino| disk.attributes(ino));
        reply!(result, reply, found => reply.entry(&REMEMBER, &attr(&found), FIRST_GENERATION));
    }
}

fn kind(is_directory: bool) -> FileType {
    if is_directory { FileType::Directory } else { FileType::RegularFile }
}

fn attr(found: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(found.ino),
        size: found.len,
        blocks: found.blocks,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: kind(found.is_directory),
        perm: found.mode,
        nlink: found.links,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

#[cfg(test)]
mod tests;
