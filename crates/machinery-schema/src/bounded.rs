//! Text of bounded length: what a client sent goes into messages, logs and headers, and may be as long as a body.

use std::io;

use serde_json::Value;

/// Real paths have a few dozen bytes. A key may be as long as the body, and a message may name thousands of places below it.
pub const PATH_BYTES_MAX: usize = 1024;

/// Puts text behind a path, as far as there is space. What was there stays, so that `truncate` undoes it.
pub fn push_bounded(path: &mut String, text: &str) {
    if path.len() < PATH_BYTES_MAX {
        path.push_str(cut(text, PATH_BYTES_MAX - path.len()));
    }
}

/// The longest beginning of a text that has at most so many bytes.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    if text.len() <= bytes_max {
        return text;
    }
    let end = (0..=bytes_max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

/// The longest beginning of a text that has at most so many characters.
pub fn cut_chars(text: &str, chars_max: usize) -> &str {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// A value as JSON, cut after so many characters. The work stops there, too: the value may be megabytes long.
pub fn shown(value: &Value, chars_max: usize) -> String {
    // A character has at most four bytes; one more shows whether something is left.
    let mut writer = Bounded { bytes: Vec::new(), bytes_max: chars_max * 4 + 4 };
    // It fails when the text is longer, which is what it is for.
    let _ = serde_json::to_writer(&mut writer, value);
    let text = match std::str::from_utf8(&writer.bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&writer.bytes[..error.valid_up_to()]).unwrap_or_default(),
    };
    match cut_chars(text, chars_max) {
        whole if whole.len() == text.len() => whole.to_owned(),
        beginning => format!("{beginning}…"),
    }
}

struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let space = self.bytes_max - self.bytes.len();
        if space == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let taken = space.min(bytes.len());
        self.bytes.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
