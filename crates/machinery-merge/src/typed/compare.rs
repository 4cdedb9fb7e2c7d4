//! How two values differ, as three sets of fields.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Items, Typed, is_empty, list_items};
use crate::fields::{FieldFilter, FieldSet, Node, PathElement, compare_values};
use crate::schema::{ApplySchema, Form, ListType, MapType, field_of, form};

/// What changed from one value to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// In the new value alone.
    pub added: FieldSet,
    /// In both, with other values.
    pub modified: FieldSet,
    /// In the old value alone.
    pub removed: FieldSet,
}

impl Comparison {
    /// Leaves out what is never owned.
    pub fn filtered(self, filter: Option<&FieldFilter>) -> Self {
        let Some(filter) = filter else { return self };
        Self {
            added: filter.apply(&self.added),
            modified: filter.apply(&self.modified),
            removed: filter.apply(&self.removed),
        }
    }
}

/// Compares two values of one schema.
pub(crate) fn compare<S: ApplySchema>(old: Typed<'_, S>, new: Typed<'_, S>) -> Comparison {
    let parts = of_pair(Some(old.value), Some(new.value), Some(old.schema));
    Comparison { added: parts.added.children, modified: parts.modified.children, removed: parts.removed.children }
}

/// What changed at one place and below it.
#[derive(Default)]
struct Parts {
    added: Part,
    modified: Part,
    removed: Part,
}

#[derive(Default)]
struct Part {
    is_member: bool,
    children: FieldSet,
}

impl Part {
    fn joined(self, other: Self) -> Self {
        Self { is_member: self.is_member || other.is_member, children: self.children.union(&other.children) }
    }
}

/// The same three, while the children of one place are gathered.
#[derive(Default)]
struct Nodes {
    added: Vec<Node>,
    modified: Vec<Node>,
    removed: Vec<Node>,
}

impl Nodes {
    fn push(&mut self, element: &PathElement, parts: Parts) {
        for (nodes, part) in
            [(&mut self.added, parts.added), (&mut self.modified, parts.modified), (&mut self.removed, parts.removed)]
        {
            if part.is_member || !part.children.is_empty() {
                nodes.push(Node { element: element.clone(), is_member: part.is_member, children: part.children });
            }
        }
    }

    fn parts(self) -> Parts {
        let part = |nodes| Part { is_member: false, children: FieldSet::from_nodes(nodes) };
        Parts { added: part(self.added), modified: part(self.modified), removed: part(self.removed) }
    }
}

fn of_pair<S: ApplySchema>(old: Option<&Value>, new: Option<&Value>, schema: Option<S>) -> Parts {
    let (old_form, new_form) = (form(schema, old), form(schema, new));
    match (old, new) {
        (_, None) => in_form(old, new, schema, old_form),
        (Some(_), Some(_)) if old_form != new_form => {
            let (before, after) = (in_form(old, new, schema, old_form), in_form(old, new, schema, new_form));
            Parts {
                added: before.added.joined(after.added),
                modified: before.modified.joined(after.modified),
                removed: before.removed.joined(after.removed),
            }
        }
        _ => in_form(old, new, schema, new_form),
    }
}

fn in_form<S: ApplySchema>(old: Option<&Value>, new: Option<&Value>, schema: Option<S>, form: Form) -> Parts {
    let mut parts = match (form, schema) {
        (Form::Map(MapType::Granular), Some(schema)) => {
            let (old_map, new_map) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            if is_empty(old_map.and(old)) && is_empty(new_map.and(new)) {
                return leaf(old, new);
            }
            of_maps(old_map, new_map, schema)
        }
        (Form::List(list @ (ListType::Set | ListType::Map)), Some(schema)) => {
            let (old_items, new_items) = (list_items(old), list_items(new));
            match Items::of(schema, list) {
                Some(named) if !(old_items.is_empty() && new_items.is_empty()) => {
                    of_items(old_items, new_items, &named)
                }
                // Nothing and null differ from an empty list.
                _ => return leaf(old, new),
            }
        }
        _ => return leaf(old, new),
    };
    parts.added.is_member |= old.is_none();
    parts.removed.is_member |= old.is_some() && new.is_none();
    parts
}

fn leaf(old: Option<&Value>, new: Option<&Value>) -> Parts {
    let mut parts = Parts::default();
    match (old, new) {
        (None, _) => parts.added.is_member = true,
        (Some(_), None) => parts.removed.is_member = true,
        (Some(old), Some(new)) => parts.modified.is_member = compare_values(old, new).is_ne(),
    }
    parts
}

fn of_maps<S: ApplySchema>(old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>, schema: S) -> Parts {
    let empty = Map::new();
    let (old, new) = (old.unwrap_or(&empty), new.unwrap_or(&empty));
    let mut nodes = Nodes::default();
    let added = new.iter().filter(|(key, _)| !old.contains_key(*key)).map(|(key, value)| (key, None, Some(value)));
    for (key, before, after) in old.iter().map(|(key, value)| (key, Some(value), new.get(key))).chain(added) {
        let parts = of_pair(before, after, field_of(schema, key));
        nodes.push(&PathElement::field(key), parts);
    }
    nodes.parts()
}

fn of_items<S: ApplySchema>(old: &[Value], new: &[Value], named: &Items<S>) -> Parts {
    let mut pairs: BTreeMap<PathElement, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for item in old {
        if let Ok(element) = named.element(item) {
            pairs.entry(element).or_default().0.push(item);
        }
    }
    for item in new {
        if let Ok(element) = named.element(item) {
            pairs.entry(element).or_default().1.push(item);
        }
    }
    let mut nodes = Nodes::default();
    for (element, (before, after)) in pairs {
        let item = Some(named.item());
        let parts = match (before.as_slice(), after.as_slice()) {
            ([] | [_], [] | [_]) => of_pair(before.first().copied(), after.first().copied(), item),
            // Items that are there more than once are compared as a whole: nobody can say which is which.
            ([_, _, ..], [_, _, ..]) => {
                let is_same = before.len() == after.len()
                    && before.iter().zip(&after).all(|(before, after)| compare_values(before, after).is_eq());
                let mut parts = Parts::default();
                parts.modified.is_member = !is_same;
                parts
            }
            ([_, _, ..], rest) => {
                let mut parts = rest.first().map_or_else(Parts::default, |after| of_pair(None, Some(after), item));
                parts.removed.is_member = true;
                parts
            }
            (rest, _) => {
                let mut parts = rest.first().map_or_else(Parts::default, |before| of_pair(Some(before), None, item));
                parts.added.is_member = true;
                parts
            }
        };
        nodes.push(&element, parts);
    }
    nodes.parts()
}
