//! Texts as Go writes them: a conflict, a rejected field and an annotation must read like kube-apiserver's to the letter.
//!
//! Clients compare these texts, and `FieldsV1` keys hold JSON inside of JSON, where an escape more or less is another key. Who calls
//! has bounded a value's depth.

use std::fmt::Write as _;

use serde_json::{Number, Value};

pub use api_kube::names::{is_printed, quoted};

/// A value as Go's `encoding/json` writes it: keys sorted, `<`, `>` and `&` escaped, whole floats without a fraction.
pub fn json(value: &Value) -> String {
    let mut out = String::new();
    write_json(&mut out, value);
    out
}

/// Appends what [`json`] returns.
pub fn write_json(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
        Value::Number(number) => write_number(out, number),
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
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            for (position, (key, value)) in entries.into_iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                write_json_text(out, key);
                out.push(':');
                write_json(out, value);
            }
            out.push('}');
        }
    }
}

/// Appends a JSON string that is also safe within HTML.
pub fn write_json_text(out: &mut String, text: &str) {
    out.push('"');
    write_json_text_inside(out, text);
    out.push('"');
}

/// The same without the quotation marks. Nearly no text has anything to escape, and what lies between is copied as it is.
pub fn write_json_text_inside(out: &mut String, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.bytes().position(is_escaped) {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let mut chars = after.chars();
        match chars.next().expect("a byte of it was found") {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            char @ ('<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\x1f') => {
                let _ = write!(out, "\\u{:04x}", u32::from(char));
            }
            char => out.push(char),
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
}

/// Whether what begins with a byte may have to be escaped: the line separators begin with 0xe2, as many others do.
fn is_escaped(byte: u8) -> bool {
    byte < 0x20 || matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&' | 0xe2)
}

/// A number as Go decodes it: whole, or a float where it is larger than that.
fn write_number(out: &mut String, number: &Number) {
    let _ = match (number.as_i64(), number.as_f64().unwrap_or_default()) {
        (Some(whole), _) => write!(out, "{whole}"),
        (None, float) if float != 0.0 && (float.abs() < 1e-6 || float.abs() >= 1e21) => {
            // Go writes two digits of exponent with a sign, of which `encoding/json` drops a leading zero.
            let text = format!("{float:e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let sign = if exponent.starts_with('-') { "" } else { "+" };
            write!(out, "{digits}e{sign}{exponent}")
        }
        (None, float) => write!(out, "{float}"),
    };
}

/// A value as Go's `%v` shows it: `map[a:1 b:[x y]]`.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => number_plain(number),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            let entries: Vec<String> =
                entries.into_iter().map(|(key, value)| format!("{key}:{}", plain(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
    }
}

/// A value as `%#v` shows it: as Go source.
pub fn source(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => quoted(text),
        Value::Array(items) => {
            format!("[]interface {{}}{{{}}}", items.iter().map(source).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            let entries: Vec<String> =
                entries.into_iter().map(|(key, value)| format!("{}:{}", quoted(key), source(value))).collect();
            format!("map[string]interface {{}}{{{}}}", entries.join(", "))
        }
        scalar => plain(scalar),
    }
}

/// The JSON type of a value, as Go's `encoding/json` names what it cannot decode.
pub fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The Go type of a decoded value, as `%T` shows it.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn number_plain(number: &Number) -> String {
    match number.as_i64() {
        Some(whole) => whole.to_string(),
        None => float(number.as_f64().unwrap_or_default()),
    }
}

/// A number as `%v` shows a float64: the shortest digits, with an exponent below a ten-thousandth and beyond twenty places.
pub fn float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if number == 0.0 || (1e-4..1e21).contains(&number.abs()) {
        return number.to_string();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').expect("Rust writes an exponent");
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_quoted_as_go_quotes_them() {
        assert_eq!(
            quoted("a\"b\\c\n\u{7}\u{1}é\u{301}\u{200b}\u{a0}"),
            "\"a\\\"b\\\\c\\n\\a\\x01é\u{301}\\u200b\\u00a0\""
        );
    }

    #[test]
    fn floats_have_an_exponent_where_go_writes_one() {
        for (number, shown, in_json) in [
            (1e20, "100000000000000000000", "100000000000000000000"),
            (1e21, "1e+21", "1e+21"),
            (0.0001, "0.0001", "0.0001"),
            (0.00001, "1e-05", "0.00001"),
            (0.00000015, "1.5e-07", "1.5e-7"),
            (-2.5, "-2.5", "-2.5"),
            (-0.0, "-0", "-0"),
        ] {
            assert_eq!((float(number), json(&json!(number))), (shown.to_owned(), in_json.to_owned()));
        }
        assert_eq!(float(f64::NEG_INFINITY), "-Inf");
    }

    #[test]
    fn json_escapes_what_html_would_misread() {
        assert_eq!(
            json(&json!({"b": "<&>", "a": [1, 1.0, 1.5, 1e30, null]})),
            r#"{"a":[1,1,1.5,1e+30,null],"b":"\u003c\u0026\u003e"}"#
        );
    }

    #[test]
    fn values_read_as_go_shows_them() {
        let value = json!({"a": [1, "x", true], "b": {"c": null}});
        assert_eq!(plain(&value), "map[a:[1 x true] b:map[c:<nil>]]");
        assert_eq!(
            source(&value),
            r#"map[string]interface {}{"a":[]interface {}{1, "x", true}, "b":map[string]interface {}{"c":interface {}(nil)}}"#
        );
    }
}
