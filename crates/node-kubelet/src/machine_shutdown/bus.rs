//! A client of the D-Bus wire protocol, as far as it is needed: calls with texts, their replies, signals, one file.
//!
//! <https://dbus.freedesktop.org/doc/dbus-specification.html>. A message is a header (byte order, type, lengths, serial, an array of
//! fields), padded to eight bytes, and a body in the form that the field `SIGNATURE` says. Whatever comes is bounded before it is
//! kept, and what is not understood ends the connection: whoever uses it makes another.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";

/// Fields of a header; ours have some hundred bytes.
const FIELDS_BYTES_MAX: usize = 16 * 1024;
/// Bodies of what we ask for have some hundred bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// A line of the handshake.
const LINE_BYTES_MAX: usize = 4096;
/// Signals that come while an answer is waited for.
const SIGNALS_MAX: usize = 64;
/// Files that come with a message.
const FDS_MAX: usize = 4;
/// The bus is on this machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The fixed part of a header, with the length of its fields.
const FIXED_BYTES: usize = 16;

/// Why the bus could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BusError {
    #[error("failed to connect to the message bus at {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("failed to talk to the message bus")]
    Io(#[from] io::Error),
    #[error("the message bus does not let us in: {0:?}")]
    Auth(String),
    #[error("the message bus sent what is no message: {0}")]
    Malformed(&'static str),
    #[error("{member} was answered with {name}: {message}")]
    Refused { member: String, name: String, message: String },
    #[error("{0} was not answered")]
    Timeout(String),
}

/// A call whose arguments are all texts.
pub(crate) struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub texts: &'a [&'a str],
}

impl<'a> Call<'a> {
    /// One of the bus itself.
    pub fn of_bus(member: &'a str, texts: &'a [&'a str]) -> Self {
        Self { destination: BUS, path: BUS_PATH, interface: BUS, member, texts }
    }

    fn encode(&self, serial: u32) -> Vec<u8> {
        let mut body = Vec::new();
        for text in self.texts {
            pad(&mut body, 4);
            put_text(&mut body, text);
        }
        let mut message = vec![b'l', 1, 0, 1];
        message.extend((body.len() as u32).to_le_bytes());
        message.extend(serial.to_le_bytes());
        let mut fields = Vec::new();
        let named = [(1, 'o', self.path), (2, 's', self.interface), (3, 's', self.member), (6, 's', self.destination)];
        for (code, kind, value) in named {
            pad(&mut fields, 8);
            fields.extend([code, 1, kind as u8, 0]);
            put_text(&mut fields, value);
        }
        if !self.texts.is_empty() {
            pad(&mut fields, 8);
            let signature = "s".repeat(self.texts.len());
            fields.extend([8, 1, b'g', 0, signature.len() as u8]);
            fields.extend(signature.as_bytes());
            fields.push(0);
        }
        message.extend((fields.len() as u32).to_le_bytes());
        message.extend(fields);
        pad(&mut message, 8);
        message.extend(body);
        message
    }
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

/// What kind of message it is.
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// A message that came.
#[derive(Debug, Default)]
pub(crate) struct Received {
    kind: u8,
    is_big_endian: bool,
    reply_to: Option<u32>,
    path: String,
    interface: String,
    member: String,
    error: String,
    signature: String,
    fds: u32,
    body: Vec<u8>,
    fd: Option<OwnedFd>,
}

impl Received {
    /// Whether it is this signal.
    pub fn is(&self, path: &str, interface: &str, member: &str) -> bool {
        (self.path.as_str(), self.interface.as_str(), self.member.as_str()) == (path, interface, member)
    }

    /// A body that is one truth value.
    pub fn bool(&self) -> Result<bool, BusError> {
        self.expect("b")?;
        Ok(self.reader().u32()? != 0)
    }

    /// A body that is a number in a variant.
    pub fn variant_u64(&self) -> Result<u64, BusError> {
        self.expect("v")?;
        let mut reader = self.reader();
        if reader.signature()? != "t" {
            return Err(BusError::Malformed("a property of another type"));
        }
        reader.u64()
    }

    /// The file that came with it.
    pub fn into_fd(self) -> Result<OwnedFd, BusError> {
        self.expect("h")?;
        self.fd.ok_or(BusError::Malformed("a file that did not come"))
    }

    fn expect(&self, signature: &str) -> Result<(), BusError> {
        if self.signature == signature { Ok(()) } else { Err(BusError::Malformed("a body of another form")) }
    }

    fn reader(&self) -> Reader<'_> {
        Reader { bytes: &self.body, at: 0, is_big_endian: self.is_big_endian }
    }

    /// The text of an error.
    fn message(&self) -> String {
        let text = if self.signature.starts_with('s') { self.reader().text().unwrap_or_default() } else { "" };
        text.to_owned()
    }
}

/// Reads values at their places.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    is_big_endian: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, align: usize, len: usize) -> Result<&'a [u8], BusError> {
        let start = self.at.next_multiple_of(align);
        let end = start.checked_add(len).ok_or(BusError::Malformed("a length beyond all messages"))?;
        self.at = end;
        self.bytes.get(start..end).ok_or(BusError::Malformed("a value beyond its end"))
    }

    fn u32(&mut self) -> Result<u32, BusError> {
        let bytes: [u8; 4] = self.take(4, 4)?.try_into().expect("four bytes were taken");
        Ok(if self.is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn u64(&mut self) -> Result<u64, BusError> {
        let bytes: [u8; 8] = self.take(8, 8)?.try_into().expect("eight bytes were taken");
        Ok(if self.is_big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }

    fn text_of(&mut self, len: usize) -> Result<&'a str, BusError> {
        let bytes = self.take(1, len)?;
        // The byte that ends it.
        self.take(1, 1)?;
        std::str::from_utf8(bytes).map_err(|_| BusError::Malformed("a text that is none"))
    }

    fn text(&mut self) -> Result<&'a str, BusError> {
        let len = self.u32()? as usize;
        self.text_of(len)
    }

    fn signature(&mut self) -> Result<&'a str, BusError> {
        let len = usize::from(self.take(1, 1)?[0]);
        self.text_of(len)
    }
}

/// How many bytes the message has that begins here; `None` while that is not known.
fn message_bytes(bytes: &[u8]) -> Result<Option<usize>, BusError> {
    if bytes.len() < FIXED_BYTES {
        return Ok(None);
    }
    let is_big_endian = is_big_endian(bytes)?;
    let mut reader = Reader { bytes, at: 4, is_big_endian };
    let (body, _, fields) = (reader.u32()? as usize, reader.u32()?, reader.u32()? as usize);
    if body > BODY_BYTES_MAX || fields > FIELDS_BYTES_MAX {
        return Err(BusError::Malformed("a message that is too long"));
    }
    Ok(Some((FIXED_BYTES + fields).next_multiple_of(8) + body))
}

fn is_big_endian(bytes: &[u8]) -> Result<bool, BusError> {
    match bytes {
        [b'l', _, _, 1, ..] => Ok(false),
        [b'B', _, _, 1, ..] => Ok(true),
        _ => Err(BusError::Malformed("another protocol")),
    }
}

/// Reads one whole message.
fn decode(bytes: &[u8]) -> Result<Received, BusError> {
    let is_big_endian = is_big_endian(bytes)?;
    let mut reader = Reader { bytes, at: 4, is_big_endian };
    let (body, _, fields) = (reader.u32()? as usize, reader.u32()?, reader.u32()? as usize);
    let mut received = Received { kind: bytes[1], is_big_endian, ..Received::default() };
    let end = FIXED_BYTES + fields;
    while reader.at < end {
        let code = reader.take(8, 1)?[0];
        let kind = reader.signature()?;
        match (code, kind) {
            (5, "u") => received.reply_to = Some(reader.u32()?),
            (9, "u") => received.fds = reader.u32()?,
            (8, "g") => reader.signature()?.clone_into(&mut received.signature),
            (_, "u") => drop(reader.u32()?),
            (_, "g") => drop(reader.signature()?),
            (code, "s" | "o") => {
                let text = reader.text()?.to_owned();
                match code {
                    1 => received.path = text,
                    2 => received.interface = text,
                    3 => received.member = text,
                    4 => received.error = text,
                    _ => {}
                }
            }
            _ => return Err(BusError::Malformed("a field of another type")),
        }
    }
    let start = end.next_multiple_of(8);
    let body = start.checked_add(body).and_then(|end| bytes.get(start..end));
    received.body = body.ok_or(BusError::Malformed("a body beyond its end"))?.to_vec();
    Ok(received)
}

/// A connection to a bus.
pub(crate) struct Bus {
    stream: UnixStream,
    input: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    serial: u32,
    /// Those that came while an answer was waited for.
    signals: VecDeque<Received>,
}

impl Bus {
    /// Connects as the user that this process runs as.
    pub async fn connect(path: &Path) -> Result<Self, BusError> {
        let connecting = Self::greet(path);
        tokio::time::timeout(ANSWER_TIMEOUT, connecting)
            .await
            .map_err(|_| BusError::Timeout("the greeting".to_owned()))?
    }

    async fn greet(path: &Path) -> Result<Self, BusError> {
        let connected = UnixStream::connect(path).await;
        let stream = connected.map_err(|source| BusError::Connect { path: path.to_owned(), source })?;
        let mut bus = Self { stream, input: Vec::new(), fds: VecDeque::new(), serial: 0, signals: VecDeque::new() };
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
        bus.stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes()).await?;
        bus.line("OK").await?;
        bus.stream.write_all(b"NEGOTIATE_UNIX_FD\r\n").await?;
        bus.line("AGREE_UNIX_FD").await?;
        bus.stream.write_all(b"BEGIN\r\n").await?;
        bus.call(&Call::of_bus("Hello", &[])).await?;
        Ok(bus)
    }

    /// Reads a line of the handshake, which must begin so.
    async fn line(&mut self, expected: &str) -> Result<(), BusError> {
        loop {
            if let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..end + 2).take(end).collect();
                let line = String::from_utf8_lossy(&line).into_owned();
                return if line.starts_with(expected) { Ok(()) } else { Err(BusError::Auth(line)) };
            }
            if self.input.len() > LINE_BYTES_MAX {
                return Err(BusError::Malformed("a line without an end"));
            }
            self.read().await?;
        }
    }

    /// Makes a call and waits for its reply.
    pub async fn call(&mut self, call: &Call<'_>) -> Result<Received, BusError> {
        self.serial = self.serial.wrapping_add(1).max(1);
        let serial = self.serial;
        self.stream.write_all(&call.encode(serial)).await?;
        let reply = tokio::time::timeout(ANSWER_TIMEOUT, self.reply(serial)).await;
        let reply = reply.map_err(|_| BusError::Timeout(call.member.to_owned()))??;
        match reply.kind {
            RETURN => Ok(reply),
            _ => Err(BusError::Refused { member: call.member.to_owned(), message: reply.message(), name: reply.error }),
        }
    }

    async fn reply(&mut self, serial: u32) -> Result<Received, BusError> {
        loop {
            let received = self.receive().await?;
            match received.kind {
                RETURN | ERROR if received.reply_to == Some(serial) => return Ok(received),
                SIGNAL if self.signals.len() < SIGNALS_MAX => self.signals.push_back(received),
                _ => {}
            }
        }
    }

    /// Waits for a signal.
    pub async fn signal(&mut self) -> Result<Received, BusError> {
        if let Some(signal) = self.signals.pop_front() {
            return Ok(signal);
        }
        loop {
            let received = self.receive().await?;
            if received.kind == SIGNAL {
                return Ok(received);
            }
        }
    }

    async fn receive(&mut self) -> Result<Received, BusError> {
        loop {
            if let Some(len) = message_bytes(&self.input)?
                && self.input.len() >= len
            {
                let mut received = decode(&self.input[..len])?;
                self.input.drain(..len);
                for _ in 0..received.fds {
                    let fd = self.fds.pop_front().ok_or(BusError::Malformed("a file that did not come"))?;
                    received.fd.get_or_insert(fd);
                }
                return Ok(received);
            }
            self.read().await?;
        }
    }

    /// Takes what is there, with its files.
    async fn read(&mut self) -> Result<(), BusError> {
        let mut bytes = [0_u8; 4096];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let stream = &self.stream;
        let received = stream.async_io(Interest::READABLE, || {
            let mut parts = [io::IoSliceMut::new(&mut bytes)];
            Ok(rustix::net::recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?)
        });
        let count = received.await?.bytes;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if self.fds.len() > FDS_MAX {
            return Err(BusError::Malformed("more files than were asked for"));
        }
        self.input.extend(&bytes[..count]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_call_is_written_as_the_specification_has_it() {
        let call = Call { destination: "d.e", path: "/p", interface: "i.f", member: "M", texts: &["ab", "c"] };
        let bytes = call.encode(7);
        assert_eq!(message_bytes(&bytes).unwrap(), Some(bytes.len()));
        let read = decode(&bytes).unwrap();
        assert!(read.is("/p", "i.f", "M") && read.signature == "ss", "{read:?}");
        let mut reader = read.reader();
        assert_eq!((reader.text().unwrap(), reader.u32().unwrap()), ("ab", 1));
        assert_eq!(&bytes[..16], [b'l', 1, 0, 1, 14, 0, 0, 0, 7, 0, 0, 0, 72, 0, 0, 0]);
    }

    #[test]
    fn a_signal_is_read_in_either_order_of_bytes() {
        let message = |is_big: bool| {
            let number = |number: u32| if is_big { number.to_be_bytes() } else { number.to_le_bytes() };
            let mut bytes = vec![if is_big { b'B' } else { b'l' }, SIGNAL, 0, 1];
            bytes.extend(number(4));
            bytes.extend(number(1));
            bytes.extend(number(7));
            bytes.extend([8, 1, b'g', 0, 1, b'b', 0, 0]);
            bytes.extend(number(1));
            bytes
        };
        for is_big in [false, true] {
            assert!(decode(&message(is_big)).unwrap().bool().unwrap());
        }
    }

    proptest! {
        #[test]
        fn what_is_no_message_is_refused_and_harms_nobody(bytes in proptest::collection::vec(any::<u8>(), 0..200), is_ours: bool) {
            let mut bytes = bytes;
            if is_ours && bytes.len() >= FIXED_BYTES {
                bytes[..4].copy_from_slice(&[b'l', SIGNAL, 0, 1]);
                let fields = bytes[12] % 64;
                bytes[4..16].copy_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0, fields, 0, 0, 0]);
            }
            if let Ok(Some(len)) = message_bytes(&bytes) {
                prop_assert!(len <= FIXED_BYTES + FIELDS_BYTES_MAX + BODY_BYTES_MAX + 8);
                if let Ok(received) = bytes.get(..len).map_or(Err(BusError::Malformed("short")), decode) {
                    let _ = (received.bool(), received.variant_u64(), received.message());
                }
            }
        }
    }
}
