//! Maps of sparse files: where in the file the bytes of the archive belong.

use std::io::Read;

use super::{BLOCK_BYTES, Pieces, Reader, TarError, header, pax};

/// More pieces than a file is ever cut into; 4 MiB of memory.
pub(super) const PIECES_MAX: usize = 1 << 18;

const BROKEN: TarError = TarError::Format("a sparse file's map is broken");

/// GNU's own format: four pieces in the header, 21 in each block that follows.
pub(super) fn old_gnu<R: Read>(reader: &mut Reader<R>) -> Result<(Option<u64>, Pieces), TarError> {
    let header = reader.block;
    let mut pieces = Pieces::new();
    collect(&header[386..482], &mut pieces)?;
    let real = u64::try_from(header::number(&header[483..495])?).map_err(|_| BROKEN)?;
    let mut is_extended = header[482] != 0;
    while is_extended {
        let block = reader.read_data_block()?;
        collect(&block[..504], &mut pieces)?;
        is_extended = block[504] != 0;
    }
    Ok((Some(real), pieces))
}

/// pax 1.0: decimal lines at the beginning of the content, filled up to a block.
pub(super) fn pax_1_0<R: Read>(reader: &mut Reader<R>) -> Result<Pieces, TarError> {
    let mut numbers = Lines { line: Vec::new(), block: [0; BLOCK_BYTES], at: BLOCK_BYTES };
    let count = usize::try_from(numbers.next(reader)?).ok().filter(|count| *count <= PIECES_MAX);
    let count = count.ok_or(TarError::Limit("a sparse file has too many pieces"))?;
    let mut pieces = Pieces::new();
    for _ in 0..count {
        pieces.push((numbers.next(reader)?, numbers.next(reader)?));
    }
    Ok(pieces)
}

/// Pieces must ascend, lie within the file and be what the archive has.
pub(super) fn check(pieces: &[(u64, u64)], size: u64, stored: u64) -> Result<(), TarError> {
    if size > i64::MAX as u64 || pieces.len() > PIECES_MAX {
        return Err(BROKEN);
    }
    let (mut end, mut sum) = (0u64, 0u64);
    for (offset, length) in pieces {
        let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= size);
        end = next.ok_or(BROKEN)?;
        sum += length;
    }
    if sum == stored { Ok(()) } else { Err(BROKEN) }
}

fn collect(fields: &[u8], pieces: &mut Pieces) -> Result<(), TarError> {
    for field in fields.chunks_exact(24) {
        if field[0] == 0 {
            break;
        }
        if pieces.len() == PIECES_MAX {
            return Err(TarError::Limit("a sparse file has too many pieces"));
        }
        let number = |field: &[u8]| u64::try_from(header::number(field)?).map_err(|_| BROKEN);
        pieces.push((number(&field[..12])?, number(&field[12..])?));
    }
    Ok(())
}

struct Lines {
    line: Vec<u8>,
    block: [u8; BLOCK_BYTES],
    at: usize,
}

impl Lines {
    fn next<R: Read>(&mut self, reader: &mut Reader<R>) -> Result<u64, TarError> {
        self.line.clear();
        loop {
            if self.at == BLOCK_BYTES {
                reader.data_left = reader.data_left.checked_sub(BLOCK_BYTES as u64).ok_or(BROKEN)?;
                self.block = reader.read_data_block()?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return pax::decimal(&self.line),
                byte if self.line.len() < 20 => self.line.push(byte),
                _ => return Err(BROKEN),
            }
        }
    }
}
