//! The built-in resources that are served: all that a kube-apiserver of the same version publishes.
//!
//! Names, verbs and subresources come from its discovery documents (`definitions/`, read by `build.rs`); what is special
//! about a kind comes from its strategy (`kinds/`).

use std::sync::Arc;

use machinery_schema::types::Type;

use crate::{
    kinds,
    resource::{Columns, ResourceInfo, Schema, Subresource, storage_key},
};

/// Verbs of a subresource that is a view of the object.
pub(crate) const VERBS_VIEW: &[&str] = &["get", "patch", "update"];

/// One resource as discovery describes it.
pub(crate) struct Published {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    namespaced: bool,
    verbs: &'static [&'static str],
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    storage_hash: &'static str,
    subresources: &'static [PublishedPart],
}

/// One subresource as discovery describes it; group and version are empty when they are the resource's.
pub(crate) struct PublishedPart {
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
}

include!(concat!(env!("OUT_DIR"), "/resources.rs"));

/// Every built-in resource, by the precedence of its group.
pub(crate) fn builtin_resources() -> impl Iterator<Item = Arc<ResourceInfo>> {
    RESOURCES.iter().map(|published| {
        let strategy = kinds::strategy(published.group, published.version, published.kind);
        let of = Type::of_kind(published.group, published.version, published.kind);
        let of = of.expect("every published kind has a type");
        let stored = strategy.stored_as;
        let (group, plural) = stored.map_or((published.group, published.plural), |(group, plural, _)| (group, plural));
        Arc::new(ResourceInfo {
            group: published.group.into(),
            version: published.version.into(),
            storage_version: stored.map_or(published.version, |(_, _, version)| version).into(),
            kind: published.kind.into(),
            list_kind: format!("{}List", published.kind).into(),
            plural: published.plural.into(),
            singular: published.singular.into(),
            short_names: published.short_names.iter().map(|name| (*name).into()).collect(),
            categories: published.categories.iter().map(|name| (*name).into()).collect(),
            namespaced: published.namespaced,
            verbs: published.verbs,
            subresources: published
                .subresources
                .iter()
                .map(|part| Subresource {
                    name: part.name.into(),
                    group: part.group.into(),
                    version: part.version.into(),
                    kind: part.kind.into(),
                    verbs: part.verbs,
                })
                .collect(),
            selectable_fields: strategy.selectable.iter().map(|field| (*field).into()).collect(),
            storage_key: storage_key(group, plural),
            storage_hash: published.storage_hash.into(),
            strategy,
            schema: Schema::Builtin(of),
            columns: Columns::Builtin(strategy.printer),
        })
    })
}

/// The groups in the order of discovery, core first.
pub(crate) fn group_order() -> &'static [&'static str] {
    GROUP_ORDER
}
