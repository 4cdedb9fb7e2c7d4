//! Regular expressions as Go reads them.
//!
//! Patterns in schemas and in CEL are in the syntax of Go's `regexp` (RE2). The crate `regex` runs in linear time as RE2
//! does, and differs in small ways: what Go takes literally (`{`, `[` within a class) it reads as syntax, `\d` means more
//! to it, and its errors have other words. So a pattern is read here first: either into an error in Go's words, or into
//! the same pattern as the crate writes it.

mod programs;

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use regex::{Regex, RegexBuilder};

pub(crate) use programs::{Program, compile_steps, is_compiled, program};

/// The longest patterns of real definitions match IPv6 addresses, in some 1,500 bytes.
pub(crate) const PATTERN_BYTES_MAX: usize = 16 * 1024;

/// What one compiled pattern may take. Go's own bound is 1,000 repeats in all; this one also holds for `\p{L}{1000}`, and
/// lets `[\p{L}\p{N}_-]{1,63}` through. While it is compiled it takes four times as much.
const COMPILED_BYTES_MAX: u32 = 8 * 1024 * 1024;

/// A program remembers what it has met in tables of its own, as many as threads run it. Patterns of ASCII need a few
/// kilobytes of them; for what does not fit it takes a slower way, which [`match_steps`] reckons with.
const TABLE_BYTES_MAX: usize = 16 * 1024;

/// Groups nested deeper than this are refused by Go, too.
const NESTING_MAX: usize = 250;

/// Go's bound of one repeat, and of nested ones multiplied.
const REPEAT_MAX: u64 = 1000;

/// Bytes that parts of a pattern take when it is compiled, as measured and rounded up: a program is a graph over bytes, in
/// two directions. A class of all of Unicode's letters is 54 KB, and a repeat is as many copies.
const LITERAL_BYTES: u64 = 100;
const FOLDED_LITERAL_BYTES: u64 = 512;
const ANY_BYTES: u64 = 1200;
const RANGE_BYTES: u64 = 512;
const OPERATOR_BYTES: u64 = 64;

/// Properties that are known by name: categories and scripts, with their aliases.
const PROPERTIES_MAX: usize = 1024;

/// Reads a pattern without compiling it; gives about how many bytes it takes when it is. The error reads
/// `error parsing regexp: missing closing ): `(``.
///
/// A definition has thousands of patterns if its author likes, most of which no object meets. To read one takes as long as
/// it is; to compile it takes time and memory by what is repeated in it, a thousand times as much. So that is left to
/// [`program`], where somebody pays for it.
pub(crate) fn weigh(pattern: &str) -> Result<u32, String> {
    translate(pattern).map(|(_, weight)| weight)
}

/// What it costs to look for a pattern of this weight in a text: the slowest way visits each part of the program at each
/// byte, some twenty of them in the time of one step.
pub(crate) fn match_steps(weight: u32, text: &str) -> usize {
    1 + text.len().saturating_mul(usize::try_from(weight).unwrap_or(usize::MAX)) / 2048
}

fn translate(pattern: &str) -> Result<(String, u32), String> {
    let too_large = || format!("error parsing regexp: expression too large: `{pattern}`");
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err("error parsing regexp: expression nests too deeply".to_owned());
    }
    let (translated, weight) =
        Translator::new(pattern).translate().map_err(|error| format!("error parsing regexp: {error}"))?;
    let weight = u32::try_from(weight).ok().filter(|weight| *weight <= COMPILED_BYTES_MAX).ok_or_else(too_large)?;
    Ok((translated, weight))
}

fn compile(pattern: &str) -> Result<Regex, String> {
    let (translated, _) = translate(pattern)?;
    RegexBuilder::new(&translated)
        .size_limit(usize::try_from(COMPILED_BYTES_MAX).unwrap_or(usize::MAX))
        .dfa_size_limit(TABLE_BYTES_MAX)
        .build()
        .map_err(|_| format!("error parsing regexp: expression too large: `{pattern}`"))
}

struct Translator<'p> {
    rest: &'p str,
    whole: &'p str,
    out: String,
    /// The product of repeats of each open group's content so far.
    repeats: Vec<u64>,
    /// What the open group takes so far, and what those around it take.
    weight: u64,
    weights: Vec<u64>,
    /// What the last atom takes, for the repeat that may follow.
    last: u64,
    /// What the class that is being read takes.
    class: u64,
    literal: u64,
}

/// What a repetition operator would apply to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Atom,
    Operator,
}

impl<'p> Translator<'p> {
    fn new(pattern: &'p str) -> Self {
        Self {
            rest: pattern,
            whole: pattern,
            out: String::new(),
            repeats: Vec::new(),
            weight: 0,
            weights: Vec::new(),
            last: 0,
            class: 0,
            literal: LITERAL_BYTES,
        }
    }

    /// The pattern as the crate writes it, and what it takes.
    fn translate(mut self) -> Result<(String, u64), String> {
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
                        self.weights.push(std::mem::take(&mut self.weight));
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
                    let group = self.weight.saturating_add(OPERATOR_BYTES);
                    self.weight = self.weights.pop().unwrap_or_default();
                    self.weigh(group);
                    inner = highest;
                    highest = highest.max(outer);
                    before = Before::Atom;
                    continue;
                }
                '|' => {
                    self.weigh(OPERATOR_BYTES);
                    before = Before::Nothing;
                }
                '*' | '+' | '?' => {
                    let start = self.rest;
                    self.operator(before, last_operator, 1)?;
                    self.weight = self.weight.saturating_add(OPERATOR_BYTES);
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
                        let part = self.last.saturating_add(OPERATOR_BYTES);
                        self.weight = self.weight.saturating_add(part.saturating_mul(high.unwrap_or(low + 1)));
                        last_operator = start;
                        highest = highest.max(inner.saturating_mul(times));
                        before = Before::Operator;
                        continue;
                    }
                    self.out.push_str("\\{");
                    self.rest = &self.rest[1..];
                    self.weigh(self.literal);
                    (before, inner) = (Before::Atom, 1);
                    continue;
                }
                '[' => {
                    self.class()?;
                    let class = std::mem::take(&mut self.class);
                    self.weigh(class.saturating_add(self.literal));
                    (before, inner) = (Before::Atom, 1);
                    continue;
                }
                '\\' => {
                    let start = self.out.len();
                    self.escape(false)?;
                    let class = std::mem::take(&mut self.class);
                    // A quotation is many literals.
                    let literals = u64::try_from(self.out.len() - start).unwrap_or(u64::MAX);
                    let is_quoted = self.whole.contains("\\Q");
                    self.weigh(class.saturating_add(self.literal * if is_quoted { literals } else { 1 }));
                    (before, inner) = (Before::Atom, 1);
                    continue;
                }
                '}' | ']' => {
                    self.out.push('\\');
                    self.weigh(self.literal);
                    (before, inner) = (Before::Atom, 1);
                }
                _ => {
                    self.weigh(if char == '.' { ANY_BYTES } else { self.literal });
                    (before, inner) = (Before::Atom, 1);
                }
            }
            self.out.push(char);
            self.rest = &self.rest[char.len_utf8()..];
        }
        if self.repeats.is_empty() {
            Ok((self.out, self.weight))
        } else {
            Err(format!("missing closing ): `{}`", self.whole))
        }
    }

    /// Adds an atom to the open group.
    fn weigh(&mut self, bytes: u64) {
        self.last = bytes;
        self.weight = self.weight.saturating_add(bytes);
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
        if flags.contains('i') {
            self.literal = FOLDED_LITERAL_BYTES;
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
        if matches!(char, 'D' | 'W' | 'S') {
            self.class = self.class.saturating_add(ANY_BYTES);
        }
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
        let Some(bytes) = property_bytes(written) else {
            return Err(format!("invalid character class range: `{written}`"));
        };
        self.class = self.class.saturating_add(bytes);
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
            self.class = self.class.saturating_add(ANY_BYTES);
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
                self.class = self.class.saturating_add(if high.is_ascii() { 0 } else { RANGE_BYTES });
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
        self.class = self.class.saturating_add(if char.is_ascii() { 0 } else { self.literal });
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

/// What a property as `\p{Greek}` takes when it is compiled; none when there is none of that name. Its name is read as Go
/// reads it: without regard to case, spaces, hyphens and underscores. What was found is kept, for a text of a few
/// bytes would otherwise take the time of thousands.
fn property_bytes(written: &str) -> Option<u64> {
    static KNOWN: LazyLock<Mutex<HashMap<String, u64>>> = LazyLock::new(Mutex::default);
    let name = written[2..].trim_start_matches('{').trim_end_matches('}');
    let is_filler = |char: char| matches!(char, ' ' | '-' | '_');
    if !name.chars().all(|char| char.is_ascii_alphanumeric() || is_filler(char)) {
        return None;
    }
    let key: String = name.chars().filter(|char| !is_filler(*char)).map(|char| char.to_ascii_lowercase()).collect();
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(bytes) = known().get(&key) {
        return Some(*bytes);
    }
    // The crate says only whether a program is below a limit.
    let sizes = [4096, 8192, 16_384, 24_576, 32_768, 49_152, 65_536];
    let fits = |size: &usize| RegexBuilder::new(written).size_limit(*size).build().is_ok();
    let size = sizes.into_iter().find(fits)?;
    let bytes = u64::try_from(size).unwrap_or(u64::MAX);
    let mut known = known();
    if known.len() < PROPERTIES_MAX {
        known.insert(key, bytes);
    }
    Some(bytes)
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
        check(r"a\C", r"invalid escape sequence: `\C`");
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

    #[test]
    fn a_pattern_weighs_what_its_repeats_take() {
        for (pattern, least, most) in [
            ("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", 0, 2_000),
            ("^[a-z]{1,1000}$", 90_000, 200_000),
            (r"^.{1,63}$", 70_000, 100_000),
            (r"^\p{L}{1,20}$", 970_000, 1_500_000),
            (r"^\p{L}{20,}$", 970_000, 1_500_000),
            (r"^(\p{L}{4}){1,5}$", 970_000, 1_800_000),
            (r"^(?i)[^\p{L}]{1,20}$", 970_000, 1_500_000),
            (r"^[\p{L}\p{N}_-]{1,63}$", 3_400_000, 7_000_000),
        ] {
            let weight = weigh(pattern).expect(pattern);
            assert!((least..=most).contains(&weight), "{pattern} weighs {weight}");
        }
        let error = weigh(r"^\p{L}{1,1000}$").expect_err("54 MB");
        assert_eq!(error, r"error parsing regexp: expression too large: `^\p{L}{1,1000}$`");
    }

    /// Fifteen thousand characters that are three thousand classes of 54 KB: only reading the names keeps this short.
    #[test]
    fn a_pattern_of_thousands_of_properties_is_too_large() {
        assert!(weigh(&r"\p{L}".repeat(3_000)).is_err());
        assert!(weigh(&format!("[{}]", r"\p{L}".repeat(3_000))).is_err());
        assert!(weigh(r"\p{Nonsense}").is_err() && weigh(r"\p{sc=Greek}").is_err());
    }
}
