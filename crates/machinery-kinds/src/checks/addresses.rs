//! IP addresses and CIDRs: as old fields take them, as new ones do, and what authors should know about theirs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::kit::{Errors, Path};

/// A block of addresses as it was written: the address need not be the first of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    pub address: IpAddr,
    pub bits: u8,
}

impl Cidr {
    /// The block with its first address, in canonical form.
    pub(crate) fn canonical(&self) -> String {
        let bits = u32::from(self.bits);
        match self.address {
            IpAddr::V4(address) => format!("{}/{bits}", masked_v4(address, bits)),
            IpAddr::V6(address) => {
                let first = masked_v6(address, bits);
                match first.to_ipv4_mapped() {
                    Some(first) => format!("{first}/{}", bits.saturating_sub(96)),
                    None => format!("{first}/{bits}"),
                }
            }
        }
    }

    fn is_first(&self) -> bool {
        match self.address {
            IpAddr::V4(address) => masked_v4(address, self.bits.into()) == address,
            IpAddr::V6(address) => masked_v6(address, self.bits.into()) == address,
        }
    }
}

fn masked_v4(address: Ipv4Addr, bits: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() & u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0))
}

fn masked_v6(address: Ipv6Addr, bits: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() & u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0))
}

/// An address as Kubernetes reads it in old fields: with zeros before its numbers, too.
pub(crate) fn parse_ip(text: &str) -> Option<IpAddr> {
    // No address is longer, zeros apart, and nobody writes that many of these.
    if text.len() > 256 {
        return None;
    }
    if !text.contains(':') {
        return parse_v4(text).map(IpAddr::V4);
    }
    let (head, tail) = text.rsplit_once(':').expect("has a colon");
    let tail = match tail.contains('.') {
        true => parse_v4(tail)?.to_string(),
        false => group(tail)?,
    };
    let groups: Option<Vec<String>> = head.split(':').map(group).collect();
    format!("{}:{tail}", groups?.join(":")).parse().ok().map(IpAddr::V6)
}

fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0_u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))?;
        let digits = part.trim_start_matches('0');
        *octet = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// A group of an IPv6 address without needless zeros; empty stays empty.
fn group(text: &str) -> Option<String> {
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let digits = text.trim_start_matches('0');
    Some(if digits.is_empty() && !text.is_empty() { "0".to_owned() } else { digits.to_owned() })
}

/// A block as Kubernetes reads it in old fields.
pub(crate) fn parse_cidr(text: &str) -> Option<Cidr> {
    let (address, bits) = text.split_once('/')?;
    let address = parse_ip(address)?;
    if bits.is_empty() || bits.len() > 32 || !bits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = bits.trim_start_matches('0');
    let bits: u8 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let bits_max = if address.is_ipv4() { 32 } else { 128 };
    (bits <= bits_max).then_some(Cidr { address, bits })
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some())
}

/// An address in canonical form; one that is IPv4 inside of IPv6 is shown as IPv4.
fn canonical_ip(address: IpAddr) -> String {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(|| v6.to_string(), |v4| v4.to_string()),
        IpAddr::V4(v4) => v4.to_string(),
    }
}

fn strict_ip(text: &str, path: &Path<'_>, errors: &mut Errors) -> Option<IpAddr> {
    let Some(address) = parse_ip(text) else {
        errors.invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        return None;
    };
    let before = errors.len();
    if text.parse::<IpAddr>().is_err() {
        errors.invalid(path, text, "must not have leading 0s");
    } else if is_mapped(address) {
        errors.invalid(path, text, "must not be an IPv4-mapped IPv6 address");
    }
    (errors.len() == before).then_some(address)
}

/// An address in a field that is older than strict rules; values that the old object has are taken as they are.
pub(crate) fn legacy_ip(text: &str, old: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if !old.contains(&text) {
        strict_ip(text, path, errors);
    }
}

/// An address in the field of a newer kind, in canonical form.
pub(crate) fn ip(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if let Some(address) = strict_ip(text, path, errors) {
        let canonical = canonical_ip(address);
        if canonical != text {
            errors.invalid(path, text, format!("must be in canonical form (\"{canonical}\")"));
        }
    }
}

fn strict_cidr(text: &str, path: &Path<'_>, errors: &mut Errors) -> Option<Cidr> {
    let Some(cidr) = parse_cidr(text) else {
        errors.invalid(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        return None;
    };
    if !is_plain_cidr(text) {
        errors.invalid(path, text, "must not have leading 0s in IP or prefix length");
    } else if is_mapped(cidr.address) {
        errors.invalid(path, text, "must not have an IPv4-mapped IPv6 address");
    } else if !cidr.is_first() {
        errors.invalid(path, text, "must not have bits set beyond the prefix length");
    } else {
        return Some(cidr);
    }
    None
}

/// Whether a block that could be read has no zeros before its numbers.
fn is_plain_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    address.parse::<IpAddr>().is_ok() && (bits == "0" || !bits.starts_with('0'))
}

/// A block in a field that is older than strict rules.
pub(crate) fn legacy_cidr(text: &str, old: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if !old.contains(&text) {
        strict_cidr(text, path, errors);
    }
}

/// A block in the field of a newer kind, in canonical form.
pub(crate) fn cidr(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if let Some(cidr) = strict_cidr(text, path, errors) {
        let canonical = cidr.canonical();
        if canonical != text {
            errors.invalid(path, text, format!("must be in canonical form (\"{canonical}\")"));
        }
    }
}

/// An address along with its block's length, `192.168.1.5/24`.
pub(crate) fn interface_address(text: &str, path: &Path<'_>, errors: &mut Errors) {
    let Some(cidr) = parse_cidr(text) else {
        errors.invalid(path, text, "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)");
        return;
    };
    let bits = if is_mapped(cidr.address) && cidr.bits > 32 { cidr.bits.saturating_sub(96) } else { cidr.bits };
    let canonical = format!("{}/{bits}", canonical_ip(cidr.address));
    if canonical != text {
        errors.invalid(path, text, format!("must be in canonical form (\"{canonical}\")"));
    }
}

/// What an author should know about an address in an old field.
pub(crate) fn ip_warning(text: &str, path: &Path<'_>) -> Option<String> {
    let address = parse_ip(text)?;
    if text.parse::<IpAddr>().is_err() || is_mapped(address) {
        return Some(format!(
            "{path}: non-standard IP address \"{text}\" is invalid: use \"{}\"",
            canonical_ip(address)
        ));
    }
    let canonical = address.to_string();
    (address.is_ipv6() && canonical != text)
        .then(|| format!("{path}: IPv6 address \"{text}\" should be in RFC 5952 canonical format (\"{canonical}\")"))
}

/// What an author should know about a block in an old field.
pub(crate) fn cidr_warnings(text: &str, path: &Path<'_>) -> Vec<String> {
    let Some(cidr) = parse_cidr(text) else { return Vec::new() };
    let canonical = cidr.canonical();
    let mut warnings = Vec::new();
    if !cidr.is_first() {
        let bits_max = if cidr.address.is_ipv4() { 32 } else { 128 };
        let single = format!("{}/{bits_max}", canonical_ip(cidr.address));
        warnings.push(format!(
            "{path}: CIDR value \"{text}\" is ambiguous in this context (should be \"{canonical}\" or \"{single}\"?)"
        ));
    }
    if !is_plain_cidr(text) || is_mapped(cidr.address) {
        warnings.push(format!("{path}: non-standard CIDR value \"{text}\" is invalid: use \"{canonical}\""));
    }
    if warnings.is_empty() && cidr.address.is_ipv6() && canonical != text {
        warnings.push(format!(
            "{path}: IPv6 CIDR value \"{text}\" should be in RFC 5952 canonical format (\"{canonical}\")"
        ));
    }
    warnings
}
