//! What the kernel answers, read with every length checked.
//!
//! Plain functions on bytes: nothing here allocates by a length that the bytes state, and whatever is cut short or lies about
//! its length ends the reading.

const HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// The bits of an attribute's kind that are flags (nested, network byte order).
const KIND_MASK: u16 = 0x3fff;

pub(super) const KIND_ERROR: u16 = 2;
pub(super) const KIND_DONE: u16 = 3;
/// The list was changed while it was read.
pub(super) const FLAG_INTERRUPTED: u16 = 0x10;
const FLAG_CAPPED: u16 = 0x100;
const FLAG_EXTENDED: u16 = 0x200;

/// One message of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// What it is.
    pub kind: u16,
    /// Its flags.
    pub flags: u16,
    /// The number of the request that it answers.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// The answer is shorter than it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an answer of the kernel is cut short")]
pub struct Truncated;

/// The messages in what one read brought.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Truncated>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some((message, length)) = first_message(rest) else {
            rest = &[];
            return Some(Err(Truncated));
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(message))
    })
}

fn first_message(bytes: &[u8]) -> Option<(Message<'_>, usize)> {
    let length = number(bytes, 0)? as usize;
    let payload = bytes.get(HEADER_BYTES..length)?;
    let message = Message { kind: short(bytes, 4)?, flags: short(bytes, 6)?, sequence: number(bytes, 8)?, payload };
    Some((message, length))
}

/// The attributes in a part of a message: kind without its flags, and value. What is cut short ends the list.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(short(rest, 0)?);
        let kind = short(rest, 2)? & KIND_MASK;
        let value = rest.get(ATTRIBUTE_HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of a kind.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// The attributes behind a fixed header of so many bytes.
pub fn behind(payload: &[u8], header_bytes: usize) -> &[u8] {
    payload.get(header_bytes..).unwrap_or_default()
}

/// A number in this machine's order at an offset.
pub fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

/// A number of 16 bits in this machine's order at an offset.
pub fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_ne_bytes)
}

/// A value of four bytes in network order.
pub fn number_be(value: &[u8]) -> Option<u32> {
    value.get(..4)?.try_into().ok().map(u32::from_be_bytes)
}

/// A string up to its NUL.
pub fn string(value: &[u8]) -> &str {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    str::from_utf8(&value[..end]).unwrap_or_default()
}

/// What an error message or the end of a dump says: the error's number, 0 for success, and the kernel's own text.
pub(super) fn verdict(message: &Message<'_>) -> Option<(i32, String)> {
    const EXT_TEXT: u16 = 1;
    let code = number(message.payload, 0)? as i32;
    let mut text = String::new();
    if message.flags & FLAG_EXTENDED != 0 {
        // The request follows, only its header when the kernel caps it; a dump's end has no request in it.
        let request = match message.kind {
            KIND_DONE => 0,
            _ if message.flags & FLAG_CAPPED != 0 => HEADER_BYTES,
            _ => (number(message.payload, 4)? as usize).next_multiple_of(4),
        };
        let extra = message.payload.get(request.checked_add(4)?..).unwrap_or_default();
        text.push_str(attribute(extra, EXT_TEXT).map(string).unwrap_or_default());
    }
    Some((code.saturating_neg(), text))
}
