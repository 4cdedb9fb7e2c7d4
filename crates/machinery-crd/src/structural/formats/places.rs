//! Addresses of machines, people and documents.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use regex::Regex;

static LETTER_OR_SYMBOL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^[\p{L}\p{S}]$").expect("the pattern is constant"));

static LETTER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\p{L}$").expect("the pattern is constant"));

/// One label with at most one hyphen, behind its first character; or several labels, the last of letters alone.
pub(super) fn is_hostname(text: &str) -> bool {
    if text.len() > 255 || text.split('.').any(|label| label.len() > 63) {
        return false;
    }
    let Some((labels, last)) = text.rsplit_once('.') else {
        let mut chars = text.chars();
        let begins_well = chars.next().is_some_and(is_word);
        let tail = chars.as_str();
        return begins_well && tail.strip_prefix('-').unwrap_or(tail).chars().all(is_word);
    };
    let is_label = |label: &str| {
        label.chars().next().is_some_and(is_word)
            && label.chars().next_back().is_some_and(is_word)
            && label.chars().all(|char| char == '-' || is_word(char))
    };
    labels.split('.').all(is_label) && last.chars().count() >= 2 && last.chars().all(is_letter)
}

fn is_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || "$+<=>^`|~".contains(char) || (!char.is_ascii() && matches(&LETTER_OR_SYMBOL, char))
}

fn is_letter(char: char) -> bool {
    char.is_ascii_alphabetic() || (!char.is_ascii() && matches(&LETTER, char))
}

fn matches(class: &Regex, char: char) -> bool {
    class.is_match(char.encode_utf8(&mut [0; 4]))
}

/// An address in its usual form; no zone, no leading zeros.
pub(super) fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

/// The same, with leading zeros, as old versions took them.
pub(super) fn parse_ip_sloppy(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let mut octets = [0_u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        *octet = is_number.then(|| part.parse().ok()).flatten()?;
    }
    parts.next().is_none().then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

pub(super) fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let bits_max = match parse_ip_sloppy(address) {
        Some(IpAddr::V4(_)) => 32,
        Some(IpAddr::V6(_)) => 128,
        None => return false,
    };
    is_number && length.parse::<u32>().is_ok_and(|bits| bits <= bits_max)
}

/// EUI-48, EUI-64 or an InfiniBand address, in pairs of digits or in fours with dots.
pub(super) fn is_mac(text: &str) -> bool {
    let group = |separator: char, digits: usize, counts: [usize; 3]| {
        let parts: Vec<&str> = text.split(separator).collect();
        counts.contains(&parts.len())
            && parts.iter().all(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    group(':', 2, [6, 8, 20]) || group('-', 2, [6, 8, 20]) || group('.', 4, [3, 4, 10])
}

/// An address as in a header of a mail: `a@b.example` or `Name <a@b.example>`.
pub(super) fn is_email(text: &str) -> bool {
    let trimmed = text.trim_matches([' ', '\t']);
    let address = match trimmed.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
        Some((name, address)) => {
            let name = name.trim_matches([' ', '\t']);
            let is_quoted = name.len() >= 2 && name.starts_with('"') && name.ends_with('"');
            let is_phrase = name.split([' ', '\t']).filter(|word| !word.is_empty()).all(is_dot_atom);
            if !is_quoted && !is_phrase {
                return false;
            }
            address
        }
        None => trimmed,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let is_quoted =
        local.len() >= 2 && local.starts_with('"') && local.ends_with('"') && !local[1..local.len() - 1].contains('"');
    let is_literal = domain
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|address| parse_ip(address.strip_prefix("IPv6:").unwrap_or(address)).is_some());
    (is_quoted || is_dot_atom(local)) && (is_literal || is_dot_atom(domain))
}

/// Words of a mail's header, with single dots between them.
fn is_dot_atom(text: &str) -> bool {
    let is_atom = |char: char| char.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(char) || !char.is_ascii();
    text.split('.').all(|word| !word.is_empty() && word.chars().all(is_atom))
}

/// What is in a request line: an absolute URI or an absolute path.
pub(super) fn is_request_uri(text: &str) -> bool {
    crate::go_url::Url::parse_request(text).is_ok()
}
