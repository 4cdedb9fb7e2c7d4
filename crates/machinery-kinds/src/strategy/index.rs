//! Index fields: what can be looked up about an object without decoding it.
//!
//! | field | of | values |
//! |---|---|---|
//! | `metadata.name` | kinds that are watched by name | one |
//! | a selectable field, such as `spec.nodeName` | the kinds that declare it, in one of their versions | one, if there is one |
//! | `label:KEY` | all | one for each label |
//! | [`INDEX_OWNER_UID`] | all | one for each owner: garbage collection and adoption look dependents up by it |
//! | [`INDEX_REFS`] | pods, persistent volumes | one for each object that it refers to: the node authorizer is one look-up |
//!
//! The store keeps the fields of every object in memory. So they are few, they are declared, and what a client can put
//! into one object is bounded by validation ([`INDEXED_ITEMS_MAX`]).

use serde_json::Value;

use super::IndexField;
use crate::ResourceInfo;

/// Comes before a label's key in the name of its index field, so that no field is taken for a label.
pub const INDEX_LABEL_PREFIX: &str = "label:";

/// The index field with the uid of each owner.
pub const INDEX_OWNER_UID: &str = "metadata.ownerReferences.uid";

/// The index field with each object of its namespace that a pod refers to, as `secrets/NAME`, `configmaps/NAME`,
/// `serviceaccounts/NAME`, `persistentvolumeclaims/NAME` or `resourceclaims/NAME`; of a volume, its claim and the secrets by
/// which its driver logs in on a node, as `persistentvolumeclaims/NAMESPACE/NAME` and `secrets/NAMESPACE/NAME`.
pub const INDEX_REFS: &str = "refs";

/// Labels, owners and references that one object may have of each. Sane objects have a dozen; each is kept in memory.
pub(crate) const INDEXED_ITEMS_MAX: usize = 256;

impl ResourceInfo {
    /// Calls `add` with the name and the value of each index field of an object.
    pub fn index_fields(&self, object: &Value, add: &mut dyn FnMut(&str, &str)) {
        if self.has_name_field() {
            add("metadata.name", super::text(object, "/metadata/name"));
        }
        for field in self.indexed_fields() {
            let value = field.value(object);
            if !value.is_empty() {
                add(&field.name, &value);
            }
        }
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
        let mut name = INDEX_LABEL_PREFIX.to_owned();
        for (key, value) in labels.into_iter().flatten().take(INDEXED_ITEMS_MAX) {
            if let Some(value) = value.as_str() {
                name.truncate(INDEX_LABEL_PREFIX.len());
                name.push_str(key);
                add(&name, value);
            }
        }
        let of_volumes =
            (self.group.is_empty() && &*self.plural == "persistentvolumes").then_some(&super::volumes::REFS);
        for field in [&OWNER_UID].into_iter().chain(self.strategy.index).chain(of_volumes) {
            (field.values)(object, &mut |value| add(field.name, value));
        }
    }
}

static OWNER_UID: IndexField = IndexField {
    name: INDEX_OWNER_UID,
    values: |object, add| {
        let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        let uids = owners.into_iter().flatten().filter_map(|owner| owner.get("uid").and_then(Value::as_str));
        uids.filter(|uid| !uid.is_empty()).take(INDEXED_ITEMS_MAX).for_each(add);
    },
};
