//! Which names Kubernetes takes, and what it says of others.

/// A DNS label's length is given by RFC 1035.
pub const LABEL_BYTES_MAX: usize = 63;
/// A DNS name's length, minus the root's dot and length byte.
pub const SUBDOMAIN_BYTES_MAX: usize = 253;

/// What is wrong with a name that [`is_dns_label`] rejects.
pub const DNS_LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
/// What is wrong with a name that [`is_dns_subdomain`] rejects.
pub const DNS_SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
/// What is wrong with a name that [`is_dns1035_label`] rejects.
pub const DNS1035_LABEL_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
/// What is wrong with a name that [`is_qualified_name`] rejects.
pub const QUALIFIED_NAME_MESSAGE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
/// What is wrong with a value that [`is_label_value`] rejects.
pub const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// `press-4`: lowercase letters, digits and `-`, at most 63 bytes, as RFC 1123 has it.
pub fn is_dns_label(text: &str) -> bool {
    text.len() <= LABEL_BYTES_MAX && is_dns_part(text)
}

/// `press-4.hall-2`: parts like [`is_dns_label`] but of any length, joined by dots, at most 253 bytes in all.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= SUBDOMAIN_BYTES_MAX && text.split('.').all(is_dns_part)
}

/// As [`is_dns_label`], and begins with a letter: names of services and ports, as RFC 1035 has it.
pub fn is_dns1035_label(text: &str) -> bool {
    is_dns_label(text) && text.starts_with(|first: char| first.is_ascii_lowercase())
}

/// `selvedge.dev/role`: an optional subdomain and a slash, then up to 63 letters, digits, `-`, `_`, `.`. Keys of labels,
/// annotations (in lower case), taints and finalizers.
pub fn is_qualified_name(text: &str) -> bool {
    let name = match text.split_once('/') {
        Some((prefix, name)) if is_dns_subdomain(prefix) => name,
        Some(_) => return false,
        None => text,
    };
    !name.is_empty() && is_label_value(name)
}

/// Empty, or up to 63 letters, digits, `-`, `_`, `.` with a letter or digit at both ends.
pub fn is_label_value(text: &str) -> bool {
    text.len() <= LABEL_BYTES_MAX && is_label_text(text)
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.into_iter().flatten().all(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// A text in quotation marks, with what cannot be printed escaped as Go does it: Kubernetes' messages hold names that way.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            ' '..='~' => out.push(character),
            '\0'..='\x7f' => out.push_str(&format!("\\x{:02x}", u32::from(character))),
            _ if is_printed(character) => out.push(character),
            '\u{80}'..='\u{ffff}' => out.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => out.push_str(&format!("\\U{:08x}", u32::from(character))),
        }
    }
    out.push('"');
    out
}

/// Whether Go shows a character as it is: the space, letters, marks, numbers, punctuation and symbols.
pub fn is_printed(character: char) -> bool {
    if character.is_ascii() {
        return matches!(character, ' '..='~');
    }
    // Rust escapes what is none of them, and marks only where they come first.
    let behind_a_letter = String::from_iter(['a', character]);
    let mut escaped = behind_a_letter.escape_debug().skip(1);
    escaped.next() == Some(character) && escaped.next().is_none()
}

/// What is wrong with a label's key; nothing when [`is_qualified_name`] takes it.
pub fn label_key_mistakes(text: &str) -> Vec<String> {
    let mut mistakes = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        ["", name] => {
            mistakes.push("prefix part must be non-empty".to_owned());
            *name
        }
        [prefix, name] => {
            if prefix.len() > SUBDOMAIN_BYTES_MAX {
                mistakes.push(format!("prefix part must be no more than {SUBDOMAIN_BYTES_MAX} bytes"));
            }
            if !prefix.split('.').all(is_dns_part) {
                mistakes.push(format!("prefix part {DNS_SUBDOMAIN_MESSAGE}"));
            }
            *name
        }
        _ => {
            let what = QUALIFIED_NAME_MESSAGE.trim_start_matches("name part");
            let with = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key{what} {with}")];
        }
    };
    if name.is_empty() {
        mistakes.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_BYTES_MAX {
        mistakes.push(format!("name part must be no more than {LABEL_BYTES_MAX} bytes"));
    }
    if name.is_empty() || !is_label_text(name) {
        mistakes.push(QUALIFIED_NAME_MESSAGE.to_owned());
    }
    mistakes
}

/// What is wrong with a label's value; nothing when [`is_label_value`] takes it.
pub fn label_value_mistakes(text: &str) -> Vec<String> {
    let mut mistakes = Vec::new();
    if text.len() > LABEL_BYTES_MAX {
        mistakes.push(format!("must be no more than {LABEL_BYTES_MAX} bytes"));
    }
    if !is_label_text(text) {
        mistakes.push(LABEL_VALUE_MESSAGE.to_owned());
    }
    mistakes
}

fn is_dns_part(text: &str) -> bool {
    let is_edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(is_edge)
        && bytes.last().is_some_and(is_edge)
        && bytes.iter().all(|byte| is_edge(byte) || *byte == b'-')
}
