//! What names may look like, in the words of the reference implementation.

use api_kube::names::is_dns_subdomain;

const LABEL_BYTES_MAX: usize = 63;

const SUBDOMAIN_BYTES_MAX: usize = 253;

/// Why text is no DNS label that begins with a letter; several reasons are joined by commas.
pub(crate) fn dns_1035_label(text: &str) -> Option<String> {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let is_good = bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last().is_some_and(|byte| is_word(*byte))
        && bytes.iter().all(|byte| is_word(*byte) || *byte == b'-');
    let mut why = Vec::new();
    if text.len() > LABEL_BYTES_MAX {
        why.push(format!("must be no more than {LABEL_BYTES_MAX} bytes"));
    }
    if !is_good {
        why.push(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation \
             is '[a-z]([-a-z0-9]*[a-z0-9])?')"
                .to_owned(),
        );
    }
    (!why.is_empty()).then(|| why.join(","))
}

/// Why text is no DNS subdomain.
pub(crate) fn dns_1123_subdomain(text: &str) -> Option<String> {
    let mut why = Vec::new();
    if text.len() > SUBDOMAIN_BYTES_MAX {
        why.push(format!("must be no more than {SUBDOMAIN_BYTES_MAX} bytes"));
    }
    if !is_dns_subdomain(text.get(..SUBDOMAIN_BYTES_MAX.min(text.len())).unwrap_or(text)) {
        why.push(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start \
             and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        );
    }
    (!why.is_empty()).then(|| why.join(","))
}

/// What is wrong with a DNS label.
pub(crate) fn dns_1123_label(text: &str) -> Vec<String> {
    let mut why = Vec::new();
    if text.len() > LABEL_BYTES_MAX {
        why.push(format!("must be no more than {LABEL_BYTES_MAX} bytes"));
    }
    if !api_kube::names::is_dns_label(text.get(..LABEL_BYTES_MAX.min(text.len())).unwrap_or(text)) {
        why.push(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
             with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
                .to_owned(),
        );
    }
    why
}

/// What is wrong with the value of a label.
pub(crate) fn label_value(text: &str) -> Vec<String> {
    let mut why = Vec::new();
    if text.len() > LABEL_BYTES_MAX {
        why.push(format!("must be no more than {LABEL_BYTES_MAX} bytes"));
    }
    if !is_name_part(text) && !text.is_empty() {
        why.push(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start \
             and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation \
             is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
                .to_owned(),
        );
    }
    why
}

/// What is wrong with a name that may have a domain before it.
pub(crate) fn qualified_name(text: &str) -> Vec<String> {
    let mut why = Vec::new();
    let rule = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
                character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            why.push(format!(
                "a qualified {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                rule.strip_prefix("name part ").map_or_else(String::new, |rest| format!("name {rest}"))
            ));
            return why;
        }
        Some(("", name)) => {
            why.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            why.extend(dns_1123_subdomain(prefix).map(|problem| format!("prefix part {problem}")));
            name
        }
    };
    if name.is_empty() {
        why.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_BYTES_MAX {
        why.push(format!("name part must be no more than {LABEL_BYTES_MAX} bytes"));
    }
    if !is_name_part(name) {
        why.push(rule.to_owned());
    }
    why
}

fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}
