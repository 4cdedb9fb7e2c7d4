//! Values and rows, as rules see them.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use api_edge::edgex;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

/// One value. Large ones are shared, so a copy is cheap.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Datum {
    /// No value.
    #[default]
    Null,
    /// `BOOLEAN`.
    Bool(bool),
    /// `BIGINT`.
    Int(i64),
    /// `FLOAT`.
    Float(f64),
    /// `STRING`.
    String(Arc<str>),
    /// `BYTEA`.
    Bytes(Arc<[u8]>),
    /// `ARRAY(…)`.
    Array(Arc<Vec<Datum>>),
    /// `STRUCT(…)`.
    Object(Arc<BTreeMap<String, Datum>>),
}

impl Datum {
    /// The value as JSON; bytes as base64, numbers that JSON cannot hold as null.
    pub fn to_json(&self) -> Value {
        match self {
            Datum::Null => Value::Null,
            Datum::Bool(value) => Value::from(*value),
            Datum::Int(value) => Value::from(*value),
            Datum::Float(value) => Value::from(*value),
            Datum::String(value) => Value::from(&**value),
            Datum::Bytes(value) => Value::from(BASE64.encode(value)),
            Datum::Array(values) => Value::Array(values.iter().map(Datum::to_json).collect()),
            Datum::Object(fields) => {
                Value::Object(fields.iter().map(|(name, value)| (name.clone(), value.to_json())).collect())
            }
        }
    }

    /// Name of the type, as it stands in messages; eKuiper's words.
    pub fn type_name(&self) -> &'static str {
        match self {
            Datum::Null => "nil",
            Datum::Bool(_) => "bool",
            Datum::Int(_) => "int64",
            Datum::Float(_) => "float64",
            Datum::String(_) => "string",
            Datum::Bytes(_) => "bytea",
            Datum::Array(_) => "array",
            Datum::Object(_) => "object",
        }
    }

    /// Whether there is no value.
    pub fn is_null(&self) -> bool {
        matches!(self, Datum::Null)
    }

    /// The value as text: strings bare, the rest as JSON.
    pub fn to_text(&self) -> String {
        match self {
            Datum::String(value) => value.to_string(),
            other => other.to_json().to_string(),
        }
    }

    /// An order over all values, for `ORDER BY`: null first, then by type, then by value; numbers are one type.
    pub(crate) fn order(&self, other: &Datum) -> Ordering {
        fn rank(datum: &Datum) -> u8 {
            match datum {
                Datum::Null => 0,
                Datum::Bool(_) => 1,
                Datum::Int(_) | Datum::Float(_) => 2,
                Datum::String(_) => 3,
                Datum::Bytes(_) => 4,
                Datum::Array(_) => 5,
                Datum::Object(_) => 6,
            }
        }
        match (self, other) {
            (Datum::Bool(left), Datum::Bool(right)) => left.cmp(right),
            (Datum::Int(left), Datum::Int(right)) => left.cmp(right),
            (Datum::Float(left), Datum::Float(right)) => left.total_cmp(right),
            (Datum::Int(left), Datum::Float(right)) => order_of_numbers(*left, *right),
            (Datum::Float(left), Datum::Int(right)) => order_of_numbers(*right, *left).reverse(),
            (Datum::String(left), Datum::String(right)) => left.cmp(right),
            (Datum::Bytes(left), Datum::Bytes(right)) => left.cmp(right),
            (Datum::Array(left), Datum::Array(right)) => left
                .iter()
                .zip(right.iter())
                .map(|(left, right)| left.order(right))
                .find(|order| order.is_ne())
                .unwrap_or_else(|| left.len().cmp(&right.len())),
            (Datum::Object(left), Datum::Object(right)) => left
                .iter()
                .zip(right.iter())
                .map(|((left_name, left), (right_name, right))| {
                    left_name.cmp(right_name).then_with(|| left.order(right))
                })
                .find(|order| order.is_ne())
                .unwrap_or_else(|| left.len().cmp(&right.len())),
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

/// Exact, also where a float has no place for every integer: a sort relies on what is equal to the same being equal.
fn order_of_numbers(integer: i64, float: f64) -> Ordering {
    (integer as f64).total_cmp(&float).then_with(|| i128::from(integer).cmp(&(float as i128)))
}

impl From<bool> for Datum {
    fn from(value: bool) -> Self {
        Datum::Bool(value)
    }
}

impl From<i64> for Datum {
    fn from(value: i64) -> Self {
        Datum::Int(value)
    }
}

impl From<f64> for Datum {
    fn from(value: f64) -> Self {
        Datum::Float(value)
    }
}

impl From<&str> for Datum {
    fn from(value: &str) -> Self {
        Datum::String(value.into())
    }
}

impl From<String> for Datum {
    fn from(value: String) -> Self {
        Datum::String(value.into())
    }
}

impl From<Vec<Datum>> for Datum {
    fn from(values: Vec<Datum>) -> Self {
        Datum::Array(Arc::new(values))
    }
}

impl From<BTreeMap<String, Datum>> for Datum {
    fn from(fields: BTreeMap<String, Datum>) -> Self {
        Datum::Object(Arc::new(fields))
    }
}

impl From<&Value> for Datum {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Datum::Null,
            Value::Bool(value) => Datum::Bool(*value),
            Value::Number(number) => match number.as_i64() {
                Some(value) => Datum::Int(value),
                None => number.as_f64().map_or(Datum::Null, Datum::Float),
            },
            Value::String(value) => Datum::from(value.as_str()),
            Value::Array(values) => Datum::from(values.iter().map(Datum::from).collect::<Vec<_>>()),
            Value::Object(fields) => Datum::from(
                fields.iter().map(|(name, value)| (name.clone(), Datum::from(value))).collect::<BTreeMap<_, _>>(),
            ),
        }
    }
}

/// A `Uint64` above the largest `BIGINT` becomes the nearest `FLOAT`.
impl From<&edgex::Value> for Datum {
    fn from(value: &edgex::Value) -> Self {
        match value {
            edgex::Value::Null => Datum::Null,
            edgex::Value::Bool(value) => Datum::Bool(*value),
            edgex::Value::Int(value) => Datum::Int(*value),
            edgex::Value::Uint(value) => i64::try_from(*value).map_or_else(|_| Datum::Float(*value as f64), Datum::Int),
            edgex::Value::Float(value) => Datum::Float(*value),
            edgex::Value::String(value) => Datum::from(value.as_str()),
            edgex::Value::Binary(bytes) => Datum::Bytes(bytes.as_slice().into()),
            edgex::Value::Object(value) => Datum::from(value),
            edgex::Value::Array(values) => Datum::from(values.iter().map(Datum::from).collect::<Vec<_>>()),
        }
    }
}

/// Named values in the order in which they were set.
///
/// Rows are short, so a name is found by looking at each; that beats hashing it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    fields: Vec<(Arc<str>, Datum)>,
}

impl Row {
    /// A row of no values.
    pub fn new() -> Self {
        Self::default()
    }

    /// A row of the members of a JSON object; `None` when `text` is something else.
    pub fn from_json(text: &str) -> Option<Self> {
        serde_json::from_str::<Map<String, Value>>(text).ok().map(|members| Self::from(&members))
    }

    /// The row as a JSON object.
    pub fn to_json(&self) -> Value {
        Value::Object(self.iter().map(|(name, value)| (name.to_owned(), value.to_json())).collect())
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&Datum> {
        self.fields.iter().find(|(other, _)| **other == *name).map(|(_, value)| value)
    }

    /// Sets `name`; it keeps its place when the row has it already.
    pub fn set(&mut self, name: impl Into<Arc<str>>, value: Datum) {
        let name = name.into();
        match self.fields.iter_mut().find(|(other, _)| *other == name) {
            Some((_, old)) => *old = value,
            None => self.fields.push((name, value)),
        }
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Datum)> {
        self.fields.iter().map(|(name, value)| (&**name, value))
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there are none. A rule emits such a row when every column it asks for is null.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

impl From<&Map<String, Value>> for Row {
    fn from(members: &Map<String, Value>) -> Self {
        Self { fields: members.iter().map(|(name, value)| (name.as_str().into(), Datum::from(value))).collect() }
    }
}
