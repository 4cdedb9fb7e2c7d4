//! Sets of fields of an object: who owns what is said with them, in memory as a trie and on the wire as `FieldsV1`.
//!
//! A path leads from the top of an object through the fields of maps and the items of lists; an item is named by its keys
//! (`k:{"name":"main"}`), or by its value when the list is a set (`v:"a"`), never by its place, which changes. A set holds
//! paths; that it holds one says nothing about those above or below it.
//!
//! ```text
//! {"f:data": {".": {}, "f:a": {}}}     holds `.data` and `.data.a`
//! {"f:data": {"f:a": {}}}              holds `.data.a` alone
//! ```
//!
//! **Invariants:** the nodes of each level are sorted by [`PathElement`]'s order and differ; a node is a member or has
//! children or both. All operations on two sets walk both once.

mod element;
mod filter;
mod json;

pub use element::{KeyField, PathElement, compare_values};
pub use filter::{FieldFilter, Pattern};
pub use json::ParseFieldsError;
pub(crate) use json::write_element;

use crate::schema::ApplySchema;

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    nodes: Vec<Node>,
}

/// One element of the trie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub element: PathElement,
    /// Whether the path that ends here is in the set.
    pub is_member: bool,
    pub children: FieldSet,
}

impl Node {
    /// A path that ends here.
    pub(crate) fn leaf(element: PathElement) -> Self {
        Self { element, is_member: true, children: FieldSet::default() }
    }

    fn is_void(&self) -> bool {
        !self.is_member && self.children.is_empty()
    }
}

impl FieldSet {
    /// A set of the paths of named fields, as `metadata.labels`.
    ///
    /// ```
    /// use machinery_merge::FieldSet;
    /// let reset = FieldSet::of_fields(&["status", "metadata.labels"]);
    /// assert_eq!(reset.to_json(), r#"{"f:metadata":{"f:labels":{}},"f:status":{}}"#);
    /// ```
    pub fn of_fields(paths: &[&str]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let path: Vec<PathElement> = path.split('.').map(PathElement::field).collect();
            set.insert(&path);
        }
        set
    }

    /// From nodes in any order, of which several may have the same element.
    pub(crate) fn from_nodes(mut nodes: Vec<Node>) -> Self {
        nodes.retain(|node| !node.is_void());
        let is_sorted = nodes.windows(2).all(|pair| pair[0].element < pair[1].element);
        if !is_sorted {
            nodes.sort_by(|a, b| a.element.cmp(&b.element));
            nodes.dedup_by(|later, kept| {
                let same = later.element == kept.element;
                if same {
                    kept.is_member |= later.is_member;
                    kept.children = kept.children.union(&later.children);
                }
                same
            });
        }
        Self { nodes }
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Whether it holds no path.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// How many paths it holds.
    pub fn len(&self) -> usize {
        self.nodes.iter().map(|node| usize::from(node.is_member) + node.children.len()).sum()
    }

    /// Adds a path; those above it are not added. The whole object (an empty path) is never owned.
    pub fn insert(&mut self, path: &[PathElement]) {
        let Some((first, rest)) = path.split_first() else { return };
        let place = match self.find(first) {
            Ok(place) => place,
            Err(place) => {
                let node = Node { element: first.clone(), is_member: false, children: Self::default() };
                self.nodes.insert(place, node);
                place
            }
        };
        let node = &mut self.nodes[place];
        if rest.is_empty() {
            node.is_member = true;
        } else {
            node.children.insert(rest);
        }
    }

    /// Whether it holds this very path.
    pub fn has(&self, path: &[PathElement]) -> bool {
        match path {
            [] => false,
            [last] => self.has_member(last),
            [first, rest @ ..] => self.below(first).is_some_and(|below| below.has(rest)),
        }
    }

    pub(crate) fn has_member(&self, element: &PathElement) -> bool {
        self.find(element).is_ok_and(|place| self.nodes[place].is_member)
    }

    /// What it holds below an element; `None` when that is nothing.
    pub(crate) fn below(&self, element: &PathElement) -> Option<&Self> {
        let place = self.find(element).ok()?;
        Some(&self.nodes[place].children).filter(|children| !children.is_empty())
    }

    fn find(&self, element: &PathElement) -> Result<usize, usize> {
        self.nodes.binary_search_by(|node| node.element.cmp(element))
    }

    /// Paths that are in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        if self.is_empty() {
            return other.clone();
        }
        if other.is_empty() {
            return self.clone();
        }
        self.zip(other, |own, others| match (own, others) {
            (Some(node), None) | (None, Some(node)) => Some(node.clone()),
            (Some(own), Some(others)) => Some(Node {
                element: own.element.clone(),
                is_member: own.is_member || others.is_member,
                children: own.children.union(&others.children),
            }),
            (None, None) => None,
        })
    }

    /// Paths that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.zip(other, |own, others| {
            let (own, others) = (own?, others?);
            Some(Node {
                element: own.element.clone(),
                is_member: own.is_member && others.is_member,
                children: own.children.intersection(&others.children),
            })
        })
    }

    /// Paths that are in this one and not in the other; a path below one of the other's stays.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        self.zip(other, |own, others| match (own, others) {
            (Some(own), None) => Some(own.clone()),
            (Some(own), Some(others)) => Some(Node {
                element: own.element.clone(),
                is_member: own.is_member && !others.is_member,
                children: own.children.difference(&others.children),
            }),
            (None, _) => None,
        })
    }

    /// Paths that are in this one and neither in the other nor below a path of it.
    #[must_use]
    pub fn recursive_difference(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        self.zip(other, |own, others| match (own, others) {
            (Some(own), None) => Some(own.clone()),
            (Some(own), Some(others)) if !others.is_member => Some(Node {
                element: own.element.clone(),
                is_member: own.is_member,
                children: own.children.recursive_difference(&others.children),
            }),
            _ => None,
        })
    }

    /// Paths with no other path of the set below them.
    #[must_use]
    pub fn leaves(&self) -> Self {
        let nodes = self.nodes.iter().map(|node| Node {
            element: node.element.clone(),
            is_member: node.children.is_empty(),
            children: node.children.leaves(),
        });
        Self { nodes: nodes.collect() }
    }

    /// Adds to each path of the set the declared fields above it: who owns `.spec.replicas` is asked about `.spec` too.
    #[must_use]
    pub fn with_named_fields<S: ApplySchema>(&self, schema: Option<S>) -> Self {
        let nodes = self.nodes.iter().map(|node| {
            let declared = match &node.element {
                PathElement::Field(name) => schema.filter(|schema| schema.map().is_some()).and_then(|s| s.field(name)),
                _ => None,
            };
            let below = match &node.element {
                PathElement::Field(_) => {
                    declared.or_else(|| schema.filter(|s| s.map().is_some()).and_then(ApplySchema::other_fields))
                }
                PathElement::Key(_) => schema.filter(|s| s.list().is_some()).map(ApplySchema::item),
                PathElement::Value(_) | PathElement::Index(_) => None,
            };
            Node {
                element: node.element.clone(),
                is_member: node.is_member || declared.is_some(),
                children: node.children.with_named_fields(below),
            }
        });
        Self { nodes: nodes.collect() }
    }

    /// The set as it must be for today's schema: where a list or a map has become atomic since, what was owned within it
    /// makes its owner one of the whole. `None` when nothing changes.
    pub(crate) fn reconciled<S: ApplySchema>(&self, schema: S) -> Option<Self> {
        if schema.map().is_some() {
            let is_free_form = !schema.has_fields() && schema.other_fields().is_some_and(ApplySchema::is_deduced);
            if is_free_form {
                return None;
            }
        } else if schema.list().is_none() || schema.scalar().is_some() {
            return None;
        }
        let child = |element: &PathElement| match (schema.map(), element) {
            (Some(_), PathElement::Field(name)) => schema.field(name).or_else(|| schema.other_fields()),
            (Some(_), _) => schema.other_fields(),
            (None, _) => Some(schema.item()),
        };
        let mut changed: Option<Vec<Node>> = None;
        for (place, node) in self.nodes.iter().enumerate() {
            let Some(below) = child(&node.element).filter(|_| !node.children.is_empty()) else { continue };
            let new = if is_atomic(below) {
                Some(Node::leaf(node.element.clone()))
            } else {
                node.children.reconciled(below).map(|children| Node { children, ..node.clone() })
            };
            if let Some(new) = new {
                changed.get_or_insert_with(|| self.nodes.clone())[place] = new;
            }
        }
        changed.map(Self::from_nodes)
    }

    /// Calls `act` with each path, those that end at a level before those that continue.
    pub fn for_each(&self, act: &mut impl FnMut(&[PathElement])) {
        self.walk(&mut Vec::new(), act);
    }

    fn walk(&self, path: &mut Vec<PathElement>, act: &mut impl FnMut(&[PathElement])) {
        for node in self.nodes.iter().filter(|node| node.is_member) {
            path.push(node.element.clone());
            act(path);
            path.pop();
        }
        for node in self.nodes.iter().filter(|node| !node.children.is_empty()) {
            path.push(node.element.clone());
            node.children.walk(path, act);
            path.pop();
        }
    }

    /// Walks two sets together, element by element.
    fn zip(&self, other: &Self, mut join: impl FnMut(Option<&Node>, Option<&Node>) -> Option<Node>) -> Self {
        let mut nodes = Vec::with_capacity(self.nodes.len());
        let (mut own, mut others) = (self.nodes.iter().peekable(), other.nodes.iter().peekable());
        loop {
            let order = match (own.peek(), others.peek()) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(own), Some(others)) => own.element.cmp(&others.element),
            };
            let node =
                join(if order.is_le() { own.next() } else { None }, if order.is_ge() { others.next() } else { None });
            nodes.extend(node.filter(|node| !node.is_void()));
        }
        Self { nodes }
    }
}

/// Whether a value there is owned as a whole.
fn is_atomic<S: ApplySchema>(schema: S) -> bool {
    use crate::schema::{ListType, MapType};
    match (schema.map(), schema.scalar(), schema.list()) {
        (Some(map), ..) => {
            let is_free_form = !schema.has_fields() && schema.other_fields().is_some_and(ApplySchema::is_deduced);
            map == MapType::Atomic && !is_free_form
        }
        (None, None, Some(list)) => list == ListType::Atomic,
        _ => false,
    }
}

/// A path as messages show it: `.spec.containers[name="main"].image`.
pub fn path_text(path: &[PathElement]) -> String {
    path.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests;
