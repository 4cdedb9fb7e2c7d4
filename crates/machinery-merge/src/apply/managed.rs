//! The owners of an object, and `metadata.managedFields`, which is how clients see them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::fields::FieldSet;
use crate::go;

/// What a manager does with its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// It applies a configuration: what it no longer names is removed.
    Apply,
    /// It creates, updates or patches.
    Update,
}

impl Operation {
    /// As it is written in `managedFields`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// What makes a manager itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManagerId {
    /// Its name: the request's `fieldManager`, or the first word of the User-Agent.
    pub manager: String,
    /// What it does.
    pub operation: Operation,
    /// The version through which it updates; empty for one that applies, which is the same through all of them.
    pub api_version: String,
    /// The subresource through which it writes; empty for the object itself.
    pub subresource: String,
}

/// What one manager owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionedSet {
    /// The fields.
    pub set: FieldSet,
    /// The version whose fields they are.
    pub api_version: String,
}

/// All owners of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managed {
    pub(crate) fields: BTreeMap<ManagerId, VersionedSet>,
    /// When each manager last changed something, as `2026-11-26T12:00:00Z`. It may name managers that own nothing now.
    pub(crate) times: BTreeMap<ManagerId, String>,
}

/// Why `managedFields` could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeManagedError(pub(crate) String);

impl Managed {
    /// Reads `metadata.managedFields`.
    ///
    /// # Errors
    /// When an entry is not whole, or its fields are no `FieldsV1`.
    pub fn decode(entries: Option<&Value>) -> Result<Self, DecodeManagedError> {
        let mut managed = Self::default();
        let entries = entries.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for (number, entry) in entries.iter().enumerate() {
            let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err(DecodeManagedError("operation must be `Apply` or `Update`".to_owned())),
            };
            let api_version = text("apiVersion");
            if api_version.is_empty() {
                return Err(DecodeManagedError("apiVersion must not be empty".to_owned()));
            }
            match text("fieldsType") {
                "FieldsV1" => {}
                "" => return Err(DecodeManagedError(format!("missing fieldsType in managed fields entry {number}"))),
                other => {
                    let other = go::quoted(other);
                    return Err(DecodeManagedError(format!(
                        "invalid fieldsType {other} in managed fields entry {number}"
                    )));
                }
            }
            let id = ManagerId {
                manager: text("manager").to_owned(),
                operation,
                api_version: if operation == Operation::Apply { String::new() } else { api_version.to_owned() },
                subresource: text("subresource").to_owned(),
            };
            let set = FieldSet::from_value(entry.get("fieldsV1").unwrap_or(&Value::Null)).map_err(|error| {
                DecodeManagedError(format!(
                    "error decoding versioned set from {{{} {} {api_version}}}: error decoding set: {error}",
                    id.manager,
                    operation.as_str()
                ))
            })?;
            match entry.get("time").and_then(Value::as_str) {
                Some(time) => drop(managed.times.insert(id.clone(), time.to_owned())),
                None => drop(managed.times.remove(&id)),
            }
            managed.fields.insert(id, VersionedSet { set, api_version: api_version.to_owned() });
        }
        Ok(managed)
    }

    /// Whether nobody owns anything.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Each manager with what it owns and when it last changed something, in the order of `managedFields`.
    pub fn iter(&self) -> impl Iterator<Item = (&ManagerId, &VersionedSet, Option<&str>)> {
        let mut entries: Vec<_> = self.fields.iter().map(|(id, set)| (id, set, self.time(id))).collect();
        entries.sort_by_cached_key(|(id, set, time)| {
            (id.operation, time.map_or(0, seconds), &id.manager, &set.api_version, &id.subresource)
        });
        entries.into_iter()
    }

    /// When a manager last changed something.
    pub(crate) fn time(&self, id: &ManagerId) -> Option<&str> {
        self.times.get(id).map(String::as_str)
    }

    /// Puts an owner in.
    pub fn insert(&mut self, id: ManagerId, set: VersionedSet, time: Option<String>) {
        match time {
            Some(time) => drop(self.times.insert(id.clone(), time)),
            None => drop(self.times.remove(&id)),
        }
        self.fields.insert(id, set);
    }

    /// `metadata.managedFields` as JSON text; `None` when there are none.
    pub fn to_json(&self) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let mut out = String::with_capacity(512);
        out.push('[');
        for (number, (id, set, time)) in self.iter().enumerate() {
            if number > 0 {
                out.push(',');
            }
            out.push('{');
            if !id.manager.is_empty() {
                out.push_str(r#""manager":"#);
                go::write_json_text(&mut out, &id.manager);
                out.push(',');
            }
            let _ = write!(out, r#""operation":"{}","apiVersion":"#, id.operation.as_str());
            go::write_json_text(&mut out, &set.api_version);
            if let Some(time) = time {
                out.push_str(r#","time":"#);
                go::write_json_text(&mut out, time);
            }
            out.push_str(r#","fieldsType":"FieldsV1","fieldsV1":"#);
            set.set.write_json(&mut out);
            if !id.subresource.is_empty() {
                out.push_str(r#","subresource":"#);
                go::write_json_text(&mut out, &id.subresource);
            }
            out.push('}');
        }
        out.push(']');
        Some(out)
    }

    /// `metadata.managedFields` as a value; `None` when there are none.
    pub fn to_value(&self) -> Option<Value> {
        if self.is_empty() {
            return None;
        }
        let entries = self.iter().map(|(id, set, time)| {
            let mut entry = Map::new();
            let mut put = |key: &str, value: Value| drop(entry.insert(key.to_owned(), value));
            put("operation", id.operation.as_str().into());
            put("apiVersion", set.api_version.as_str().into());
            put("fieldsType", "FieldsV1".into());
            put("fieldsV1", set.set.to_value());
            if !id.manager.is_empty() {
                put("manager", id.manager.as_str().into());
            }
            if let Some(time) = time {
                put("time", time.into());
            }
            if !id.subresource.is_empty() {
                put("subresource", id.subresource.as_str().into());
            }
            Value::Object(entry)
        });
        Some(Value::Array(entries.collect()))
    }

    /// Whether both say the same but for the times: a write that changes nothing else changes nothing.
    pub fn is_same_but_for_times(&self, other: &Self) -> bool {
        self.fields == other.fields
    }
}

/// Seconds since 1970 of a time as RFC 3339 writes it; 0 of anything else. Entries are sorted by it.
pub(crate) fn seconds(time: &str) -> i64 {
    fn parse(time: &str) -> Option<i64> {
        let number = |range: std::ops::Range<usize>| -> Option<i64> {
            let digits = time.get(range)?;
            if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
        };
        let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
        let clock = number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
        let zone = time.get(19..)?.trim_start_matches(|char: char| char == '.' || char.is_ascii_digit());
        let offset = match zone.as_bytes().first()? {
            b'Z' | b'z' => 0,
            sign @ (b'+' | b'-') => {
                let minutes = zone.get(1..3)?.parse::<i64>().ok()? * 60 + zone.get(4..6)?.parse::<i64>().ok()?;
                if *sign == b'-' { -minutes * 60 } else { minutes * 60 }
            }
            _ => return None,
        };
        // Days since 1970 in the Gregorian calendar, counting years from March so that a leap day is a year's last.
        let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
        Some(days * 86_400 + clock - offset)
    }
    parse(time).unwrap_or(0)
}
