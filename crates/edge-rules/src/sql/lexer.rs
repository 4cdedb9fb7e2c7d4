//! Text to tokens.

use super::STATEMENT_BYTES_MAX;
use super::ast::Span;
use crate::error::SqlError;

/// One word or sign and its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub kind: TokenKind,
    pub span: Span,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TokenKind {
    /// A name or a keyword; the parser decides.
    Word(String),
    /// A name in backticks: never a keyword.
    Quoted(String),
    String(String),
    Int(i64),
    Float(f64),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

/// Longest first, so that `<=` is not read as `<`.
const SIGNS: [&str; 27] = [
    "->", "<=", ">=", "!=", "<>", "(", ")", "[", "]", "{", "}", ",", ".", ";", ":", "*", "/", "+", "-", "%", "&", "|",
    "^", "=", "<", ">", "#",
];

/// All tokens of `text`, the last one being [`TokenKind::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, SqlError> {
    if text.len() > STATEMENT_BYTES_MAX {
        let message = format!("the statement has {} bytes; at most {STATEMENT_BYTES_MAX} are taken", text.len());
        return Err(SqlError::new(text, Span::default(), message));
    }
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        let token = lexer.token()?;
        let ended = token.kind == TokenKind::End;
        tokens.push(token);
        if ended {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn error(&self, start: usize, message: impl Into<String>) -> SqlError {
        SqlError::new(self.text, span(start, self.at), message)
    }

    fn token(&mut self) -> Result<Token, SqlError> {
        self.skip_blanks()?;
        let start = self.at;
        let kind = match self.rest().chars().next() {
            None => TokenKind::End,
            Some('\'' | '"') => TokenKind::String(self.quoted(true)?),
            Some('`') => TokenKind::Quoted(self.quoted(false)?),
            Some(first) if first.is_ascii_digit() => self.number()?,
            Some('.')
                if self.rest()[1..].starts_with(|next: char| next.is_ascii_digit()) && !self.follows_operand() =>
            {
                self.number()?
            }
            Some(first) if is_word_start(first) => {
                self.at += self.rest().find(|c| !is_word(c)).unwrap_or(self.rest().len());
                TokenKind::Word(self.text[start..self.at].to_owned())
            }
            Some(first) => match SIGNS.iter().find(|sign| self.rest().starts_with(**sign)) {
                Some(sign) => {
                    self.at += sign.len();
                    TokenKind::Sign(sign)
                }
                None => {
                    self.at += first.len_utf8();
                    return Err(self.error(start, format!("unexpected character `{}`", first.escape_debug())));
                }
            },
        };
        Ok(Token { kind, span: span(start, self.at) })
    }

    /// Whether a point here reaches into what stands before it, as in `a.0`.
    fn follows_operand(&self) -> bool {
        self.text[..self.at].ends_with(|last: char| is_word(last) || matches!(last, ')' | ']' | '`'))
    }

    fn skip_blanks(&mut self) -> Result<(), SqlError> {
        loop {
            let rest = self.rest();
            let blanks = rest.len() - rest.trim_start().len();
            if blanks > 0 {
                self.at += blanks;
            } else if rest.starts_with("--") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if let Some(comment) = rest.strip_prefix("/*") {
                let start = self.at;
                match comment.find("*/") {
                    Some(length) => self.at += length + 4,
                    None => return Err(self.error(start, "this comment is not closed by `*/`")),
                }
            } else {
                return Ok(());
            }
        }
    }

    /// What stands between two equal quotes. A doubled quote is one of the text, as is one after a backslash where
    /// those count.
    fn quoted(&mut self, escapes: bool) -> Result<String, SqlError> {
        let start = self.at;
        let mut chars = self.text[start..].char_indices().peekable();
        let quote = chars.next().map_or('"', |(_, quote)| quote);
        let mut content = String::new();
        while let Some((offset, c)) = chars.next() {
            match c {
                _ if c == quote => {
                    if chars.next_if(|(_, next)| *next == quote).is_some() {
                        content.push(quote);
                        continue;
                    }
                    self.at = start + offset + c.len_utf8();
                    return Ok(content);
                }
                '\\' if escapes => match chars.next() {
                    Some((_, 'n')) => content.push('\n'),
                    Some((_, 't')) => content.push('\t'),
                    Some((_, 'r')) => content.push('\r'),
                    Some((_, same @ ('\\' | '\'' | '"'))) => content.push(same),
                    // Another pair keeps its backslash: LIKE patterns and regular expressions need it.
                    Some((_, other)) => content.extend(['\\', other]),
                    None => break,
                },
                _ => content.push(c),
            }
        }
        Err(self.error(start, format!("the text that starts here is not closed by `{quote}`")))
    }

    fn number(&mut self) -> Result<TokenKind, SqlError> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let digits = |mut at: usize| {
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            at
        };
        let mut is_float = false;
        self.at = digits(self.at);
        if bytes.get(self.at) == Some(&b'.') && bytes.get(self.at + 1).is_some_and(u8::is_ascii_digit) {
            is_float = true;
            self.at = digits(self.at + 1);
        }
        if matches!(bytes.get(self.at), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(self.at + 1), Some(b'+' | b'-')));
            if bytes.get(self.at + 1 + sign).is_some_and(u8::is_ascii_digit) {
                is_float = true;
                self.at = digits(self.at + 1 + sign);
            }
        }
        if let Some(next) = self.rest().chars().next().filter(|next| is_word(*next)) {
            return Err(self.error(start, format!("unexpected `{next}` in a number")));
        }
        let number = &self.text[start..self.at];
        if is_float {
            let value: f64 = number.parse().map_err(|_| self.error(start, format!("`{number}` is no number")))?;
            if value.is_infinite() {
                return Err(self.error(start, format!("`{number}` does not fit a FLOAT")));
            }
            return Ok(TokenKind::Float(value));
        }
        match number.parse() {
            Ok(value) => Ok(TokenKind::Int(value)),
            Err(_) => Err(self.error(start, format!("`{number}` does not fit a BIGINT"))),
        }
    }
}

pub(crate) fn is_word_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn span(start: usize, end: usize) -> Span {
    // Statements are far shorter than 4 GB, so both fit.
    Span { start: start as u32, end: end as u32 }
}
