//! Whether a text is JSON, and what Go says when it is not.
//!
//! Some fields hold JSON inside of text, and what upstream says of a bad one are the words of Go's scanner. It reads byte by
//! byte and names the first that does not fit.

/// How deep a text may nest, as Go's scanner has it.
const DEPTH_MAX: usize = 10_000;

/// Checks that a text is a JSON object, or null.
///
/// # Errors
/// What Go's `json.Unmarshal` into a map says.
pub(crate) fn check_object(text: &[u8]) -> Result<(), String> {
    let mut scanner = Scanner { text, position: 0 };
    let kind = scanner.whole()?;
    match kind {
        b'{' | b'n' => Ok(()),
        other => {
            let what = match other {
                b'[' => "array",
                b'"' => "string",
                b't' | b'f' => "bool",
                _ => "number",
            };
            Err(format!("json: cannot unmarshal {what} into Go value of type map[string]interface {{}}"))
        }
    }
}

/// The type of a JSON text, in Go's words: `object`, `array`, `string`, `number`, `bool` or `null`.
///
/// # Errors
/// What Go's scanner says of a text that is no JSON.
pub fn json_type(text: &[u8]) -> Result<&'static str, String> {
    Ok(match (Scanner { text, position: 0 }).whole()? {
        b'{' => "object",
        b'[' => "array",
        b'"' => "string",
        b't' | b'f' => "bool",
        b'n' => "null",
        _ => "number",
    })
}

const END: &str = "unexpected end of JSON input";

struct Scanner<'t> {
    text: &'t [u8],
    position: usize,
}

impl Scanner<'_> {
    /// Reads one value and nothing after it; gives its first byte.
    fn whole(&mut self) -> Result<u8, String> {
        /// What is expected where a bracket was opened and not closed.
        enum Open {
            Array,
            Object,
        }
        let mut open: Vec<Open> = Vec::new();
        self.skip_space();
        let first = self.peek().ok_or(END)?;
        loop {
            // A value begins here.
            self.skip_space();
            match self.peek().ok_or(END)? {
                b'{' => {
                    self.position += 1;
                    self.skip_space();
                    if self.peek() == Some(b'}') {
                        self.position += 1;
                    } else {
                        self.key()?;
                        open.push(Open::Object);
                        check_depth(open.len())?;
                        continue;
                    }
                }
                b'[' => {
                    self.position += 1;
                    self.skip_space();
                    if self.peek() == Some(b']') {
                        self.position += 1;
                    } else {
                        open.push(Open::Array);
                        check_depth(open.len())?;
                        continue;
                    }
                }
                b'"' => self.string()?,
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                b'-' | b'0'..=b'9' => self.number()?,
                _ => return Err(self.unexpected("looking for beginning of value")),
            }
            // A value has ended.
            loop {
                self.skip_space();
                match (open.last(), self.peek()) {
                    (None, None) => return Ok(first),
                    (None, Some(_)) => return Err(self.unexpected("after top-level value")),
                    (Some(_), None) => return Err(END.to_owned()),
                    (Some(Open::Array), Some(b']')) | (Some(Open::Object), Some(b'}')) => {
                        self.position += 1;
                        open.pop();
                    }
                    (Some(Open::Array), Some(b',')) => {
                        self.position += 1;
                        break;
                    }
                    (Some(Open::Object), Some(b',')) => {
                        self.position += 1;
                        self.skip_space();
                        self.key()?;
                        break;
                    }
                    (Some(Open::Array), Some(_)) => return Err(self.unexpected("after array element")),
                    (Some(Open::Object), Some(_)) => return Err(self.unexpected("after object key:value pair")),
                }
            }
        }
    }

    fn key(&mut self) -> Result<(), String> {
        match self.peek().ok_or(END)? {
            b'"' => self.string()?,
            _ => return Err(self.unexpected("looking for beginning of object key string")),
        }
        self.skip_space();
        match self.peek().ok_or(END)? {
            b':' => self.position += 1,
            _ => return Err(self.unexpected("after object key")),
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(), String> {
        self.position += 1;
        loop {
            match self.peek().ok_or(END)? {
                b'"' => {
                    self.position += 1;
                    return Ok(());
                }
                b'\\' => {
                    self.position += 1;
                    match self.peek().ok_or(END)? {
                        b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => self.position += 1,
                        b'u' => {
                            self.position += 1;
                            for _ in 0..4 {
                                if !self.peek().ok_or(END)?.is_ascii_hexdigit() {
                                    return Err(self.unexpected("in \\u hexadecimal character escape"));
                                }
                                self.position += 1;
                            }
                        }
                        _ => return Err(self.unexpected("in string escape code")),
                    }
                }
                0..0x20 => return Err(self.unexpected("in string literal")),
                _ => self.position += 1,
            }
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), String> {
        for expected in word.bytes() {
            if self.peek().ok_or(END)? != expected {
                return Err(self.unexpected(&format!("in literal {word} (expecting {})", quoted(expected))));
            }
            self.position += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), String> {
        if self.peek() == Some(b'-') {
            self.position += 1;
        }
        match self.peek().ok_or(END)? {
            b'0' => self.position += 1,
            b'1'..=b'9' => self.digits(),
            _ => return Err(self.unexpected("in numeric literal")),
        }
        if self.peek() == Some(b'.') {
            self.position += 1;
            if !self.peek().ok_or(END)?.is_ascii_digit() {
                return Err(self.unexpected("after decimal point in numeric literal"));
            }
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.position += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.position += 1;
            }
            if !self.peek().ok_or(END)?.is_ascii_digit() {
                return Err(self.unexpected("in exponent of numeric literal"));
            }
            self.digits();
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.position += 1;
        }
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.position += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.position).copied()
    }

    fn unexpected(&self, context: &str) -> String {
        format!("invalid character {} {context}", quoted(self.text[self.position]))
    }
}

fn check_depth(depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX { Err("exceeded max depth".to_owned()) } else { Ok(()) }
}

/// A byte as Go's scanner shows it.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        0x07 => r"'\a'".to_owned(),
        0x08 => r"'\b'".to_owned(),
        0x0b => r"'\v'".to_owned(),
        0x0c => r"'\f'".to_owned(),
        0x20..0x7f | 0xa1..=0xff if byte != 0xad => format!("'{}'", char::from(byte)),
        0..0x80 => format!("'\\x{byte:02x}'"),
        _ => format!("'\\u{:04x}'", u32::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::check_object;

    #[test]
    fn what_is_no_object_is_rejected_in_the_words_of_go() {
        let cases: &[(&str, Option<&str>)] = &[
            ("{}", None),
            (" null ", None),
            (r#"{"auths": {"a": [1, -2.5e3, true, false, null, "x\u00e9\n"]}}"#, None),
            ("", Some("unexpected end of JSON input")),
            ("no", Some("invalid character 'o' in literal null (expecting 'u')")),
            ("[1]", Some("json: cannot unmarshal array into Go value of type map[string]interface {}")),
            ("\"a\"", Some("json: cannot unmarshal string into Go value of type map[string]interface {}")),
            ("12", Some("json: cannot unmarshal number into Go value of type map[string]interface {}")),
            ("{a}", Some("invalid character 'a' looking for beginning of object key string")),
            ("{\"a\"}", Some("invalid character '}' after object key")),
            ("{\"a\":1 2}", Some("invalid character '2' after object key:value pair")),
            ("{\"a\":[1 2]}", Some("invalid character '2' after array element")),
            ("{\"a\":[1,]}", Some("invalid character ']' looking for beginning of value")),
            ("{\"a\":\"\\x\"}", Some("invalid character 'x' in string escape code")),
            ("{\"a\":\"\n\"}", Some("invalid character '\\n' in string literal")),
            ("{\"a\":1.}", Some("invalid character '}' after decimal point in numeric literal")),
            ("{} x", Some("invalid character 'x' after top-level value")),
            ("{\"a\":", Some("unexpected end of JSON input")),
        ];
        for (text, expected) in cases {
            assert_eq!(check_object(text.as_bytes()).err().as_deref(), *expected, "{text}");
        }
    }
}
