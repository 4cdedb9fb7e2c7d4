//! What server-side apply must know of a kind: which values belong together, and what makes an item of a list itself.
//!
//! Three things implement [`ApplySchema`]: the tables of built-in types ([`BuiltinSchema`]), the structural schema of a custom
//! resource, and [`Untyped`], where nothing is known.

mod builtin;

use std::sync::Arc;

pub use builtin::BuiltinSchema;
use serde_json::Value;

/// Plain values that a place may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalarType {
    /// A number, whole or not.
    Numeric,
    /// A text.
    String,
    /// A truth value.
    Boolean,
    /// Any of them: quantities, times, int-or-string.
    Untyped,
}

/// How the items of a list belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// The list has one owner.
    Atomic,
    /// Items are plain values that differ (`x-kubernetes-list-type: set`).
    Set,
    /// Items are objects that differ in their keys (`x-kubernetes-list-type: map`).
    Map,
}

/// How the fields of a map or a struct belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapType {
    /// Each field has its own owner.
    Granular,
    /// The map has one owner (`x-kubernetes-map-type: atomic`).
    Atomic,
}

/// A place in the schema of a kind.
///
/// A place may take more than one form: where a schema names no type, a value may be plain, a list or a map. The form of
/// the value then decides.
pub trait ApplySchema: Copy {
    /// Which plain values may be here, if any.
    fn scalar(self) -> Option<ScalarType>;

    /// How a list that is here is owned, if one may be here.
    fn list(self) -> Option<ListType>;

    /// How a map or struct that is here is owned, if one may be here.
    fn map(self) -> Option<MapType>;

    /// The names of the fields that make an item of the list itself; empty but for [`ListType::Map`].
    fn keys(self) -> Vec<Arc<str>>;

    /// What the items of the list are.
    fn item(self) -> Self;

    /// What a declared field of the map is. A map of labels has none.
    fn field(self, name: &str) -> Option<Self>;

    /// Whether the map declares fields at all.
    fn has_fields(self) -> bool;

    /// What the fields are that the map does not declare; `None` when it allows no others.
    fn other_fields(self) -> Option<Self>;

    /// The default of a declared field, for keys that an item leaves out.
    fn field_default(self, name: &str) -> Option<Value>;

    /// Whether nothing is known here, so that maps are granular and lists atomic ([`Untyped::Deduced`]).
    fn is_deduced(self) -> bool {
        false
    }
}

/// A place of which nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untyped {
    /// Each field of a map has its own owner, as for a custom resource that keeps unknown fields.
    Deduced,
    /// The value has one owner, whatever it is.
    Atomic,
}

impl ApplySchema for Untyped {
    fn scalar(self) -> Option<ScalarType> {
        Some(ScalarType::Untyped)
    }

    fn list(self) -> Option<ListType> {
        Some(ListType::Atomic)
    }

    fn map(self) -> Option<MapType> {
        Some(match self {
            Self::Deduced => MapType::Granular,
            Self::Atomic => MapType::Atomic,
        })
    }

    fn keys(self) -> Vec<Arc<str>> {
        Vec::new()
    }

    fn item(self) -> Self {
        Self::Atomic
    }

    fn field(self, _: &str) -> Option<Self> {
        None
    }

    fn has_fields(self) -> bool {
        false
    }

    fn other_fields(self) -> Option<Self> {
        Some(self)
    }

    fn field_default(self, _: &str) -> Option<Value> {
        None
    }

    fn is_deduced(self) -> bool {
        self == Self::Deduced
    }
}

/// The form that a value takes at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Map(MapType),
    Scalar(ScalarType),
    List(ListType),
    /// The schema allows nothing here. Values are checked before they are walked, so this is met only where a schema became
    /// stricter than what is stored: the value is then one.
    Unknown,
}

/// The form of a value: its own where the place allows it, else the first that the place allows.
pub(crate) fn form<S: ApplySchema>(schema: Option<S>, value: Option<&Value>) -> Form {
    let Some(schema) = schema else { return Form::Unknown };
    let own = match value {
        None | Some(Value::Null) => None,
        Some(Value::Array(_)) => schema.list().map(Form::List),
        Some(Value::Object(_)) => schema.map().map(Form::Map),
        Some(_) => schema.scalar().map(Form::Scalar),
    };
    own.or_else(|| schema.map().map(Form::Map))
        .or_else(|| schema.scalar().map(Form::Scalar))
        .or_else(|| schema.list().map(Form::List))
        .unwrap_or(Form::Unknown)
}

/// What a field of a map is, declared or not.
pub(crate) fn field_of<S: ApplySchema>(schema: S, name: &str) -> Option<S> {
    schema.field(name).or_else(|| schema.other_fields())
}
