//! Base64 as Go reads it in every field of bytes.
//!
//! Go's standard decoder skips line ends, so that what `base64 FILE` prints can be pasted into a Secret, and it takes a last
//! digit whose lowest bits say nothing (`eB==`). Upstream keeps bytes, so it always answers the canonical text; whoever reads
//! such a text more strictly sees an empty value where others see a certificate.

use std::borrow::Cow;

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{GeneralPurpose, GeneralPurposeConfig},
};

/// Writes canonical text, and reads digits whose last bits are loose.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// A text is not base64, even as Go reads it; in its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("illegal base64 data at input byte {at}")]
pub struct Base64Error {
    /// The byte at which Go's decoder ends.
    pub at: usize,
}

/// Decodes a text.
///
/// # Errors
/// When it is not base64 with padding, in the standard alphabet.
pub fn decode(text: &str) -> Result<Vec<u8>, Base64Error> {
    // Nearly every text is canonical, and this is the fastest way to know.
    if let Ok(bytes) = LENIENT.decode(text) {
        return Ok(bytes);
    }
    check(text)?;
    let joined: String = text.chars().filter(|character| !is_line_end(*character)).collect();
    LENIENT.decode(joined).map_err(|_| Base64Error { at: text.len() })
}

/// Encodes bytes.
pub fn encode(bytes: &[u8]) -> String {
    LENIENT.encode(bytes)
}

/// The text that upstream answers for the bytes that a text says; it borrows when there is nothing to change.
///
/// # Errors
/// As [`decode`].
pub fn canonical(text: &str) -> Result<Cow<'_, str>, Base64Error> {
    let has_loose_bits = check(text)?;
    if !has_loose_bits && !text.contains(is_line_end) {
        return Ok(Cow::Borrowed(text));
    }
    decode(text).map(|bytes| Cow::Owned(encode(&bytes)))
}

fn is_line_end(character: char) -> bool {
    matches!(character, '\r' | '\n')
}

/// Whether the last digit of a text has bits that say nothing.
fn check(text: &str) -> Result<bool, Base64Error> {
    let bytes = text.as_bytes();
    let (mut digits, mut last) = (0_usize, b'A');
    for (at, byte) in bytes.iter().copied().enumerate() {
        match byte {
            b'\r' | b'\n' => {}
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => (digits, last) = (digits + 1, byte),
            b'=' => {
                // With one digit in its quantum a last byte has two bits of six, with two it has four.
                let (needed, is_loose) = match digits % 4 {
                    2 => (2, !matches!(last, b'A' | b'Q' | b'g' | b'w')),
                    3 => (1, !b"AEIMQUYcgkosw048".contains(&last)),
                    _ => return Err(Base64Error { at }),
                };
                check_padding(bytes, at, needed)?;
                return Ok(is_loose);
            }
            _ => return Err(Base64Error { at }),
        }
    }
    // Digits without their padding end where a quantum began.
    if digits.is_multiple_of(4) { Ok(false) } else { Err(Base64Error { at: bytes.len() - digits % 4 }) }
}

/// As many `=` as are needed, and nothing but line ends among and after them.
fn check_padding(bytes: &[u8], start: usize, needed: usize) -> Result<(), Base64Error> {
    let mut rest = (start..bytes.len()).filter(|at| !matches!(bytes[*at], b'\r' | b'\n'));
    for _ in 0..needed {
        match rest.next() {
            Some(at) if bytes[at] == b'=' => {}
            Some(at) => return Err(Base64Error { at }),
            None => return Err(Base64Error { at: bytes.len() }),
        }
    }
    rest.next().map_or(Ok(()), |at| Err(Base64Error { at }))
}

#[cfg(test)]
mod tests;
