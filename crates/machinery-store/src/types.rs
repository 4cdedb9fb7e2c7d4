//! The words of the store: keys, objects, operations, changes.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

/// A point in the history of the whole store; every change has its own, and they only grow.
///
/// This is what Kubernetes calls `resourceVersion`. They may jump after a crash, but none is given twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Revision {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// What an object is called: resource, namespace and name together are unique.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `group/plural`; the core group is empty: `/pods`, `apps/daemonsets`.
    pub resource: Arc<str>,
    /// Empty for a cluster-scoped object.
    pub namespace: Arc<str>,
    /// The object's `metadata.name`.
    pub name: Arc<str>,
}

impl Key {
    /// A key from its parts; `namespace` is empty for a cluster-scoped object.
    pub fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.resource, self.namespace, self.name)
    }
}

/// Field names and values that the server extracted from an object, so that selectors need not decode it.
///
/// They are kept on disk beside the object; a field may occur more than once.
pub type IndexFields = Box<[(Arc<str>, Box<str>)]>;

/// One version of one object, shared by the index, lists and watchers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it is called.
    pub key: Key,
    /// The change that made this version.
    pub revision: Revision,
    /// The change that made the object's first version.
    pub created: Revision,
    /// The object as the server encoded it; the store never looks inside.
    pub bytes: Bytes,
    /// What the server extracted for selectors.
    pub index: IndexFields,
}

impl Object {
    /// The first value of an index field.
    pub fn field(&self, field: &str) -> Option<&str> {
        self.index.iter().find(|(name, _)| &**name == field).map(|(_, value)| &**value)
    }

    pub(crate) fn has_field(&self, field: &str, value: &str) -> bool {
        self.index.iter().any(|(name, held)| &**name == field && &**held == value)
    }
}

/// What must be true of the stored object for an operation to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is no such object (create).
    Absent,
    /// The object is at this revision (optimistic lock).
    Revision(Revision),
    /// Anything: last writer wins.
    Any,
}

/// Encodes an object once its revision is known, and extracts its index fields.
pub type Encode = Box<dyn FnOnce(Revision) -> (Bytes, IndexFields) + Send>;

/// Encodes the last version of an object that is being deleted, as watchers will see it.
pub type EncodeFinal = Box<dyn FnOnce(Revision) -> Bytes + Send>;

/// One write. The closures run on the writer thread after the expectation held, so they should only encode.
pub enum Op {
    /// Create or replace an object.
    Put {
        /// Which object.
        key: Key,
        /// Checked in order with all other writes.
        expect: Expect,
        /// Called at most once, with the revision that the object gets.
        encode: Encode,
    },
    /// Delete an object; one that is not there is [`CommitError::NotFound`](crate::CommitError::NotFound).
    Delete {
        /// Which object.
        key: Key,
        /// Checked in order with all other writes.
        expect: Expect,
        /// Called at most once, with the revision of the deletion.
        final_bytes: EncodeFinal,
    },
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (act, key, expect) = match self {
            Self::Put { key, expect, .. } => ("Put", key, expect),
            Self::Delete { key, expect, .. } => ("Delete", key, expect),
        };
        write!(f, "{act}({key}, {expect:?})")
    }
}

/// When a commit is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After the disk has it; writes that wait together share one flush.
    Group,
    /// At once; the disk has it within a second. For Lease and Event, whose loss is repaired by the next one.
    Lazy,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Created (then [`Change::previous`] is empty) or replaced.
    Put,
    /// Deleted.
    Delete,
}

/// One step of the history, as a watcher sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// When it happened; equal to the object's revision.
    pub revision: Revision,
    /// The new version; for a deletion the final bytes.
    pub object: Arc<Object>,
    /// The version before, so that a selector can tell "left the selection" from "was never in it".
    pub previous: Option<Arc<Object>>,
}

impl Change {
    /// Whether the object had this field value before or has it now.
    pub(crate) fn touches(&self, field: &str, value: &str) -> bool {
        self.object.has_field(field, value)
            || self.previous.as_ref().is_some_and(|object| object.has_field(field, value))
    }
}

/// Part of a resource's objects, in order of namespace and name, as they were at one revision.
#[derive(Clone, Debug)]
pub struct Range {
    /// The objects.
    pub items: Vec<Arc<Object>>,
    /// The revision at which the list holds: watch from here, continue at here.
    pub revision: Revision,
    /// How many more objects follow the last item.
    pub remaining: usize,
}

/// What the store holds, for metrics and `selvedge status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Live objects.
    pub objects: usize,
    /// Their encoded bytes.
    pub object_bytes: usize,
    /// Changes that a watch can still start from.
    pub changes: usize,
    /// Encoded bytes of the versions those changes keep alive.
    pub change_bytes: usize,
    /// Size of the store's files.
    pub disk_bytes: u64,
    /// The last durable write failed for lack of space.
    pub full: bool,
}
