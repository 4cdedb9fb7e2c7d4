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
