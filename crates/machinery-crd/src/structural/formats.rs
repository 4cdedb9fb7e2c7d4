//! Formats of text. A format that nobody knows says nothing.

mod dates;
mod numbers;
mod places;

use std::borrow::Cow;

/// Formats of text, without hyphens: `date-time` and `datetime` are one.
const KNOWN: [&str; 27] = [
    "bsonobjectid",
    "byte",
    "cidr",
    "creditcard",
    "date",
    "datetime",
    "duration",
    "email",
    "hexcolor",
    "hostname",
    "ipv4",
    "ipv6",
    "isbn",
    "isbn10",
    "isbn13",
    "k8slongname",
    "k8sshortname",
    "mac",
    "password",
    "rgbcolor",
    "ssn",
    "uri",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "",
];

/// Whether a format counts at a place of this type; an empty type counts as text.
pub(crate) fn is_supported(kind: &str, format: &str) -> bool {
    match kind {
        _ if format.is_empty() => true,
        "" | "string" => is_known(format),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    }
}

/// Whether text is checked for a format.
pub(super) fn is_known(format: &str) -> bool {
    !format.is_empty() && KNOWN.contains(&&*normalized(format))
}

fn normalized(format: &str) -> Cow<'_, str> {
    if format.contains('-') { format.replace('-', "").into() } else { format.into() }
}

/// Whether text has a known format.
pub(crate) fn validates(format: &str, text: &str) -> bool {
    match &*normalized(format) {
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "byte" => numbers::is_base64(text),
        "cidr" => places::is_cidr(text),
        "creditcard" => numbers::is_credit_card(text),
        "date" => dates::is_date(text),
        "datetime" => dates::is_date_time(text),
        "duration" => dates::is_duration(text),
        "email" => places::is_email(text),
        "hexcolor" => numbers::is_hex_color(text),
        "hostname" => places::is_hostname(text),
        "ipv4" => text.contains('.') && places::parse_ip_sloppy(text).is_some(),
        "ipv6" => text.contains(':') && places::parse_ip(text).is_some(),
        "isbn" => numbers::is_isbn10(text) || numbers::is_isbn13(text),
        "isbn10" => numbers::is_isbn10(text),
        "isbn13" => numbers::is_isbn13(text),
        "k8sshortname" => is_short_name(text),
        "k8slongname" => text.len() <= 253 && text.split('.').all(is_label),
        "mac" => places::is_mac(text),
        "rgbcolor" => numbers::is_rgb_color(text),
        "ssn" => numbers::is_social_security_number(text),
        "uri" => places::is_request_uri(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some('3')),
        "uuid4" => is_uuid(text, Some('4')),
        "uuid5" => is_uuid(text, Some('5')),
        _ => true,
    }
}

fn is_short_name(text: &str) -> bool {
    text.len() <= 63 && is_label(text)
}

/// Lower case letters, digits and hyphens, none of the latter at an end.
fn is_label(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|byte| is_word(*byte))
        && bytes.last().is_some_and(|byte| is_word(*byte))
        && bytes.iter().all(|byte| is_word(*byte) || *byte == b'-')
}

/// 32 hexadecimal digits, with a hyphen or none after 8, 12, 16 and 20 of them.
fn is_uuid(text: &str, version: Option<char>) -> bool {
    let mut digits = String::with_capacity(32);
    let mut may_break = false;
    for char in text.chars() {
        if char == '-' {
            if !may_break {
                return false;
            }
            may_break = false;
            continue;
        }
        if !char.is_ascii_hexdigit() || digits.len() == 32 {
            return false;
        }
        digits.push(char);
        may_break = matches!(digits.len(), 8 | 12 | 16 | 20);
    }
    let nibble = |position: usize| digits.as_bytes().get(position).map(|byte| char::from(*byte).to_ascii_lowercase());
    let has_variant = || nibble(16).is_some_and(|char| matches!(char, '8' | '9' | 'a' | 'b'));
    digits.len() == 32
        && match version {
            None => true,
            Some('3') => nibble(12) == Some('3'),
            Some(version) => nibble(12) == Some(version) && has_variant(),
        }
}

#[cfg(test)]
mod tests;
