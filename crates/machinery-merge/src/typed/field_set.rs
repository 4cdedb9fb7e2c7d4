//! All fields that a value sets: what an applier owns.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Items, Typed};
use crate::fields::{FieldSet, Node, PathElement};
use crate::schema::{ApplySchema, Form, ListType, MapType, field_of, form};

pub(crate) fn field_set<S: ApplySchema>(typed: Typed<'_, S>) -> FieldSet {
    of_value(typed.value, Some(typed.schema)).children
}

/// A place and what is below it.
struct Part {
    is_member: bool,
    children: FieldSet,
}

impl Part {
    fn leaf() -> Self {
        Self { is_member: true, children: FieldSet::default() }
    }

    fn nothing() -> Self {
        Self { is_member: false, children: FieldSet::default() }
    }

    fn node(self, element: PathElement) -> Node {
        Node { element, is_member: self.is_member, children: self.children }
    }
}

fn of_value<S: ApplySchema>(value: &Value, schema: Option<S>) -> Part {
    let Some(here) = schema else { return Part::leaf() };
    match (form(schema, Some(value)), value) {
        (Form::Scalar(_) | Form::Unknown | Form::Map(MapType::Atomic) | Form::List(ListType::Atomic), _) => {
            Part::leaf()
        }
        (Form::Map(_), Value::Object(map)) => {
            let nodes = map.iter().map(|(key, value)| {
                let mut part = of_value(value, field_of(here, key));
                // A field of a map, or one that is set to nothing, is owned itself; one of a struct by what it holds.
                let is_nothing = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
                part.is_member |= is_nothing || here.field(key).is_none();
                part.node(PathElement::field(key))
            });
            Part { is_member: false, children: FieldSet::from_nodes(nodes.collect()) }
        }
        (Form::List(list), Value::Array(items)) => {
            let Some(named) = Items::of(here, list) else { return Part::leaf() };
            Part { is_member: false, children: of_items(items, &named) }
        }
        _ => Part::nothing(),
    }
}

fn of_items<S: ApplySchema>(items: &[Value], named: &Items<S>) -> FieldSet {
    let mut by_element: BTreeMap<PathElement, (&Value, usize)> = BTreeMap::new();
    for item in items {
        let Ok(element) = named.element(item) else { continue };
        by_element.entry(element).or_insert((item, 0)).1 += 1;
    }
    let nodes = by_element.into_iter().map(|(element, (item, count))| {
        // Of an item that is there twice, nobody can own the fields.
        let part = if count > 1 { Part::leaf() } else { of_value(item, Some(named.item())) };
        Node { element, is_member: true, children: part.children }
    });
    FieldSet::from_nodes(nodes.collect())
}
