//! The 512 bytes before each entry.

use super::{BLOCK_BYTES, Kind, TarError};

/// Fields of a header, before extensions.
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    uid: i128,
    gid: i128,
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) device: (u32, u32),
}

impl Header {
    pub(super) fn parse(block: &[u8; BLOCK_BYTES]) -> Result<Self, TarError> {
        check_sum(block)?;
        let kind = block[156];
        let is_ustar = &block[257..263] == b"ustar\0";
        let mut path = until_nul(&block[..100]).to_vec();
        // GNU's magic has times and a sparse map where ustar has the prefix.
        let prefix = if is_ustar { until_nul(&block[345..500]) } else { &[] };
        if !prefix.is_empty() {
            path = [prefix, b"/", &path].concat();
        }
        let has_device = matches!(kind, b'3' | b'4');
        let device = if has_device { (small(&block[329..337])?, small(&block[337..345])?) } else { (0, 0) };
        Ok(Self {
            kind,
            path,
            link: until_nul(&block[157..257]).to_vec(),
            mode: (number(&block[100..108])? & 0o7777) as u32,
            uid: number(&block[108..116])?,
            gid: number(&block[116..124])?,
            size: u64::try_from(number(&block[124..136])?).map_err(|_| TarError::Format("a size is negative"))?,
            mtime: clamp(number(&block[136..148])?),
            device,
        })
    }

    /// `None` for kinds that mean nothing on Linux, which are skipped as GNU tar does.
    pub(super) fn entry_kind(&self) -> Option<Kind> {
        Some(match self.kind {
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Character,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return None,
        })
    }

    pub(super) fn uid(&self) -> Result<u32, TarError> {
        id(self.uid)
    }

    pub(super) fn gid(&self) -> Result<u32, TarError> {
        id(self.gid)
    }
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits, or with the highest bit set a signed number in base 256.
pub(super) fn number(field: &[u8]) -> Result<i128, TarError> {
    if field[0] & 0x80 != 0 {
        // The first byte has the mark, and its next bit is the sign.
        let first = i128::from(field[0] & 0x7f) - if field[0] & 0x40 != 0 { 0x80 } else { 0 };
        return Ok(field[1..].iter().fold(first, |value, byte| (value << 8) | i128::from(*byte)));
    }
    let is_filler = |byte: &u8| *byte == b' ' || *byte == 0;
    let digits: Vec<u8> = field.iter().copied().skip_while(is_filler).take_while(|byte| !is_filler(byte)).collect();
    digits.into_iter().try_fold(0, |value, digit| match digit {
        b'0'..=b'7' => Ok(value * 8 + i128::from(digit - b'0')),
        _ => Err(TarError::Format("a number of a header is not octal")),
    })
}

fn small(field: &[u8]) -> Result<u32, TarError> {
    u32::try_from(number(field)?).map_err(|_| TarError::Format("a device number is out of range"))
}

fn id(value: i128) -> Result<u32, TarError> {
    // The highest is no id: to `chown` it means "as it is".
    u32::try_from(value).ok().filter(|id| *id != u32::MAX).ok_or(TarError::Format("an owner is out of range"))
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// The sum of all bytes, the field itself taken as spaces. Old programs summed signed bytes.
fn check_sum(block: &[u8; BLOCK_BYTES]) -> Result<(), TarError> {
    let written = number(&block[148..156])?;
    let with_spaces = block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte });
    let (unsigned, signed) = with_spaces.fold((0, 0), |(unsigned, signed), byte| {
        (unsigned + i128::from(byte), signed + i128::from(byte.cast_signed()))
    });
    if written == unsigned || written == signed {
        Ok(())
    } else {
        Err(TarError::Format("the sum of a header is wrong"))
    }
}
