//! What the forgetful file system knows: each file and directory twice, as programs see it and as the platter has it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};

/// Space is given out in pages, as real file systems do.
const PAGE: u64 = 4096;

/// A write may be torn at sector bounds, never within a sector.
const SECTOR: usize = 512;

/// The root directory's inode, as FUSE has it.
pub(super) const ROOT: u64 = 1;

/// An errno, or what was asked for.
pub(super) type Answer<T> = Result<T, i32>;

/// The whole disk.
pub(super) struct Disk {
    nodes: HashMap<u64, Node>,
    handles: HashMap<u64, u64>,
    next: u64,
    /// Space that is left, when it is limited.
    pub space_left: Option<u64>,
    /// Bytes that programs wrote so far.
    pub bytes_written: u64,
    /// Writes, syncs and changes of directories so far.
    pub operations: u64,
    /// Cut the power before this many more operations, with this seed.
    pub cut_in: Option<(u64, u64)>,
    off: bool,
}

enum Node {
    File(File),
    Directory(Directory),
}

#[derive(Default)]
struct File {
    live: Vec<u8>,
    synced: Vec<u8>,
    /// What happened to `live` since it equalled `synced`, in order.
    unsynced: Vec<Unsynced>,
    /// Which pages take up space.
    pages: HashSet<u64>,
    mode: u16,
    links: u32,
}

enum Unsynced {
    Write { offset: usize, bytes: Vec<u8> },
    Resize(usize),
}

struct Directory {
    live: BTreeMap<OsString, u64>,
    synced: BTreeMap<OsString, u64>,
    mode: u16,
}

/// What `stat` shows of a node.
pub(super) struct Attributes {
    pub ino: u64,
    pub is_directory: bool,
    pub len: u64,
    pub blocks: u64,
    pub mode: u16,
    pub links: u32,
}

impl Unsynced {
    fn apply(&self, data: &mut Vec<u8>) {
        match self {
            Self::Resize(len) => data.resize(*len, 0),
            Self::Write { offset, bytes } => put(data, *offset, bytes),
        }
    }

    /// Applies some of it: the sectors that the disk happened to have written.
    fn apply_some(&self, data: &mut Vec<u8>, random: &mut Random) {
        let Self::Write { offset, bytes } = self else {
            return if random.coin() {
                self.apply(data)
            };
        };
        let mut done = 0;
        while done < bytes.len() {
            let to_bound = SECTOR - (offset + done) % SECTOR;
            let len = to_bound.min(bytes.len() - done);
            if random.coin() {
                put(data, offset + done, &bytes[done..done + len]);
            }
            done += len;
        }
    }
}

impl Disk {
    pub fn new() -> Self {
        Self {
            nodes: HashMap::from([(ROOT, Node::Directory(Directory::new(0o755)))]),
            handles: HashMap::new(),
            next: ROOT + 1,
            space_left: None,
            bytes_written: 0,
            operations: 0,
            cut_in: None,
            off: false,
        }
    }

    /// The power fails. What was synced stays; of the rest the seed decides.
    pub fn cut(&mut self, seed: u64) {
        if std::mem::replace(&mut self.off, true) {
            return;
        }
        self.cut_in = None;
        let mut random = Random(seed);
        let fate = Fate::draw(&mut random);
        let mut inodes: Vec<u64> = self.nodes.keys().copied().collect();
        // A hash map's order is not the seed's.
        inodes.sort_unstable();
        for ino in inodes {
            match self.nodes.get_mut(&ino) {
                Some(Node::File(file)) => file.cut(fate, &mut random),
                Some(Node::Directory(directory)) => directory.cut(fate, &mut random),
                None => {}
            }
        }
        self.handles.clear();
    }

    /// The power is back: files and directories are what survived, under new inodes, so that nothing opened before works.
    pub fn power_on(&mut self) {
        if !std::mem::take(&mut self.off) {
            return;
        }
        let mut reached = HashMap::from([(ROOT, ROOT)]);
        let mut todo = vec![ROOT];
        let mut links: HashMap<u64, u32> = HashMap::new();
        while let Some(ino) = todo.pop() {
            let Some(Node::Directory(directory)) = self.nodes.get_mut(&ino) else { continue };
            for child in directory.live.values_mut() {
                *links.entry(*child).or_default() += 1;
                let before = *child;
                *child = *reached.entry(before).or_insert_with(|| {
                    todo.push(before);
                    self.next += 1;
                    self.next
                });
            }
            directory.synced = directory.live.clone();
        }
        let mut nodes = HashMap::new();
        for (before, mut node) in self.nodes.drain() {
            let Some(now) = reached.get(&before) else {
                if let (Node::File(file), Some(left)) = (&node, &mut self.space_left) {
                    *left += file.pages.len() as u64 * PAGE;
                }
                continue;
            };
            if let Node::File(file) = &mut node {
                file.links = links.get(&before).copied().unwrap_or_default();
            }
            nodes.insert(*now, node);
        }
        self.nodes = nodes;
    }

    pub fn lookup(&self, parent: u64, name: &OsStr) -> Answer<Attributes> {
        self.is_on()?;
        let ino = self.directory(parent)?.live.get(name).copied().ok_or(libc::ENOENT)?;
        self.attributes(ino)
    }

    pub fn attributes(&self, ino: u64) -> Answer<Attributes> {
        self.is_on()?;
        Ok(match self.nodes.get(&ino).ok_or(libc::ESTALE)? {
            Node::File(file) => Attributes {
                ino,
                is_directory: false,
                len: file.live.len() as u64,
                blocks: file.pages.len() as u64 * PAGE / SECTOR as u64,
                mode: file.mode,
                links: file.links,
            },
            Node::Directory(directory) => {
                Attributes { ino, is_directory: true, len: PAGE, blocks: 8, mode: directory.mode, links: 2 }
            }
        })
    }

    pub fn set_mode(&mut self, ino: u64, mode: u16) -> Answer<()> {
        self.is_on()?;
        match self.nodes.get_mut(&ino).ok_or(libc::ESTALE)? {
            Node::File(file) => file.mode = mode & 0o7777,
            Node::Directory(directory) => directory.mode = mode & 0o7777,
        }
        Ok(())
    }

    pub fn make(&mut self, parent: u64, name: &OsStr, mode: u16, is_directory: bool) -> Answer<u64> {
        self.step()?;
        if self.directory(parent)?.live.contains_key(name) {
            return Err(libc::EEXIST);
        }
        self.next += 1;
        let ino = self.next;
        let node = if is_directory {
            Node::Directory(Directory::new(mode))
        } else {
            Node::File(File { mode: mode & 0o7777, links: 1, ..File::default() })
        };
        self.nodes.insert(ino, node);
        self.directory_mut(parent)?.live.insert(name.into(), ino);
        Ok(ino)
    }

    pub fn link(&mut self, ino: u64, parent: u64, name: &OsStr) -> Answer<()> {
        self.step()?;
        if self.directory(parent)?.live.contains_key(name) {
            return Err(libc::EEXIST);
        }
        self.file_mut(ino)?.links += 1;
        self.directory_mut(parent)?.live.insert(name.into(), ino);
        Ok(())
    }

    pub fn unlink(&mut self, parent: u64, name: &OsStr, is_directory: bool) -> Answer<()> {
        self.step()?;
        let ino = self.directory(parent)?.live.get(name).copied().ok_or(libc::ENOENT)?;
        match self.nodes.get(&ino) {
            Some(Node::Directory(_)) if !is_directory => return Err(libc::EISDIR),
            Some(Node::Directory(directory)) if !directory.live.is_empty() => return Err(libc::ENOTEMPTY),
            Some(Node::File(_)) if is_directory => return Err(libc::ENOTDIR),
            _ => {}
        }
        self.directory_mut(parent)?.live.remove(name);
        self.unlinked(ino);
        Ok(())
    }

    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr), replace: bool) -> Answer<()> {
        self.step()?;
        let ino = self.directory(from.0)?.live.get(from.1).copied().ok_or(libc::ENOENT)?;
        let replaced = self.directory(to.0)?.live.get(to.1).copied();
        match replaced {
            Some(_) if !replace => return Err(libc::EEXIST),
            Some(same) if same == ino => return Ok(()),
            Some(other) => match self.nodes.get(&other) {
                Some(Node::Directory(directory)) if !directory.live.is_empty() => return Err(libc::ENOTEMPTY),
                _ => {}
            },
            None => {}
        }
        self.directory_mut(from.0)?.live.remove(from.1);
        self.directory_mut(to.0)?.live.insert(to.1.into(), ino);
        if let Some(other) = replaced {
            self.unlinked(other);
        }
        Ok(())
    }

    pub fn open(&mut self, ino: u64) -> Answer<u64> {
        self.is_on()?;
        self.nodes.get(&ino).ok_or(libc::ESTALE)?;
        self.next += 1;
        self.handles.insert(self.next, ino);
        Ok(self.next)
    }

    pub fn close(&mut self, handle: u64) {
        self.handles.remove(&handle);
    }

    pub fn read(&self, handle: u64, offset: u64, len: usize) -> Answer<&[u8]> {
        self.is_on()?;
        let ino = self.handles.get(&handle).ok_or(libc::EIO)?;
        let Some(Node::File(file)) = self.nodes.get(ino) else { return Err(libc::EISDIR) };
        let start = usize::try_from(offset).map_or(file.live.len(), |offset| offset.min(file.live.len()));
        Ok(&file.live[start..file.live.len().min(start.saturating_add(len))])
    }

    pub fn write(&mut self, handle: u64, offset: u64, bytes: &[u8]) -> Answer<()> {
        self.step()?;
        let ino = *self.handles.get(&handle).ok_or(libc::EIO)?;
        let offset = usize::try_from(offset).map_err(|_| libc::EFBIG)?;
        self.allocate(ino, offset as u64, bytes.len() as u64)?;
        self.bytes_written += bytes.len() as u64;
        self.file_mut(ino)?.change(Unsynced::Write { offset, bytes: bytes.to_vec() });
        Ok(())
    }

    /// Takes space for a part of a file without writing to it.
    pub fn fallocate(&mut self, handle: u64, offset: u64, len: u64, keep_size: bool) -> Answer<()> {
        self.step()?;
        let ino = *self.handles.get(&handle).ok_or(libc::EIO)?;
        self.allocate(ino, offset, len)?;
        let end = usize::try_from(offset + len).map_err(|_| libc::EFBIG)?;
        let file = self.file_mut(ino)?;
        if !keep_size && end > file.live.len() {
            file.change(Unsynced::Resize(end));
        }
        Ok(())
    }

    pub fn resize(&mut self, ino: u64, len: u64) -> Answer<()> {
        self.step()?;
        let file = self.file_mut(ino)?;
        let pages = file.pages.len();
        file.pages.retain(|page| page * PAGE < len);
        let freed = (pages - file.pages.len()) as u64 * PAGE;
        file.change(Unsynced::Resize(usize::try_from(len).map_err(|_| libc::EFBIG)?));
        if let Some(left) = &mut self.space_left {
            *left += freed;
        }
        Ok(())
    }

    pub fn sync(&mut self, ino: u64) -> Answer<()> {
        self.step()?;
        match self.nodes.get_mut(&ino).ok_or(libc::ESTALE)? {
            Node::File(file) => {
                for change in file.unsynced.drain(..) {
                    change.apply(&mut file.synced);
                }
            }
            Node::Directory(directory) => directory.synced = directory.live.clone(),
        }
        Ok(())
    }

    /// Inode, whether it is a directory, name.
    pub fn entries(&self, ino: u64) -> Answer<Vec<(u64, bool, OsString)>> {
        self.is_on()?;
        let entries = self.directory(ino)?.live.iter();
        Ok(entries
            .map(|(name, ino)| (*ino, matches!(self.nodes.get(ino), Some(Node::Directory(_))), name.clone()))
            .collect())
    }

    fn is_on(&self) -> Answer<()> {
        if self.off { Err(libc::EIO) } else { Ok(()) }
    }

    /// Counts an operation that changes something; the power may fail just before it.
    fn step(&mut self) -> Answer<()> {
        self.is_on()?;
        self.operations += 1;
        match &mut self.cut_in {
            Some((0, seed)) => {
                let seed = *seed;
                self.cut(seed);
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
        self.is_on()
    }

    fn directory(&self, ino: u64) -> Answer<&Directory> {
        match self.nodes.get(&ino) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(Node::File(_)) => Err(libc::ENOTDIR),
            None => Err(libc::ESTALE),
        }
    }

    fn directory_mut(&mut self, ino: u64) -> Answer<&mut Directory> {
        match self.nodes.get_mut(&ino) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(Node::File(_)) => Err(libc::ENOTDIR),
            None => Err(libc::ESTALE),
        }
    }

    fn file_mut(&mut self, ino: u64) -> Answer<&mut File> {
        match self.nodes.get_mut(&ino) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory(_)) => Err(libc::EISDIR),
            None => Err(libc::ESTALE),
        }
    }

    fn allocate(&mut self, ino: u64, offset: u64, len: u64) -> Answer<()> {
        if len == 0 {
            return Ok(());
        }
        let left = self.space_left;
        let file = self.file_mut(ino)?;
        let pages = offset / PAGE..=(offset + len - 1) / PAGE;
        let new: Vec<u64> = pages.filter(|page| !file.pages.contains(page)).collect();
        let needed = new.len() as u64 * PAGE;
        if left.is_some_and(|left| left < needed) {
            return Err(libc::ENOSPC);
        }
        file.pages.extend(new);
        self.space_left = left.map(|left| left - needed);
        Ok(())
    }

    /// One name less. The node stays: a handle may be open, and the platter may still have the name.
    fn unlinked(&mut self, ino: u64) {
        let Ok(file) = self.file_mut(ino) else { return };
        file.links -= 1;
        if file.links == 0 {
            let freed = file.pages.len() as u64 * PAGE;
            file.pages.clear();
            if let Some(left) = &mut self.space_left {
                *left += freed;
            }
        }
    }
}

impl File {
    fn change(&mut self, change: Unsynced) {
        change.apply(&mut self.live);
        self.unsynced.push(change);
    }

    fn cut(&mut self, fate: Fate, random: &mut Random) {
        for change in self.unsynced.drain(..) {
            match fate {
                Fate::NothingMore => {}
                Fate::Everything => change.apply(&mut self.synced),
                Fate::Some => change.apply_some(&mut self.synced, random),
            }
        }
        self.live = self.synced.clone();
    }
}

impl Directory {
    fn new(mode: u16) -> Self {
        Self { live: BTreeMap::new(), synced: BTreeMap::new(), mode: mode & 0o7777 }
    }

    fn cut(&mut self, fate: Fate, random: &mut Random) {
        let survives = match fate {
            Fate::NothingMore => false,
            Fate::Everything => true,
            Fate::Some => random.coin(),
        };
        if !survives {
            self.live = self.synced.clone();
        }
    }
}

/// How much of the unsynced the disk had written when the power failed.
#[derive(Clone, Copy)]
enum Fate {
    NothingMore,
    Everything,
    Some,
}

impl Fate {
    fn draw(random: &mut Random) -> Self {
        match random.next() % 8 {
            0 => Self::Everything,
            1 | 2 => Self::NothingMore,
            _ => Self::Some,
        }
    }
}

/// splitmix64: the same seed is the same cut, on any machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

fn put(data: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if data.len() < end {
        data.resize(end, 0);
    }
    data[offset..end].copy_from_slice(bytes);
}
