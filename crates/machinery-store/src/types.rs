//! The types of the store: keys, objects, operations, changes.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::fields::IndexFields;

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
    /// What only writers of the object need (`managedFields`), kept apart so that lists and watches do not carry it. The
    /// last version of a deleted object has none.
    pub managed: Option<Bytes>,
    /// What the server extracted for selectors.
    pub index: IndexFields,
}

impl Object {
    /// The first value of an index field.
    pub fn field(&self, field: &str) -> Option<&str> {
        self.index.get(field)
    }

    /// Whether an index field has this value, be it one of several.
    pub fn has_field(&self, field: &str, value: &str) -> bool {
        self.index.has(field, value)
    }

    /// Bytes that it keeps in memory besides the structures around them.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.bytes.len() + self.managed.as_ref().map_or(0, Bytes::len) + self.index.packed().len() + self.key.name.len()
    }

    /// Namespace and name, by which lists are ordered.
    pub fn names(&self) -> (&str, &str) {
        (&self.key.namespace, &self.key.name)
    }
}

/// What must be true of the stored object for an operation to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is no such object (create).
    Absent,
    /// There is one, at whatever revision.
    Present,
    /// The object is at this revision (optimistic lock).
    Revision(Revision),
    /// Anything: last writer wins.
    Any,
}

/// An object as it is to be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// See [`Object::bytes`].
    pub bytes: Bytes,
    /// See [`Object::managed`].
    pub managed: Option<Bytes>,
    /// See [`Object::index`].
    pub index: IndexFields,
}

/// Encodes an object once its revision is known, and extracts its index fields.
pub type Encode = Box<dyn FnOnce(Revision) -> Encoded + Send>;

/// Encodes the last version of an object that is being deleted, as watchers will see it.
pub type EncodeFinal = Box<dyn FnOnce(Revision) -> Bytes + Send>;

/// One part of a commit. The closures run on the writer thread after all expectations held, so they should only encode.
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
    /// Changes nothing, but the commit happens only when this holds of the object: "the namespace is still what I saw".
    /// It has no revision of its own, so the revisions of a commit are those of its other operations, in their order.
    Check {
        /// Which object.
        key: Key,
        /// Checked in order with all other writes; an earlier operation of the same commit counts.
        expect: Expect,
    },
}

impl Op {
    /// The object that it is about, and what must hold of it.
    pub(crate) fn target(&self) -> (&Key, Expect) {
        match self {
            Self::Put { key, expect, .. } | Self::Delete { key, expect, .. } | Self::Check { key, expect } => {
                (key, *expect)
            }
        }
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let act = match self {
            Self::Put { .. } => "Put",
            Self::Delete { .. } => "Delete",
            Self::Check { .. } => "Check",
        };
        let (key, expect) = self.target();
        write!(f, "{act}({key}, {expect:?})")
    }
}

/// When a commit returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After the disk has it; writes that wait together share one flush.
    Group,
    /// At once; the disk has it within a second. For Lease and Event, whose loss is repaired by the next one.
    Lazy,
}

/// What a change costs in memory besides the bytes it keeps alive: itself, the structures of the version before, its
/// places in the window.
const CHANGE_OVERHEAD_BYTES: usize = 320;

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
    /// The version before, so that a selector can distinguish "left the selection" from "was never in it".
    pub previous: Option<Arc<Object>>,
}

impl Change {
    /// Whether the object had this field value before or has it now.
    pub(crate) fn touches(&self, field: &str, value: &str) -> bool {
        self.object.has_field(field, value)
            || self.previous.as_ref().is_some_and(|object| object.has_field(field, value))
    }

    /// What it keeps in memory that nothing else does: the version before, and of a deletion the last one.
    pub(crate) fn kept_bytes(&self) -> usize {
        let before = self.previous.as_ref().map_or(0, |object| object.payload_bytes());
        let last = if self.kind == ChangeKind::Delete { self.object.payload_bytes() } else { 0 };
        CHANGE_OVERHEAD_BYTES + before + last
    }

    /// Bytes that a watcher gets to see.
    pub(crate) fn shown_bytes(&self) -> usize {
        self.object.bytes.len()
    }
}

/// Part of a resource's objects, in order of namespace and name, as they were at one revision.
#[derive(Clone, Debug)]
pub struct Range {
    /// The objects.
    pub items: Vec<Arc<Object>>,
    /// The revision at which the list holds: watch from here, continue at here.
    pub revision: Revision,
    /// How many more objects follow the last item. For a field that has no index it only says whether any follow: counting
    /// would mean to look at all.
    pub remaining: usize,
}

/// One life of a store's state. It begins when the store is created, and another one with each restore of a backup: what was
/// answered in one life says nothing about another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Life {
    /// 32 hexadecimal digits at random: no two lives share them.
    pub epoch: String,
    /// Of a life that began with a restore, from what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored: Option<Restored>,
}

/// Where a life that began with a restore comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// When, as Unix time in milliseconds.
    pub at_ms: u64,
    /// The life that the backup was made in.
    pub epoch: String,
    /// The revision of the backup: what came after it in that life is not here.
    pub revision: u64,
    /// The first revision of this life. Every revision below it was given in a former one.
    pub begins: u64,
}

/// What the store holds and does, for metrics and `selvedge status`. Counters begin when the store opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Live objects.
    pub objects: usize,
    /// Their encoded bytes, with what is managed apart.
    pub object_bytes: usize,
    /// What is managed apart, of those bytes.
    pub managed_bytes: usize,
    /// Memory of their names, index fields, structures, and of the trees and tables that find them.
    pub index_bytes: usize,
    /// Changes that a watch can still start from.
    pub changes: usize,
    /// Memory that those changes keep alive: versions that were replaced, and last versions.
    pub window_bytes: usize,
    /// Past states kept for lists that are being read in pages. They share what the window keeps alive.
    pub retained_snapshots: usize,
    /// Watches that are open. A watch holds no changes of its own.
    pub watches: usize,
    /// Commits that wait for the writer.
    pub queued_commits: usize,
    /// Encoded bytes of lazy writes that are visible but not yet on the disk.
    pub pending_bytes: usize,
    /// Size of the store's files.
    pub disk_bytes: u64,
    /// Operations committed.
    pub operations: u64,
    /// Commit groups: one flush each, whatever the number of commits that shared it.
    pub commit_groups: u64,
    /// Time spent in them, which is the disk's time.
    pub commit_group_time: Duration,
    /// Commit groups that the disk did not take.
    pub failed_commit_groups: u64,
    /// The disk has no space: writes are rejected, deletions are taken as long as the reserve lasts.
    pub full: bool,
}
