//! What a strategic merge patch must know of a type: which lists are merged, and by which key.

use super::{Definition, Shape, definition_at};

/// A place in a built-in type, walked along with a patch.
#[derive(Clone, Copy, Debug)]
pub struct PatchSchema {
    place: Place,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Definition(&'static Definition),
    Map(&'static Shape),
    /// Nothing is known: objects merge by name, lists are replaced.
    Unknown,
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
    /// Nothing is known below here.
    pub const UNKNOWN: Self = Self { place: Place::Unknown };

    pub fn of(definition: &'static Definition) -> Self {
        Self { place: Place::Definition(definition) }
    }

    /// Looks a field up; unknown fields merge as JSON does.
    pub fn field(&self, name: &str) -> PatchField {
        match self.place {
            Place::Definition(definition) => match definition.field(name) {
                Some(field) => PatchField::of(&field.shape),
                None => PatchField { schema: Self::UNKNOWN, list: ListStrategy::Replace },
            },
            Place::Map(values) => PatchField::of(values),
            Place::Unknown => PatchField { schema: Self::UNKNOWN, list: ListStrategy::Replace },
        }
    }

    fn of_shape(shape: &'static Shape) -> Self {
        match shape {
            Shape::Object(number) => Self::of(definition_at(*number)),
            Shape::Map(values) => Self { place: Place::Map(values) },
            _ => Self::UNKNOWN,
        }
    }
}

impl PatchField {
    fn of(shape: &'static Shape) -> Self {
        let Shape::List(list) = shape else {
            return Self { schema: PatchSchema::of_shape(shape), list: ListStrategy::Replace };
        };
        let strategy = match (list.merge, list.merge_key) {
            (true, Some(key)) => ListStrategy::MergeByKey(key),
            (true, None) => ListStrategy::MergeAsSet,
            (false, _) => ListStrategy::Replace,
        };
        Self { schema: PatchSchema::of_shape(&list.items), list: strategy }
    }
}
