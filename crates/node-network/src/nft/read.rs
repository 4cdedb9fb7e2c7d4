//! Reads back what the kernel has of our table.

use std::collections::BTreeMap;

use super::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, DATA_VALUE, DATA_VERDICT, ELEMENT_DATA, ELEMENT_KEY,
    ELEMENTS_LIST, ELEMENTS_SET, ELEMENTS_TABLE, Family, GETCHAIN, GETGEN, GETRULE, GETSETELEM, GETTABLE, GOTO,
    LIST_ITEM, NEWCHAIN, NEWRULE, NEWSETELEM, RULE_CHAIN, RULE_TABLE, RULE_USERDATA, TABLE_NAME, UDATA_COMMENT,
    VERDICT_CHAIN, VERDICT_CODE, Value,
};
use crate::netlink::{DUMP, Message, Messages, NetlinkError, Socket, attribute, attributes, behind, number_be, string};

const HEADER_BYTES: usize = 4;
const GENERATION_ID: u16 = 1;
const HOOK_NUMBER: u16 = 1;
const FORWARD: u32 = 2;
const POLICY_DROP: u32 = 0;
/// The family of tables for both IPv4 and IPv6.
const INET: i32 = 1;

/// The rules of a chain, as far as their comments say what they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundChain {
    /// How many there are.
    pub rules: usize,
    /// The comment of the first that has one.
    pub comment: String,
}

/// Whether the table exists.
pub fn has_table(socket: &mut Socket, family: Family, table: &str) -> Result<bool, NetlinkError> {
    let mut request = Messages::default();
    request.begin(GETTABLE, 0, &family.head(), "find the table of nftables").string(TABLE_NAME, table);
    match socket.send(request) {
        Ok(()) => Ok(true),
        Err(error) if error.is(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// How often the tables of this network namespace were changed, by anybody.
pub fn generation(socket: &mut Socket) -> Result<u32, NetlinkError> {
    let mut request = Messages::default();
    request.begin(GETGEN, 0, &[0; HEADER_BYTES], "count the changes of nftables");
    let mut generation = 0;
    socket.request(request, |message| {
        let attributes = behind(message.payload, HEADER_BYTES);
        generation = attribute(attributes, GENERATION_ID).and_then(number_be).unwrap_or(generation);
    })?;
    Ok(generation)
}

/// Every chain of a table.
pub fn chains(socket: &mut Socket, family: Family, table: &str) -> Result<BTreeMap<String, FoundChain>, NetlinkError> {
    let mut request = Messages::default();
    request.begin(GETCHAIN, DUMP, &family.head(), "list chains of nftables");
    let names = socket.dump(&request, |message| {
        let attributes = of_table(message, NEWCHAIN, CHAIN_TABLE, table)?;
        Some(string(attribute(attributes, CHAIN_NAME)?).to_owned())
    })?;
    let mut found: BTreeMap<String, FoundChain> = names.into_iter().map(|name| (name, FoundChain::default())).collect();
    let mut request = Messages::default();
    request.begin(GETRULE, DUMP, &family.head(), "list rules of nftables").string(RULE_TABLE, table);
    let rules = socket.dump(&request, |message| {
        // Old kernels list the rules of all tables.
        let attributes = of_table(message, NEWRULE, RULE_TABLE, table)?;
        let comment = attribute(attributes, RULE_USERDATA).and_then(comment).unwrap_or_default();
        Some((string(attribute(attributes, RULE_CHAIN)?).to_owned(), comment.to_owned()))
    })?;
    for (chain, comment) in rules {
        let chain = found.entry(chain).or_default();
        chain.rules += 1;
        if chain.comment.is_empty() {
            chain.comment = comment;
        }
    }
    Ok(found)
}

/// A chain of anybody through which packets of pods must pass, and which drops what it does not know: `family table chain`.
pub fn dropping_forward_chains(socket: &mut Socket) -> Result<Vec<String>, NetlinkError> {
    let mut request = Messages::default();
    request.begin(GETCHAIN, DUMP, &[0; HEADER_BYTES], "list chains of nftables");
    socket.dump(&request, |message| {
        let family = match i32::from(*message.payload.first()?) {
            libc::AF_INET => "ip",
            libc::AF_INET6 => "ip6",
            INET => "inet",
            _ => return None,
        };
        let attributes = behind(message.payload, HEADER_BYTES);
        let hook = attribute(attribute(attributes, CHAIN_HOOK)?, HOOK_NUMBER).and_then(number_be)?;
        let policy = attribute(attributes, CHAIN_POLICY).and_then(number_be)?;
        let name = |kind| attribute(attributes, kind).map(string).unwrap_or_default();
        (hook == FORWARD && policy == POLICY_DROP)
            .then(|| format!("{family} {} {}", name(CHAIN_TABLE), name(CHAIN_NAME)))
    })
}

fn of_table<'a>(message: &Message<'a>, kind: u16, key: u16, table: &str) -> Option<&'a [u8]> {
    let attributes = (message.kind == kind).then(|| behind(message.payload, HEADER_BYTES))?;
    (string(attribute(attributes, key)?) == table).then_some(attributes)
}

/// The comment in a rule's user data: kind, length, bytes, one after the other.
pub(crate) fn comment(data: &[u8]) -> Option<&str> {
    let mut rest = data;
    loop {
        let [kind, length, ..] = *rest else { return None };
        let value = rest.get(2..2 + usize::from(length))?;
        if kind == UDATA_COMMENT {
            return Some(string(value));
        }
        rest = &rest[2 + usize::from(length)..];
    }
}

/// The elements of a set. A value of a kind that is never written reads as none, and so differs from what is desired.
pub fn elements(
    socket: &mut Socket,
    family: Family,
    table: &str,
    set: &str,
) -> Result<Vec<(Vec<u8>, Value)>, NetlinkError> {
    let mut request = Messages::default();
    request.begin(GETSETELEM, DUMP, &family.head(), format!("list the elements of the set {set}"));
    request.string(ELEMENTS_TABLE, table).string(ELEMENTS_SET, set);
    let lists = socket.dump(&request, |message| {
        (message.kind == NEWSETELEM).then(|| parse_elements(behind(message.payload, HEADER_BYTES)))
    })?;
    Ok(lists.into_iter().flatten().collect())
}

/// Reads a message as each kind that is ever asked for; for fuzzing. Returns how many elements there were.
pub(crate) fn read_any(message: &Message<'_>) -> usize {
    let attributes = behind(message.payload, HEADER_BYTES);
    attribute(attributes, RULE_USERDATA).and_then(comment);
    attribute(attributes, CHAIN_NAME).map(string);
    parse_elements(attributes).len()
}

/// The elements in a message.
pub(crate) fn parse_elements(message: &[u8]) -> Vec<(Vec<u8>, Value)> {
    let list = attribute(message, ELEMENTS_LIST).unwrap_or_default();
    let items = attributes(list).filter(|(kind, _)| *kind == LIST_ITEM).filter_map(|(_, item)| {
        let key = attribute(attribute(item, ELEMENT_KEY)?, DATA_VALUE)?;
        let value = attribute(item, ELEMENT_DATA).and_then(parse_value).unwrap_or(Value::None);
        Some((key.to_vec(), value))
    });
    items.collect()
}

fn parse_value(data: &[u8]) -> Option<Value> {
    if let Some(bytes) = attribute(data, DATA_VALUE) {
        return Some(Value::Bytes(bytes.to_vec()));
    }
    let verdict = attribute(data, DATA_VERDICT)?;
    let is_goto = attribute(verdict, VERDICT_CODE).and_then(number_be) == Some(GOTO as u32);
    let chain = string(attribute(verdict, VERDICT_CHAIN)?);
    is_goto.then(|| Value::Goto(chain.to_owned()))
}
