//! The types of the Kubernetes API as static tables: what Go makes of them on the wire, and what the server publishes.
//!
//! [`Type`], [`Field`] and [`Shape`] are numbers into tables that `build.rs` makes of published files (`definitions/`); they
//! cost nothing to copy and nothing to start with.
//!
//! ```
//! use machinery_schema::types::{Shape, Type};
//! let pod = Type::of_kind("", "v1", "Pod").expect("pods are published");
//! let spec = pod.field("spec").expect("a pod has a spec");
//! let Shape::Struct(spec) = spec.shape() else { panic!("a spec is a struct") };
//! assert_eq!(spec.go_name(), "PodSpec");
//! let containers = spec.field("containers").expect("it has containers");
//! assert!(containers.merges() && containers.merge_key() == "name" && containers.tag() == 2);
//! ```

use std::fmt;

/// A struct of the API.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Type(u16);

/// A field of a struct, as JSON has it: fields of embedded structs are fields of the struct.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Field(u16);

/// What a list or a map holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Items(u16);

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// `true` or `false`.
    Bool,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// A number.
    Float,
    /// Text, of a plain or a named type.
    String,
    /// Bytes, in base64.
    Bytes,
    /// A time in whole seconds.
    Time,
    /// A time with six digits of a fraction.
    MicroTime,
    /// A duration such as `1m30s`.
    Duration,
    /// A quantity such as `500m`.
    Quantity,
    /// A whole number or text.
    IntOrString,
    /// Any object, kept as it is.
    RawExtension,
    /// A set of fields, kept as it is.
    FieldsV1,
    /// Any JSON, kept as it is.
    Json,
    /// A JSON schema or a list of them.
    SchemaOrArray,
    /// A JSON schema, or whether one is allowed.
    SchemaOrBool,
    /// A JSON schema or a list of texts.
    SchemaOrStrings,
    /// A struct.
    Struct(Type),
    /// A list.
    List(Items),
    /// A map from texts.
    Map(Items),
}

/// When a field is left out of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omit {
    /// Never: a zero value is written, and nil as `null`.
    Never,
    /// When it is zero, nil or empty; a struct that is no pointer is always written.
    Empty,
    /// When it is zero, structs too.
    Zero,
}

/// How a value goes over the wire in protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Numbers and flags.
    Varint,
    /// Floating-point numbers.
    Fixed64,
    /// Texts, bytes and messages.
    Bytes,
}

/// How server-side apply takes a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// As a whole.
    Atomic,
    /// As a set of scalars.
    Set,
    /// As a map by keys of its items.
    Map,
}

#[derive(Clone, Copy)]
struct Text(u32, u16);

struct TypeRow {
    name: Text,
    go: Text,
    first: u16,
    count: u16,
    is_atomic: bool,
}

struct FieldRow {
    name: Text,
    go: Text,
    shape: u16,
    is_pointer: bool,
    omit: Omit,
    tag: u16,
    via: u16,
    wire: Wire,
    merges: bool,
    retains_keys: bool,
    key: Text,
    default: Text,
}

struct ShapeRow {
    kind: ShapeKind,
    of: u16,
    go: Text,
    list: ListType,
    keys: Text,
    is_atomic: bool,
}

struct KindRow {
    group: Text,
    version: Text,
    kind: Text,
    of: u16,
}

#[derive(Clone, Copy)]
enum ShapeKind {
    Bool,
    Int32,
    Int64,
    Float,
    String,
    Bytes,
    Time,
    MicroTime,
    #[expect(dead_code, reason = "no kind of 1.36 has one; the next version may")]
    Duration,
    Quantity,
    IntOrString,
    RawExtension,
    FieldsV1,
    Json,
    SchemaOrArray,
    SchemaOrBool,
    SchemaOrStrings,
    Struct,
    List,
    Map,
}

include!(concat!(env!("OUT_DIR"), "/tables.rs"));

impl Text {
    fn get(self) -> &'static str {
        let start = self.0 as usize;
        &TEXT[start..start + usize::from(self.1)]
    }
}

impl Type {
    /// The type of a kind that is served.
    pub fn of_kind(group: &str, version: &str, kind: &str) -> Option<Self> {
        let sought = (group, version, kind);
        let found = KINDS.binary_search_by(|row| (row.group.get(), row.version.get(), row.kind.get()).cmp(&sought));
        found.ok().map(|position| Self(KINDS[position].of))
    }

    /// The type with a full name, such as `io.k8s.api.core.v1.PodSpec`.
    pub fn named(name: &str) -> Option<Self> {
        let position = TYPES_BY_NAME.binary_search_by(|number| Self(*number).name().cmp(name)).ok()?;
        Some(Self(TYPES_BY_NAME[position]))
    }

    /// The type of `metadata`.
    pub fn object_meta() -> Self {
        Self::named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("every kind has metadata")
    }

    /// The type of a JSON schema in a CustomResourceDefinition.
    pub(crate) fn json_schema() -> Self {
        Self::named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
            .expect("CustomResourceDefinitions are published")
    }

    fn row(self) -> &'static TypeRow {
        &TYPES[usize::from(self.0)]
    }

    /// The full name, such as `io.k8s.api.core.v1.PodSpec`: the name of the schema in OpenAPI documents.
    pub fn name(self) -> &'static str {
        self.row().name.get()
    }

    /// The name of the struct in Go, as error messages have it: `PodSpec`.
    pub fn go_name(self) -> &'static str {
        self.row().go.get()
    }

    /// Whether server-side apply takes the struct as a whole.
    pub fn is_atomic(self) -> bool {
        self.row().is_atomic
    }

    /// Its fields, by name.
    pub fn fields(self) -> impl ExactSizeIterator<Item = Field> {
        let row = self.row();
        (row.first..row.first + row.count).map(Field)
    }

    /// The field with a name.
    pub fn field(self, name: &str) -> Option<Field> {
        let row = self.row();
        let rows = &FIELDS[usize::from(row.first)..usize::from(row.first + row.count)];
        let position = rows.binary_search_by(|field| field.name.get().cmp(name)).ok()?;
        Some(Field(row.first + u16::try_from(position).expect("a type has few fields")))
    }
}

impl fmt::Debug for Type {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl Field {
    fn row(self) -> &'static FieldRow {
        &FIELDS[usize::from(self.0)]
    }

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        self.row().name.get()
    }

    /// The name in Go.
    pub fn go_name(self) -> &'static str {
        self.row().go.get()
    }

    /// The type in Go, as error messages have it: `[]v1.Container`.
    pub fn go_type(self) -> &'static str {
        SHAPES[usize::from(self.row().shape)].go.get()
    }

    /// What the value is.
    pub fn shape(self) -> Shape {
        shape_of(self.row().shape)
    }

    /// Whether it can be nil although its type cannot.
    pub fn is_pointer(self) -> bool {
        self.row().is_pointer
    }

    /// When JSON leaves it out.
    pub fn omit(self) -> Omit {
        self.row().omit
    }

    /// Its number in protobuf; zero when it is not sent.
    pub fn tag(self) -> u16 {
        self.row().tag
    }

    /// The messages within which it is sent in protobuf, for fields of embedded structs: their tags as digits to the base
    /// of 32, the outermost first; zero for others.
    pub(crate) fn via(self) -> u16 {
        self.row().via
    }

    /// Sorts the fields of a struct in the order in which Go declares them, which is that of their tags; fields of an embedded
    /// struct are in its place.
    pub fn declared(self) -> [u16; 4] {
        let (via, tag) = (self.row().via, self.row().tag);
        match (via / 1024, via / 32 % 32, via % 32) {
            (0, 0, 0) => [tag, 0, 0, 0],
            (0, 0, first) => [first, tag, 0, 0],
            (0, first, second) => [first, second, tag, 0],
            (first, second, third) => [first, second, third, tag],
        }
    }

    /// The tag of the embedded message within `via` on the way to this field, if that is on the way.
    pub(crate) fn embedded_in(self, via: u16) -> Option<u16> {
        let mut rest = self.row().via;
        while rest > via {
            if rest / 32 == via {
                return Some(rest % 32);
            }
            rest /= 32;
        }
        None
    }

    /// How it is sent in protobuf.
    pub fn wire(self) -> Wire {
        self.row().wire
    }

    /// Whether its list is sent in protobuf as a message that holds the items: Go has a named type for it.
    pub(crate) fn is_wrapped_list(self) -> bool {
        self.go_type() == "v1.Verbs"
    }

    /// Whether a strategic merge patch merges its list or map.
    pub fn merges(self) -> bool {
        self.row().merges
    }

    /// Whether a strategic merge patch may name the keys that are retained.
    pub fn retains_keys(self) -> bool {
        self.row().retains_keys
    }

    /// The key by which a strategic merge patch merges its list; empty for lists of scalars.
    pub fn merge_key(self) -> &'static str {
        self.row().key.get()
    }

    /// What OpenAPI publishes as its default, as JSON; empty when there is none.
    pub fn default_json(self) -> &'static str {
        self.row().default.get()
    }

    /// How server-side apply takes its list.
    pub fn list_type(self) -> ListType {
        SHAPES[usize::from(self.row().shape)].list
    }

    /// The keys of its list of type map.
    pub fn list_keys(self) -> impl Iterator<Item = &'static str> {
        SHAPES[usize::from(self.row().shape)].keys.get().split(',').filter(|key| !key.is_empty())
    }

    /// Whether server-side apply takes its map or struct as a whole.
    pub fn is_atomic(self) -> bool {
        SHAPES[usize::from(self.row().shape)].is_atomic
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl Items {
    /// What each of them is.
    pub fn shape(self) -> Shape {
        shape_of(self.0)
    }

    /// Their type in Go.
    pub fn go_type(self) -> &'static str {
        SHAPES[usize::from(self.0)].go.get()
    }

    /// How server-side apply takes them, when they are lists.
    pub fn list_type(self) -> ListType {
        SHAPES[usize::from(self.0)].list
    }

    /// Whether server-side apply takes each as a whole.
    pub fn is_atomic(self) -> bool {
        SHAPES[usize::from(self.0)].is_atomic
    }
}

impl fmt::Debug for Items {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", self.shape())
    }
}

fn shape_of(number: u16) -> Shape {
    let row = &SHAPES[usize::from(number)];
    match row.kind {
        ShapeKind::Bool => Shape::Bool,
        ShapeKind::Int32 => Shape::Int32,
        ShapeKind::Int64 => Shape::Int64,
        ShapeKind::Float => Shape::Float,
        ShapeKind::String => Shape::String,
        ShapeKind::Bytes => Shape::Bytes,
        ShapeKind::Time => Shape::Time,
        ShapeKind::MicroTime => Shape::MicroTime,
        ShapeKind::Duration => Shape::Duration,
        ShapeKind::Quantity => Shape::Quantity,
        ShapeKind::IntOrString => Shape::IntOrString,
        ShapeKind::RawExtension => Shape::RawExtension,
        ShapeKind::FieldsV1 => Shape::FieldsV1,
        ShapeKind::Json => Shape::Json,
        ShapeKind::SchemaOrArray => Shape::SchemaOrArray,
        ShapeKind::SchemaOrBool => Shape::SchemaOrBool,
        ShapeKind::SchemaOrStrings => Shape::SchemaOrStrings,
        ShapeKind::Struct => Shape::Struct(Type(row.of)),
        ShapeKind::List => Shape::List(Items(row.of)),
        ShapeKind::Map => Shape::Map(Items(row.of)),
    }
}

/// The type of every kind that is served.
pub fn all_kinds() -> impl Iterator<Item = Type> {
    KINDS.iter().map(|row| Type(row.of))
}
