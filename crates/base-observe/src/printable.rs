//! Texts from outside, made fit for one line of a terminal.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io;

/// Shows a text on one line, whoever wrote it: what would move a cursor, change colours, begin a line or turn the direction of
/// writing is escaped.
///
/// ```
/// use base_observe::Printable;
/// assert_eq!(Printable("down\n\u{1b}[31mok gw-2").to_string(), "down\\n\\u{1b}[31mok gw-2");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Printable<T>(pub T);

impl<T: fmt::Display> fmt::Display for Printable<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(formatter), "{}", self.0)
    }
}

struct Escaping<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(&escaped(text, false))
    }
}

/// A line of a log without its end; with `colours` their sequences, and no others, stay.
fn escaped(text: &str, colours: bool) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(at) = rest.find(is_unprintable) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if colours && let Some(end) = colour_end(rest) {
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else {
            let mut chars = rest.chars();
            out.extend(chars.next().into_iter().flat_map(char::escape_default));
            rest = chars.as_str();
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Controls, ends of lines that are none, and marks that turn the direction of what follows.
fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Where a sequence that sets a colour ends, when the text begins with one.
fn colour_end(text: &str) -> Option<usize> {
    let numbers = text.strip_prefix("\u{1b}[")?;
    let end = numbers.find(|character: char| !character.is_ascii_digit() && character != ';')?;
    numbers[end..].starts_with('m').then_some(text.len() - numbers.len() + end + 1)
}

/// Where log lines go: whatever an event says, it is one line.
pub(crate) struct LineWriter<W> {
    pub inner: W,
    pub colours: bool,
}

impl<W: io::Write> io::Write for LineWriter<W> {
    /// An event comes in one piece, with the end of its line.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (line, end) = text.strip_suffix('\n').map_or((&*text, ""), |line| (line, "\n"));
        match escaped(line, self.colours) {
            Cow::Borrowed(_) => self.inner.write_all(event)?,
            Cow::Owned(escaped) => self.inner.write_all((escaped + end).as_bytes())?,
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
