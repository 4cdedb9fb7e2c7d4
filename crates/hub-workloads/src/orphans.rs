//! Objects of one kind without a controller, by namespace: whom a workload may adopt.
//!
//! It holds names, not objects, so that a workload finds candidates without a walk over its namespace.

use std::collections::{BTreeSet, HashMap};

use hub_runtime::ObjectRef;
use hub_runtime::views::AnyView;

/// The names.
#[derive(Default)]
pub(crate) struct Orphans(HashMap<Box<str>, BTreeSet<Box<str>>>);

impl Orphans {
    /// All objects of the kind, as a first list or a later one has them.
    pub fn listed(&mut self, objects: &[ObjectRef]) {
        self.0.clear();
        objects.iter().for_each(|object| self.note(object, true));
    }

    /// One object changed, or was deleted.
    pub fn note(&mut self, object: &ObjectRef, exists: bool) {
        let is_orphan =
            exists && object.view_or_log::<AnyView<'_>>().is_some_and(|view| view.metadata.controller().is_none());
        if is_orphan {
            self.0.entry(object.namespace().into()).or_default().insert(object.name().into());
        } else if let Some(names) = self.0.get_mut(object.namespace()) {
            names.remove(object.name());
            if names.is_empty() {
                self.0.remove(object.namespace());
            }
        }
    }

    /// Names in a namespace that begin so; all of them with an empty prefix.
    pub fn named(&self, namespace: &str, prefix: &str) -> Vec<Box<str>> {
        let Some(names) = self.0.get(namespace) else { return Vec::new() };
        let from = names.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        from.take_while(|name| name.starts_with(prefix)).cloned().collect()
    }
}
