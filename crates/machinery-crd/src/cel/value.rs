//! Values while an expression runs. What is in an object is read where it is, as its schema says, and not copied.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use serde_json::{Map, Value};

use super::{
    library::{Quantity, Semver},
    types::{escape, is_reserved},
};
use crate::{go_url::Url, schema::Schema};

/// A literal of an expression.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Lit {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Val<'v> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Arc<str>),
    Bytes(Arc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    Timestamp(jiff::Timestamp),
    List(List<'v>),
    Map(Fields<'v>),
    Optional(Option<Arc<Val<'v>>>),
    Type(Arc<str>),
    Url(Arc<Url>),
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    Quantity(Quantity),
    Semver(Arc<Semver>),
    Format(&'static str),
}

#[derive(Clone, Debug)]
pub(crate) enum List<'v> {
    /// A list of an object; its schema says whether order counts.
    Stored(&'v [Value], &'v Schema),
    Made(Arc<Vec<Val<'v>>>),
}

#[derive(Clone, Debug)]
pub(crate) enum Fields<'v> {
    /// An object with fields by name; what is in it besides is not seen.
    Object(&'v Map<String, Value>, &'v Schema, bool),
    /// A map with keys that its author chooses.
    Stored(&'v Map<String, Value>, Option<&'v Schema>),
    Made(Arc<Vec<(Val<'v>, Val<'v>)>>),
}

/// A value of an object as its schema types it.
pub(crate) fn from_json<'v>(value: &'v Value, schema: &'v Schema, is_resource: bool) -> Val<'v> {
    match value {
        Value::Null => Val::Null,
        Value::Bool(flag) => Val::Bool(*flag),
        Value::Number(number) => match (number.as_i64(), &*schema.kind) {
            (Some(whole), "number") if !schema.int_or_string => Val::Double(whole as f64),
            (Some(whole), _) => Val::Int(whole),
            (None, _) => Val::Double(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => match &*schema.format {
            "byte" => match base64(text) {
                Some(bytes) => Val::Bytes(bytes.into()),
                None => Val::Text(text.as_str().into()),
            },
            "duration" if &*schema.kind == "string" => match api_kube::go_duration::parse(text) {
                Ok(nanoseconds) => Val::Duration(nanoseconds),
                Err(_) => Val::Text(text.as_str().into()),
            },
            "date" if &*schema.kind == "string" => match format!("{text}T00:00:00Z").parse() {
                Ok(time) => Val::Timestamp(time),
                Err(_) => Val::Text(text.as_str().into()),
            },
            "date-time" if &*schema.kind == "string" => match text.to_uppercase().parse() {
                Ok(time) => Val::Timestamp(time),
                Err(_) => Val::Text(text.as_str().into()),
            },
            _ => Val::Text(text.as_str().into()),
        },
        Value::Array(items) => Val::List(List::Stored(items, schema)),
        Value::Object(map) => Val::Map(match schema.additional_schema() {
            Some(additional) => Fields::Stored(map, Some(additional)),
            None => Fields::Object(map, schema, is_resource || schema.embedded_resource),
        }),
    }
}

fn untyped() -> &'static Schema {
    static UNTYPED: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(Schema::default);
    &UNTYPED
}

impl<'v> List<'v> {
    pub fn len(&self) -> usize {
        match self {
            Self::Stored(items, _) => items.len(),
            Self::Made(items) => items.len(),
        }
    }

    pub fn get(&self, at: usize) -> Option<Val<'v>> {
        match self {
            Self::Stored(items, schema) => {
                let item = schema.item().unwrap_or_else(|| untyped());
                items.get(at).map(|value| from_json(value, item, item.embedded_resource))
            }
            Self::Made(items) => items.get(at).cloned(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Val<'v>> + '_ {
        (0..self.len()).filter_map(|at| self.get(at))
    }

    fn list_type(&self) -> &str {
        match self {
            Self::Stored(_, schema) => schema.list_type.as_deref().unwrap_or_default(),
            Self::Made(_) => "",
        }
    }

    /// What distinguishes an item of a list with keys.
    fn key_of(&self, item: &Val<'v>) -> Option<String> {
        let Self::Stored(_, schema) = self else { return None };
        let Val::Map(fields) = item else { return None };
        Some(
            schema
                .list_map_keys
                .iter()
                .map(|key| fields.get_text(key).map_or_else(String::new, |value| identity(&value)) + "\n")
                .collect(),
        )
    }
}

impl<'v> Fields<'v> {
    pub fn len(&self) -> usize {
        match self {
            Self::Object(map, ..) | Self::Stored(map, _) => map.len(),
            Self::Made(entries) => entries.len(),
        }
    }

    /// A field or key by its name as an expression writes it.
    pub fn get_text(&self, name: &str) -> Option<Val<'v>> {
        match self {
            Self::Object(map, schema, is_resource) => {
                if *is_resource && matches!(name, "apiVersion" | "kind") {
                    return map.get(name).map(|value| from_json(value, untyped(), false));
                }
                if *is_resource && name == "metadata" {
                    return match map.get(name)? {
                        Value::Object(fields) => Some(Val::Map(Fields::Stored(fields, None))),
                        _ => None,
                    };
                }
                let found = schema.properties.get_key_value(name).filter(|_| escape(name).as_deref() == Some(name));
                let (name, property) = match found {
                    Some(found) => found,
                    None => {
                        let is_it =
                            |real: &str| escape(real).as_deref() == Some(name) || (real == name && is_reserved(name));
                        schema.properties.iter().find(|(real, _)| is_it(real))?
                    }
                };
                map.get(&**name).map(|value| from_json(value, property, property.embedded_resource))
            }
            Self::Stored(map, schema) => {
                let schema = schema.unwrap_or_else(|| untyped());
                map.get(name).map(|value| from_json(value, schema, schema.embedded_resource))
            }
            Self::Made(entries) => {
                let found = entries.iter().find(|(key, _)| matches!(key, Val::Text(text) if &**text == name));
                found.map(|(_, value)| value.clone())
            }
        }
    }

    pub fn get(&self, key: &Val<'v>) -> Option<Val<'v>> {
        match (self, key) {
            (_, Val::Text(name)) => self.get_text(name),
            (Self::Made(entries), key) => {
                entries.iter().find(|(held, _)| held.equals(key)).map(|(_, value)| value.clone())
            }
            _ => None,
        }
    }

    /// The entries in the order of their keys, as a run visits them.
    pub fn entries(&self) -> Vec<(Val<'v>, Val<'v>)> {
        match self {
            Self::Object(_, schema, _) => {
                let names = schema.properties.keys().filter_map(|name| escape(name));
                names.filter_map(|name| Some((Val::Text(name.as_str().into()), self.get_text(&name)?))).collect()
            }
            Self::Stored(map, schema) => {
                let schema = schema.unwrap_or_else(|| untyped());
                let value = |value| from_json(value, schema, schema.embedded_resource);
                map.iter().map(|(key, inner)| (Val::Text(key.as_str().into()), value(inner))).collect()
            }
            Self::Made(entries) => entries.to_vec(),
        }
    }
}

impl<'v> Val<'v> {
    pub fn text(text: impl AsRef<str>) -> Self {
        Self::Text(text.as_ref().into())
    }

    pub fn list(items: Vec<Val<'v>>) -> Self {
        Self::List(List::Made(Arc::new(items)))
    }

    pub fn some(value: Val<'v>) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// The size that costs are computed from.
    pub fn size(&self) -> u64 {
        let size = match self {
            Self::Text(text) => text.chars().count(),
            Self::Bytes(bytes) => bytes.len(),
            Self::List(list) => list.len(),
            Self::Map(fields) => fields.len(),
            Self::Ip(address) => {
                if address.is_ipv4() {
                    4
                } else {
                    16
                }
            }
            Self::Cidr(address, _) => {
                if address.is_ipv4() {
                    4
                } else {
                    16
                }
            }
            _ => 1,
        };
        size as u64
    }

    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Url(_) => "kubernetes.URL",
            Self::Ip(_) => "net.IP",
            Self::Cidr(..) => "net.CIDR",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
        }
    }

    /// CEL's equality: numbers by value, lists in order but for sets and lists with keys, other types never.
    pub fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Text(a), Self::Text(b)) | (Self::Type(a), Self::Type(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Url(a), Self::Url(b)) => a.as_text() == b.as_text(),
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a, m), Self::Cidr(b, n)) => a == b && m == n,
            (Self::Quantity(a), Self::Quantity(b)) => a.compare(b).is_eq(),
            (Self::Semver(a), Self::Semver(b)) => a.compare(b).is_eq(),
            (Self::Format(a), Self::Format(b)) => a == b,
            (Self::Optional(a), Self::Optional(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => a.equals(b),
                _ => false,
            },
            (Self::List(a), Self::List(b)) => equal_lists(a, b),
            (Self::Map(a), Self::Map(b)) => {
                let (mine, theirs) = (a.entries(), b.entries());
                mine.len() == theirs.len()
                    && mine.iter().all(|(key, value)| b.get(key).is_some_and(|other| value.equals(&other)))
            }
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }

    /// The order of two values of comparable types.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Uint(a), Self::Uint(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Uint(a), Self::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Double(a), Self::Int(b)) => a.partial_cmp(&(*b as f64)),
            (Self::Int(a), Self::Double(b)) => (*a as f64).partial_cmp(b),
            (Self::Double(a), Self::Uint(b)) => a.partial_cmp(&(*b as f64)),
            (Self::Uint(a), Self::Double(b)) => (*a as f64).partial_cmp(b),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Self::Duration(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Self::Timestamp(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

fn equal_lists<'v>(a: &List<'v>, b: &List<'v>) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let unordered = [a.list_type(), b.list_type()].iter().any(|kind| matches!(*kind, "set" | "map"));
    if !unordered {
        return a.iter().zip(b.iter()).all(|(a, b)| a.equals(&b));
    }
    // A set that is none, because it has something twice, is checked as well.
    let [mine, theirs] = [a, b].map(|list| list.iter().map(|item| identity(&item)).collect::<HashSet<String>>());
    mine == theirs
}

/// Text that two values share when they are equal; for members of sets and keys, which have one type.
fn identity(value: &Val<'_>) -> String {
    match value {
        Val::Text(text) => format!("{text:?}"),
        Val::Double(number) if number.fract() == 0.0 => format!("{number:.0}"),
        Val::List(list) => list.iter().map(|item| identity(&item) + ",").collect(),
        Val::Map(fields) => {
            let mut parts: Vec<String> =
                fields.entries().iter().map(|(key, value)| format!("{}:{},", identity(key), identity(value))).collect();
            parts.sort_unstable();
            format!("{{{}}}", parts.concat())
        }
        Val::Int(number) => number.to_string(),
        Val::Uint(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

/// Two lists as one: a set keeps each value once, a list with keys takes the later of two items.
pub(super) fn concat<'v>(a: &List<'v>, b: &List<'v>) -> Val<'v> {
    let mut items: Vec<Val<'v>> = a.iter().collect();
    match a.list_type() {
        "set" => {
            let mut held: HashSet<String> = items.iter().map(identity).collect();
            items.extend(b.iter().filter(|item| held.insert(identity(item))));
        }
        "map" => {
            let mut held: HashMap<Option<String>, usize> =
                items.iter().enumerate().map(|(at, item)| (a.key_of(item), at)).collect();
            for item in b.iter() {
                let next = items.len();
                match *held.entry(a.key_of(&item)).or_insert(next) {
                    at if at < next => items[at] = item,
                    _ => items.push(item),
                }
            }
        }
        _ => items.extend(b.iter()),
    }
    Val::list(items)
}

/// Standard base64 with padding.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in digits.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xff) as u8);
        }
    }
    Some(out)
}
