//! `'%s is %d'.format([…])`.

use super::{TEXT_BYTES_MAX, Val, items, times};
use crate::cel::eval::EvalError;

pub(super) fn format(template: &str, args: &[Val<'_>]) -> Result<String, EvalError> {
    let mut out = String::new();
    let mut rest = template;
    let mut args = args.iter().enumerate();
    let mut count = 0;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let mut precision = None;
        if let Some(after) = rest.strip_prefix('.') {
            let len = after.bytes().take_while(u8::is_ascii_digit).count();
            precision = Some(after[..len].parse::<usize>().map_err(|_| {
                EvalError::new("could not parse formatting clause: precision of format clause must be a number")
            })?);
            rest = &after[len..];
        }
        let Some(verb) = rest.chars().next() else {
            return Err(EvalError::new("unexpected end of string"));
        };
        rest = &rest[verb.len_utf8()..];
        let Some((_, arg)) = args.next() else {
            return Err(EvalError::new(format!("index {count} out of range")));
        };
        count += 1;
        out.push_str(&clause(verb, precision.map(|precision| precision.min(1_000)), arg)?);
        if out.len() > TEXT_BYTES_MAX {
            return Err(EvalError::new("operation cancelled: actual cost limit exceeded"));
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn clause(verb: char, precision: Option<usize>, arg: &Val<'_>) -> Result<String, EvalError> {
    let wrong = |what: &str| {
        let name = arg.type_name();
        EvalError::new(format!(
            "error during formatting: {what} clause can only be used on {}, was given {name}",
            expected(verb)
        ))
    };
    let digits = precision.unwrap_or(6);
    match (verb, arg) {
        ('s', value) => Ok(plain(value)),
        ('d', Val::Int(number)) => Ok(number.to_string()),
        ('d', Val::Uint(number)) => Ok(number.to_string()),
        ('d', _) => Err(wrong("decimal")),
        ('f', Val::Double(number)) => Ok(fixed(*number, digits)),
        ('f', Val::Int(number)) => Ok(fixed(*number as f64, digits)),
        ('f', Val::Uint(number)) => Ok(fixed(*number as f64, digits)),
        ('f', _) => Err(wrong("fixed-point")),
        ('e', Val::Double(number)) => Ok(scientific(*number, digits)),
        ('e', Val::Int(number)) => Ok(scientific(*number as f64, digits)),
        ('e', Val::Uint(number)) => Ok(scientific(*number as f64, digits)),
        ('e', _) => Err(wrong("scientific")),
        ('b', Val::Int(number)) => Ok(signed(*number, |number| format!("{number:b}"))),
        ('b', Val::Uint(number)) => Ok(format!("{number:b}")),
        ('b', Val::Bool(flag)) => Ok(u8::from(*flag).to_string()),
        ('b', _) => Err(wrong("binary")),
        ('o', Val::Int(number)) => Ok(signed(*number, |number| format!("{number:o}"))),
        ('o', Val::Uint(number)) => Ok(format!("{number:o}")),
        ('o', _) => Err(wrong("octal")),
        ('x' | 'X', value) => {
            let text = match value {
                Val::Int(number) => signed(*number, |number| format!("{number:x}")),
                Val::Uint(number) => format!("{number:x}"),
                Val::Text(text) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
                Val::Bytes(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
                _ => return Err(wrong("hex")),
            };
            Ok(if verb == 'X' { text.to_uppercase() } else { text })
        }
        _ => {
            Err(EvalError::new(format!("could not parse formatting clause: unrecognized formatting clause \"{verb}\"")))
        }
    }
}

fn expected(verb: char) -> &'static str {
    match verb {
        'd' | 'o' => "integers",
        'b' => "integers and bools",
        'x' | 'X' => "integers, byte buffers, and strings",
        _ => "doubles",
    }
}

fn signed(number: i64, write: impl Fn(u64) -> String) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", write(number.unsigned_abs()))
}

fn fixed(number: f64, digits: usize) -> String {
    special(number).unwrap_or_else(|| format!("{number:.digits$}"))
}

/// `1.234568×10⁰⁴`.
fn scientific(number: f64, digits: usize) -> String {
    if let Some(special) = special(number) {
        return special;
    }
    let text = format!("{number:.digits$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ("⁻", exponent),
        None => ("", exponent),
    };
    const SUPERSCRIPT: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let raised: String = format!("{exponent:0>2}")
        .bytes()
        .filter_map(|byte| SUPERSCRIPT.get(usize::from(byte.wrapping_sub(b'0'))))
        .collect();
    format!("{digits}×10{sign}{raised}")
}

fn special(number: f64) -> Option<String> {
    if number.is_nan() {
        Some("NaN".to_owned())
    } else if number.is_infinite() {
        Some(if number > 0.0 { "∞" } else { "-∞" }.to_owned())
    } else {
        None
    }
}

/// What `%s` writes: text plainly, and quoted within lists and maps.
fn plain(value: &Val<'_>) -> String {
    match value {
        Val::Null => "null".to_owned(),
        Val::Text(text) => text.to_string(),
        Val::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Val::Duration(nanoseconds) => times::seconds(*nanoseconds),
        Val::Timestamp(time) => time.to_string(),
        Val::Type(name) => name.to_string(),
        Val::Ip(address) => address.to_string(),
        Val::Cidr(address, bits) => format!("{address}/{bits}"),
        Val::Url(url) => url.as_text().to_owned(),
        Val::List(list) => {
            let items: Vec<String> = items(list).iter().map(quoted).collect();
            format!("[{}]", items.join(", "))
        }
        Val::Map(fields) => {
            let mut entries: Vec<(String, String)> =
                fields.entries().iter().map(|(key, value)| (quoted(key), quoted(value))).collect();
            entries.sort();
            let entries: Vec<String> = entries.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
            format!("{{{}}}", entries.join(", "))
        }
        other => super::shown(other),
    }
}

fn quoted(value: &Val<'_>) -> String {
    match value {
        Val::Text(text) => crate::go::quoted(text),
        other => plain(other),
    }
}
