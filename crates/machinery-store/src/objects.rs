//! The objects of one resource, found by name and by the values of indexed fields.
//!
//! Two trees whose copies are free (see [`Tree`]), so this is both what the writer changes and what a
//! [`Snapshot`](crate::Snapshot) reads. The tree of fields has an entry for every value of an indexed field: field, value,
//! namespace, name, in this order; the entry points at the object and at the place of the value in it.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use crate::tree::{Sorted, Tree};
use crate::types::Object;

/// What an object costs in memory besides its payload: the structure, its counters, what an allocator adds, and its places
/// in the trees of nodes that are two thirds full.
const OBJECT_OVERHEAD_BYTES: usize = 260;

/// An entry in the tree of fields.
const ENTRY_BYTES: usize = 24;

#[derive(Clone)]
pub(crate) struct Objects {
    /// Which fields are indexed.
    indexed: Arc<[&'static str]>,
    by_name: Tree<Arc<Object>>,
    by_field: Tree<Entry>,
    object_bytes: usize,
    managed_bytes: usize,
    payload_bytes: usize,
}

/// One value of one indexed field of one object.
#[derive(Clone)]
struct Entry {
    object: Arc<Object>,
    /// Which of the indexed fields.
    field: u32,
    /// Where the value is in the object's fields.
    at: u32,
}

impl Objects {
    pub fn new(indexed: Arc<[&'static str]>) -> Self {
        Self {
            indexed,
            by_name: Tree::default(),
            by_field: Tree::default(),
            object_bytes: 0,
            managed_bytes: 0,
            payload_bytes: 0,
        }
    }

    /// All objects at once, in any order, when the store opens. Sorting them costs a third of putting them in one by one,
    /// because most comparisons look at memory that is not in a cache.
    pub fn fill(&mut self, objects: impl IntoIterator<Item = Arc<Object>>) {
        let mut objects: Vec<_> = objects.into_iter().collect();
        objects.sort_unstable_by(|left, right| left.names().cmp(&right.names()));
        // By value first: there are far fewer values than objects, and the objects of each are in order already.
        let mut by_value: HashMap<(u32, Box<[u8]>), Vec<Entry>> = HashMap::new();
        for object in objects {
            self.count(&object, true);
            for entry in entries(&self.indexed, &object) {
                let of_value = by_value.entry((entry.field, entry.value().into())).or_default();
                // A value that the object has twice has one entry.
                if of_value.last().is_none_or(|last: &Entry| !Arc::ptr_eq(&last.object, &object)) {
                    of_value.push(entry);
                }
            }
            self.by_name.append(object);
        }
        let mut by_value: Vec<_> = by_value.into_iter().collect();
        by_value.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        for entry in by_value.into_iter().flat_map(|(_, entries)| entries) {
            self.by_field.append(entry);
        }
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Encoded bytes of all objects.
    pub fn object_bytes(&self) -> usize {
        self.object_bytes
    }

    /// Those of them that are managed apart.
    pub fn managed_bytes(&self) -> usize {
        self.managed_bytes
    }

    /// Memory beside the encoded bytes.
    pub fn index_bytes(&self) -> usize {
        self.payload_bytes - self.object_bytes
            + self.by_name.len() * OBJECT_OVERHEAD_BYTES
            + self.by_field.len() * ENTRY_BYTES
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.by_name.get(|object| object.names().cmp(&(namespace, name)))
    }

    pub fn put(&mut self, object: Arc<Object>) {
        self.count(&object, true);
        let before = self.by_name.insert(object.clone());
        for entry in entries(&self.indexed, &object) {
            self.by_field.insert(entry);
        }
        if let Some(before) = before {
            self.count(&before, false);
            for entry in entries(&self.indexed, &before) {
                if !entry.is_in(&object, self.indexed[entry.field as usize]) {
                    self.by_field.remove(|held| held.order(&entry));
                }
            }
        }
    }

    pub fn remove(&mut self, namespace: &str, name: &str) {
        let Some(before) = self.by_name.remove(|object| object.names().cmp(&(namespace, name))) else { return };
        self.count(&before, false);
        for entry in entries(&self.indexed, &before) {
            self.by_field.remove(|held| held.order(&entry));
        }
    }

    /// Objects in order of namespace and name that follow `after`, of one namespace or all.
    pub fn range<'a>(
        &'a self,
        namespace: Option<&'a str>,
        after: Option<(&str, &str)>,
    ) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        let objects = self.by_name.range_from(|object| is_before(object, namespace, after));
        objects.take_while(move |object| namespace.is_none_or(|namespace| *object.key.namespace == *namespace))
    }

    /// How many objects [`range`](Self::range) gives, without walking over them.
    pub fn count_range(&self, namespace: Option<&str>, after: Option<(&str, &str)>) -> usize {
        let end = match namespace {
            Some(namespace) => self.by_name.rank(|object| &*object.key.namespace <= namespace),
            None => self.by_name.len(),
        };
        end.saturating_sub(self.by_name.rank(|object| is_before(object, namespace, after)))
    }

    /// Which of the indexed fields this is.
    pub fn indexed(&self, field: &str) -> Option<usize> {
        self.indexed.iter().position(|indexed| *indexed == field)
    }

    /// Like [`range`](Self::range), of the objects that have this value in an indexed field.
    pub fn range_where<'a>(
        &'a self,
        field: usize,
        value: &'a str,
        namespace: Option<&'a str>,
        after: Option<(&str, &str)>,
    ) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        let is_before = |entry: &Entry| match entry.value_order(field, value) {
            Ordering::Equal => is_before(&entry.object, namespace, after),
            order => order == Ordering::Less,
        };
        self.by_field
            .range_from(is_before)
            .take_while(move |entry| {
                entry.value_order(field, value) == Ordering::Equal
                    && namespace.is_none_or(|namespace| *entry.object.key.namespace == *namespace)
            })
            .map(|entry| &entry.object)
    }

    /// How many objects [`range_where`](Self::range_where) gives, without walking over them.
    pub fn count_where(
        &self,
        field: usize,
        value: &str,
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
    ) -> usize {
        let end = self.by_field.rank(|entry| match entry.value_order(field, value) {
            Ordering::Equal => namespace.is_none_or(|namespace| &*entry.object.key.namespace <= namespace),
            order => order == Ordering::Less,
        });
        let start = self.by_field.rank(|entry| match entry.value_order(field, value) {
            Ordering::Equal => is_before(&entry.object, namespace, after),
            order => order == Ordering::Less,
        });
        end.saturating_sub(start)
    }

    fn count(&mut self, object: &Object, is_added: bool) {
        let managed = object.managed.as_ref().map_or(0, bytes::Bytes::len);
        let bytes = object.bytes.len() + managed;
        let payload = object.payload_bytes();
        if is_added {
            self.object_bytes += bytes;
            self.managed_bytes += managed;
            self.payload_bytes += payload;
        } else {
            self.object_bytes -= bytes;
            self.managed_bytes -= managed;
            self.payload_bytes -= payload;
        }
    }
}

/// Whether an object comes before those that follow `after`, or before its namespace.
fn is_before(object: &Object, namespace: Option<&str>, after: Option<(&str, &str)>) -> bool {
    after.is_some_and(|after| object.names() <= after)
        || namespace.is_some_and(|namespace| *object.key.namespace < *namespace)
}

fn entries(indexed: &[&'static str], object: &Arc<Object>) -> Vec<Entry> {
    let field = |name: &[u8]| indexed.iter().position(|indexed| indexed.as_bytes() == name);
    let found = object.index.raw().filter_map(|raw| Some((field(raw.name)?, raw.at)));
    found.map(|(field, at)| Entry { object: object.clone(), field: field as u32, at }).collect()
}

impl Entry {
    fn value(&self) -> &[u8] {
        self.object.index.value_at(self.at)
    }

    fn value_order(&self, field: usize, value: &str) -> Ordering {
        (self.field as usize).cmp(&field).then_with(|| self.value().cmp(value.as_bytes()))
    }

    /// Whether another version of the object has this value too.
    fn is_in(&self, object: &Object, field: &str) -> bool {
        object.index.raw().any(|raw| raw.name == field.as_bytes() && raw.value == self.value())
    }
}

impl Sorted for Entry {
    fn order(&self, other: &Self) -> Ordering {
        let place = |entry: &Self| entry.field;
        place(self)
            .cmp(&place(other))
            .then_with(|| self.value().cmp(other.value()))
            .then_with(|| self.object.names().cmp(&other.object.names()))
    }
}

impl Sorted for Arc<Object> {
    fn order(&self, other: &Self) -> Ordering {
        self.names().cmp(&other.names())
    }
}
