//! Which texts are names, keys and values, and what is wrong with others.
//!
//! Each function returns messages, none when the text is right. Upstream checks with regular expressions and shows them;
//! what they say is small enough to be checked by hand.

use crate::kit::{Errors, Path};

pub(crate) const DNS_LABEL_BYTES_MAX: usize = 63;
pub(crate) const DNS_SUBDOMAIN_BYTES_MAX: usize = 253;
pub(crate) const LABEL_VALUE_BYTES_MAX: usize = 63;

const DNS_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS_SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const UNDERSCORED_SUBDOMAIN: &str = r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
const LABEL_KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_KEY_MESSAGE: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// What a text breaks, one message for each rule.
pub(crate) type Messages = Vec<String>;

/// The message for a text that does not match a regular expression.
pub(crate) fn regex_message(message: &str, regex: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{regex}')");
    }
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

pub(crate) fn range_message(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn too_many_characters(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// The newer rules count as the older ones do, and say so.
fn too_many_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// `my-name`: a DNS label as RFC 1123 has it.
pub(crate) fn dns_label(text: &str) -> Messages {
    let mut messages = Messages::new();
    if text.len() > DNS_LABEL_BYTES_MAX {
        messages.push(too_many_characters(DNS_LABEL_BYTES_MAX));
    }
    if !is_label(text) {
        messages.push(if is_subdomain(text) {
            "must not contain dots".to_owned()
        } else {
            regex_message(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                DNS_LABEL,
                &["my-name", "123-abc"],
            )
        });
    }
    messages
}

/// `example.com`: a DNS subdomain as RFC 1123 has it.
pub(crate) fn dns_subdomain(text: &str) -> Messages {
    dns_subdomain_in(text, too_many_characters)
}

/// The same in the words of declarative validation (`k8s-long-name`).
pub(crate) fn long_name(text: &str) -> Messages {
    dns_subdomain_in(text, too_many_bytes)
}

fn dns_subdomain_in(text: &str, too_many: fn(usize) -> String) -> Messages {
    let mut messages = Messages::new();
    if text.len() > DNS_SUBDOMAIN_BYTES_MAX {
        messages.push(too_many(DNS_SUBDOMAIN_BYTES_MAX));
    }
    if !is_subdomain(text) {
        messages.push(regex_message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            DNS_SUBDOMAIN,
            &["example.com"],
        ));
    }
    messages
}

/// A DNS subdomain whose labels may have underscores: search domains of pods.
pub(crate) fn dns_subdomain_with_underscore(text: &str) -> Messages {
    let mut messages = Messages::new();
    if text.len() > DNS_SUBDOMAIN_BYTES_MAX {
        messages.push(too_many_characters(DNS_SUBDOMAIN_BYTES_MAX));
    }
    let is_label = |label: &str| {
        let label = label.strip_prefix('_').unwrap_or(label).as_bytes();
        is_framed(label, is_lower_alphanumeric, |byte| is_lower_alphanumeric(byte) || matches!(byte, b'-' | b'_'))
    };
    if !text.split('.').all(is_label) {
        messages.push(regex_message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character",
            UNDERSCORED_SUBDOMAIN,
            &["example.com"],
        ));
    }
    messages
}

/// `abc-123`: a DNS label as RFC 1035 has it; it begins with a letter.
pub(crate) fn dns1035_label(text: &str) -> Messages {
    let mut messages = Messages::new();
    if text.len() > DNS_LABEL_BYTES_MAX {
        messages.push(too_many_characters(DNS_LABEL_BYTES_MAX));
    }
    if !is_label(text) || !text.starts_with(|first: char| first.is_ascii_lowercase()) {
        messages.push(regex_message(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    messages
}

/// `*.example.com`.
pub(crate) fn wildcard_dns_subdomain(text: &str) -> Messages {
    let mut messages = Messages::new();
    if text.len() > DNS_SUBDOMAIN_BYTES_MAX {
        messages.push(too_many_characters(DNS_SUBDOMAIN_BYTES_MAX));
    }
    if !text.strip_prefix("*.").is_some_and(is_subdomain) {
        messages.push(regex_message(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!(r"\*\.{DNS_SUBDOMAIN}"),
            &["*.example.com"],
        ));
    }
    messages
}

/// `example.com/MyName`: keys of labels and annotations, finalizers and many other names.
pub(crate) fn qualified_name(text: &str) -> Messages {
    let rule = || regex_message(LABEL_KEY_MESSAGE, LABEL_KEY, &["MyName", "my.name", "123-abc"]);
    let mut messages = Messages::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            let hint = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {} {hint}", rule())];
        }
        Some(("", name)) => {
            messages.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            messages.extend(long_name(prefix).into_iter().map(|message| format!("prefix part {message}")));
            name
        }
    };
    if name.is_empty() {
        messages.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_VALUE_BYTES_MAX {
        messages.push(format!("name part {}", too_many_bytes(LABEL_VALUE_BYTES_MAX)));
    }
    if !is_label_text(name) {
        messages.push(format!("name part {}", rule()));
    }
    messages
}

/// The value of a label: empty, or letters, digits, `-`, `_` and `.`.
pub(crate) fn label_value(text: &str) -> Messages {
    let mut messages = Messages::new();
    if text.len() > LABEL_VALUE_BYTES_MAX {
        messages.push(too_many_bytes(LABEL_VALUE_BYTES_MAX));
    }
    if !text.is_empty() && !is_label_text(text) {
        messages.push(regex_message(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &format!("({LABEL_KEY})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    messages
}

/// `my_name`: an identifier as C has it.
pub(crate) fn c_identifier(text: &str) -> Messages {
    let is_first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let mut bytes = text.bytes();
    let holds = bytes.next().is_some_and(is_first) && bytes.all(|byte| is_first(byte) || byte.is_ascii_digit());
    rule(
        holds,
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    )
}

/// A number between 1 and 65535.
pub(crate) fn port_number(port: i64) -> Messages {
    in_range(port, 1, 65_535)
}

pub(crate) fn in_range(number: i64, low: i64, high: i64) -> Messages {
    if (low..=high).contains(&number) { Messages::new() } else { vec![range_message(low, high)] }
}

/// A user's or group's number in Linux.
pub(crate) fn unix_id(number: i64) -> Messages {
    in_range(number, 0, i64::from(i32::MAX))
}

/// The name of a port, as RFC 6335 has it for services.
pub(crate) fn port_name(text: &str) -> Messages {
    let mut messages = Messages::new();
    if text.len() > 15 {
        messages.push(too_many_characters(15));
    }
    if text.is_empty() || !text.bytes().all(|byte| is_lower_alphanumeric(byte) || byte == b'-') {
        messages.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        messages.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        messages.push("must not begin or end with a hyphen".to_owned());
    }
    messages
}

/// `93%`.
pub(crate) fn percent(text: &str) -> Messages {
    rule(
        is_percent(text),
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )
}

pub(crate) fn is_percent(text: &str) -> bool {
    let digits = text.strip_suffix('%').unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// The name of an HTTP header.
pub(crate) fn http_header_name(text: &str) -> Messages {
    rule(
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )
}

/// The name of an environment variable.
pub(crate) fn env_name(text: &str) -> Messages {
    let mut messages = Messages::new();
    if text.is_empty() {
        messages.push("environment variable name must be non-empty".to_owned());
    }
    if !text.chars().all(|character| matches!(character, ' '..='~') && character != '=') {
        messages.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    messages
}

/// A key of a ConfigMap or Secret.
pub(crate) fn config_key(text: &str) -> Messages {
    let mut messages = Messages::new();
    if text.len() > DNS_SUBDOMAIN_BYTES_MAX {
        messages.push(too_many_characters(DNS_SUBDOMAIN_BYTES_MAX));
    }
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    messages.extend(rule(
        !text.is_empty() && text.bytes().all(is_part),
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
        "[-._a-zA-Z0-9]+",
        &["key.name", "KEY_NAME", "key-name"],
    ));
    messages.extend(parent_directory(text));
    messages
}

/// A name that can be part of a URL's path.
pub(crate) fn path_segment_name(text: &str) -> Messages {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    path_segment_prefix(text)
}

/// What a name that can be part of a URL's path may begin with.
pub(crate) fn path_segment_prefix(text: &str) -> Messages {
    ["/", "%"].iter().filter(|part| text.contains(**part)).map(|part| format!("may not contain '{part}'")).collect()
}

/// A whole number in its only form.
pub(crate) fn decimal_integer(text: &str) -> Messages {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.as_bytes() {
        [] if text.is_empty() => vec!["must be non-empty".to_owned()],
        [b'0'] if digits.len() == text.len() => Messages::new(),
        [b'1'..=b'9', ..] if is_number => Messages::new(),
        _ => vec!["must be a valid decimal integer in canonical form".to_owned()],
    }
}

/// A UUID in lower case (`k8s-uuid`).
pub(crate) fn uuid(text: &str) -> Messages {
    let is_right = |(position, byte): (usize, u8)| match position {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    if text.len() == 36 && text.bytes().enumerate().all(is_right) {
        return Messages::new();
    }
    vec!["must be a lowercase UUID in 8-4-4-4-12 format".to_owned()]
}

impl Errors {
    /// `Invalid value: "…"` with each of the messages.
    pub(crate) fn invalid_each(&mut self, path: &Path<'_>, text: &str, messages: Messages) {
        for message in messages {
            self.invalid(path, text, message);
        }
    }
}

impl Errors {
    /// `Invalid value: 1` with each of the messages.
    pub(crate) fn invalid_each_number(&mut self, path: &Path<'_>, number: i64, messages: Messages) {
        for message in messages {
            self.invalid(path, number, message);
        }
    }
}

/// A DNS subdomain of three or more labels.
pub(crate) fn fully_qualified_name(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if text.is_empty() {
        return errors.required(path, "");
    }
    let messages = dns_subdomain(text);
    if !messages.is_empty() {
        errors.invalid(path, text, messages.join(","));
    } else if text.split('.').count() < 3 {
        errors.invalid(path, text, "should be a domain with at least three segments separated by dots");
    }
}

/// A DNS subdomain of two or more labels that may end with a dot.
pub(crate) fn fully_qualified_domain_name(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if text.is_empty() {
        return errors.required(path, "");
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let messages = dns_subdomain(name);
    if !messages.is_empty() {
        return errors.invalid(path, name, messages.join(","));
    }
    if name.split('.').count() < 2 {
        return errors.invalid(path, name, "should be a domain with at least two segments separated by dots");
    }
    for label in name.split('.') {
        let messages = dns_label(label);
        if !messages.is_empty() {
            return errors.invalid(path, label, messages.join(","));
        }
    }
}

/// `acme.io/foo`: a domain and a path.
pub(crate) fn domain_prefixed_path(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if text.is_empty() {
        return errors.required(path, "");
    }
    let (host, rest) = text.split_once('/').unwrap_or_default();
    if host.is_empty() || rest.is_empty() {
        return errors.invalid(path, text, r#"must be a domain-prefixed path (such as "acme.io/foo")"#);
    }
    errors.invalid_each(path, host, dns_subdomain(host));
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    if !rest.bytes().all(is_part) {
        errors.invalid(path, rest, regex_message("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[]));
    }
}

/// Names that would lead out of a directory.
fn parent_directory(text: &str) -> Option<String> {
    match text {
        "." | ".." => Some(format!("must not be '{text}'")),
        _ if text.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

fn rule(holds: bool, message: &str, regex: &str, examples: &[&str]) -> Messages {
    if holds { Messages::new() } else { vec![regex_message(message, regex, examples)] }
}

fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Whether a text is not empty, of such bytes, and has such ends.
fn is_framed(bytes: &[u8], is_end: fn(u8) -> bool, is_part: fn(u8) -> bool) -> bool {
    let ends = [bytes.first(), bytes.last()];
    ends.iter().all(|end| end.is_some_and(|byte| is_end(*byte))) && bytes.iter().all(|byte| is_part(*byte))
}

fn is_label(text: &str) -> bool {
    is_framed(text.as_bytes(), is_lower_alphanumeric, |byte| is_lower_alphanumeric(byte) || byte == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_label_text(text: &str) -> bool {
    is_framed(
        text.as_bytes(),
        |byte| byte.is_ascii_alphanumeric(),
        |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'),
    )
}
