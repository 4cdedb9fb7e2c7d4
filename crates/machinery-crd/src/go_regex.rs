//! Regular expressions as Go reads them.
//!
//! Patterns in schemas and in CEL are in the syntax of Go's `regexp` (RE2). The crate `regex` runs in linear time as RE2
//! does, and differs in small ways: what Go takes literally (`{`, `[` within a class) it reads as syntax, `\d` means more
//! to it, and its errors have other words. So a pattern is read here first: either into an error in Go's words, or into
//! the same pattern as the crate writes it.

use regex::{Regex, RegexBuilder};

/// The longest patterns of real definitions match IPv6 addresses, in some 1,500 bytes.
pub(crate) const PATTERN_BYTES_MAX: usize = 16 * 1024;

/// What one compiled pattern may take. Go's own bound is 1,000 repeats in all; this one also holds for `\p{L}{1000}`.
const COMPILED_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Groups nested deeper than this are refused by Go, too.
const NESTING_MAX: usize = 250;

/// Go's bound of one repeat, and of nested ones multiplied.
const REPEAT_MAX: u64 = 1000;

/// Compiles a pattern. The error reads `error parsing regexp: missing closing ): `(``.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err("error parsing regexp: expression nests too deeply".to_owned());
    }
    let translated = Translator { rest: pattern, whole: pattern, out: String::new(), repeats: Vec::new() }
        .translate()
        .map_err(|error| format!("error parsing regexp: {error}"))?;
    RegexBuilder::new(&translated)
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(COMPILED_BYTES_MAX)
        .build()
        .map_err(|_| format!("error parsing regexp: expression too large: `{pattern}`"))
}

struct Translator<'p> {
    rest: &'p str,
    whole: &'p str,
    out: String,
    /// The product of repeats of each open group's content so far.
    repeats: Vec<u64>,
}

/// What a repetition operator would apply to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Atom,
    Operator,
}

impl<'p> Translator<'p> {
    fn translate(mut self) -> Result<String, String> {
        let mut before = Before::Nothing;
        let mut last_operator = self.rest;
        // The largest repeat within the last atom, and within the group that is open.
        let (mut inner, mut highest) = (1_u64, 1_u64);
        while let Some(char) = self.rest.chars().next() {
            match char {
                '(' => {
                    self.open()?;
                    if self.repeats.len() >= NESTING_MAX {
                        return Err(format!("expression nests too deeply: `{}`", self.whole));
                    }
                    if !self.out.ends_with(')') {
                        self.repeats.push(highest);
                        highest = 1;
                    }
                    before = Before::Nothing;
                    continue;
                }
                ')' => {
                    let Some(outer) = self.repeats.pop() else {
                        return Err(format!("unexpected ): `{}`", self.whole));
                    };
                    self.out.push(')');
                    self.rest = &self.rest[1..];
                    inner = highest;
                    highest = highest.max(outer);
                    before = Before::Atom;
                    continue;
                }
                '|' => before = Before::Nothing,
                '*' | '+' | '?' => {
                    let start = self.rest;
                    self.operator(before, last_operator, 1)?;
                    last_operator = start;
                    before = Before::Operator;
                    continue;
                }
                '{' => {
                    if let Some((low, high, len)) = repeat(self.rest) {
                        let shown = &self.rest[..len];
                        if low > REPEAT_MAX || high.is_some_and(|high| high > REPEAT_MAX || high < low) {
                            return Err(format!("invalid repeat count: `{shown}`"));
                        }
                        let times = high.unwrap_or(low).max(low).max(1);
                        if inner.saturating_mul(times) > REPEAT_MAX {
                            return Err(format!("invalid repeat count: `{shown}`"));
                        }
                        let start = self.rest;
                        self.operator(before, last_operator, len)?;
                        last_operator = start;
                        highest = highest.max(inner.saturating_mul(times));
                        before = Before::Operator;
                        continue;
                    }
                    self.out.push_str("\\{");
                    self.rest = &self.rest[1..];
                    (before, inner) = (Before::Atom, 1);
                    continue;
                }
                '[' => {
                    self.class()?;
                    (before, inner) = (Before::Atom, 1);
                    continue;
                }
                '\\' => {
                    self.escape(false)?;
                    (before, inner) = (Before::Atom, 1);
                    continue;
                }
                '}' | ']' => {
                    self.out.push('\\');
                    (before, inner) = (Before::Atom, 1);
                }
                _ => (before, inner) = (Before::Atom, 1),
            }
            self.out.push(char);
            self.rest = &self.rest[char.len_utf8()..];
        }
        if self.repeats.is_empty() { Ok(self.out) } else { Err(format!("missing closing ): `{}`", self.whole)) }
    }

    /// `*`, `+`, `?` or `{n,m}`, with the `?` of a lazy one.
    fn operator(&mut self, before: Before, last: &str, len: usize) -> Result<(), String> {
        match before {
            Before::Nothing => return Err(format!("missing argument to repetition operator: `{}`", &self.rest[..len])),
            Before::Operator => {
                let from_last = last.len() - self.rest.len() + len;
                return Err(format!("invalid nested repetition operator: `{}`", &last[..from_last]));
            }
            Before::Atom => {}
        }
        let lazy = usize::from(self.rest[len..].starts_with('?'));
        self.out.push_str(&self.rest[..len + lazy]);
        self.rest = &self.rest[len + lazy..];
        Ok(())
    }

    /// `(`, `(?:`, `(?P<name>`, `(?i)`.
    fn open(&mut self) -> Result<(), String> {
        let Some(after) = self.rest.strip_prefix("(?") else {
            self.out.push('(');
            self.rest = &self.rest[1..];
            return Ok(());
        };
        let named = after.strip_prefix("P<").map(|name| (name, 4));
        let named = named.or_else(|| after.strip_prefix('<').map(|name| (name, 3)));
        if let Some((name, prefix)) = named {
            let Some(end) = name.find('>') else {
                return Err(format!("invalid named capture: `{}`", self.rest));
            };
            let shown = &self.rest[..prefix + end + 1];
            let is_word = |char: char| char == '_' || char.is_ascii_alphanumeric();
            if name[..end].is_empty() || !name[..end].chars().all(is_word) {
                return Err(format!("invalid named capture: `{shown}`"));
            }
            // Nobody asks for the group by name, and the crate refuses names that Go takes.
            self.out.push('(');
            self.rest = &self.rest[shown.len()..];
            return Ok(());
        }
        let flags_len = after.find(|char: char| !matches!(char, 'i' | 'm' | 's' | 'U' | '-'));
        let Some(flags_len) = flags_len else {
            return Err(format!("missing closing ): `{}`", self.whole));
        };
        let flags = &after[..flags_len];
        let end = after[flags_len..].chars().next().expect("find gave a character");
        let is_good = matches!(end, ':' | ')')
            && flags.matches('-').count() <= 1
            && !flags.ends_with('-')
            && (end == ':' || !flags.is_empty());
        if !is_good {
            let shown = &self.rest[..2 + flags_len + end.len_utf8()];
            return Err(format!("invalid or unsupported Perl syntax: `{shown}`"));
        }
        let len = 2 + flags_len + 1;
        self.out.push_str(&self.rest[..len]);
        self.rest = &self.rest[len..];
        Ok(())
    }

    /// What follows a backslash.
    fn escape(&mut self, in_class: bool) -> Result<(), String> {
        let Some(char) = self.rest[1..].chars().next() else {
            return Err("trailing backslash at end of expression: ``".to_owned());
        };
        let len = 1 + char.len_utf8();
        let (written, len): (String, usize) = match char {
            'd' => (if in_class { "0-9" } else { "[0-9]" }.to_owned(), len),
            'w' => (if in_class { "0-9A-Za-z_" } else { "[0-9A-Za-z_]" }.to_owned(), len),
            's' => (if in_class { r"\t\n\f\r " } else { r"[\t\n\f\r ]" }.to_owned(), len),
            'D' => ("[^0-9]".to_owned(), len),
            'W' => ("[^0-9A-Za-z_]".to_owned(), len),
            'S' => (r"[^\t\n\f\r ]".to_owned(), len),
            'p' | 'P' => return self.property(),
            'Q' if !in_class => {
                let quoted = &self.rest[2..];
                let end = quoted.find("\\E").unwrap_or(quoted.len());
                (regex::escape(&quoted[..end]), (2 + end + 2).min(self.rest.len()))
            }
            'A' | 'z' | 'b' | 'B' if !in_class => {
                let ascii = match char {
                    'b' => r"(?-u:\b)",
                    'B' => r"(?-u:\B)",
                    'A' => r"\A",
                    _ => r"\z",
                };
                (ascii.to_owned(), len)
            }
            'C' if !in_class => ("(?s:.)".to_owned(), len),
            'a' => (r"\x07".to_owned(), len),
            'f' | 'n' | 'r' | 't' | 'v' => (format!("\\{char}"), len),
            'x' => return self.hexadecimal(),
            '0'..='7' => {
                let digits: String = self.rest[1..].chars().take(3).take_while(|char| char.is_digit(8)).collect();
                // A single digit other than zero would be a reference, which RE2 has none of.
                if char != '0' && digits.len() == 1 {
                    return Err(format!("invalid escape sequence: `\\{char}`"));
                }
                let code = u32::from_str_radix(&digits, 8).unwrap_or_default();
                (format!("\\x{{{code:x}}}"), 1 + digits.len())
            }
            _ if char.is_ascii_punctuation() => (format!("\\{char}"), len),
            _ => return Err(format!("invalid escape sequence: `\\{char}`")),
        };
        self.out.push_str(&written);
        self.rest = &self.rest[len..];
        Ok(())
    }

    fn hexadecimal(&mut self) -> Result<(), String> {
        let digits = &self.rest[2..];
        let (code, len) = if let Some(braced) = digits.strip_prefix('{') {
            let end = braced.find('}').unwrap_or(0);
            (u32::from_str_radix(&braced[..end], 16).ok(), 2 + 1 + end + 1)
        } else {
            let two = digits.get(..2).filter(|two| two.chars().all(|char| char.is_ascii_hexdigit()));
            (two.and_then(|two| u32::from_str_radix(two, 16).ok()), 4)
        };
        let Some(code) = code.filter(|code| char::from_u32(*code).is_some()) else {
            let shown: String = self.rest.chars().take(3).collect();
            return Err(format!("invalid escape sequence: `{shown}`"));
        };
        self.out.push_str(&format!("\\x{{{code:x}}}"));
        self.rest = &self.rest[len..];
        Ok(())
    }

    fn property(&mut self) -> Result<(), String> {
        let name = &self.rest[2..];
        let len = match name.strip_prefix('{') {
            Some(braced) => match braced.find('}') {
                Some(end) => 2 + 1 + end + 1,
                None => return Err(format!("invalid character class range: `{}`", self.rest)),
            },
            None => 2 + name.chars().next().map_or(0, char::len_utf8),
        };
        let written = &self.rest[..len];
        if Regex::new(written).is_err() {
            return Err(format!("invalid character class range: `{written}`"));
        }
        self.out.push_str(written);
        self.rest = &self.rest[len..];
        Ok(())
    }

    /// `[…]`. Within it the crate knows nested classes and set operations, which Go takes literally.
    fn class(&mut self) -> Result<(), String> {
        let class = self.rest;
        self.out.push('[');
        self.rest = &self.rest[1..];
        if let Some(rest) = self.rest.strip_prefix('^') {
            self.out.push('^');
            self.rest = rest;
        }
        let mut is_first = true;
        loop {
            let Some(char) = self.rest.chars().next() else {
                return Err(format!("missing closing ]: `{class}`"));
            };
            if char == ']' && !is_first {
                self.out.push(']');
                self.rest = &self.rest[1..];
                return Ok(());
            }
            // A hyphen is literal at the beginning and at the end only.
            if char == '-' && !is_first && !self.rest[1..].starts_with(']') {
                let end = self.rest[1..].chars().next().map_or(0, char::len_utf8);
                return Err(format!("invalid character class range: `{}`", &self.rest[..1 + end]));
            }
            is_first = false;
            if self.rest.starts_with("[:")
                && let Some(end) = self.rest.find(":]")
            {
                let named = &self.rest[..end + 2];
                let name = named[2..end].trim_start_matches('^');
                let known = [
                    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
                    "upper", "word", "xdigit",
                ];
                if !known.contains(&name) {
                    return Err(format!("invalid character class range: `{named}`"));
                }
                self.out.push_str(named);
                self.rest = &self.rest[named.len()..];
                continue;
            }
            let is_set =
                self.rest.starts_with('\\') && self.rest[1..].starts_with(['d', 'D', 'w', 'W', 's', 'S', 'p', 'P']);
            let low_start = self.rest;
            let low = self.member()?;
            let is_range = !is_set && self.rest.starts_with('-') && !self.rest[1..].starts_with(']');
            if is_range && self.rest.len() > 1 {
                self.out.push('-');
                self.rest = &self.rest[1..];
                let high = self.member()?;
                if high < low {
                    let shown = &low_start[..low_start.len() - self.rest.len()];
                    return Err(format!("invalid character class range: `{shown}`"));
                }
            }
        }
    }

    /// One character of a class, written; gives what it is, for the order of a range.
    fn member(&mut self) -> Result<char, String> {
        let char = self.rest.chars().next().unwrap_or_default();
        if char == '\\' {
            let start = self.out.len();
            self.escape(true)?;
            let written = &self.out[start..];
            let hexadecimal = written.strip_prefix("\\x{").and_then(|hex| hex.strip_suffix('}'));
            let code = hexadecimal.and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
            return Ok(match (code, written) {
                (Some(code), _) => code,
                (None, "\\n") => '\n',
                (None, "\\t") => '\t',
                (None, "\\r") => '\r',
                _ => written.chars().nth(1).unwrap_or_default(),
            });
        }
        if char.is_ascii_punctuation() {
            self.out.push('\\');
        }
        self.out.push(char);
        self.rest = &self.rest[char.len_utf8()..];
        Ok(char)
    }
}

/// `{n}`, `{n,}` or `{n,m}` at the beginning, and its length; anything else in braces is literal.
fn repeat(text: &str) -> Option<(u64, Option<u64>, usize)> {
    let inner = &text[1..text.find('}')?];
    let number = |digits: &str| -> Option<u64> {
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let has_leading_zero = digits.len() > 1 && digits.starts_with('0');
        (is_number && !has_leading_zero).then(|| digits.parse().unwrap_or(u64::MAX))
    };
    let len = inner.len() + 2;
    match inner.split_once(',') {
        None => number(inner).map(|times| (times, Some(times), len)),
        Some((low, "")) => number(low).map(|low| (low, None, len)),
        Some((low, high)) => Some((number(low)?, Some(number(high)?), len)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, error: &str) {
        let found = compile(pattern).expect_err(pattern);
        assert_eq!(found, format!("error parsing regexp: {error}"), "{pattern}");
    }

    #[test]
    fn errors_have_go_s_words() {
        check("(", "missing closing ): `(`");
        check("a)", "unexpected ): `a)`");
        check("[a", "missing closing ]: `[a`");
        check("a{2,1}", "invalid repeat count: `{2,1}`");
        check("a{1001}", "invalid repeat count: `{1001}`");
        check("(?!x)", "invalid or unsupported Perl syntax: `(?!`");
        check("(?<=x)", "invalid named capture: `(?<=x)`");
        check("*a", "missing argument to repetition operator: `*`");
        check("a**", "invalid nested repetition operator: `**`");
        check("[z-a]", "invalid character class range: `z-a`");
        check(r"\1", r"invalid escape sequence: `\1`");
        check(r"\y", r"invalid escape sequence: `\y`");
        check("a\\", "trailing backslash at end of expression: ``");
    }

    #[test]
    fn what_go_takes_literally_is_literal() {
        for (pattern, text) in [
            ("a{", "a{"),
            ("a{x}", "a{x}"),
            ("[[]", "["),
            ("[a&&b]", "&"),
            ("[]a]", "]"),
            (r"\Qa.b\E+", "a.bb"),
            (r"[\w-]+", "a-b"),
            (r"[a\-z]", "-"),
            ("x]}", "x]}"),
            (r"\d", "7"),
            (r"(?i)abc", "ABC"),
            (r"\p{L}+", "é"),
            (r"[[:alpha:]_]+", "ab_"),
            (r"\x41\x{42}\101", "ABA"),
            (r"^(?P<year>\d{4})$", "2026"),
        ] {
            let regex = compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            assert!(regex.is_match(text), "{pattern} on {text}");
        }
        assert!(!compile(r"^\d$").expect("compiles").is_match("٣"), "digits are ASCII");
        assert!(!compile(r"^.$").expect("compiles").is_match("\n"));
    }
}
