//! What all objects share: names, labels, annotations and the other fields of `metadata`.
//!
//! ```text
//! create   rules of the kind: its names, its finalizers ─▶ (none broken) names that fit into a URL
//! update   names that fit into a URL, what may not change ─▶ what the kind asks once more
//! ```
//!
//! Upstream asks for most of the metadata twice on an update, in the common code and in the kind's, and reports what it finds
//! both times. Clients see the list, so ours has the same length: [`OnUpdate`] says what the kind asks once more.

use serde_json::Value;

use crate::{
    FieldError,
    checks::{self, Messages},
    kit::{Errors, Path, Read},
    strategy::{INDEXED_ITEMS_MAX, Strategy},
};

/// Which names a kind takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NameRule {
    /// `a.b-c`: most kinds.
    Subdomain,
    /// No dots: namespaces.
    Label,
    /// Whatever fits into a URL: roles and their bindings.
    PathSegment,
    /// The kind has a rule of its own: the name, and whether more comes behind it.
    Own(fn(&str, bool) -> Messages),
    /// Names depend on the rest of the object, and the kind's own rules see to them.
    ByKind,
}

impl NameRule {
    /// What is wrong with a name, or with the beginning of one.
    pub(crate) fn messages(self, name: &str, is_prefix: bool) -> Messages {
        let masked = if is_prefix { mask_trailing_dash(name) } else { name.to_owned() };
        match self {
            Self::Subdomain => checks::dns_subdomain(&masked),
            Self::Label => checks::dns_label(&masked),
            Self::PathSegment if is_prefix => checks::path_segment_prefix(name),
            Self::PathSegment => checks::path_segment_name(name),
            Self::Own(rule) => rule(name, is_prefix),
            Self::ByKind => Messages::new(),
        }
    }
}

/// Something follows the dash, so it may be there. As upstream does it, the character before it goes, too.
pub(crate) fn mask_trailing_dash(name: &str) -> String {
    if name.len() > 1 && name.ends_with('-') {
        let mut bytes = name.as_bytes()[..name.len() - 2].to_vec();
        bytes.push(b'a');
        return String::from_utf8_lossy(&bytes).into_owned();
    }
    name.to_owned()
}

/// What of the metadata a kind's own rules ask on an update, beside what is asked of every kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnUpdate {
    /// What may not change: most kinds.
    Changes,
    /// What is asked of a new object.
    Whole,
    /// Both.
    WholeAndChanges,
    /// Nothing more.
    Nothing,
}

/// Checks the metadata of a new object, which has its final name and namespace.
pub(crate) fn validate(object: &Value, namespaced: bool, strategy: &Strategy) -> Vec<FieldError> {
    if let Some(errors) = mistyped(object) {
        return errors;
    }
    let mut errors = Errors::default();
    let metadata = object.part("metadata");
    whole(metadata, namespaced, strategy.name_rule, &mut errors);
    if strategy.kube_finalizers {
        kube_finalizers(metadata, &mut errors);
    }
    if errors.is_empty() {
        whole(metadata, namespaced, NameRule::PathSegment, &mut errors);
    }
    indexed(metadata, &mut errors);
    errors.into_vec()
}

/// Checks the metadata of a new version of an object.
pub(crate) fn validate_update(
    subresource: Option<&str>,
    new: &Value,
    old: &Value,
    namespaced: bool,
    strategy: &Strategy,
) -> Vec<FieldError> {
    if let Some(errors) = mistyped(new) {
        return errors;
    }
    let mut errors = Errors::default();
    let (path, metadata, before) = (Path::at("metadata"), new.part("metadata"), old.part("metadata"));
    whole(metadata, namespaced, NameRule::PathSegment, &mut errors);
    checks::metadata_update(metadata, before, &path, &mut errors);
    // What is written through a view of the object is asked what may not change, whatever its kind is.
    let again = if subresource.is_some() { OnUpdate::Changes } else { strategy.metadata_on_update };
    if matches!(again, OnUpdate::Whole | OnUpdate::WholeAndChanges) {
        whole(metadata, namespaced, strategy.name_rule, &mut errors);
        if strategy.kube_finalizers {
            kube_finalizers(metadata, &mut errors);
        }
    }
    if matches!(again, OnUpdate::Changes | OnUpdate::WholeAndChanges) {
        checks::metadata_update(metadata, before, &path, &mut errors);
        if strategy.kube_finalizers {
            kube_finalizers(metadata, &mut errors);
        }
    }
    indexed(metadata, &mut errors);
    errors.into_vec()
}

/// Removes owners that are named twice; gives the warning that the author of the object gets.
pub fn dedup_owner_references(object: &mut Value, is_after_admission: bool) -> Option<String> {
    let owners = object.pointer_mut("/metadata/ownerReferences")?.as_array_mut()?;
    let mut kept: Vec<Value> = Vec::with_capacity(owners.len().min(INDEXED_ITEMS_MAX));
    let mut duplicates: Vec<String> = Vec::new();
    for owner in owners.drain(..) {
        // What is more than that is reported by the rules.
        if kept.len() <= INDEXED_ITEMS_MAX && kept.contains(&owner) {
            duplicates.push(owner.text("uid").to_owned());
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    let moment = if is_after_admission { " after mutating admission happens" } else { "" };
    (!duplicates.is_empty()).then(|| {
        format!(
            ".metadata.ownerReferences contains duplicate entries{moment}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            duplicates.join(", ")
        )
    })
}

fn mistyped(object: &Value) -> Option<Vec<FieldError>> {
    let Some(metadata) = object.get("metadata") else {
        return Some(vec![FieldError::required("metadata", "")]);
    };
    (!metadata.is_object()).then(|| vec![FieldError::required("metadata", "")])
}

fn whole(metadata: &Value, namespaced: bool, rule: NameRule, errors: &mut Errors) {
    let path = Path::at("metadata");
    let (name, prefix) = (metadata.text("name"), metadata.text("generateName"));
    if !prefix.is_empty() {
        errors.invalid_each(&path.field("generateName"), prefix, rule.messages(prefix, true));
    }
    match name {
        "" => errors.required(&path.field("name"), "name or generateName is required"),
        name => errors.invalid_each(&path.field("name"), name, rule.messages(name, false)),
    }
    checks::whole_metadata(metadata, namespaced, &path, errors);
}

fn kube_finalizers(metadata: &Value, errors: &mut Errors) {
    let path = Path::at("metadata");
    checks::kube_finalizers(metadata.part("finalizers"), &path.field("finalizers"), errors);
}

/// These are kept in the index of every object, in memory, and so there are not any number of them.
fn indexed(metadata: &Value, errors: &mut Errors) {
    let path = Path::at("metadata");
    let labels = metadata.part("labels").as_object().map_or(0, serde_json::Map::len);
    for (key, count) in [("labels", labels), ("ownerReferences", metadata.items("ownerReferences").len())] {
        if count > INDEXED_ITEMS_MAX {
            errors.too_many(&path.field(key), count, INDEXED_ITEMS_MAX);
        }
    }
}
