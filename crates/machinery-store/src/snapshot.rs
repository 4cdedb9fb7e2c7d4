//! A resource as it was at one revision.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use crate::history::{self, Chunk};
use crate::objects::Objects;
use crate::types::{Change, Object, Range, Revision};

/// All objects of a resource at one revision. Made by [`Store::snapshot`](crate::Store::snapshot) for the price of two
/// references; reading it takes no lock and holds nobody up.
///
/// To follow a resource without a gap: read the snapshot, then watch from [`revision`](Self::revision). A snapshot keeps
/// the versions in it alive, so one is not kept for longer than it is read.
#[derive(Clone)]
pub struct Snapshot {
    objects: Objects,
    revision: Revision,
}

impl Snapshot {
    pub(crate) fn new(objects: Objects, revision: Revision) -> Self {
        Self { objects, revision }
    }

    /// Undoes changes, given oldest first: the resource as it was before the first of them.
    pub(crate) fn rewind(mut self, changes: &[Chunk], revision: Revision) -> Self {
        let mut seen = HashSet::new();
        for change in changes.iter().flat_map(|chunk| history::after(chunk, revision)) {
            if seen.insert(change.object.names()) {
                match &change.previous {
                    Some(previous) => self.objects.put(previous.clone()),
                    None => self.objects.remove(&change.object.key.namespace, &change.object.key.name),
                }
            }
        }
        self.revision = revision;
        self
    }

    /// The revision at which it holds: watch from here.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One object; `namespace` is empty for a cluster-scoped one.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.objects.get(namespace, name)
    }

    /// Objects in order of namespace and name, those that follow `after` (namespace, name), of one namespace or all.
    pub fn iter<'a>(
        &'a self,
        namespace: Option<&'a str>,
        after: Option<(&str, &str)>,
    ) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        self.objects.range(namespace, after)
    }

    /// How many objects [`iter`](Self::iter) gives, without walking over them.
    pub fn count(&self, namespace: Option<&str>, after: Option<(&str, &str)>) -> usize {
        self.objects.count_range(namespace, after)
    }

    /// Like [`iter`](Self::iter), of the objects with this value in an index field. For an indexed field it costs what it
    /// gives; for another it looks at every object.
    pub fn iter_where<'a>(
        &'a self,
        (field, value): (&'a str, &'a str),
        namespace: Option<&'a str>,
        after: Option<(&str, &str)>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Object>> + 'a> {
        match self.objects.indexed(field) {
            Some(field) => Box::new(self.objects.range_where(field, value, namespace, after)),
            None => Box::new(self.iter(namespace, after).filter(move |object| object.has_field(field, value))),
        }
    }

    pub(crate) fn page(&self, namespace: Option<&str>, after: Option<(&str, &str)>, limit: Option<usize>) -> Range {
        let items: Vec<_> = self.iter(namespace, after).take(limit.unwrap_or(usize::MAX)).cloned().collect();
        let remaining = limit.map_or(0, |_| self.count(namespace, after) - items.len());
        Range { items, revision: self.revision, remaining }
    }

    pub(crate) fn page_where(
        &self,
        (field, value): (&str, &str),
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
        limit: Option<usize>,
    ) -> Range {
        let mut found = self.iter_where((field, value), namespace, after);
        let items: Vec<_> = found.by_ref().take(limit.unwrap_or(usize::MAX)).cloned().collect();
        let remaining = match (limit, self.objects.indexed(field)) {
            (None, _) => 0,
            (_, Some(field)) => self.objects.count_where(field, value, namespace, after) - items.len(),
            (_, None) => usize::from(found.next().is_some()),
        };
        Range { items, revision: self.revision, remaining }
    }

    /// What [`page_where`](Self::page_where) gives at an earlier revision, from the later changes that concern the value.
    pub(crate) fn page_where_before(
        &self,
        (field, value): (&str, &str),
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
        limit: Option<usize>,
        (changes, revision): (&[Arc<Change>], Revision),
    ) -> Range {
        let mut seen = HashSet::new();
        let is_asked = |object: &Object| {
            object.has_field(field, value)
                && namespace.is_none_or(|namespace| *object.key.namespace == *namespace)
                && after.is_none_or(|after| object.names() > after)
        };
        let before = changes.iter().filter(|change| seen.insert(change.object.names())).collect::<Vec<_>>();
        let mut items: Vec<_> = before
            .into_iter()
            .filter_map(|change| change.previous.as_ref())
            .filter(|object| is_asked(object))
            .chain(self.iter_where((field, value), namespace, after).filter(|object| !seen.contains(&object.names())))
            .cloned()
            .collect();
        items.sort_by(|left, right| left.names().cmp(&right.names()));
        let remaining = items.len().saturating_sub(limit.unwrap_or(usize::MAX));
        items.truncate(limit.unwrap_or(usize::MAX));
        Range { items, revision, remaining }
    }
}

/// Past states of lists that are being read in pages, so that the next page does not compute its revision again.
///
/// Those that the window has left are dropped with it, so what they keep alive is what the window does.
#[derive(Default)]
pub(crate) struct Retained {
    /// The one used last comes last.
    snapshots: VecDeque<(Arc<str>, Snapshot)>,
}

/// Lists in pages at one time; the one that was not read for longest computes its state again when it continues.
const RETAINED_MAX: usize = 32;

impl Retained {
    pub fn len(&self) -> usize {
        self.snapshots.len()
    }

    pub fn get(&mut self, resource: &str, revision: Revision) -> Option<Snapshot> {
        let at = self.position(resource, revision)?;
        let found = self.snapshots.remove(at)?;
        let snapshot = found.1.clone();
        self.snapshots.push_back(found);
        Some(snapshot)
    }

    pub fn keep(&mut self, resource: &str, snapshot: &Snapshot) {
        if self.position(resource, snapshot.revision).is_some() {
            return;
        }
        if self.snapshots.len() == RETAINED_MAX {
            self.snapshots.pop_front();
        }
        self.snapshots.push_back((resource.into(), snapshot.clone()));
    }

    /// Drops what no longer is in the window.
    pub fn retain(&mut self, is_in_window: impl Fn(&str, Revision) -> bool) {
        self.snapshots.retain(|(resource, snapshot)| is_in_window(resource, snapshot.revision));
    }

    fn position(&self, resource: &str, revision: Revision) -> Option<usize> {
        self.snapshots.iter().position(|(held, snapshot)| **held == *resource && snapshot.revision == revision)
    }
}
