//! Messages to the kernel as bytes: headers, attributes, attributes within attributes.

/// The last message is acknowledged; the kernel reports an error of any other by itself.
const NLM_F_REQUEST: u16 = 1;
/// Makes the kernel acknowledge a message that it has carried out.
pub const ACK: u16 = 4;
/// Everything there is, instead of one object.
pub const DUMP: u16 = 0x300;
/// Replace what exists.
pub const REPLACE: u16 = 0x100;
/// Fail when it exists.
pub const EXCLUSIVE: u16 = 0x200;
/// Create what does not exist.
pub const CREATE: u16 = 0x400;
/// Put it at the end of a list.
pub const APPEND: u16 = 0x800;

/// An attribute's length has 16 bits.
const ATTRIBUTE_BYTES_MAX: usize = u16::MAX as usize;
const NESTED: u16 = 0x8000;
const HEADER_BYTES: usize = 16;

/// One message among several that are sent together.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) at: usize,
    /// What it does, for an error's text.
    pub(super) act: String,
    /// Errors of the kernel that are fine.
    pub(super) tolerated: &'static [i32],
}

/// Messages that go to the kernel in one call.
///
/// An attribute that would not fit its 16 bits of length makes the whole unusable: [`Self::is_sound`] says so, and the socket
/// refuses to send it. Callers cut lists before that.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    bytes: Vec<u8>,
    parts: Vec<Part>,
    is_overlong: bool,
}

impl Messages {
    /// Begins a message; attributes follow. `act` completes "failed to …".
    pub fn begin(&mut self, kind: u16, flags: u16, head: &[u8], act: impl Into<String>) -> &mut Self {
        self.close();
        self.parts.push(Part { at: self.bytes.len(), act: act.into(), tolerated: &[] });
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        // Sequence number, filled in when it is sent, and port, which is the kernel's.
        self.bytes.extend([0; 8]);
        self.raw(head)
    }

    /// Errors that the message begun last may end with, and nothing is wrong.
    pub fn tolerate(&mut self, errors: &'static [i32]) -> &mut Self {
        if let Some(part) = self.parts.last_mut() {
            part.tolerated = errors;
        }
        self
    }

    /// Bytes without a header, padded.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// One attribute.
    pub fn attribute(&mut self, kind: u16, data: &[u8]) -> &mut Self {
        let length = data.len() + 4;
        self.is_overlong |= length > ATTRIBUTE_BYTES_MAX;
        self.bytes.extend((length as u16).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.raw(data)
    }

    /// A number in the order of this machine, as routes and links have it.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// A number in network order, as nftables has it.
    pub fn number_be(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// A string with its final NUL.
    pub fn string(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// An attribute that holds attributes.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.extend([0, 0]);
        self.bytes.extend((kind | NESTED).to_ne_bytes());
        fill(self);
        let length = self.bytes.len() - at;
        self.is_overlong |= length > ATTRIBUTE_BYTES_MAX;
        self.bytes[at..at + 2].copy_from_slice(&(length as u16).to_ne_bytes());
        self
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether every attribute's length fits.
    pub fn is_sound(&self) -> bool {
        !self.is_overlong
    }

    /// The bytes so far, for a hash of them.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes as they would be sent.
    #[cfg(test)]
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        self.finish(1, usize::MAX);
        self.bytes
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The bytes, numbered from `first` on. The last message is acknowledged unless it asks for a dump, whose end is clear.
    pub(super) fn finish(&mut self, first: u32, acknowledged: usize) -> &[u8] {
        self.close();
        for (index, part) in self.parts.iter().enumerate() {
            let sequence = first.wrapping_add(index as u32);
            self.bytes[part.at + 8..part.at + 12].copy_from_slice(&sequence.to_ne_bytes());
            if index == acknowledged {
                let flags = u16::from_ne_bytes([self.bytes[part.at + 6], self.bytes[part.at + 7]]);
                if flags & DUMP != DUMP {
                    self.bytes[part.at + 6..part.at + 8].copy_from_slice(&(flags | ACK).to_ne_bytes());
                }
            }
        }
        &self.bytes
    }

    /// Fills in the length of the message begun last.
    fn close(&mut self) {
        if let Some(part) = self.parts.last() {
            let length = (self.bytes.len() - part.at) as u32;
            debug_assert!(length as usize >= HEADER_BYTES);
            self.bytes[part.at..part.at + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }
}
