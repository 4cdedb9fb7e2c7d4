//! Reads tar archives, entry by entry, in bounded memory.
//!
//! The crate `tar` is not used: it reads extended headers and long names of any size into memory, splits extended headers
//! at newlines, which binary values such as `security.capability` contain, and knows only one of the four sparse formats.
//! Understood here: v7, ustar, GNU (long names, base-256 numbers, sparse files) and pax with its extended and global headers,
//! `SCHILY.xattr`, sub-second times and GNU's three sparse formats.
//!
//! An archive ends at a block of zeros or where its bytes end between two entries; the caller has the digest of the whole.

use std::io::{self, Read};

use self::pax::Pax;
pub(crate) use self::writer::Writer;

mod header;
mod pax;
mod sparse;
mod writer;

pub(crate) const BLOCK_BYTES: usize = 512;
/// An extended header holds at most one path, one link and the extended attributes of a file, of which Linux takes 64 KiB
/// each; a sparse file's map is in it, too.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// What Linux takes in a system call, and more than any file system stores.
pub(crate) const PATH_BYTES_MAX: usize = 4095;

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// It could not be read, or not be decompressed.
    #[error("failed to read the archive")]
    Read(#[from] io::Error),
    /// It is no tar archive, or a broken one.
    #[error("the archive is broken: {0}")]
    Format(&'static str),
    /// It is more than is allowed here.
    #[error("the archive exceeds a limit: {0}")]
    Limit(&'static str),
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// Offsets and lengths of what a sparse file has between its holes.
pub(crate) type Pieces = Vec<(u64, u64)>;

/// The header of an entry, extensions included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    /// As written in the archive: not checked.
    pub(crate) path: Vec<u8>,
    /// Target of a link, as written.
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(crate) mtime: (i64, u32),
    /// Major and minor number.
    pub(crate) device: (u32, u32),
    /// Bytes of content, holes included.
    pub(crate) size: u64,
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
    /// Of a sparse file, in ascending order.
    pub(crate) sparse: Option<Pieces>,
}

/// Reads an archive.
pub(crate) struct Reader<R> {
    inner: R,
    /// Bytes of the current entry that were not read yet.
    data_left: u64,
    /// Bytes that fill its last block.
    padding: u64,
    global: Pax,
    block: [u8; BLOCK_BYTES],
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, data_left: 0, padding: 0, global: Pax::default(), block: [0; BLOCK_BYTES] }
    }

    pub(crate) fn inner(&mut self) -> &mut R {
        &mut self.inner
    }

    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry, after what is left of the current one is skipped by `skip`.
    pub(crate) fn next(&mut self, skip: impl Fn(&mut R, u64) -> io::Result<()>) -> Result<Option<Entry>, TarError> {
        let (mut local, mut long_path, mut long_link) = (Pax::default(), None, None);
        loop {
            skip(&mut self.inner, self.data_left + self.padding)?;
            (self.data_left, self.padding) = (0, 0);
            if !self.read_block()? {
                return match local.is_empty() && long_path.is_none() && long_link.is_none() {
                    true => Ok(None),
                    false => Err(TarError::Format("it ends within an entry")),
                };
            }
            let header = header::Header::parse(&self.block)?;
            match header.kind {
                b'x' | b'g' => {
                    let is_global = header.kind == b'g';
                    let bytes = self.read_extension(&header)?;
                    let target = if is_global { &mut self.global } else { &mut local };
                    target.extend(&bytes)?;
                }
                b'L' => long_path = Some(header::until_nul(&self.read_extension(&header)?).to_vec()),
                b'K' => long_link = Some(header::until_nul(&self.read_extension(&header)?).to_vec()),
                _ => {
                    let pax = self.global.overlaid(local);
                    match self.entry(header, pax, (long_path.take(), long_link.take()))? {
                        Some(entry) => return Ok(Some(entry)),
                        // Of a kind that means nothing on Linux: its extensions are forgotten with it.
                        None => local = Pax::default(),
                    }
                }
            }
        }
    }

    /// Reads content of the current entry; 0 at its end. Of a sparse file, its pieces one after the other.
    pub(crate) fn read_data(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.data_left).unwrap_or(usize::MAX).min(buffer.len());
        if length == 0 {
            return Ok(0);
        }
        let read = self.inner.read(&mut buffer[..length])?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        self.data_left -= read as u64;
        Ok(read)
    }

    fn entry(
        &mut self,
        header: header::Header,
        pax: Pax,
        (long_path, long_link): (Option<Vec<u8>>, Option<Vec<u8>>),
    ) -> Result<Option<Entry>, TarError> {
        let Some(kind) = header.entry_kind() else {
            self.begin_data(pax.size.unwrap_or(header.size))?;
            return Ok(None);
        };
        let has_content = kind == Kind::File;
        // Other kinds have none, whatever the size says: GNU tar and Go agree on that.
        let stored = if has_content { pax.size.unwrap_or(header.size) } else { 0 };
        self.begin_data(stored)?;
        let (mut size, mut pieces) = (stored, None);
        if has_content && let Some((real, found)) = self.sparse(&header, &pax)? {
            (size, pieces) = (real, Some(found));
        }
        let uid = pax.uid.map_or_else(|| header.uid(), Ok)?;
        let gid = pax.gid.map_or_else(|| header.gid(), Ok)?;
        let path = pax.sparse_name.or(pax.path).or(long_path).unwrap_or(header.path);
        let link = pax.link.or(long_link).unwrap_or(header.link);
        if path.len() > PATH_BYTES_MAX || link.len() > PATH_BYTES_MAX {
            return Err(TarError::Limit("a path is longer than 4095 bytes"));
        }
        if path.contains(&0) || link.contains(&0) {
            return Err(TarError::Format("a path contains a zero byte"));
        }
        // v7 archives know directories by their names only.
        let kind = if kind == Kind::File && path.ends_with(b"/") { Kind::Directory } else { kind };
        Ok(Some(Entry {
            kind,
            path,
            link,
            mode: header.mode,
            uid,
            gid,
            mtime: pax.mtime.unwrap_or((header.mtime, 0)),
            device: header.device,
            size,
            xattrs: pax.xattrs,
            sparse: pieces,
        }))
    }

    fn sparse(&mut self, header: &header::Header, pax: &Pax) -> Result<Option<(u64, Pieces)>, TarError> {
        let (real, pieces) = match (header.kind, pax.sparse_version) {
            (b'S', _) => sparse::old_gnu(self)?,
            (_, Some((1, 0))) => (pax.sparse_size, sparse::pax_1_0(self)?),
            (_, None | Some((0, _))) if !pax.sparse_map.is_empty() || pax.sparse_size.is_some() => {
                (pax.sparse_size, pax.sparse_map.clone())
            }
            (_, Some((0, _)) | None) => return Ok(None),
            (_, Some(_)) => return Err(TarError::Format("a sparse file has a format that is not known")),
        };
        let real = real.ok_or(TarError::Format("a sparse file has no size"))?;
        sparse::check(&pieces, real, self.data_left)?;
        Ok(Some((real, pieces)))
    }

    fn begin_data(&mut self, size: u64) -> Result<(), TarError> {
        if size > i64::MAX as u64 {
            return Err(TarError::Format("an entry has an impossible size"));
        }
        self.data_left = size;
        self.padding = size.next_multiple_of(BLOCK_BYTES as u64) - size;
        Ok(())
    }

    fn read_extension(&mut self, header: &header::Header) -> Result<Vec<u8>, TarError> {
        if header.size > EXTENSION_BYTES_MAX {
            return Err(TarError::Limit("an extended header is larger than 1 MiB"));
        }
        self.begin_data(header.size)?;
        let mut bytes = Vec::new();
        (&mut self.inner).take(header.size).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != header.size {
            return Err(TarError::Read(io::Error::from(io::ErrorKind::UnexpectedEof)));
        }
        self.data_left = 0;
        Ok(bytes)
    }

    /// Reads a header; `false` at the end of the archive.
    fn read_block(&mut self) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match self.inner.read(&mut self.block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(TarError::Read(io::Error::from(io::ErrorKind::UnexpectedEof))),
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
        Ok(self.block.iter().any(|byte| *byte != 0))
    }

    /// Reads a block of the current entry's content: for the maps of sparse files.
    fn read_data_block(&mut self) -> Result<[u8; BLOCK_BYTES], TarError> {
        let mut block = [0; BLOCK_BYTES];
        self.inner.read_exact(&mut block)?;
        Ok(block)
    }
}

/// Skips by reading, for archives that come as a stream.
pub(crate) fn skip_by_reading<R: Read>(inner: &mut R, bytes: u64) -> io::Result<()> {
    let skipped = io::copy(&mut inner.take(bytes), &mut io::sink())?;
    if skipped == bytes { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
}

#[cfg(test)]
mod tests;
