//! Prepared answers by name, and what is known of a name that has none.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Network, TTL_SECONDS};
use crate::message::{HEADER_LEN, WireName, Writer, kind};

/// Records of one name and one type, each beginning with a pointer to the question's name, which is where every answer has it.
pub(crate) struct Set {
    pub(crate) kind: u16,
    pub(crate) count: u16,
    pub(crate) bytes: Box<[u8]>,
    /// Records for the additional section, with their names written out.
    pub(crate) extra: Box<[u8]>,
    pub(crate) extra_count: u16,
    /// Where an alias leads.
    pub(crate) alias: Option<Box<WireName>>,
}

/// All records of one name; none for a parent of others.
pub(crate) type Entry = Box<[Set]>;

/// What is known of a name.
pub(crate) enum Found<'a> {
    /// It exists; the records may be of other types.
    Entry(&'a [Set]),
    /// A pod's name by address, which is its answer (`10-39-0-5.default.pod.cluster.local`).
    PodAddress(IpAddr),
    /// It does not exist, and that is ours to say. Its zone begins this many bytes into the name.
    Missing { zone_at: usize },
    /// It exists without records, in a zone that begins this many bytes into the name.
    Empty { zone_at: usize },
    /// Somebody else's.
    Outside,
}

/// All names of one generation.
pub(crate) struct Table {
    pub(super) entries: HashMap<Box<[u8]>, Entry>,
    pub(super) zone: WireName,
    /// `pod.<domain>`
    pub(super) pod_zone: WireName,
    pub(super) networks: Vec<Network>,
    pub(super) left_out: usize,
    /// Serial of the zone.
    pub(super) serial: u32,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    pub(crate) fn serial(&self) -> u32 {
        self.serial
    }

    /// What is known of a name.
    pub(crate) fn find(&self, name: &WireName) -> Found<'_> {
        if let Some(entry) = self.entries.get(name.as_bytes()) {
            return Found::Entry(entry);
        }
        if name.is_within(&self.zone) {
            let zone_at = name.as_bytes().len() - self.zone.as_bytes().len();
            return self.pod_address(name).map_or(Found::Missing { zone_at }, Found::PodAddress);
        }
        self.reverse(name).unwrap_or(Found::Outside)
    }

    /// Where the SOA of an entry's zone is: the domain's, or the name's own for those outside of it.
    pub(crate) fn zone_at(&self, name: &WireName) -> usize {
        if name.is_within(&self.zone) { name.as_bytes().len() - self.zone.as_bytes().len() } else { 0 }
    }

    /// The specification's deprecated but required record: any address, in a namespace that exists.
    fn pod_address(&self, name: &WireName) -> Option<IpAddr> {
        if !name.is_within(&self.pod_zone) {
            return None;
        }
        let label = name.labels().next()?;
        let namespace = name.as_bytes().get(1 + label.len()..)?;
        let labels_below = name.labels().count() - self.pod_zone.labels().count();
        if labels_below != 2 || !self.entries.contains_key(namespace) {
            return None;
        }
        let text = std::str::from_utf8(label).ok()?;
        match text.bytes().filter(|byte| *byte == b'-').count() {
            3 if !text.contains("--") => text.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            _ => text.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        }
    }

    /// A reverse name of one of our networks that no entry has: whole, it does not exist; a part of one exists without records.
    fn reverse(&self, name: &WireName) -> Option<Found<'static>> {
        let (labels, bits_per_label, bytes, len) = reverse_prefix(name)?;
        let bits = labels * bits_per_label;
        let network = self.networks.iter().find(|network| {
            let prefix_len = usize::from(network.prefix_len);
            octets(network.address).1 == len
                && bits >= prefix_len
                && shares(&octets(network.address).0, &bytes, prefix_len)
        })?;
        // The zone ends at a whole label, as delegations do.
        let zone_labels = usize::from(network.prefix_len).div_ceil(bits_per_label);
        let zone_at = name.labels().take(labels - zone_labels).map(|label| label.len() + 1).sum();
        Some(if bits == len * 8 { Found::Missing { zone_at } } else { Found::Empty { zone_at } })
    }
}

/// An address as bytes, and how many of them count.
fn octets(address: IpAddr) -> ([u8; 16], usize) {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            (bytes, 4)
        }
        IpAddr::V6(v6) => (v6.octets(), 16),
    }
}

/// Whether two addresses have their first bits in common.
fn shares(left: &[u8; 16], right: &[u8; 16], bits: usize) -> bool {
    (u128::from_be_bytes(*left) ^ u128::from_be_bytes(*right)).leading_zeros() as usize >= bits.min(128)
}

/// Reads `4.3.2.1.in-addr.arpa`, `…ip6.arpa`, or the end of such a name: labels, bits of each, the address, its bytes.
fn reverse_prefix(name: &WireName) -> Option<(usize, usize, [u8; 16], usize)> {
    let v4 = name.as_bytes().ends_with(b"\x07in-addr\x04arpa\0");
    if !v4 && !name.as_bytes().ends_with(b"\x03ip6\x04arpa\0") {
        return None;
    }
    let (bits_per_label, len) = if v4 { (8, 4) } else { (4, 16) };
    let labels = name.labels().count().checked_sub(2)?;
    if labels * bits_per_label > len * 8 {
        return None;
    }
    let mut bytes = [0_u8; 16];
    for (index, label) in name.labels().take(labels).enumerate() {
        let text = std::str::from_utf8(label).ok()?;
        // The last label is the first byte.
        let place = labels - 1 - index;
        if v4 {
            bytes[place] = text.parse().ok()?;
        } else {
            let nibble = u8::from_str_radix(text, 16).ok().filter(|nibble| *nibble < 16)?;
            bytes[place / 2] |= if place.is_multiple_of(2) { nibble << 4 } else { nibble };
        }
    }
    Some((labels, bits_per_label, bytes, len))
}

/// Data of an address record, behind its owner's name.
pub(crate) fn address_record(address: IpAddr, out: &mut Vec<u8>) {
    let (bytes, len) = octets(address);
    let kind = if len == 4 { kind::A } else { kind::AAAA };
    record_head(kind, u16::from(len == 16) * 12 + 4, out);
    out.extend_from_slice(&bytes[..len]);
}

/// Type, class, TTL and length of a record.
pub(crate) fn record_head(kind: u16, data_len: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out.extend_from_slice(&TTL_SECONDS.to_be_bytes());
    out.extend_from_slice(&data_len.to_be_bytes());
}

/// Pointer to the question's name.
pub(crate) const POINTER: [u8; 2] = [0xc0, HEADER_LEN as u8];

/// Writes records that begin with a pointer, from the `turn`th on and around, so that clients that take the first spread; as `owner`'s where
/// the question has another name. Returns how many were written: fewer than there are when the space is used up.
pub(crate) fn push_records(set: &Set, turn: u16, owner: Option<&[u8]>, writer: &mut Writer<'_>) -> u16 {
    // Only records of one length can be counted off; the others keep their order.
    let first = match set.kind {
        kind::A | kind::AAAA if set.count > 1 => {
            usize::from(turn % set.count) * (set.bytes.len() / usize::from(set.count))
        }
        _ => 0,
    };
    if owner.is_none() && set.bytes.len() <= writer.space() {
        let is_written = writer.push(&set.bytes[first..]) && writer.push(&set.bytes[..first]);
        debug_assert!(is_written, "the space was looked at");
        return set.count;
    }
    let mut written = 0;
    for part in [&set.bytes[first..], &set.bytes[..first]] {
        let mut rest = part;
        while let Some(length) = rest.get(10..12).map(|raw| 12 + usize::from(u16::from_be_bytes([raw[0], raw[1]]))) {
            let (record, behind) = rest.split_at(length);
            let owner = owner.unwrap_or(&POINTER);
            if writer.space() < owner.len() + length - POINTER.len() {
                return written;
            }
            let is_written = writer.push(owner) && writer.push(&record[POINTER.len()..]);
            debug_assert!(is_written, "the space was looked at");
            written += 1;
            rest = behind;
        }
    }
    written
}
