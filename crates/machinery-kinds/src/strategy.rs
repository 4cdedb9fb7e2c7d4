//! What the server does with objects of one kind beyond their types: one [`Strategy`] value per kind.
//!
//! A new kind is a line in `catalogue.rs` and, when it is special in anything, a value in `strategy/kinds.rs`. Nothing else
//! in the server looks at a kind's name to decide this: it calls the methods of [`ResourceInfo`] below, which look it up.
//!
//! ```text
//! create   prepare_create ─▶ apply_defaults ─▶ validate ─────────────────────▶ index_fields, durability ─▶ store
//! update   prepare_update ─▶ apply_defaults ─▶ validate, validate_update ────▶ index_fields, durability ─▶ store
//! delete   grace_seconds, is_held ─▶ begin_deletion … update ─▶ may_be_removed ─▶ removed
//! ```
//!
//! Everything is a function over values, so that what the server does to a kind is tested without a server.

mod index;
mod kinds;
#[cfg(test)]
mod tests;
mod volumes;

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::{
    ResourceInfo,
    kit::Errors,
    metadata::{NameRule, OnUpdate},
    table::Printer,
};
pub(crate) use index::INDEXED_ITEMS_MAX;
pub use index::{INDEX_LABEL_PREFIX, INDEX_OWNER_UID, INDEX_REFS};
pub(crate) use kinds::*;

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After the disk has it.
    Group,
    /// At once; the disk has it within a second. For kinds whose loss the next write repairs.
    Lazy,
}

/// Who creates an object, and when: what the server writes into it whatever its author wrote.
#[derive(Clone, Copy, Debug)]
pub struct Creation<'a> {
    /// A fresh uid.
    pub uid: &'a str,
    /// The time, in RFC 3339 with whole seconds.
    pub now: &'a str,
    /// The authenticated user.
    pub user: &'a str,
    /// The user's groups.
    pub groups: &'a [String],
}

/// How the server treats objects of one kind. Start from [`Strategy::PLAIN`] and name what differs.
///
/// The functions are called in upstream's order: on create `prepare_create`, `validate`; on update `prepare_update`,
/// `validate_update`; on a subresource that is a view of the object (`status`, …) those of its [`Part`]. Defaults are filled
/// in before all of them, when a body, or a stored object, is read.
#[derive(Debug)]
pub(crate) struct Strategy {
    pub durability: Durability,
    /// Whether names are in the index, for watches of one object.
    pub name_field: bool,
    /// Whether controllers compare `metadata.generation` with what they have observed.
    pub generation: bool,
    pub name_rule: NameRule,
    /// Whether finalizers without a domain are Kubernetes' own three: most kinds, but not those whose upstream rules come
    /// from `apimachinery` alone.
    pub kube_finalizers: bool,
    /// What the kind's own rules ask of metadata on an update, and so report once more.
    pub metadata_on_update: OnUpdate,
    /// Whether a PUT of an object that is not there creates it.
    pub create_on_update: bool,
    /// Whether a PUT without a `resourceVersion` is taken.
    pub unconditional_update: bool,
    /// Group, plural and version in which objects are stored, when these are not the kind's own: some kinds are served in
    /// several groups or versions and are the same objects.
    pub stored_as: Option<(&'static str, &'static str, &'static str)>,
    /// Turns the stored form into this kind's, and this kind's into the stored form; for kinds with `stored_as`.
    pub from_stored: fn(&mut Value),
    pub to_stored: fn(&mut Value),
    /// What a field selector may name besides name and namespace.
    pub selectable: &'static [Selectable],
    /// What the server fills in. Types are right; it must be idempotent.
    pub defaults: fn(&mut Value),
    /// Sets parts that are not up to the author. A kind with a status has none at this point.
    pub prepare_create: fn(&mut Value, &Creation<'_>),
    /// Whether the status that its author sent with a new object is stored: a kubelet reports it along with its Node.
    pub keeps_status_on_create: bool,
    /// Puts parts of the new version back to what they were: `(new, old)`.
    pub prepare_update: fn(&mut Value, &Value),
    /// The subresources that are views of the object; one that is not named is a `status` with nothing special.
    pub parts: &'static [Part],
    /// Index fields besides name, labels, owners and selectable fields.
    pub index: &'static [IndexField],
    /// Seconds that somebody needs to end what the object describes; `None` when it can be removed at once.
    pub grace_seconds: fn(&Value) -> Option<i64>,
    /// Whether finalizers of the kind's own, outside of the metadata, hold the object.
    pub is_held: fn(&Value) -> bool,
    /// Marks an object whose deletion begins.
    pub begin_deletion: fn(&mut Value),
    /// What an author should know, and is stored nevertheless: `(new, old)`.
    pub warnings: fn(&Value, Option<&Value>) -> Vec<String>,
    /// Rules for a new object (its metadata are checked in other places).
    pub validate: fn(&Value, &mut Errors),
    /// Rules for a new version of an object, `(new, old)`: those for a new object too, where upstream has them here. `None`
    /// means those of a new object and no others.
    pub validate_update: Option<fn(&Value, &Value, &mut Errors)>,
    pub printer: &'static Printer,
    /// The `conditions` of an object's row in a table: a pod that has ended is marked as completed.
    pub row_conditions: fn(&Value) -> Option<Value>,
}

/// A subresource that is a view of the object.
#[derive(Debug)]
pub(crate) struct Part {
    pub name: &'static str,
    /// Puts all that this subresource may not write back to what it was: `(new, old)`. `metadata` that the server owns is
    /// put back before.
    pub prepare: fn(&mut Value, &Value),
    /// Rules for the new version: `(new, old)`.
    pub validate: fn(&Value, &Value, &mut Errors),
}

impl Part {
    /// `status`: all but metadata and status is put back, and nothing more is asked of the status.
    pub const STATUS: Self = Self { name: "status", prepare: restore_all_but_status, validate: |_, _, _| {} };
}

/// A field that a field selector may name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selectable {
    /// As users write it, such as `spec.nodeName`.
    pub name: &'static str,
    /// Where the value is, when the name does not say so itself: the first place that has one counts.
    pub paths: &'static [&'static str],
    /// What a missing value counts as.
    pub absent: &'static str,
}

impl Selectable {
    /// A field whose name says where it is.
    pub const fn field(name: &'static str) -> Self {
        Self { name, paths: &[], absent: "" }
    }
}

/// A field of the index that is extracted by a function, with any number of values.
#[derive(Debug)]
pub(crate) struct IndexField {
    pub name: &'static str,
    pub values: Extract,
}

/// Calls its second argument with each value that an object has for the field.
type Extract = fn(&Value, &mut dyn FnMut(&str));

impl Strategy {
    /// A kind that is stored as it was sent.
    pub const PLAIN: Self = Self {
        durability: Durability::Group,
        name_field: true,
        generation: false,
        create_on_update: false,
        unconditional_update: true,
        stored_as: None,
        from_stored: |_| {},
        to_stored: |_| {},
        selectable: &[],
        name_rule: NameRule::Subdomain,
        kube_finalizers: true,
        metadata_on_update: OnUpdate::Changes,
        prepare_create: |_, _| {},
        keeps_status_on_create: false,
        prepare_update: |_, _| {},
        parts: &[],
        index: &[],
        grace_seconds: |_| None,
        is_held: |_| false,
        begin_deletion: |_| {},
        warnings: |_, _| Vec::new(),
        defaults: |_| {},
        validate: |_, _| {},
        validate_update: None,
        printer: &crate::table::OTHERS,
        row_conditions: |_| None,
    };
}

impl ResourceInfo {
    /// When a write of this kind is acknowledged.
    pub fn durability(&self) -> Durability {
        self.strategy.durability
    }

    /// Whether names are in the index. Nobody watches one Lease or Event by name, and there are many.
    pub fn has_name_field(&self) -> bool {
        self.strategy.name_field
    }

    /// Sets what a new object has whatever its author wrote.
    pub fn prepare_create(&self, object: &mut Value, creation: &Creation<'_>) {
        let fields = metadata(object);
        for field in ["selfLink", "managedFields", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"]
        {
            fields.remove(field);
        }
        fields.insert("uid".to_owned(), creation.uid.into());
        fields.insert("creationTimestamp".to_owned(), creation.now.into());
        if self.strategy.generation {
            fields.insert("generation".to_owned(), 1.into());
        }
        if self.has_status() && !self.strategy.keeps_status_on_create {
            set_or_remove(object, "status", None);
        }
        (self.strategy.prepare_create)(object, creation);
    }

    /// Reduces a client's new version to what the request may write; the rest stays as it was stored.
    pub fn prepare_update(&self, subresource: Option<&str>, new: &mut Value, old: &Value) {
        match subresource {
            None => {
                restore_metadata(new, old);
                if self.has_status() {
                    restore(new, old, "status");
                }
                (self.strategy.prepare_update)(new, old);
            }
            Some(part) => {
                restore_metadata(new, old);
                (self.part(part).prepare)(new, old);
            }
        }
        if self.strategy.generation && self.has_new_spec(new, old) {
            let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
            metadata(new).insert("generation".to_owned(), generation.saturating_add(1).into());
        }
    }

    /// How a subresource that is a view of the object is treated.
    pub(crate) fn part(&self, name: &str) -> &'static Part {
        self.strategy.parts.iter().find(|part| part.name == name).unwrap_or(&Part::STATUS)
    }

    /// How long the object may take to end when the client that deletes it does not say; `None` when nobody has to
    /// confirm its end.
    pub fn grace_seconds(&self, object: &Value) -> Option<i64> {
        (self.strategy.grace_seconds)(object)
    }

    /// Whether finalizers hold the object: those of its metadata, or those that its kind has of its own.
    pub fn is_held(&self, object: &Value) -> bool {
        has_finalizers(object) || (self.strategy.is_held)(object)
    }

    /// Marks an object whose deletion begins, beyond the time of deletion in its metadata.
    pub fn begin_deletion(&self, object: &mut Value) {
        (self.strategy.begin_deletion)(object);
    }

    /// Whether an object that waits for its deletion is held by nobody any more.
    pub fn may_be_removed(&self, object: &Value) -> bool {
        let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
        is_terminating(object) && !self.is_held(object) && (grace == 0 || self.grace_seconds(object).is_none())
    }

    /// What the author of an object should know, for `Warning` headers; see [`machinery_schema::limit_warnings`].
    pub fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        (self.strategy.warnings)(object, old)
    }

    /// Whether anything changed that the object's author is the one to say.
    fn has_new_spec(&self, new: &Value, old: &Value) -> bool {
        let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
        let is_spec = |key: &str| match key {
            "metadata" | "apiVersion" | "kind" => false,
            "status" => !self.has_status(),
            _ => true,
        };
        let mut keys = new.keys().chain(old.keys()).filter(|key| is_spec(key));
        keys.any(|key| new.get(key) != old.get(key))
    }
}

/// Puts back what of the metadata a client cannot write. What it may not write is left for validation to report.
fn restore_metadata(new: &mut Value, old: &Value) {
    let empty = Map::new();
    let held = old.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let fields = metadata(new);
    fields.remove("selfLink");
    fields.remove("managedFields");
    for field in ["generation", "resourceVersion", "namespace"] {
        match held.get(field) {
            Some(value) => fields.insert(field.to_owned(), value.clone()),
            None => fields.remove(field),
        };
    }
    for field in ["creationTimestamp", "deletionTimestamp"] {
        if let Some(value) = held.get(field) {
            fields.insert(field.to_owned(), value.clone());
        }
    }
    for field in ["uid", "deletionGracePeriodSeconds"] {
        let is_absent = fields.get(field).is_none_or(|value| value.is_null() || value == "");
        if let (true, Some(value)) = (is_absent, held.get(field)) {
            fields.insert(field.to_owned(), value.clone());
        }
    }
}

/// What most subresources that are views of the object may not write.
fn restore_all_but_status(new: &mut Value, old: &Value) {
    let keys: BTreeSet<String> = [&*new, old]
        .into_iter()
        .filter_map(Value::as_object)
        .flat_map(|fields| fields.keys().cloned())
        .filter(|key| !matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"))
        .collect();
    keys.iter().for_each(|key| restore(new, old, key));
}

/// What of the metadata is not written along with a status where upstream says so: most of what an author writes.
pub(crate) fn restore_metadata_for_status(new: &mut Value, old: &Value) {
    let empty = Value::Null;
    let held = old.get("metadata").unwrap_or(&empty);
    for key in ["labels", "annotations", "finalizers", "ownerReferences"] {
        match held.get(key) {
            Some(value) => metadata(new).insert(key.to_owned(), value.clone()),
            None => metadata(new).remove(key),
        };
    }
}

/// Puts all of the metadata back to what they were but the revision that the client sent, which is a condition.
pub(crate) fn restore_metadata_of(new: &mut Value, old: &Value) {
    let revision = metadata(new).get("resourceVersion").cloned();
    restore(new, old, "metadata");
    if let Some(revision) = revision {
        metadata(new).insert("resourceVersion".to_owned(), revision);
    }
}

fn restore(new: &mut Value, old: &Value, field: &str) {
    set_or_remove(new, field, old.get(field));
}

fn set_or_remove(object: &mut Value, field: &str, value: Option<&Value>) {
    let Some(fields) = object.as_object_mut() else { return };
    match value {
        Some(value) => fields.insert(field.to_owned(), value.clone()),
        None => fields.remove(field),
    };
}

/// The object at `key`, created where there is none.
fn entry<'v>(object: &'v mut Value, key: &str) -> &'v mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let fields = object.as_object_mut().expect("created as an object above");
    let slot = fields.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("created as an object above")
}

/// The object's metadata; created when it is missing or no object, which validation rejects later.
fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    entry(object, "metadata")
}

fn is_terminating(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
}

fn has_finalizers(object: &Value) -> bool {
    object.pointer("/metadata/finalizers").and_then(Value::as_array).is_some_and(|finalizers| !finalizers.is_empty())
}

pub(crate) fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn items<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
