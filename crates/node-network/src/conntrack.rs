//! Flows of UDP that the kernel still sends to an endpoint which is not one any more.
//!
//! A connection of TCP ends with its endpoint. A flow of UDP does not: as long as its client sends, the kernel repeats the
//! translation of the first packet, and the client never reaches the endpoint that took over. So when endpoints change, such
//! flows are forgotten; their next packet is translated anew.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use crate::netlink::{DUMP, Message, Messages, NetlinkError, Socket, attribute, attributes, behind, number_be};

const SUBSYSTEM: u16 = 1 << 8;
const CT_NEW: u16 = SUBSYSTEM;
const CT_GET: u16 = SUBSYSTEM | 1;
const CT_DELETE: u16 = SUBSYSTEM | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const ZONE: u16 = 18;
const NESTED: u16 = 0x8000;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUMBER: u16 = 1;
const PROTO_SOURCE_PORT: u16 = 2;
const PROTO_DESTINATION_PORT: u16 = 3;
/// The destination was translated.
const STATUS_DESTINATION: u32 = 1 << 5;
const HEADER_BYTES: usize = 4;
const UDP: u8 = 17;
/// More flows to one node's services than a gateway has; those beyond end by themselves.
const FLOWS_MAX: usize = 65_536;
/// Deletions of one call.
const DELETIONS_PER_CALL: usize = 256;

/// Where flows lead that are still right.
#[derive(Clone, Debug, Default)]
pub struct Changed {
    /// Ports of services at their addresses, each with its endpoints.
    pub services: HashMap<(IpAddr, u16), HashSet<(IpAddr, u16)>>,
    /// Ports at the node's addresses, each with its endpoints.
    pub node_ports: HashMap<u16, HashSet<(IpAddr, u16)>>,
    /// Addresses of this machine.
    pub local: HashSet<IpAddr>,
}

impl Changed {
    /// Whether no flow can be concerned.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.node_ports.is_empty()
    }

    fn is_stale(&self, flow: &Flow) -> bool {
        if let Some(endpoints) = self.services.get(&flow.destination) {
            return !endpoints.contains(&flow.answering);
        }
        let Some(endpoints) = self.node_ports.get(&flow.destination.1) else { return false };
        // A flow of this machine to another's port of that number is none of ours.
        let is_ours = flow.is_translated || self.local.contains(&flow.destination.0);
        is_ours && !endpoints.contains(&flow.answering)
    }
}

/// A flow of UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    /// Where its client sends to.
    destination: (IpAddr, u16),
    /// Who answers.
    answering: (IpAddr, u16),
    is_translated: bool,
}

/// Makes the kernel forget flows that lead to what is no endpoint any more; returns how many.
pub fn forget_stale(socket: &mut Socket, family: u8, changed: &Changed) -> Result<usize, NetlinkError> {
    if changed.is_empty() {
        return Ok(0);
    }
    let mut request = Messages::default();
    request.begin(CT_GET, DUMP, &[family, 0, 0, 0], "list connections");
    let mut stale: Vec<Vec<u8>> = Vec::new();
    // A list that changes while it is read is no harm here.
    let listed = socket.request(request, |message| {
        if stale.len() < FLOWS_MAX {
            stale.extend(parse(message).filter(|(flow, _)| changed.is_stale(flow)).map(|(_, tuple)| tuple.to_vec()));
        }
    });
    match listed {
        Err(error) if !error.is(libc::EINTR) => return Err(error),
        _ => {}
    }
    for tuples in stale.chunks(DELETIONS_PER_CALL) {
        let mut requests = Messages::default();
        for tuple in tuples {
            requests.begin(CT_DELETE, 0, &[family, 0, 0, 0], "forget a connection").tolerate(&[libc::ENOENT]);
            requests.attribute(TUPLE_ORIGINAL | NESTED, tuple);
        }
        socket.send(requests)?;
    }
    Ok(stale.len())
}

/// Reads a message as a flow; for fuzzing.
pub(crate) fn read_any(message: &Message<'_>) {
    parse(message);
}

/// A flow of UDP, and what names it to the kernel.
fn parse<'a>(message: &Message<'a>) -> Option<(Flow, &'a [u8])> {
    let attributes = (message.kind == CT_NEW).then(|| behind(message.payload, HEADER_BYTES))?;
    let original = attribute(attributes, TUPLE_ORIGINAL)?;
    let reply = attribute(attributes, TUPLE_REPLY)?;
    let protocol = attribute(attribute(original, TUPLE_PROTO)?, PROTO_NUMBER)?;
    if protocol.first() != Some(&UDP) || attribute(attributes, ZONE).is_some() {
        return None;
    }
    let status = attribute(attributes, STATUS).and_then(number_be).unwrap_or_default();
    let flow = Flow {
        destination: end(original, 2, PROTO_DESTINATION_PORT)?,
        answering: end(reply, 1, PROTO_SOURCE_PORT)?,
        is_translated: status & STATUS_DESTINATION != 0,
    };
    Some((flow, original))
}

/// One end of a tuple: of its addresses the `number`th of the family.
fn end(tuple: &[u8], number: u16, port: u16) -> Option<(IpAddr, u16)> {
    let address = attributes(attribute(tuple, TUPLE_IP)?).find_map(|(kind, value)| match kind {
        1 | 2 if kind == number => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        3 | 4 if kind == number + 2 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    });
    let port = attribute(attribute(tuple, TUPLE_PROTO)?, port)?;
    Some((address?, u16::from_be_bytes(port.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::messages;

    fn flow(destination: (&str, u16), answering: (&str, u16), is_translated: bool) -> Flow {
        let end = |(address, port): (&str, u16)| (address.parse().unwrap(), port);
        Flow { destination: end(destination), answering: end(answering), is_translated }
    }

    fn message(of: &Flow) -> Vec<u8> {
        let IpAddr::V4(to) = of.destination.0 else { panic!("IPv4") };
        let IpAddr::V4(from) = of.answering.0 else { panic!("IPv4") };
        let mut messages = Messages::default();
        messages.begin(CT_NEW, 0, &[2, 0, 0, 0], "x");
        let tuple = |messages: &mut Messages, kind, ip: (u16, &[u8]), port: (u16, u16)| {
            messages.nested(kind, |tuple| {
                tuple.nested(TUPLE_IP, |addresses| {
                    addresses.attribute(3 - ip.0, &[1, 1, 1, 1]).attribute(ip.0, ip.1);
                });
                tuple.nested(TUPLE_PROTO, |proto| {
                    proto.attribute(PROTO_NUMBER, &[UDP]).attribute(port.0, &port.1.to_be_bytes());
                });
            });
        };
        tuple(&mut messages, TUPLE_ORIGINAL, (2, &to.octets()), (PROTO_DESTINATION_PORT, of.destination.1));
        tuple(&mut messages, TUPLE_REPLY, (1, &from.octets()), (PROTO_SOURCE_PORT, of.answering.1));
        messages.number_be(STATUS, if of.is_translated { STATUS_DESTINATION } else { 0 });
        messages.into_bytes()
    }

    #[test]
    fn a_flow_is_stale_when_its_endpoint_is_none_any_more() {
        let end = |address: &str, port| (address.parse::<IpAddr>().unwrap(), port);
        let changed = Changed {
            services: [(end("10.96.0.10", 53), [end("10.39.0.7", 5353)].into())].into(),
            node_ports: [(30053, HashSet::from([end("10.39.0.7", 5353)]))].into(),
            local: [end("192.0.2.1", 0).0].into(),
        };
        let check = |of: Flow, expected: bool| {
            let bytes = message(&of);
            let (parsed, _) = parse(&messages(&bytes).next().unwrap().unwrap()).unwrap();
            assert_eq!(parsed, of);
            assert_eq!(changed.is_stale(&parsed), expected, "{of:?}");
        };
        check(flow(("10.96.0.10", 53), ("10.39.0.7", 5353), true), false);
        check(flow(("10.96.0.10", 53), ("10.39.0.8", 5353), true), true);
        check(flow(("10.96.0.10", 53), ("10.39.0.7", 5354), true), true);
        check(flow(("10.96.0.10", 54), ("10.39.0.8", 5353), true), false);
        // To a node port, translated or still to the node itself.
        check(flow(("192.0.2.1", 30053), ("10.39.0.7", 5353), true), false);
        check(flow(("192.0.2.1", 30053), ("10.39.0.8", 5353), true), true);
        check(flow(("192.0.2.1", 30053), ("192.0.2.1", 30053), false), true);
        check(flow(("203.0.113.5", 30053), ("203.0.113.5", 30053), false), false);
    }

    proptest! {
        #[test]
        fn reading_a_flow_never_panics(edits in proptest::collection::vec((0usize..120, any::<u8>()), 0..8)) {
            let mut bytes = message(&flow(("10.96.0.10", 53), ("10.39.0.7", 5353), true));
            for (at, byte) in edits {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            for message in messages(&bytes).flatten() {
                parse(&message);
            }
        }
    }
}
