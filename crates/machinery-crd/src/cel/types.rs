//! Types of expressions, and those that a schema gives to values.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::schema::Schema;

/// A type as the checker knows it.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::enum_variant_names, reason = "the type of types is called so in CEL")]
pub(crate) enum Type {
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Duration,
    Timestamp,
    List(Box<Type>),
    Map(Box<Type>, Box<Type>),
    Optional(Box<Type>),
    /// An object with known fields.
    Object(ObjectType),
    /// A type of Kubernetes' libraries.
    Named(&'static str),
    /// The type of types.
    Type,
    /// A parameter of a function, by its number.
    Param(usize),
    /// After an error, which is reported once.
    Error,
}

/// Objects of one place in a schema; two places are two types.
#[derive(Clone, Debug)]
pub(crate) struct ObjectType(pub Arc<Decl>);

impl PartialEq for ObjectType {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What a schema says of a place, as CEL sees it.
#[derive(Debug)]
pub(crate) struct Decl {
    pub kind: DeclKind,
    /// The most characters, items or entries that a value can have.
    pub elements_max: u64,
    /// The fewest bytes of a value as JSON.
    pub bytes_min: u64,
}

#[derive(Debug)]
pub(crate) enum DeclKind {
    Plain(Type),
    List(Arc<Decl>),
    Map(Arc<Decl>),
    Object(BTreeMap<String, Arc<Decl>>),
}

/// The largest request, in bytes.
const REQUEST_BYTES_MAX: u64 = 3 * 1024 * 1024;

impl Decl {
    fn plain(of: Type, elements_max: u64, bytes_min: u64) -> Arc<Self> {
        Arc::new(Self { kind: DeclKind::Plain(of), elements_max, bytes_min })
    }

    /// How often a value of this kind can be in a request.
    pub fn cardinality_max(&self) -> u64 {
        REQUEST_BYTES_MAX / (self.bytes_min + 1)
    }
}

/// The type of a declared place.
pub(crate) fn type_of(decl: &Arc<Decl>) -> Type {
    match &decl.kind {
        DeclKind::Plain(of) => of.clone(),
        DeclKind::List(item) => Type::List(Box::new(type_of(item))),
        DeclKind::Map(value) => Type::Map(Box::new(Type::Text), Box::new(type_of(value))),
        DeclKind::Object(_) => Type::Object(ObjectType(Arc::clone(decl))),
    }
}

/// What a place of a schema is to CEL; nothing when the schema gives it no type.
pub(crate) fn declare(schema: &Schema, is_resource: bool) -> Option<Arc<Decl>> {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let text_max = |otherwise: u64| schema.length_max().map_or(otherwise, |max| unsigned(max).saturating_mul(4));
    if schema.int_or_string {
        return Some(Decl::plain(Type::Dyn, text_max(REQUEST_BYTES_MAX - 2), 1));
    }
    match &*schema.kind {
        "array" => {
            let item = declare(schema.item()?, schema.item()?.embedded_resource)?;
            let max = schema.items_max().map_or_else(|| (REQUEST_BYTES_MAX - 2) / (item.bytes_min + 1), unsigned);
            Some(Arc::new(Decl { kind: DeclKind::List(item), elements_max: max, bytes_min: 2 }))
        }
        "object" => match schema.additional_schema() {
            Some(additional) => {
                let value = declare(additional, additional.embedded_resource)?;
                let max =
                    schema.properties_max().map_or_else(|| (REQUEST_BYTES_MAX - 2) / (value.bytes_min + 6), unsigned);
                Some(Arc::new(Decl { kind: DeclKind::Map(value), elements_max: max, bytes_min: 2 }))
            }
            None => Some(Arc::new(object(schema, is_resource))),
        },
        "string" => Some(match &*schema.format {
            "byte" => Decl::plain(Type::Bytes, schema.length_max().map_or(REQUEST_BYTES_MAX - 2, unsigned), 2),
            "duration" => Decl::plain(Type::Duration, 32, 3),
            "date" => Decl::plain(Type::Timestamp, 12, 12),
            "date-time" => Decl::plain(Type::Timestamp, 32, 21),
            _ => {
                let longest = schema.allowed.iter().filter_map(|value| value.as_str()).map(str::len).max();
                let otherwise = match longest.filter(|_| !schema.allowed.is_empty()) {
                    Some(longest) => longest as u64,
                    None => REQUEST_BYTES_MAX - 2,
                };
                Decl::plain(Type::Text, text_max(otherwise), 2)
            }
        }),
        "boolean" => Some(Decl::plain(Type::Bool, 0, 4)),
        "number" => Some(Decl::plain(Type::Double, 0, 1)),
        "integer" => Some(Decl::plain(Type::Int, 0, 1)),
        _ => None,
    }
}

fn object(schema: &Schema, is_resource: bool) -> Decl {
    let mut fields = BTreeMap::new();
    let mut bytes_min = 2;
    for (name, property) in &schema.properties {
        let Some(decl) = declare(property, property.embedded_resource) else { continue };
        if schema.required.contains(name) && property.default.is_none() {
            bytes_min += name.len() as u64 + decl.bytes_min + 4;
        }
        if let Some(escaped) = escape(name) {
            fields.insert(escaped, decl);
        }
    }
    if is_resource {
        let text = || Decl::plain(Type::Text, REQUEST_BYTES_MAX - 2, 2);
        fields.insert("kind".to_owned(), text());
        fields.insert("apiVersion".to_owned(), text());
        let names = BTreeMap::from([("name".to_owned(), text()), ("generateName".to_owned(), text())]);
        let metadata = Decl { kind: DeclKind::Object(names), elements_max: 0, bytes_min: 2 };
        fields.insert("metadata".to_owned(), Arc::new(metadata));
    }
    Decl { kind: DeclKind::Object(fields), elements_max: 0, bytes_min }
}

/// Words that CEL keeps for itself; a field of that name is written `__in__`.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether a word is one that CEL keeps for itself: no variable has such a name.
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// A field's name as an expression writes it; nothing when it cannot.
pub(crate) fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|char: char| char.is_ascii_digit()) {
        return None;
    }
    if is_reserved(name) {
        return Some(format!("__{name}__"));
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(char) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            out.push_str("__underscores__");
            rest = after;
            continue;
        }
        match char {
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            '_' => out.push('_'),
            _ if char.is_ascii_alphanumeric() => out.push(char),
            _ => return None,
        }
        rest = &rest[char.len_utf8()..];
    }
    Some(out)
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::Text => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Duration => f.write_str("duration"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::List(item) => write!(f, "list({item})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Optional(inner) => write!(f, "optional_type({inner})"),
            Self::Object(_) => f.write_str("object"),
            Self::Named(name) => f.write_str(name),
            Self::Type => f.write_str("type"),
            Self::Param(number) => write!(f, "_var{number}"),
            Self::Error => f.write_str("!error!"),
        }
    }
}
