//! Decompresses layers: gzip, zstd or neither, recognised by their first bytes, since media types are often wrong.
//!
//! Memory is bounded: a zstd frame that asks for a window of more than 32 MiB is rejected before anything is reserved for it.
//! How much comes out is for the caller to limit, who stops reading.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

const INPUT_BUFFER_BYTES: usize = 64 << 10;
/// What BuildKit uses at its best compression; `zstd --ultra` and `--long` go beyond, and a small node has no memory for it.
const WINDOW_BYTES_MAX: u64 = 32 << 20;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Of frames that only carry data for other programs, as the table of contents of zstd:chunked: `0x184D2A5?`.
const SKIPPABLE_MAGIC: [u8; 3] = [0x2a, 0x4d, 0x18];
/// Magic, descriptor, window, dictionary id, content size.
const FRAME_HEADER_BYTES_MAX: usize = 18;

/// The blob, with its first bytes looked at already.
type Input<R> = BufReader<io::Chain<io::Cursor<Vec<u8>>, R>>;

/// Reads what a layer's blob contains.
pub(crate) enum Decoder<R: Read> {
    Plain(Input<R>),
    Gzip(Box<MultiGzDecoder<Input<R>>>),
    Zstd(Box<Zstd<R>>),
}

impl<R: Read> Decoder<R> {
    pub(crate) fn new(mut inner: R) -> io::Result<Self> {
        let mut first = [0; 5];
        let length = read_up_to(&mut inner, &mut first)?;
        let first = &first[..length];
        let inner = BufReader::with_capacity(INPUT_BUFFER_BYTES, io::Cursor::new(first.to_vec()).chain(inner));
        Ok(if first.starts_with(&GZIP_MAGIC) {
            Self::Gzip(Box::new(MultiGzDecoder::new(inner)))
        } else if is_zstd(first) {
            Self::Zstd(Box::new(Zstd::new(inner)))
        } else {
            Self::Plain(inner)
        })
    }

    /// What the blob is read from. Some of it may have been read ahead.
    pub(crate) fn get_mut(&mut self) -> &mut Input<R> {
        match self {
            Self::Plain(inner) => inner,
            Self::Gzip(inner) => inner.get_mut(),
            Self::Zstd(inner) => &mut inner.source,
        }
    }

    pub(crate) fn into_inner(self) -> R {
        match self {
            Self::Plain(inner) => inner,
            Self::Gzip(inner) => inner.into_inner(),
            Self::Zstd(inner) => inner.source,
        }
        .into_inner()
        .into_inner()
        .1
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(inner) => inner.read(buffer),
            Self::Gzip(inner) => inner.read(buffer),
            Self::Zstd(inner) => inner.read(buffer),
        }
    }
}

/// Frames one after the other, as zstd:chunked and parallel compressors write them.
pub(crate) struct Zstd<R: Read> {
    source: Input<R>,
    frame: FrameDecoder,
    is_in_frame: bool,
}

impl<R: Read> Zstd<R> {
    fn new(source: Input<R>) -> Self {
        Self { source, frame: FrameDecoder::new(), is_in_frame: false }
    }

    /// Begins the next frame; `false` at the end of the blob.
    fn begin_frame(&mut self) -> io::Result<bool> {
        let mut header = [0; FRAME_HEADER_BYTES_MAX];
        loop {
            let length = read_up_to(&mut self.source, &mut header[..5])?;
            if length == 0 {
                return Ok(false);
            }
            // What follows the magic number and the descriptor depends on the descriptor.
            let total = frame_header_bytes(&header[..length]).ok_or_else(broken)?;
            let length = length + read_up_to(&mut self.source, &mut header[length..total])?;
            check_window(&header[..length])?;
            match self.frame.reset(&header[..length]) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    crate::tar::skip_by_reading(&mut self.source, u64::from(length))?;
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
    }
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.frame.can_collect() > 0 {
                return self.frame.read(buffer);
            }
            if self.is_in_frame && !self.frame.is_finished() {
                let some = BlockDecodingStrategy::UptoBytes(buffer.len());
                self.frame.decode_blocks(&mut self.source, some).map_err(broken_by)?;
                continue;
            }
            self.is_in_frame = self.begin_frame()?;
            if !self.is_in_frame {
                return Ok(0);
            }
        }
    }
}

fn is_zstd(first: &[u8]) -> bool {
    first.starts_with(&ZSTD_MAGIC) || (first.len() > 4 && first[0] & 0xf0 == 0x50 && first[1..4] == SKIPPABLE_MAGIC)
}

/// Length of a frame's header by its first five bytes; RFC 8878, section 3.1.1.1.
fn frame_header_bytes(first: &[u8]) -> Option<usize> {
    let descriptor = *first.get(4)?;
    if !first.starts_with(&ZSTD_MAGIC) {
        // Of a skippable frame: magic number and length.
        return is_zstd(first).then_some(8);
    }
    let is_single_segment = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content_size = [usize::from(is_single_segment), 2, 4, 8][usize::from(descriptor >> 6)];
    Some(5 + usize::from(!is_single_segment) + dictionary + content_size)
}

/// The decoder reserves what the header of a frame asks for: the window, or in a frame without one all of its content.
fn check_window(header: &[u8]) -> io::Result<()> {
    if !header.starts_with(&ZSTD_MAGIC) {
        return Ok(());
    }
    let [descriptor, window, ..] = header[4..] else { return Err(broken()) };
    let bytes = if descriptor & 0x20 == 0 {
        let base = 1u64 << (10 + (window >> 3));
        base + base / 8 * u64::from(window & 7)
    } else {
        let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
        let field = header.len().checked_sub(length).and_then(|at| header.get(at..)).ok_or_else(broken)?;
        let size = field.iter().rev().fold(0, |size, byte| (size << 8) | u64::from(*byte));
        size + if length == 2 { 256 } else { 0 }
    };
    if bytes > WINDOW_BYTES_MAX {
        let reason = "it was compressed with a zstd window of more than 32 MiB";
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    Ok(())
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a zstd frame has no header")
}

fn broken_by(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Fills the buffer, or as much of it as there is.
pub(crate) fn read_up_to(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
