//! The answers of this node: from the table, onto the wire.
//!
//! The hot path is an absence: with `ndots:5` a client asks for three names below the cluster domain before the one outside that it means.
//! So a negative answer is written in place, SOA and all, and nothing here allocates but for an alias.

use crate::message::{
    AA, CD, HEADER_LEN, OPT_LEN, PAYLOAD_EDNS, PAYLOAD_PLAIN, QR, Query, RA, RD, TC, WireName, Writer, kind, opt, rcode,
};
use crate::names::{Found, Set, TTL_SECONDS, Table, push_records, soa_numbers};

/// Aliases that lead to aliases: more is a loop.
const ALIASES_MAX: usize = 8;

/// What the table says to a query.
pub(crate) enum Local {
    /// The answer has this length.
    Written(usize),
    /// An alias whose target is not here: an upstream is asked for it.
    Alias {
        /// The name to ask for.
        target: Box<WireName>,
        /// Records that the answer begins with, and how many they are.
        records: Vec<u8>,
        /// How many.
        count: u16,
    },
    /// Not ours.
    Forward,
}

/// Bytes that an answer to this query may have over UDP.
pub(crate) fn udp_limit(query: &Query<'_>) -> usize {
    usize::from(query.edns.map_or(PAYLOAD_PLAIN, |edns| edns.payload.min(PAYLOAD_EDNS)))
}

/// The header of an answer as `query` begins it, and its question.
pub(crate) fn begin(id: u16, flags: [u8; 2], question: &[u8], writer: &mut Writer<'_>) -> bool {
    let mut header = [0; HEADER_LEN];
    header[..2].copy_from_slice(&id.to_be_bytes());
    header[2] = QR | (flags[0] & RD);
    header[3] = RA | (flags[1] & CD);
    header[5] = 1;
    writer.push(&header) && writer.push(question)
}

/// Counts of answer, authority and additional records, and the OPT where the query had one; its space was reserved.
pub(crate) fn finish(counts: [u16; 3], is_dnssec_ok: Option<bool>, out: &mut [u8], mut len: usize) -> usize {
    let mut counts = counts;
    if let Some(is_dnssec_ok) = is_dnssec_ok
        && let Some(space) = out.get_mut(len..len + OPT_LEN)
    {
        space.copy_from_slice(&opt(is_dnssec_ok, 0));
        len += OPT_LEN;
        counts[2] += 1;
    }
    for (space, count) in out[6..HEADER_LEN].chunks_exact_mut(2).zip(counts) {
        space.copy_from_slice(&count.to_be_bytes());
    }
    len
}

/// Answers from the table. `out` is as long as the answer may be; an answer that does not fit is truncated.
pub(crate) fn answer(table: &Table, query: &Query<'_>, out: &mut [u8]) -> Local {
    let opt_len = if query.edns.is_some() { OPT_LEN } else { 0 };
    let records_end = out.len().saturating_sub(opt_len);
    let found = table.find(query.name);
    let mut writer = Writer::new(&mut out[..records_end]);
    if matches!(found, Found::Outside) || !begin(query.id, query.flags, query.question, &mut writer) {
        return Local::Forward;
    }
    writer.written()[2] |= AA;
    let counts = match found {
        Found::Entry(sets) => {
            if let Some(alias) = sets.iter().find(|set| set.alias.is_some()) {
                match follow(table, query, alias, &mut writer) {
                    Ok(counts) => counts,
                    Err(outside) => return outside,
                }
            } else {
                match sets.iter().find(|set| set.kind == query.kind || query.kind == kind::ANY) {
                    Some(set) => positive(set, query.id, &mut writer),
                    None => negative(table, query, table.zone_at(query.name), rcode::NOERROR, &mut writer),
                }
            }
        }
        Found::PodAddress(address) => {
            if (query.kind == kind::A && address.is_ipv4()) || (query.kind == kind::AAAA && address.is_ipv6()) {
                pod_address(address, &mut writer)
            } else {
                negative(table, query, table.zone_at(query.name), rcode::NOERROR, &mut writer)
            }
        }
        Found::Missing { zone_at } => negative(table, query, zone_at, rcode::NXDOMAIN, &mut writer),
        Found::Empty { zone_at } => negative(table, query, zone_at, rcode::NOERROR, &mut writer),
        Found::Outside => return Local::Forward,
    };
    let len = writer.len();
    Local::Written(finish(counts, query.edns.map(|edns| edns.is_dnssec_ok), out, len))
}

fn positive(set: &Set, turn: u16, writer: &mut Writer<'_>) -> [u16; 3] {
    let written = push_records(set, turn, None, writer);
    if written < set.count {
        writer.written()[2] |= TC;
        return [written, 0, 0];
    }
    // What is beside the answer is left out as a whole where it does not fit; that needs no second question by TCP.
    let extra = if writer.push(&set.extra) { set.extra_count } else { 0 };
    [written, 0, extra]
}

fn pod_address(address: std::net::IpAddr, writer: &mut Writer<'_>) -> [u16; 3] {
    let mut record = Vec::from(crate::names::POINTER);
    crate::names::address_record(address, &mut record);
    if writer.push(&record) {
        return [1, 0, 0];
    }
    writer.written()[2] |= TC;
    [0; 3]
}

/// An absence with the SOA that says how long it may be remembered (RFC 2308). The names in it point into the question.
fn negative(table: &Table, query: &Query<'_>, zone_at: usize, rcode: u8, writer: &mut Writer<'_>) -> [u16; 3] {
    debug_assert!(zone_at < query.name.as_bytes().len(), "a zone is a suffix of the name");
    writer.written()[3] |= rcode;
    let offset = HEADER_LEN + zone_at;
    let pointer = [0xc0 | (offset >> 8) as u8, (offset & 0xff) as u8];
    let mut soa = [0_u8; 12 + 9 + 13 + 20];
    soa[..2].copy_from_slice(&pointer);
    soa[2..6].copy_from_slice(&[0, 6, 0, 1]);
    soa[6..10].copy_from_slice(&TTL_SECONDS.to_be_bytes());
    soa[11] = 9 + 13 + 20;
    soa[12..19].copy_from_slice(b"\x02ns\x03dns");
    soa[19..21].copy_from_slice(&pointer);
    soa[21..32].copy_from_slice(b"\x0ahostmaster");
    soa[32..34].copy_from_slice(&pointer);
    soa[34..].copy_from_slice(&soa_numbers(table.serial()));
    if writer.push(&soa) { [0, 1, 0] } else { [0; 3] }
}

/// An ExternalName: the alias, and what its target has where that is ours as well.
fn follow(table: &Table, query: &Query<'_>, first: &Set, writer: &mut Writer<'_>) -> Result<[u16; 3], Local> {
    let mut records = first.bytes.to_vec();
    let mut count = first.count;
    let mut alias = first.alias.clone();
    // Other types are of no use at the other end, where they would be asked for by the name itself.
    let is_followed = query.kind == kind::A || query.kind == kind::AAAA;
    let mut last: Option<(Box<WireName>, &Set)> = None;
    let mut rcode = rcode::NOERROR;
    while let Some(target) = alias.take().filter(|_| is_followed) {
        match table.find(&target) {
            Found::Outside => return Err(Local::Alias { target, records, count }),
            Found::Missing { .. } => rcode = rcode::NXDOMAIN,
            Found::Entry(sets) => {
                if let Some(next) = sets.iter().find(|set| set.alias.is_some()) {
                    if usize::from(count) == ALIASES_MAX {
                        rcode = rcode::SERVFAIL;
                        break;
                    }
                    records.extend_from_slice(target.as_bytes());
                    records.extend_from_slice(&next.bytes[2..]);
                    count += 1;
                    alias.clone_from(&next.alias);
                } else {
                    last = sets.iter().find(|set| set.kind == query.kind).map(|set| (target, set));
                }
            }
            Found::PodAddress(_) | Found::Empty { .. } => {}
        }
    }
    writer.written()[3] |= rcode;
    if !writer.push(&records) {
        writer.written()[2] |= TC;
        return Ok([0; 3]);
    }
    if let Some((owner, set)) = last {
        let written = push_records(set, query.id, Some(owner.as_bytes()), writer);
        if written < set.count {
            writer.written()[2] |= TC;
        }
        count += written;
    }
    Ok([count, 0, 0])
}
