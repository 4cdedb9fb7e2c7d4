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
mod pods;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::{FieldError, ResourceInfo, metadata::NameRule, table::Printer};
pub(crate) use index::INDEXED_ITEMS_MAX;
pub use index::{INDEX_LABEL_PREFIX, INDEX_OWNER_UID, INDEX_REFS};
pub(crate) use kinds::*;
pub(crate) use pods::count_references;

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
#[derive(Debug)]
pub(crate) struct Strategy {
    pub durability: Durability,
    /// Whether names are in the index, for watches of one object.
    pub name_field: bool,
    /// Whether controllers compare `metadata.generation` with what they have observed.
    pub generation: bool,
    pub name_rule: NameRule,
    /// Sets parts that are not up to the author. A kind with a status has none at this point.
    pub prepare_create: fn(&mut Value, &Creation<'_>),
    /// Whether the status that its author sent with a new object is stored: a kubelet reports it along with its Node.
    pub keeps_status_on_create: bool,
    /// Puts parts of the new version back to what they were: `(new, old)`.
    pub prepare_update: fn(&mut Value, &Value),
    /// Takes from the new version what a subresource may write: `(part, kept, new, old)`; `kept` is a copy of `old`.
    pub prepare_part: fn(&str, &mut Value, &Value, &Value),
    /// Index fields besides name, labels, owners and selectable fields.
    pub index: &'static [IndexField],
    /// Seconds that somebody needs to end what the object describes; `None` when it can be removed at once.
    pub grace_seconds: fn(&Value) -> Option<i64>,
    /// Whether finalizers of the kind's own, outside of the metadata, hold the object.
    pub is_held: fn(&Value) -> bool,
    /// Marks an object whose deletion begins.
    pub begin_deletion: fn(&mut Value),
    /// What an author should know, and is stored nevertheless.
    pub warnings: fn(&Value) -> Vec<String>,
    pub defaults: fn(&mut Value),
    /// Rules for an object whose types are right.
    pub validate: fn(&Value) -> Vec<FieldError>,
    /// What may not change: `(new, old)`.
    pub validate_update: fn(&Value, &Value) -> Vec<FieldError>,
    pub printer: &'static Printer,
}

/// A field of the index that is extracted by a function, with any number of values.
#[derive(Debug)]
pub(crate) struct IndexField {
    pub name: &'static str,
    pub values: Extract,
}

/// Calls its second argument with each value that an object has for the field.
type Extract = fn(&Value, &mut dyn FnMut(&str));

/// Metadata that the server alone writes.
const SYSTEM_METADATA: [&str; 7] = [
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "resourceVersion",
    "namespace",
];

impl Strategy {
    /// A kind that is stored as it was sent.
    pub const PLAIN: Self = Self {
        durability: Durability::Group,
        name_field: true,
        generation: false,
        name_rule: NameRule::Subdomain,
        prepare_create: |_, _| {},
        keeps_status_on_create: false,
        prepare_update: |_, _| {},
        prepare_part: status_part,
        index: &[],
        grace_seconds: |_| None,
        is_held: |_| false,
        begin_deletion: |_| {},
        warnings: |_| Vec::new(),
        defaults: |_| {},
        validate: |_| Vec::new(),
        validate_update: |_, _| Vec::new(),
        printer: &crate::table::OTHERS,
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
        } else {
            fields.remove("generation");
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
                let mut kept = old.clone();
                (self.strategy.prepare_part)(part, &mut kept, new, old);
                *new = kept;
            }
        }
        if self.strategy.generation && self.has_new_spec(new, old) {
            let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
            metadata(new).insert("generation".to_owned(), generation.saturating_add(1).into());
        }
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
    pub fn warnings(&self, object: &Value) -> Vec<String> {
        (self.strategy.warnings)(object)
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

fn restore_metadata(new: &mut Value, old: &Value) {
    let empty = Map::new();
    let held = old.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let fields = metadata(new);
    fields.remove("selfLink");
    fields.remove("managedFields");
    for field in SYSTEM_METADATA {
        match held.get(field) {
            Some(value) => fields.insert(field.to_owned(), value.clone()),
            None => fields.remove(field),
        };
    }
    // A finalizer that comes after the deletion began would hold an object that everyone takes for deleted.
    if is_terminating(old) {
        let before: HashSet<&Value> = held.get("finalizers").and_then(Value::as_array).into_iter().flatten().collect();
        if let Some(finalizers) = fields.get_mut("finalizers").and_then(Value::as_array_mut) {
            finalizers.retain(|finalizer| before.contains(finalizer));
        }
    }
}

/// What most subresources that are views of the object may write.
fn status_part(_part: &str, kept: &mut Value, new: &Value, _old: &Value) {
    set_or_remove(kept, "status", new.get("status"));
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

fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
