//! Text of an expression into tokens, with cel-go's names for them.

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Ident(String),
    /// An identifier in backticks, which may name any field.
    EscapedIdent(String),
    Int(String),
    Uint(String),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// `true`, `false`, `null`, `in`, and operators.
    Sign(&'static str),
    End,
}

/// A token and where it is, in characters.
#[derive(Clone, Debug)]
pub(super) struct Spanned {
    pub token: Token,
    pub at: usize,
    /// As it was written, for messages.
    pub text: String,
}

const SIGNS: [&str; 27] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")", "[", "]",
    "{", "}", "=", "|", "&",
];

/// Reads all tokens; what is none is reported with its place.
pub(super) fn tokens(source: &[char]) -> (Vec<Spanned>, Vec<(usize, String)>) {
    let mut lexer = Lexer { source, at: 0 };
    let mut tokens = Vec::new();
    let mut errors = Vec::new();
    loop {
        lexer.skip_blank();
        let at = lexer.at;
        if at >= source.len() {
            tokens.push(Spanned { token: Token::End, at, text: "<EOF>".to_owned() });
            return (tokens, errors);
        }
        match lexer.token() {
            Some(token) => {
                tokens.push(Spanned { token, at, text: source[at..lexer.at].iter().collect() });
            }
            None => {
                let end = lexer.at.max(at + 1).min(source.len());
                let shown: String = source[at..end].iter().collect();
                errors.push((at, format!("Syntax error: token recognition error at: '{shown}'")));
                lexer.at = end;
            }
        }
    }
}

struct Lexer<'s> {
    source: &'s [char],
    at: usize,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> char {
        self.source.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn skip_blank(&mut self) {
        loop {
            while matches!(self.peek(0), ' ' | '\t' | '\n' | '\r' | '\x0c') {
                self.at += 1;
            }
            if self.peek(0) != '/' || self.peek(1) != '/' {
                return;
            }
            while self.at < self.source.len() && self.peek(0) != '\n' {
                self.at += 1;
            }
        }
    }

    fn token(&mut self) -> Option<Token> {
        let (first, second, third) = (self.peek(0), self.peek(1), self.peek(2));
        let is_quote = |char: char| matches!(char, '"' | '\'');
        let (prefix, raw, bytes) = match (first.to_ascii_lowercase(), second.to_ascii_lowercase()) {
            _ if is_quote(first) => (0, false, false),
            ('r', _) if is_quote(second) => (1, true, false),
            ('b', _) if is_quote(second) => (1, false, true),
            ('b', 'r') | ('r', 'b') if is_quote(third) => (2, true, true),
            _ => (usize::MAX, false, false),
        };
        if prefix != usize::MAX {
            self.at += prefix;
            return self.quoted(raw, bytes);
        }
        if first == '`' {
            let rest = &self.source[self.at + 1..];
            let len = rest.iter().position(|char| *char == '`')?;
            let name: String = rest[..len].iter().collect();
            self.at += len + 2;
            return Some(Token::EscapedIdent(name));
        }
        if first.is_ascii_digit() || (first == '.' && second.is_ascii_digit()) {
            return self.number();
        }
        if first == '_' || first.is_ascii_alphabetic() {
            let start = self.at;
            while self.peek(0) == '_' || self.peek(0).is_ascii_alphanumeric() {
                self.at += 1;
            }
            let word: String = self.source[start..self.at].iter().collect();
            return Some(match word.as_str() {
                "true" => Token::Sign("true"),
                "false" => Token::Sign("false"),
                "null" => Token::Sign("null"),
                "in" => Token::Sign("in"),
                _ => Token::Ident(word),
            });
        }
        let sign =
            SIGNS.into_iter().find(|sign| sign.chars().enumerate().all(|(ahead, char)| self.peek(ahead) == char));
        let sign = sign.filter(|sign| !matches!(*sign, "=" | "|" | "&"))?;
        self.at += sign.len();
        Some(Token::Sign(sign))
    }

    fn number(&mut self) -> Option<Token> {
        let start = self.at;
        if self.peek(0) == '0' && matches!(self.peek(1), 'x' | 'X') && self.peek(2).is_ascii_hexdigit() {
            self.at += 2;
            while self.peek(0).is_ascii_hexdigit() {
                self.at += 1;
            }
        } else {
            let digits = |lexer: &mut Self| {
                while lexer.peek(0).is_ascii_digit() {
                    lexer.at += 1;
                }
            };
            digits(self);
            let mut is_float = false;
            if self.peek(0) == '.' && self.peek(1).is_ascii_digit() {
                is_float = true;
                self.at += 1;
                digits(self);
            }
            let sign = usize::from(matches!(self.peek(1), '+' | '-'));
            if matches!(self.peek(0), 'e' | 'E') && self.peek(1 + sign).is_ascii_digit() {
                is_float = true;
                self.at += 1 + sign;
                digits(self);
            }
            if is_float {
                let text: String = self.source[start..self.at].iter().collect();
                return text.parse().ok().map(Token::Float);
            }
        }
        let text: String = self.source[start..self.at].iter().collect();
        if matches!(self.peek(0), 'u' | 'U') {
            self.at += 1;
            return Some(Token::Uint(text));
        }
        Some(Token::Int(text))
    }

    fn quoted(&mut self, raw: bool, is_bytes: bool) -> Option<Token> {
        let quote = self.peek(0);
        let is_triple = self.peek(1) == quote && self.peek(2) == quote;
        let len = if is_triple { 3 } else { 1 };
        self.at += len;
        let mut out: Vec<u8> = Vec::new();
        let mut buffer = [0; 4];
        loop {
            if self.at >= self.source.len() {
                return None;
            }
            let char = self.peek(0);
            if (0..len).all(|ahead| self.peek(ahead) == quote) {
                self.at += len;
                break;
            }
            if !is_triple && matches!(char, '\n' | '\r') {
                return None;
            }
            self.at += 1;
            if char != '\\' || raw {
                out.extend_from_slice(char.encode_utf8(&mut buffer).as_bytes());
                continue;
            }
            let escape = self.peek(0);
            self.at += 1;
            let digits = |lexer: &mut Self, count: usize, radix: u32| -> Option<u32> {
                let text: String = (0..count).map(|ahead| lexer.peek(ahead)).collect();
                lexer.at += count;
                u32::from_str_radix(&text, radix).ok()
            };
            let code = match escape {
                'a' => 7,
                'b' => 8,
                'f' => 12,
                'n' => 10,
                'r' => 13,
                't' => 9,
                'v' => 11,
                '\\' | '\'' | '"' | '`' | '?' => u32::from(escape),
                'x' | 'X' => digits(self, 2, 16)?,
                'u' if !is_bytes => digits(self, 4, 16)?,
                'U' if !is_bytes => digits(self, 8, 16)?,
                '0'..='3' => {
                    self.at -= 1;
                    digits(self, 3, 8)?
                }
                _ => return None,
            };
            if is_bytes {
                out.push(u8::try_from(code).ok()?);
            } else {
                out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut buffer).as_bytes());
            }
        }
        Some(if is_bytes { Token::Bytes(out) } else { Token::Text(String::from_utf8(out).ok()?) })
    }
}
