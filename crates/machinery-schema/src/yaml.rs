//! JSON as YAML, to the letter as upstream writes it: people compare such files.
//!
//! Keys are sorted as Go's YAML library sorts them (numbers in names by value), lists stand below their key without indentation,
//! texts are plain where they stay texts, and long lines are folded at spaces behind column 80.

use serde_json::Value;

/// How a library of Go lays a document out: they agree on what must be quoted but for single letters and words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// What API servers answer with: two spaces, lists below their keys without any, lines folded behind [`WIDTH`].
    Answers,
    /// What is within OpenAPI documents: four spaces, lists too, no line folded, keys in the order of their bytes.
    Documents,
}

/// Behind this column a line is folded at the next space.
const WIDTH: usize = 80;

/// A key that is longer, or has several lines, has a line of its own; readers need not look further for its colon than some hundreds
/// of letters.
const KEY_BYTES_MAX: usize = 128;

/// Writes a document as API servers answer with it.
pub fn to_yaml(value: &Value) -> String {
    write(value, Layout::Answers)
}

/// Writes a value as OpenAPI documents in protobuf have it where they do not know its type.
pub fn to_yaml_of_documents(value: &Value) -> String {
    write(value, Layout::Documents)
}

fn write(value: &Value, layout: Layout) -> String {
    let mut writer = Writer { layout, out: String::new(), column: 0 };
    match value {
        Value::Object(members) if !members.is_empty() => writer.mapping(members, 0),
        Value::Array(items) if !items.is_empty() => writer.sequence(items, 0),
        scalar => writer.scalar(scalar, if layout == Layout::Answers { 0 } else { 4 }),
    }
    if !writer.out.ends_with('\n') {
        writer.out.push('\n');
    }
    writer.out
}

struct Writer {
    layout: Layout,
    out: String,
    /// Characters in the current line.
    column: usize,
}

impl Writer {
    fn write(&mut self, text: &str) {
        self.out.push_str(text);
        self.column += text.chars().count();
    }

    fn line(&mut self, indent: usize) {
        if !self.out.is_empty() && !self.out.ends_with('\n') {
            self.out.push('\n');
        }
        self.out.extend(std::iter::repeat_n(' ', indent));
        self.column = indent;
    }

    /// The members of an object, the first where the writer is.
    fn mapping(&mut self, members: &serde_json::Map<String, Value>, indent: usize) {
        let mut keys: Vec<&String> = members.keys().collect();
        match self.layout {
            Layout::Answers => sort_keys(&mut keys),
            Layout::Documents => keys.sort(),
        }
        let (below, of_list) = match self.layout {
            Layout::Answers => (indent + 2, indent),
            // The next multiple of four, also from within a list, whose items are indented by two.
            Layout::Documents => ((indent + 4) / 4 * 4, (indent + 4) / 4 * 4),
        };
        for (number, key) in keys.into_iter().enumerate() {
            if number > 0 {
                self.line(indent);
            }
            if self.layout == Layout::Answers && (key.len() > KEY_BYTES_MAX || key.contains('\n')) {
                self.write("? ");
                self.text(key, indent + 2, false);
                self.line(indent);
                self.write(": ");
                self.item(&members[key], indent + 2);
                continue;
            }
            self.text(key, indent, true);
            self.write(":");
            match &members[key] {
                Value::Object(inner) if !inner.is_empty() => {
                    self.line(below);
                    self.mapping(inner, below);
                }
                Value::Array(items) if !items.is_empty() => {
                    self.line(of_list);
                    self.sequence(items, of_list);
                }
                scalar => {
                    self.write(" ");
                    self.scalar(scalar, below);
                }
            }
        }
    }

    fn sequence(&mut self, items: &[Value], indent: usize) {
        for (number, item) in items.iter().enumerate() {
            if number > 0 {
                self.line(indent);
            }
            self.write("- ");
            self.item(item, indent + 2);
        }
    }

    /// A value behind a mark, in the line of which it begins.
    fn item(&mut self, item: &Value, indent: usize) {
        match item {
            Value::Object(inner) if !inner.is_empty() => self.mapping(inner, indent),
            Value::Array(inner) if !inner.is_empty() => self.sequence(inner, indent),
            scalar => self.scalar(scalar, indent),
        }
    }

    /// `indent` is where a folded line continues.
    fn scalar(&mut self, value: &Value, indent: usize) {
        match value {
            Value::Null => self.write("null"),
            Value::Bool(flag) => self.write(if *flag { "true" } else { "false" }),
            Value::Number(number) => self.write(&number.to_string()),
            Value::String(text) => self.text(text, indent, false),
            Value::Array(_) => self.write("[]"),
            Value::Object(_) => self.write("{}"),
        }
    }

    fn text(&mut self, text: &str, indent: usize, is_key: bool) {
        let form = Form::of(text);
        if text.contains('\n') && form.is_block_allowed && !is_key {
            return self.literal(text, indent);
        }
        if self.is_resolved(text) || form.needs_escapes || (text.contains('\n') && !form.is_single_allowed) {
            return self.double(text, indent, is_key);
        }
        if text.contains('\n') {
            return self.double(text, indent, is_key);
        }
        if form.is_plain_allowed && !text.is_empty() {
            return self.folded(text, indent, is_key, |character, out| out.push(character));
        }
        self.write("'");
        self.folded(text, indent, is_key, |character, out| {
            out.push(character);
            if character == '\'' {
                out.push('\'');
            }
        });
        self.write("'");
    }

    /// Writes a text of one line, which is folded where it is too long.
    fn folded(&mut self, text: &str, indent: usize, is_key: bool, write: impl Fn(char, &mut String)) {
        let mut letters = text.chars().peekable();
        let mut was_space = false;
        let mut is_first = true;
        while let Some(letter) = letters.next() {
            let is_foldable = !is_key && letter == ' ' && !was_space && self.is_full() && !is_first;
            if is_foldable && letters.peek().is_some_and(|next| *next != ' ') {
                self.line(indent);
            } else {
                let before = self.out.len();
                write(letter, &mut self.out);
                self.column += self.out[before..].chars().count();
            }
            was_space = letter == ' ';
            is_first = false;
        }
    }

    fn is_full(&self) -> bool {
        self.layout == Layout::Answers && self.column > WIDTH
    }

    /// Whether a plain text would be read as something else than a text. The younger library has no words but `true` and
    /// `false`, and counts in tens alone.
    fn is_resolved(&self, text: &str) -> bool {
        const OLD: &[&str] =
            &["y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "n", "N", "no", "No", "NO", "off", "Off", "OFF"];
        let is_old = OLD.contains(&text) || is_sixties(text.trim_start_matches(['+', '-']));
        is_resolved(text) && (self.layout == Layout::Answers || !is_old)
    }

    fn double(&mut self, text: &str, indent: usize, is_key: bool) {
        self.write("\"");
        let letters: Vec<char> = text.chars().collect();
        let mut was_space = false;
        for (at, letter) in letters.iter().enumerate() {
            let is_inside = at > 0 && at + 1 < letters.len();
            if *letter == ' ' && !is_key && !was_space && self.is_full() && is_inside {
                self.line(indent);
                if letters[at + 1] == ' ' {
                    self.write("\\");
                }
            } else {
                self.write(&escaped(*letter));
            }
            was_space = *letter == ' ';
        }
        self.write("\"");
    }

    fn literal(&mut self, text: &str, indent: usize) {
        self.write("|");
        if text.starts_with([' ', '\n']) {
            self.write(if self.layout == Layout::Answers { "2" } else { "4" });
        }
        match (text.ends_with('\n'), text.ends_with("\n\n") || text == "\n") {
            (false, _) => self.write("-"),
            (true, true) => self.write("+"),
            (true, false) => {}
        }
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            self.out.push('\n');
            self.column = 0;
            if !line.is_empty() {
                self.out.extend(std::iter::repeat_n(' ', indent));
                self.out.push_str(line);
            }
        }
        if text.ends_with('\n') {
            self.out.push('\n');
        }
    }
}

fn escaped(letter: char) -> String {
    match letter {
        '\0' => "\\0".to_owned(),
        '\x07' => "\\a".to_owned(),
        '\x08' => "\\b".to_owned(),
        '\t' => "\\t".to_owned(),
        '\n' => "\\n".to_owned(),
        '\x0b' => "\\v".to_owned(),
        '\x0c' => "\\f".to_owned(),
        '\r' => "\\r".to_owned(),
        '\x1b' => "\\e".to_owned(),
        '"' => "\\\"".to_owned(),
        '\\' => "\\\\".to_owned(),
        '\u{85}' => "\\N".to_owned(),
        '\u{a0}' => "\\_".to_owned(),
        '\u{2028}' => "\\L".to_owned(),
        '\u{2029}' => "\\P".to_owned(),
        _ if is_printable(letter) => letter.to_string(),
        _ => match u32::from(letter) {
            code @ 0..=0xff => format!("\\x{code:02X}"),
            code @ 0x100..=0xffff => format!("\\u{code:04X}"),
            code => format!("\\U{code:08X}"),
        },
    }
}

fn is_printable(letter: char) -> bool {
    matches!(letter, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
}

/// In which styles a text may be written.
struct Form {
    is_plain_allowed: bool,
    is_single_allowed: bool,
    is_block_allowed: bool,
    needs_escapes: bool,
}

impl Form {
    fn of(text: &str) -> Self {
        let letters: Vec<char> = text.chars().collect();
        let is_blank = |at: usize| letters.get(at).is_none_or(|letter| matches!(letter, ' ' | '\t' | '\n' | '\r'));
        let mut has_indicator = text.starts_with("---") || text.starts_with("...");
        let (mut needs_escapes, mut has_space_break, mut has_break_space) = (false, false, false);
        for (at, letter) in letters.iter().enumerate() {
            let is_followed_by_blank = is_blank(at + 1);
            let is_after_blank = at == 0 || is_blank(at - 1);
            has_indicator |= match letter {
                '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`'
                    if at == 0 =>
                {
                    true
                }
                '?' | '-' if at == 0 => is_followed_by_blank,
                ':' => is_followed_by_blank,
                '#' => is_after_blank,
                _ => false,
            };
            needs_escapes |= !is_printable(*letter);
            if at > 0 {
                has_space_break |= letters[at - 1] == ' ' && *letter == '\n';
                has_break_space |= letters[at - 1] == '\n' && *letter == ' ';
            }
        }
        let has_edges = text.starts_with([' ', '\n']) || text.ends_with([' ', '\n']);
        Self {
            is_plain_allowed: !has_indicator && !has_edges && !text.contains('\n') && !needs_escapes,
            is_single_allowed: !has_space_break && !has_break_space && !needs_escapes,
            is_block_allowed: !text.ends_with(' ') && !has_space_break && !needs_escapes,
            needs_escapes,
        }
    }
}

/// Whether a plain text would be read as something else than a text.
fn is_resolved(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "", "~", "null", "Null", "NULL", "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON", "n",
        "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF", ".nan", ".NaN", ".NAN", ".inf", ".Inf",
        ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF", "<<",
    ];
    WORDS.contains(&text) || is_number(text) || is_time(text)
}

fn is_number(text: &str) -> bool {
    let plain = text.replace('_', "");
    let digits = plain.trim_start_matches(['+', '-']);
    if plain.len() - digits.len() > 1
        || !text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first))
    {
        return false;
    }
    let is_of = |digits: &str, radix: u32| !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    let is_prefixed = [("0x", 16), ("0X", 16), ("0b", 2), ("0B", 2), ("0o", 8), ("0O", 8)]
        .into_iter()
        .any(|(prefix, radix)| digits.strip_prefix(prefix).is_some_and(|rest| is_of(rest, radix)));
    if is_prefixed || is_of(digits, 10) {
        return true;
    }
    // As a float: digits with a point, an exponent, or both; and sixties, which old YAML reads as numbers.
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (digits, None),
    };
    let has_exponent = exponent.is_none_or(|exponent| is_of(exponent.trim_start_matches(['+', '-']), 10));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let is_float = has_exponent
        && (is_of(whole, 10) || (whole.is_empty() && mantissa.starts_with('.')))
        && (fraction.is_empty() || is_of(fraction, 10))
        && mantissa.chars().any(|letter| letter.is_ascii_digit());
    is_float || is_sixties(digits)
}

/// `12:30:45`: a number of base sixty.
fn is_sixties(digits: &str) -> bool {
    let (digits, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut parts = digits.split(':');
    let is_whole = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let first = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    is_whole(first)
        && !rest.is_empty()
        && rest.iter().all(|part| is_whole(part) && part.parse::<u32>().is_ok_and(|number| number < 60))
        && fraction.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_dated = bytes.len() >= 8 && bytes[..4].iter().all(u8::is_ascii_digit) && bytes[4] == b'-';
    is_dated
        && (text.parse::<jiff::Timestamp>().is_ok() || (bytes.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()))
}

/// Sorts by [`is_less`], which knows of circles: `2` is below `10`, that below `1a`, and that below `2`. The sorts of the standard
/// library may panic at one, and Go's do something.
fn sort_keys(keys: &mut Vec<&String>) {
    const INSERTED_MAX: usize = 12;
    for run in keys.chunks_mut(INSERTED_MAX) {
        for next in 1..run.len() {
            let mut at = next;
            while at > 0 && is_less(run[at], run[at - 1]) {
                run.swap(at, at - 1);
                at -= 1;
            }
        }
    }
    let mut width = INSERTED_MAX;
    while width < keys.len() {
        let mut merged = Vec::with_capacity(keys.len());
        for pair in keys.chunks(2 * width) {
            let (mut left, mut right) = pair.split_at(width.min(pair.len()));
            while let (Some((one, rest)), Some((other, others))) = (left.split_first(), right.split_first()) {
                if is_less(other, one) {
                    merged.push(*other);
                    right = others;
                } else {
                    merged.push(*one);
                    left = rest;
                }
            }
            merged.extend_from_slice(left);
            merged.extend_from_slice(right);
        }
        *keys = merged;
        width *= 2;
    }
}

/// Go's order of keys: letters after everything else, numbers by their value.
fn is_less(left: &str, right: &str) -> bool {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let Some(at) = left.iter().zip(&right).position(|(one, other)| one != other) else {
        return left.len() < right.len();
    };
    let (one, other) = (left[at], right[at]);
    match (one.is_alphabetic(), other.is_alphabetic()) {
        (true, true) => return one < other,
        (false, false) => {}
        (_, is_other_letter) => return is_other_letter,
    }
    // The numbers from here on, in which a leading zero counts where a digit is before it.
    let is_within = (one == '0' || other == '0')
        && left[..at].iter().rev().take_while(|letter| letter.is_ascii_digit()).any(|digit| *digit != '0');
    let digits =
        |letters: &[char]| -> Vec<char> { letters[at..].iter().copied().take_while(char::is_ascii_digit).collect() };
    let (left, right) = (digits(&left), digits(&right));
    let value = |digits: &[char]| -> (usize, Vec<char>) {
        let zeros = if is_within { 0 } else { digits.iter().take_while(|digit| **digit == '0').count() };
        (digits.len() - zeros, digits[zeros..].to_vec())
    };
    (value(&left), left.len(), one) < (value(&right), right.len(), other)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(value: Value, expected: &str) {
        assert_eq!(to_yaml(&value), expected);
    }

    #[test]
    fn lists_stand_below_their_keys_and_texts_stay_texts() {
        check(
            json!({"kind": "ConfigMap", "data": {"a": "1", "b": "two", "c": ""}, "items": [{"x": 1, "y": [true, null]}, {}, [1, 2]]}),
            "data:\n  a: \"1\"\n  b: two\n  c: \"\"\nitems:\n- x: 1\n  \"y\":\n  - true\n  - null\n- {}\n- - 1\n  - 2\nkind: ConfigMap\n",
        );
        check(json!({"time": "2026-11-25T21:59:39Z"}), "time: \"2026-11-25T21:59:39Z\"\n");
        check(json!({"f": {".": {}, "k:{\"name\":\"main\"}": {}}}), "f:\n  .: {}\n  k:{\"name\":\"main\"}: {}\n");
        check(json!({"a": "x: y", "b": "- z", "c": "it's", "d": "'"}), "a: 'x: y'\nb: '- z'\nc: it's\nd: ''''\n");
        check(
            json!({"a": "tab\there", "b": "é", "c": "1e3", "d": "0x1f", "e": "1.2.3"}),
            "a: \"tab\\there\"\nb: é\nc: \"1e3\"\nd: \"0x1f\"\ne: 1.2.3\n",
        );
        check(json!({"a": "one\ntwo\n", "b": "one\ntwo"}), "a: |\n  one\n  two\nb: |-\n  one\n  two\n");
    }

    #[test]
    fn values_within_documents_are_laid_out_by_fours() {
        let check = |value: Value, expected: &str| assert_eq!(to_yaml_of_documents(&value), expected);
        check(json!([{"group": "apps", "kind": "A"}]), "- group: apps\n  kind: A\n");
        check(json!({"a": [1, {"b": {"c": "yes"}}]}), "a:\n    - 1\n    - b:\n        c: yes\n");
        check(json!("5"), "\"5\"\n");
        check(json!("a: b"), "'a: b'\n");
        check(json!({}), "{}\n");
        check(json!("one\ntwo"), "|-\n    one\n    two\n");
    }

    #[test]
    fn long_lines_are_folded_at_a_space() {
        let message = "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
        check(
            json!({"message": message}),
            "message: 'only the following media types are accepted: application/json;stream=watch,\n  application/vnd.kubernetes.protobuf;stream=watch'\n",
        );
    }

    #[test]
    fn long_keys_and_those_of_several_lines_have_a_line_of_their_own() {
        let long = "a".repeat(129);
        let check = |value: Value, expected: &str| assert_eq!(to_yaml(&value).replace(&long, "LONG"), expected);
        check(json!({"o": {long.clone(): [1, 2], "z": 2}}), "o:\n  ? LONG\n  : - 1\n    - 2\n  z: 2\n");
        check(json!({long.clone(): {"x": 1, "y": [1]}}), "? LONG\n: x: 1\n  \"y\":\n  - 1\n");
        check(json!({"l": [{long.clone(): 1, "b": 2}]}), "l:\n- ? LONG\n  : 1\n  b: 2\n");
        check(json!({format!("{long}: x"): {}}), "? 'LONG:\n  x'\n: {}\n");
        check(json!({"a\nb": 1, "c\nd": {"e": 1}}), "? |-\n  a\n  b\n: 1\n? |-\n  c\n  d\n: e: 1\n");
        check(json!({"a".repeat(128): 1}), &format!("{}: 1\n", "a".repeat(128)));
    }

    #[test]
    fn keys_are_in_gos_order() {
        let keys =
            ["a10", "a9", "b", "a-b", "a_b", "ab", "A", "1", "a01", "a1+", "a100", "a0", "a00"].map(str::to_owned);
        let mut sorted: Vec<&String> = keys.iter().collect();
        sort_keys(&mut sorted);
        assert_eq!(sorted, ["1", "A", "a-b", "a_b", "a0", "a00", "a1+", "a01", "a9", "a10", "a100", "ab", "b"]);
    }

    #[test]
    fn keys_that_are_each_below_the_next_in_a_circle_are_written_all_the_same() {
        check(json!({"1a": 1, "2": 2, "10": 3}), "\"10\": 3\n1a: 1\n\"2\": 2\n");
        let many: serde_json::Map<String, Value> = (0..200)
            .flat_map(|number| {
                [format!("{number}"), format!("{number}a"), format!("0{number}"), "9".repeat(number % 100 + 1)]
            })
            .map(|key| (key, Value::Null))
            .collect();
        let written = to_yaml(&Value::Object(many.clone()));
        assert_eq!(written.lines().count(), many.len());
    }
}
