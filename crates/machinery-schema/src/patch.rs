//! What a strategic merge patch must know of a type: which lists are merged, and by which key.

use crate::types::{Field, Shape, Type};

/// A place in a built-in type, walked along with a patch.
#[derive(Clone, Copy, Debug)]
pub struct PatchSchema {
    shape: Option<Shape>,
}

/// A field as a strategic merge patch sees it.
#[derive(Clone, Copy, Debug)]
pub struct PatchField {
    /// What the field's value looks like when it is an object; what its items look like when it is a list.
    pub schema: PatchSchema,
    /// What a patch does when the field is a list.
    pub list: ListStrategy,
}

/// What a strategic merge patch does with a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListStrategy {
    /// The patch's list takes the place of the old one.
    Replace,
    /// Items that are objects merge with the one that has the same value under this key.
    MergeByKey(&'static str),
    /// Items that are plain values are added when they are not there yet.
    MergeAsSet,
}

impl PatchSchema {
    /// Nothing is known below here: objects merge by name, lists are replaced.
    pub const UNKNOWN: Self = Self { shape: None };

    /// The place of an object of a type.
    pub fn of(of: Type) -> Self {
        Self { shape: Some(Shape::Struct(of)) }
    }

    /// Looks a field up; unknown fields merge as JSON does.
    pub fn field(&self, name: &str) -> PatchField {
        let unknown = PatchField { schema: Self::UNKNOWN, list: ListStrategy::Replace };
        match self.shape {
            Some(Shape::Struct(of)) => of.field(name).map_or(unknown, PatchField::of),
            Some(Shape::Map(items)) => {
                PatchField { schema: Self { shape: Some(items.shape()) }, list: ListStrategy::Replace }
            }
            _ => unknown,
        }
    }
}

impl PatchField {
    fn of(field: Field) -> Self {
        let Shape::List(items) = field.shape() else {
            return Self { schema: PatchSchema { shape: Some(field.shape()) }, list: ListStrategy::Replace };
        };
        let list = match (field.merges(), field.merge_key()) {
            (true, "") => ListStrategy::MergeAsSet,
            (true, key) => ListStrategy::MergeByKey(key),
            (false, _) => ListStrategy::Replace,
        };
        Self { schema: PatchSchema { shape: Some(items.shape()) }, list }
    }
}
