//! Structural schemas: what a CustomResourceDefinition says about its objects.
//!
//! A schema is parsed once, when its definition is installed; parsing reports the rules that it breaks. Expressions in
//! `x-kubernetes-validations` are carried in the document but not evaluated, which the installer warns of.

mod apply;
mod check;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde_json::{Number, Value};

use machinery_schema::{Budget, BudgetExceeded, FieldError};

/// The schema of one version of a custom resource.
#[derive(Debug)]
pub struct Structural {
    root: Node,
    /// Whether some node carries an expression that is not evaluated.
    pub has_expressions: bool,
}

/// One place in a schema.
#[derive(Debug, std::default::Default)]
struct Node {
    kind: Option<NodeType>,
    nullable: bool,
    int_or_string: bool,
    preserve_unknown: bool,
    embedded_resource: bool,
    properties: BTreeMap<Box<str>, Node>,
    additional: Option<Additional>,
    items: Option<Box<Node>>,
    required: Vec<Box<str>>,
    default: Option<Default>,
    allowed: Option<Vec<Value>>,
    limits: Option<Box<Limits>>,
    logic: Option<Box<Logic>>,
    list_type: ListType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeType {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

/// What keys besides `properties` may hold.
#[derive(Debug)]
enum Additional {
    Any,
    Schema(Box<Node>),
}

/// A default, and what a copy of it costs.
#[derive(Debug)]
struct Default {
    value: Value,
    steps: u64,
}

impl Default {
    fn of(value: Value) -> Self {
        Self { steps: apply::copy_steps(&value), value }
    }
}

/// A pattern, and what it costs to look at one more byte with it.
#[derive(Debug)]
struct Pattern {
    regex: Regex,
    steps_per_byte: u64,
}

#[derive(Debug, std::default::Default)]
enum ListType {
    #[default]
    Atomic,
    Set,
    Map(Vec<Box<str>>),
}

/// Bounds of a value; boxed because most nodes have none.
#[derive(Debug, std::default::Default)]
struct Limits {
    minimum: Option<Number>,
    maximum: Option<Number>,
    exclusive_minimum: bool,
    exclusive_maximum: bool,
    multiple_of: Option<f64>,
    length_min: Option<usize>,
    length_max: Option<usize>,
    pattern: Option<Pattern>,
    format: Option<Format>,
    items_min: Option<usize>,
    items_max: Option<usize>,
    unique_items: bool,
    properties_min: Option<usize>,
    properties_max: Option<usize>,
}

/// Formats that are checked; others say nothing, as upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    DateTime,
    Date,
    Int32,
    Int64,
    Byte,
    Ipv4,
    Ipv6,
    Uuid,
}

/// Combined schemas, which check values but do not shape them.
#[derive(Debug, std::default::Default)]
struct Logic {
    all_of: Vec<Node>,
    any_of: Vec<Node>,
    one_of: Vec<Node>,
    not: Option<Node>,
}

impl NodeType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

impl Structural {
    /// Reads `openAPIV3Schema`; `path` is where it is in the definition.
    pub fn parse(schema: &Value, path: &str) -> Result<Self, Vec<FieldError>> {
        parse::parse(schema, path)
    }

    /// Removes unknown fields; returns the paths of the first hundred.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        if let Some(metadata) = object.get_mut("metadata") {
            unknown = machinery_schema::builtin::prune_metadata(metadata);
        }
        apply::prune(&self.root, object, &mut unknown);
        unknown.sort();
        unknown
    }

    /// Fills in `default`s. A null where none is allowed counts as absent when there is a default.
    pub fn apply_defaults(&self, object: &mut Value, budget: &mut Budget) -> Result<(), BudgetExceeded> {
        apply::defaults(&self.root, object, 0, budget)
    }

    /// Checks the object against the schema; `metadata` is not checked here.
    pub fn validate(&self, object: &Value, budget: &mut Budget) -> Vec<FieldError> {
        check::check_whole(&self.root, object, "", budget)
    }
}
