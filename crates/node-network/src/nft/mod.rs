//! nftables without a library: a batch of changes that the kernel makes all at once, or none of them.
//!
//! [`Batch`] writes tables, chains, sets, elements and rules; [`expr`] what a rule consists of; [`read`] reads back what the
//! kernel has. Numbers are those of `linux/netfilter/nf_tables.h`.
//!
//! Stock `nft` must be able to list whatever is written: whoever looks for an error on a node has no other view. Version 1.0.6
//! ends with an assertion when a part of a concatenation has a type without a length (integer) or comes from `numgen`, so
//! neither is used; and keys in the order of this machine say so in the set's user data.

pub mod expr;
pub mod read;
#[cfg(test)]
mod tests;

use expr::Rule;

use crate::netlink::{APPEND, BATCH_BEGIN, BATCH_END, CREATE, Messages};

const SUBSYSTEM: u16 = 10 << 8;
const MSG_BATCH_BEGIN: u16 = 16;
const MSG_BATCH_END: u16 = 17;
const NEWTABLE: u16 = SUBSYSTEM;
const GETTABLE: u16 = SUBSYSTEM | 1;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const GETCHAIN: u16 = SUBSYSTEM | 4;
const DELCHAIN: u16 = SUBSYSTEM | 5;
const NEWRULE: u16 = SUBSYSTEM | 6;
const GETRULE: u16 = SUBSYSTEM | 7;
const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const GETSETELEM: u16 = SUBSYSTEM | 13;
const DELSETELEM: u16 = SUBSYSTEM | 14;
const GETGEN: u16 = SUBSYSTEM | 16;

const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS_LIST: u16 = 3;
const ELEMENTS_SET_ID: u16 = 4;
const LIST_ITEM: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
/// In a rule's user data: a comment, which `nft` shows.
const UDATA_COMMENT: u8 = 0;
/// In a set's: the order of bytes of keys, and the number for that of this machine.
const UDATA_KEY_BYTE_ORDER: u8 = 0;
const HOST_ORDER: u32 = 1;

/// Elements of one message: an attribute that holds them has 16 bits of length.
const ELEMENTS_BYTES_MAX: usize = 60_000;
/// The length of a comment has eight bits.
const COMMENT_BYTES_MAX: usize = 250;

/// A family of addresses, each with a table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Family {
    /// The kernel's number.
    pub fn number(self) -> u8 {
        match self {
            Self::Ip => libc::AF_INET as u8,
            Self::Ip6 => libc::AF_INET6 as u8,
        }
    }

    /// Bytes of an address.
    pub fn address_bytes(self) -> u32 {
        match self {
            Self::Ip => 4,
            Self::Ip6 => 16,
        }
    }

    /// Whether an address is of this family.
    pub fn has(self, address: &std::net::IpAddr) -> bool {
        address.is_ipv4() == (self == Self::Ip)
    }

    fn address_type(self) -> Type {
        match self {
            Self::Ip => Type::Ipv4,
            Self::Ip6 => Type::Ipv6,
        }
    }

    fn head(self) -> [u8; 4] {
        [self.number(), 0, 0, 0]
    }
}

/// Types of values, by the numbers under which `nft` knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Integer = 4,
    Ipv4 = 7,
    Ipv6 = 8,
    Protocol = 12,
    Port = 13,
}

/// The type of a verdict is not of that list.
const TYPE_VERDICT: u32 = 0xffff_ff00;

/// What keys and values of sets consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// An address of the table's family.
    Address,
    /// TCP, UDP, SCTP.
    Protocol,
    /// A port.
    Port,
    /// A number in this machine's order: only alone.
    Index,
}

impl Field {
    fn kind(self, family: Family) -> Type {
        match self {
            Self::Address => family.address_type(),
            Self::Protocol => Type::Protocol,
            Self::Port => Type::Port,
            Self::Index => Type::Integer,
        }
    }

    /// Bytes that it takes in a concatenation.
    fn bytes(self, family: Family) -> u32 {
        match self {
            Self::Address => family.address_bytes(),
            _ => 4,
        }
    }
}

/// Type and length of a concatenation; each further part shifts the number by six bits.
fn concatenated(fields: &[Field], family: Family) -> (u32, u32) {
    fields
        .iter()
        .fold((0, 0), |(kind, bytes), field| (kind << 6 | field.kind(family) as u32, bytes + field.bytes(family)))
}

/// What a set maps its keys to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maps {
    /// Nothing: it is a set.
    Nothing,
    /// What to do with the packet.
    Verdict,
    /// Values.
    To(&'static [Field]),
}

/// The value of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// None: of a set.
    None,
    /// Continue in a chain and do not come back.
    Goto(String),
    /// Bytes, padded as in a key.
    Bytes(Vec<u8>),
}

/// Where in the kernel a chain is called.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// What kind of chain: `filter` or `nat`.
    pub kind: &'static str,
    /// The hook's number.
    pub number: u32,
    /// Lower is earlier.
    pub priority: i32,
}

const POLICY_ACCEPT: u32 = 1;
const SET_ANONYMOUS: u32 = 1;
const SET_CONSTANT: u32 = 2;
const SET_MAP: u32 = 8;
pub(crate) const GOTO: i32 = -4;

/// The name of every set that only one rule uses; the kernel numbers them.
const ANONYMOUS: &str = "__map%d";

/// Changes of one table.
#[derive(Debug)]
pub struct Batch {
    messages: Messages,
    family: Family,
    table: &'static str,
    sets: u32,
}

impl Batch {
    /// Begins a batch.
    pub fn new(family: Family, table: &'static str) -> Self {
        let mut messages = Messages::default();
        messages.begin(MSG_BATCH_BEGIN, 0, &[0, 0, 0, 10], BATCH_BEGIN);
        Self { messages, family, table, sets: 0 }
    }

    /// The family of its table.
    pub fn family(&self) -> Family {
        self.family
    }

    fn begin(&mut self, kind: u16, flags: u16, act: impl Into<String>) -> &mut Messages {
        // The attribute for the table has the same number in all messages.
        self.messages.begin(kind, flags, &self.family.head(), act).string(TABLE_NAME, self.table)
    }

    /// Creates the table unless it exists.
    pub fn add_table(&mut self) {
        self.begin(NEWTABLE, CREATE, "create the table of nftables");
    }

    /// Deletes the table with all that is in it.
    pub fn delete_table(&mut self) {
        self.begin(DELTABLE, 0, "delete the table of nftables");
    }

    /// Creates a chain that others lead to.
    pub fn add_chain(&mut self, name: &str) {
        self.begin(NEWCHAIN, CREATE, format!("create the chain {name}")).string(CHAIN_NAME, name);
    }

    /// Creates a chain that the kernel calls.
    pub fn add_hooked_chain(&mut self, name: &str, hook: Hook) {
        let messages = self.begin(NEWCHAIN, CREATE, format!("create the chain {name}"));
        messages.string(CHAIN_NAME, name).nested(CHAIN_HOOK, |nested| {
            nested.number_be(1, hook.number).number_be(2, hook.priority as u32);
        });
        messages.number_be(CHAIN_POLICY, POLICY_ACCEPT).string(CHAIN_TYPE, hook.kind);
    }

    /// Deletes the rules of a chain.
    pub fn flush_chain(&mut self, name: &str) {
        self.begin(DELRULE, 0, format!("empty the chain {name}")).string(RULE_CHAIN, name);
    }

    /// Deletes a chain with its rules.
    pub fn delete_chain(&mut self, name: &str) {
        self.begin(DELCHAIN, 0, format!("delete the chain {name}")).string(CHAIN_NAME, name);
    }

    /// Appends a rule; a comment may be empty.
    pub fn add_rule(&mut self, chain: &str, comment: &str, write: impl FnOnce(&mut Rule<'_>)) {
        let family = self.family;
        let messages = self.begin(NEWRULE, CREATE | APPEND, format!("add a rule to the chain {chain}"));
        messages.string(RULE_CHAIN, chain);
        messages.nested(RULE_EXPRESSIONS, |expressions| write(&mut Rule::new(expressions, family)));
        if !comment.is_empty() {
            let comment = &comment[..comment.floor_char_boundary(COMMENT_BYTES_MAX)];
            let mut data = vec![UDATA_COMMENT, comment.len() as u8 + 1];
            data.extend(comment.as_bytes());
            data.push(0);
            messages.attribute(RULE_USERDATA, &data);
        }
    }

    /// Creates a set or a map.
    pub fn add_set(&mut self, name: &str, key: &[Field], maps: Maps) {
        self.write_set(name, key, maps, 0);
    }

    /// Creates a map that one rule uses, and returns its number for that rule.
    pub fn add_anonymous_map(&mut self, key: &[Field], to: &'static [Field], elements: &[(Vec<u8>, Value)]) -> u32 {
        let id = self.write_set(ANONYMOUS, key, Maps::To(to), SET_ANONYMOUS | SET_CONSTANT);
        self.write_elements(
            NEWSETELEM,
            CREATE,
            ANONYMOUS,
            Some(id),
            elements.iter().map(|(key, value)| (&**key, value)),
        );
        id
    }

    fn write_set(&mut self, name: &str, key: &[Field], maps: Maps, flags: u32) -> u32 {
        self.sets += 1;
        let (id, family) = (self.sets, self.family);
        let (kind, bytes) = concatenated(key, family);
        let is_map = maps != Maps::Nothing;
        let messages = self.begin(NEWSET, CREATE, format!("create the set {name}"));
        messages.string(SET_NAME, name).number_be(SET_FLAGS, flags | if is_map { SET_MAP } else { 0 });
        messages.number_be(SET_KEY_TYPE, kind).number_be(SET_KEY_LEN, bytes);
        match maps {
            Maps::Nothing => {}
            Maps::Verdict => {
                messages.number_be(SET_DATA_TYPE, TYPE_VERDICT);
            }
            Maps::To(fields) => {
                let (kind, bytes) = concatenated(fields, family);
                messages.number_be(SET_DATA_TYPE, kind).number_be(SET_DATA_LEN, bytes);
            }
        }
        messages.number_be(SET_ID, id);
        if key == [Field::Index] {
            let mut data = vec![UDATA_KEY_BYTE_ORDER, 4];
            data.extend(HOST_ORDER.to_ne_bytes());
            messages.attribute(SET_USERDATA, &data);
        }
        id
    }

    /// Adds elements; one that exists with the same value is fine.
    pub fn add_elements<'a>(&mut self, set: &str, elements: impl IntoIterator<Item = (&'a [u8], &'a Value)>) {
        self.write_elements(NEWSETELEM, CREATE, set, None, elements);
    }

    /// Deletes elements, which must exist.
    pub fn delete_elements<'a>(&mut self, set: &str, keys: impl IntoIterator<Item = &'a [u8]>) {
        let elements = keys.into_iter().map(|key| (key, &Value::None));
        self.write_elements(DELSETELEM, 0, set, None, elements);
    }

    /// As many messages as it takes.
    fn write_elements<'a>(
        &mut self,
        kind: u16,
        flags: u16,
        set: &str,
        id: Option<u32>,
        elements: impl IntoIterator<Item = (&'a [u8], &'a Value)>,
    ) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            let messages = self.begin(kind, flags, format!("change elements of the set {set}"));
            messages.string(ELEMENTS_SET, set);
            if let Some(id) = id {
                messages.number_be(ELEMENTS_SET_ID, id);
            }
            messages.nested(ELEMENTS_LIST, |list| {
                let start = list.len();
                while list.len() - start < ELEMENTS_BYTES_MAX {
                    let Some((key, value)) = elements.next() else { break };
                    write_element(list, key, value);
                }
            });
        }
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.messages.len() <= 20
    }

    /// The messages, to be sent in one call.
    pub fn finish(mut self) -> Messages {
        self.messages.begin(MSG_BATCH_END, 0, &[0, 0, 0, 10], BATCH_END);
        self.messages
    }
}

fn write_element(list: &mut Messages, key: &[u8], value: &Value) {
    list.nested(LIST_ITEM, |item| {
        item.nested(ELEMENT_KEY, |data| {
            data.attribute(DATA_VALUE, key);
        });
        match value {
            Value::None => {}
            Value::Bytes(bytes) => {
                item.nested(ELEMENT_DATA, |data| {
                    data.attribute(DATA_VALUE, bytes);
                });
            }
            Value::Goto(chain) => {
                item.nested(ELEMENT_DATA, |data| write_verdict(data, GOTO, Some(chain)));
            }
        }
    });
}

fn write_verdict(data: &mut Messages, code: i32, chain: Option<&str>) {
    data.nested(DATA_VERDICT, |verdict| {
        verdict.number_be(VERDICT_CODE, code as u32);
        if let Some(chain) = chain {
            verdict.string(VERDICT_CHAIN, chain);
        }
    });
}
