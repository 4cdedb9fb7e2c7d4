//! Messages into objects.

use api_kube::base64_text;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{DEPTH_MAX, Envelope, MAGIC};
use crate::types::{Field, Items, Shape, Type};

/// Why a message could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It is cut, or not protobuf.
    #[error("{0}")]
    Malformed(&'static str),
    /// Decoded it would take far more memory than its bytes.
    #[error("the body has more than {max} values")]
    TooMany {
        /// How many are taken.
        max: usize,
    },
}

const CUT: ReadError = ReadError::Malformed("unexpected EOF");

/// See [`super::open`].
pub(super) fn open(bytes: &[u8]) -> Result<Envelope<'_>, ReadError> {
    let body = bytes.strip_prefix(MAGIC).ok_or(ReadError::Malformed(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
    ))?;
    let mut envelope = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
    let mut reader = Reader(body);
    while let Some((tag, value)) = reader.next()? {
        match (tag, value) {
            (1, Wired::Bytes(names)) => {
                let mut names = Reader(names);
                while let Some((tag, value)) = names.next()? {
                    match (tag, value) {
                        (1, Wired::Bytes(name)) => envelope.api_version = text(name)?,
                        (2, Wired::Bytes(name)) => envelope.kind = text(name)?,
                        _ => {}
                    }
                }
            }
            (2, Wired::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Ok(envelope)
}

/// See [`super::decode`].
pub(super) fn message(of: Type, raw: &[u8], values_max: usize) -> Result<Map<String, Value>, ReadError> {
    let mut object = Map::new();
    Decode { left: values_max, max: values_max }.structure(of, 0, raw, &mut object, 0)?;
    Ok(object)
}

struct Decode {
    /// How many more values the message may have.
    left: usize,
    max: usize,
}

impl Decode {
    fn count(&mut self) -> Result<(), ReadError> {
        self.left = self.left.checked_sub(1).ok_or(ReadError::TooMany { max: self.max })?;
        Ok(())
    }

    fn structure(
        &mut self,
        of: Type,
        via: u16,
        raw: &[u8],
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), ReadError> {
        if depth > DEPTH_MAX {
            return Err(ReadError::Malformed("messages nest too deep"));
        }
        let mut reader = Reader(raw);
        while let Some((tag, value)) = reader.next()? {
            self.count()?;
            if let Some(field) = of.fields().find(|field| field.via() == via && u64::from(field.tag()) == tag) {
                self.field(field, value, object, depth)?;
            } else if let Wired::Bytes(inner) = value
                && let Some(embedded) =
                    of.fields().filter_map(|field| field.embedded_in(via)).find(|one| u64::from(*one) == tag)
            {
                self.structure(of, via * 32 + embedded, inner, object, depth + 1)?;
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: Field,
        value: Wired<'_>,
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), ReadError> {
        match (field.shape(), value) {
            (Shape::List(items), value) => {
                let slot = object.entry(field.name()).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(list) = slot else { return Ok(()) };
                match (items.shape(), value) {
                    (_, Wired::Bytes(bytes)) if field.is_wrapped_list() => {
                        let mut reader = Reader(bytes);
                        while let Some((1, value)) = reader.next()? {
                            self.count()?;
                            list.push(self.item(items, value, depth)?);
                        }
                    }
                    // Numbers may come packed.
                    (Shape::Int32 | Shape::Int64 | Shape::Bool, Wired::Bytes(packed)) => {
                        let mut packed = Reader(packed);
                        while !packed.0.is_empty() {
                            self.count()?;
                            let number = Wired::Varint(packed.varint()?);
                            list.push(self.value(items.shape(), number, None, depth)?);
                        }
                    }
                    (_, value) => list.push(self.item(items, value, depth)?),
                }
            }
            (Shape::Map(items), Wired::Bytes(entry)) => {
                let slot = object.entry(field.name()).or_insert_with(|| Value::Object(Map::new()));
                let (mut key, mut found) = (String::new(), None);
                let mut reader = Reader(entry);
                while let Some((tag, value)) = reader.next()? {
                    match (tag, value) {
                        (1, Wired::Bytes(bytes)) => key = text(bytes)?,
                        (2, value) => found = Some(self.item(items, value, depth)?),
                        _ => {}
                    }
                }
                let found = match found {
                    Some(found) => found,
                    None => self.item(items, Wired::Bytes(&[]), depth)?,
                };
                if let Value::Object(map) = slot {
                    map.insert(key, found);
                }
            }
            (shape, value) => {
                let before = object.remove(field.name());
                let read = self.value(shape, value, before, depth)?;
                object.insert(field.name().to_owned(), read);
            }
        }
        Ok(())
    }

    fn item(&mut self, items: Items, value: Wired<'_>, depth: usize) -> Result<Value, ReadError> {
        match (items.shape(), value) {
            (Shape::List(inner), Wired::Bytes(bytes)) => {
                let mut list = Vec::new();
                let mut reader = Reader(bytes);
                while let Some((tag, value)) = reader.next()? {
                    if tag == 1 {
                        self.count()?;
                        list.push(self.item(inner, value, depth + 1)?);
                    }
                }
                Ok(Value::Array(list))
            }
            (shape, value) => self.value(shape, value, None, depth),
        }
    }

    /// `before` is what an earlier occurrence of the field has left: messages merge.
    fn value(
        &mut self,
        shape: Shape,
        value: Wired<'_>,
        before: Option<Value>,
        depth: usize,
    ) -> Result<Value, ReadError> {
        Ok(match (shape, value) {
            (Shape::Bool, Wired::Varint(number)) => Value::Bool(number != 0),
            (Shape::Int32, Wired::Varint(number)) => {
                // Go takes the lower half of the number.
                #[allow(clippy::cast_possible_truncation)]
                let number = number as u32;
                number.cast_signed().into()
            }
            (Shape::Int64, Wired::Varint(number)) => number.cast_signed().into(),
            (Shape::Float, Wired::Fixed64(bits)) => crate::decode::float(f64::from_bits(bits)),
            (Shape::String, Wired::Bytes(bytes)) => Value::String(text(bytes)?),
            (Shape::Bytes, Wired::Bytes(bytes)) => Value::String(base64_text::encode(bytes)),
            (Shape::Struct(of), Wired::Bytes(bytes)) => {
                let mut object = match before {
                    Some(Value::Object(object)) => object,
                    _ => Map::new(),
                };
                self.structure(of, 0, bytes, &mut object, depth + 1)?;
                Value::Object(object)
            }
            (Shape::Json | Shape::RawExtension | Shape::FieldsV1, Wired::Bytes(bytes)) => raw_json(bytes)?,
            (Shape::Time, Wired::Bytes(bytes)) => time(bytes, "%Y-%m-%dT%H:%M:%SZ")?,
            (Shape::MicroTime, Wired::Bytes(bytes)) => time(bytes, "%Y-%m-%dT%H:%M:%S.%6fZ")?,
            (Shape::Duration, Wired::Bytes(_)) => Value::String("0s".to_owned()),
            (Shape::Quantity, Wired::Bytes(bytes)) => {
                let found = first_bytes(bytes, 1)?.unwrap_or_default();
                Value::String(text(found)?)
            }
            (Shape::IntOrString, Wired::Bytes(bytes)) => int_or_string(bytes)?,
            (Shape::SchemaOrArray, Wired::Bytes(bytes)) => self.schemas(bytes, depth)?,
            (Shape::SchemaOrBool, Wired::Bytes(bytes)) => match first_bytes(bytes, 2)? {
                Some(schema) => {
                    self.value(Shape::Struct(Type::json_schema()), Wired::Bytes(schema), None, depth + 1)?
                }
                None => {
                    let mut reader = Reader(bytes);
                    let mut allows = false;
                    while let Some((tag, value)) = reader.next()? {
                        if let (1, Wired::Varint(number)) = (tag, value) {
                            allows = number != 0;
                        }
                    }
                    Value::Bool(allows)
                }
            },
            (Shape::SchemaOrStrings, Wired::Bytes(bytes)) => match first_bytes(bytes, 1)? {
                Some(schema) => {
                    self.value(Shape::Struct(Type::json_schema()), Wired::Bytes(schema), None, depth + 1)?
                }
                None => {
                    let mut names = Vec::new();
                    let mut reader = Reader(bytes);
                    while let Some((tag, value)) = reader.next()? {
                        if let (2, Wired::Bytes(name)) = (tag, value) {
                            self.count()?;
                            names.push(Value::String(text(name)?));
                        }
                    }
                    Value::Array(names)
                }
            },
            _ => return Err(ReadError::Malformed("proto: wrong wireType for field")),
        })
    }

    fn schemas(&mut self, bytes: &[u8], depth: usize) -> Result<Value, ReadError> {
        let of = Shape::Struct(Type::json_schema());
        if let Some(schema) = first_bytes(bytes, 1)? {
            return self.value(of, Wired::Bytes(schema), None, depth + 1);
        }
        let mut list = Vec::new();
        let mut reader = Reader(bytes);
        while let Some((tag, value)) = reader.next()? {
            if tag == 2 {
                self.count()?;
                list.push(self.value(of, value, None, depth + 1)?);
            }
        }
        Ok(Value::Array(list))
    }
}

fn raw_json(bytes: &[u8]) -> Result<Value, ReadError> {
    match first_bytes(bytes, 1)? {
        None | Some([]) => Ok(Value::Null),
        Some(raw) => serde_json::from_slice(raw).map_err(|_| ReadError::Malformed("a raw extension is not JSON")),
    }
}

fn time(bytes: &[u8], form: &str) -> Result<Value, ReadError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0_i64, 0_i64);
    let mut reader = Reader(bytes);
    while let Some((tag, value)) = reader.next()? {
        match (tag, value) {
            (1, Wired::Varint(number)) => seconds = number.cast_signed(),
            (2, Wired::Varint(number)) => nanos = number.cast_signed().clamp(0, 999_999_999),
            _ => {}
        }
    }
    let nanos = i32::try_from(nanos).expect("it was clamped");
    let time = Timestamp::new(seconds, nanos).map_err(|_| ReadError::Malformed("a time is out of range"))?;
    Ok(Value::String(time.strftime(form).to_string()))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ReadError> {
    let (mut is_text, mut number, mut found) = (false, 0_i64, String::new());
    let mut reader = Reader(bytes);
    while let Some((tag, value)) = reader.next()? {
        match (tag, value) {
            (1, Wired::Varint(kind)) => is_text = kind == 1,
            (2, Wired::Varint(value)) => number = value.cast_signed(),
            (3, Wired::Bytes(value)) => found = text(value)?,
            _ => {}
        }
    }
    Ok(if is_text { Value::String(found) } else { number.into() })
}

fn first_bytes(bytes: &[u8], sought: u64) -> Result<Option<&[u8]>, ReadError> {
    let mut reader = Reader(bytes);
    let mut found = None;
    while let Some((tag, value)) = reader.next()? {
        if let Wired::Bytes(value) = value
            && tag == sought
        {
            found = Some(value);
        }
    }
    Ok(found)
}

/// Go takes bytes that are no UTF-8 and writes replacement characters into JSON.
fn text(bytes: &[u8]) -> Result<String, ReadError> {
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// A value on the wire.
#[derive(Clone, Copy)]
enum Wired<'b> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'b [u8]),
    Fixed32,
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn next(&mut self) -> Result<Option<(u64, Wired<'b>)>, ReadError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Wired::Varint(self.varint()?),
            1 => {
                let bytes: [u8; 8] = self.take(8)?.try_into().expect("eight were taken");
                Wired::Fixed64(u64::from_le_bytes(bytes))
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| CUT)?;
                Wired::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wired::Fixed32
            }
            _ => return Err(ReadError::Malformed("proto: illegal wireType")),
        };
        match key >> 3 {
            0 => Err(ReadError::Malformed("proto: illegal tag 0")),
            tag => Ok(Some((tag, value))),
        }
    }

    fn varint(&mut self) -> Result<u64, ReadError> {
        let mut value = 0_u64;
        for (position, byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * position);
            if byte & 0x80 == 0 {
                self.0 = &self.0[position + 1..];
                return Ok(value);
            }
        }
        if self.0.len() >= 10 { Err(ReadError::Malformed("proto: integer overflow")) } else { Err(CUT) }
    }

    fn take(&mut self, count: usize) -> Result<&'b [u8], ReadError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(CUT)?;
        self.0 = rest;
        Ok(taken)
    }
}
