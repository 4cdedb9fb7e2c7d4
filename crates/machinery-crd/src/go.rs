//! Values as Go writes them: messages of the reference implementation quote values with `%q`, `%v` and `json.Marshal`,
//! and people's scripts compare them to the letter.

use std::{fmt::Write as _, sync::LazyLock};

use regex::Regex;
use serde_json::Value;

/// Go prints these as they are; everything else is escaped.
static PRINTABLE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^[\p{L}\p{M}\p{N}\p{P}\p{S} ]$").expect("the pattern is constant"));

/// A string as `%q` and `strconv.Quote` write it.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    let mut buffer = [0; 4];
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            ' '..='~' => out.push(char),
            '\0'..' ' | '\x7f' => write_hex(&mut out, "\\x", char, 2),
            _ if PRINTABLE.is_match(char.encode_utf8(&mut buffer)) => out.push(char),
            '\u{10000}'.. => write_hex(&mut out, "\\U", char, 8),
            _ => write_hex(&mut out, "\\u", char, 4),
        }
    }
    out.push('"');
    out
}

fn write_hex(out: &mut String, prefix: &str, char: char, digits: usize) {
    write!(out, "{prefix}{:0digits$x}", u32::from(char)).expect("a String takes any text");
}

/// A value as `json.Marshal` writes it: keys sorted, `<`, `>` and `&` escaped.
pub(crate) fn json(value: &Value) -> String {
    let mut out = String::new();
    write_json(&mut out, value);
    out
}

pub(crate) fn write_json(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => out.push_str(&whole.to_string()),
            None => out.push_str(&json_float(number.as_f64().unwrap_or_default())),
        },
        Value::String(text) => write_json_text(out, text),
        Value::Array(items) => {
            out.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                write_json(out, item);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            for (position, key) in keys.into_iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                write_json_text(out, key);
                out.push(':');
                write_json(out, &map[key]);
            }
            out.push('}');
        }
    }
}

/// A string as `json.Marshal` writes it.
pub(crate) fn write_json_text(out: &mut String, text: &str) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..' ' => write_hex(out, "\\u", char, 4),
            _ => out.push(char),
        }
    }
    out.push('"');
}

/// A number as `%v` writes a float64: the shortest digits, an exponent beyond twenty places.
pub(crate) fn float(number: f64) -> String {
    format_float(number, 21)
}

fn json_float(number: f64) -> String {
    // encoding/json changes to an exponent at 1e21, as `%v` does, but writes e-7 where `%v` writes e-07.
    let text = format_float(number, 21);
    match text.split_once("e-0") {
        Some((digits, exponent)) => format!("{digits}e-{exponent}"),
        None => text,
    }
}

/// Rust's shortest digits in Go's `%g` layout.
fn format_float(number: f64, exponent_min: i32) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if number == 0.0 {
        return if number.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').expect("Rust writes an exponent");
    let exponent: i32 = exponent.parse().expect("Rust writes a whole exponent");
    if (-4..exponent_min).contains(&exponent) {
        return format!("{number}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// A value as a field error shows it: scalars plainly, everything else as JSON.
pub(crate) fn bad_value(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.to_string(),
            None => float(number.as_f64().unwrap_or_default()),
        },
        other => json(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn strings_are_quoted_as_go_quotes_them() {
        assert_eq!(quote("a\"b\\c\n\u{1}é\u{200b}"), r#""a\"b\\c\n\x01é\u200b""#);
    }

    #[test]
    fn json_has_go_s_escapes_and_sorted_keys() {
        assert_eq!(
            json(&json!({"b": "x > 1 & y", "a": [1, 1.5, null]})),
            r#"{"a":[1,1.5,null],"b":"x \u003e 1 \u0026 y"}"#
        );
    }

    #[test]
    fn floats_change_to_an_exponent_where_go_does() {
        for (number, shown) in
            [(1e20, "100000000000000000000"), (1e21, "1e+21"), (0.0001, "0.0001"), (0.00001, "1e-05"), (2.5, "2.5")]
        {
            assert_eq!(float(number), shown);
        }
    }
}
