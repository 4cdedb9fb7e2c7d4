//! OpenAPI v2 documents in protobuf, which client-go's discovery requests.
//!
//! The messages are those of gnostic (`openapiv2/OpenAPIv2.proto`): a document in JSON, each of its objects as a message
//! whose fields have numbers, maps as lists of pairs, and what has no type (extensions, examples) as YAML. Paths and
//! definitions are converted one at a time, so that never more than one of them is held as values.

use machinery_schema::yaml::to_yaml_of_documents;
use serde_json::{Map, Value, value::RawValue};

/// How a member of an object is written.
#[derive(Clone, Copy)]
enum Field {
    Text,
    Texts,
    Flag,
    Whole,
    Float,
    Any,
    AnyEach,
    Message(Message),
    Each(Message),
    /// Pairs of a name and a message, in a message of their own.
    Map(Message),
    /// One text or several, in a message of their own.
    Type,
    /// One schema, in a message of its own.
    Items,
    SchemaOrFlag,
    Parameter,
    ParameterEach,
    ResponseEach,
    SecurityEach,
}

/// The objects that published documents have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Path,
    Operation,
    Schema,
    ExternalDocs,
    Response,
    Body,
    Parameter,
    Query,
    Header,
    PrimitiveItems,
    ApiKey,
}

impl Message {
    /// Members by the numbers of their fields, which is the order in which they are written.
    fn fields(self) -> &'static [(&'static str, u32, Field)] {
        use Field::{
            Any, AnyEach, Each, Flag, Float, Items, Map, Message as Part, ParameterEach, ResponseEach, SchemaOrFlag,
            SecurityEach, Text, Texts, Type, Whole,
        };
        match self {
            Self::Path => &[
                ("$ref", 1, Text),
                ("get", 2, Part(Self::Operation)),
                ("put", 3, Part(Self::Operation)),
                ("post", 4, Part(Self::Operation)),
                ("delete", 5, Part(Self::Operation)),
                ("options", 6, Part(Self::Operation)),
                ("head", 7, Part(Self::Operation)),
                ("patch", 8, Part(Self::Operation)),
                ("parameters", 9, ParameterEach),
            ],
            Self::Operation => &[
                ("tags", 1, Texts),
                ("summary", 2, Text),
                ("description", 3, Text),
                ("externalDocs", 4, Part(Self::ExternalDocs)),
                ("operationId", 5, Text),
                ("produces", 6, Texts),
                ("consumes", 7, Texts),
                ("parameters", 8, ParameterEach),
                ("responses", 9, ResponseEach),
                ("schemes", 10, Texts),
                ("deprecated", 11, Flag),
                ("security", 12, SecurityEach),
            ],
            Self::Schema => &[
                ("$ref", 1, Text),
                ("format", 2, Text),
                ("title", 3, Text),
                ("description", 4, Text),
                ("default", 5, Any),
                ("multipleOf", 6, Float),
                ("maximum", 7, Float),
                ("exclusiveMaximum", 8, Flag),
                ("minimum", 9, Float),
                ("exclusiveMinimum", 10, Flag),
                ("maxLength", 11, Whole),
                ("minLength", 12, Whole),
                ("pattern", 13, Text),
                ("maxItems", 14, Whole),
                ("minItems", 15, Whole),
                ("uniqueItems", 16, Flag),
                ("maxProperties", 17, Whole),
                ("minProperties", 18, Whole),
                ("required", 19, Texts),
                ("enum", 20, AnyEach),
                ("additionalProperties", 21, SchemaOrFlag),
                ("type", 22, Type),
                ("items", 23, Items),
                ("allOf", 24, Each(Self::Schema)),
                ("properties", 25, Map(Self::Schema)),
                ("discriminator", 26, Text),
                ("readOnly", 27, Flag),
                ("externalDocs", 29, Part(Self::ExternalDocs)),
                ("example", 30, Any),
            ],
            Self::ExternalDocs => &[("description", 1, Text), ("url", 2, Text)],
            // Of a schema or a file; published responses have the first alone, in a message of its own.
            Self::Response => &[("description", 1, Text), ("schema", 2, Items)],
            Self::Body => &[
                ("description", 1, Text),
                ("name", 2, Text),
                ("in", 3, Text),
                ("required", 4, Flag),
                ("schema", 5, Part(Self::Schema)),
            ],
            // Those in the path, and those in headers.
            Self::Parameter | Self::Header => &[
                ("required", 1, Flag),
                ("in", 2, Text),
                ("description", 3, Text),
                ("name", 4, Text),
                ("type", 5, Text),
                ("format", 6, Text),
                ("items", 7, Part(Self::PrimitiveItems)),
                ("collectionFormat", 8, Text),
                ("default", 9, Any),
                ("maximum", 10, Float),
                ("exclusiveMaximum", 11, Flag),
                ("minimum", 12, Float),
                ("exclusiveMinimum", 13, Flag),
                ("maxLength", 14, Whole),
                ("minLength", 15, Whole),
                ("pattern", 16, Text),
                ("maxItems", 17, Whole),
                ("minItems", 18, Whole),
                ("uniqueItems", 19, Flag),
                ("enum", 20, AnyEach),
                ("multipleOf", 21, Float),
            ],
            Self::Query => &[
                ("required", 1, Flag),
                ("in", 2, Text),
                ("description", 3, Text),
                ("name", 4, Text),
                ("allowEmptyValue", 5, Flag),
                ("type", 6, Text),
                ("format", 7, Text),
                ("items", 8, Part(Self::PrimitiveItems)),
                ("collectionFormat", 9, Text),
                ("default", 10, Any),
                ("maximum", 11, Float),
                ("exclusiveMaximum", 12, Flag),
                ("minimum", 13, Float),
                ("exclusiveMinimum", 14, Flag),
                ("maxLength", 15, Whole),
                ("minLength", 16, Whole),
                ("pattern", 17, Text),
                ("maxItems", 18, Whole),
                ("minItems", 19, Whole),
                ("uniqueItems", 20, Flag),
                ("enum", 21, AnyEach),
                ("multipleOf", 22, Float),
            ],
            Self::PrimitiveItems => &[
                ("type", 1, Text),
                ("format", 2, Text),
                ("items", 3, Part(Self::PrimitiveItems)),
                ("collectionFormat", 4, Text),
                ("default", 5, Any),
            ],
            Self::ApiKey => &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)],
        }
    }

    /// The field of what begins with `x-`.
    fn extensions(self) -> u32 {
        match self {
            Self::Path => 10,
            Self::Operation => 13,
            Self::Schema => 31,
            Self::ExternalDocs => 3,
            Self::Response | Self::ApiKey => 5,
            Self::Body => 6,
            Self::Parameter | Self::Header => 22,
            Self::Query => 23,
            Self::PrimitiveItems => 18,
        }
    }
}

/// The parts of a document in the order of their fields.
pub(super) struct Document {
    bytes: Vec<u8>,
}

impl Document {
    /// Begins with what comes before the paths.
    pub(super) fn new(swagger: &RawValue, info: &RawValue) -> Self {
        let mut document = Self { bytes: Vec::new() };
        text(1, read(swagger).as_str().unwrap_or_default(), &mut document.bytes);
        let (info, mut message) = (read(info), Vec::new());
        for (number, key) in [(1, "title"), (2, "version"), (3, "description")] {
            text(number, info.get(key).and_then(Value::as_str).unwrap_or_default(), &mut message);
        }
        delimited(2, &message, &mut document.bytes);
        document
    }

    pub(super) fn paths<'p>(&mut self, paths: impl Iterator<Item = (&'p str, &'p str)>) {
        self.pairs(8, 2, Message::Path, paths);
    }

    pub(super) fn definitions<'p>(&mut self, definitions: impl Iterator<Item = (&'p str, &'p str)>) {
        self.pairs(9, 1, Message::Schema, definitions);
    }

    /// Adds what comes behind the definitions.
    pub(super) fn finish(
        mut self,
        parameters: &RawValue,
        security: &RawValue,
        security_definitions: &RawValue,
    ) -> Vec<u8> {
        let mut pairs = Vec::new();
        for (name, value) in read(parameters).as_object().into_iter().flatten() {
            pair(1, name, &parameter(value), &mut pairs);
        }
        delimited(10, &pairs, &mut self.bytes);
        write(12, Field::SecurityEach, &read(security), &mut self.bytes);
        let mut pairs = Vec::new();
        for (name, value) in read(security_definitions).as_object().into_iter().flatten() {
            let mut item = Vec::new();
            delimited(2, &message(Message::ApiKey, value), &mut item);
            pair(1, name, &item, &mut pairs);
        }
        delimited(13, &pairs, &mut self.bytes);
        self.bytes
    }

    fn pairs<'p>(&mut self, number: u32, of: u32, kind: Message, pairs: impl Iterator<Item = (&'p str, &'p str)>) {
        let mut bytes = Vec::new();
        for (name, value) in pairs {
            let value = serde_json::from_str(value).expect("documents are JSON");
            pair(of, name, &message(kind, &value), &mut bytes);
        }
        delimited(number, &bytes, &mut self.bytes);
    }
}

fn read(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).expect("documents are JSON")
}

fn message(kind: Message, value: &Value) -> Vec<u8> {
    let empty = Map::new();
    let members = value.as_object().unwrap_or(&empty);
    let mut out = Vec::new();
    for (key, number, field) in kind.fields() {
        if let Some(value) = members.get(*key) {
            write(*number, *field, value, &mut out);
        }
    }
    for (key, value) in members.iter().filter(|(key, _)| key.starts_with("x-")) {
        pair(kind.extensions(), key, &any(value), &mut out);
    }
    out
}

fn write(number: u32, field: Field, value: &Value, out: &mut Vec<u8>) {
    let items = || value.as_array().into_iter().flatten();
    match field {
        Field::Text => text(number, value.as_str().unwrap_or_default(), out),
        Field::Texts => items().filter_map(Value::as_str).for_each(|item| delimited(number, item.as_bytes(), out)),
        Field::Flag if value == &Value::Bool(true) => {
            tag(number, 0, out);
            out.push(1);
        }
        Field::Flag => {}
        Field::Whole => {
            let whole = value.as_i64().unwrap_or_default();
            if whole != 0 {
                tag(number, 0, out);
                // Negative numbers take their two's complement.
                varint(u64::from_ne_bytes(whole.to_ne_bytes()), out);
            }
        }
        Field::Float => {
            let float = value.as_f64().unwrap_or_default();
            if float.to_bits() != 0 {
                tag(number, 1, out);
                out.extend(float.to_le_bytes());
            }
        }
        Field::Any => delimited(number, &any(value), out),
        Field::AnyEach => items().for_each(|item| delimited(number, &any(item), out)),
        Field::Message(kind) => delimited(number, &message(kind, value), out),
        Field::Each(kind) => items().for_each(|item| delimited(number, &message(kind, item), out)),
        Field::Map(kind) => {
            let mut pairs = Vec::new();
            for (name, value) in value.as_object().into_iter().flatten() {
                pair(1, name, &message(kind, value), &mut pairs);
            }
            delimited(number, &pairs, out);
        }
        Field::Type => {
            let mut types = Vec::new();
            let several = items().filter_map(Value::as_str);
            several.chain(value.as_str()).for_each(|kind| delimited(1, kind.as_bytes(), &mut types));
            delimited(number, &types, out);
        }
        Field::Items => {
            let mut item = Vec::new();
            delimited(1, &message(Message::Schema, value), &mut item);
            delimited(number, &item, out);
        }
        Field::SchemaOrFlag => {
            let mut either = Vec::new();
            match value {
                // The flag is one of two kinds of content, so it is there though it be false.
                Value::Bool(flag) => either.extend([2 << 3, u8::from(*flag)]),
                schema => delimited(1, &message(Message::Schema, schema), &mut either),
            }
            delimited(number, &either, out);
        }
        Field::Parameter => delimited(number, &parameter(value), out),
        Field::ParameterEach => {
            for item in items() {
                let mut either = Vec::new();
                match item.get("$ref") {
                    Some(_) => delimited(2, &reference(item), &mut either),
                    None => write(1, Field::Parameter, item, &mut either),
                }
                delimited(number, &either, out);
            }
        }
        Field::ResponseEach => {
            let mut pairs = Vec::new();
            let members = || value.as_object().into_iter().flatten();
            for (code, response) in members().filter(|(code, _)| !code.starts_with("x-")) {
                let mut either = Vec::new();
                match response.get("$ref") {
                    Some(_) => delimited(2, &reference(response), &mut either),
                    None => delimited(1, &message(Message::Response, response), &mut either),
                }
                pair(1, code, &either, &mut pairs);
            }
            for (key, extension) in members().filter(|(key, _)| key.starts_with("x-")) {
                pair(2, key, &any(extension), &mut pairs);
            }
            delimited(number, &pairs, out);
        }
        Field::SecurityEach => {
            for requirement in items() {
                let mut pairs = Vec::new();
                for (name, scopes) in requirement.as_object().into_iter().flatten() {
                    let mut list = Vec::new();
                    write(1, Field::Texts, scopes, &mut list);
                    pair(1, name, &list, &mut pairs);
                }
                delimited(number, &pairs, out);
            }
        }
    }
}

fn reference(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, key) in [(1, "$ref"), (2, "description")] {
        text(number, value.get(key).and_then(Value::as_str).unwrap_or_default(), &mut out);
    }
    out
}

/// A parameter by where it is.
fn parameter(value: &Value) -> Vec<u8> {
    let (kind, number) = match value.get("in").and_then(Value::as_str) {
        Some("body") => {
            let mut out = Vec::new();
            delimited(1, &message(Message::Body, value), &mut out);
            return out;
        }
        Some("header") => (Message::Header, 1),
        Some("formData") => (Message::Query, 2),
        Some("query") => (Message::Query, 3),
        _ => (Message::Parameter, 4),
    };
    let (mut inner, mut out) = (Vec::new(), Vec::new());
    delimited(number, &message(kind, value), &mut inner);
    delimited(2, &inner, &mut out);
    out
}

fn any(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(2, &to_yaml_of_documents(value), &mut out);
    out
}

/// A name and a message.
fn pair(number: u32, name: &str, value: &[u8], out: &mut Vec<u8>) {
    let mut bytes = Vec::new();
    text(1, name, &mut bytes);
    delimited(2, value, &mut bytes);
    delimited(number, &bytes, out);
}

/// A text, which is left out when it is empty.
fn text(number: u32, text: &str, out: &mut Vec<u8>) {
    if !text.is_empty() {
        delimited(number, text.as_bytes(), out);
    }
}

fn delimited(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    tag(number, 2, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn tag(number: u32, wire: u32, out: &mut Vec<u8>) {
    varint(u64::from(number << 3 | wire), out);
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
