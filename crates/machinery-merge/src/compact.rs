//! The owners of an object in few bytes: what a store keeps beside it.
//!
//! `managedFields` of a pod is as large as the pod, and nobody but its writers reads it. Here it is a seventh: names of fields
//! are numbers, a name that is not known in advance is written once, and the trie is written as it is walked.
//!
//! # Format, version 1
//!
//! ```text
//! blob    = 0x01 count entry*                     count, and all numbers: 7 bits a byte, the lowest first
//! entry   = flags manager version [time] [subresource] set
//! flags   = 1: it applies | 2: a time in seconds follows | 4: a time as text follows | 8: a subresource follows
//! text    = 0 length byte*                        new: from now on it has the next number
//!         | n                                     the n-th text: first those of `names-v1.txt`, then the new ones
//! set     = count node*
//! node    = (text << 2 | 0)                       a field, which is a member
//!         | (text << 2 | 1) set                   a field, of which something below is a member
//!         | (text << 2 | 2) set                   a field, which is a member as well as something below
//!         | (kind << 4 | below << 3 | member << 2 | 3) what [set]       kind 0: keys, 1: value, 2: index, 3: a long name
//! value   = (text << 2 | 0) | (number << 2 | 1) | (truth << 2 | 2) | 3 text-of-JSON
//! ```
//!
//! A text within a node is its number shifted; a new text cannot be written so, and goes as a long name (kind 3).
//!
//! `names-v1.txt` is part of the format: it never changes, not even in order. A better list is a version 2, and both are
//! read. Whatever is not understood is refused as a whole: an object without owners is one that the next apply takes over.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use serde_json::Value;

use crate::apply::{Managed, ManagerId, Operation, VersionedSet};
use crate::fields::{FieldSet, KeyField, Node, PathElement, write_element};
use crate::{DEPTH_MAX, go};

mod alike;

pub use alike::AlikeToJson;

const VERSION: u8 = 1;

const APPLIES: u64 = 1;
const TIME_SECONDS: u64 = 2;
const TIME_TEXT: u64 = 4;
const SUBRESOURCE: u64 = 8;

const KIND_KEYS: u64 = 0;
const KIND_VALUE: u64 = 1;
const KIND_INDEX: u64 = 2;
const KIND_NAME: u64 = 3;

/// The last second of the year 9999: what is written fits four digits.
const SECONDS_MAX: u64 = 253_402_300_799;

/// Names by their number, which begins at 1.
static NAMES: LazyLock<Vec<&str>> = LazyLock::new(|| include_str!("compact/names-v1.txt").lines().collect());

/// The same for whoever keeps them: a set has hundreds, and none is copied.
static SHARED_NAMES: LazyLock<Vec<Arc<str>>> = LazyLock::new(|| NAMES.iter().map(|name| Arc::from(*name)).collect());

/// The same as they begin a member of a JSON object: `"f:name":{`.
static MEMBERS: LazyLock<Vec<Box<str>>> = LazyLock::new(|| {
    let member = |name: &&str| {
        let mut out = String::new();
        write_member(&mut out, name);
        out.into()
    };
    NAMES.iter().map(member).collect()
});

static NUMBERS: LazyLock<HashMap<&str, u64>> = LazyLock::new(|| NAMES.iter().copied().zip(1..).collect());

/// A field as it begins a member of a JSON object.
fn write_member(out: &mut String, name: &str) {
    out.push_str("\"f:");
    go::write_json_text_inside(out, name);
    out.push_str("\":{");
}

/// Why compact owners could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadCompactError {
    /// A later version of the program wrote them.
    #[error("the owners are in format {0}, which this version does not know")]
    Version(u8),
    /// They are not whole.
    #[error("the owners end too early, or hold what they cannot")]
    Damaged,
}

impl Managed {
    /// The owners in few bytes.
    ///
    /// ```
    /// use machinery_merge::Managed;
    /// let fields = serde_json::json!([{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1",
    ///     "time": "2026-11-26T12:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:a": {}}}}]);
    /// let managed = Managed::decode(Some(&fields)).expect("the entry is whole");
    /// let compact = managed.to_compact();
    /// assert!(compact.len() < 20);
    /// assert_eq!(Managed::from_compact(&compact), Ok(managed));
    /// ```
    pub fn to_compact(&self) -> Vec<u8> {
        let mut out = Writer { bytes: vec![VERSION], new: HashMap::new() };
        out.number(self.iter().count() as u64);
        for (id, entry, time) in self.iter() {
            let seconds = time.and_then(whole_seconds);
            let mut flags = if id.operation == Operation::Apply { APPLIES } else { 0 };
            flags |= match (time, seconds) {
                (None, _) => 0,
                (Some(_), Some(_)) => TIME_SECONDS,
                (Some(_), None) => TIME_TEXT,
            };
            if !id.subresource.is_empty() {
                flags |= SUBRESOURCE;
            }
            out.number(flags);
            out.text(&id.manager);
            out.text(&entry.api_version);
            match (time, seconds) {
                (_, Some(seconds)) => out.number(seconds),
                (Some(time), None) => out.text(time),
                (None, None) => {}
            }
            if !id.subresource.is_empty() {
                out.text(&id.subresource);
            }
            out.set(&entry.set);
        }
        out.bytes
    }

    /// Reads what [`to_compact`](Self::to_compact) wrote.
    ///
    /// # Errors
    /// When it is damaged, or of a version that is not known.
    pub fn from_compact(bytes: &[u8]) -> Result<Self, ReadCompactError> {
        let mut managed = Self::default();
        let mut reader = Reader::new(bytes)?;
        for _ in 0..reader.count()? {
            let head = reader.head()?;
            let set = reader.set(DEPTH_MAX)?;
            let api_version = head.api_version.to_string();
            let id = ManagerId {
                manager: head.manager.to_string(),
                operation: head.operation,
                api_version: if head.operation == Operation::Apply { String::new() } else { api_version.clone() },
                subresource: head.subresource.to_string(),
            };
            managed.insert(id, VersionedSet { set, api_version }, head.time);
        }
        reader.end()?;
        Ok(managed)
    }
}

/// `metadata.managedFields` as JSON text, straight from the compact form: for all the reads that only show it.
///
/// # Errors
/// As [`Managed::from_compact`].
pub fn compact_to_json(bytes: &[u8]) -> Result<String, ReadCompactError> {
    let mut reader = Reader::new(bytes)?;
    let mut out = String::with_capacity(bytes.len() * 8);
    out.push('[');
    for number in 0..reader.count()? {
        if number > 0 {
            out.push(',');
        }
        reader.entry_json(&mut out)?;
    }
    reader.end()?;
    out.push(']');
    Ok(out)
}

struct Writer<'s> {
    bytes: Vec<u8>,
    /// Numbers of texts that are not among the names.
    new: HashMap<&'s str, u64>,
}

impl<'s> Writer<'s> {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    fn known(&self, text: &str) -> Option<u64> {
        NUMBERS.get(text).or_else(|| self.new.get(text)).copied()
    }

    fn text(&mut self, text: &'s str) {
        if let Some(number) = self.known(text) {
            return self.number(number);
        }
        self.number(0);
        self.number(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
        let next = (NAMES.len() + self.new.len() + 1) as u64;
        self.new.insert(text, next);
    }

    fn set(&mut self, set: &'s FieldSet) {
        self.number(set.nodes().len() as u64);
        for node in set.nodes() {
            let has_below = !node.children.is_empty();
            let special = |kind: u64| kind << 4 | u64::from(has_below) << 3 | u64::from(node.is_member) << 2 | 3;
            match &node.element {
                PathElement::Field(name) => match self.known(name) {
                    Some(number) => {
                        let form = match (node.is_member, has_below) {
                            (_, false) => 0,
                            (false, true) => 1,
                            (true, true) => 2,
                        };
                        self.number(number << 2 | form);
                    }
                    None => {
                        self.number(special(KIND_NAME));
                        self.text(name);
                    }
                },
                PathElement::Key(fields) => {
                    self.number(special(KIND_KEYS));
                    self.number(fields.len() as u64);
                    for field in fields.iter() {
                        self.text(&field.name);
                        self.value(&field.value);
                    }
                }
                PathElement::Value(value) => {
                    self.number(special(KIND_VALUE));
                    self.value(value);
                }
                PathElement::Index(index) => {
                    self.number(special(KIND_INDEX));
                    self.number(zigzag(*index));
                }
            }
            if has_below {
                self.set(&node.children);
            }
        }
    }

    fn value(&mut self, value: &'s Value) {
        match value {
            Value::String(text) => match self.known(text) {
                Some(number) => self.number(number << 2),
                None => {
                    self.number(0);
                    self.text(text);
                }
            },
            Value::Number(number) if number.as_i64().is_some_and(|number| number.unsigned_abs() < 1 << 60) => {
                self.number(zigzag(number.as_i64().unwrap_or_default()) << 2 | 1);
            }
            Value::Bool(truth) => self.number(u64::from(*truth) << 2 | 2),
            other => {
                let json = go::json(other);
                self.number(3);
                self.number(json.len() as u64);
                self.bytes.extend_from_slice(json.as_bytes());
            }
        }
    }
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// The seconds of a time that is written as this program writes times.
fn whole_seconds(time: &str) -> Option<u64> {
    let seconds = u64::try_from(crate::apply::seconds(time)).ok()?;
    (seconds > 0 && time_text(seconds) == time).then_some(seconds)
}

/// Seconds since 1970 as RFC 3339 in UTC.
fn time_text(seconds: u64) -> String {
    let (days, clock) = ((seconds / 86_400) as i64, seconds % 86_400);
    // Years are counted from March, in cycles of 400 years of 146 097 days.
    let shifted = days + 719_468;
    let (cycle, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (year + cycle * 400 + i64::from(month >= 10), if month < 10 { month + 3 } else { month - 9 });
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", clock / 3600, clock / 60 % 60, clock % 60)
}

/// Whether a node of the fourth form is a member, and whether a set follows.
fn special(header: u64) -> Result<(bool, bool), ReadCompactError> {
    let (is_member, has_below) = (header & 4 != 0, header & 8 != 0);
    if is_member || has_below { Ok((is_member, has_below)) } else { Err(ReadCompactError::Damaged) }
}

struct Reader<'b> {
    rest: &'b [u8],
    new: Vec<&'b str>,
}

/// What an entry says before its fields.
struct Head<'b> {
    manager: &'b str,
    operation: Operation,
    api_version: &'b str,
    time: Option<String>,
    /// Where its seconds are: how many bytes are left before and after them.
    seconds_left: Option<(usize, usize)>,
    subresource: &'b str,
}

/// Where an entry has its seconds, and its text the time.
#[derive(Clone, Copy)]
struct TimePlace {
    /// In what the reader had left.
    at: usize,
    len: usize,
    /// In the text that was appended.
    text_at: usize,
}

impl<'b> Reader<'b> {
    fn new(bytes: &'b [u8]) -> Result<Self, ReadCompactError> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => Ok(Self { rest, new: Vec::new() }),
            Some((version, _)) => Err(ReadCompactError::Version(*version)),
            None => Err(ReadCompactError::Damaged),
        }
    }

    fn end(&self) -> Result<(), ReadCompactError> {
        if self.rest.is_empty() { Ok(()) } else { Err(ReadCompactError::Damaged) }
    }

    fn number(&mut self) -> Result<u64, ReadCompactError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(ReadCompactError::Damaged)?;
            self.rest = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(ReadCompactError::Damaged)
    }

    /// How many things follow; each takes a byte at least.
    fn count(&mut self) -> Result<usize, ReadCompactError> {
        let count = usize::try_from(self.number()?).map_err(|_| ReadCompactError::Damaged)?;
        if count > self.rest.len() { Err(ReadCompactError::Damaged) } else { Ok(count) }
    }

    fn bytes(&mut self) -> Result<&'b str, ReadCompactError> {
        let len = self.count()?;
        let (bytes, rest) = self.rest.split_at(len);
        self.rest = rest;
        std::str::from_utf8(bytes).map_err(|_| ReadCompactError::Damaged)
    }

    fn text(&mut self) -> Result<&'b str, ReadCompactError> {
        match self.number()? {
            0 => {
                let text = self.bytes()?;
                self.new.push(text);
                Ok(text)
            }
            number => self.text_at(number),
        }
    }

    /// The text itself, or where it is among the names.
    fn known_at(&self, number: u64) -> Result<Result<&'b str, usize>, ReadCompactError> {
        let at =
            usize::try_from(number).ok().and_then(|number| number.checked_sub(1)).ok_or(ReadCompactError::Damaged)?;
        match at.checked_sub(NAMES.len()) {
            None => Ok(Err(at)),
            Some(at) => self.new.get(at).copied().map(Ok).ok_or(ReadCompactError::Damaged),
        }
    }

    fn text_at(&self, number: u64) -> Result<&'b str, ReadCompactError> {
        Ok(self.known_at(number)?.unwrap_or_else(|at| NAMES[at]))
    }

    fn field_at(&self, number: u64) -> Result<PathElement, ReadCompactError> {
        Ok(PathElement::Field(self.known_at(number)?.map_or_else(|at| SHARED_NAMES[at].clone(), Arc::from)))
    }

    fn head(&mut self) -> Result<Head<'b>, ReadCompactError> {
        let flags = self.number()?;
        if flags > 15 {
            return Err(ReadCompactError::Damaged);
        }
        let manager = self.text()?;
        let api_version = self.text()?;
        let before = self.rest.len();
        let time = match flags & (TIME_SECONDS | TIME_TEXT) {
            0 => None,
            TIME_SECONDS => Some(time_text(self.number()?.min(SECONDS_MAX))),
            _ => Some(self.text()?.to_string()),
        };
        let has_seconds = flags & (TIME_SECONDS | TIME_TEXT) == TIME_SECONDS;
        let seconds_left = has_seconds.then_some((before, self.rest.len()));
        let subresource = if flags & SUBRESOURCE == 0 { "" } else { self.text()? };
        let operation = if flags & APPLIES == 0 { Operation::Update } else { Operation::Apply };
        Ok(Head { manager, operation, api_version, time, seconds_left, subresource })
    }

    /// Appends an entry as JSON, and says where its time is, if it is one in seconds.
    fn entry_json(&mut self, out: &mut String) -> Result<Option<TimePlace>, ReadCompactError> {
        let (left, start) = (self.rest.len(), out.len());
        let head = self.head()?;
        let mut place = None;
        out.push('{');
        if !head.manager.is_empty() {
            out.push_str(r#""manager":"#);
            go::write_json_text(out, head.manager);
            out.push(',');
        }
        let _ = write!(out, r#""operation":"{}","apiVersion":"#, head.operation.as_str());
        go::write_json_text(out, head.api_version);
        if let Some(time) = &head.time {
            out.push_str(r#","time":"#);
            let text_at = out.len() + 1 - start;
            place =
                head.seconds_left.map(|(before, after)| TimePlace { at: left - before, len: before - after, text_at });
            go::write_json_text(out, time);
        }
        out.push_str(r#","fieldsType":"FieldsV1","fieldsV1":{"#);
        self.set_json(out, DEPTH_MAX)?;
        out.push('}');
        if !head.subresource.is_empty() {
            out.push_str(r#","subresource":"#);
            go::write_json_text(out, head.subresource);
        }
        out.push('}');
        Ok(place)
    }

    /// One node without what is below it: the element, whether it is a member, whether a set follows.
    fn node(&mut self) -> Result<(PathElement, bool, bool), ReadCompactError> {
        let header = self.number()?;
        match header & 3 {
            0 => Ok((self.field_at(header >> 2)?, true, false)),
            1 => Ok((self.field_at(header >> 2)?, false, true)),
            2 => Ok((self.field_at(header >> 2)?, true, true)),
            _ => {
                let (is_member, has_below) = special(header)?;
                let element = match header >> 4 {
                    KIND_NAME => PathElement::Field(self.text()?.into()),
                    KIND_VALUE => PathElement::Value(Arc::new(self.value()?)),
                    KIND_INDEX => PathElement::Index(unzigzag(self.number()?)),
                    KIND_KEYS => {
                        let count = self.count()?;
                        let fields =
                            (0..count).map(|_| Ok(KeyField { name: self.text()?.into(), value: self.value()? }));
                        PathElement::key(fields.collect::<Result<_, ReadCompactError>>()?)
                    }
                    _ => return Err(ReadCompactError::Damaged),
                };
                Ok((element, is_member, has_below))
            }
        }
    }

    /// The same, appended as the beginning of a member of a JSON object. `key` is space to write in.
    fn member(&mut self, out: &mut String, key: &mut String) -> Result<(bool, bool), ReadCompactError> {
        let header = self.number()?;
        if header & 3 < 3 {
            match self.known_at(header >> 2)? {
                Err(at) => out.push_str(&MEMBERS[at]),
                Ok(name) => write_member(out, name),
            }
            return Ok((header & 3 != 1, header & 3 != 0));
        }
        let (is_member, has_below) = special(header)?;
        key.clear();
        match header >> 4 {
            KIND_NAME => {
                key.push_str("f:");
                key.push_str(self.text()?);
            }
            KIND_VALUE => {
                key.push_str("v:");
                self.write_value(key)?;
            }
            KIND_INDEX => write_element(key, &PathElement::Index(unzigzag(self.number()?))),
            KIND_KEYS => {
                key.push_str("k:{");
                for number in 0..self.count()? {
                    if number > 0 {
                        key.push(',');
                    }
                    go::write_json_text(key, self.text()?);
                    key.push(':');
                    self.write_value(key)?;
                }
                key.push('}');
            }
            _ => return Err(ReadCompactError::Damaged),
        }
        go::write_json_text(out, key);
        out.push_str(":{");
        Ok((is_member, has_below))
    }

    fn value(&mut self) -> Result<Value, ReadCompactError> {
        let header = self.number()?;
        match header & 3 {
            0 if header == 0 => Ok(Value::String(self.text()?.to_owned())),
            0 => Ok(Value::String(self.text_at(header >> 2)?.to_owned())),
            1 => Ok(unzigzag(header >> 2).into()),
            2 => Ok(Value::Bool(header >> 2 != 0)),
            _ => serde_json::from_str(self.bytes()?).map_err(|_| ReadCompactError::Damaged),
        }
    }

    /// The same, appended as JSON.
    fn write_value(&mut self, out: &mut String) -> Result<(), ReadCompactError> {
        let header = self.number()?;
        match header & 3 {
            0 if header == 0 => go::write_json_text(out, self.text()?),
            0 => go::write_json_text(out, self.text_at(header >> 2)?),
            1 => drop(write!(out, "{}", unzigzag(header >> 2))),
            2 => out.push_str(if header >> 2 != 0 { "true" } else { "false" }),
            _ => {
                let value: Value = serde_json::from_str(self.bytes()?).map_err(|_| ReadCompactError::Damaged)?;
                go::write_json(out, &value);
            }
        }
        Ok(())
    }

    fn set(&mut self, levels: usize) -> Result<FieldSet, ReadCompactError> {
        let levels = levels.checked_sub(1).ok_or(ReadCompactError::Damaged)?;
        let count = self.count()?;
        let mut nodes = Vec::with_capacity(count.min(64));
        for _ in 0..count {
            let (element, is_member, has_below) = self.node()?;
            let children = if has_below { self.set(levels)? } else { FieldSet::default() };
            nodes.push(Node { element, is_member, children });
        }
        Ok(FieldSet::from_nodes(nodes))
    }

    /// Appends the set as the inside of a JSON object.
    fn set_json(&mut self, out: &mut String, levels: usize) -> Result<(), ReadCompactError> {
        let levels = levels.checked_sub(1).ok_or(ReadCompactError::Damaged)?;
        let mut key = String::new();
        for _ in 0..self.count()? {
            if !out.ends_with('{') {
                out.push(',');
            }
            let (is_member, has_below) = self.member(out, &mut key)?;
            if has_below {
                if is_member {
                    out.push_str(r#"".":{}"#);
                }
                self.set_json(out, levels)?;
            }
            out.push('}');
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
