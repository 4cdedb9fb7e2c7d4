//! What rules consist of: small steps on registers, each an attribute with a name.
//!
//! A register here is an offset in bytes into the registers of the kernel's machine, which are 64 bytes in units of four. Parts
//! of a concatenation lie one after the other, each padded to four bytes, so a key is built by loading its parts at their
//! offsets.

use super::{Family, GOTO, LIST_ITEM, write_verdict};
use crate::netlink::Messages;

const FIRST_REGISTER: u32 = 8;
const VERDICT_REGISTER: u32 = 0;
const DATA_VALUE: u16 = 1;
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const ACCEPT: i32 = 1;
const DROP: i32 = 0;
const RETURN: i32 = -5;
const META_IIFNAME: u32 = 6;
/// What the kernel takes for the name of a link, its end included.
const INTERFACE_NAME_BYTES: usize = 16;
const META_OIFNAME: u32 = 7;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
/// Bits of a connection's state: established, related.
const STATE_KNOWN: u32 = 2 | 4;
const RTN_LOCAL: u32 = 2;
const NAT_DESTINATION: u32 = 1;
/// The source port of a masqueraded connection is chosen at random: two that begin at once do not take the same.
const RANDOM_FULLY: u32 = 1 << 4;
/// Any number, but always the same: a client stays with its slot over restarts.
const HASH_SEED: u32 = 0x5e1d;
const NUMGEN_RANDOM: u32 = 1;
const REJECT_ICMP: u32 = 0;
const REJECT_TCP_RESET: u32 = 1;

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// A rule that is being written.
#[derive(Debug)]
pub struct Rule<'a> {
    messages: &'a mut Messages,
    family: Family,
}

fn register(offset: u32) -> u32 {
    FIRST_REGISTER + offset / 4
}

impl<'a> Rule<'a> {
    pub(super) fn new(messages: &'a mut Messages, family: Family) -> Self {
        Self { messages, family }
    }

    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Messages)) -> &mut Self {
        self.messages.nested(LIST_ITEM, |item| {
            item.string(1, name).nested(2, fill);
        });
        self
    }

    fn payload(&mut self, base: u32, offset: u32, bytes: u32, at: u32) -> &mut Self {
        self.expression("payload", |e| {
            e.number_be(1, register(at)).number_be(2, base).number_be(3, offset).number_be(4, bytes);
        })
    }

    /// Loads an address of the packet.
    pub fn address(&mut self, end: End, at: u32) -> &mut Self {
        let offset = match (self.family, end) {
            (Family::Ip, End::Source) => 12,
            (Family::Ip, End::Destination) => 16,
            (Family::Ip6, End::Source) => 8,
            (Family::Ip6, End::Destination) => 24,
        };
        let bytes = self.family.address_bytes();
        self.payload(BASE_NETWORK, offset, bytes, at)
    }

    /// Loads the number of the transport protocol.
    pub fn protocol(&mut self, at: u32) -> &mut Self {
        self.meta(META_L4PROTO, at)
    }

    /// Loads the destination's port.
    pub fn port(&mut self, at: u32) -> &mut Self {
        self.payload(BASE_TRANSPORT, 2, 2, at)
    }

    fn meta(&mut self, key: u32, at: u32) -> &mut Self {
        self.expression("meta", |e| {
            e.number_be(2, key).number_be(1, register(at));
        })
    }

    fn compare(&mut self, at: u32, is_equal: bool, value: &[u8]) -> &mut Self {
        self.expression("cmp", |e| {
            e.number_be(1, register(at)).number_be(2, u32::from(!is_equal)).nested(3, |data| {
                data.attribute(DATA_VALUE, value);
            });
        })
    }

    fn mask(&mut self, at: u32, mask: &[u8]) -> &mut Self {
        self.expression("bitwise", |e| {
            e.number_be(1, register(at)).number_be(2, register(at)).number_be(3, mask.len() as u32);
            e.nested(4, |data| {
                data.attribute(DATA_VALUE, mask);
            });
            e.nested(5, |data| {
                data.attribute(DATA_VALUE, &vec![0; mask.len()]);
            });
        })
    }

    /// Continues if the packet came in by a link whose name begins so, or did not.
    pub fn came_by(&mut self, prefix: &str, is: bool) -> &mut Self {
        self.meta(META_IIFNAME, 0).compare(0, is, prefix.as_bytes())
    }

    /// Continues if the packet came in by the link of this name, or did not.
    pub fn came_by_link(&mut self, name: &str, is: bool) -> &mut Self {
        let mut padded = [0; INTERFACE_NAME_BYTES];
        padded.iter_mut().zip(name.as_bytes()).for_each(|(to, from)| *to = *from);
        self.meta(META_IIFNAME, 0).compare(0, is, &padded)
    }

    /// Continues if the packet leaves by a link whose name begins so, or does not.
    pub fn leaves_by(&mut self, prefix: &str, is: bool) -> &mut Self {
        self.meta(META_OIFNAME, 0).compare(0, is, prefix.as_bytes())
    }

    /// Continues if an address of the packet is in a range; both are as long as the family's addresses.
    pub fn is_in(&mut self, end: End, first: &[u8], mask: &[u8]) -> &mut Self {
        self.address(end, 0);
        if mask.iter().any(|byte| *byte != 0xff) {
            self.mask(0, mask);
        }
        self.compare(0, true, first)
    }

    /// Continues if the packet is of a protocol.
    pub fn is_protocol(&mut self, number: u8) -> &mut Self {
        self.protocol(0).compare(0, true, &[number])
    }

    /// Continues if the destination is an address of this machine.
    pub fn is_local(&mut self) -> &mut Self {
        self.fib(2, 3).compare(0, true, &RTN_LOCAL.to_ne_bytes())
    }

    /// Continues if the sender would not be reached by the link that the packet came by.
    pub fn is_spoofed(&mut self) -> &mut Self {
        self.fib(1 | 8, 1).compare(0, true, &0_u32.to_ne_bytes())
    }

    fn fib(&mut self, flags: u32, result: u32) -> &mut Self {
        self.expression("fib", |e| {
            e.number_be(1, register(0)).number_be(2, result).number_be(3, flags);
        })
    }

    /// Continues if the packet belongs to a connection that was let through.
    pub fn is_known(&mut self) -> &mut Self {
        self.expression("ct", |e| {
            e.number_be(2, CT_STATE).number_be(1, register(0));
        });
        self.mask(0, &STATE_KNOWN.to_ne_bytes()).compare(0, false, &0_u32.to_ne_bytes())
    }

    /// Continues if the key at register 0 is in a set, or is not.
    pub fn is_member(&mut self, set: &str, is: bool) -> &mut Self {
        self.expression("lookup", |e| {
            e.string(1, set).number_be(2, register(0));
            if !is {
                e.number_be(5, 1);
            }
        })
    }

    /// Does what a map says about the key at register 0.
    pub fn verdict_from(&mut self, map: &str) -> &mut Self {
        self.expression("lookup", |e| {
            e.string(1, map).number_be(2, register(0)).number_be(3, VERDICT_REGISTER);
        })
    }

    /// Replaces the key at register 0 by what a map has for it; continues if there is something.
    pub fn value_from(&mut self, map: &str) -> &mut Self {
        self.expression("lookup", |e| {
            e.string(1, map).number_be(2, register(0)).number_be(3, register(0));
        })
    }

    /// As [`Self::value_from`] for a map of this rule alone.
    pub fn value_from_anonymous(&mut self, id: u32) -> &mut Self {
        self.expression("lookup", |e| {
            e.string(1, super::ANONYMOUS).number_be(2, register(0)).number_be(3, register(0)).number_be(4, id);
        })
    }

    /// Loads a random number below `modulus`.
    pub fn random(&mut self, modulus: u32) -> &mut Self {
        self.expression("numgen", |e| {
            e.number_be(1, register(0)).number_be(2, modulus).number_be(3, NUMGEN_RANDOM).number_be(4, 0);
        })
    }

    /// Loads a number below `modulus` that is the same for one client.
    pub fn hash_of_client(&mut self, modulus: u32) -> &mut Self {
        let bytes = self.family.address_bytes();
        self.address(End::Source, 0).expression("hash", |e| {
            e.number_be(1, register(0)).number_be(2, register(0)).number_be(3, bytes).number_be(4, modulus);
            e.number_be(5, HASH_SEED).number_be(7, 0);
        })
    }

    /// Sends the connection to the address at register 0 and the port behind it.
    pub fn translate_destination(&mut self) -> &mut Self {
        let (family, port) = (self.family.number(), self.family.address_bytes());
        self.expression("nat", |e| {
            e.number_be(1, NAT_DESTINATION).number_be(2, family.into());
            e.number_be(3, register(0)).number_be(5, register(port));
        })
    }

    /// Makes the connection come from this machine.
    pub fn masquerade(&mut self) -> &mut Self {
        self.expression("masq", |e| {
            e.number_be(1, RANDOM_FULLY);
        })
    }

    /// Counts packets, for people.
    pub fn count(&mut self) -> &mut Self {
        self.expression("counter", |_| {})
    }

    fn verdict(&mut self, code: i32, chain: Option<&str>) -> &mut Self {
        self.expression("immediate", |e| {
            e.number_be(1, VERDICT_REGISTER).nested(2, |data| write_verdict(data, code, chain));
        })
    }

    /// Continues in another chain and does not come back.
    pub fn goto(&mut self, chain: &str) -> &mut Self {
        self.verdict(GOTO, Some(chain))
    }

    /// Ends the chain: the packet passes.
    pub fn accept(&mut self) -> &mut Self {
        self.verdict(ACCEPT, None)
    }

    /// Ends the packet.
    pub fn drop_packet(&mut self) -> &mut Self {
        self.verdict(DROP, None)
    }

    /// Ends the chain.
    pub fn end_chain(&mut self) -> &mut Self {
        self.verdict(RETURN, None)
    }

    /// Refuses a TCP connection as a closed port does.
    pub fn reset(&mut self) -> &mut Self {
        self.expression("reject", |e| {
            e.number_be(1, REJECT_TCP_RESET);
        })
    }

    /// Refuses a packet: port unreachable.
    pub fn reject(&mut self) -> &mut Self {
        let code = match self.family {
            Family::Ip => 3,
            Family::Ip6 => 4,
        };
        self.expression("reject", |e| {
            e.number_be(1, REJECT_ICMP).attribute(2, &[code]);
        })
    }
}
