//! URLs, addresses and networks.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::Val;
use crate::{
    cel::eval::{EvalError, Result},
    go::quoted,
    go_url::Url,
};

pub(super) fn url<'v>(name: &str, text: &str) -> Result<'v> {
    let checked = Url::parse_request(text).and_then(|_| Url::parse(text));
    match (name, checked) {
        ("isURL", checked) => Ok(Val::Bool(checked.is_ok())),
        (_, Ok(url)) => Ok(Val::Url(Arc::new(url))),
        (_, Err(error)) => Err(EvalError::new(format!("URL parse error during conversion from string: {error}"))),
    }
}

pub(super) fn url_part<'v>(name: &str, url: &Url) -> Val<'v> {
    match name {
        "getScheme" => Val::text(&url.scheme),
        "getHost" => Val::text(&url.host),
        "getHostname" => Val::text(url.hostname()),
        "getPort" => Val::text(url.port()),
        "getEscapedPath" => Val::text(url.escaped_path()),
        _ => super::map_of(url.query_values().into_iter()),
    }
}

/// An address as Go's `netip` reads it, without what Kubernetes does not allow.
fn parse_ip(text: &str) -> std::result::Result<IpAddr, String> {
    let failed = |why: &str| {
        format!(
            "IP Address {} parse error during conversion from string: ParseAddr({}): {why}",
            quoted(text),
            quoted(text)
        )
    };
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    if text.contains(':') {
        let Ok(parsed) = address.parse::<Ipv6Addr>() else { return Err(failed("unable to parse IP")) };
        if zone.is_some() {
            return Err(format!("IP address {} with zone value is not allowed", quoted(text)));
        }
        if parsed.to_ipv4_mapped().is_some() {
            return Err(format!("IPv4-mapped IPv6 address {} is not allowed", quoted(text)));
        }
        return Ok(IpAddr::V6(parsed));
    }
    if !text.contains('.') {
        return Err(failed("unable to parse IP"));
    }
    let mut octets = Vec::new();
    for part in text.split('.') {
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(failed(if part.is_empty() {
                "IPv4 field must have at least one digit"
            } else {
                "unexpected character"
            }));
        }
        if part.len() > 1 && part.starts_with('0') {
            return Err(failed("IPv4 field has octet with leading zero"));
        }
        match part.parse::<u8>() {
            Ok(octet) => octets.push(octet),
            Err(_) => return Err(failed("IPv4 field has value >255")),
        }
    }
    match <[u8; 4]>::try_from(octets.as_slice()) {
        Ok(octets) => Ok(IpAddr::V4(Ipv4Addr::from(octets))),
        Err(_) if octets.len() > 4 => Err(failed("IPv4 address too long")),
        Err(_) => Err(failed("IPv4 address too short")),
    }
}

fn parse_cidr(text: &str) -> std::result::Result<(IpAddr, u8), String> {
    let failed = |why: &str| {
        let prefix = "network address parse error during conversion from string: ";
        format!("{prefix}{prefix}netip.ParsePrefix({}): {why}", quoted(text))
    };
    let Some((address, bits)) = text.rsplit_once('/') else { return Err(failed("no '/'")) };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(failed(&format!("ParseAddr({}): unable to parse IP", quoted(address))));
    };
    if let IpAddr::V6(address) = address
        && address.to_ipv4_mapped().is_some()
    {
        return Err(format!("IPv4-mapped IPv6 address {} is not allowed", quoted(&address.to_string())));
    }
    let is_number = !bits.is_empty()
        && bits.bytes().all(|byte| byte.is_ascii_digit())
        && (bits.len() == 1 || !bits.starts_with('0'));
    if !is_number {
        return Err(failed(&format!("bad bits after slash: {}", quoted(bits))));
    }
    let bits_max = if address.is_ipv4() { 32 } else { 128 };
    match bits.parse::<u8>() {
        Ok(bits) if bits <= bits_max => Ok((address, bits)),
        _ => Err(failed("prefix length out of range")),
    }
}

pub(super) fn parse<'v>(name: &str, text: &str) -> Result<'v> {
    match name {
        "isIP" => Ok(Val::Bool(parse_ip(text).is_ok())),
        "isCIDR" => Ok(Val::Bool(parse_cidr(text).is_ok())),
        "ip.isCanonical" => {
            parse_ip(text).map(|address| Val::Bool(address.to_string() == text)).map_err(EvalError::new)
        }
        "cidr" => parse_cidr(text).map(|(address, bits)| Val::Cidr(address, bits)).map_err(EvalError::new),
        _ => parse_ip(text).map(Val::Ip).map_err(EvalError::new),
    }
}

pub(super) fn call<'v>(name: &str, values: &[Val<'v>]) -> Result<'v> {
    match (name, values) {
        ("string", [Val::Ip(address)]) => Ok(Val::text(address.to_string())),
        ("string", [Val::Cidr(address, bits)]) => Ok(Val::text(format!("{address}/{bits}"))),
        ("family", [Val::Ip(address)]) => Ok(Val::Int(if address.is_ipv4() { 4 } else { 6 })),
        ("isUnspecified", [Val::Ip(address)]) => Ok(Val::Bool(address.is_unspecified())),
        ("isLoopback", [Val::Ip(address)]) => Ok(Val::Bool(address.is_loopback())),
        ("isLinkLocalMulticast", [Val::Ip(address)]) => Ok(Val::Bool(match address {
            IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
            IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
        })),
        ("isLinkLocalUnicast", [Val::Ip(address)]) => Ok(Val::Bool(is_link_local(address))),
        ("isGlobalUnicast", [Val::Ip(address)]) => {
            let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
            let is_other =
                address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_link_local(address);
            Ok(Val::Bool(!is_broadcast && !is_other))
        }
        ("ip", [Val::Cidr(address, _)]) => Ok(Val::Ip(*address)),
        ("prefixLength", [Val::Cidr(_, bits)]) => Ok(Val::Int((*bits).into())),
        ("masked", [Val::Cidr(address, bits)]) => Ok(Val::Cidr(masked(*address, *bits), *bits)),
        ("containsIP", [Val::Cidr(address, bits), other]) => {
            let other = match other {
                Val::Ip(other) => *other,
                // Upstream loses why a text is no address, though not why one is no block of them.
                Val::Text(text) => parse_ip(text).map_err(|_| EvalError::no_overload())?,
                _ => return Err(EvalError::no_overload()),
            };
            Ok(Val::Bool(contains(*address, *bits, other)))
        }
        ("containsCIDR", [Val::Cidr(address, bits), other]) => {
            let (other, other_bits) = match other {
                Val::Cidr(other, other_bits) => (*other, *other_bits),
                Val::Text(text) => parse_cidr(text).map_err(EvalError::new)?,
                _ => return Err(EvalError::no_overload()),
            };
            Ok(Val::Bool(contains(*address, *bits, masked(other, other_bits)) && bits <= &other_bits))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(address) & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(address) & mask))
        }
    }
}

fn contains(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    network.is_ipv4() == address.is_ipv4() && masked(network, bits) == masked(address, bits)
}
